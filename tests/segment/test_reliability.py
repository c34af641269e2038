"""How far differences can be trusted: the formulas, against numpy and scipy; level lines of labels,
against closed forms; the file beside a model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from morphomil.errors import InputError
from morphomil.nuclei.polygons import measure_outlines
from morphomil.segment.level_lines import label_outlines
from morphomil.segment.model import Segmenter
from morphomil.segment.reliability import (
    read_accuracy,
    read_reliability,
    reliability_path,
    reliability_table,
    write_reliability,
)
from morphomil.types import SegmenterSettings

if TYPE_CHECKING:
    from pathlib import Path


def made_up(images: int = 20, *, slope: float = 0.5) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Areas of 30 nuclei an image; what is found has the given slope, 10 % more, and noise."""
    rng = np.random.default_rng(1)
    means, pairs = [], []
    for number in range(images):
        middle = rng.uniform(30, 60)
        annotated = middle + rng.normal(0, 5, 30)
        shift = 1.1 * (45 + slope * (middle - 45)) - middle
        found = annotated + shift + rng.normal(0, 4, 30)
        key = {"group": "set", "mpp": 0.5, "image": f"i{number}"}
        pairs.append(pd.DataFrame({"area_um2": annotated, "area_um2_found": found}).assign(**key))
        row = {"feature": "area_um2", "annotated": annotated.mean(), "found": found.mean()}
        means.append(key | row)
    return pd.DataFrame(means), pd.concat(pairs)


def test_the_table_is_what_scipy_says() -> None:
    means, pairs = made_up()
    row = reliability_table(means, pairs).iloc[0]
    line = stats.linregress(means["annotated"], means["found"])
    relative = means["found"] / means["annotated"] - 1
    assert row["slope"] == pytest.approx(line.slope)
    assert row["correlation"] == pytest.approx(line.rvalue)
    assert row["bias"] == pytest.approx(relative.mean())
    assert row["bias_sd"] == pytest.approx(relative.std())
    rank = stats.spearmanr(pairs["area_um2"], pairs["area_um2_found"]).statistic
    assert row["spearman"] == pytest.approx(rank)
    assert (row["images"], row["pairs"]) == (20, 600)
    for name in ("bias", "bias_sd", "slope", "correlation", "spearman"):
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]


def test_intervals_are_those_of_resampled_images() -> None:
    """The slope's, against one resample after another; that of ranks, by its width."""
    means, pairs = made_up()
    row = reliability_table(means, pairs).iloc[0]
    rng = np.random.default_rng(5)
    drawn = [means.sample(len(means), replace=True, random_state=rng) for _ in range(600)]
    slopes = [stats.linregress(part["annotated"], part["found"]).slope for part in drawn]
    low, high = np.quantile(slopes, (0.025, 0.975))
    assert (row["slope_low"], row["slope_high"]) == pytest.approx((low, high), abs=0.05)
    by_image = dict(list(pairs.groupby("image")))
    ranks = []
    for part in drawn[:200]:
        nuclei = pd.concat([by_image[name] for name in part["image"]])
        ranks.append(stats.spearmanr(nuclei["area_um2"], nuclei["area_um2_found"]).statistic)
    low, high = np.quantile(ranks, (0.025, 0.975))
    assert (row["spearman_low"], row["spearman_high"]) == pytest.approx((low, high), abs=0.05)


def test_two_images_have_a_bias_only() -> None:
    means, pairs = made_up(2)
    row = reliability_table(means, pairs).iloc[0]
    assert np.isfinite(row["bias"])
    assert np.isfinite(row["spearman"])
    assert row[["bias_sd", "slope", "correlation", "bias_low", "spearman_low"]].isna().all()


def test_it_is_stored_beside_the_model(tmp_path: Path) -> None:
    segmenter = Segmenter("abc", lambda *_: (), 2, 16, 0.5, 0.4, (), "unit")
    settings = SegmenterSettings(model=str(tmp_path))
    table = reliability_table(*made_up())
    scores = {"pq": 0.61234567, "dq": 0.8, "aji": 0.65}
    summary = pd.DataFrame(
        [{"group": "x", "mpp": 0.5, "images": 2, "score": s, "mean": m} for s, m in scores.items()]
    ).assign(low=np.nan)
    path = write_reliability(table, summary, replace(segmenter, settings=settings))
    assert path == tmp_path / "reliability.json"
    stored = read_reliability(str(tmp_path))
    assert list(stored.columns) == list(table.columns)
    pd.testing.assert_frame_equal(stored, table.round(5), check_dtype=False)
    assert read_reliability(str(tmp_path / "other")).empty
    accuracy, evaluated = read_accuracy(str(tmp_path))
    assert evaluated
    assert accuracy.to_dict("records") == [{"group": "x", "mpp": 0.5, "pq": 0.61235, "aji": 0.65}]
    with pytest.raises(InputError, match="has no folder"):
        reliability_path("2D_versatile_he")


@pytest.mark.parametrize(("scale", "tolerance"), [(1, 0.012), (2, 0.005)])
def test_level_lines_of_digitized_ellipses(scale: int, tolerance: float) -> None:
    """Nuclei as large as at 0.25 um per pixel, and twice as large: closed forms within a
    percent."""
    rng = np.random.default_rng(0)
    side = 60 * scale
    labels, truth = np.zeros((10 * side, 10 * side), np.int32), []
    for number in range(100):
        a, b, turn = *(rng.uniform(9, 18, 2) * scale), rng.uniform(0, np.pi)
        row, column = (
            side * place + side / 2 + shift
            for place, shift in zip(divmod(number, 10), rng.uniform(-2, 2, 2), strict=True)
        )
        y, x = np.mgrid[: 10 * side, : 10 * side] - np.array([row, column])[:, None, None]
        along = x * np.cos(turn) + y * np.sin(turn)
        across = y * np.cos(turn) - x * np.sin(turn)
        labels[np.hypot(along / a, across / b) < 1] = number + 1
        truth.append((np.pi * a * b, 2 * max(a, b), column, row))
    numbers, vertices, ends = label_outlines(labels)
    assert numbers.tolist() == list(range(1, 101))
    found = measure_outlines(vertices, ends, mpp=1.0)
    area, major, x, y = np.array(truth).T
    assert (found["area_um2"] / area).mean() == pytest.approx(1, abs=tolerance)
    assert (found["major_axis_um"] / major).mean() == pytest.approx(1, abs=tolerance)
    assert (found["rectangularity"] / (np.pi / 4)).mean() == pytest.approx(1, abs=tolerance)
    assert (found["rectangularity"] / (np.pi / 4)).std() < 0.02
    assert np.hypot(found["x_px"] - x, found["y_px"] - y).max() < 0.2


def test_level_lines_of_odd_labels() -> None:
    """A label in pieces, one of a pixel, one at the corner, none."""
    labels = np.zeros((30, 30), np.int32)
    labels[2:8, 2:8], labels[20:22, 20:22], labels[15, 15], labels[26:, 26:] = 7, 7, 9, 3
    numbers, vertices, ends = label_outlines(labels)
    assert numbers.tolist() == [3, 7, 9]
    table = measure_outlines(vertices, ends, mpp=1.0)
    assert table["area_um2"].to_numpy() == pytest.approx([16, 36, 1])
    assert table["x_px"].to_numpy() == pytest.approx([27.5, 4.5, 15], abs=0.3)
    assert len(label_outlines(labels * 0)[0]) == 0
