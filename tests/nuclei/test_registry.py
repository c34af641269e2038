"""The registry: the eight, ranges, features of one's own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from label_images import (
    SHAPES,
    blobs,
    ellipse,
)
from skimage.io import imread

from morphomil.nuclei.measure import measure_nuclei, measure_shapes
from morphomil.nuclei.registry import FEATURES, Feature, feature, features_of
from morphomil.types import FEATURE_NAMES

if TYPE_CHECKING:
    from pathlib import Path


def test_registry_holds_the_eight_features_in_order() -> None:
    assert features_of() == FEATURE_NAMES == tuple(FEATURES)[:8]
    assert all(name.startswith("type_") for name in tuple(FEATURES)[8:])
    assert features_of(["type"]) == tuple(FEATURES)
    assert [entry.name for entry in FEATURES.values()] == list(FEATURES)
    assert [name for name, entry in FEATURES.items() if entry.axial] == ["orientation_deg"]
    assert (FEATURES["orientation_deg"].low, FEATURES["orientation_deg"].high) == (0, 90)
    assert FEATURES["orientation_deg"].fixed_edges
    assert list(measure_shapes(blobs(0), mpp=1)) == ["label", "x_px", "y_px", *SHAPES]


def test_ranges_hold_real_nuclei(shared_data: Path) -> None:
    # Three kidney images of MoNuSeg (HE-...) look like 0.5 um/px; at 0.25 their density would be
    # four times too high. CoNSeP is left out: at the pixel size that it states two of its images
    # have 20,000 and 37,000 nuclei per mm2.
    sets = ("monuseg_train", "tnbc")
    paths = [p for name in sets for p in (shared_data / "nuclei" / name).glob("labels/*.png")]
    assert len(paths) > 60
    table = pd.concat(
        [measure_nuclei(imread(p), mpp=0.5 if "TCGA-HE" in p.name else 0.25) for p in paths]
    )
    for name in [*SHAPES, "density_per_mm2"]:
        if not FEATURES[name].axial:
            assert (
                table[name].dropna().between(FEATURES[name].low, FEATURES[name].high).mean() > 0.999
            )


def test_a_user_adds_a_feature_with_one_function(registry: dict[str, Feature]) -> None:
    @feature(
        "elongation",
        of=("major_axis_um", "minor_axis_um"),
        unit="1",
        low=1,
        high=5,
        meaning="axis ratio",
    )
    def elongation(major: Any, minor: Any) -> Any:
        return major / minor

    @feature(
        "crowding",
        of=("density_per_mm2", "area_um2"),
        unit="1",
        low=0,
        high=1,
        meaning="area per free area",
    )
    def crowding(density: Any, area: Any) -> Any:
        return density * area / 1e6

    labels = ellipse(80, 40, 10)
    labels[0, :3] = 2
    table = measure_nuclei(labels, mpp=0.5)
    assert list(table)[-2:] == ["elongation", "crowding"]
    assert table["elongation"].tolist() == pytest.approx([2, math.inf], rel=0.01)
    np.testing.assert_allclose(
        table["crowding"], table["density_per_mm2"] * table["area_um2"] / 1e6
    )
    assert list(measure_shapes(labels, mpp=0.5)) == ["label", "x_px", "y_px", *SHAPES, "elongation"]
    assert elongation(6, 3) == 2


def test_a_feature_that_can_not_work_is_refused_when_it_is_added(
    registry: dict[str, Feature],
) -> None:
    usual: dict[str, Any] = {
        "of": ("area_um2",),
        "unit": "1",
        "low": 0,
        "high": 1,
        "meaning": "test",
    }
    before = list(registry)
    for name, changes, message in (
        ("area_um2", {}, "the name area_um2 is taken"),
        ("label", {}, "the name label is taken"),
        ("odd", {"of": ("area",)}, "feature odd asks for area; there are mpp, "),
        ("odd", {"low": 1}, "feature odd needs finite low < high, got 1 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            feature(name, **(usual | changes))(np.sqrt)
    assert list(registry) == before
