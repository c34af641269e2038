"""Plain models on the ranking's folds: what the morphometry model must be held against.

They are fitted, scaled, tuned and filled in from a fold's training patients only, and predict the
patients whom the morphometry model of that fold predicts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.rank.classes import out_of_fold_auc, out_of_fold_difference
from morphomil.rank.missing import fill_rows
from morphomil.seeds import generator
from morphomil.stats.predictions import class_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from morphomil.cohort.splits import Fold

    Fit = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], NDArray[Any]]
    """(training rows, their labels, rows to predict) -> scores."""

MORPHOMETRY, SINGLE = "morphometry", "single_feature"
BASELINES = {
    SINGLE: "a logistic regression on the single best feature",
    "logistic_medians": "a logistic regression on the patients' values",
    "logistic_products": "a logistic regression on the patients' values and their products",
    "l1_summaries": "an L1 logistic regression on ten summaries of each feature",
    "forest_summaries": "a random forest on ten summaries of each feature",
}
"""What each is; the best feature is that of the training patients, and the forest, which takes
longest, is left out of a quick ranking."""
INNER_FOLDS = 5
"""Penalties are chosen by the log-loss of so many folds of the training patients."""
RIDGE = (100.0, 30.0, 10.0, 3.0, 1.0)
"""Squared weights of standardized columns are penalized by half of one of these."""
STRENGTHS = (1.2, 1.7, 2.4, 3.4, 4.8, 6.8, 9.6, 13.6)
"""Of an L1 penalty: C in units of that below which every weight is 0."""
TREES, LEAF = 200, 3
NOTABLE = 0.01
"""Baselines whose AUC is higher by at least this are named in words."""
_STEPS = 8  # of Newton's method, enough for penalties of 1 and more


@dataclass(frozen=True)
class Baselines:
    """How well plain models predict."""

    table: pd.DataFrame
    """One row per model, the morphometry model first: `model, description, patients, auc, low,
    high`, and `difference` of AUC (the model's minus the morphometry model's) with `_low`, `_high`:
    pairs within folds, of models trained in this way (`within_fold_auc_interval`,
    `delong_test`)."""
    predictions: pd.DataFrame
    """One row per predicted patient: `patient, fold, label`, and each model's score; of three and
    more classes `MODEL_0, MODEL_1, ...`, each class's share of the scores."""
    statement: str
    """Which is better, the single best feature or the model, and whether another plain model
    predicts better than it."""


def compare_baselines(
    predictions: pd.DataFrame,
    folds: Sequence[Fold],
    *,
    values: pd.DataFrame,
    summaries: pd.DataFrame,
    classes: pd.Series[Any],
    seed: int,
    forest: bool = True,
    features: int | None = None,
    held: Sequence[str] = (),
) -> Baselines:
    """Fit and judge the baselines; of three and more classes, each against the rest.

    Args:
        predictions: of the morphometry model (`folds.FoldResult.predictions`).
        folds: who trains and who is predicted; those without predictions are left out.
        values: each patient's value of each feature, by patient.
        summaries: each patient's ten summaries of each feature, by patient.
        classes: of each patient, by name, from 0, or whether it is positive.
        seed: of inner folds and trees.
        forest: whether to grow one.
        features: so many first columns of the values are features, the others covariates; None:
            all.
        held: names of the covariates, for the descriptions.
    """
    columns = class_columns(predictions)
    several = len(columns) or 2
    scores = predictions[["patient", "fold", "label"]].assign(
        **dict(
            zip(
                _columns(MORPHOMETRY, several),
                predictions[columns or ["probability"]].to_numpy().T,
                strict=True,
            )
        )
    )
    single = _SingleFeature(list(values.columns[:features]))
    fits: dict[str, tuple[pd.DataFrame, Fit]] = {
        SINGLE: (values, single),
        "logistic_medians": (values, _fit_logistic(seed, tuned=False)),
        "logistic_products": (values, _fit_products(seed)),
        "l1_summaries": (summaries, _fit_l1(seed)),
        "forest_summaries": (summaries, _fit_forest(seed)),
    }
    if not forest:
        del fits["forest_summaries"]
    for name, (table, fit) in fits.items():
        found = np.full((len(scores), len(_columns(name, several))), np.nan)
        for fold in folds:
            rows = (scores["fold"] == fold.name).to_numpy()
            if rows.any():
                training = [*fold.train, *fold.val]
                found[rows] = _fit_classes(
                    fit,
                    table.loc[training].to_numpy(np.float64),
                    np.asarray(classes[training], dtype=np.int64),
                    table.loc[scores["patient"].to_numpy()[rows]].to_numpy(np.float64),
                    classes=several,
                )
        scores[_columns(name, several)] = found
    table = pd.DataFrame([_judge(scores, name, several) for name in (MORPHOMETRY, *fits)])
    best = table["model"] == SINGLE
    table.loc[best, "description"] = f"{BASELINES[SINGLE]} ({single.say_chosen()})"
    if held:
        plain = table["model"] != MORPHOMETRY
        table.loc[plain, "description"] += f" and {' and '.join(held)}"
    statement = f"{say_single(table)} {say_baselines(table[~best])}"
    return Baselines(table, scores, statement)


def _columns(model: str, classes: int) -> list[str]:
    """Of a model's scores."""
    return [model] if classes == 2 else [f"{model}_{k}" for k in range(classes)]


def _fit_classes(
    fit: Fit,
    train: NDArray[np.float64],
    labels: NDArray[np.int64],
    test: NDArray[np.float64],
    *,
    classes: int,
) -> NDArray[np.float64]:
    """Scores of the positive class of two, (n, 1), or of each class against the rest, brought to a
    sum of 1, (n, classes); a class without training patients has 0."""
    if classes == 2:
        return fit(train, labels.astype(np.float64), test)[:, None]
    scores = np.zeros((len(test), classes))
    for label in np.unique(labels):
        scores[:, label] = fit(train, (labels == label).astype(np.float64), test)
    return np.asarray(scores / np.maximum(scores.sum(axis=1, keepdims=True), 1e-12))


def say_single(table: pd.DataFrame) -> str:
    """Which is better, the single best feature or the morphometry model (`Baselines.table`)."""
    rows = {str(row["model"]): row for row in table.to_dict("records")}
    own, single = rows[MORPHOMETRY], rows[SINGLE]
    better = "Which of the two is better can't be told"
    if single["difference_low"] > 0:
        better = "The single feature is better"
    elif single["difference_high"] < 0:
        better = "The model is better"
    limits = _interval(single, "difference", "difference_")
    difference = "" if np.isnan(single["difference"]) else f" (difference {limits})"
    description = str(single["description"])
    return (
        f"{description[:1].upper()}{description[1:]} has an AUC of {_interval(single)}, the "
        f"morphometry model {_interval(own)}. {better}{difference}."
    )


def say_baselines(table: pd.DataFrame) -> str:
    """Whether a baseline predicts better than the morphometry model (`Baselines.table`)."""
    own, *plain = table.to_dict("records")
    first, *others = sorted(plain, key=lambda row: -row["auc"])
    text, area = str(first["description"]), _interval(first)
    if first["auc"] < own["auc"] + NOTABLE:
        return (
            f"None of {len(plain)} plain models of all features has an AUC higher than the "
            f"morphometry model's by {NOTABLE:g} or more on the same folds: {_interval(own)} "
            f"against {area} at best ({text})."
        )
    if not first["low"] > 0.5:
        return (
            f"None of {len(plain)} plain models of all features on the same folds predicts better "
            f"than chance for sure: the highest AUC is {area} ({text}), the morphometry model's "
            f"{_interval(own)}."
        )
    more = sum(row["auc"] >= own["auc"] + NOTABLE and row["low"] > 0.5 for row in others)
    also = (
        f", and so {'does' if more == 1 else 'do'} {more} of the other plain models" if more else ""
    )
    difference = _interval(first, "difference", "difference_")
    said = (
        f"{text[:1].upper()}{text[1:]} predicts better than the morphometry model on the same "
        f"folds{also}: AUC {area} against {_interval(own)} (difference {difference}). What the "
        "morphometry model weights is then not all that these features hold."
    )
    if first["difference_low"] > 0:
        return said
    return (
        f"{text[:1].upper()}{text[1:]} has a higher AUC than the morphometry model on the same "
        f"folds: {area} against {_interval(own)}; the difference, {difference}, may be chance."
    )


def _interval(row: dict[Any, Any], name: str = "auc", prefix: str = "") -> str:
    return f"{row[name]:.2f} [{row[f'{prefix}low']:.2f}, {row[f'{prefix}high']:.2f}]"


def _judge(scores: pd.DataFrame, name: str, classes: int) -> dict[str, Any]:
    labels, folds = scores["label"].to_numpy(np.int64), scores["fold"].to_numpy()

    def of_classes(model: str) -> NDArray[np.float64]:
        values = scores[_columns(model, classes)].to_numpy(np.float64)
        return values if classes > 2 else np.column_stack([1 - values, values])

    area = out_of_fold_auc(labels, of_classes(name), folds)
    row: dict[str, Any] = {
        "model": name,
        "description": BASELINES.get(name, "the morphometry model"),
        "patients": len(scores),
        **area._asdict(),
        "difference": np.nan,
        "difference_low": np.nan,
        "difference_high": np.nan,
    }
    if name != MORPHOMETRY and np.bincount(labels, minlength=classes).min() > 1:
        found = out_of_fold_difference(labels, of_classes(name), of_classes(MORPHOMETRY), folds)
        row |= dict(zip(("difference", "difference_low", "difference_high"), found, strict=True))
    return row


def fit_ridge(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    *,
    used: NDArray[np.float64],
    penalty: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Logistic regressions with penalty / 2 times the squared weights, all at once: (models,
    columns + 1), the intercept last.

    Newton's method with a floor under the curvature. `used` (models, rows) is 1 where a model
    trains on a row; `penalty` (models,).
    """
    design = np.column_stack([x, np.ones(len(x))])
    weights = np.zeros((len(used), design.shape[1]))
    ridge = np.tile(np.eye(design.shape[1]), (len(used), 1, 1)) * penalty[:, None, None]
    ridge[:, -1, -1] = 1e-6
    for _ in range(_STEPS):
        p = _logistic(weights @ design.T)
        gradient = (used * (p - y)) @ design + np.einsum("mij,mj->mi", ridge, weights)
        curvature = used * np.maximum(p * (1 - p), 1e-3)
        hessian = np.swapaxes(design[None] * curvature[..., None], 1, 2) @ design + ridge
        weights -= np.linalg.solve(hessian, gradient[..., None])[..., 0]
    return weights


def _logistic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import expit

    return np.asarray(expit(x))


def _standardize(
    train: NDArray[np.float64], test: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both by the training rows' mean and SD, missing values drawn from training rows (a forest
    would know patients by a fixed value); columns that say nothing are 0."""
    known = ~np.isnan(train).all(axis=0)
    drawn = fill_rows(train, test, seed_key=train.shape)
    filled = [np.where(known, part, 0.0) for part in drawn]
    mean, sd = filled[0].mean(axis=0), filled[0].std(axis=0)
    alive = known & (sd > 1e-12 * np.maximum(np.abs(mean), 1e-300))
    one, other = (np.where(alive, (part - mean) / np.where(alive, sd, 1.0), 0.0) for part in filled)
    return one, other


def _inner_folds(y: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """The inner fold of each training patient, classes spread evenly; fewer folds where a class is
    small."""
    count = int(min(INNER_FOLDS, y.sum(), (1 - y).sum()))
    rng = generator("baselines", seed)
    fold = np.empty(len(y), np.int64)
    for mark in (0, 1):
        members = rng.permutation(np.flatnonzero(y == mark))
        fold[members] = np.arange(len(members)) % max(count, 1)
    return fold


def _loss(y: NDArray[np.float64], p: NDArray[np.float64]) -> NDArray[np.float64]:
    safe = p.clip(1e-9, 1 - 1e-9)
    return np.asarray(-(y * np.log(safe) + (1 - y) * np.log(1 - safe)))


def _tuned_ridge(x: NDArray[np.float64], y: NDArray[np.float64], seed: int) -> float:
    """The penalty of the least log-loss in inner folds; the strongest where there is none."""
    fold = _inner_folds(y, seed)
    inner = np.unique(fold)
    if len(inner) < 2:
        return RIDGE[0]
    penalty, place = (part.ravel() for part in np.meshgrid(np.array(RIDGE), inner, indexing="ij"))
    held = fold == place[:, None]
    weights = fit_ridge(x, y, used=(~held).astype(np.float64), penalty=np.asarray(penalty))
    p = _logistic(weights[:, :-1] @ x.T + weights[:, -1:])
    loss = (held * _loss(y, p)).sum(axis=1).reshape(len(RIDGE), -1).sum(axis=1)
    return RIDGE[int(loss.argmin())]


def _fit_logistic(seed: int, *, tuned: bool) -> Fit:
    def fit(
        train: NDArray[np.float64], y: NDArray[np.float64], test: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        x, new = _standardize(train, test)
        penalty = _tuned_ridge(x, y, seed) if tuned else RIDGE[-1]
        weights = fit_ridge(x, y, used=np.ones((1, len(y))), penalty=np.array([penalty]))[0]
        return _logistic(new @ weights[:-1] + weights[-1])

    return fit


class _SingleFeature:
    """Fits the feature with the least log-loss of the training patients, beside the covariates,
    which are the columns after the features; remembers which."""

    def __init__(self, names: Sequence[Any]) -> None:
        self.names = [str(name) for name in names]
        self.chosen: list[str] = []

    def __call__(
        self, train: NDArray[np.float64], y: NDArray[np.float64], test: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        x, new = _standardize(train, test)
        count = len(self.names)
        losses, scores = [], []
        for number in range(count):
            columns = [number, *range(count, x.shape[1])]
            every, penalty = np.ones((1, len(y))), np.array([RIDGE[-1]])
            *weights, intercept = fit_ridge(x[:, columns], y, used=every, penalty=penalty)[0]
            losses.append(_loss(y, _logistic(x[:, columns] @ weights + intercept)).sum())
            scores.append(_logistic(new[:, columns] @ weights + intercept))
        best = int(np.argmin(losses))
        self.chosen.append(self.names[best])
        return scores[best]

    def say_chosen(self) -> str:
        """Which feature, in how many of the trainings."""
        (name, times), *others = Counter(self.chosen).most_common()
        if not others:
            return name
        return f"{name} in {times} of {len(self.chosen)} trainings"


def _fit_products(seed: int) -> Fit:
    """Products are those of standardized columns."""
    linear = _fit_logistic(seed, tuned=True)

    def fit(
        train: NDArray[np.float64], y: NDArray[np.float64], test: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        pairs = list(combinations(range(train.shape[1]), 2))
        first, second = np.array(pairs).T
        wide = [
            np.column_stack([part, part[:, first] * part[:, second]])
            for part in _standardize(train, test)
        ]
        return linear(wide[0], y, wide[1])

    return fit


def _fit_l1(seed: int) -> Fit:
    def fit(
        train: NDArray[np.float64], y: NDArray[np.float64], test: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        from sklearn.linear_model import LogisticRegression
        from sklearn.svm import l1_min_c

        x, new = _standardize(train, test)

        def predict(c: float, rows: NDArray[np.bool_], to: NDArray[np.float64]) -> NDArray[Any]:
            # Liblinear penalizes the intercept too; scaled up, it hardly does.
            model = LogisticRegression(
                C=c,
                l1_ratio=1.0,
                solver="liblinear",
                intercept_scaling=10.0,
                max_iter=1000,
                random_state=0,
            )
            return np.asarray(model.fit(x[rows], y[rows]).predict_proba(to)[:, 1])

        if not x.any():
            return np.full(len(new), y.mean())
        least = l1_min_c(x, y, loss="log")
        fold = _inner_folds(y, seed)
        strengths = least * np.array(STRENGTHS)
        loss = np.zeros(len(strengths))
        for place in np.unique(fold) if fold.any() else ():
            held = fold == place
            for number, c in enumerate(strengths):
                loss[number] += _loss(y[held], predict(c, ~held, x[held])).sum()
        return predict(strengths[loss.argmin()], np.ones(len(y), np.bool_), new)

    return fit


def _fit_forest(seed: int) -> Fit:
    def fit(
        train: NDArray[np.float64], y: NDArray[np.float64], test: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        from sklearn.ensemble import RandomForestClassifier

        x, new = _standardize(train, test)
        forest = RandomForestClassifier(
            TREES, min_samples_leaf=LEAF, n_jobs=1, random_state=seed % 2**32
        )
        return np.asarray(forest.fit(x, y).predict_proba(new)[:, 1])

    return fit
