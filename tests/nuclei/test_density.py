"""Density: the tissue of a disc, neighbors, and where it is missing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import ndimage

from morphomil.nuclei.density import local_density
from morphomil.nuclei.measure import measure_nuclei

if TYPE_CHECKING:
    from numpy.typing import NDArray


def half_plane_area(distance: float, radius: float) -> float:
    """Part of a disc on the side of a line that holds its center, `distance` away."""
    return radius**2 * math.acos(-distance / radius) + distance * math.sqrt(radius**2 - distance**2)


def disc_areas(
    tissue: NDArray[Any], x: NDArray[np.float64], y: NDArray[np.float64], mpp: float
) -> NDArray[np.float64]:
    """The area behind `local_density` in um2: every point has all others as neighbors 1 nm away."""
    areas = []
    for i, j in zip(x, y, strict=True):
        pair = local_density(
            np.array([i, i + 1e-3]), np.array([j, j]), tissue=tissue, tissue_mpp=mpp
        )
        areas.append(1e6 / pair[0])
    return np.array(areas)


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1, 2, 4])
@pytest.mark.parametrize("side", ["left", "top", "right", "bottom"])
def test_half_plane_of_tissue(mpp: float, side: str) -> None:
    tissue = np.zeros((round(160 / mpp), round(160 / mpp)), bool)
    tissue[:, round(80 / mpp) :] = True
    distances = np.array([0, 0.3, 1, 7.77, 21, 25])
    along = np.array([75, 77.7, 80, 80.1, 81, 84.9])
    x, y = (80 + distances, along) if side in ("left", "top") else (80 - distances, along)
    tissue = tissue if side in ("left", "top") else tissue[:, ::-1]
    if side in ("top", "bottom"):
        tissue, x, y = tissue.T, y, x
    expected = [half_plane_area(d, 50) for d in distances]
    np.testing.assert_allclose(disc_areas(tissue, x, y, mpp), expected, rtol=2e-3)


@pytest.mark.parametrize("block", [1, 8, 16])
def test_ragged_tissue_against_a_fine_grained_witness(block: int) -> None:
    rng = np.random.default_rng(4)
    noise = ndimage.gaussian_filter(rng.normal(size=(1008, 1008)), 25)
    fine = noise > -0.3 * noise.std()
    x, y = rng.uniform(20, 232, (2, 60))
    rows, columns = (np.mgrid[:1008, :1008] + 0.5) * 0.25
    expected = np.array(
        [fine[np.hypot(columns - i, rows - j) <= 50].sum() / 16 for i, j in zip(x, y, strict=True)]
    )
    tissue = fine.reshape(1008 // block, block, 1008 // block, block).mean(axis=(1, 3))
    clear = np.abs(expected - math.pi * 1250) > 20
    areas = disc_areas(tissue, x, y, 0.25 * block)[clear]
    expected = expected[clear]
    assert 0 < np.isnan(areas).sum() < 0.7 * len(areas)
    np.testing.assert_array_equal(np.isnan(areas), expected < math.pi * 1250)
    np.testing.assert_allclose(areas[~np.isnan(areas)], expected[~np.isnan(areas)], rtol=4e-3)


def test_lattice_of_points() -> None:
    x, y = (grid.ravel() * 10.0 for grid in np.mgrid[1:40, 1:40])
    density = local_density(x, y, tissue=np.ones((200, 200), bool), tissue_mpp=2)
    steps = np.mgrid[-5:6, -5:6]
    neighbors = np.count_nonzero(np.hypot(*steps) <= 5) - 1  # those exactly 50 um away count
    inside = (np.minimum(x, y) >= 60) & (np.maximum(x, y) <= 340)
    np.testing.assert_allclose(density[inside], 1e6 * neighbors / (math.pi * 2500), rtol=1e-12)
    corner = (x == 10) & (y == 10)
    assert np.isnan(density[corner]).all()


def test_a_nucleus_does_not_count_itself_and_coincident_ones_count() -> None:
    tissue = np.ones((100, 100), bool)
    disc_mm2 = math.pi * 2500 / 1e6
    x = np.array([60, 100, 100, 149.0])
    density = local_density(x, np.full(4, 100.0), tissue=tissue, tissue_mpp=2)
    np.testing.assert_allclose(density, np.array([2, 3, 3, 2]) / disc_mm2, rtol=1e-12)
    alone = local_density(x[:1], np.full(1, 100.0), tissue=tissue, tissue_mpp=2)
    assert alone.tolist() == [0]


def test_density_is_missing_where_less_than_half_of_the_disc_is_tissue() -> None:
    tissue = np.zeros((100, 100), bool)
    tissue[:, 50:] = True
    x = np.array([99.0, 100, 101])  # outside the tissue by 1 um, on its border, inside by 1 um
    density = local_density(x, np.full(3, 100.0), tissue=tissue, tissue_mpp=2)
    assert np.isnan(density).tolist() == [True, False, False]
    assert density[1] == pytest.approx(1e6 * 2 / (math.pi * 1250), rel=1e-9)


def test_nuclei_outside_the_tissue_are_neighbors_too() -> None:
    tissue = np.zeros((100, 100), bool)
    tissue[:, 45:] = True
    density = local_density(
        np.array([110.0, 70]), np.array([100.0, 100]), tissue=tissue, tissue_mpp=2
    )
    assert density[0] == pytest.approx(1e6 / half_plane_area(20, 50), rel=1e-3)
    assert math.isnan(density[1])


def test_radius_is_in_um() -> None:
    x, y = np.array([100, 115.0]), np.array([100, 100.0])
    tissue = np.ones((200, 200), np.float32)
    assert local_density(x, y, tissue=tissue, tissue_mpp=1, radius_um=14).tolist() == [0, 0]
    near = local_density(x, y, tissue=tissue, tissue_mpp=1, radius_um=16)
    np.testing.assert_allclose(near, 1e6 / (math.pi * 256), rtol=1e-12)


@pytest.mark.parametrize("mpp", [0.25, 0.5, 2, 3.7])
def test_measured_density_uses_the_pixel_corner_frame(mpp: float) -> None:
    labels = np.zeros((round(216 / mpp), round(216 / mpp)), np.uint16)
    labels[:: round(22 / mpp), :: round(22 / mpp)] = 1
    labels[labels > 0] = np.arange(1, labels.sum() + 1)
    table = measure_nuclei(labels, mpp=mpp)
    expected = local_density(
        ((table["x_px"] + 0.5) * mpp).to_numpy(),
        ((table["y_px"] + 0.5) * mpp).to_numpy(),
        tissue=np.ones(labels.shape, bool),
        tissue_mpp=mpp,
    )
    assert 0 < np.isnan(expected).sum() < len(expected) / 2
    np.testing.assert_allclose(table["density_per_mm2"], expected, rtol=2e-3)


def test_no_points_and_no_tissue() -> None:
    none = np.empty(0)
    assert local_density(none, none, tissue=np.ones((3, 3), bool), tissue_mpp=2).shape == (0,)
    for shape in ((0, 0), (3, 0), (3, 3)):
        density = local_density(
            np.array([1.0, 2]), np.ones(2), tissue=np.zeros(shape, bool), tissue_mpp=2
        )
        assert np.isnan(density).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_um": np.ones(3)}, r"one length, got \(2,\) and \(3,\)"),
        ({"y_um": np.array([1, math.nan])}, "must be finite"),
        ({"tissue": np.full((3, 3), 255, np.uint8)}, r"values in \[0, 1\]"),
        ({"tissue": np.full((3, 3), math.nan)}, r"values in \[0, 1\]"),
        ({"tissue": np.ones(3)}, "tissue must be 2-D"),
        ({"tissue_mpp": -1}, "tissue_mpp must be positive, got -1"),
        ({"radius_um": 0}, "radius_um must be positive, got 0"),
    ],
)
def test_unusable_points_or_tissue_are_refused(changes: dict[str, Any], message: str) -> None:
    arguments = {
        "x_um": np.ones(2),
        "y_um": np.ones(2),
        "tissue": np.ones((3, 3)),
        "tissue_mpp": 2.0,
    } | changes
    with pytest.raises(ValueError, match=message):
        local_density(**arguments)
