"""Nuclei table -> one histogram matrix per feature, and the slide's and patient's values that the
tests compare.

Counts on a fixed fine grid know neither labels nor splits, so they are stored once per slide; each
fold fits its own edges on training patients and rebins, which is exact because every bin is a whole
number of fine bins.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from morphomil.nuclei.registry import FEATURES
from morphomil.nuclei.totals import areas, count_totals, has_ratios, ratios
from morphomil.stats.axial import grouped_polarity, leave_one_out_deviation
from morphomil.types import FEATURE_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

Orientation = Literal["relative", "absolute"]
"""`relative`: deviation from the mean direction of the patch's other nuclei; `absolute`: the angle,
in [0, 180)."""

FINE_BINS = 1024
"""The fixed grid over a feature's registered range has this many bins."""
BINS = 32
"""A feature's matrix has this many columns."""
MIN_NUCLEI = 5
"""A patch with fewer nuclei has no row in the matrices."""
PERCENTILES = (1.0, 99.0)
"""Edges lie at these percentiles of the training patients' nuclei; nuclei beyond fall in the end
bins."""

_SLACK = 1e-7  # fine bins; values that rounding puts just below an edge count as on it
_SHARE_SLACK = 1e-9  # of nuclei; so that the order in which patients are added can't move an edge


@dataclass(frozen=True)
class Binning:
    """32 equal bins of a feature: the fine grid's range and, on it, the first bin's start and each
    bin's width."""

    low: float
    high: float
    first: int
    width: int

    def __post_init__(self) -> None:
        """Refuse bins that leave the grid."""
        if not (
            self.low < self.high
            and self.first >= 0
            and 1 <= self.width <= (FINE_BINS - self.first) // BINS
        ):
            raise ValueError(f"{BINS} bins must lie on a grid of {FINE_BINS}, got {self}")


@dataclass(frozen=True)
class Edges:
    """The bins of every feature's matrix."""

    bins: dict[str, Binning]
    orientation: Orientation = "relative"

    @property
    def features(self) -> tuple[str, ...]:
        """Names, in the matrices' order."""
        return tuple(self.bins)

    def bin_of(self, feature: str, fine: NDArray[np.intp]) -> NDArray[np.intp]:
        """The bin of the matrix that holds a fine bin; -1 stays -1."""
        binning = self.bins[feature]
        return np.where(fine < 0, -1, ((fine - binning.first) // binning.width).clip(0, BINS - 1))

    def values(self, feature: str) -> NDArray[np.float64]:
        """The 33 edges in the feature's unit; the outermost bins also hold whatever lies beyond."""
        binning = self.bins[feature]
        step = (binning.high - binning.low) / FINE_BINS
        return np.asarray(
            binning.low + step * (binning.first + binning.width * np.arange(BINS + 1)),
            dtype=np.float64,
        )

    def to_json(self) -> dict[str, Any]:
        """For `json.dumps`."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Edges:
        """The inverse of `to_json`."""
        return cls(
            {name: Binning(**binning) for name, binning in value["bins"].items()},
            value["orientation"],
        )


@dataclass(frozen=True)
class HistogramMatrices:
    """Relative frequencies, one row per patch and feature.

    A row sums to 1; where no nucleus of the patch has a value (density too near the edge, only
    round nuclei), it is all 0 and counts as absent: `mean_rows` leaves it out.
    """

    slide_id: NDArray[Any]  # (patches,)
    patch_id: NDArray[np.int64]  # (patches,)
    features: tuple[str, ...]
    values: NDArray[np.float32]  # (features, patches, 32)
    dropped: int
    """Patches left out because they have fewer than 5 nuclei."""

    def __post_init__(self) -> None:
        """Refuse shapes that don't fit and rows that are neither absent nor sum to 1."""
        shape = (len(self.features), len(self.patch_id), BINS)
        if self.values.shape != shape or len(self.slide_id) != len(self.patch_id):
            raise ValueError(f"matrices must have shape {shape}, got {self.values.shape}")
        total = self.values.sum(axis=-1)
        if not ((total == 0) | (np.abs(total - 1) < 1e-5)).all():
            raise ValueError(
                f"rows must sum to 1, or to 0 where absent, got {total.min():g} to {total.max():g}"
            )


def count_nuclei(
    nuclei: pd.DataFrame,
    patch_ids: ArrayLike,
    *,
    features: Sequence[str] = FEATURE_NAMES,
    orientation: Orientation = "relative",
) -> NDArray[np.uint32]:
    """One slide's nuclei counted on the fine grids: (features, patches, 1024), patches in the order
    of `patch_ids`.

    Values beyond a feature's range fall in the end bins; NaN and nuclei of other patches are left
    out.
    """
    patches = np.asarray(patch_ids)
    order = np.argsort(patches, kind="stable")
    ids = nuclei["patch_id"].to_numpy()
    place = np.searchsorted(patches, ids, sorter=order).clip(max=max(len(patches) - 1, 0))
    row = order[place] if len(patches) else np.zeros(len(ids), np.intp)
    inside = patches[row] == ids if len(patches) else np.zeros(len(ids), bool)
    counts = np.zeros((len(features), len(patches), FINE_BINS), np.uint32)
    for number, name in enumerate(features):
        fine = fine_bin(nuclei, name, orientation=orientation)
        known = inside & (fine >= 0)
        cells = np.bincount(row[known] * FINE_BINS + fine[known], minlength=counts[number].size)
        counts[number] = cells.reshape(counts[number].shape)
    return counts


def fine_bin(
    nuclei: pd.DataFrame, feature: str, *, orientation: Orientation = "relative"
) -> NDArray[np.intp]:
    """The fine bin of each of one slide's nuclei, -1 where it has no value."""
    values = _grid_values(nuclei, feature, orientation)
    low, high = _grid_range(feature, orientation)
    known = ~np.isnan(values)
    scaled = (np.clip(values[known], low, high) - low) * (FINE_BINS / (high - low))
    fine = np.full(len(values), -1, np.intp)
    fine[known] = np.minimum(np.floor(scaled + _SLACK).astype(np.intp), FINE_BINS - 1)
    return fine


def _grid_values(
    nuclei: pd.DataFrame, feature: str, orientation: Orientation
) -> NDArray[np.float64]:
    values = nuclei[feature].to_numpy(dtype=np.float64)
    if not FEATURES[feature].axial:
        return values
    if orientation == "absolute":
        return values % 180
    return leave_one_out_deviation(values, nuclei["patch_id"].to_numpy())


def _grid_range(feature: str, orientation: Orientation) -> tuple[float, float]:
    entry = FEATURES[feature]
    return (
        (0.0, 180.0)
        if entry.axial and orientation == "absolute"
        else (float(entry.low), float(entry.high))
    )


def has_enough_nuclei(counts: NDArray[Any]) -> NDArray[np.bool_]:
    """Which patches of (features, patches, fine bins) have at least 5 nuclei.

    A patch has as many nuclei as its most complete feature has values.
    """
    return np.asarray(counts.sum(axis=-1, dtype=np.int64).max(axis=0, initial=0) >= MIN_NUCLEI)


def fit_edges(
    nuclei: pd.DataFrame,
    *,
    features: Sequence[str] | None = None,
    orientation: Orientation = "relative",
) -> Edges:
    """Edges from training patients' nuclei: 1st to 99th percentile in 32 equal bins, snapped to the
    fine grid.

    With a column `patient`, every patient has the same total weight; else every nucleus.
    `features`: by default the registered ones that the table has. Features with fixed edges span
    their range.
    """
    names = features_in(nuclei) if features is None else tuple(features)
    owner = nuclei["patient"] if "patient" in nuclei else pd.Series("", index=nuclei.index)
    totals = []
    for _, of_patient in nuclei.groupby(owner, sort=True):
        counts = [_count_all(slide, names, orientation)[1] for _, slide in _each_slide(of_patient)]
        totals.append(np.sum([part.sum(axis=1, dtype=np.int64) for part in counts], axis=0))
    return fit_edges_to_counts([np.stack(totals)], features=names, orientation=orientation)


def fit_edges_to_counts(
    totals: Iterable[NDArray[Any]],
    *,
    features: Sequence[str],
    orientation: Orientation = "relative",
    chosen: NDArray[np.bool_] | None = None,
) -> Edges:
    """`fit_edges` from counts on the fine grid, summed per patient: blocks (patients, features,
    1024), one after the other, of all patients or those chosen (patients,), who train."""
    shares = np.zeros((len(features), FINE_BINS))  # sums over patients
    patients = np.zeros(len(features))
    start = 0
    for block in totals:
        own = block if chosen is None else block[chosen[start : start + len(block)]]
        start += len(block)
        count = own.sum(axis=-1, keepdims=True)
        patients += (count > 0).sum(axis=(0, 2))
        for row in own / np.maximum(count, 1):
            shares += row
    bins = {}
    for number, name in enumerate(features):
        low, high = _grid_range(name, orientation)
        if FEATURES[name].fixed_edges or not patients[number]:
            bins[name] = Binning(low, high, 0, FINE_BINS // BINS)
            continue
        share = np.cumsum(shares[number] / patients[number])
        first, last = np.searchsorted(share + _SHARE_SLACK, np.array(PERCENTILES) / 100)
        width = -(-(int(last) - int(first) + 1) // BINS)
        start = int(first) - (width * BINS - (int(last) - int(first) + 1)) // 2
        bins[name] = Binning(low, high, min(max(start, 0), FINE_BINS - width * BINS), width)
    return Edges(bins, orientation)


def rebin(counts: NDArray[Any], edges: Edges) -> NDArray[Any]:
    """Counts, or shares, on the fine grids -> (features, patches, 32); the end bins take what lies
    beyond."""
    if counts.shape[0] != len(edges.bins) or counts.shape[2] != FINE_BINS:
        raise ValueError(
            f"counts must be of {len(edges.bins)} features and {FINE_BINS} bins, got {counts.shape}"
        )
    kind = np.int64 if np.issubdtype(counts.dtype, np.integer) else counts.dtype
    binned = np.empty((*counts.shape[:2], BINS), kind)
    for number, binning in enumerate(edges.bins.values()):
        starts = binning.first + binning.width * np.arange(BINS)
        starts[0] = 0
        binned[number] = np.add.reduceat(counts[number], starts, axis=-1, dtype=kind)
    return binned


def relative_frequencies(binned: NDArray[Any]) -> NDArray[np.float32]:
    """Rows that sum to 1; a row without counts stays 0."""
    total = binned.sum(axis=-1, keepdims=True)
    return np.asarray(binned / np.maximum(total, 1), dtype=np.float32)


def mean_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of each feature's present rows: (features, patches, bins) -> (features, bins); all 0
    where none is."""
    present = rows.any(axis=-1).sum(axis=-1)
    return np.asarray(rows.sum(axis=1) / np.maximum(present, 1)[:, None], dtype=np.float32)


def histogram_matrices(nuclei: pd.DataFrame, *, edges: Edges) -> HistogramMatrices:
    """The matrices of every slide and patch that has at least 5 nuclei, sorted by slide and
    patch."""
    slides, patches, rows, dropped = [], [], [], 0
    for slide_id, slide in _each_slide(nuclei):
        ids, counts = _count_all(slide, edges.features, edges.orientation)
        kept = has_enough_nuclei(counts)
        dropped += int((~kept).sum())
        slides += [slide_id] * int(kept.sum())
        patches.append(ids[kept])
        rows.append(relative_frequencies(rebin(counts[:, kept], edges)))
    empty = np.zeros((len(edges.bins), 0, BINS), np.float32)
    values = np.concatenate([empty, *rows], axis=1)
    ids = np.concatenate([np.zeros(0, np.int64), *patches])
    return HistogramMatrices(np.array(slides, dtype=object), ids, edges.features, values, dropped)


def features_in(nuclei: pd.DataFrame) -> tuple[str, ...]:
    """Which registered features a table has, in the registry's order."""
    return tuple(name for name in FEATURES if name in nuclei)


def _each_slide(nuclei: pd.DataFrame) -> Iterator[tuple[Any, pd.DataFrame]]:
    if "slide_id" in nuclei:
        yield from nuclei.groupby("slide_id", sort=True)
    else:
        yield "", nuclei


def _count_all(
    slide: pd.DataFrame, features: Sequence[str], orientation: Orientation
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """A slide's patch ids, sorted, and their counts."""
    ids = np.unique(slide["patch_id"].to_numpy(dtype=np.int64))
    return ids, count_nuclei(slide, ids, features=features, orientation=orientation)


def by_value(table: pd.DataFrame) -> pd.DataFrame:
    """The table with columns named as values of patches, slides or patients (`Feature.value`) in
    place of features."""
    return table.rename(columns={name: entry.value for name, entry in FEATURES.items()})


def by_feature(table: pd.DataFrame) -> pd.DataFrame:
    """The reverse of `by_value`; a table of a run of before has features' names already."""
    return table.rename(columns={entry.value: name for name, entry in FEATURES.items()})


def slide_values(
    nuclei: pd.DataFrame,
    patches: pd.DataFrame | None = None,
    *,
    features: Sequence[str] = FEATURE_NAMES,
) -> pd.Series[float]:
    """One slide's value of each feature, by `Feature.value`; NaN where no nucleus has one.

    Median (or mean: `Feature.pool`) over nuclei; ratios of totals over kept patches if `patches`
    (columns of `PATCHES`) is given, else the median too. Orientation: polarity, the mean over
    patches with at least 5 oriented nuclei of (n R^2 - 1) / (n - 1), R the axial resultant length;
    0 is expected of uniform angles at every n.
    """
    values = {name: float(nuclei[name].agg(_average(name))) for name in features}
    for name in features:
        if FEATURES[name].axial:
            angles = nuclei[name].to_numpy(dtype=np.float64)
            polarity = grouped_polarity(angles, nuclei["patch_id"].to_numpy())
            enough = polarity.polarity[polarity.n >= MIN_NUCLEI]
            values[name] = float(enough.mean()) if len(enough) else np.nan
    if patches is not None and has_ratios(features):
        kept = patches[patches["kept"]]
        totals = count_totals(nuclei).reindex(kept["patch_id"], fill_value=0).sum().to_frame().T
        of_slide = ratios(totals.join(areas(kept).sum().to_frame().T), features)
        values |= {str(name): float(value) for name, value in of_slide.iloc[0].items()}
    named = {FEATURES[name].value: value for name, value in values.items()}
    return pd.Series(named, dtype=np.float64)


def _average(feature: str) -> str:
    return "mean" if FEATURES[feature].pool == "mean" else "median"


def patient_values(values: pd.DataFrame, cohort: pd.DataFrame) -> pd.DataFrame:
    """One row per patient, sorted: `patient`, `label`, and the median over slides of the slides'
    values, as `stats.compare_groups(..., slides=...)` pools them.

    `values` has `slide_id` and one column per feature, `cohort` has `slide_id`, `patient`, `label`;
    slides in just one of them are left out.
    """
    names = [name for name in values if name != "slide_id"]
    merged = cohort[["slide_id", "patient", "label"]].merge(
        values, on="slide_id", validate="one_to_one"
    )
    return merged.groupby("patient", sort=True, as_index=False).agg(
        {"label": "first"} | dict.fromkeys(names, "median")
    )


def patch_values(nuclei: pd.DataFrame, patches: pd.DataFrame) -> pd.DataFrame:
    """One slide's kept patches (columns of `PATCHES`), their number of `nuclei` and each feature's
    value in the patch, by `Feature.value`.

    Median, mean or ratio of totals of the patch's nuclei (`Feature.pool`); orientation: polarity,
    as in `slide_values`. NaN where no nucleus has a value.
    """
    kept = patches[patches["kept"]].reset_index(drop=True)
    names = features_in(nuclei)
    grouped = nuclei.groupby("patch_id")[list(names)]
    table = kept.join(grouped.agg({name: _average(name) for name in names}), on="patch_id")
    totals = count_totals(nuclei).reindex(kept["patch_id"], fill_value=0).reset_index(drop=True)
    table.insert(len(kept.columns), "nuclei", totals["nuclei"])
    pooled = ratios(totals.join(areas(kept)), FEATURES)
    table = table.assign(**{name: pooled[name] for name in pooled if name in names})
    for name in names:
        if FEATURES[name].axial:
            polarity = grouped_polarity(
                nuclei[name].to_numpy(dtype=np.float64), nuclei["patch_id"].to_numpy()
            )
            table[name] = kept["patch_id"].map(pd.Series(polarity.polarity, index=polarity.groups))
    return by_value(table)
