"""Damaged and impossible model folders: each is told from a good one, in one sentence (faults 54 to
56, 65)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from morphomil.errors import InputError
from morphomil.segment import folders
from morphomil.segment.folders import WEIGHTS, read_model_folder
from morphomil.segment.model import load_segmenter
from morphomil.store import write_arrays
from morphomil.types import SegmenterSettings

Harm = Callable[[Path], object]
FILES = ("config.json", "morphomil.json", "ranges.json", "thresholds.json", "weights.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good model folder of the user's own, which other weights than the shipped may lie in."""
    made = tmp_path / "model"
    made.mkdir()
    for name in FILES:
        shutil.copy(WEIGHTS / "default" / name, made / name)
    return made


def arrays_changed(change: Callable[[dict[str, np.ndarray]], object]) -> Harm:
    def harm(folder: Path) -> None:
        path = folder / "weights.safetensors"
        arrays = {name: np.array(values) for name, values in load_file(path).items()}
        change(arrays)
        write_arrays(path, arrays)

    return harm


def said(name: str, **changes: object) -> Harm:
    def harm(folder: Path) -> None:
        known = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(known | changes))

    return harm


def holding(name: str, content: bytes) -> Harm:
    return lambda folder: (folder / name).write_bytes(content)


NAN, INF = float("nan"), float("inf")
STEM = "stem.conv.weight"
HARMS: dict[str, tuple[Harm, str]] = {
    "array missing": (arrays_changed(lambda a: a.pop(STEM)), "stem missing"),
    "array unknown": (arrays_changed(lambda a: a.update(more=a[STEM])), "more unknown"),
    "array of another shape": (
        arrays_changed(lambda a: a.update({STEM: a[STEM][:, :1]})),
        "stem of another shape",
    ),
    "norm of another shape": (
        arrays_changed(lambda a: a.update({"stem.norm.bias": np.zeros(1, np.float32)})),
        "stem of another shape",
    ),
    "NaN": (arrays_changed(lambda a: a[STEM].fill(NAN)), "no weights .NaN. in stem"),
    "infinity": (arrays_changed(lambda a: a["probability.conv.bias"].fill(INF)), "probability"),
    "variance below 0": (arrays_changed(lambda a: a["stem.norm.running_var"].fill(-1)), "stem"),
    "text for weights": (holding("weights.safetensors", b"hello\n"), "safetensors is damaged"),
    "empty weights": (holding("weights.safetensors", b""), "safetensors is damaged"),
    "config no JSON": (holding("config.json", b"{"), "config.json is damaged"),
    "config a list": (holding("config.json", b"[]"), "must hold a JSON object"),
    "config no UTF-8": (holding("config.json", b"\xff\xfe{}"), "config.json is damaged"),
    "config deep": (holding("config.json", b"[" * 100_000), "config.json is damaged"),
    "config empty": (holding("config.json", b"{}"), "must name a backbone"),
    "rays text": (said("config.json", rays="many"), "rays in .* must be a whole number"),
    "rays huge": (said("config.json", rays=10**9), "rays in .* must be a whole number"),
    "widths two": (said("config.json", widths=[8, 8]), "widths in .* must be three"),
    "widths other": (said("config.json", widths=[8, 8, 8]), "of another shape"),
    "thresholds no JSON": (holding("thresholds.json", b"prob"), "thresholds.json is damaged"),
    "thresholds missing": (lambda f: (f / "thresholds.json").unlink(), "thresholds.* is missing"),
    "threshold missing": (holding("thresholds.json", b'{"prob": 0.5}'), "must give nms"),
    "threshold text": (said("thresholds.json", prob="high"), "must give prob"),
    "threshold NaN": (said("thresholds.json", prob=NAN), "must give prob"),
    "threshold above 1": (said("thresholds.json", prob=1.5), "must give prob"),
    "edge NaN": (said("thresholds.json", edge_logit=NAN), "edge_logit"),
    "edge of no resolution": (said("thresholds.json", edge_logit={"fine": 0}), "edge_logit"),
    "edges none": (said("thresholds.json", edge_logit={}), "edge_logit"),
    "resolutions text": (said("morphomil.json", resolutions_mpp="half"), "resolutions_mpp"),
    "resolution 0": (said("morphomil.json", resolutions_mpp=[0]), "resolutions_mpp"),
    "normalize unknown": (said("morphomil.json", normalize="loud"), "normalize"),
    "range reversed": (said("ranges.json", decoder2a=[1, -1]), "decoder2a"),
    "range NaN": (said("ranges.json", decoder2a=[NAN, 1]), "decoder2a"),
    "a folder for a file": (
        lambda f: ((f / "thresholds.json").unlink(), (f / "thresholds.json").mkdir()),
        "thresholds.json can't be read",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("harm", "sentence"), HARMS.values(), ids=HARMS)
def test_a_harmed_model_folder_is_refused_in_one_sentence(
    folder: Path, harm: Harm, sentence: str
) -> None:
    harm(folder)
    with pytest.raises(InputError, match=sentence) as refusal:
        load_segmenter(SegmenterSettings(str(folder)))
    assert str(folder) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.usefixtures("without_waiting")
@pytest.mark.parametrize("name", FILES)
def test_nothing_waits_for_a_pipe_in_a_model_folder(name: str, folder: Path) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(InputError, match=r"model"):
        load_segmenter(SegmenterSettings(str(folder)))


def test_a_good_folder_is_the_shipped_model(folder: Path) -> None:
    assert read_model_folder(folder).sha256 == read_model_folder(WEIGHTS / "default").sha256
    (folder / "thresholds.json").unlink()
    begun = read_model_folder(folder, tuned=False)
    assert begun.thresholds == {"prob": 0.5, "nms": 0.4}


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_in_the_shipped_weights_is_noticed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(WEIGHTS, tmp_path / "weights"))
    monkeypatch.setattr(folders, "WEIGHTS", root)
    listed = (root / "SHA256SUMS").read_text().splitlines()
    for model in {line.split()[1].split("/")[0] for line in listed}:
        read_model_folder(root / model)
        path = root / model / name
        with path.open("r+b") as stream:
            stream.seek(path.stat().st_size // 2)
            byte = stream.read(1)[0]
            stream.seek(-1, os.SEEK_CUR)
            stream.write(bytes([byte ^ 0x10]))
        with pytest.raises(InputError, match=rf"{model}/{name} in .* isn't what was shipped"):
            read_model_folder(root / model)
        path.unlink()
        with pytest.raises(InputError, match="isn't what was shipped"):
            read_model_folder(root / model)
