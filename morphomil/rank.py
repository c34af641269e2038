"""Models + bags -> ranking: which feature the morphometry model attends to, and how the groups differ in it.

Everything shown of a patient comes from models that didn't see the patient: edges, scaler and stopping rule of a fold
come from its training patients.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from morphomil.bags import BAG_SIZE, draw_bags, generator, inner_validation, make_folds, patient_labels
from morphomil.matrix import (
    FINE_BINS,
    count_nuclei,
    features_in,
    fit_edges_to_counts,
    has_enough_nuclei,
    mean_rows,
    patient_values,
    rebin,
    relative_frequencies,
    slide_values,
)
from morphomil.stats import compare_groups, within_fold_auc_interval
from morphomil.types import InputError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from morphomil.bags import Fold
    from morphomil.matrix import Edges
    from morphomil.mil import InstanceBags
    from morphomil.stats.roc import AucInterval

SEEDS = 5
"""Models per fold, each with weights and an inner validation of its own; `quick` trains one."""
MAX_BAGS = 20
"""Of a slide: 200 patches; more patches make no bag better."""
RESAMPLES = 2000
"""Of patients and seeds, for the intervals of attention."""


class Counts(Protocol):
    """Gives a slide's histogram counts (features, patches, fine bins) when asked, so that not all are held at once."""

    def __call__(self, slide_id: str) -> NDArray[Any]:
        """The counts of one slide."""


@dataclass(frozen=True)
class FoldModel:
    """What a fold's prediction needs: edges, weights (arrays by name) and how training went."""

    edges: Edges
    weights: dict[str, NDArray[np.float32]] = field(repr=False)
    log: pd.DataFrame = field(repr=False)


@dataclass(frozen=True)
class Ranking:
    """The features in order of the attention they get, and all that this rests on."""

    table: pd.DataFrame
    """One row per feature: `rank, feature, attention, attention_low, attention_high`, then as `compare_groups`.
    Attention is relative to an even share, with 95 % intervals over patients and seeds."""
    predictions: pd.DataFrame
    """One row per predicted patient: `patient, fold, group, label` (1: positive), `probability`."""
    attention: pd.DataFrame
    """One row per predicted patient: `patient` and the share of attention of each feature."""
    patient_values: pd.DataFrame
    """One row per patient: `patient, label` and its value of each feature, which the tests compare."""
    auc: AucInterval
    """From pairs within folds; the interval takes the models as given (`within_fold_auc_interval`)."""
    positive: str
    reference: str
    models: dict[str, FoldModel]
    notes: tuple[str, ...]
    """What was left out, by group."""
    failed: dict[str, str]
    """Folds without a result, and why; their patients are missing from predictions and attention."""


def rank_nuclei(
    nuclei: pd.DataFrame,
    cohort: pd.DataFrame,
    *,
    seed: int,
    positive: str | None = None,
    folds: int = 5,
    quick: bool = False,
    on_fold: Callable[[int, int], None] | None = None,
) -> Ranking:
    """Rank the features of nuclei that were segmented anywhere.

    Args:
        nuclei: one row per nucleus: `slide_id`, `patch_id`, and two or more columns of `nuclei.FEATURES`.
        cohort: one row per slide: `slide_id`, `patient`, `label`, optionally `split` (train, val, test).
        seed: of folds, bags and training.
        positive: the label that counts as positive; needed unless labels are 0 and 1.
        folds: of the cross-validation, where `cohort` gives no split.
        quick: one model per fold.
        on_fold: hears (done, total).

    Raises:
        InputError: a column is missing, or the labels aren't two.
        RefusedError: leakage, or too few patients of a class.
    """
    missing = [f"nuclei lack the column {name}" for name in ("slide_id", "patch_id") if name not in nuclei]
    missing += [
        f"the cohort lacks the column {name}" for name in ("slide_id", "patient", "label") if name not in cohort
    ]
    features = features_in(nuclei)
    if len(features) < 2:
        missing.append(f"a ranking needs two features or more, the nuclei have {', '.join(features) or 'none'}")
    if missing:
        raise InputError(missing)
    slides = {str(name): part for name, part in nuclei.groupby("slide_id", sort=True)}
    cohort = cohort.assign(slide_id=cohort["slide_id"].astype(str))
    known = [name for name in cohort["slide_id"] if name in slides]
    values = pd.DataFrame([{"slide_id": name} | dict(slide_values(slides[name], features=features)) for name in known])

    def load(slide_id: str) -> NDArray[Any]:
        part = slides[slide_id]
        return count_nuclei(part, np.unique(part["patch_id"]), features=features)

    return rank_counts(
        load, values, cohort, features=features, seed=seed, positive=positive, folds=folds, quick=quick, on_fold=on_fold
    )


def rank_counts(
    load: Counts,
    values: pd.DataFrame,
    cohort: pd.DataFrame,
    *,
    features: tuple[str, ...],
    seed: int,
    positive: str | None = None,
    folds: int = 5,
    quick: bool = False,
    on_fold: Callable[[int, int], None] | None = None,
) -> Ranking:
    """Rank the features of slides whose counts are stored; see `rank_nuclei`.

    Args:
        load: gives the counts of a slide.
        values: one row per measured slide: `slide_id` and its value of each feature (`matrix.slide_values`).
        cohort: one row per slide.
        features: names, in the order of the counts.
        seed: of folds, bags and training.
        positive: the label that counts as positive.
        folds: of the cross-validation, where `cohort` gives no split.
        quick: one model per fold.
        on_fold: hears (done, total).
    """
    from morphomil.mil import TrainingError

    cohort = cohort.assign(label=cohort["label"].astype(str), patient=cohort["patient"].astype(str))
    positive, reference = _settle_groups(cohort["label"], positive)
    bags = _Bags.collect(load, cohort[cohort["slide_id"].isin(values["slide_id"])], seed=seed)
    used = cohort[cohort["slide_id"].isin(bags.slides)]
    notes = _count_losses(cohort, used)
    splits = make_folds(used, folds=folds, seed=seed)
    labels = patient_labels(used)
    failed: dict[str, str] = {}
    results: dict[str, _FoldResult] = {}
    for number, fold in enumerate(splits, start=1):
        seeds = 1 if quick else SEEDS
        try:
            results[fold.name] = _run_fold(fold, bags, labels == positive, features=features, seeds=seeds, seed=seed)
        except TrainingError as error:
            failed[fold.name] = str(error)
        if on_fold:
            on_fold(number, len(splits))
    if not results:
        raise TrainingError(f"no fold could be trained: {'; '.join(failed.values())}")
    predictions = pd.concat([result.predictions for result in results.values()], ignore_index=True)
    predictions.insert(2, "group", predictions["patient"].map(labels))
    attention = np.concatenate([result.attention for result in results.values()], axis=1)  # (seeds, patients, features)
    of_patients = patient_values(values[values["slide_id"].isin(bags.slides)], used)
    compared = compare_groups(of_patients[list(features)], of_patients["label"], positive=positive)
    auc = within_fold_auc_interval(predictions["label"], predictions["probability"], predictions["fold"])
    shares = pd.DataFrame(attention.mean(axis=0), columns=list(features))
    shares.insert(0, "patient", predictions["patient"])
    return Ranking(
        table=_table(attention, compared, features=features, seed=seed),
        predictions=predictions,
        attention=shares,
        patient_values=of_patients,
        auc=auc,
        positive=positive,
        reference=reference,
        models={name: result.model for name, result in results.items()},
        notes=notes,
        failed=failed,
    )


def _settle_groups(labels: pd.Series[str], positive: str | None) -> tuple[str, str]:
    """The positive label and the other one."""
    names = sorted(labels.unique())
    if len(names) == 1:
        raise RefusedError(f"groups can't be compared: every patient has the label {names[0]}")
    if len(names) != 2:
        raise InputError(f"a ranking compares two labels, the cohort has {len(names)}: {', '.join(names)}")
    if positive is None and names != ["0", "1"]:
        raise InputError(f"which label is positive? Say --positive {names[0]} or --positive {names[1]}")
    chosen = "1" if positive is None else str(positive)
    if chosen not in names:
        raise InputError(f"no slide has the positive label {chosen!r}; the labels are {', '.join(names)}")
    return chosen, names[1 - names.index(chosen)]


def _count_losses(cohort: pd.DataFrame, used: pd.DataFrame) -> tuple[str, ...]:
    """Who is left out, by label; a loss that differs between groups is a bias."""
    lost = cohort[~cohort["slide_id"].isin(used["slide_id"])]
    if lost.empty:
        return ()
    slides = ", ".join(
        f"{count} with label {label}" for label, count in lost["label"].value_counts().sort_index().items()
    )
    patients = cohort["patient"].nunique() - used["patient"].nunique()
    return (
        f"{len(lost)} slides without a patch of enough measured nuclei are left out ({slides}), and with them "
        f"{patients} patients.",
    )


@dataclass(frozen=True)
class _Bags:
    """Every slide's bags as mean histograms on the fine grid, and the sums that edges are fitted to."""

    slides: tuple[str, ...]
    patients: tuple[str, ...]
    patient: NDArray[np.int64]  # (bags,), sorted
    weight: NDArray[np.float64]  # (bags,): a patient's sum to 1
    fine: NDArray[np.float32]  # (features, bags, fine bins)
    totals: NDArray[np.int64]  # (patients, features, fine bins)

    @classmethod
    def collect(cls, load: Counts, cohort: pd.DataFrame, *, seed: int) -> _Bags:
        """Read each slide once, in the order of patient and slide id."""
        slides, patients, rows, owners, shares = [], [], [], [], []
        totals: dict[str, NDArray[np.int64]] = {}
        for row in cohort.sort_values(["patient", "slide_id"]).to_dict("records"):
            counts = load(row["slide_id"])
            counts = counts[:, has_enough_nuclei(counts)]
            if not counts.shape[1]:
                continue
            slides.append(str(row["slide_id"]))
            if row["patient"] not in totals:
                patients.append(row["patient"])
                totals[row["patient"]] = np.zeros((len(counts), FINE_BINS), np.int64)
            totals[row["patient"]] += counts.sum(axis=1, dtype=np.int64)
            drawn = draw_bags(counts.shape[1], bags=MAX_BAGS, seed_key=(seed, row["slide_id"]))
            frequencies = relative_frequencies(counts)
            rows += [mean_rows(frequencies[:, bag]) for bag in drawn]
            owners += [len(patients) - 1] * len(drawn)
            shares += [1 / len(drawn)] * len(drawn)
        if not rows:
            raise RefusedError(f"no slide has a patch with enough nuclei; {BAG_SIZE} patches of 5 nuclei make a bag")
        patient, weight = np.array(owners), np.array(shares)
        weight /= np.bincount(patient, weight)[patient]
        stacked = np.stack([totals[name] for name in patients])
        return cls(tuple(slides), tuple(patients), patient, weight, np.stack(rows, axis=1), stacked)

    def members(self, names: Iterable[str]) -> NDArray[np.bool_]:
        """Which patients are named."""
        return np.isin(np.array(self.patients, dtype=object), list(names))

    def instances(self, edges: Edges) -> InstanceBags:
        """The bags on a fold's edges."""
        from morphomil.mil import InstanceBags

        return InstanceBags(np.moveaxis(rebin(self.fine, edges), 0, 1), self.patient, self.weight)


@dataclass(frozen=True)
class _FoldResult:
    predictions: pd.DataFrame
    attention: NDArray[np.float64]  # (seeds, patients, features)
    model: FoldModel


def _run_fold(
    fold: Fold, bags: _Bags, positive: pd.Series[bool], *, features: tuple[str, ...], seeds: int, seed: int
) -> _FoldResult:
    """Train on a fold's patients and predict its test patients."""
    from morphomil.mil import train_morphometry

    learning, test = bags.members(fold.train + fold.val), bags.members(fold.test)
    edges = fit_edges_to_counts(bags.totals[bags.members(fold.train)], features=features)
    instances = bags.instances(edges)
    labels = positive[list(bags.patients)].to_numpy().astype(np.int64)
    trained = train_morphometry(
        instances.of_patients(learning),
        labels,
        validation=np.stack([_who_stops(fold, bags, positive, seed=seed, replicate=r) for r in range(seeds)]),
        seed=int(generator("fold", seed, fold.name).integers(2**31)),
    )
    seen = instances.of_patients(test)
    prediction = trained.predict(seen.values)
    names = [name for name, inside in zip(bags.patients, test, strict=True) if inside]
    probability = _by_patient(prediction.probability[..., 1:].mean(axis=0, keepdims=True), seen)[0, :, 0]
    table = pd.DataFrame({"patient": names, "fold": fold.name, "label": labels[test], "probability": probability})
    model = FoldModel(edges, trained.weights(), trained.log)
    return _FoldResult(table, _by_patient(prediction.attention, seen), model)


def _who_stops(fold: Fold, bags: _Bags, positive: pd.Series[bool], *, seed: int, replicate: int) -> NDArray[np.bool_]:
    """The patients whose loss ends training: the split's own, else an inner part of the training patients."""
    if fold.val:
        return bags.members(fold.val)
    training = positive[list(fold.train)]
    key = int(generator("stop", seed, fold.name, replicate).integers(2**31))
    return bags.members(training.index[inner_validation(training, seed=key)])


def _by_patient(values: NDArray[np.float64], bags: InstanceBags) -> NDArray[np.float64]:
    """Weighted mean over each patient's bags: (seeds, bags, n) -> (seeds, patients, n)."""
    _, place = np.unique(bags.patient, return_inverse=True)
    starts = np.flatnonzero(np.diff(place, prepend=-1))  # bags are sorted by patient
    return np.asarray(np.add.reduceat(values * bags.weight[:, None], starts, axis=1))


def _table(
    attention: NDArray[np.float64], compared: pd.DataFrame, *, features: tuple[str, ...], seed: int
) -> pd.DataFrame:
    """The ranking: attention relative to an even share with its interval, beside the comparison of the groups."""
    relative = attention * len(features)
    rng = generator("bootstrap", seed)
    seeds, patients, _ = relative.shape
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    of_patients = rng.multinomial(patients, np.full(patients, 1 / patients), size=RESAMPLES) / patients
    means = np.einsum("bs,bp,spf->bf", of_seeds, of_patients, relative, optimize=True)
    low, high = np.percentile(means, (2.5, 97.5), axis=0)
    table = pd.DataFrame(
        {
            "feature": list(features),
            "attention": relative.mean(axis=(0, 1)),
            "attention_low": low,
            "attention_high": high,
        }
    )
    table = table.merge(compared, on="feature", validate="one_to_one")
    table = table.sort_values("attention", ascending=False, kind="stable", ignore_index=True)
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    return table
