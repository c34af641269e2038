"""Tiles of outlines and counts: what is in them is what was measured, and where."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from morphomil.nuclei.outlines import trace_outlines, trace_rings
from morphomil.nuclei.rings import box_rings, take_rings
from morphomil.run import Run
from morphomil.viewer import SlideBrowser
from morphomil.viewer.nuclei import TYPES
from morphomil.viewer.tiles import TILE_PX, count_levels


class Tile(NamedTuple):
    labels: np.ndarray
    rings: list[np.ndarray]  # pixels of the tile
    types: np.ndarray


def decode(content: bytes) -> Tile:
    """Read by the table in `tiles`, without the code that writes it."""
    kind, n, m, types = struct.unpack_from("<4I", content)
    assert (kind, types) == (0, len(TYPES))
    labels, ends = (np.frombuffer(content, "<u4", n, 16 + 4 * n * part) for part in (0, 1))
    points = np.frombuffer(content, "<i2", 2 * m, 16 + 8 * n).reshape(-1, 2) / 16
    assert len(content) == 16 + 9 * n + 4 * m
    split = np.split(points, ends[:-1].astype(int)) if n else []
    return Tile(labels, split, np.frombuffer(content, "u1", n, 16 + 8 * n + 4 * m))


def area(ring: np.ndarray) -> float:
    x, y = ring.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def tiles_of(slides: SlideBrowser, level: int) -> dict[tuple[int, int], Tile]:
    side = TILE_PX * 2**level
    about = slides.describe(0, 0)
    columns, rows = -(-about["width"] // side), -(-about["height"] // side)
    return {
        (column, row): decode(slides.outlines(0, 0, level, column, row))
        for column in range(columns)
        for row in range(rows)
    }


def test_tiles_hold_every_nucleus_at_its_size_and_place(painted: Run) -> None:
    slides = SlideBrowser(painted)
    nuclei = painted.nuclei("plain").set_index("label")
    mpp = slides.describe(0, 0)["mpp"]
    seen = set()
    for (column, row), tile in tiles_of(slides, 0).items():
        for label, ring, code in zip(tile.labels.tolist(), tile.rings, tile.types, strict=True):
            own = nuclei.loc[label]
            assert area(ring) * mpp**2 == pytest.approx(own["area_um2"], rel=1e-3)
            center = ring.mean(axis=0) + np.multiply(TILE_PX, (column, row))
            assert np.hypot(*(center - [own["x_px"], own["y_px"]])) < 2
            assert TYPES[code] == own["type"]
            low, high = ring.min(axis=0), ring.max(axis=0)
            assert (low <= TILE_PX).all() and (high >= 0).all()
            seen.add(label)
    assert seen == set(nuclei.index)


def test_far_tiles_have_fewer_vertices_of_about_the_same_shapes(painted: Run) -> None:
    slides = SlideBrowser(painted)
    near, far = tiles_of(slides, 0), tiles_of(slides, 2)
    areas = {
        label: area(ring)
        for tile in near.values()
        for label, ring in zip(tile.labels.tolist(), tile.rings, strict=True)
    }
    (tile,) = far.values()
    assert set(tile.labels.tolist()) == set(areas)
    ratio = [
        16 * area(ring) / areas[label]
        for label, ring in zip(tile.labels.tolist(), tile.rings, strict=True)
    ]
    assert np.median(ratio) == pytest.approx(1, abs=0.1)
    vertices = [sum(map(len, one.rings)) for one in near.values()]
    assert sum(map(len, tile.rings)) < 0.7 * sum(vertices)


def test_values_follow_the_order_of_their_tile(painted: Run) -> None:
    slides = SlideBrowser(painted)
    nuclei = painted.nuclei("plain").set_index("label")
    tile = decode(slides.outlines(0, 0, 0, 0, 0))
    codes = np.frombuffer(slides.values(0, 0, 0, 0, 0, 0), "u1")
    low, high = slides.cohort.nuclei.limits("area_um2")  # type: ignore[misc]
    share = (nuclei.loc[tile.labels, "area_um2"].to_numpy() - low) / (high - low)
    np.testing.assert_allclose(codes / 254, share.clip(0, 1), atol=0.003)
    with pytest.raises(LookupError):
        slides.values(0, 0, 99, 0, 0, 0)


def test_where_they_are_too_many_nuclei_are_counted(painted: Run) -> None:
    slides = SlideBrowser(painted)
    nuclei = slides._on_image(0, 0)
    content = slides.outlines(0, 0, 9, 0, 0)
    kind, _, cells, types = struct.unpack_from("<4I", content)
    counts = np.frombuffer(content, "<u2", offset=16).reshape(types, cells, cells)
    assert kind == 1
    assert counts.sum(axis=(1, 2)).tolist() == np.bincount(nuclei.type, minlength=5).tolist()
    assert count_levels(nuclei, mpp=0.25) == 5
    assert count_levels(nuclei, mpp=40.0) == 1


def test_levels_end_where_a_tile_is_too_full(painted: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("morphomil.viewer.tiles.MOST_OUTLINES", 100)
    nuclei = SlideBrowser(painted)._on_image(0, 0)
    assert count_levels(nuclei, mpp=0.25) == 1


def test_tiles_make_up_the_slide(painted: Run) -> None:
    slides = SlideBrowser(painted)
    whole = np.asarray(Image.open(painted.cohort.slides[0].images[0].path).convert("RGB"))
    top = int(np.ceil(np.log2(max(whole.shape[:2]))))
    for column, row in ((0, 0), (2, 1)):
        tile = np.asarray(Image.open(io.BytesIO(slides.tile(0, 0, top, column, row))))
        own = whole[row * 256 : (row + 1) * 256, column * 256 : (column + 1) * 256]
        assert tile.shape == own.shape
        assert np.abs(tile.astype(float) - own).mean() < 8
    with pytest.raises(LookupError):
        slides.tile(0, 0, top, 500, 0)


def test_images_of_a_slide_keep_their_nuclei_apart(
    tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    run = make_run(tmp_path / "run", ("s",), images=2)
    slides = SlideBrowser(run)
    nuclei = run.nuclei("s")
    for image in (0, 1):
        own = slides._on_image(0, image)
        assert own.label.tolist() == sorted(nuclei.loc[nuclei["image"] == image, "label"])
        assert len(np.unique(slides._rings(0, image).row)) == len(own.label)


def test_rings_of_an_image_are_the_traced_outlines(draw_nuclei: Callable[..., np.ndarray]) -> None:
    labels = draw_nuclei((200, 200))
    labels[5:9, 5:9] = labels.max() + 1
    labels[6, 6] = 0  # a hole is no ring of its own
    points, ends, owners = trace_rings(labels)
    begin = 0
    expected = {o.label: o.polygons for o in trace_outlines(labels)}
    assert sorted(owners.tolist()) == sorted(expected)
    for end, label in zip(ends.tolist(), owners.tolist(), strict=True):
        ((outer, *_),) = expected[label]
        assert area(points[begin:end]) == pytest.approx(area(outer[:-1]))
        begin = end
    empty, none, _ = trace_rings(np.zeros((9, 9), np.int32))
    assert len(empty) == len(none) == 0


def test_taken_rings_keep_their_shape_and_three_vertices() -> None:
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    circles = [radius * np.stack([np.cos(angle), np.sin(angle)], 1) for radius in (50, 0.1, 9)]
    points, ends = np.concatenate(circles), np.array([64, 128, 192])
    vertices, stops = take_rings(points, ends, np.array([2, 0, 1]), 1.0)
    parts = np.split(vertices, stops[:-1])
    assert [len(part) for part in parts][2] == 3
    assert area(parts[1]) == pytest.approx(np.pi * 50**2, rel=0.01)
    assert area(parts[0]) == pytest.approx(np.pi * 9**2, rel=0.05)
    same, _ = take_rings(points, ends, np.arange(3), 0.0)
    np.testing.assert_allclose(same, points, atol=1e-5)
    boxes = box_rings(points, ends)
    np.testing.assert_allclose(boxes[0], [-50, -50, 50, 50], atol=1e-4)
