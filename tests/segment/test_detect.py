"""Blocks, candidates, suppression and rendering, with a network that knows the answer."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.draw import disk, ellipse
from skimage.measure import label

from morphomil.errors import SlideError
from morphomil.segment import blocks, detect, outlines
from morphomil.segment.agreement import agreement
from morphomil.segment.blocks import MARGIN_PX, Block, array_reader, block_rows
from morphomil.segment.contours import polygon_outlines
from morphomil.segment.detect import Found, find_candidates, find_nuclei, settled_rows
from morphomil.segment.model import Segmenter, TypeCalibration
from morphomil.segment.outlines import Outlines, StoredOutlines, join_outlines
from morphomil.segment.polygons import (
    Polygons,
    draw,
    join,
    keep_largest_parts,
    render,
    render_whole,
    suppress,
)


def oracle(labels: np.ndarray) -> tuple[Segmenter, np.ndarray]:
    """A segmenter that reads nuclei off an image that holds their labels, and that image."""

    def network(block: np.ndarray, margin: int) -> tuple[np.ndarray, np.ndarray]:
        from stardist.geometry import star_dist
        from stardist.utils import edt_prob

        values = np.round(block[0] * 255).astype(np.int32)
        found = values[..., 0] + 256 * values[..., 1]
        inner = slice(margin // 2, -(margin // 2))
        probability, distance = edt_prob(found[::2, ::2]), star_dist(found, 32, grid=(2, 2))
        return probability[None, inner, inner, None], distance[None, inner, inner]

    segmenter = Segmenter(
        sha256="",
        network=network,
        grid=2,
        multiple=16,
        prob_threshold=0.5,
        nms_threshold=0.3,
        resolutions_mpp=(),
        normalize="unit",
    )
    image = np.stack([labels % 256, labels // 256, labels * 0 + 7], axis=-1).astype(np.uint8)
    return segmenter, image


def scattered_ellipses(shape: tuple[int, int], count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    for number in range(1, count + 1):
        center, radii = rng.uniform((0, 0), shape), rng.uniform(7, 14, 2)
        grown = ellipse(*center, *(radii + 2), shape, rotation=(turn := rng.uniform(-3, 3)))
        if not labels[grown].any():
            rows, columns = ellipse(*center, *radii, shape, rotation=turn)
            labels[rows, columns] = number
    return labels


def labels_of(nuclei: Outlines, shape: tuple[int, int]) -> np.ndarray:
    return render_whole(nuclei, shape=shape, min_px=10)


def test_polygons_are_filled_as_scikit_image_fills_them() -> None:
    """Also beyond the edges, with corners on pixel centers, and where they cover each other."""
    from skimage.draw import polygon

    rng = np.random.default_rng(0)
    points = rng.uniform(-10, 270, (300, 2)).astype(np.float32).round(1)
    polygons = Polygons(
        points, rng.random(300, np.float32), rng.uniform(3, 20, (300, 32)).astype(np.float32)
    )
    numbers, outlines = np.arange(1, 301), polygons.outlines().astype(np.float32)
    expected = np.zeros((256, 260), np.int32)
    for i in np.argsort(polygons.prob, kind="stable"):
        expected[polygon(outlines[i, :, 0], outlines[i, :, 1], expected.shape)] = numbers[i]
    drawn = draw(polygon_outlines(polygons), numbers, corner=(0, 0), shape=expected.shape)
    np.testing.assert_array_equal(drawn, expected)


def test_blocks_are_read_one_at_a_time_and_errors_come_through() -> None:
    """The network runs ahead on several threads; a reader need not know."""
    segmenter, image = oracle(scattered_ellipses((900, 900), 60, seed=2))
    read, busy = array_reader(image), []

    def one_at_a_time(*frame: int) -> np.ndarray:
        busy.append(frame)
        assert len(busy) == 1
        time.sleep(0.01)
        pixels = read(*frame)
        busy.pop()
        return pixels

    rows = [[Block(top, left, 256, 256) for left in (0, 256, 512)] for top in (0, 256, 512)]
    assert sum(map(len, find_nuclei(one_at_a_time, rows, mpp=0.5, segmenter=segmenter))) > 20

    def broken(*frame: int) -> np.ndarray:
        raise SlideError("tile 7 can't be read")

    with pytest.raises(SlideError, match="tile 7"):
        list(find_nuclei(broken, rows, mpp=0.5, segmenter=segmenter))


def test_every_nucleus_is_found_once_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = scattered_ellipses((700, 900), 900, seed=1)
    segmenter, image = oracle(truth)
    results = []
    for side in (1024, 256, 128):
        monkeypatch.setattr(blocks, "BLOCK_PX", side)
        rows = block_rows(700, 900)
        found = list(find_nuclei(array_reader(image), rows, mpp=0.5, segmenter=segmenter))
        results.append(labels_of(join_outlines(found), truth.shape))
    for labels in results:
        score = agreement(truth, labels)
        assert score.found == score.annotated
        assert score.dq == 1
        assert score.pq > 0.93
    pieces = agreement(results[0], results[2])
    assert pieces.pq > 0.999


def test_outlines_are_the_same_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nuclei across the seams are drawn from the maps of both sides, held or put away."""
    truth = scattered_ellipses((300, 500), 300, seed=1)
    plain, image = oracle(truth)

    def network(block: np.ndarray, margin: int) -> tuple[np.ndarray, ...]:
        inside = (np.round(block[0, ..., :2] * 255).any(axis=-1)).astype(np.float32)
        logit = 8 * (ndimage.gaussian_filter(inside, 1.5, truncate=4) - 0.5)
        return *plain.network(block, margin), logit[None, margin:-margin, margin:-margin]

    segmenter = replace(plain, network=network, maps=True)
    results = []
    for side, held in ((1024, 2**23), (256, 0), (128, 2**16), (64, 2**23)):
        monkeypatch.setattr(blocks, "BLOCK_PX", side)
        monkeypatch.setattr(detect, "ROW_BYTES", held)
        rows = block_rows(300, 500)
        found = list(find_nuclei(array_reader(image), rows, mpp=0.5, segmenter=segmenter))
        nuclei = join_outlines(found)
        parts = np.split(nuclei.vertices, nuclei.ends[:-1])
        results.append({tuple(p): v for p, v in zip(nuclei.points.tolist(), parts, strict=True)})
    whole = results[0]
    assert len(whole) > 100
    for cut in results[1:]:
        shared = whole.keys() & cut.keys()
        assert len(shared) > 0.98 * len(whole)  # of equally probable candidates one is as good
        for point in shared:
            np.testing.assert_allclose(cut[point], whole[point], atol=1e-3)


def test_types_are_those_at_the_centers_whatever_the_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth = scattered_ellipses((300, 500), 300, seed=1)
    plain, image = oracle(truth)

    def network(block: np.ndarray, margin: int) -> tuple[np.ndarray, ...]:
        inner = slice(margin // 4, -(margin // 4))
        labels = np.round(block[0, 2::4, 2::4, :2] * 255).astype(int) @ [1, 256]
        logits = 8.0 * np.eye(4)[labels % 4][None, inner, inner]
        return *plain.network(block, margin), logits

    segmenter = replace(plain, network=network, types=TypeCalibration(temperature=2.0))
    for side, held in ((1024, 2**23), (128, 0), (64, 2**23)):
        monkeypatch.setattr(blocks, "BLOCK_PX", side)
        monkeypatch.setattr(detect, "ROW_BYTES", held)
        rows = block_rows(300, 500)
        found = list(find_nuclei(array_reader(image), rows, mpp=0.5, segmenter=segmenter))
        nuclei = join_outlines(found)
        assert nuclei.types is not None
        own = truth[tuple(nuclei.points.astype(int).T)]
        np.testing.assert_array_equal(nuclei.types.argmax(axis=1), own % 4)
        np.testing.assert_allclose(nuclei.types.max(axis=1), 1 / (1 + 3 * np.exp(-4)), rtol=1e-5)
        some = nuclei[nuclei.prob > 0.9]
        np.testing.assert_array_equal(some.types, nuclei.types[nuclei.prob > 0.9])


def test_blocks_cover_the_image_once() -> None:
    cover = np.zeros((2500, 1500), int)
    for block in (b for row in block_rows(2500, 1500) for b in row):
        cover[block.row : block.row + block.height, block.column : block.column + block.width] += 1
    assert (cover == 1).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**20))
def test_blocks_are_trimmed_to_what_is_wanted(rows: int, columns: int, seed: int) -> None:
    wanted = np.random.default_rng(seed).random((rows, columns)) < 0.3
    covered = np.zeros((rows, columns), int)
    for block in (
        b for row in block_rows(rows * 256 - 30, columns * 256 - 30, wanted=wanted) for b in row
    ):
        assert block.row % 256 == block.column % 256 == 0
        cells = -(-block.height // 256), -(-block.width // 256)
        assert cells in {(1, 1), (2, 2), (2, 3)}, "each size is a network of its own in memory"
        covered[
            block.row // 256 : -(-(block.row + block.height) // 256),
            block.column // 256 : -(-(block.column + block.width) // 256),
        ] += 1
    assert (covered <= 1).all()
    assert (covered[wanted] == 1).all()


def test_long_rows_take_one_network_less() -> None:
    wanted = np.random.default_rng(2).random((9, 131)) < 0.8
    for columns, wide in ((64, True), (65, False), (131, False)):
        rows = block_rows(9 * 256, columns * 256, wanted=wanted[:, :columns])
        assert any(block.width == 768 for row in rows for block in row) == wide
        covered = np.zeros((9, columns), int)
        for block in (block for row in rows for block in row):
            assert block.width <= block.height or wide
            cells = (block.row // 256, block.column // 256)
            covered[
                cells[0] : cells[0] + block.height // 256, cells[1] : cells[1] + block.width // 256
            ] += 1
        assert (covered[wanted[:, :columns]] == 1).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(0, 2**14 - 1))
def test_no_other_widths_of_blocks_cost_less(columns: int, flags: int) -> None:
    """Against every way to cut a row into columns of single cells and blocks of two rows: 4.3 ms
    per cell with context, 16.7 ms per cell of its own (measured)."""
    wanted = np.array([flags >> bit & 1 for bit in range(2 * columns)], bool).reshape(2, columns)

    context = 2 * MARGIN_PX / 256

    def cost(height: int, width: int) -> float:
        return (height + context) * (width + context) + 4 * height * width

    def cost_of_cuts(ends: tuple[int, ...]) -> float:
        total = 0.0
        for start, end in pairwise((0, *ends, columns)):
            if end - start == 1:
                total += wanted[:, start].sum() * cost(1, 1)
            else:
                total += cost(2, end - start) if end - start <= 3 else np.inf
        return total

    cuts = chain.from_iterable(combinations(range(1, columns), number) for number in range(columns))
    (blocks,) = block_rows(512, columns * 256, wanted=wanted)
    assert sum(cost(block.height // 256, block.width // 256) for block in blocks) == min(
        map(cost_of_cuts, cuts)
    )


def polygon(row: float, column: float, radius: float, prob: float) -> Polygons:
    return Polygons(
        np.float32([[row, column]]), np.float32([prob]), np.full((1, 32), radius, np.float32)
    )


def test_the_more_probable_of_two_overlapping_candidates_stays() -> None:
    kept = suppress(
        join([polygon(20, 20, 8, 0.6), polygon(22, 20, 8, 0.9), polygon(60, 60, 8, 0.5)], rays=32),
        threshold=0.3,
    )
    assert sorted(kept.prob.tolist()) == pytest.approx([0.5, 0.9])


@pytest.mark.parametrize("other", [(1, 1), (1, 0), (0, 1), (1, -1)])
def test_blocks_wait_for_those_below_that_may_reach_them(
    monkeypatch: pytest.MonkeyPatch, other: tuple[int, int]
) -> None:
    """A candidate yields to a more probable one of any block that comes later."""
    rows = [[Block(512 * y, 512 * x, 512, 512) for x in range(3)] for y in range(3)]
    down, right = other
    weak = {(1, 1): 512 + np.array([509 if down else 256, {1: 509, 0: 256, -1: 2}[right]])}
    strong = {(1 + down, 1 + right): weak[1, 1] + 6 * np.array(other)}
    found = []
    for row in rows:
        for block in row:
            here = block.row // 512, block.column // 512
            polygons = [polygon(*weak[here], 10, 0.6)] if here in weak else []
            polygons += [polygon(*strong[here], 10, 0.9)] if here in strong else []
            found.append(Found(block, join(polygons, rays=32)))
    monkeypatch.setattr(detect, "_candidates_ahead", lambda *_, **__: (one for one in found))
    segmenter, image = oracle(np.zeros((1, 1), int))
    settled = settled_rows(array_reader(image), rows, mpp=0.5, segmenter=segmenter)
    kept = [part for row in settled for part in row if len(part.polygons)]
    assert [(part.block.row // 512, part.block.column // 512) for part in kept] == list(strong)


def test_rendered_discs_have_the_area_of_discs() -> None:
    labels = labels_of(polygon_outlines(polygon(30, 30, 12, 0.9)), (64, 64))
    rows, _ = disk((30, 30), 12)
    assert np.count_nonzero(labels) == pytest.approx(len(rows), rel=0.03)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("side", [17, 64, 200])
def test_pieces_leave_no_trace(side: int, stored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlines, "READ_AT_ONCE", 100)
    rng = np.random.default_rng(3)
    many = polygon_outlines(
        Polygons(
            rng.uniform(0, 200, (80, 2)).astype(np.float32),
            rng.random(80).astype(np.float32),
            rng.uniform(4, 12, (80, 32)).astype(np.float32),
        )
    )
    nuclei = (
        StoredOutlines([many[np.arange(30)], many[np.arange(0)], many[np.arange(30, 80)]])
        if stored
        else many
    )
    labels = np.zeros((200, 230), np.int32)
    for top, left, piece in render(nuclei, shape=labels.shape, min_px=20, side=side):
        assert not labels[top : top + side, left : left + 2 * side].any()
        labels[top : top + piece.shape[0], left : left + piece.shape[1]] = piece
    np.testing.assert_array_equal(labels, render_whole(many, shape=labels.shape, min_px=20))
    assert labels.max() > 60


def test_stored_outlines_are_what_was_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also some of them, read a few at a time, and what was said of them."""
    monkeypatch.setattr(outlines, "READ_AT_ONCE", 60)
    rng = np.random.default_rng(3)
    parts = [
        replace(
            polygon_outlines(
                Polygons(
                    rng.uniform(0, 200, (count, 2)).astype(np.float32),
                    rng.random(count).astype(np.float32),
                    rng.uniform(4, 12, (count, 32)).astype(np.float32),
                )
            ),
            types=rng.random((count, 4)).astype(np.float32),
        )
        for count in (5, 0, 9)
    ]
    whole, stored = join_outlines(parts), StoredOutlines(parts)
    some = rng.random(14) < 0.4
    for expected, got in ((whole, stored), (whole[some], stored[some])):
        assert len(got) == len(expected)
        np.testing.assert_array_equal(got.areas(), expected.areas())
        np.testing.assert_array_equal(got.boxes(), expected.boxes())
        for name, value in vars(got.loaded()).items():
            np.testing.assert_array_equal(value, getattr(expected, name), err_msg=name)


def test_vertices_that_are_stored_are_held_by_nothing() -> None:
    """While further ones come, of which there may be a slide's."""
    seen: list[weakref.ref[np.ndarray]] = []

    def parts() -> Iterator[Outlines]:
        for row in range(4):
            part = polygon_outlines(polygon(row, 20, 8, 0.6))
            vertices = part.vertices.copy()
            seen.append(weakref.ref(vertices))
            yield replace(part, vertices=vertices)
            del part, vertices
            assert [held() for held in seen[:-1]] == [None] * row

    assert len(StoredOutlines(parts())) == 4


def test_only_the_largest_part_of_a_cut_nucleus_stays() -> None:
    labels = np.zeros((10, 12), np.int32)
    labels[2:5, 1:11] = 5
    labels[2:5, 4] = 9
    kept = keep_largest_parts(labels, min_px=3)
    assert np.count_nonzero(kept == 5) == 18
    assert not (kept[:, :4] == 5).any()
    assert np.count_nonzero(kept == 9) == 3
    assert not (keep_largest_parts(labels, min_px=4) == 9).any()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(1, 4),
    st.integers(0, 9),
    st.integers(0, 2**20),
)
def test_largest_parts_are_those_of_scikit_image(
    height: int, width: int, count: int, least: int, seed: int
) -> None:
    labels = (
        np.random.default_rng(seed).integers(0, count + 1, (height, width)).astype(np.int32) * 17
    )
    expected = np.zeros_like(labels)
    for number in np.unique(labels[labels > 0]):
        parts = label(labels == number, connectivity=1)
        sizes = np.bincount(parts.ravel())[1:]
        if sizes.max() >= least:
            expected[parts == 1 + sizes.argmax()] = number
    np.testing.assert_array_equal(keep_largest_parts(labels, min_px=least), expected)


def test_reader_mirrors_beyond_the_edges() -> None:
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    block = array_reader(image)(-3, -2, 10, 9)
    np.testing.assert_array_equal(block, np.pad(image, ((3, 3), (2, 2), (0, 0)), mode="symmetric"))


def test_a_constant_block_has_no_nuclei_and_costs_no_network() -> None:
    def network(block: np.ndarray, margin: int) -> tuple[np.ndarray, np.ndarray]:
        raise AssertionError("the network ran on a constant block")

    segmenter, _ = oracle(np.zeros((4, 4), np.int32))
    image = np.full((300, 300, 3), 255, np.uint8)
    blank = Segmenter(**(vars(segmenter) | {"network": network}))
    rows = block_rows(300, 300)
    assert not any(map(len, find_nuclei(array_reader(image), rows, mpp=0.5, segmenter=blank)))


def test_nuclei_nearly_everywhere_are_refused() -> None:
    segmenter, image = oracle(scattered_ellipses((256, 256), 60, seed=2))
    wild = Segmenter(**(vars(segmenter) | {"prob_threshold": -1.0}))
    with pytest.raises(SlideError, match="nuclei on 100% of a block"):
        find_candidates(array_reader(image), Block(0, 0, 256, 256), mpp=0.5, segmenter=wild)
