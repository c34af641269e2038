"""What is known of patients beside their nuclei, and how a ranking keeps it apart from them.

Strata are groups of patients, such as those of a site: labels are compared, permuted and spread
over folds within them. Strata and further covariates are adjusted for: the model knows them beside
the features (`offset`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.cohort.encoding import (
    MISSING_LEVEL,
    ClinicalEncoder,
    as_text,
    independent_columns,
    is_number,
    patient_covariates,
)
from morphomil.cohort.labels import sort_labels
from morphomil.cohort.splits import leave_groups_out, make_folds, manifest_split
from morphomil.errors import InputError, RefusedError
from morphomil.seeds import generator
from morphomil.stats.conditional import permute_conditionally
from morphomil.stats.ridge import fit_ridge, ridge_log_probability

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from morphomil.cohort.splits import Fold
    from morphomil.stats.roc import AucInterval
    from morphomil.types import RankSettings
OWN_COLUMNS = ("slide_id", "patient", "label", "split")
"""These columns of a cohort are neither strata nor covariates."""
MOST_STRATA = 20
"""A column of more groups is taken for a measurement, or for an identifier."""
LEAST_IN_CELL = 10
"""Adjusted categories divide the patients into strata as long as these hold so many on average."""
NO_STRATA = "all"
"""The stratum of every patient where none are asked for."""


@dataclass(frozen=True)
class Design:
    """Strata and covariates of the patients."""

    strata: pd.Series[str] = field(repr=False)
    """By patient, sorted; all in one stratum where none are asked for."""
    columns: tuple[str, ...]
    """Strata are the combinations of these columns."""
    covariates: pd.DataFrame | None = field(repr=False)
    """By patient, sorted: what the model knows beside the features, strata too; None: nothing."""
    notes: tuple[str, ...]
    """Sentences on missing values and on strata that can't contribute."""

    @classmethod
    def of(cls, cohort: pd.DataFrame, labels: pd.Series[Any], settings: RankSettings) -> Design:
        """The design that the settings ask for.

        Args:
            cohort: one row per slide.
            labels: by patient, sorted.
            settings: `strata` and `adjust` name columns.

        Raises:
            InputError: a column is unknown, or a patient's slides differ in it.
            RefusedError: a column doesn't group patients, or no stratum has two labels.
        """
        named = dict.fromkeys((*settings.strata_columns, *settings.adjusted_columns))
        known = patient_covariates(cohort, list(named))
        known = known.loc[labels.index]
        adjusted = known[list(dict.fromkeys(settings.adjusted_columns))]
        for name in adjusted:
            if as_text(adjusted[name]).nunique() == labels.nunique() and not any(
                labels.groupby(as_text(adjusted[name])).nunique() > 1
            ):
                raise RefusedError(
                    f"--adjust {name} leaves nothing to rank: it tells the labels apart by itself"
                )
        columns = _stratifying(known, settings.strata_columns, adjusted)
        strata = _combine(known[list(columns)])
        notes = [*_say_missing(known), *_say_strata(strata, labels, columns)]
        held = known[[name for name in known if as_text(known[name]).nunique() > 1]]
        notes += [
            f"{name} is the same for all patients, so holding it constant changes nothing."
            for name in known
            if name not in held
        ]
        return cls(strata, columns, held if len(held.columns) else None, tuple(notes))

    @property
    def stratified(self) -> bool:
        """Whether there are several strata."""
        return bool(self.columns)

    @property
    def adjusts(self) -> bool:
        """Whether there are covariates."""
        return self.covariates is not None

    @property
    def held(self) -> tuple[str, ...]:
        """What is held constant: the names of strata and covariates."""
        return () if self.covariates is None else tuple(map(str, self.covariates))

    @property
    def encoded(self) -> pd.DataFrame:
        """The covariates as numbers, by patient; no columns where nothing is adjusted for."""
        if self.covariates is None:
            return pd.DataFrame(index=self.strata.index)
        table = ClinicalEncoder.fit(self.covariates).encode_contrasts(self.covariates)
        return independent_columns(table)

    def log_probability(self, labels: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Of each patient's label (patients,), by the covariates that no stratum holds constant,
        (patients, classes); None where there are none."""
        if self.covariates is None or not set(self.covariates) - set(self.columns):
            return None
        design, classes = self.encoded.to_numpy(np.float64), int(labels.max()) + 1
        fitted = fit_ridge(design, labels[None], classes=classes)
        return np.asarray(ridge_log_probability(design, fitted)[0])

    def labelings(
        self, labels: NDArray[np.int64], *, permutations: int, seed: int
    ) -> NDArray[np.int64] | None:
        """The labels (row 0) and permutations of them within strata, as likely as the covariates
        make them; None where strata alone say which permutations are as likely."""
        log_probability = self.log_probability(labels)
        if log_probability is None:
            return None
        stratum = np.unique(self.strata.to_numpy(), return_inverse=True)[1]
        rng = generator("conditional", seed)
        return permute_conditionally(
            labels, log_probability, permutations=permutations, rng=rng, blocks=stratum
        )

    def residuals(self, values: pd.DataFrame) -> pd.DataFrame:
        """What is left of each column (rows are patients) beside the covariates, by least squares;
        the values themselves where nothing is adjusted for."""
        if self.covariates is None:
            return values
        design = np.column_stack([np.ones(len(values)), self.encoded.loc[values.index]])
        left = values.to_numpy(np.float64, copy=True)
        for column in left.T:
            known = np.isfinite(column)
            if known.any():
                fitted = np.linalg.lstsq(design[known], column[known], rcond=None)[0]
                column[known] -= design[known] @ fitted
        return pd.DataFrame(left, index=values.index, columns=values.columns)

    def make_folds(self, cohort: pd.DataFrame, settings: RankSettings) -> tuple[Fold, ...]:
        """The folds that the settings ask for, stratified by label and stratum, or by groups.

        Raises:
            RefusedError: as `splits.make_folds` and `leave_groups_out`, or no group has two labels.
            InputError: likewise; or what folds are made by is also adjusted for.
        """
        by = settings.folds_by.strip()
        if not by:
            strata = self.strata if self.stratified else None
            return make_folds(cohort, folds=settings.folds, seed=settings.seed, strata=strata)
        if by in settings.adjusted_columns:
            raise InputError(
                f"--folds-by {by} predicts patients of a {by} that no training patient has, so the "
                f"model can't know its effect: leave {by} out of --adjust (--strata {by} goes "
                "together with it)"
            )
        manifest_split(cohort)  # a patient in two parts is refused whatever folds are asked for
        named = cohort.assign(**{by: as_text(cohort[by])})
        folds = leave_groups_out(named, by=by, most=settings.folds)
        labels = cohort.groupby("patient")["label"].first()
        if all(labels[list(fold.test)].nunique() < 2 for fold in folds):
            raise RefusedError(
                f"--folds-by {by}: each {by} has patients of one label only, so labels can't be "
                f"compared within any {by}"
            )
        return folds


def say_folds(folds: Sequence[Fold], labels: pd.Series[Any], *, by: str) -> tuple[str, ...]:
    """A sentence on parts of groups that are left out together and have patients of one label
    only."""
    single = [fold.name for fold in folds if labels[list(fold.test)].nunique() < 2]
    if not by or not single:
        return ()
    return (
        f"Of {len(folds)} parts by {by}, {len(single)} have patients of one label only "
        f"({', '.join(single)}): they are predicted, and count in no AUC.",
    )


def say_alike(names: Sequence[str]) -> str:
    """ " in patients alike in age and site"; nothing where nothing is held constant."""
    return f" in patients alike in {' and '.join(names)}" if names else ""


def say_covariates(design: Design, auc: AucInterval | None) -> tuple[str, ...]:
    """A sentence on what the covariates reach alone."""
    if auc is None or design.covariates is None:
        return ()
    return (
        f"Without any feature, from {' and '.join(map(str, design.covariates))}, the out-of-fold "
        f"AUC is {auc.auc:.2f} [{auc.low:.2f}, {auc.high:.2f}]; attention and Shapley values are "
        "on what the features add to it.",
    )


def check_columns(cohort: pd.DataFrame, settings: RankSettings) -> None:
    """Make sure that the columns which the settings name are there.

    Raises:
        InputError: one isn't; or it is the label, the patient, ...
    """
    options = {
        "--strata": settings.strata_columns,
        "--adjust": settings.adjusted_columns,
        "--folds-by": (settings.folds_by.strip(),) if settings.folds_by.strip() else (),
    }
    known = [str(name) for name in cohort if name not in OWN_COLUMNS and cohort[name].notna().any()]
    problems = [
        f"{option} {name}: the cohort has no such column; it has {', '.join(known) or 'none'} "
        "(morphomil segment --covariates NAME,NAME keeps further columns of the manifest)"
        for option, names in options.items()
        for name in names
        if name not in known
    ]
    if problems:
        raise InputError(problems)


def _stratifying(
    known: pd.DataFrame, named: tuple[str, ...], adjusted: pd.DataFrame
) -> tuple[str, ...]:
    """The columns whose combinations are strata: those named, and adjusted categories while
    patients per stratum suffice."""
    chosen = list(dict.fromkeys(named))
    for name in chosen:
        if (levels := as_text(known[name]).nunique()) > MOST_STRATA:
            raise RefusedError(
                f"--strata {name}: {name} has {levels} values for {len(known)} patients, more than "
                f"the {MOST_STRATA} that strata may have; --adjust {name} takes numbers"
            )
    for further, values in adjusted.items():
        if further in chosen or is_number(values):
            continue
        cells = _combine(known[[*chosen, str(further)]]).nunique()
        if cells * LEAST_IN_CELL <= len(known):
            chosen.append(str(further))
    return tuple(chosen)


def _combine(columns: pd.DataFrame) -> pd.Series[str]:
    """A label for each combination of values."""
    if columns.shape[1] == 0:
        return pd.Series(NO_STRATA, index=columns.index)
    parts = [as_text(values) for _, values in columns.items()]
    joined = parts[0]
    for part in parts[1:]:
        joined = joined + ", " + part
    return joined


def _say_missing(known: pd.DataFrame) -> list[str]:
    return [
        f"{name} is missing for {gone} of {len(known)} patients; "
        + (
            "the mean of the training patients stands in, and the model knows of whom."
            if is_number(values)
            else f"they are a group of their own ({MISSING_LEVEL})."
        )
        for name, values in known.items()
        if (gone := int(values.isna().sum()))
    ]


def _say_strata(
    strata: pd.Series[str], labels: pd.Series[Any], columns: tuple[str, ...]
) -> list[str]:
    """A sentence on the strata of one label.

    Raises:
        RefusedError: all are so.
    """
    if not columns:
        return []
    counts = pd.crosstab(strata, labels.astype(str))
    single = counts[(counts > 0).sum(axis=1) < 2]
    if single.empty:
        return []
    named = " and ".join(columns)
    listed = "; ".join(
        f"{name}: {', '.join(f'{row[one]} of {one}' for one in sort_labels(counts) if row[one])}"
        for name, row in single.iterrows()
    )
    if len(single) == len(counts):
        raise RefusedError(
            f"the labels can't be compared within {named}: every group has patients of one label "
            f"only ({listed}), so what goes with the label can't be told from what goes with "
            f"{named}"
        )
    return [
        f"Of {len(counts)} groups by {named}, {len(single)} have patients of one label only and "
        f"say nothing within the group ({listed})."
    ]
