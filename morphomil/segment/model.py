"""A trained StarDist network: loading by folder or name, its resolution, pixels -> probability and distances."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from morphomil.types import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Normalize = Literal["unit", "percentile"]
WEIGHTS = Path(__file__).parent / "weights"
PRETRAINED = ("2D_versatile_he", "2D_paper_dsb2018", "2D_versatile_fluo", "2D_demo")


@dataclass(frozen=True)
class Segmenter:
    """A network with its thresholds and the resolutions it was trained for.

    `network` maps float (1, H, W, 3) to probability (1, h, w, 1) and distances (1, h, w, rays) on a grid of every
    `grid`-th pixel; H and W are multiples of `multiple`.
    """

    name: str
    sha256: str
    network: Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float32]]]
    grid: int
    multiple: int
    prob_threshold: float
    nms_threshold: float
    resolutions_mpp: tuple[float, ...]
    """um per pixel that the network knows; empty: taken to fit whatever it is given."""
    normalize: Normalize
    """`unit`: values / 255; `percentile`: each channel's 1st to 99.8th percentile to 0..1, as StarDist's examples."""

    def network_mpp(self, mpp: float) -> float:
        """The resolution to run at for an image of `mpp`: its own where a trained one is within a factor of 1.2."""
        if not self.resolutions_mpp:
            return mpp
        nearest = min(self.resolutions_mpp, key=lambda known: abs(math.log(known / mpp)))
        return mpp if 1 / 1.2 <= mpp / nearest <= 1.2 else nearest

    def predict(self, rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Object probability (h, w) and ray lengths in pixels (h, w, rays) of a block (H, W, 3)."""
        if self.normalize == "unit":
            block = rgb.astype(np.float32) / np.float32(255)
        else:
            low, high = np.percentile(rgb, (1, 99.8), axis=(0, 1), keepdims=True)
            block = ((rgb - low) / np.maximum(high - low, 1)).astype(np.float32)
        probability, distance = self.network(block[None])
        return probability[0, ..., 0], np.maximum(distance[0], 1e-3)


@lru_cache(maxsize=2)
def load_segmenter(model: str = "default", *, normalize: Normalize | None = None) -> Segmenter:
    """A segmenter by name.

    Args:
        model: "default" (shipped weights), a StarDist model folder, or a StarDist pretrained name, which StarDist
            downloads once.
        normalize: how pixel values enter the network; None: as the folder's `morphomil.json` says, else `unit` for
            folders and `percentile` for pretrained names.

    Raises:
        InputError: no such model, or its files can't be used.
    """
    from safetensors import SafetensorError

    if model in PRETRAINED:
        return _load_pretrained(model, normalize or "percentile")
    folder = WEIGHTS / model if model == "default" else Path(model)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"model {model!r} is no folder with a StarDist config.json, and none of: default, {', '.join(PRETRAINED)}"
        )
    weights = next((folder / name for name in _WEIGHT_NAMES if (folder / name).is_file()), None)
    if weights is None:
        raise InputError(f"model folder {folder} holds none of {', '.join(_WEIGHT_NAMES)}")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    thresholds = _read_json(folder / "thresholds.json", {"prob": 0.5, "nms": 0.4})
    about = _read_json(folder / "morphomil.json", {"resolutions_mpp": [], "normalize": "unit"})
    digest = hashlib.sha256(weights.read_bytes())
    digest.update(json.dumps([config, thresholds, about, normalize], sort_keys=True).encode())
    try:
        keras_model = build_network(config)
        _load_weights(keras_model, weights)
    except (ValueError, KeyError, OSError, TypeError, SafetensorError) as error:
        raise InputError(f"model folder {folder} can't be used: {error}") from error
    return _segmenter(
        model,
        digest.hexdigest(),
        keras_model,
        config,
        thresholds,
        about | ({"normalize": normalize} if normalize else {}),
    )


_WEIGHT_NAMES = ("weights.safetensors", "weights_best.h5", "weights_last.h5")


def build_network(config: dict[str, Any]) -> Any:
    """The Keras model of a StarDist configuration, with random weights."""
    import_tensorflow()
    with contextlib.redirect_stdout(io.StringIO()):  # StarDist prints its thresholds
        from stardist.models import Config2D, StarDist2D

        derived = ("n_dim", "n_channel_out", "axes", "n_rays", "n_channel_in", "grid", "n_classes", "backbone")
        rest = {name: value for name, value in config.items() if name not in derived}
        known = {name: config[name] for name in ("axes", "n_rays", "n_channel_in", "grid", "n_classes", "backbone")}
        return StarDist2D(Config2D(**known, **rest), name=None, basedir=None).keras_model


def import_tensorflow() -> None:
    """Import TensorFlow without the notes that it writes to the process's standard error before logging is set up."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryFile() as notes:
        stderr = os.dup(2)
        try:
            os.dup2(notes.fileno(), 2)
            import tensorflow  # noqa: F401
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def save_weights(network: Any, path: Path) -> None:
    """Write a network's weights as safetensors, numbered in the network's own order (layer names differ by session)."""
    from safetensors.numpy import save

    from morphomil.store import write_bytes

    write_bytes(path, save({f"{i:03d}": np.asarray(variable) for i, variable in enumerate(network.weights)}))


def _load_weights(network: Any, path: Path) -> None:
    if path.suffix != ".safetensors":
        network.load_weights(path)
        return
    from safetensors.numpy import load_file

    stored = load_file(path)
    values = [stored[name] for name in sorted(stored)]
    shapes = [tuple(v.shape) for v in network.weights]
    if [v.shape for v in values] != shapes:
        raise ValueError(f"{path.name} has {len(values)} arrays that don't fit the {len(shapes)} of config.json")
    network.set_weights(values)


def _load_pretrained(name: str, normalize: Normalize) -> Segmenter:
    import_tensorflow()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            from stardist.models import StarDist2D

            loaded = StarDist2D.from_pretrained(name)
    except Exception as error:  # whatever the download raised, the user gets one sentence
        raise InputError(
            f"pretrained model {name!r} can't be fetched ({type(error).__name__}: {error}); without a network name a "
            "model folder or use the shipped weights (--model default)"
        ) from error
    digest = hashlib.sha256(b"".join(np.asarray(v).tobytes() for v in loaded.keras_model.weights)).hexdigest()
    thresholds = {"prob": loaded.thresholds.prob, "nms": loaded.thresholds.nms}
    about: dict[str, Any] = {"resolutions_mpp": [], "normalize": normalize}
    return _segmenter(name, digest, loaded.keras_model, vars(loaded.config), thresholds, about)


def _segmenter(
    name: str,
    sha256: str,
    keras_model: Any,
    config: dict[str, Any],
    thresholds: dict[str, float],
    about: dict[str, Any],
) -> Segmenter:
    import tensorflow as tf

    compiled = tf.function(
        lambda block: keras_model(block, training=False)[:2],
        input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)],
    )

    def network(block: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        probability, distance = compiled(block)
        return probability.numpy(), distance.numpy()

    grid = int(config["grid"][0])
    return Segmenter(
        name=name,
        sha256=sha256,
        network=network,
        grid=grid,
        multiple=grid * 2 ** int(config["unet_n_depth"]),
        prob_threshold=float(thresholds["prob"]),
        nms_threshold=float(thresholds["nms"]),
        resolutions_mpp=tuple(float(mpp) for mpp in about["resolutions_mpp"]),
        normalize=about["normalize"],
    )


def _read_json(path: Path, default: dict[str, Any]) -> dict[str, Any]:
    return default | (json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {})
