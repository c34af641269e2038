"""The shipped weights: that they load, segment real nuclei, work at both resolutions, and refuse
what is no image."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from morphomil.errors import InputError
from morphomil.segment import segment_image
from morphomil.segment.agreement import agreement
from morphomil.segment.annotated import read_annotated
from morphomil.segment.folders import SHIPPED
from morphomil.segment.model import WEIGHTS, load_segmenter
from morphomil.segment.reliability import read_reliability
from morphomil.types import SegmenterSettings

H5 = "weights_best.h5"


def test_the_default_model_knows_its_resolutions() -> None:
    segmenter = load_segmenter()
    assert segmenter.network_mpp(0.25) == 0.25
    assert segmenter.network_mpp(0.5) == 0.5
    assert segmenter.network_mpp(0.46) == 0.46
    assert segmenter.network_mpp(1.0) == 0.5
    assert segmenter.network_mpp(0.1) == 0.25


def test_the_shipped_models_are_small_documented_and_licensed() -> None:
    weights = [WEIGHTS / name / "weights.safetensors" for name in SHIPPED]
    assert sum(path.stat().st_size for path in weights) < 12e6
    licenses = (WEIGHTS / "LICENSE").read_text(encoding="utf-8")
    for name, license_name in (("default", "CC BY 4.0"), ("noncommercial", "CC BY-NC-SA 4.0")):
        assert license_name in licenses.split(f"{name}/")[1]
        assert license_name in (WEIGHTS / name / "README.md").read_text(encoding="utf-8")
        table = pd.read_csv(WEIGHTS / name / "training.csv")
        assert {"image", "labels", "mpp", "split"} <= set(table)
        assert table["image"].str.contains("monuseg").any() == (name == "noncommercial")


def test_the_default_model_knows_outlines_and_types() -> None:
    segmenter = load_segmenter()
    assert segmenter.maps
    assert segmenter.types is not None
    assert segmenter.types.temperature != 1


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_models_know_their_reliability(name: str) -> None:
    assert load_segmenter(SegmenterSettings(name)).judges
    table = read_reliability(name)
    assert len(table)
    assert table[["bias", "slope", "spearman"]].notna().any(axis=0).all()
    sha256 = {load_segmenter(SegmenterSettings(one)).sha256 for one in SHIPPED}
    assert len(sha256) == 2


def test_nuclei_of_images_that_it_was_not_trained_on(shared_data: Path) -> None:
    """Mean panoptic quality over the validation images of each data set, at both resolutions; the
    colon of CoNSeP is the hardest, and its annotators drew more than others."""
    both = [pd.read_csv(WEIGHTS / name / "training.csv") for name in SHIPPED]
    table = pd.concat(both).drop_duplicates("image").query("split == 'val'")
    table = table[table["labels"].notna()]
    images = read_annotated(table.groupby("group").head(3), shared_data / "nuclei")
    scores = []
    for image in images:
        half = np.asarray(Image.fromarray(image.rgb).reduce(2))
        for rgb, labels, mpp in (
            (image.rgb, image.labels, 0.25),
            (half, image.labels[::2, ::2], 0.5),
        ):
            height, width = (min(a, b) for a, b in zip(rgb.shape, labels.shape, strict=False))
            found = segment_image(rgb[:height, :width], mpp=mpp)
            score = agreement(labels[:height, :width], found)
            scores.append(
                {
                    "group": image.group,
                    "mpp": mpp,
                    "pq": score.pq,
                    "ratio": score.found / score.annotated,
                }
            )
    means = pd.DataFrame(scores).groupby(["group", "mpp"]).mean()
    colon = means.index.get_level_values("group") == "consep"
    assert (means["pq"] > np.where(colon, 0.42, 0.5)).all(), means
    assert (means["ratio"] > np.where(colon, 0.6, 0.75)).all(), means
    assert (means["ratio"] < 1.3).all(), means


def test_an_image_of_other_resolution_is_brought_to_one_it_knows(shared_data: Path) -> None:
    path = shared_data / "nuclei" / "tnbc" / "images" / "03_1.png"
    image = Image.open(path).convert("RGB")
    expected = segment_image(np.asarray(image), mpp=0.25)
    larger = image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC)
    enlarged = segment_image(np.asarray(larger), mpp=0.125)
    assert enlarged.shape == (image.height * 2, image.width * 2)
    assert agreement(expected, enlarged[::2, ::2]).dq > 0.9


@pytest.mark.parametrize(
    ("image", "mpp"),
    [
        (np.zeros((8, 8), np.uint8), 0.5),
        (np.zeros((8, 8, 4), np.uint8), 0.5),
        (np.zeros((8, 8, 3), np.float32), 0.5),
        (np.zeros((0, 8, 3), np.uint8), 0.5),
        (np.zeros((8, 8, 3), np.uint8), 0.0),
        (np.zeros((8, 8, 3), np.uint8), 352.8),
    ],
)
def test_what_is_no_image_is_refused(image: np.ndarray, mpp: float) -> None:
    with pytest.raises(ValueError, match=r"uint8|pixel size"):
        segment_image(image, mpp=mpp)


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (251, 333)])
def test_images_of_any_size(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(180, 250, (*shape, 3)).astype(np.uint8)
    assert segment_image(image, mpp=0.5).shape == shape
    assert not segment_image(np.full((*shape, 3), 255, np.uint8), mpp=0.5).any()


def test_stardist_folders_are_taken(shared_data: Path) -> None:
    image = np.asarray(
        Image.open(shared_data / "nuclei" / "tnbc" / "images" / "03_1.png").convert("RGB")
    )
    truth = np.asarray(Image.open(shared_data / "nuclei" / "tnbc" / "labels" / "03_1.png")).astype(
        np.int32
    )
    found = segment_image(image, mpp=0.25, model=str(shared_data / "trial_segmenter"))
    assert agreement(truth, found).dq > 0.5


def test_folders_that_are_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder with a config\.json"):
        load_segmenter(SegmenterSettings(str(tmp_path)))
    config = json.loads((WEIGHTS / "default" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="holds none of"):
        load_segmenter(SegmenterSettings(str(tmp_path)))
    (tmp_path / "thresholds.json").write_text('{"prob": 0.5, "nms": 0.4}')
    (tmp_path / "weights.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(InputError, match="doesn't fit its config"):
        load_segmenter(SegmenterSettings(str(tmp_path)))


def test_harmed_stardist_folders_are_refused(shared_data: Path, tmp_path: Path) -> None:
    for name in ("config.json", "thresholds.json"):
        shutil.copy(shared_data / "trial_segmenter" / name, tmp_path)
    for content in (b"garbage", (shared_data / "trial_segmenter" / H5).read_bytes()[:5000]):
        (tmp_path / H5).write_bytes(content)
        with pytest.raises(InputError, match="can't be used"):
            load_segmenter(SegmenterSettings(str(tmp_path)))
    (tmp_path / "config.json").write_text('{"backbone": "unet"}')
    with pytest.raises(InputError, match="can't be used: 'axes'"):
        load_segmenter(SegmenterSettings(str(tmp_path)))
