"""Damaged files of an interrupted training, and folders that training can't start from (faults 51,
55 and 56)."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from skimage.draw import disk

from morphomil.errors import InputError
from morphomil.segment.annotated import AnnotatedImage
from morphomil.segment.network import Design
from morphomil.segment.train import TrainSettings, train_segmenter
from morphomil.store import read_arrays, read_json, write_arrays

TINY = TrainSettings(
    design=Design(rays=8, widths=(8, 8, 8)),
    start="random",
    patch_px=64,
    batch=1,
    epochs=2,
    steps_per_epoch=1,
)


@pytest.fixture
def annotated() -> AnnotatedImage:
    """A dozen dark discs."""
    labels = np.zeros((128, 128), np.int32)
    for number, center in enumerate(np.ndindex(4, 3), start=1):
        labels[disk(np.array(center) * 30 + 16, 8, shape=labels.shape)] = number
    rgb = np.where(labels[..., None] > 0, [90, 50, 130], [230, 190, 210]).astype(np.uint8)
    return AnnotatedImage("a", rgb, labels, mpp=0.25, group="")


def _interrupt(epoch: int, figures: dict[str, float]) -> None:
    raise KeyboardInterrupt


def test_a_damaged_training_is_told_before_it_goes_on(
    annotated: AnnotatedImage, tmp_path: Path
) -> None:
    """Its settings, checkpoint and log: cut short, flipped, of something else, gone."""
    good = tmp_path / "good"
    images = [annotated], [annotated]
    with pytest.raises(KeyboardInterrupt):
        train_segmenter(*images, good, settings=TINY, on_epoch=_interrupt)
    whole = train_segmenter(*images, tmp_path / "whole", settings=TINY)
    arrays = read_arrays(good / "checkpoint.safetensors")
    known = read_json(good / "settings.json")
    head, line = (good / "log.csv").read_text().splitlines()
    checkpoint = (good / "checkpoint.safetensors").read_bytes()
    cases: list[tuple[str, object, str]] = [
        ("settings.json", "{", "settings.json is damaged"),
        ("settings.json", "[1]", "settings.json is damaged"),
        ("settings.json", json.dumps(known | {"seed": 7}), "other settings"),
        ("settings.json", None, "without its settings.json"),
        ("checkpoint.safetensors", checkpoint[: len(checkpoint) // 2], "remove it, and --resume"),
        ("checkpoint.safetensors", checkpoint[:-9] + b"\xff" + checkpoint[-8:], "remove it"),
        ("checkpoint.safetensors", "weights\n", "remove it, and --resume"),
        ("checkpoint.safetensors", {"epoch": np.array(1)}, "another network"),
        ("checkpoint.safetensors", arrays | {"epoch": np.zeros(4)}, "remove it, and --resume"),
        ("checkpoint.safetensors", arrays | {"epoch": np.array(99)}, "99 epochs"),
        ("checkpoint.safetensors", arrays | {"optimizer/0/exp_avg": np.zeros(3)}, "optimizer"),
        ("checkpoint.safetensors", arrays | {"optimizer/x/y": np.zeros(3)}, "remove it, and"),
        ("checkpoint.safetensors", arrays | {"more/x": np.zeros(3)}, "remove it, and --resume"),
        ("log.csv", "", "log.csv is damaged"),
        ("log.csv", "epoch,loss\n0,1\n", "log.csv is damaged"),
        ("log.csv", f"{head}\n{line[: len(line) // 2]}\n", "log.csv is damaged"),
        ("log.csv", f"{head}\n{line.replace('0,', 'x,', 1)}\n", "log.csv is damaged"),
    ]
    for name, content, sentence in cases:
        cut = Path(shutil.copytree(good, tmp_path / "cut"))
        path = cut / name
        path.unlink()
        if isinstance(content, dict):
            write_arrays(path, content)
        elif content is not None:
            path.write_bytes(content if isinstance(content, bytes) else str(content).encode())
        with pytest.raises(InputError, match=sentence) as refusal:
            train_segmenter(*images, cut, settings=TINY, resume=True)
        assert "\n" not in str(refusal.value)
        assert str(cut) in str(refusal.value)
        shutil.rmtree(cut)
    (good / "log.csv").unlink()
    train_segmenter(*images, good, settings=TINY, resume=True)
    assert (
        read_arrays(good / "weights.safetensors").keys()
        == read_arrays(whole / "weights.safetensors").keys()
    )
    assert (good / "log.csv").read_text().splitlines()[1:] == [
        (whole / "log.csv").read_text().splitlines()[2]
    ]


def test_a_folder_that_training_cannot_start_from_is_told_and_nothing_begun(
    annotated: AnnotatedImage, tmp_path: Path
) -> None:
    short = replace(TINY, epochs=1, steps_per_epoch=1)
    first = train_segmenter([annotated], [annotated], tmp_path / "first", settings=short)
    weights = (first / "weights.safetensors").read_bytes()
    arrays = read_arrays(first / "weights.safetensors")
    stem = arrays["stem.conv.weight"]
    cases: list[tuple[str, object, str]] = [
        ("weights.safetensors", None, "holds none of"),
        ("weights.safetensors", weights[: len(weights) // 2], "is damaged"),
        ("weights.safetensors", weights[:-9] + b"\xff" + weights[-8:], "is damaged"),
        ("weights.safetensors", b"", "is damaged"),
        ("weights.safetensors", arrays | {"stem.conv.weight": stem * np.nan}, "NaN"),
        ("weights.safetensors", arrays | {"stem.conv.weight": stem[:, :1]}, "of another shape"),
        ("weights.safetensors", {"a": stem}, "doesn't fit"),
        ("config.json", b"[", "is damaged"),
        ("config.json", b"{}", "must name a backbone"),
        ("config.json", b'{"backbone": "unet"}', "another architecture"),
        ("config.json", None, "is missing"),
    ]
    for name, content, sentence in cases:
        start = Path(shutil.copytree(first, tmp_path / "start"))
        (start / name).unlink()
        if isinstance(content, dict):
            write_arrays(start / name, content)
        elif isinstance(content, bytes):
            (start / name).write_bytes(content)
        with pytest.raises(InputError, match=f"can't start from .*{sentence}") as refusal:
            train_segmenter(
                [annotated],
                [annotated],
                tmp_path / "out",
                settings=replace(short, start=str(start)),
            )
        assert "\n" not in str(refusal.value)
        assert not (tmp_path / "out").exists()
        shutil.rmtree(start)
