"""Splits by patient: folds, held-out parts, inner validation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from morphomil.cohort.labels import patient_labels
from morphomil.errors import InputError, RefusedError
from morphomil.seeds import generator
from morphomil.store import safe_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
SplitMode = Literal["auto", "kfold", "holdout", "site"]
"""The manifest's split, else k-fold; k-fold; 4:1, then 3:1; each site predicted by the others."""
INNER_SHARE = 0.2
"""This share of the training patients decides when to stop, where no validation patients are
given."""


@dataclass(frozen=True)
class Fold:
    """Who trains, who decides when to stop, and who is predicted; patient ids, sorted.

    `val` is empty in k-fold: each model then sets aside its own inner validation from `train`
    (`inner_validation`).
    """

    name: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse a patient in two parts."""
        check_leakage({"training": self.train, "validation": self.val, "test": self.test})


def check_leakage(parts: dict[str, Iterable[str]]) -> None:
    """Make sure that no patient stands in two parts of a split.

    Raises:
        RefusedError: one does.
    """
    members = {name: set(patients) for name, patients in parts.items()}
    for (one, here), (other, there) in combinations(members.items(), 2):
        if shared := sorted(here & there):
            raise RefusedError(
                f"leakage: {len(shared)} patient(s) in both {one} and {other}: "
                f"{', '.join(map(str, shared[:5]))}; give all slides of a patient the same split"
            )


def stratified_folds(
    cohort: pd.DataFrame, *, folds: int, seed: int, strata: pd.Series[str] | None = None
) -> pd.Series[int]:
    """Fold (from 0) of each patient, sorted by patient id; every class is spread evenly. Row order
    has no say.

    `strata`, by patient: each stratum's patients of a class are spread evenly too.

    Raises:
        RefusedError: one class only, or a class with fewer patients than folds.
        ValueError: fewer than two folds.
    """
    if folds < 2:
        raise ValueError(f"cross-validation needs at least 2 folds, got {folds}")
    labels = patient_labels(cohort)
    _need_patients(labels, folds, f"{folds}-fold cross-validation")
    return _deal(labels, folds, generator("folds", seed), strata=strata)


def holdout_split(cohort: pd.DataFrame, *, seed: int) -> pd.Series[str]:
    """`train`, `val` or `test` of each patient, sorted by id: test is 1 of 5, then validation 1 of
    4 of the rest.

    Raises:
        RefusedError: one class only, or a class with fewer than 5 patients.
    """
    labels = patient_labels(cohort)
    _need_patients(labels, 5, "a split 4:1, then 3:1,")
    fifth = _deal(labels, 5, generator("holdout", seed))
    return fifth.map({0: "test", 1: "val"}).fillna("train")


def manifest_split(cohort: pd.DataFrame) -> pd.Series[str] | None:
    """`train`, `val` or `test` of each patient as column `split` gives it, sorted by id; None if
    nothing is given.

    Raises:
        RefusedError: a patient's slides stand in different splits.
        InputError: a slide lacks its split, or it's none of the three.
    """
    if "split" not in cohort or cohort["split"].isna().all():
        return None
    known = cohort["split"].isin(["train", "val", "test"])
    if not known.all():
        slides = cohort.loc[~known, "slide_id"].astype(str).tolist()
        raise InputError(
            f"column split must say train, val or test for every slide or for none; it doesn't for "
            f"{len(slides)} slide(s): {', '.join(slides[:5])}"
        )
    check_leakage({str(name): part["patient"] for name, part in cohort.groupby("split", sort=True)})
    return cohort.groupby("patient", sort=True)["split"].first()


def make_folds(
    cohort: pd.DataFrame, *, folds: int, seed: int, strata: pd.Series[str] | None = None
) -> tuple[Fold, ...]:
    """The manifest's split as one fold if there is one, else cross-validation stratified by class
    (and by `strata`, of each patient).

    Raises:
        RefusedError: leakage, one class, or too few patients of a class in training or test.
        InputError: the manifest's split can't be used.
    """
    given = manifest_split(cohort)
    if given is None:
        fold = stratified_folds(cohort, folds=folds, seed=seed, strata=strata)
        ids = range(folds)
        return tuple(
            Fold(f"fold{i}", tuple(fold.index[fold != i]), (), tuple(fold.index[fold == i]))
            for i in ids
        )
    parts = {name: tuple(given.index[given == name]) for name in ("train", "val", "test")}
    if not parts["test"]:
        raise InputError(
            "column split has no test patients; add some, or drop the column to cross-validate"
        )
    labels = patient_labels(cohort)
    classes = set(labels)
    for name, least in {"train": 2, "val": 1, "test": 1}.items():
        if parts[name] and set(labels[list(parts[name])]) != classes:
            raise RefusedError(
                f"split {name} lacks patients of a class; it needs some of each of "
                f"{_listed(labels)}"
            )
        if name == "train":
            _need_patients(labels[list(parts[name])], least, "training")
    return (Fold("holdout", **parts),)


def inner_validation(
    labels: pd.Series[Any], *, seed: int, share: float = INNER_SHARE
) -> NDArray[np.bool_]:
    """Which training patients decide when to stop: about `share` of each class, at least one and
    never all.

    `labels` is indexed by patient; the choice doesn't depend on its order.

    Raises:
        RefusedError: a class of fewer than two patients.
    """
    _need_patients(labels, 2, "an inner validation")
    rng = generator("inner", seed)
    chosen: list[Any] = []
    for _, members in sorted(labels.groupby(labels), key=lambda item: str(item[0])):
        ids = sorted(members.index)
        count = min(max(round(share * len(ids)), 1), len(ids) - 1)
        chosen += [ids[i] for i in rng.permutation(len(ids))[:count]]
    return np.asarray(labels.index.isin(chosen))


def _deal(
    labels: pd.Series[Any],
    hands: int,
    rng: np.random.Generator,
    *,
    strata: pd.Series[str] | None = None,
) -> pd.Series[int]:
    """Deal each class's patients in random order, stratum by stratum, the next ones going on where
    the last stopped."""
    dealt: dict[Any, int] = {}
    keys = labels.astype(str).to_frame()
    if strata is not None:
        keys["stratum"] = strata[list(labels.index)]
    for _, members in labels.groupby([column for _, column in keys.items()], sort=True):
        for patient in rng.permutation(members.index.to_numpy(dtype=object)):
            dealt[patient] = len(dealt) % hands
    return pd.Series(dealt, name="fold").reindex(labels.index)


def _need_patients(labels: pd.Series[Any], least: int, purpose: str) -> None:
    counts = labels.value_counts()
    if len(counts) < 2:
        raise RefusedError(
            f"{purpose} needs patients of two classes at least; there are {_listed(labels)}"
        )
    if counts.min() < least:
        raise RefusedError(
            f"{purpose} needs at least {least} patients of each class; there are {_listed(labels)}"
        )


def _listed(labels: pd.Series[Any]) -> str:
    counts = labels.value_counts().sort_index()
    return ", ".join(f"{count} of {name}" for name, count in counts.items()) or "none"


def split_cohort(
    cohort: pd.DataFrame, *, how: SplitMode, folds: int, seed: int
) -> tuple[Fold, ...]:
    """The folds of a cohort (one row per slide): patients, never slides, are divided.

    Raises:
        RefusedError: leakage, one class, or too few patients of a class.
        InputError: the manifest's split or sites can't be used.
    """
    if how == "auto":
        return make_folds(cohort, folds=folds, seed=seed)
    manifest_split(cohort)  # a patient in two parts is refused whatever split is asked for
    blank = cohort.assign(split=None)
    if how == "kfold":
        return make_folds(blank, folds=folds, seed=seed)
    if how == "holdout":
        given = holdout_split(blank, seed=seed)
        return make_folds(blank.assign(split=blank["patient"].map(given)), folds=folds, seed=seed)
    return leave_groups_out(cohort, by="site")


def leave_groups_out(cohort: pd.DataFrame, *, by: str, most: int | None = None) -> tuple[Fold, ...]:
    """Folds whose test patients are whole groups, such as sites, of which no patient trains.

    Each group is a fold, unless there are more than `most`: then the larger ones are dealt first,
    each to the fold with the fewest patients.

    Raises:
        InputError: a slide lacks its group.
        RefusedError: there is one group only, a patient stands in two, or too few patients of a
            class are left to train on.
    """
    if by not in cohort or cohort[by].isna().any():
        raise InputError(
            f"leaving {by}s out needs the manifest's column {by}, filled for every slide"
        )
    groups = {
        str(name): sorted(part["patient"].unique()) for name, part in cohort.groupby(by, sort=True)
    }
    if len(groups) < 2:
        raise RefusedError(f"leaving {by}s out needs two {by}s, there is only {', '.join(groups)}")
    check_leakage({f"{by} {name}": patients for name, patients in groups.items()})
    labels = patient_labels(cohort)
    folds = []
    for name, members in _gather_groups(groups, most or len(groups)).items():
        test = sorted(patient for group in members for patient in groups[group])
        train = tuple(labels.index.difference(test))
        lacking = set(labels) - set(labels[list(train)])
        if lacking or labels[list(train)].value_counts().min() < 2:
            raise RefusedError(
                f"without {by} {', '.join(members)} there are too few patients of a class to train "
                "on"
            )
        folds.append(Fold(f"{safe_name(by)}-{safe_name(name)}", train, (), tuple(test)))
    return tuple(folds)


def _gather_groups(groups: dict[str, list[Any]], most: int) -> dict[str, list[str]]:
    """Name of a fold -> its groups."""
    if len(groups) <= most:
        return {name: [name] for name in groups}
    hands: list[list[str]] = [[] for _ in range(most)]
    sizes = [0] * most
    for name in sorted(groups, key=lambda name: -len(groups[name])):
        least = sizes.index(min(sizes))
        hands[least].append(name)
        sizes[least] += len(groups[name])
    return {f"part{number}": sorted(members) for number, members in enumerate(hands)}


def fold_parts(fold: Fold, labels: pd.Series[Any], *, seed: int) -> dict[str, tuple[str, ...]]:
    """Patients by part; where a fold has no validation patients, part of the training patients
    stand in."""
    if fold.val:
        return {"train": fold.train, "val": fold.val, "test": fold.test}
    training = labels[list(fold.train)]
    inner = inner_validation(training, seed=int(generator("stop", seed, fold.name).integers(2**31)))
    return {
        "train": tuple(training.index[~inner]),
        "val": tuple(training.index[inner]),
        "test": fold.test,
    }
