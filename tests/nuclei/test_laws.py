"""Laws of the measurement: turned, mirrored, scaled and renumbered nuclei."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from label_images import (
    LAW,
    SHAPES,
    axial_difference,
    blobs,
)
from scipy import ndimage

from morphomil.nuclei.measure import measure_nuclei, measure_shapes
from morphomil.nuclei.registry import FEATURES
from morphomil.types import FEATURE_NAMES

if TYPE_CHECKING:
    pass


@LAW
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_turning_by_90_degrees(seed: int, turns: int) -> None:
    labels = blobs(seed, shape=(240, 200))
    tissue = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=labels.shape), 30) > 0
    table = measure_nuclei(labels, mpp=0.5, tissue=tissue)
    turned = measure_nuclei(np.rot90(labels, turns), mpp=0.5, tissue=np.rot90(tissue, turns))
    rest = ["label"] + [name for name in FEATURE_NAMES if name != "orientation_deg"]
    pd.testing.assert_frame_equal(turned[rest], table[rest], rtol=1e-11, atol=1e-11)
    assert (turned["orientation_deg"].isna() == table["orientation_deg"].isna()).all()
    assert (
        np.nanmax(
            axial_difference(turned["orientation_deg"], table["orientation_deg"] + 90 * turns)
        )
        < 1e-9
    )


@LAW
@given(st.integers(0, 10**6))
def test_mirror(seed: int) -> None:
    labels = blobs(seed)
    table, mirrored = (measure_nuclei(image, mpp=1) for image in (labels, labels[:, ::-1]))
    rest = ["label", "y_px"] + [name for name in FEATURE_NAMES if name != "orientation_deg"]
    pd.testing.assert_frame_equal(mirrored[rest], table[rest], rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(
        mirrored["x_px"], labels.shape[1] - 1 - table["x_px"], rtol=0, atol=1e-10
    )
    assert (
        np.nanmax(axial_difference(mirrored["orientation_deg"], -table["orientation_deg"])) < 1e-9
    )


@LAW
@given(st.integers(0, 10**6), st.floats(0.1, 4))
def test_pixel_size_scales_lengths_and_areas(seed: int, mpp: float) -> None:
    table, scaled = measure_shapes(blobs(seed), mpp=1), measure_shapes(blobs(seed), mpp=mpp)
    for name in SHAPES:
        unit = {"um2": mpp**2, "um": mpp}.get(FEATURES[name].unit, 1)
        np.testing.assert_allclose(scaled[name], table[name] * unit, rtol=1e-12)


@LAW
@given(st.integers(0, 10**6))
def test_ids_only_name_the_nuclei(seed: int) -> None:
    labels = blobs(seed)
    ids = np.random.default_rng(seed).permutation(labels.max()) + 1
    renamed = measure_nuclei(np.concatenate([[0], ids])[labels], mpp=0.5)
    table = measure_nuclei(labels, mpp=0.5)
    table["label"] = ids[table["label"] - 1]
    pd.testing.assert_frame_equal(
        renamed, table.sort_values("label", ignore_index=True), check_exact=True
    )


def test_memory_layout_and_integer_type_do_not_matter() -> None:
    labels = blobs(5)
    table = measure_nuclei(labels, mpp=0.5)
    read_only = labels.astype(np.uint64)
    read_only.flags.writeable = False
    for same in (
        np.asfortranarray(labels),
        labels.astype(np.uint16),
        read_only,
        labels.astype(">i4"),
    ):
        pd.testing.assert_frame_equal(measure_nuclei(same, mpp=0.5), table, check_exact=True)
