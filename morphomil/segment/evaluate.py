"""How good a segmenter is: agreement with annotated images, bias of every feature, thresholds that
suit it best."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.errors import SlideError
from morphomil.nuclei.measure import measure_nuclei
from morphomil.nuclei.polygons import measure_outlines
from morphomil.nuclei.registry import FEATURES
from morphomil.segment import MIN_AREA_UM2, find_measured
from morphomil.segment.agreement import IOU_LEVELS, agreement, overlaps
from morphomil.segment.blocks import array_reader, block_rows
from morphomil.segment.contours import polygon_outlines
from morphomil.segment.detect import find_candidates, outline_rows, settled_rows
from morphomil.segment.level_lines import label_outlines
from morphomil.segment.outlines import join_outlines
from morphomil.segment.polygons import join, render_whole, suppress
from morphomil.segment.reliability import reliability_table
from morphomil.stats.axial import axial_difference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from morphomil.segment.annotated import AnnotatedImage
    from morphomil.segment.model import Segmenter
    from morphomil.segment.outlines import Outlines

TILE_PX = 256
"""Examples are tiles whose side is this many pixels."""
MIN_TILE_NUCLEI = 5
"""Tiles with fewer annotated nuclei are no examples of anything."""
BOOTSTRAPS = 2000
"""Intervals rest on so many resamples of the images."""


@dataclass(frozen=True)
class Example:
    """A tile of an annotated image with both label images and its panoptic quality."""

    name: str
    mpp: float
    pq: float
    rgb: NDArray[np.uint8]
    annotated: NDArray[np.int32]
    found: NDArray[np.int32]


@dataclass(frozen=True)
class Evaluation:
    """Results of `evaluate_segmenter`.

    `images` has a row per image and resolution; `summary` their means by group and resolution, with
    intervals; `features` the bias of each feature on matched nuclei; `means` of each image, and
    `reliability` what they say (`reliability_table`); `worst` and `best` are tiles by panoptic
    quality.
    """

    images: pd.DataFrame
    summary: pd.DataFrame
    features: pd.DataFrame
    means: pd.DataFrame
    reliability: pd.DataFrame
    worst: list[Example]
    best: list[Example]


def evaluate_segmenter(
    images: Sequence[AnnotatedImage],
    segmenter: Segmenter,
    *,
    halve: bool = True,
    examples: int = 4,
    seed: int = 0,
    on_image: Callable[[str], None] | None = None,
) -> Evaluation:
    """Compare what a segmenter finds with annotated nuclei.

    Intervals are percentile bootstraps over images, the unit that a new user's image is like.
    Features are compared on pairs of nuclei with IoU above 0.5 that don't touch the image's edge;
    for orientation pairs where both sides have one, by the axial difference. Means of images are
    those of all nuclei that don't touch the edge. A segmenter that draws outlines is measured by
    them, and the finest labels by their level lines (`label_outlines`); else both sides are
    measured on the image's pixels.

    Args:
        images: annotated images, none of which the segmenter was trained on.
        segmenter: of `model.load_segmenter`.
        halve: evaluate fine images at half their resolution too.
        examples: number of worst and of best tiles to keep.
        seed: of the bootstrap.
        on_image: hears the name of each image that is done.
    """
    rows: list[dict[str, Any]] = []
    pairs: list[pd.DataFrame] = []
    means: list[pd.DataFrame] = []
    tiles: list[Example] = []
    for whole in images:
        for image in whole.levels() if halve else [whole]:
            found, shapes = find_measured(image.rgb, mpp=image.mpp, segmenter=segmenter)
            key: dict[str, Any] = {"image": image.name, "group": image.group, "mpp": image.mpp}
            rows.append(key | _scores(image.labels, found))
            sides = _annotated_shapes(image, exact=segmenter.maps), shapes
            whole_ones = [
                shape.drop(rim, errors="ignore")
                for shape, rim in zip(sides, _on_the_rim(image.labels, found), strict=True)
            ]
            pairs.append(_matched_features(image.labels, found, *whole_ones).assign(**key))
            means.append(_image_means(*whole_ones).assign(**key))
            tiles = _extremes([*tiles, *_tiles(image, found)], examples)
        if on_image is not None:
            on_image(whole.name)
    table, matched = pd.DataFrame(rows), pd.concat(pairs)
    by_image = pd.concat([part for part in means if len(part)] or means[:1])
    rng = np.random.default_rng(seed)
    best = sorted(tiles, key=lambda tile: -tile.pq)[:examples]
    return Evaluation(
        table,
        _summary(table, rng),
        _feature_bias(matched, sorted({(row["group"], row["mpp"]) for row in rows}), rng),
        by_image,
        reliability_table(by_image, matched, seed=seed),
        tiles[: min(examples, len(tiles))],
        best,
    )


def _scores(annotated: NDArray[np.int32], found: NDArray[np.int32]) -> dict[str, float]:
    score = agreement(annotated, found)
    figures: dict[str, float] = {
        name: getattr(score, name) for name in ("pq", "dq", "sq", "aji", "dice")
    }
    for name in ("f1", "ap"):
        figures |= {
            f"{name}_{level:.1f}": value
            for level, value in zip(IOU_LEVELS, getattr(score, name), strict=True)
        }
    ratio = score.found / score.annotated if score.annotated else np.nan
    return figures | {"annotated": score.annotated, "found": score.found, "count_ratio": ratio}


def _summary(images: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Mean, low, high of each score over the images of a group and resolution."""
    scores = [
        name
        for name in images.columns
        if name not in ("image", "group", "mpp", "annotated", "found")
    ]
    rows = []
    for (group, mpp), members in images.groupby(["group", "mpp"]):
        for name in scores:
            values = members[name].to_numpy(dtype=float)
            mean, interval = members[name].mean(), _interval(values, rng)
            rows.append((group, mpp, len(members), name, mean, *interval))
    return pd.DataFrame(rows, columns=["group", "mpp", "images", "score", "mean", "low", "high"])


def _interval(values: NDArray[np.float64], rng: np.random.Generator) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean; NaN with fewer than 3 values."""
    values = values[np.isfinite(values)]
    if len(values) < 3:
        return np.nan, np.nan
    means = values[rng.integers(len(values), size=(BOOTSTRAPS, len(values)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _annotated_shapes(image: AnnotatedImage, *, exact: bool) -> pd.DataFrame:
    """The features of shape of the annotated nuclei of `MIN_AREA_UM2` or more, by label: of the
    level lines of the finest labels, or of the pixels."""
    if exact:
        finer = image.finest.shape[0] / image.labels.shape[0]
        numbers, vertices, ends = label_outlines(image.finest)
        shapes = measure_outlines(vertices, ends, mpp=image.mpp / finer).set_index(numbers)
    else:
        shapes = measure_nuclei(image.labels, mpp=image.mpp).set_index("label")
    return shapes[shapes["area_um2"] >= MIN_AREA_UM2]


def _on_the_rim(*images: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """The labels that touch the edge of each image."""
    edges = [[x[0], x[-1], x[:, 0], x[:, -1]] for x in images]
    return [np.unique(np.concatenate(edge)) for edge in edges]


def _shape_features(*tables: pd.DataFrame) -> list[str]:
    return [name for name in FEATURES if all(name in table for table in tables)]


def _matched_features(
    annotated: NDArray[np.int32],
    found: NDArray[np.int32],
    truth: pd.DataFrame,
    shapes: pd.DataFrame,
) -> pd.DataFrame:
    """Each feature of both nuclei of every matched pair, `FEATURE` and `FEATURE_found`."""
    pairs = overlaps(annotated, found)
    matched = (
        (pairs.iou > 0.5)
        & np.isin(pairs.annotated, truth.index)
        & np.isin(pairs.found, shapes.index)
    )
    names = _shape_features(truth, shapes)
    sides = truth.loc[pairs.annotated[matched], names], shapes.loc[pairs.found[matched], names]
    return pd.concat(
        [side.reset_index(drop=True) for side in (sides[0], sides[1].add_suffix("_found"))], axis=1
    )


MIN_NUCLEI = 5
"""Images with fewer nuclei, annotated or found, have no mean to compare."""


def _image_means(truth: pd.DataFrame, shapes: pd.DataFrame) -> pd.DataFrame:
    """`feature`, `annotated`, `found`: the mean of each feature but angles and those of the
    neighborhood."""
    if min(len(truth), len(shapes)) < MIN_NUCLEI:
        return pd.DataFrame(columns=["feature", "annotated", "found"])
    names = [
        name
        for name in _shape_features(truth, shapes)
        if not (FEATURES[name].axial or FEATURES[name].needs_neighbors)
    ]
    means = [table[names].mean().to_numpy(dtype=float) for table in (truth, shapes)]
    return pd.DataFrame({"feature": names, "annotated": means[0], "found": means[1]})


def _feature_bias(
    pairs: pd.DataFrame, sets: Sequence[tuple[str, float]], rng: np.random.Generator
) -> pd.DataFrame:
    """One row per group, resolution and feature.

    `bias` is the mean difference found - annotated (mean of the images' means), `low` and `high`
    its interval over images, `relative_bias` its share of the annotated mean, `agree_low` and
    `agree_high` the 2.5th and 97.5th percentile of the differences (limits of agreement without
    assuming a normal distribution), `spearman` the rank correlation of the pairs (for orientation,
    of which ranks mean nothing: the mean cosine of twice the difference).
    """
    rows = []
    for group, mpp in sets:
        matched = pairs[(pairs["group"] == group) & (pairs["mpp"] == mpp)]
        for name, feature in FEATURES.items():
            if name not in matched:
                continue
            known = matched[[name, f"{name}_found", "image"]].dropna()
            annotated, found = known[name].to_numpy(), known[f"{name}_found"].to_numpy()
            difference = axial_difference(found, annotated) if feature.axial else found - annotated
            by_image = pd.Series(difference).groupby(known["image"].to_numpy()).mean().to_numpy()
            bias = float(by_image.mean()) if len(by_image) else np.nan
            mean = float(annotated.mean()) if len(annotated) else np.nan
            if feature.axial:
                likeness = (
                    float(np.cos(2 * np.radians(difference)).mean()) if len(known) else np.nan
                )
            else:
                likeness = float(known[name].corr(known[f"{name}_found"], method="spearman"))
            limits = np.quantile(difference, (0.025, 0.975)) if len(known) else (np.nan, np.nan)
            rows.append(
                {
                    "group": group,
                    "mpp": mpp,
                    "feature": name,
                    "pairs": len(known),
                    "annotated_mean": np.nan if feature.axial else mean,
                    "bias": bias,
                    **dict(zip(("low", "high"), _interval(by_image, rng), strict=True)),
                    "relative_bias": np.nan if feature.axial else bias / mean,
                    "agree_low": float(limits[0]),
                    "agree_high": float(limits[1]),
                    "spearman": likeness,
                }
            )
    return pd.DataFrame(rows)


def _tiles(image: AnnotatedImage, found: NDArray[np.int32]) -> list[Example]:
    tiles = []
    height, width = image.labels.shape
    for top in range(0, height - TILE_PX + 1, TILE_PX):
        for left in range(0, width - TILE_PX + 1, TILE_PX):
            frame = np.s_[top : top + TILE_PX, left : left + TILE_PX]
            score = agreement(image.labels[frame], found[frame])
            if score.annotated >= MIN_TILE_NUCLEI:
                name = f"{Path(image.name).stem} ({left}, {top})"
                tiles.append(
                    Example(
                        name,
                        image.mpp,
                        score.pq,
                        image.rgb[frame],
                        image.labels[frame],
                        found[frame].copy(),
                    )
                )
    return tiles


def _extremes(tiles: list[Example], count: int) -> list[Example]:
    """The worst and the best of these, by panoptic quality."""
    ranked = sorted(tiles, key=lambda tile: tile.pq)
    return ranked if len(ranked) <= 2 * count else [*ranked[:count], *ranked[-count:]]


PROB_GRID = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
NMS_GRID = (0.1, 0.2, 0.3, 0.4, 0.5)
"""All pairs of these thresholds of probability and of overlap are tried."""
INDIFFERENT = 0.001
"""Thresholds whose scores differ by less than this are taken to be equally good."""
EDGE_GRID = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
"""These logits of an edge are tried."""


def tune_thresholds(
    validation: Sequence[AnnotatedImage], segmenter: Segmenter
) -> tuple[dict[str, float], pd.DataFrame]:
    """The thresholds of best mean of PQ and AJI on the validation images, each at its own and at
    half resolution.

    Of pairs that differ by less than `INDIFFERENT` the one with the highest probability is taken: a
    few images don't tell them apart, and a doubtful nucleus does more harm to morphometry than a
    missed one.

    Returns:
        {"prob", "nms"}, and the table of all pairs: `prob`, `nms`, `group`, `mpp`, `pq`, `aji`,
        `dq`, `count_ratio`, means over images. Groups and resolutions weigh the same.
    """
    low = replace(segmenter, prob_threshold=min(PROB_GRID), judges=False)
    rows = []
    for image in (level for whole in validation for level in whole.levels()):
        shape = (image.labels.shape[0], image.labels.shape[1])
        blocks = [block for row in block_rows(*shape) for block in row]
        try:
            found = [
                find_candidates(
                    array_reader(image.rgb), block, mpp=image.mpp, segmenter=low
                ).polygons
                for block in blocks
            ]
        except (
            SlideError
        ):  # nuclei nearly everywhere: a network that has learned nothing agrees with nothing
            found = []
        candidates = join(found, rays=0)
        for prob in PROB_GRID:
            likely = candidates[candidates.prob > prob]
            for nms in NMS_GRID:
                nuclei = suppress(likely, threshold=nms)
                labels = render_whole(
                    polygon_outlines(nuclei), shape=shape, min_px=MIN_AREA_UM2 / image.mpp**2
                )
                score = _scores(image.labels, labels)
                key = {"prob": prob, "nms": nms, "group": image.group, "mpp": image.mpp}
                rows.append(
                    key | {name: score[name] for name in ("pq", "aji", "dq", "count_ratio")}
                )
    table = pd.DataFrame(rows).groupby(["prob", "nms", "group", "mpp"], as_index=False).mean()
    mean = table.groupby(["prob", "nms"], as_index=False)[["pq", "aji"]].mean()
    mean["both"] = (mean["pq"] + mean["aji"]) / 2
    best = (
        mean[mean["both"] >= mean["both"].max() - INDIFFERENT]
        .sort_values(["prob", "both"])
        .iloc[-1]
    )
    return {"prob": float(best["prob"]), "nms": float(best["nms"])}, table


def tune_edge(
    validation: Sequence[AnnotatedImage], segmenter: Segmenter
) -> tuple[tuple[tuple[float, float], ...], pd.DataFrame]:
    """The logit of the outlines, at each resolution of the segmenter, at which nuclei of the
    validation images are as large as annotated.

    Areas are those of the outlines, and the pixels of the finest labels that there are; of pairs
    with IoU above 0.5 that lie inside the image whole, each image at its own and at half
    resolution. An image counts for the nearest resolution, there groups weigh the same; between
    the levels that were tried the bias is interpolated.

    Returns:
        `Segmenter.edge_logits` (0 without a map, or without a pair), and the table of what was
        tried: `edge_logit`, `group`, `mpp`, `area_bias` (mean over images of the relative
        difference of the mean areas).
    """
    rows, segmenter = [], replace(segmenter, judges=False)
    for image in (level for whole in validation for level in whole.levels()):
        blocks = block_rows(*image.labels.shape[:2])
        try:
            settled = list(
                settled_rows(array_reader(image.rgb), blocks, mpp=image.mpp, segmenter=segmenter)
            )
        except SlideError:  # as in `tune_thresholds`
            continue
        if any(part.nucleus is None for row in settled for part in row):
            break
        for level in EDGE_GRID:
            outlines = join_outlines(list(outline_rows(settled, mpp=image.mpp, level=level)))
            bias = _area_bias(image, outlines)
            key = {"edge_logit": level, "group": image.group, "mpp": image.mpp}
            rows.append(key | {"area_bias": bias})
    columns = ["edge_logit", "group", "mpp", "area_bias"]
    tried = pd.DataFrame(rows, columns=columns)
    table = tried.groupby(columns[:3], as_index=False).mean()
    known = segmenter.resolutions_mpp or (0.5,)
    nearest = table["mpp"].map(lambda mpp: min(known, key=lambda own: abs(math.log(own / mpp))))
    edges = []
    for mpp, own in table.groupby(nearest):
        mean = own.groupby("edge_logit")["area_bias"].mean().dropna()
        if len(mean):  # the bias falls with the level
            level = np.interp(0.0, -mean.to_numpy(), mean.index.to_numpy())
            edges.append((float(mpp), round(float(level), 3)))
    return tuple(edges) or ((known[0], 0.0),), table


def _area_bias(image: AnnotatedImage, outlines: Outlines) -> float:
    """Mean area of the outlines against that of the annotated nuclei that they match, minus 1; of
    nuclei that are whole."""
    annotated = image.finest
    finer = annotated.shape[0] // image.labels.shape[0]
    fine = outlines.scaled(finer)
    shape = (annotated.shape[0], annotated.shape[1])
    labels = render_whole(fine, shape=shape, min_px=MIN_AREA_UM2 * (finer / image.mpp) ** 2)
    pairs = overlaps(annotated, labels)
    cut = _on_the_rim(annotated, labels)
    matched = (pairs.iou > 0.5) & ~np.isin(pairs.annotated, cut[0]) & ~np.isin(pairs.found, cut[1])
    if not matched.any():
        return float("nan")
    found = measure_outlines(fine.vertices, fine.ends, mpp=1.0)["area_um2"].to_numpy()
    areas = found[pairs.found[matched] - 1], pairs.areas_annotated[pairs.annotated[matched]]
    return float(areas[0].mean() / areas[1].mean() - 1)
