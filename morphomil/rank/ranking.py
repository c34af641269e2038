"""Models + bags -> ranking: which feature the morphometry model attends to and relies on, and how
the groups differ.

Everything shown of a patient comes from models that didn't see the patient (`folds`).
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.errors import TrainingError
from morphomil.matrix import by_value, count_nuclei, slide_values
from morphomil.nuclei.registry import FEATURES
from morphomil.rank.comparison import compare_features
from morphomil.rank.design import say_covariates
from morphomil.rank.folds import FoldTask
from morphomil.rank.inputs import check_inputs
from morphomil.rank.outcomes import PooledOutcomes
from morphomil.rank.plan import TrainingPlan, make_anew
from morphomil.rank.robustness import compare_orders, say_agreement
from morphomil.rank.study import Study
from morphomil.rank.summaries import PatientSummaries
from morphomil.seeds import sums_on_one_thread
from morphomil.stats.correlation import correlate_features
from morphomil.types import CORES, RankSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from morphomil.cohort.splits import Fold
    from morphomil.rank.bags import Counts
    from morphomil.rank.baselines import Baselines
    from morphomil.rank.classes import Classes
    from morphomil.rank.design import Design
    from morphomil.rank.folds import FoldModel
    from morphomil.rank.interactions import Interactions
    from morphomil.rank.plan import Arrays, FoldOutcome, Piece, Recall
    from morphomil.rank.scan import FeatureScan
    from morphomil.rank.verdict import Verdict
    from morphomil.stats.roc import AucInterval


@dataclass(frozen=True)
class Ranking:
    """The features in order, by the attention they get and the plain tests, and all that this rests
    on."""

    table: pd.DataFrame
    """One row per feature: `rank, feature, value, rank_score` (`outcomes.score_features`), then the
    columns of `docs/ranking.md`: attention, Shapley values, ablation, stability, p values under
    permuted labels, then as `compare_groups` (of three and more labels `several.compare_several`)
    and, from `scan_summary` on, as `FeatureScan.features`.
    Attention is relative to an even share; 95 % intervals are over patients and seeds. What has not
    been computed is NaN."""
    predictions: pd.DataFrame
    """One row per predicted patient: `patient, fold, group, label` (1: positive), `probability`; of
    three and more labels `label` is the group's number and `probability_0, probability_1, ...`
    follow."""
    attention: pd.DataFrame
    """One row per predicted patient: `patient` and the share of attention of each feature."""
    shapley: pd.DataFrame
    """One row per predicted patient: `patient` and each feature's contribution to the probability
    of the positive label, of three and more labels of the patient's own, from the training
    prevalence."""
    agreement: pd.DataFrame
    """Kendall's tau among attention, Shapley value, ablation and effect size
    (`robustness.compare_rankings`)."""
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
    interactions: Interactions
    """Every pair of features, and the surest one in words."""
    scan: FeatureScan
    """How the groups differ in ten summaries of each feature, without a model, and in words."""
    baselines: Baselines
    """Out-of-fold AUC of plain models beside the morphometry model's, and in words."""
    verdict: Verdict
    """What the tests allow to say: supported, inconclusive at this n, not supported."""
    statement: str
    """What attention puts first and whether the other ways of ranking agree, in plain words."""
    patient_values: pd.DataFrame
    """One row per patient: `patient, label` and its value of each feature, which the tests
    compare, under the names in the table's column `value`."""
    design: Design
    """Within which strata labels were compared and permuted, and what was adjusted for."""
    auc_covariates: AucInterval | None
    """Of the covariates alone, from which Shapley values by AUC count; None where none are adjusted
    for."""
    auc: AucInterval
    """From pairs within folds; the interval is of models trained in this way
    (`within_fold_auc_interval`)."""
    classes: Classes
    """The labels: of two the positive one last."""
    pairs: pd.DataFrame
    """Every two of three and more groups in each feature (`several.compare_pairs`)."""
    folds: tuple[Fold, ...]
    """Who trained and who was predicted."""
    models: dict[str, FoldModel]
    """By fold."""
    slides: tuple[str, ...]
    """Those with a patch of enough nuclei."""
    missing: pd.DataFrame
    """One row per feature: how many patients of each group lack it
    (`missing.compare_missingness`)."""
    notes: tuple[str, ...]
    """What was left out or is missing, by group."""
    failed: dict[str, str]
    """Folds without a result, and why; their patients are missing from predictions and
    attention."""


def rank_nuclei(
    nuclei: pd.DataFrame,
    cohort: pd.DataFrame,
    *,
    seed: int,
    distinct_ids: bool = False,
    on_fold: Callable[[int, int], None] | None = None,
    on_estimate: Callable[[float], None] | None = None,
    **changes: Any,
) -> Ranking:
    """Rank the features of nuclei that were segmented anywhere.

    Args:
        nuclei: one row per nucleus: `slide_id`, `patch_id`, and two or more columns of
            `nuclei.FEATURES`.
        cohort: one row per slide: `slide_id`, `patient`, `label`, optionally `split` (train, val,
            test).
        seed: of folds, bags and training.
        distinct_ids: near-equal patients, labels and slides ("001" and "1") are meant so.
        on_fold: hears (done, total).
        on_estimate: hears the seconds that the training still to come will take, once the first
            model is trained.
        changes: further fields of `RankSettings`: `positive` (needed of two labels unless they are
            0 and 1), `ordered` (of three and more), `folds`, `quick`, `permutations`, `ablation`,
            `reading`, `strata`, `adjust`, `folds_by`, `allow_missing`.

    Raises:
        InputError: a column is missing, names or units can't be right (`inputs.check_inputs`), or
            there are more than six labels.
        RefusedError: leakage, too few patients of a class, or strata that leave nothing to compare.
    """
    settings = RankSettings(seed=seed, **changes)
    named = (*settings.strata_columns, *settings.adjusted_columns, settings.folds_by.strip())
    given = check_inputs(
        nuclei,
        cohort,
        covariates=[name for name in dict.fromkeys(named) if name in cohort],
        distinct_ids=distinct_ids,
    )
    features = given.features
    slides = {str(name): part for name, part in given.nuclei.groupby("slide_id", sort=True)}
    known = [name for name in given.cohort["slide_id"] if name in slides]
    values = pd.DataFrame(
        [{"slide_id": name} | dict(slide_values(slides[name], features=features)) for name in known]
    )

    def load(slide_id: str) -> NDArray[Any]:
        part = slides[slide_id]
        return count_nuclei(part, np.unique(part["patch_id"]), features=features)

    ranking = rank_counts(
        load,
        values,
        given.cohort,
        features=features,
        settings=settings,
        on_fold=on_fold,
        on_estimate=on_estimate,
    )
    return replace(ranking, notes=given.notes + ranking.notes)


@sums_on_one_thread
def rank_counts(
    load: Counts,
    values: pd.DataFrame,
    cohort: pd.DataFrame,
    *,
    features: tuple[str, ...],
    settings: RankSettings,
    on_fold: Callable[[int, int], None] | None = None,
    on_estimate: Callable[[float], None] | None = None,
    recall: Recall = make_anew,
) -> Ranking:
    """Rank the features of slides whose counts are stored; see `rank_nuclei`.

    Args:
        load: gives the counts of a slide.
        values: one row per measured slide: `slide_id` and its value of each feature
            (`matrix.slide_values`).
        cohort: one row per slide.
        features: names, in the order of the counts.
        settings: how.
        on_fold: hears (done, total).
        on_estimate: hears the seconds that the training still to come will take, once the first
            model is trained.
        recall: knows pieces of the training that were made before (`train_pieces`).
    """
    of_slides = PatientSummaries(features, cohort.astype({"patient": str}))
    study = Study.of(load, values, cohort, settings, summaries=of_slides)
    bags, classes = study.bags, study.classes
    plan = TrainingPlan.of(features, settings)
    labelings = study.permute(settings)
    outcomes, failed = _train_folds(plan, study, labelings, settings, recall, on_fold, on_estimate)
    predictions = _predictions(study, outcomes)
    models = {name: outcome.result.model for name, outcome in outcomes.items()}
    of_patients = study.patient_values(values)
    compared = compare_features(of_patients, features, classes=classes, design=study.design)
    summaries = of_slides.of_patients()
    scan = study.scan(summaries, features, seed=settings.seed)
    baselines = study.compare_baselines(predictions, of_patients, summaries, settings)
    pooled = PooledOutcomes(plan, outcomes, predictions, classes=classes, seed=settings.seed)
    outcomes.clear()  # their answers are held once
    auc, auc_covariates = pooled.auc(features=True), study.auc_covariates(pooled)
    table, groups = pooled.table(compared.merge(scan.features, on="feature")), pooled.group_table()
    verdict = study.judge(table, scan, pooled, labelings, auc_high=auc.high)
    table = _name_values(table.merge(verdict.features, on="feature", how="left"))
    agreement = compare_orders(table)
    return Ranking(
        table=table,
        predictions=predictions,
        attention=pooled.of_patients(pooled.attention.mean(axis=0)),
        shapley=pooled.of_patients(pooled.contributions.T),
        agreement=agreement,
        groups=groups,
        correlation=correlate_features(by_value(of_patients[list(features)])).rho,
        stability=pooled.stability(),
        faithfulness=pooled.faithfulness(),
        interactions=pooled.interactions(),
        scan=scan,
        baselines=baselines,
        statement=say_agreement(table, groups, agreement),
        patient_values=by_value(of_patients),
        auc=auc,
        verdict=verdict,
        design=study.design,
        auc_covariates=auc_covariates,
        classes=classes,
        pairs=study.compare_pairs(of_patients, features),
        folds=study.folds,
        models=models,
        slides=bags.slides,
        missing=study.missing,
        notes=(*study.notes, *say_covariates(study.design, auc_covariates)),
        failed=failed,
    )


@sums_on_one_thread
def train_pieces(
    load: Counts,
    values: pd.DataFrame,
    cohort: pd.DataFrame,
    *,
    features: tuple[str, ...],
    settings: RankSettings,
    recall: Recall,
    part: tuple[int, int] = (1, 1),
    on_piece: Callable[[int, int], None] | None = None,
) -> None:
    """Train part i of n of what `rank_counts` trains beside each fold's first models, for `recall`
    to store; `on_piece` hears (done, total), and the other arguments are its. A fold that fails is
    left to `rank_counts`, which says why.
    """
    from morphomil.rank.model import side_by_side  # loads PyTorch

    of_slides = PatientSummaries(features, cohort.astype({"patient": str}))
    study = Study.of(load, values, cohort, settings, summaries=of_slides)
    plan, labelings = TrainingPlan.of(features, settings), study.permute(settings)
    pieces = [
        (fold, piece)
        for fold in study.folds
        for piece in plan.pieces(study.learning(fold), len(labelings))
    ][part[0] - 1 :: part[1]]
    folds = list({fold.name: fold for fold, _ in pieces}.values())

    def train(fold: Fold, check: Callable[[], None]) -> int:
        task = _task(study, fold, plan, settings, check=check)
        own = [piece for other, piece in pieces if other.name == fold.name]
        for piece in own:
            with suppress(TrainingError):
                recall(f"{fold.name}-{piece.name}", partial(plan.make, piece, task, labelings))
        return len(own)

    done = 0
    if on_piece:
        on_piece(done, len(pieces))
    for made in side_by_side(train, folds, workers=min(CORES, len(folds) or 1)):
        done += made
        if on_piece:
            on_piece(done, len(pieces))


def _task(
    study: Study,
    fold: Fold,
    plan: TrainingPlan,
    settings: RankSettings,
    *,
    check: Callable[[], None],
) -> FoldTask:
    return FoldTask(
        fold,
        study.bags,
        study.codes,
        features=plan.features,
        seed=settings.seed,
        reading=settings.reading,
        covariates=study.design.covariates,
        check=check,
    )


def _predictions(study: Study, outcomes: dict[str, FoldOutcome]) -> pd.DataFrame:
    """Of all folds' test patients, with the names of their groups."""
    tables = [outcome.result.predictions for outcome in outcomes.values()]
    predictions = pd.concat(tables, ignore_index=True)
    predictions.insert(2, "group", predictions["patient"].map(study.labels))
    return predictions


def _name_values(table: pd.DataFrame) -> pd.DataFrame:
    """The ranking with the column `value` after `feature`."""
    table.insert(2, "value", [FEATURES[name].value for name in table["feature"]])
    return table


def _train_folds(
    plan: TrainingPlan,
    study: Study,
    labelings: NDArray[np.int64],
    settings: RankSettings,
    recall: Recall,
    on_fold: Callable[[int, int], None] | None,
    on_estimate: Callable[[float], None] | None,
) -> tuple[dict[str, FoldOutcome], dict[str, str]]:
    """The outcome of each fold that could be trained, and why the others couldn't: of all folds
    first the models on all features, then what else is trained, side by side.

    Raises:
        TrainingError: none could.
    """
    from morphomil.rank.model import side_by_side  # loads PyTorch

    folds, workers = study.folds, min(CORES, len(study.folds))

    def begin(fold: Fold, check: Callable[[], None]) -> _Begun | TrainingError:
        task, started = _task(study, fold, plan, settings, check=check), time.monotonic()
        try:
            outcome = plan.begin(task, labelings)
        except TrainingError as error:
            return error
        if on_estimate and fold is folds[0]:
            took, count = time.monotonic() - started, len(folds)
            on_estimate(
                plan.estimate(task, outcome, labelings, seconds=took, folds=count, workers=workers)
            )
        return _Begun(task, outcome)

    def go_on(
        job: tuple[FoldTask, Piece], check: Callable[[], None]
    ) -> tuple[Piece, Arrays] | TrainingError:
        task, piece = job
        task.check = check
        try:
            make = partial(plan.make, piece, task, labelings)
            return piece, recall(f"{task.fold.name}-{piece.name}", make)
        except TrainingError as error:
            return error

    begun = list(side_by_side(begin, folds, workers=workers))
    pieces = [
        [(one.task, piece) for piece in plan.pieces(one.task.learning, len(labelings))]
        if isinstance(one, _Begun)
        else []
        for one in begun
    ]
    results = side_by_side(go_on, [job for own in pieces for job in own], workers=CORES)
    outcomes: dict[str, FoldOutcome] = {}
    failed: dict[str, str] = {}
    for number, (fold, one, own) in enumerate(zip(folds, begun, pieces, strict=True), start=1):
        made = [next(results) for _ in own]
        errors = [str(result) for result in (one, *made) if isinstance(result, TrainingError)]
        if errors:
            failed[fold.name] = errors[0]
        elif isinstance(one, _Begun):
            trained = [result for result in made if not isinstance(result, TrainingError)]
            outcomes[fold.name] = plan.finish(one.outcome, trained)
        if on_fold:
            on_fold(number, len(folds))
    if not outcomes:
        raise TrainingError(f"no fold could be trained: {'; '.join(failed.values())}")
    return outcomes, failed


@dataclass(frozen=True)
class _Begun:
    """A fold whose models on all features are trained."""

    task: FoldTask
    outcome: FoldOutcome
