"""Stains that the network knows badly are normalized where it is surer then."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from morphomil import pipeline
from morphomil.errors import SlideError
from morphomil.phantom.paint import Phantom, render_slide
from morphomil.phantom.settings import PhantomSettings
from morphomil.segment import classify_nuclei, segment_image, stains
from morphomil.segment.agreement import agreement
from morphomil.segment.model import WEIGHTS, load_segmenter
from morphomil.slides.stain import REFERENCE, fit_normalizer
from morphomil.types import (
    Cohort,
    ImageSource,
    NormalizeStain,
    PatchSettings,
    SegmenterSettings,
    Slide,
)

WAYS: tuple[NormalizeStain, ...] = ("never", "auto", "always")
BLUISH = np.array([[0.74, 0.66, 0.0], [0.27, 0.80, 0.53]])
"""Hematoxylin that takes no blue light."""


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return render_slide(PhantomSettings(width_px=512, height_px=512), seed=0)


def stained(
    rgb: NDArray[np.uint8], vectors: NDArray[np.float64], hematoxylin: float
) -> NDArray[np.uint8]:
    """The image with so much hematoxylin beside usual eosin, of these colors."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return fit_normalizer(rgb, reference=(unit, np.array([hematoxylin, 0.55])))(rgb)


@pytest.mark.parametrize(
    ("vectors", "hematoxylin"), [(BLUISH, 0.5), (BLUISH, 0.8), (REFERENCE, 0.4), (REFERENCE, 0.6)]
)
def test_stains_that_hide_nuclei_are_normalized(
    phantom: Phantom, vectors: NDArray[np.float64], hematoxylin: float
) -> None:
    rgb = stained(phantom.rgb, vectors, hematoxylin)
    found = {way: segment_image(rgb, mpp=0.5, normalize_stain=way) for way in WAYS}
    np.testing.assert_array_equal(found["auto"], found["always"])
    quality = {way: agreement(phantom.labels, labels).pq for way, labels in found.items()}
    assert quality["auto"] > max(0.8, quality["never"] + 0.05)
    types = {way: classify_nuclei(rgb, found["auto"], mpp=0.5, normalize_stain=way) for way in WAYS}
    assert types["auto"].equals(types["always"])
    assert not types["auto"].equals(types["never"])


def test_usual_stains_stay_and_the_network_is_not_asked(
    phantom: Phantom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(stains, "choose_change")
    as_it_is = segment_image(phantom.rgb, mpp=0.5, normalize_stain="never")
    np.testing.assert_array_equal(segment_image(phantom.rgb, mpp=0.5), as_it_is)


@pytest.mark.parametrize(("sure", "changes"), [((10.0, 9.0), False), ((9.0, 10.0), True)])
def test_stains_stay_where_the_network_is_not_surer(
    phantom: Phantom,
    monkeypatch: pytest.MonkeyPatch,
    sure: tuple[float, float],
    changes: bool,
) -> None:
    said = iter(sure)
    monkeypatch.setattr(stains, "_sureness", lambda *_, **__: next(said))
    segmenter = load_segmenter(SegmenterSettings())
    rgb = stained(phantom.rgb, BLUISH, 0.8)
    assert stains.may_change(rgb, segmenter)
    assert bool(stains.choose_change(rgb, rgb, mpp=0.5, segmenter=segmenter)) == changes


def test_stains_that_cannot_be_told_apart_stay_unless_they_must_change() -> None:
    rgb = np.full((128, 128, 3), 255, np.uint8)
    assert not segment_image(rgb, mpp=0.5).any()
    with pytest.raises(SlideError, match="too few"):
        segment_image(rgb, mpp=0.5, normalize_stain="always")
    one_color = np.full((128, 128, 3), (120, 60, 140), np.uint8)
    assert not segment_image(one_color, mpp=0.5).any()
    segmenter = load_segmenter(SegmenterSettings())
    assert stains.choose_change(one_color, one_color, mpp=0.5, segmenter=segmenter) is None


def test_models_for_other_stains_are_not_asked(phantom: Phantom) -> None:
    segmenter = replace(load_segmenter(SegmenterSettings()), stain="")
    assert not stains.may_change(stained(phantom.rgb, BLUISH, 0.5), segmenter)


def test_a_run_by_a_model_for_other_stains_says_that_none_is_normalized(tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS / "default", tmp_path / "model")
    about = tmp_path / "model" / "morphomil.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"stain": ""}))
    Image.fromarray(np.full((64, 64, 3), 250, np.uint8)).save(tmp_path / "blank.png")
    slide = Slide("blank", "blank", "0", (ImageSource(tmp_path / "blank.png", mpp=0.5),))
    settings = SegmenterSettings(model=str(tmp_path / "model"))
    run, _ = pipeline.segment(Cohort((slide,)), tmp_path / "run", segmenter=settings)
    assert run.segmented_with()["normalize_stain"] == "never"


def test_a_run_says_which_slides_were_normalized(phantom: Phantom, tmp_path: Path) -> None:
    pictures = {"usual": phantom.rgb, "pale": stained(phantom.rgb, BLUISH, 0.5)}
    slides = []
    for name, rgb in pictures.items():
        Image.fromarray(rgb).save(tmp_path / f"{name}.png")
        slides.append(Slide(name, name, "0", (ImageSource(tmp_path / f"{name}.png", mpp=0.5),)))
    found = {}
    for way in WAYS:
        run, result = pipeline.segment(
            Cohort(tuple(slides)),
            tmp_path / way,
            settings=PatchSettings(regions="whole"),
            segmenter=SegmenterSettings(normalize_stain=way),
        )
        assert not result.failed
        figures = run.figures("segment").set_index("slide_id")
        normalized = figures.get("regions_stain_normalized", figures["nuclei_found"] * 0).fillna(0)
        found[way] = normalized.astype(bool).to_dict(), figures["nuclei_found"].to_dict()
    assert [found[way][0] for way in WAYS] == [
        {"usual": False, "pale": False},
        {"usual": False, "pale": True},
        {"usual": True, "pale": True},
    ]
    nuclei = {way: counts for way, (_, counts) in found.items()}
    assert nuclei["auto"] == {
        "usual": nuclei["never"]["usual"],
        "pale": nuclei["always"]["pale"],
    }
    assert nuclei["auto"]["pale"] > 1.2 * nuclei["never"]["pale"]
