"""The files of a model folder, read and checked before anything is built from them."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from morphomil.errors import InputError
from morphomil.segment import network as own
from morphomil.store import harmed_files, read_arrays, read_json
from morphomil.types import NUCLEUS_TYPES, Normalize

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

WEIGHTS = Path(__file__).parent / "weights"
"""The shipped models lie here, a folder each, and `SHA256SUMS` of what they are loaded from."""
SHIPPED = ("default", "noncommercial")
WEIGHT_NAMES = ("weights.safetensors", "weights_best.h5", "weights_last.h5")
CALIBRATION = "types.json"
"""How logits of types become probabilities (`model.TypeCalibration`); validation images decide."""
MAX_CHANNELS = 1024
"""No layer, and no polygon, of a design has more."""


@dataclass(frozen=True)
class ModelFiles:
    """What a model folder says, checked."""

    folder: Path
    weights: Path
    """Its arrays lie here; one of `WEIGHT_NAMES`."""
    config: dict[str, Any]
    thresholds: dict[str, Any]
    about: dict[str, Any]
    """`resolutions_mpp`, `normalize`, possibly `stain`."""
    ranges: dict[str, tuple[float, float]]
    """What enters the layers that 8 bits may be used in; empty: not known."""
    types: dict[str, Any]
    """`temperature` and `bias` of the types' probabilities; empty: not calibrated."""

    @property
    def sha256(self) -> str:
        """Changes with the weights and the design."""
        return hashlib.sha256(
            self.weights.read_bytes() + json.dumps(self.config, sort_keys=True).encode()
        ).hexdigest()


def read_model_folder(folder: Path, *, tuned: bool = True) -> ModelFiles:
    """The files of a model folder.

    Args:
        folder: of shipped weights, of train-segmenter or of StarDist.
        tuned: its thresholds have been tuned; else those to begin with are taken.

    Raises:
        InputError: a file is missing, no JSON, or says what can't be; or shipped files aren't what
            was shipped.
    """
    if folder.parent == WEIGHTS and (harmed := harmed_files(WEIGHTS, f"{folder.name}/")):
        raise InputError(
            f"{', '.join(harmed)} in {WEIGHTS} isn't what was shipped; install morphomil anew: "
            "pip install --force-reinstall --no-deps morphomil"
        )
    weights = next((folder / name for name in WEIGHT_NAMES if (folder / name).is_file()), None)
    if weights is None:
        raise InputError(f"model folder {folder} holds none of {', '.join(WEIGHT_NAMES)}")
    thresholds = {"prob": 0.5, "nms": 0.4}
    if tuned:
        thresholds = _read_object(folder / "thresholds.json")
    about = {"resolutions_mpp": [], "normalize": "unit"} | _read_object(
        folder / "morphomil.json", optional=True
    )
    ranges = _read_object(folder / "ranges.json", optional=True)
    types = _read_object(folder / CALIBRATION, optional=True)
    config = _read_object(folder / "config.json")
    problems = [
        *_wrong_thresholds(thresholds),
        *_wrong_about(about),
        *_wrong_ranges(ranges),
        *_wrong_types(types),
    ]
    if not isinstance(config.get("backbone"), str):
        problems.append("config.json must name a backbone")
    if problems:
        raise InputError([f"model folder {folder}: {problem}" for problem in problems])
    return ModelFiles(folder, weights, config, thresholds, about, ranges, types)


def _read_object(path: Path, *, optional: bool = False) -> dict[str, Any]:
    if optional and not path.exists():
        return {}
    value = read_json(path, mend="see: Segmenter, model folders")
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object (names and values)")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _wrong_thresholds(thresholds: Mapping[str, Any]) -> Iterable[str]:
    for name in ("prob", "nms"):
        value = thresholds.get(name)
        if not _is_number(value) or not 0 < float(thresholds[name]) < 1:
            yield f"thresholds.json must give {name}, a number between 0 and 1; got {value!r}"
    edge = thresholds.get("edge_logit", 0.0)
    levels = edge if isinstance(edge, dict) and edge else {"0.5": edge}
    if not all(_is_resolution(mpp) and _is_number(level) for mpp, level in levels.items()):
        yield (
            "edge_logit in thresholds.json must be a number, or one for each um per pixel as in "
            f'{{"0.25": 0.1, "0.5": 0.2}}; got {edge!r}'
        )


def _is_resolution(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def edge_levels(thresholds: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    """Um per pixel, rising, and the logit of an outline there; one number holds for all."""
    edge = thresholds.get("edge_logit", 0.0)
    levels = edge if isinstance(edge, dict) else {"0.5": edge}
    return tuple(sorted((float(mpp), float(level)) for mpp, level in levels.items()))


def _wrong_about(about: Mapping[str, Any]) -> Iterable[str]:
    known = about["resolutions_mpp"]
    if not isinstance(known, list) or not all(_is_number(mpp) and mpp > 0 for mpp in known):
        yield f"resolutions_mpp in morphomil.json must be um per pixel, as in [0.5]; got {known!r}"
    if about["normalize"] not in get_args(Normalize):
        choices = " or ".join(get_args(Normalize))
        yield f"normalize in morphomil.json must be {choices}; got {about['normalize']!r}"


def _wrong_ranges(ranges: Mapping[str, Any]) -> Iterable[str]:
    for name, span in ranges.items():
        if not (
            isinstance(span, list)
            and len(span) == 2
            and all(map(_is_number, span))
            and span[0] < span[1]
        ):
            yield f"ranges.json must give {name} a lowest and a highest value; got {span!r}"


def _wrong_types(types: Mapping[str, Any]) -> Iterable[str]:
    if not types:
        return
    temperature, bias = types.get("temperature"), types.get("bias")
    if set(types) != {"temperature", "bias"}:
        yield f"{CALIBRATION} must give temperature and bias; got {', '.join(sorted(types))}"
    elif not _is_number(temperature) or not float(types["temperature"]) > 0:
        yield f"temperature in {CALIBRATION} must be a positive number; got {temperature!r}"
    elif not (
        isinstance(bias, list) and len(bias) == len(NUCLEUS_TYPES) and all(map(_is_number, bias))
    ):
        yield f"bias in {CALIBRATION} must be {len(NUCLEUS_TYPES)} numbers; got {bias!r}"


def design_of(files: ModelFiles) -> own.Design:
    """The shipped architecture as a folder's `config.json` has it.

    Raises:
        InputError: a number is missing or can't be.
    """
    config = files.config
    widths = config.get("widths")
    heads = {name: config.get(name, 0) for name in ("outline", "types")}
    if not isinstance(widths, list) or len(widths) != 3:
        raise InputError(f"widths in {files.folder / 'config.json'} must be three numbers")
    named = {"rays": config.get("rays"), **heads} | {
        f"widths[{place}]": width for place, width in enumerate(widths)
    }
    for name, value in named.items():
        least = {"rays": 3, "outline": 0, "types": 0}.get(name, 1)
        if type(value) is not int or not least <= value <= MAX_CHANNELS:
            raise InputError(
                f"{name} in {files.folder / 'config.json'} must be a whole number from {least} to "
                f"{MAX_CHANNELS}; got {value!r}"
            )
    return own.Design(config["rays"], (widths[0], widths[1], widths[2]), **heads)


def read_network(files: ModelFiles, design: own.Design) -> own.Folded:
    """The arrays of a folder's weights, folded (`network.fold_norms`).

    Raises:
        InputError: an array is missing, not known, of another shape, or holds no number.
    """
    arrays = read_arrays(files.weights)
    expected = _shapes(design)
    wrong = {
        "missing": set(expected) - set(arrays),
        "unknown": set(arrays) - set(expected),
        "of another shape or kind": {
            name
            for name in set(expected) & set(arrays)
            if arrays[name].shape != expected[name] or arrays[name].dtype.kind != "f"
        },
    }
    if said := [f"{_name_some(names)} {kind}" for kind, names in wrong.items() if names]:
        raise InputError(f"{files.weights} doesn't fit its config.json: {'; '.join(said)}")
    check_finite(arrays, files.weights)
    return own.fold_norms(arrays, design)


def check_start(start: str, *, heads_only: bool = False) -> None:
    """Refuse what training can't start from: "random", "imagenet", a shipped model's name, or a
    model folder of the shipped architecture.

    Raises:
        InputError: the folder lacks weights, is damaged, or of another architecture; or heads alone
            are to learn on a network that finds no nuclei.
    """
    if start in ("random", "imagenet"):
        if heads_only:
            raise InputError(
                f"--heads-only needs a model that finds nuclei to start from, not {start!r}: "
                "--start default, noncommercial or a model folder"
            )
        return
    try:
        files = read_model_folder(WEIGHTS / start if start in SHIPPED else Path(start), tuned=False)
        if files.config["backbone"] != own.BACKBONE or files.weights.suffix != ".safetensors":
            raise InputError(f"{files.folder} is of another architecture ({own.BACKBONE} is asked)")
        read_network(files, design_of(files))
    except (InputError, ValueError) as error:
        raise InputError(f"training can't start from {start!r}: {error}") from error


def _shapes(design: own.Design) -> dict[str, tuple[int, ...]]:
    """The arrays of a design: what `network.fold_norms` takes."""
    norms = ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (layer, inputs) in own.layers_of(design).items():
        into = 1 if layer.depthwise else inputs
        shapes[f"{name}.conv.weight"] = (layer.filters, into, layer.kernel, layer.kernel)
        for part in norms if layer.norm else ("conv.bias",):
            shapes[f"{name}.{part}"] = (layer.filters,)
    return shapes


def check_finite(arrays: Mapping[str, NDArray[Any]], source: Path) -> None:
    """Refuse weights that aren't numbers, which nothing could be found with.

    Raises:
        InputError: an array holds NaN or infinity, or a variance below 0.
    """
    broken = {
        name
        for name, values in arrays.items()
        if not np.isfinite(values).all() or (name.endswith("_var") and (values < 0).any())
    }
    if broken:
        raise InputError(f"{source} holds values that are no weights (NaN) in {_name_some(broken)}")


def _name_some(names: Iterable[str]) -> str:
    """The layers of some arrays, as many as can be read, and how many more there are."""
    layers = sorted({name.partition(".")[0] for name in names})
    return ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")
