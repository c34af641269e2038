"""Tables given from Python -> nuclei and cohort that a ranking can be made of, or what is wrong
with them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from morphomil.cohort.confusables import name_look_alikes
from morphomil.cohort.frames import clean_cohort, clean_column, list_names, missing_columns
from morphomil.cohort.names import INSIST, missing_names, spelling_key
from morphomil.cohort.numbers import read_numbers
from morphomil.errors import InputError
from morphomil.matrix import FINE_BINS, features_in
from morphomil.nuclei.features import AREA_LIMITS_UM2
from morphomil.nuclei.registry import FEATURES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from morphomil.nuclei.registry import Feature

FAR_SHARE = 0.01
"""A feature is refused when this share of its values lies beyond its range by half its width or
more."""
ONE_BIN_SHARE = 0.99
"""A feature is refused when this share of its values, which differ, falls in one of the grid's 1024
bins."""
ELLIPSE_FACTOR = 2.0
"""Where the median area differs from that of an ellipse with the nuclei's axes by this factor or
more, units are doubtful: an ellipse of equal moments has an outline's area to within some
percent."""
_FEWEST = 20
"""Fewer values say nothing about their unit."""


@dataclass(frozen=True)
class RankInputs:
    """What a ranking is made of, and what to say of it."""

    nuclei: pd.DataFrame
    """Columns `slide_id` (text), `patch_id` and the features (float64), of the cohort's slides."""
    cohort: pd.DataFrame
    features: tuple[str, ...]
    notes: tuple[str, ...]


def check_inputs(
    nuclei: pd.DataFrame,
    cohort: pd.DataFrame,
    *,
    covariates: Sequence[str] = (),
    distinct_ids: bool = False,
) -> RankInputs:
    """Both tables in one spelling of names (`cohort.frames`), with features as numbers in their
    units.

    Raises:
        InputError: all problems of the columns, else of the cohort, else of ids that don't match,
            else of the features' values.
    """
    features = features_in(nuclei)
    if missing := _missing_columns(nuclei, features) + missing_columns(cohort, covariates):
        raise InputError(missing)
    clean = clean_cohort(cohort, covariates=covariates, distinct_ids=distinct_ids)
    slides = clean_column(nuclei["slide_id"])
    if nameless := int((slides == "").sum() + nuclei["patch_id"].isna().sum()):
        raise InputError(f"{nameless} nuclei have no slide_id or no patch_id; name slide and patch")
    notes = _match_slides(clean.table, slides.drop_duplicates(), distinct_ids=distinct_ids)
    table = nuclei[["slide_id", "patch_id", *features]].assign(slide_id=slides)
    table = _with_numbers(table, features)[slides.isin(clean.table["slide_id"])]
    if problems := [text for name in features for text in _unit_problems(table, FEATURES[name])]:
        raise InputError(problems)
    return RankInputs(table, clean.table, features, (*clean.notes, *notes, *_doubtful_units(table)))


def _missing_columns(nuclei: pd.DataFrame, features: tuple[str, ...]) -> list[str]:
    missing = [
        f"nuclei lack the column {name}" for name in ("slide_id", "patch_id") if name not in nuclei
    ]
    if len(features) < 2:
        missing.append(
            f"a ranking needs two features or more, the nuclei have {', '.join(features) or 'none'}"
        )
    return missing


def _match_slides(
    cohort: pd.DataFrame, measured: pd.Series[str], *, distinct_ids: bool
) -> list[str]:
    """A note on slides of which the cohort says nothing; slides of the cohort without nuclei are
    counted by label where the ranking is made.

    Raises:
        InputError: none match, or near-equal ones don't.
    """
    known, there = set(cohort["slide_id"]), set(measured)
    absent, foreign = sorted(known - there), sorted(there - known)
    keys = {spelling_key(name): name for name in foreign}
    near = [(name, keys[key]) for name in absent if (key := spelling_key(name)) in keys]
    pairs = list_names(
        f"{name_look_alikes(one)} and {name_look_alikes(other)}" for one, other in near
    )
    if not known & there:
        shown = f"near-equal are {pairs}" if near else "they have nothing in common"
        raise InputError(
            f"no slide of the cohort ({list_names(map(repr, absent))}) is in the nuclei table "
            f"({list_names(map(repr, foreign))}); {shown}: give both the same slide_id, as text"
        )
    if near and not distinct_ids:
        raise InputError(
            f"slides of the cohort and of the nuclei table are nearly equal and don't match: "
            f"{pairs}; give them one slide_id ({INSIST})"
        )
    if not foreign:
        return []
    return [
        f"{len(foreign)} slides of the nuclei table are not in the cohort and are left out: "
        f"{list_names(foreign)}."
    ]


def _with_numbers(table: pd.DataFrame, features: tuple[str, ...]) -> pd.DataFrame:
    """The table with float64 features, read from text where need be.

    Raises:
        InputError: a column holds what is no number, or infinite values.
    """
    problems, columns = [], {}
    for name in features:
        values = table[name]
        if not pd.api.types.is_numeric_dtype(values):
            names = clean_column(values)
            lacking = missing_names(names.unique(), "category")
            cells = {cell: cell for cell in names.unique() if cell not in lacking}
            first = table["slide_id"].groupby(names).first()
            read = read_numbers(cells, partial(_say_slide, first))
            if read.values is None:
                text = (
                    read.problem or f"holds text, such as {next(iter(cells))!r}; it takes numbers"
                )
                problems.append(f"column {name} of the nuclei {text}")
                continue
            values = names.map(read.values)
        columns[name] = values.to_numpy(np.float64, na_value=math.nan)
        if np.isinf(columns[name]).any():
            problems.append(
                f"column {name} of the nuclei has infinite values; leave them empty (NaN)"
            )
    if problems:
        raise InputError(problems)
    return table.assign(**columns)


def _say_slide(first: pd.Series[str], cell: str) -> str:
    return f"slide {first[cell]}"


def _unit_problems(table: pd.DataFrame, feature: Feature) -> Iterator[str]:
    """Why a feature's values can't be in its unit."""
    known = table[["slide_id", feature.name]].dropna()
    values = known[feature.name].to_numpy()
    if len(values) < _FEWEST:
        return
    if feature.axial:
        if np.abs(values).max() <= math.pi and np.ptp(values) > 0:
            yield (
                f"{feature.name} lies between {values.min():.3g} and {values.max():.3g}: these are "
                "radians; give degrees"
            )
        return
    low, high = feature.low, feature.high
    if low >= 0 and (negative := values < 0).any():
        yield (
            f"{feature.name} is negative in {negative.sum():,} nuclei, such as "
            f"{values[negative][0]:.4g} in slide {known['slide_id'].to_numpy()[negative][0]}; give "
            "them no value, or leave them out"
        )
        return
    spoken = f"{low:g} to {high:g}{'' if feature.unit == '1' else ' ' + feature.unit}"
    medians = known.groupby("slide_id")[feature.name].median()
    beyond = medians[(medians < low) | (medians > high)]
    reach = (high - low) / 2
    far = float(((values < low - reach) | (values > high + reach)).mean())
    if len(beyond):
        yield (
            f"{feature.name} has the median {beyond.iloc[0]:.4g} in slide {beyond.index[0]}"
            f"{_and_others(len(beyond) - 1)}, beyond the range of {spoken}; is it in another unit "
            "(pixels, nm, percent)?"
        )
    elif far > FAR_SHARE:
        yield (
            f"{feature.name} is far beyond the range of {spoken} in {far:.1%} of the nuclei, such "
            f"as {values[np.argmax(np.abs(values - low))]:.4g}; are some in another unit?"
        )
    elif np.ptp(values) > 0 and _largest_share(values, feature) >= ONE_BIN_SHARE:
        yield (
            f"{feature.name} lies between {values.min():.3g} and {values.max():.3g}, too close to "
            f"tell nuclei apart on the range of {spoken}; is it in another unit?"
        )


def _and_others(count: int) -> str:
    return f" and likewise in {count} others" if count else ""


def _largest_share(values: NDArray[np.float64], feature: Feature) -> float:
    """The share of the values that the fullest bin of the fine grid holds."""
    scaled = (values - feature.low) * (FINE_BINS / (feature.high - feature.low))
    bins = np.clip(scaled, 0, FINE_BINS - 1).astype(np.intp)
    return float(np.bincount(bins).max() / len(bins))


def _doubtful_units(table: pd.DataFrame) -> list[str]:
    """Notes where areas are unusual, or don't go with the axes."""
    if "area_um2" not in table:
        return []
    notes, (low, high) = [], AREA_LIMITS_UM2
    middle = float(table["area_um2"].median())
    if not low <= middle <= high and not math.isnan(middle):
        notes.append(
            f"The median nucleus has {middle:.4g} um2; {low:g} to {high:g} are usual: are areas in "
            "um2 and lengths in um?"
        )
    if "major_axis_um" not in table or "minor_axis_um" not in table:
        return notes
    ellipse = math.pi / 4 * table["major_axis_um"] * table["minor_axis_um"]
    factor = float((table["area_um2"] / ellipse.replace(0, math.nan)).median())
    if not 1 / ELLIPSE_FACTOR < factor < ELLIPSE_FACTOR and not math.isnan(factor):
        notes.append(
            f"area_um2 is {factor:.3g} times the area of ellipses with the nuclei's axes, where "
            "about 1 is usual: are areas in um2 and axes in um?"
        )
    return notes
