"""Epithelium outlined from typed nuclei: layouts with a known answer, and synthetic slides."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from morphomil.phantom import PhantomSettings, plan_slide
from morphomil.slides.nests import LEAST_MM2, outline_epithelium


def overlap(one: shapely.Geometry, other: shapely.Geometry) -> float:
    """Intersection over union."""
    return float(one.intersection(other).area / one.union(other).area)


def grid(low: float, high: float, step: float) -> np.ndarray:
    """Nuclei on a square grid, x and y in um."""
    axis = np.arange(low + step / 2, high, step)
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


def found(positions: np.ndarray, shares: np.ndarray, side: float = 1000) -> shapely.Geometry:
    return shapely.union_all(outline_epithelium(positions, shares, width_um=side, height_um=side))


def test_a_square_nest_in_stroma() -> None:
    nest, stroma = grid(300, 700, 15), grid(0, 1000, 30)
    inside = ((stroma > 300) & (stroma < 700)).all(axis=1)
    positions = np.concatenate([nest, stroma[~inside]])
    shares = np.repeat([0.9, 0.05], [len(nest), (~inside).sum()])
    outline = found(positions, shares)
    assert overlap(outline, shapely.box(300, 300, 700, 700)) > 0.85
    assert outline.geom_type == "Polygon"
    assert found(positions, np.full(len(positions), 0.05)).is_empty
    unknown = np.where(shares > 0.5, np.nan, shares)
    assert found(positions, unknown).is_empty


def test_thin_stroma_between_nests_belongs_to_them_wide_stroma_does_not() -> None:
    def two(gap: float) -> int:
        left, right = grid(100, 400, 15), grid(100, 400, 15) + np.array([300 + gap, 0])
        return len(
            outline_epithelium(
                np.concatenate([left, right]),
                np.full(2 * len(left), 0.9),
                width_um=1200,
                height_um=500,
            )
        )

    assert two(80) == 1
    assert two(250) == 2


def test_lymphocytes_in_great_number_are_no_epithelium() -> None:
    crowd, few = grid(300, 700, 10), grid(300, 700, 25)
    positions = np.concatenate([crowd, few])
    shares = np.repeat([0.05, 0.9], [len(crowd), len(few)])
    assert found(few, np.full(len(few), 0.9)).area > 0.1e6
    assert found(positions, shares).is_empty


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_what_is_found_does_not_depend_on_the_order_of_nuclei(seed: int) -> None:
    rng = np.random.default_rng(seed)
    positions, shares = rng.uniform(0, 600, (900, 2)), rng.uniform(0, 1, 900)
    order = rng.permutation(900)
    one, other = found(positions, shares, 600), found(positions[order], shares[order], 600)
    assert one.symmetric_difference(other).area < 1e-6
    assert all(part.area >= LEAST_MM2 * 0.9e6 for part in shapely.get_parts(one))


@pytest.mark.parametrize("number", range(3))
def test_the_annotated_tumor_of_synthetic_slides(number: int) -> None:
    chosen = PhantomSettings()
    plan = plan_slide(chosen, seed=11, number=number)
    tumor = shapely.transform(plan.tumor, lambda points: points * chosen.mpp)
    shares = np.where(plan.nuclei["nucleus_class"] == "tumor", 0.9, 0.05)
    outline = shapely.union_all(
        outline_epithelium(
            plan.nuclei[["x_px", "y_px"]].to_numpy() * chosen.mpp,
            shares,
            width_um=chosen.width_px * chosen.mpp,
            height_um=chosen.height_px * chosen.mpp,
        )
    )
    assert overlap(outline, tumor) > 0.8


def test_arrays_that_do_not_belong_together() -> None:
    with pytest.raises(ValueError, match="positions are"):
        outline_epithelium(np.zeros((3, 2)), np.zeros(2), width_um=10, height_um=10)
    with pytest.raises(ValueError, match="the area is"):
        outline_epithelium(np.zeros((3, 2)), np.zeros(3), width_um=0, height_um=10)
    assert outline_epithelium(np.zeros((0, 2)), np.zeros(0), width_um=9, height_um=9) == []
