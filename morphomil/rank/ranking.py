"""Models + bags -> ranking: which feature the morphometry model attends to and relies on, and how
the groups differ.

Everything shown of a patient comes from models that didn't see the patient (`crossfit`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.cohort.labels import describe_losses, patient_labels, sort_labels
from morphomil.cohort.splits import make_folds
from morphomil.errors import InputError, RefusedError, TrainingError
from morphomil.matrix import count_nuclei, features_in, patient_values, slide_values
from morphomil.rank.folds import LEFT_OUT_WITHOUT, REPLICATES, FoldTask, PatientBags, permute_labels
from morphomil.rank.robustness import (
    TOP,
    compare_rankings,
    curves_of_removal,
    families_of,
    kendalls_w,
    measure_faithfulness,
    null_p,
    rank_distribution,
    say_agreement,
)
from morphomil.rank.settings import PERMUTATIONS, SEEDS
from morphomil.rank.shapley import Coalitions, contrast_auc, contrast_log_likelihood, log_likelihood
from morphomil.seeds import generator
from morphomil.stats import compare_groups, within_fold_auc_interval
from morphomil.stats.correlation import correlate_features

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from morphomil.cohort.splits import Fold
    from morphomil.rank.folds import Counts, FoldModel, FoldResult, NullResult
    from morphomil.stats.roc import AucInterval
RESAMPLES = 2000
"""Of patients and seeds, for the intervals of attention."""
STEPS, MOST_STEPS = 95, 200
"""A model's steps until it stops, and those of the last of a full batch; for the estimate."""
STEP_COST = 220
"""What a step takes whatever its batch, in training patients of one model (measured: 150 to 300);
for the estimate."""


@dataclass(frozen=True)
class Ranking:
    """The features in order of the attention they get, and all that this rests on."""

    table: pd.DataFrame
    """One row per feature: `rank, feature, attention`, then the columns of `docs/ranking.md`:
    Shapley values, ablation, stability, p values under permuted labels, then as `compare_groups`.
    Attention is relative to an even share; 95 % intervals are over patients and seeds. What has not
    been computed is NaN."""
    predictions: pd.DataFrame
    """One row per predicted patient: `patient, fold, group, label` (1: positive), `probability`."""
    attention: pd.DataFrame
    """One row per predicted patient: `patient` and the share of attention of each feature."""
    shapley: pd.DataFrame
    """One row per predicted patient: `patient` and each feature's contribution to the probability
    of the positive label, from the training prevalence."""
    agreement: pd.DataFrame
    """Kendall's tau among attention, Shapley value, ablation and effect size
    (`evidence.compare_rankings`)."""
    groups: pd.DataFrame
    """The ranking with features of a family as one: `group, features` and columns as in `table`."""
    correlation: pd.DataFrame
    """Spearman correlations of the patients' values, clustered."""
    stability: pd.DataFrame
    """How models of seeds and folds rank: `by` (attention or shapley), `kendalls_w`, then
    `rank_distribution`."""
    faithfulness: pd.DataFrame
    """Deletion and insertion against random order: `order` (attention or shapley), then
    `measure_faithfulness`."""
    statement: str
    """What attention puts first and whether the other ways of ranking agree, in plain words."""
    patient_values: pd.DataFrame
    """One row per patient: `patient, label` and its value of each feature, which the tests
    compare."""
    auc: AucInterval
    """From pairs within folds; the interval takes the models as given
    (`within_fold_auc_interval`)."""
    positive: str
    reference: str
    folds: tuple[Fold, ...]
    """Who trained and who was predicted."""
    models: dict[str, FoldModel]
    """By fold."""
    slides: tuple[str, ...]
    """Those with a patch of enough nuclei."""
    notes: tuple[str, ...]
    """What was left out, by group."""
    failed: dict[str, str]
    """Folds without a result, and why; their patients are missing from predictions and
    attention."""


def rank_nuclei(
    nuclei: pd.DataFrame,
    cohort: pd.DataFrame,
    *,
    seed: int,
    positive: str | None = None,
    folds: int = 5,
    quick: bool = False,
    permutations: int = PERMUTATIONS,
    ablation: bool = True,
    on_fold: Callable[[int, int], None] | None = None,
    on_estimate: Callable[[float], None] | None = None,
) -> Ranking:
    """Rank the features of nuclei that were segmented anywhere.

    Args:
        nuclei: one row per nucleus: `slide_id`, `patch_id`, and two or more columns of
            `nuclei.FEATURES`.
        cohort: one row per slide: `slide_id`, `patient`, `label`, optionally `split` (train, val,
            test).
        seed: of folds, bags and training.
        positive: the label that counts as positive; needed unless labels are 0 and 1.
        folds: of the cross-validation, where `cohort` gives no split.
        quick: one model per fold, no permutations, no ablation.
        permutations: of the labels, for the null; each is trained.
        ablation: also train without each feature, and with each alone.
        on_fold: hears (done, total).
        on_estimate: hears the seconds that the training still to come will take, once the first
            model is trained.

    Raises:
        InputError: a column is missing, or the labels aren't two.
        RefusedError: leakage, or too few patients of a class.
    """
    missing = [
        f"nuclei lack the column {name}" for name in ("slide_id", "patch_id") if name not in nuclei
    ]
    missing += [
        f"the cohort lacks the column {name}"
        for name in ("slide_id", "patient", "label")
        if name not in cohort
    ]
    features = features_in(nuclei)
    if len(features) < 2:
        missing.append(
            f"a ranking needs two features or more, the nuclei have {', '.join(features) or 'none'}"
        )
    if missing:
        raise InputError(missing)
    slides = {str(name): part for name, part in nuclei.groupby("slide_id", sort=True)}
    cohort = cohort.assign(slide_id=cohort["slide_id"].astype(str))
    known = [name for name in cohort["slide_id"] if name in slides]
    values = pd.DataFrame(
        [{"slide_id": name} | dict(slide_values(slides[name], features=features)) for name in known]
    )

    def load(slide_id: str) -> NDArray[Any]:
        part = slides[slide_id]
        return count_nuclei(part, np.unique(part["patch_id"]), features=features)

    return rank_counts(
        load,
        values,
        cohort,
        features=features,
        seed=seed,
        positive=positive,
        folds=folds,
        quick=quick,
        permutations=permutations,
        ablation=ablation,
        on_fold=on_fold,
        on_estimate=on_estimate,
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
    permutations: int = PERMUTATIONS,
    ablation: bool = True,
    on_fold: Callable[[int, int], None] | None = None,
    on_estimate: Callable[[float], None] | None = None,
) -> Ranking:
    """Rank the features of slides whose counts are stored; see `rank_nuclei`.

    Args:
        load: gives the counts of a slide.
        values: one row per measured slide: `slide_id` and its value of each feature
            (`matrix.slide_values`).
        cohort: one row per slide.
        features: names, in the order of the counts.
        seed: of folds, bags and training.
        positive: the label that counts as positive.
        folds: of the cross-validation, where `cohort` gives no split.
        quick: one model per fold, no permutations, no ablation.
        permutations: of the labels, for the null; each is trained.
        ablation: also train without each feature, and with each alone.
        on_fold: hears (done, total).
        on_estimate: hears the seconds that the training still to come will take, once the first
            model is trained.
    """
    cohort = cohort.assign(label=cohort["label"].astype(str), patient=cohort["patient"].astype(str))
    positive, reference = _settle_groups(cohort["label"], positive)
    bags = PatientBags.collect(load, cohort[cohort["slide_id"].isin(values["slide_id"])], seed=seed)
    used = cohort[cohort["slide_id"].isin(bags.slides)]
    splits = make_folds(used, folds=folds, seed=seed)
    labels = patient_labels(used)
    positives = labels == positive
    plan = _Plan.of(
        features, seeds=1 if quick else SEEDS, ablation=ablation and not quick, seed=seed
    )
    labelings = permute_labels(
        positives.to_numpy().astype(np.int64),
        splits,
        bags,
        permutations=0 if quick else permutations,
        seed=seed,
    )
    failed: dict[str, str] = {}
    answers: dict[str, _FoldAnswers] = {}
    for number, fold in enumerate(splits, start=1):
        try:
            task = FoldTask(fold, bags, positives, features=features, seed=seed)
            report = on_estimate if number == 1 else None
            answers[fold.name] = plan.run(task, labelings, on_estimate=report, folds=len(splits))
        except TrainingError as error:
            failed[fold.name] = str(error)
        if on_fold:
            on_fold(number, len(splits))
    if not answers:
        raise TrainingError(f"no fold could be trained: {'; '.join(failed.values())}")
    results = [answer.result for answer in answers.values()]
    predictions = pd.concat([result.predictions for result in results], ignore_index=True)
    predictions.insert(2, "group", predictions["patient"].map(labels))
    of_patients = patient_values(values[values["slide_id"].isin(bags.slides)], used)
    compared = compare_groups(of_patients[list(features)], of_patients["label"], positive=positive)
    evidence = _Evidence(plan, list(answers.values()), predictions, seed=seed)
    table = evidence.table(compared)
    groups = evidence.group_table()
    agreement = compare_rankings(
        pd.DataFrame(
            {
                "attention": table["attention"],
                "shapley": table["shapley_log_loss"],
                "ablation": table["ablation_auc"],
                "effect_size": table["cliffs_delta"].abs(),
            }
        )
    )
    return Ranking(
        table=table,
        predictions=predictions,
        attention=evidence.of_patients(evidence.attention.mean(axis=0)),
        shapley=evidence.of_patients(evidence.contributions.T),
        agreement=agreement,
        groups=groups,
        correlation=correlate_features(of_patients[list(features)]).rho,
        stability=evidence.stability(),
        faithfulness=evidence.faithfulness(),
        statement=say_agreement(table, groups, agreement),
        patient_values=of_patients,
        auc=within_fold_auc_interval(
            predictions["label"], predictions["probability"], predictions["fold"]
        ),
        positive=positive,
        reference=reference,
        folds=splits,
        models={name: answer.result.model for name, answer in answers.items()},
        slides=bags.slides,
        notes=describe_losses(cohort, used, LEFT_OUT_WITHOUT),
        failed=failed,
    )


def _settle_groups(labels: pd.Series[str], positive: str | None) -> tuple[str, str]:
    """The positive label and the other one."""
    names = sort_labels(labels)
    if len(names) == 1:
        raise RefusedError(f"groups can't be compared: every patient has the label {names[0]}")
    if len(names) != 2:
        raise InputError(
            f"a ranking compares two labels, the cohort has {len(names)}: {', '.join(names)}"
        )
    if positive is None and names != ["0", "1"]:
        raise InputError(
            f"which label is positive? Say --positive {names[0]} or --positive {names[1]}"
        )
    chosen = "1" if positive is None else str(positive)
    if chosen not in names:
        raise InputError(
            f"no slide has the positive label {chosen!r}; the labels are {', '.join(names)}"
        )
    return chosen, names[1 - names.index(chosen)]


@dataclass(frozen=True)
class _FoldAnswers:
    """All that is trained in a fold."""

    result: FoldResult
    without: NDArray[np.float64] | None  # (seeds, sets of features, patients)
    null: NullResult | None


@dataclass(frozen=True)
class _Plan:
    """What is trained in every fold."""

    features: tuple[str, ...]
    seeds: int
    coalitions: Coalitions
    families: dict[str, tuple[int, ...]]
    kept: NDArray[np.bool_] | None
    """(sets, features) of the ablation: without each feature, without each family, each feature
    alone, each family alone; None without ablation."""

    @classmethod
    def of(cls, features: tuple[str, ...], *, seeds: int, ablation: bool, seed: int) -> _Plan:
        families = families_of(features)
        member = np.zeros((len(families), len(features)), np.bool_)
        for row, members in zip(member, families.values(), strict=True):
            row[list(members)] = True
        alone = np.concatenate([np.eye(len(features), dtype=np.bool_), member])
        alone = alone[
            : len(features) + sum(len(members) > 1 for members in families.values())
        ]  # single ones are there
        whole = alone.all(
            axis=1, keepdims=True
        )  # a family of all features leaves nothing out of which to learn
        kept = np.concatenate([whole | ~alone, alone])
        return cls(
            features,
            seeds,
            Coalitions.of(len(features), seed=seed),
            families,
            kept if ablation else None,
        )

    def run(
        self,
        task: FoldTask,
        labelings: NDArray[np.int64],
        *,
        on_estimate: Callable[[float], None] | None,
        folds: int,
    ) -> _FoldAnswers:
        begun = time.monotonic()
        result = task.answer(self.seeds, self.coalitions)
        null = len(labelings) > 1
        models = (0 if self.kept is None else self.seeds * len(self.kept)) + (
            len(labelings) if null else 0
        )
        if on_estimate:
            patients = int((task.training | task.validation).sum())
            steps = result.model.log.groupby("replicate")["step"].max()
            pace = (time.monotonic() - begun) / (STEP_COST * steps.max() + patients * steps.sum())
            more = folds * _work(models, patients) + (folds - 1) * _work(self.seeds, patients)
            on_estimate(pace * more)
        without = None if self.kept is None else task.answer_without(self.seeds, self.kept)
        return _FoldAnswers(
            result, without, task.answer_permuted(labelings, self.coalitions) if null else None
        )


def _work(models: int, patients: int) -> float:
    """Of training so many models, in steps of one model by one patient."""
    return STEP_COST * MOST_STEPS * -(-models // REPLICATES) + STEPS * models * patients


class _Evidence:
    """What the folds' answers say together."""

    def __init__(
        self, plan: _Plan, answers: list[_FoldAnswers], predictions: pd.DataFrame, *, seed: int
    ) -> None:
        self.plan, self.answers, self.seed = plan, answers, seed
        self.patients = predictions["patient"]
        self.labels = predictions["label"].to_numpy()
        self.folds = predictions["fold"].to_numpy()
        self.attention = np.concatenate(
            [one.result.attention for one in answers], axis=1
        )  # (seeds, patients, features)
        self.coalitions = np.concatenate([one.result.coalitions for one in answers], axis=2)
        self.contributions = plan.coalitions.weights @ self.coalitions.mean(
            axis=0
        )  # (features, patients)

    def of_patients(self, values: NDArray[np.float64]) -> pd.DataFrame:
        table = pd.DataFrame(values, columns=list(self.plan.features))
        table.insert(0, "patient", self.patients)
        return table

    def table(self, compared: pd.DataFrame) -> pd.DataFrame:
        """The ranking, in the order of attention."""
        count = len(self.plan.features)
        columns: dict[str, Any] = {"feature": list(self.plan.features)}
        columns |= _attend(self.attention * count, seed=self.seed) | {
            "attention_p": np.nan,
            "attention_p_any": np.nan,
        }
        columns |= self._share(self.plan.coalitions.weights)
        columns["shapley_probability"] = np.abs(self.contributions).mean(axis=1)
        if self.plan.coalitions.steps is not None:
            mean = log_likelihood(self.coalitions.mean(axis=0), self.labels).mean(axis=1)
            columns["shapley_log_loss_se"] = self.plan.coalitions.standard_error(mean)
        columns |= {"shapley_p": np.nan, "shapley_p_any": np.nan}
        if self.answers[0].null is not None:
            nulls = [one.null for one in self.answers if one.null is not None]
            columns["attention_p"], columns["attention_p_any"] = null_p(
                np.sum([n.attention for n in nulls], axis=0)
            )
            columns["shapley_p"], columns["shapley_p_any"] = null_p(
                np.sum([n.shapley for n in nulls], axis=0)
            )
        columns |= {name: values[:count] for name, values in self._ablate().items()}
        table = pd.DataFrame(columns)
        stability = self.stability().set_index("feature")
        for by in ("attention", "shapley"):
            chosen = stability.loc[stability["by"] == by, ["rank_mean", "top1", f"top{TOP}"]]
            table = table.merge(chosen.add_prefix(f"{by}_"), left_on="feature", right_index=True)
        table = table.merge(compared, on="feature", validate="one_to_one")
        table = table.sort_values("attention", ascending=False, kind="stable", ignore_index=True)
        table.insert(0, "rank", np.arange(1, count + 1))
        return table

    def group_table(self) -> pd.DataFrame:
        """Families as one feature each; empty beyond the number of features whose coalitions are
        all evaluated."""
        names = list(self.plan.families)
        members = [[self.plan.features[i] for i in self.plan.families[name]] for name in names]
        table = pd.DataFrame({"group": names, "features": [", ".join(of) for of in members]})
        one_by_one = self.attention * len(self.plan.features)
        grouped = np.stack(
            [one_by_one[..., list(of)].mean(axis=-1) for of in self.plan.families.values()], axis=-1
        )
        columns: dict[str, Any] = _attend(grouped, seed=self.seed)
        if self.plan.coalitions.steps is None:
            columns |= self._share(self.plan.coalitions.group(list(self.plan.families.values())))
        count = len(self.plan.features)
        place = [
            count + i if len(of) > 1 else of[0] for i, of in enumerate(self.plan.families.values())
        ]
        columns |= {name: values[place] for name, values in self._ablate().items()}
        order = "shapley_rank" if "shapley_rank" in columns else "group"
        return table.assign(**columns).sort_values(order, kind="stable", ignore_index=True)

    def stability(self) -> pd.DataFrame:
        """Rankings by single models, those of seeds and folds."""
        attention, shapley = [], []
        for one in self.answers:
            attention.append(one.result.attention.mean(axis=1))
            truth = one.result.predictions["label"].to_numpy()
            shapley.append(
                log_likelihood(one.result.coalitions, truth).mean(axis=2)
                @ self.plan.coalitions.weights.T
            )
        parts = []
        for by, of_folds in (("attention", attention), ("shapley", shapley)):
            scores = np.concatenate(of_folds)
            part = rank_distribution(scores, self.plan.features)
            part.insert(0, "by", by)
            part.insert(1, "kendalls_w", kendalls_w(scores) if len(scores) > 1 else np.nan)
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    def faithfulness(self) -> pd.DataFrame:
        """Of each patient's order by attention and by the size of the contribution to the
        probability."""
        if self.plan.coalitions.steps is not None:
            return pd.DataFrame(
                columns=["order", "curve", "area", "area_random", "gain", "gain_low", "gain_high"]
            )
        parts = []
        for order, scores in (
            ("attention", self.attention.mean(axis=0)),
            ("shapley", np.abs(self.contributions.T)),
        ):
            curves = curves_of_removal(
                self.coalitions.mean(axis=0), self.labels, scores, self.plan.coalitions
            )
            part = measure_faithfulness(curves, seed=self.seed)
            part.insert(0, "order", order)
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    def _share(self, weights: NDArray[np.float64]) -> dict[str, Any]:
        """Shapley values of players, and their order by log-loss."""
        loss = contrast_log_likelihood(self.coalitions, self.labels, weights, seed=self.seed)
        area = contrast_auc(self.coalitions, self.labels, self.folds, weights, seed=self.seed)
        rank = np.empty(len(weights), np.int64)
        rank[np.argsort(-loss.value, kind="stable")] = np.arange(1, len(weights) + 1)
        return (
            {"shapley_rank": rank} | loss.columns("shapley_log_loss") | area.columns("shapley_auc")
        )

    def _ablate(self) -> dict[str, NDArray[np.float64]]:
        """The AUC lost without, and had with only, each feature, then each family of several; NaN
        without ablation."""
        count = len(self.plan.features) + sum(len(of) > 1 for of in self.plan.families.values())
        names = [
            f"{name}{end}"
            for name in ("ablation_auc", "alone_auc")
            for end in ("", "_low", "_high")
        ]
        parts = [one.without for one in self.answers if one.without is not None]
        if not parts:
            return {name: np.full(count, np.nan) for name in names}
        probability = np.concatenate(
            [self.coalitions[:, -1:], np.concatenate(parts, axis=2)], axis=1
        )
        each = np.eye(count)
        nothing = np.zeros((count, count))
        lost = np.concatenate([np.ones((count, 1)), -each, nothing], axis=1)
        alone = np.concatenate([np.zeros((count, 1)), nothing, each], axis=1)
        area = contrast_auc(
            probability, self.labels, self.folds, np.concatenate([lost, alone]), seed=self.seed
        )
        numbers: dict[str, NDArray[np.float64]] = {}
        for name, half in (("ablation_auc", slice(0, count)), ("alone_auc", slice(count, None))):
            numbers |= {
                f"{name}{end}": values[half]
                for end, values in zip(("", "_low", "_high"), area, strict=True)
            }
        return numbers


def _attend(relative: NDArray[np.float64], *, seed: int) -> dict[str, NDArray[np.float64]]:
    """Attention relative to an even share, (seeds, patients, features), as means with intervals
    over both."""
    rng = generator("bootstrap", seed)
    seeds, patients, _ = relative.shape
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    of_patients = (
        rng.multinomial(patients, np.full(patients, 1 / patients), size=RESAMPLES) / patients
    )
    means = np.einsum("bs,bp,spf->bf", of_seeds, of_patients, relative, optimize=True)
    low, high = np.percentile(means, (2.5, 97.5), axis=0)
    return {"attention": relative.mean(axis=(0, 1)), "attention_low": low, "attention_high": high}
