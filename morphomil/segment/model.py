"""A trained model by folder or name: its resolution, thresholds and engine; pixels -> probability,
distances, what is nucleus, and of which type."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file

from morphomil.device import has_cuda_driver, torch_device
from morphomil.errors import InputError
from morphomil.segment import network as own
from morphomil.segment.engines import (
    multiplied_in,
    openvino_graph,
    openvino_graph_of,
    openvino_network,
)
from morphomil.segment.folders import (
    SHIPPED,
    WEIGHTS,
    ModelFiles,
    check_finite,
    design_of,
    edge_levels,
    read_model_folder,
    read_network,
)
from morphomil.segment.keras_engine import import_tensorflow, keras_network, tensorflow_network
from morphomil.segment.plausible import RULES
from morphomil.store import read_arrays
from morphomil.types import NUCLEUS_TYPES, SegmenterSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

    from morphomil.segment.network import Network
    from morphomil.types import Normalize

PRETRAINED = ("2D_versatile_he", "2D_paper_dsb2018", "2D_versatile_fluo", "2D_demo")


class Prediction(NamedTuple):
    """What a network says of a block (H, W, 3), without its margin."""

    probability: NDArray[np.float32]
    """That a nucleus is centered here (h, w)."""
    distance: NDArray[np.float32]
    """Ray lengths in pixels (h, w, rays)."""
    nucleus: NDArray[np.floating] | None
    """The logit of nucleus (H, W), if the network has it."""
    types: NDArray[np.floating] | None
    """Logits of `NUCLEUS_TYPES` (H / 4, W / 4, 4), if the network has them."""


@dataclass(frozen=True)
class TypeCalibration:
    """Logits of types -> probabilities: divided by the temperature, the bias added, softmax
    (bias-corrected temperature scaling, Alexandari et al. 2020)."""

    temperature: float = 1.0
    bias: tuple[float, ...] = (0.0,) * len(NUCLEUS_TYPES)

    def __call__(self, logits: NDArray[np.floating]) -> NDArray[np.float32]:
        """Probabilities (n, 4) of logits (n, 4)."""
        own = np.asarray(logits, np.float64) / self.temperature + np.array(self.bias)
        shares = np.exp(own - own.max(axis=-1, keepdims=True))
        return np.asarray(shares / shares.sum(axis=-1, keepdims=True), np.float32)


@dataclass(frozen=True)
class Segmenter:
    """A network with its thresholds and the resolutions it was trained for.

    `network` maps float (1, H, W, 3) and a margin to probability (1, h, w, 1) and distances (1, h,
    w, rays) on a grid of every `grid`-th pixel inside the margin, where it has `maps` the logit of
    nucleus at every pixel (1, H, W), and where it has `types` their logits; H and W are multiples
    of `multiple`.
    """

    sha256: str
    network: Network
    grid: int
    multiple: int
    prob_threshold: float
    nms_threshold: float
    resolutions_mpp: tuple[float, ...]
    """um per pixel that the network knows; empty: taken to fit whatever it is given."""
    normalize: Normalize
    """Pixel values enter this network so; the settings may leave it to the model."""
    maps: bool = False
    """The network says pixel by pixel what is nucleus; else the star polygons are the outlines."""
    edge_logits: tuple[tuple[float, float], ...] = ((0.5, 0.0),)
    """An outline is where the map of what is nucleus passes the second at the first, um per pixel
    in rising order (`edge_logit`)."""
    types: TypeCalibration | None = None
    """What makes probabilities of its logits of types; None: the network doesn't know types."""
    stain: str = ""
    """"H&E": colors that it doesn't yield are taken as ink; "": unknown."""
    judges: bool = False
    """Objects that are no nuclei are told apart (`plausible`)."""
    precision: str = "float32"
    """The network computes in this precision; the settings may leave it to the machine."""
    takes_bytes: bool = False
    """The network takes uint8 as well, from 0 to 255 in place of 0 to 1."""
    settings: SegmenterSettings = SegmenterSettings()
    """The segmenter was loaded by these."""

    def network_mpp(self, mpp: float) -> float:
        """The resolution to run at for an image of `mpp`: its own where a trained one is within a
        factor of 1.2."""
        if not self.resolutions_mpp:
            return mpp
        nearest = min(self.resolutions_mpp, key=lambda known: abs(math.log(known / mpp)))
        return mpp if 1 / 1.2 <= mpp / nearest <= 1.2 else nearest

    def edge_logit(self, mpp: float) -> float:
        """The level of the outlines at a network's resolution: between two that are known linear in
        its logarithm, beyond them that of the nearest."""
        known, levels = zip(*self.edge_logits, strict=True)
        return float(np.interp(np.log(mpp), np.log(known), levels))

    def predict(self, rgb: NDArray[np.uint8], *, margin: int = 0) -> Prediction:
        """What the network says of a block (H, W, 3).

        It holds until the same thread calls again. `margin` is 0 or a multiple of 16 pixels from 32
        on.
        """
        block: NDArray[Any]
        if self.normalize == "unit":
            block = rgb if self.takes_bytes else np.divide(rgb, np.float32(255), dtype=np.float32)
        else:
            low, high = np.percentile(rgb, (1, 99.8), axis=(0, 1), keepdims=True)
            block = ((rgb - low) / np.maximum(high - low, 1)).astype(np.float32)
        if not self.settings.accurate:
            return self._named([part[0] for part in self.network(block[None], margin)])
        turns = ((0, 0), (1, 0), (0, 1), (1, 1))
        found = [
            [np.array(part) for part in _predict_mirrored(self.network, block, *axes)]
            for axes in turns
        ]
        whole = [np.mean(parts, axis=0) for parts in zip(*found, strict=True)]
        return self._named([_without_margin(part, margin, len(rgb)) for part in whole])

    def _named(self, parts: list[NDArray[Any]]) -> Prediction:
        probability, distance, *rest = parts
        nucleus = rest.pop(0) if self.maps else None
        types = rest.pop(0) if self.types is not None else None
        return Prediction(probability[..., 0], distance, nucleus, types)


def _without_margin(part: NDArray[Any], margin: int, height: int) -> NDArray[Any]:
    rim = margin * len(part) // height
    return part[rim : -rim or None, rim : -rim or None]


def _predict_mirrored(
    network: Network, block: NDArray[Any], down: int, across: int
) -> tuple[NDArray[np.float32], ...]:
    """What the network says of the mirrored block, mirrored back.

    Pixel i goes to -i modulo the size, so that the pixels of the grid stay on the grid; ray k, at
    angle 2 pi k / n from the columns' axis to the rows', goes to -k where rows are mirrored and to
    n / 2 - k where columns are. Cells of several pixels go to the one that holds their middle.
    """
    axes = [axis for axis, turn in enumerate((down, across)) if turn]

    def mirror(image: NDArray[Any]) -> NDArray[Any]:
        return np.roll(np.flip(image, tuple(axes)), [1] * len(axes), axes) if axes else image

    probability, distance, *maps = network(np.ascontiguousarray(mirror(block))[None])
    rays = np.arange(distance.shape[-1])
    if down:
        rays = -rays
    if across:
        rays = len(rays) // 2 - rays
    turned = mirror(probability[0]), mirror(distance[0][..., rays % len(rays)])
    cells = len(block) // own.TYPE_GRID
    others = (
        np.flip(part[0], tuple(axes)) if part.shape[1] == cells else mirror(part[0])
        for part in maps
    )
    return *turned, *others


@dataclass(frozen=True)
class _Stored:
    """What a model folder or a pretrained name holds, before an engine is chosen."""

    sha256: str
    grid: int
    multiple: int
    rays: int
    thresholds: dict[str, float]
    about: dict[str, Any]
    keras: Callable[[], Any]
    graph: Callable[[str, int], Any]
    """The OpenVINO graph for a precision, that leaves out a margin."""
    torch: Callable[[torch.device], Network] | None = None
    """The network in torch on a device; None: it isn't of the shipped architecture."""
    maps: bool = False
    types: TypeCalibration | None = None
    mixed: tuple[str, ...] = ()
    """Precisions that the graph states itself where they are to be used."""


@lru_cache(maxsize=4)
def load_segmenter(
    settings: SegmenterSettings = SegmenterSettings(), *, tuned: bool = True
) -> Segmenter:
    """The segmenter that the settings name; with thresholds to begin with, if it isn't tuned yet.

    Raises:
        InputError: no such model, its files can't be used, or it doesn't go with the other
            settings.
    """
    stored = _load(settings.model, tuned=tuned)
    if settings.accurate and stored.rays % 2:
        raise InputError(
            f"model {settings.model!r} has {stored.rays} rays; averaging mirrored predictions "
            "needs an even number"
        )
    network, precision = _start_engine(stored, settings)
    about = stored.about | ({"normalize": settings.normalize} if settings.normalize else {})
    identity = [
        stored.sha256,
        about,
        stored.thresholds,
        settings.accurate,
        settings.normalize_stain,
        *(["implausible", RULES] if _judges(about, settings) else []),
        *([asdict(stored.types)] if stored.types else []),
    ]
    return Segmenter(
        sha256=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
        network=network,
        grid=stored.grid,
        multiple=stored.multiple,
        prob_threshold=float(stored.thresholds["prob"]),
        nms_threshold=float(stored.thresholds["nms"]),
        maps=stored.maps,
        edge_logits=edge_levels(stored.thresholds),
        types=stored.types,
        resolutions_mpp=tuple(float(mpp) for mpp in about["resolutions_mpp"]),
        normalize=about["normalize"],
        stain=about.get("stain", ""),
        judges=_judges(about, settings),
        precision=precision,
        takes_bytes=settings.engine == "openvino",
        settings=settings,
    )


def _judges(about: dict[str, Any], settings: SegmenterSettings) -> bool:
    return about.get("stain") == "H&E" and settings.implausible == "drop"


def _on_gpu(stored: _Stored, settings: SegmenterSettings) -> bool:
    """Whether the network is to run in torch on a GPU: where that is asked for, or there is one and
    nothing says otherwise.

    Raises:
        InputError: it is asked for, and the model can't.
    """
    if settings.device == "cuda":
        if stored.torch is None:
            raise InputError(
                f"model {settings.model!r} is a Keras model, which runs on GPUs by "
                "--engine tensorflow"
            )
        return True
    if settings.device == "cpu" or stored.torch is None or settings.precision != "auto":
        return False
    if not has_cuda_driver():
        return False
    return torch_device("auto").type == "cuda"


def _start_engine(stored: _Stored, settings: SegmenterSettings) -> tuple[Network, str]:
    """The network on the engine and device of the settings, and the precision that it computes
    in."""
    if settings.engine == "tensorflow":
        heads = 2 + stored.maps + (stored.types is not None)
        return tensorflow_network(stored.keras(), heads=heads, device=settings.device), "float32"
    if _on_gpu(stored, settings):
        assert stored.torch is not None
        return stored.torch(torch_device("cuda")), "float32 on CUDA"
    precision = settings.precision
    if precision == "int8" or (precision == "auto" and "int8" in stored.mixed):
        if "int8" not in stored.mixed:
            raise InputError(
                f"model {settings.model!r} holds no ranges.json, which int8 needs; "
                "train-segmenter writes it"
            )
        network, rest = openvino_network(partial(stored.graph, "int8"), precision="auto")
        return network, f"int8 and {rest}"
    chosen = multiplied_in(precision)
    if chosen in stored.mixed:
        network, rest = openvino_network(partial(stored.graph, chosen), precision="float32")
        return network, f"{chosen} and {rest}"
    return openvino_network(partial(stored.graph, chosen), precision=precision)


def load_stardist(model: str = "default") -> Any:
    """The model as an object of the stardist package, the reference:
    `.predict_instances(rgb / 255)` and the rest.

    Raises:
        InputError: no such model, or its files can't be used.
    """
    stored = _load(model)
    whole = stored.keras()
    keras_model = type(whole)(whole.inputs, whole.outputs[:2])  # StarDist knows no outlines
    with contextlib.redirect_stdout(io.StringIO()):  # StarDist prints its thresholds
        from stardist.models import Config2D, StarDist2D

        class Reference(StarDist2D):  # type: ignore[misc, unused-ignore]
            """StarDist2D around a network that is already built."""

            def _build(self) -> Any:
                return keras_model

        depth = int(math.log2(stored.multiple // stored.grid))
        config = Config2D(
            n_rays=stored.rays, grid=(stored.grid,) * 2, n_channel_in=3, unet_n_depth=depth
        )
        reference = Reference(config, name=None, basedir=None)
        reference.thresholds = stored.thresholds
    return reference


def _load(model: str, *, tuned: bool = True) -> _Stored:
    return _load_pretrained(model) if model in PRETRAINED else _load_folder(model, tuned=tuned)


def model_folder(model: str) -> Path:
    """The folder of a model: of shipped weights by their name, else what `model` says."""
    return WEIGHTS / model if model in SHIPPED else Path(model)


def _load_folder(model: str, *, tuned: bool = True) -> _Stored:
    folder = model_folder(model)
    if folder.parent != WEIGHTS and not (folder / "config.json").is_file():
        raise InputError(
            f"model {model!r} is no folder with a config.json, and none of: "
            f"{', '.join((*SHIPPED, *PRETRAINED))}"
        )
    files = read_model_folder(folder, tuned=tuned)
    if files.config.get("backbone") != own.BACKBONE:
        built = _keras_model(files)
        return _of_keras(files.sha256, built, files.config, files.thresholds, files.about)
    design, ranges = design_of(files), files.ranges
    folded = read_network(files, design)

    def in_torch(device: torch.device) -> Network:
        from morphomil.segment.torch_engine import torch_network

        return torch_network(read_arrays(files.weights), design, device)

    return _Stored(
        files.sha256,
        own.GRID,
        own.MULTIPLE,
        design.rays,
        files.thresholds,
        files.about,
        keras=lambda: keras_network(folded, design),
        graph=lambda precision, margin: openvino_graph(
            folded,
            design,
            ranges if precision == "int8" else None,
            half=precision == "bfloat16",
            margin=margin,
        ),
        torch=in_torch,
        maps=design.outline > 0,
        types=TypeCalibration(**files.types) if design.types else None,
        mixed=("int8", "bfloat16") if ranges else ("bfloat16",),
    )


def _of_keras(
    digest: str,
    keras_model: Any,
    config: dict[str, Any],
    thresholds: dict[str, float],
    about: dict[str, Any],
) -> _Stored:
    grid = int(config["grid"][0])
    return _Stored(
        digest,
        grid,
        grid * 2 ** int(config["unet_n_depth"]),
        int(config["n_rays"]),
        thresholds,
        about,
        keras=lambda: keras_model,
        graph=lambda _, margin: openvino_graph_of(keras_model, grid=grid, margin=margin),
    )


def _keras_model(files: ModelFiles) -> Any:
    """The Keras model of a StarDist folder, with its weights.

    Raises:
        InputError: configuration and weights can't be used, or not with each other.
    """
    try:
        network = build_stardist(files.config)
        _load_weights(network, files.weights)
    except Exception as error:  # whatever Keras, HDF5 or StarDist raise, the user gets one sentence
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"model folder {files.folder} can't be used: {cause}") from error
    values = {weight.path: weight.numpy() for weight in network.weights}
    check_finite(values, files.weights)
    return network


def build_stardist(config: dict[str, Any]) -> Any:
    """The Keras model of a StarDist configuration, with random weights."""
    import_tensorflow()
    with contextlib.redirect_stdout(io.StringIO()):  # StarDist prints its thresholds
        from stardist.models import Config2D, StarDist2D

        derived = (
            "n_dim",
            "n_channel_out",
            "axes",
            "n_rays",
            "n_channel_in",
            "grid",
            "n_classes",
            "backbone",
        )
        rest = {name: value for name, value in config.items() if name not in derived}
        known = {
            name: config[name]
            for name in ("axes", "n_rays", "n_channel_in", "grid", "n_classes", "backbone")
        }
        return StarDist2D(Config2D(**known, **rest), name=None, basedir=None).keras_model


def _load_weights(network: Any, path: Path) -> None:
    if path.suffix != ".safetensors":
        network.load_weights(path)
        return
    stored = load_file(path)
    values = [stored[name] for name in sorted(stored)]
    shapes = [tuple(v.shape) for v in network.weights]
    if [v.shape for v in values] != shapes:
        raise ValueError(
            f"{path.name} has {len(values)} arrays that don't fit the {len(shapes)} of config.json"
        )
    network.set_weights(values)


def _load_pretrained(name: str) -> _Stored:
    import_tensorflow()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            from stardist.models import StarDist2D

            loaded = StarDist2D.from_pretrained(name)
    except Exception as error:  # whatever the download raised, the user gets one sentence
        raise InputError(
            f"pretrained model {name!r} can't be fetched ({type(error).__name__}: {error}); "
            "without a network name a "
            "model folder or use the shipped weights (--model default)"
        ) from error
    digest = hashlib.sha256(
        b"".join(np.asarray(v).tobytes() for v in loaded.keras_model.weights)
    ).hexdigest()
    thresholds = {"prob": loaded.thresholds.prob, "nms": loaded.thresholds.nms}
    about: dict[str, Any] = {"resolutions_mpp": [], "normalize": "percentile"}
    return _of_keras(digest, loaded.keras_model, vars(loaded.config), thresholds, about)
