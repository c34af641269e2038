"""Family type: layouts whose answer is known, a plain witness, and laws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_images import LAW
from scipy.spatial.distance import cdist

from morphomil.nuclei.neighborhood import REACH_UM, in_nests, part_tissue, type_roots
from morphomil.nuclei.registry import FEATURES, TYPE_ROOTS, evaluate, features_of
from morphomil.nuclei.totals import count_totals, ratios
from morphomil.nuclei.types import most_probable, of_type

E, L, S, OTHER = range(4)


ON_CELLS = {"nearby_stroma_um2", "nearby_nest_um2"}
"""Roots that rest on cells of tissue, which don't turn with the layout."""


def random_layout(seed: int, count: int = 150, side: float = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(0, side, (count, 2)), rng.integers(-1, 4, count)


def roots_of(points: np.ndarray, types: np.ndarray, area: float = 40.0) -> dict[str, Any]:
    """Roots of nuclei of one area on 300 x 300 um of tissue, from (-50, -50) on."""
    origin = points.min(axis=0, initial=0) - 50
    tissue = np.ones((150, 150), bool)
    parts = part_tissue(points - origin, types, 50.0, tissue=tissue, tissue_mpp=2.0)
    areas = np.full(len(points), area)
    return type_roots(points - origin, types, 50.0, areas_um2=areas, parts=parts)


def measured(points: np.ndarray, types: np.ndarray) -> dict[str, np.ndarray]:
    """The family's features where all is tissue."""
    roots = roots_of(points, types)
    assert set(roots) == set(TYPE_ROOTS)
    tissue = {"nearby_tissue_um2": np.full(len(points), np.pi * 50**2), "radius_um": 50.0}
    family = [FEATURES[name] for name in features_of(["type"]) if FEATURES[name].family]
    return evaluate(roots | tissue, family)


@LAW
@given(st.integers(0, 10**6))
def test_counts_and_distances_as_in_the_matrix_of_distances(seed: int) -> None:
    points, types = random_layout(seed)
    table = measured(points, types)
    apart = cdist(points, points)
    near = (apart <= 50) & ~np.eye(len(points), dtype=bool)
    for name, number in (("epithelial", E), ("lymphocyte", L), ("stroma", S)):
        expected = (near & (types == number)).sum(axis=1) / (np.pi * 50**2) * 1e6
        np.testing.assert_allclose(table[f"type_{name}_per_mm2"], expected)
    typed = (near & (types >= 0)).sum(axis=1)
    share = (near & (types == L)).sum(axis=1)[typed > 0] / typed[typed > 0]
    np.testing.assert_allclose(table["type_lymphocyte_share"][typed > 0], share)
    for name, number in (("lymphocyte", L), ("stroma", S)):
        nearest = apart[:, types == number].min(axis=1)
        expected = np.where(types == E, np.minimum(nearest, REACH_UM), np.nan)
        np.testing.assert_allclose(table[f"type_to_{name}_um"], expected)


@LAW
@given(st.integers(0, 10**6))
def test_neighbors_as_in_the_sorted_distances(seed: int) -> None:
    points, types = random_layout(seed)
    table = measured(points, types)
    apart = cdist(points, points)
    np.fill_diagonal(apart, np.inf)
    for own in range(len(points)):
        order = [n for n in np.argsort(apart[own]) if apart[own, n] <= 50]
        solid = [types[n] == E for n in order if types[n] in (E, S)][:6]
        expected = np.mean(solid) if types[own] == L and solid else np.nan
        np.testing.assert_allclose(table["type_nest_share"][own], expected)
        if types[own] < 0:
            assert np.isnan(table["type_mixing"][own])
            continue
        unlike = [types[n] != types[own] for n in order if types[n] >= 0][:6]
        others = np.delete(types, own)
        by_chance = np.mean(others[others >= 0] != types[own])
        np.testing.assert_allclose(table["type_mixing"][own], np.mean(unlike) - by_chance)


def test_a_nest_beside_stroma() -> None:
    """Epithelium left of x = 0, stroma right of it: inside, at the edge, outside."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(-95, 100, 10.0), np.arange(0, 100, 10.0)), -1)
    solid = grid.reshape(-1, 2) + rng.uniform(-1, 1, (200, 2))
    lymphocytes = np.array([[-70.0, 50], [1.0, 50], [70.0, 50]])
    types = np.concatenate([np.where(solid[:, 0] < 0, E, S), [L] * 3])
    table = measured(np.concatenate([solid, lymphocytes]), types)
    inside, edge, outside = table["type_nest_share"][-3:]
    assert (inside, outside) == (1, 0)
    assert 0.3 < edge < 0.7
    frame = pd.DataFrame(table).assign(patch_id=0, type=most_probable(np.eye(4)[types])["type"])
    totals = count_totals(frame)
    assert totals.loc[0, ["nuclei", "inside", "edge", "lymphocyte"]].tolist() == [203, 1, 1, 3]
    pooled = ratios(totals.assign(tissue_mm2=0.02), list(table)).loc[0]
    assert pooled["type_inside_per_mm2"] == pooled["type_edge_per_mm2"] == 50
    assert pooled["type_lymphocyte_share"] == pytest.approx(3 / 203)


def half_a_nest(lymphocytes: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Epithelium left of x = 160, stroma right of it, 320 x 160 um, one nucleus per 64 um2."""
    grid = np.stack(np.meshgrid(np.arange(4, 320, 8.0), np.arange(4, 160, 8.0)), -1).reshape(-1, 2)
    solid = grid[np.min(cdist(grid, np.array(lymphocytes)), axis=1) > 5]
    types = np.concatenate([np.where(solid[:, 0] < 160, E, S), [L] * len(lymphocytes)])
    return np.concatenate([solid, lymphocytes]), types


def test_lymphocytes_in_stroma_and_nests_of_known_area() -> None:
    """Half of 320 x 160 um of tissue is nest; of five lymphocytes three lie in the stroma."""
    points, types = half_a_nest([[40, 80], [80, 80], [240, 60], [260, 80], [280, 100]])
    tissue = np.ones((80, 160), bool)
    parts = part_tissue(points, types, 50.0, tissue=tissue, tissue_mpp=2.0)
    assert parts.cell_um == 8
    np.testing.assert_allclose(parts.nest + parts.stroma, 1)
    assert (parts.nest[:, :20] == 1).mean() > 0.98
    assert (parts.nest[:, 20:] == 0).mean() > 0.98
    areas = np.full(len(points), 40.0)
    roots = type_roots(points, types, 50.0, areas_um2=areas, parts=parts)
    assert in_nests(roots["nest_share"][-5:]).tolist() == [True, True, False, False, False]
    own = FEATURES["type_stroma_lymphocyte_per_mm2"]
    middle = roots["nearby_stroma_um2"][-2]  # all of the disc is stroma there
    assert middle == pytest.approx(np.pi * 50**2, rel=0.002)
    density = own.formula(roots["nearby_stroma_lymphocyte"], roots["nearby_stroma_um2"], 50.0)
    assert density[-2] == pytest.approx(2e6 / (np.pi * 50**2), rel=0.002)
    covered = FEATURES["type_stroma_cover"].formula(
        roots["nearby_covered_um2"], roots["nearby_stroma_um2"], 50.0
    )
    assert covered[-2] == pytest.approx(3 * 40 / (np.pi * 50**2), rel=0.002)
    assert np.isnan(density[points[:, 0] < 100]).all()
    assert covered[np.isfinite(covered)].max() < 0.03


def test_tissue_parts_by_halves_holes_and_absent_types() -> None:
    points, types = half_a_nest([[240, 80]])
    tissue = np.ones((80, 160), bool)
    tissue[:, 120:] = False
    options = {"tissue": tissue, "tissue_mpp": 2.0}
    parts = part_tissue(points, types, 50.0, **options)
    assert parts.stroma.sum() * 64 == pytest.approx(80 * 160, rel=0.03)
    for kind, share in ((E, 1.0), (S, 0.0), (L, 0.0), (-1, 0.0)):
        alike = part_tissue(points, np.full(len(points), kind), 50.0, **options)
        assert alike.nest.sum() / (alike.nest + alike.stroma).sum() == share
    empty = part_tissue(np.empty((0, 2)), np.empty(0, np.int64), 50.0, **options)
    assert empty.nest.sum() == 0
    finer = part_tissue(points, types, 50.0, tissue=np.ones((79, 157), bool), tissue_mpp=2.0)
    assert finer.cell_um == 2


def test_types_apart_at_random_and_alternating() -> None:
    """On a hexagonal lattice: three colors without equal neighbors, two halves, shuffled colors."""
    row, column = np.divmod(np.arange(18 * 18), 18)
    points = np.stack([column + row % 2 / 2, row * np.sqrt(0.75)], axis=1) * 10
    colors = (column - (row - row % 2) // 2 - row) % 3
    inner = (column % 17 != 0) & (row % 17 != 0)
    alternating = measured(points, colors)["type_mixing"][inner]
    np.testing.assert_allclose(alternating, 1 - 216 / 323)
    halves = measured(points, np.where(row < 9, E, S))["type_mixing"]
    np.testing.assert_allclose(halves[inner & (abs(row - 8.5) > 1)], -162 / 323)
    rng = np.random.default_rng(1)
    shuffled = [measured(points, rng.permutation(colors))["type_mixing"] for _ in range(20)]
    assert abs(np.mean(shuffled)) < 0.01


@LAW
@given(st.integers(0, 10**6), st.floats(0, 2 * np.pi), st.floats(-1e5, 1e5))
def test_turned_and_moved_layouts_are_the_same(seed: int, angle: float, shift: float) -> None:
    points, types = random_layout(seed)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    before, after = measured(points, types), measured(points @ turn + shift, types)
    for name, values in before.items():
        if set(FEATURES[name].of) & ON_CELLS:
            continue
        np.testing.assert_allclose(after[name], values, rtol=1e-6, atol=1e-6)


@LAW
@given(st.integers(0, 10**6), st.floats(0.3, 1))
def test_distances_grow_with_the_layout(seed: int, factor: float) -> None:
    points, types = random_layout(seed, count=300, side=100)
    before, after = measured(points, types), measured(points * factor, types)
    for name in ("type_to_lymphocyte_um", "type_to_stroma_um"):
        np.testing.assert_allclose(after[name], before[name] * factor)
    for name in ("type_nest_share", "type_mixing"):
        np.testing.assert_allclose(after[name], before[name])


@pytest.mark.parametrize("types", [[], [E], [L], [-1, -1], [E, E, S], [L, L, OTHER]])
def test_few_nuclei_and_absent_types(types: list[int]) -> None:
    points = np.arange(2.0 * len(types)).reshape(-1, 2)
    table = measured(points, np.array(types, dtype=np.int64))
    here = np.array(types) == E
    if L not in types:
        assert (table["type_to_lymphocyte_um"][here] == REACH_UM).all()
        assert np.isnan(table["type_nest_share"]).all()
    assert np.isnan(table["type_to_stroma_um"][~here]).all()
    assert (table["type_lymphocyte_per_mm2"] >= 0).all()


def test_nuclei_at_one_place() -> None:
    """More of them than neighbors are counted: each one's others are all alike."""
    table = measured(np.zeros((20, 2)), np.full(20, E))
    np.testing.assert_array_equal(table["type_mixing"], 0)


def test_the_most_probable_type() -> None:
    table = most_probable(np.array([[0.1, 0.6, 0.2, 0.1], [0.5, 0.5, 0, 0], [np.nan] * 4]))
    assert table["type"].tolist()[:2] == ["lymphocyte", "epithelial"]
    assert table["type_probability"].tolist()[:2] == [0.6, 0.5]
    assert table.loc[2].isna().all()


def test_others_lose_their_features_but_count() -> None:
    nuclei: Any = pd.DataFrame(
        {
            "area_um2": [10.0, 20, 30],
            "type_mixing": [0.1, 0.2, 0.3],
            "type": ["stroma", "lymphocyte", None],
        }
    )
    chosen = of_type(nuclei, "lymphocyte")
    assert chosen["area_um2"].isna().tolist() == [True, False, True]
    assert chosen["type_mixing"].tolist() == [0.1, 0.2, 0.3]
    assert of_type(nuclei, "all") is nuclei
