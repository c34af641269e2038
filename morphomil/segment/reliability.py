"""How far differences that are measured can be trusted: for each feature bias, its spread between
images, and slope and correlation of the images' means, found against annotated.

A bias common to all images drops out of comparisons between groups; one that differs from image to
image is noise, and a slope below 1 shrinks every difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.errors import InputError
from morphomil.segment.model import model_folder
from morphomil.store import read_csv, read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from morphomil.segment.model import Segmenter

FILE = "reliability.json"
MIN_IMAGES = 3
"""With fewer images there is no spread, slope or interval."""
BOOTSTRAPS = 2000
"""Intervals rest on so many resamples of the images."""
FIGURES = ("bias", "bias_sd", "slope", "correlation", "spearman")
"""The table has these, each with the ends of its interval, `NAME_low` and `NAME_high`."""
COLUMNS = [
    *("group", "mpp", "feature", "images", "pairs", "annotated"),
    *(name + end for name in FIGURES for end in ("", "_low", "_high")),
]


def reliability_table(means: pd.DataFrame, pairs: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """One row per group, resolution and feature of shape.

    Args:
        means: one row per image and feature: `group`, `mpp`, `image`, `feature`, `annotated` and
            `found`, the means over all its nuclei of each side.
        pairs: one row per matched pair of nuclei: `group`, `mpp`, `image`, and each feature of both
            as `FEATURE` and `FEATURE_found`.
        seed: of the bootstrap over images.

    Returns:
        `group, mpp, feature, images, pairs, annotated` (mean of the images), `bias` (mean of the
        images' relative differences, found - annotated), `bias_sd` (their standard deviation from
        image to image), `slope` (least squares, of found on annotated means), `correlation`
        (Pearson's, of the means), `spearman` (rank correlation of the pairs), each with the ends of
        a 95 % percentile interval over images; of ranks, those of all pairs are resampled.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for (group, mpp, name), own in means.groupby(["group", "mpp", "feature"], sort=False):
        of_set = pairs[(pairs["group"] == group) & (pairs["mpp"] == mpp)]
        known = of_set[[name, f"{name}_found", "image"]].dropna()
        row: dict[str, Any] = {"group": group, "mpp": mpp, "feature": name, "images": len(own)}
        row |= {"pairs": len(known), "annotated": float(own["annotated"].mean())}
        draws = rng.integers(len(own), size=(BOOTSTRAPS, len(own)))
        row |= _of_images(own["annotated"].to_numpy(), own["found"].to_numpy(), draws)
        rows.append(row | _of_pairs(known, str(name), rng))
    return pd.DataFrame(rows, columns=COLUMNS)


def _of_images(
    annotated: NDArray[np.float64], found: NDArray[np.float64], draws: NDArray[np.intp]
) -> dict[str, float]:
    """What the images' means say, with intervals; NaN with fewer than `MIN_IMAGES`."""
    relative = found / annotated - 1
    formulas: dict[str, Callable[[NDArray[np.intp]], NDArray[np.float64]]] = {
        "bias": lambda drawn: relative[drawn].mean(axis=-1),
        "bias_sd": lambda drawn: relative[drawn].std(axis=-1, ddof=1),
        "slope": lambda drawn: _slope(annotated[drawn], found[drawn]),
        "correlation": lambda drawn: _correlation(annotated[drawn], found[drawn]),
    }
    everything, enough = np.arange(len(found)), len(found) >= MIN_IMAGES
    row: dict[str, float] = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for name, formula in formulas.items():
            value = float(formula(everything)) if enough or name == "bias" else np.nan
            row |= {name: value} | _ends(name, formula(draws) if enough else np.empty(0))
    return row


def _of_pairs(known: pd.DataFrame, name: str, rng: np.random.Generator) -> dict[str, float]:
    """Spearman's rank correlation of the pairs, resampled by image through sums over each image."""
    if len(known) < 2:
        return {"spearman": np.nan} | _ends("spearman", np.empty(0))
    ranks = known[[name, f"{name}_found"]].rank().to_numpy()
    x, y = (ranks - ranks.mean(axis=0)).T
    terms = pd.DataFrame({"n": 1.0, "x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y})
    sums = terms.groupby(known["image"].to_numpy()).sum().to_numpy()

    def correlation(total: NDArray[np.float64]) -> NDArray[np.float64]:
        n, sx, sy, sxx, syy, sxy = np.moveaxis(total, -1, 0)
        return np.asarray((sxy - sx * sy / n) / np.sqrt((sxx - sx**2 / n) * (syy - sy**2 / n)))

    with np.errstate(divide="ignore", invalid="ignore"):
        enough = len(sums) >= MIN_IMAGES
        draws = rng.integers(len(sums), size=(BOOTSTRAPS if enough else 0, len(sums)))
        resampled = correlation(sums[draws].sum(axis=1))
        value = float(correlation(sums.sum(axis=0)))
    return {"spearman": value} | _ends("spearman", resampled)


def _ends(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, (0.025, 0.975)) if len(values) else (np.nan, np.nan)
    return {f"{name}_low": float(low), f"{name}_high": float(high)}


def _slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y = (part - part.mean(axis=-1, keepdims=True) for part in (x, y))
    return np.asarray((x * y).sum(axis=-1) / (x * x).sum(axis=-1))


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y = (part - part.mean(axis=-1, keepdims=True) for part in (x, y))
    size = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    return np.asarray((x * y).sum(axis=-1) / size)


def reliability_path(model: str) -> Path:
    """Where a model's reliability is stored: `reliability.json` in its folder.

    Raises:
        InputError: the model has no folder.
    """
    folder = model_folder(model)
    if not folder.is_dir():
        raise InputError(f"model {model!r} has no folder that reliability.json could lie in")
    return folder / FILE


ACCURACY = ("pq", "aji")
"""The scores of the outlines that are stored."""


def write_reliability(table: pd.DataFrame, summary: pd.DataFrame, segmenter: Segmenter) -> Path:
    """Store what an evaluation says beside the segmenter's model; the file's path.

    Args:
        table: of the features (`reliability_table`).
        summary: of the outlines (`Evaluation.summary`), of which PQ and AJI are kept.
        segmenter: that was evaluated.

    Raises:
        InputError: the model has no folder.
    """
    path = reliability_path(segmenter.settings.model)
    accuracy = summary[summary["score"].isin(ACCURACY)]
    said = {"model_sha256": segmenter.sha256, "precision": segmenter.precision}
    write_json(path, said | {"accuracy": _records(accuracy), "features": _records(table)})
    return path


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(name): None if value != value else value for name, value in row.items()}
        for row in table.round(5).to_dict("records")
    ]


def read_reliability(model: str) -> pd.DataFrame:
    """The table stored beside a model (`reliability_table`); no rows where there is none."""
    path = model_folder(model) / FILE
    if not path.is_file():
        return pd.DataFrame(columns=COLUMNS)
    return pd.DataFrame(read_json(path)["features"])


def read_accuracy(model: str) -> tuple[pd.DataFrame, bool]:
    """How well a model outlines nuclei: `group, mpp, pq, aji`, a row per data set and resolution;
    and whether on images that it was evaluated with (`write_reliability`), not with those that its
    thresholds were chosen with; no rows where its folder doesn't say."""
    folder = model_folder(model)
    evaluated, table, chosen = (
        folder / name for name in (FILE, "thresholds.csv", "thresholds.json")
    )
    columns = ["group", "mpp", *ACCURACY]
    scores = read_json(evaluated).get("accuracy") if evaluated.is_file() else None
    if scores:
        wide = pd.DataFrame(scores).pivot_table("mean", ["group", "mpp"], "score").reset_index()
        return wide[columns].rename_axis(columns=None), True
    if not table.is_file() or not chosen.is_file():
        return pd.DataFrame(columns=columns), False
    tuned, thresholds = read_csv(table), read_json(chosen)
    near = [np.isclose(tuned[name], thresholds[name]) for name in ("prob", "nms")]
    return tuned.loc[near[0] & near[1], columns].reset_index(drop=True), False


def tuned_with(model: str) -> tuple[str, ...]:
    """The data sets whose validation images chose a model's thresholds; none where its folder
    doesn't say."""
    table = model_folder(model) / "thresholds.csv"
    return tuple(sorted(set(read_csv(table)["group"]))) if table.is_file() else ()
