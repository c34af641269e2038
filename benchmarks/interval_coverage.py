"""How often each 95 % interval holds the truth.

`python benchmarks/interval_coverage.py [draws] [table ...]` prints the tables of the docs: `auc`,
`others`, `spread`. Scores are normal with equal variances unless stated, so that every truth is
known in closed form.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy.special import expit, ndtr, ndtri

from morphomil.stats import (
    auc_interval,
    bootstrap_by_patient,
    brunner_munzel,
    calibration,
    compare_categories,
    compare_clustered,
    compare_groups,
    delong_test,
    delong_test_unpaired,
    diagnostic_table,
    hodges_lehmann,
    logistic_model,
    mann_whitney,
    mcnemar_test,
    resampled_auc,
    resampled_mean,
    resampled_multiclass_auc,
    within_fold_auc_interval,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from morphomil.stats.resampling import Vectorized

DRAWS = 2000
AREAS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
CLASSES = ((20, 20), (20, 80), (20, 200), (30, 30), (30, 120), (50, 50), (79, 131), (150, 150))
AUC_METHODS: tuple[Literal["auto", "delong", "logit-delong", "binomial"], ...] = (
    "auto",
    "delong",
    "logit-delong",
    "binomial",
)
RESAMPLES = 1000
"""Of intervals that resample."""

Limits = tuple[float, float]
Draw = Callable[[np.random.Generator], Limits]


def shift_of(area: float) -> float:
    """Distance of the classes' means, in SDs, that gives this AUC."""
    return float(ndtri(area)) * math.sqrt(2)


def share_held(limits: Iterable[Limits], truth: float) -> float:
    """Percent; an interval that doesn't exist holds nothing."""
    return 100 * float(np.mean([low <= truth <= high for low, high in limits]))


def auc_coverage(area: float, n: int, m: int, draws: int) -> dict[str, object]:
    """A row of the first table: what each method holds of an AUC, with n positive and m negative
    cases."""
    rng = np.random.default_rng((n, m, round(100 * area)))
    labels, shift = np.arange(n + m) < n, shift_of(area)
    found: dict[str, list[Limits]] = {name: [] for name in AUC_METHODS}
    for _ in range(draws):
        scores = rng.normal(size=n + m) + shift * labels
        for name in AUC_METHODS:
            found[name].append(auc_interval(labels, scores, method=name)[1:])
    return {"AUC": area, "classes": f"{n}, {m}"} | {
        k: share_held(v, area) for k, v in found.items()
    }


def coverage(name: str, truth: float, draw: Draw, draws: int) -> dict[str, object]:
    """A row of the second table."""
    rng = np.random.default_rng(2)
    return {
        "interval": name,
        "truth": truth,
        "draws": draws,
        "held": share_held((draw(rng) for _ in range(draws)), truth),
    }


def bootstrap_auc(rng: np.random.Generator) -> Limits:
    labels = np.arange(120) < 40
    scores = rng.normal(size=120) + shift_of(0.8) * labels
    return auc_interval(labels, scores, method="bootstrap", seed=seed_of(rng), resamples=RESAMPLES)[
        1:
    ]


def seed_of(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def bca_auc(rng: np.random.Generator) -> Limits:
    labels = np.arange(120) < 40
    scores = rng.normal(size=120) + shift_of(0.8) * labels
    return bca(resampled_auc(labels, scores), labels, rng)


def bca_macro_auc(rng: np.random.Generator) -> Limits:
    """Three classes of 40; each class's column is shifted for its own cases, so all AUCs against
    the rest are 0.8."""
    labels = np.arange(120) % 3
    columns = rng.normal(size=(120, 3)) + shift_of(0.8) * np.eye(3)[labels]
    return bca(resampled_multiclass_auc(labels, columns), labels, rng)


def bca_mean(rng: np.random.Generator) -> Limits:
    return bca(resampled_mean(rng.exponential(size=60)), np.zeros(60, int), rng)


def bca(statistic: Vectorized, strata: NDArray[Any], rng: np.random.Generator) -> Limits:
    patients = np.arange(len(strata))
    found = bootstrap_by_patient(
        statistic, patients, seed=seed_of(rng), strata=strata, resamples=RESAMPLES, vectorized=True
    )
    return found.low, found.high


def bootstrap_within_folds(rng: np.random.Generator) -> Limits:
    labels, folds = np.arange(140) < 50, np.arange(140) % 5
    scores = rng.normal(size=140) + shift_of(0.75) * labels + rng.normal(size=5)[folds]
    given = {"method": "bootstrap", "seed": seed_of(rng), "resamples": RESAMPLES}
    return within_fold_auc_interval(labels, scores, folds, **given)[1:]  # type: ignore[arg-type]


def welch(name: str) -> Draw:
    """30 and 60 cases whose means are 0.8 apart; SDs 1 and 2 for the difference, 1 and 1 for
    Hedges's g."""

    def draw(rng: np.random.Generator) -> Limits:
        group = np.repeat([0, 1], (60, 30))
        spread = np.where(group == 0, 2.0, 1.0) if name == "difference" else 1.0
        row = compare_groups(
            {"x": rng.normal(size=90) * spread + 0.8 * group}, group, test="welch"
        ).iloc[0]
        return float(row[f"{name}_low"]), float(row[f"{name}_high"])

    return draw


def paired_difference(rng: np.random.Generator) -> Limits:
    labels = np.arange(120) < 45
    common = rng.normal(size=120)
    a, b = (
        np.sqrt(0.5) * (common + rng.normal(size=120)) + shift_of(area) * labels
        for area in (0.85, 0.75)
    )
    return delong_test(labels, a, b).interval


def difference_near_one(n: int, m: int, one: float, other: float) -> Draw:
    """Paired; the scores correlate by 0.5."""

    def draw(rng: np.random.Generator) -> Limits:
        labels, common = np.arange(n + m) < n, rng.normal(size=n + m)
        a, b = (
            np.sqrt(0.5) * (common + rng.normal(size=n + m)) + shift_of(area) * labels
            for area in (one, other)
        )
        return delong_test(labels, a, b).interval

    return draw


def unpaired_near_one(rng: np.random.Generator) -> Limits:
    labels = np.arange(40) < 20
    a, b = (rng.normal(size=40) + shift_of(area) * labels for area in (0.99, 0.97))
    return delong_test_unpaired(labels, a, labels, b).interval


NEAR_ONE = (
    (10, 10, 0.99, 0.97),
    (20, 20, 0.99, 0.97),
    (50, 50, 0.99, 0.97),
    (20, 200, 0.99, 0.97),
    (20, 20, 0.97, 0.85),
    (50, 50, 0.95, 0.9),
)
"""Positives, negatives, and the AUCs whose difference is asked for."""


def unpaired_difference(rng: np.random.Generator) -> Limits:
    one, other = np.arange(60) < 25, np.arange(80) < 30
    a, b = rng.normal(size=60) + shift_of(0.85) * one, rng.normal(size=80) + shift_of(0.75) * other
    return delong_test_unpaired(one, a, other, b).interval


def within_folds(rng: np.random.Generator) -> Limits:
    labels, folds = np.arange(140) < 50, np.arange(140) % 5
    scores = rng.normal(size=140) + shift_of(0.75) * labels + rng.normal(size=5)[folds]
    # Scores that no training has seen keep all of their separation: a factor of 1.
    return within_fold_auc_interval(labels, scores, folds, training_auc=0.5 + 1e-9)[1:]


def cliffs_delta(rng: np.random.Generator) -> Limits:
    found = mann_whitney(rng.normal(shift_of(0.7), 1, 30), rng.normal(size=40))
    return found.low, found.high


def shift(rng: np.random.Generator) -> Limits:
    return hodges_lehmann(rng.normal(0.8, 1, 60), rng.normal(size=80))[1:]


def exact_shift(rng: np.random.Generator) -> Limits:
    return hodges_lehmann(rng.standard_t(3, 12) + 0.8, rng.standard_t(3, 15))[1:]


def cramers_v(rng: np.random.Generator) -> Limits:
    groups = np.repeat([0, 1], 100)
    values = pd.DataFrame({"x": (rng.random(200) < np.where(groups == 1, 0.65, 0.35)).astype(int)})
    row = compare_categories(values, groups).iloc[0]
    return float(row["cramers_v_low"]), float(row["cramers_v_high"])


def diagnostic(name: str) -> Draw:
    """84 ill and 134 well, sensitivity 0.8, specificity 0.7; for ACC, PPV and NPV at that
    prevalence."""

    def draw(rng: np.random.Generator) -> Limits:
        tp, fp = rng.binomial(84, 0.8), rng.binomial(134, 0.3)
        table = diagnostic_table(tp, fp, 84 - tp, 134 - fp)
        return float(table["low"][name]), float(table["high"][name])

    return draw


def diagnostic_truths() -> dict[str, float]:
    tp, fn, fp, tn = 84 * 0.8, 84 * 0.2, 134 * 0.3, 134 * 0.7
    return {
        "ACC": (tp + tn) / 218,
        "SENS": 0.8,
        "SPEC": 0.7,
        "PPV": tp / (tp + fp),
        "NPV": tn / (tn + fn),
        "F1": 2 * tp / (2 * tp + fp + fn),
        "LR+": 0.8 / 0.3,
        "LR-": 0.2 / 0.7,
    }


def accuracy_difference(rng: np.random.Generator) -> Limits:
    truth = np.ones(200, bool)
    common = rng.random(200)
    a = np.where(rng.random(200) < 0.5, common, rng.random(200)) < 0.8
    b = np.where(rng.random(200) < 0.5, common, rng.random(200)) < 0.7
    return mcnemar_test(truth, a, b).interval


def logistic_sample(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    columns = rng.normal(size=(150, 3))
    return columns, rng.random(150) < expit(0.7 * columns[:, 0] - 0.3)


def odds_ratio(rng: np.random.Generator) -> Limits:
    summary = logistic_model(*logistic_sample(rng)).summary
    return float(summary["low"]["x1"]), float(summary["high"]["x1"])


def firth_odds_ratio(rng: np.random.Generator) -> Limits:
    """40 cases, few events: some draws are separated."""
    columns = rng.normal(size=(40, 2))
    outcome = rng.random(40) < expit(1.5 * columns[:, 0] - 2.5)
    if len(set(outcome.tolist())) < 2:
        return firth_odds_ratio(rng)
    summary = logistic_model(columns, outcome).summary
    return float(summary["low"]["x1"]), float(summary["high"]["x1"])


def calibration_intercept(rng: np.random.Generator) -> Limits:
    score = rng.normal(size=250)
    return calibration(rng.random(250) < expit(score + 0.4), expit(score)).intercept[1:]


def calibration_slope(rng: np.random.Generator) -> Limits:
    score = rng.normal(size=250)
    return calibration(rng.random(250) < expit(0.6 * score), expit(score)).slope[1:]


def clustered(method: Literal["bootstrap", "mixed"]) -> Draw:
    """30 patients of 5 to 40 rows, intraclass correlation 0.5, difference of means 0.8."""

    def draw(rng: np.random.Generator) -> Limits:
        patient = np.repeat(np.arange(30), rng.integers(5, 41, 30))
        value = rng.normal(size=30)[patient] + rng.normal(size=len(patient)) + 0.8 * (patient % 2)
        seed = int(rng.integers(2**31))
        row = compare_clustered(
            pd.DataFrame({"x": value}), patient % 2, patient, method=method, seed=seed
        ).iloc[0]
        return float(row["low"]), float(row["high"])

    return draw


def cases(draws: int) -> list[tuple[str, float, Draw, int]]:
    """What the second table is about: interval, truth, how a sample's limits are drawn, and how
    often."""
    return [
        ("AUC, bootstrap percentiles, 40 and 80 cases", 0.8, bootstrap_auc, draws),
        ("AUC, BCa, 40 and 80 cases", 0.8, bca_auc, draws),
        ("AUC of three classes (macro), BCa, 40 each", 0.8, bca_macro_auc, draws),
        ("mean of exponential values, BCa, 60", 1.0, bca_mean, draws),
        ("AUC within five folds (scores given), 50 and 90", 0.75, within_folds, draws),
        ("the same, bootstrap percentiles", 0.75, bootstrap_within_folds, draws),
        ("difference of AUCs, paired, 45 and 75", 0.1, paired_difference, draws),
        ("difference of AUCs, unpaired, 25 + 35 and 30 + 50", 0.1, unpaired_difference, draws),
        *(
            (f"difference of {a:g} and {b:g}, paired, {n} and {m}", a - b, drawn, draws)
            for (n, m, a, b) in NEAR_ONE
            for drawn in (difference_near_one(n, m, a, b),)
        ),
        ("difference of 0.99 and 0.97, unpaired, 20 and 20 each", 0.02, unpaired_near_one, draws),
        *(
            (f"{name}, 84 ill and 134 well", x, diagnostic(name), draws)
            for name, x in diagnostic_truths().items()
        ),
        ("difference of accuracies (McNemar), 200", 0.1, accuracy_difference, draws),
        ("Cliff's delta, 30 and 40", 0.4, cliffs_delta, draws),
        ("Hodges-Lehmann, normal, 60 and 80", 0.8, shift, draws),
        ("Hodges-Lehmann, exact, t with 3 df, 12 and 15", 0.8, exact_shift, draws),
        ("difference of means, Welch, 30 and 60, SD 1 and 2", 0.8, welch("difference"), draws),
        ("Hedges's g, 30 and 60", 0.8, welch("hedges_g"), draws),
        ("Cramer's V, 100 and 100", 0.3, cramers_v, draws),
        ("odds ratio, Wald, 150", math.exp(0.7), odds_ratio, draws),
        ("odds ratio, 40 cases, Firth where separated", math.exp(1.5), firth_odds_ratio, draws),
        ("calibration slope, 250", 0.6, calibration_slope, draws),
        ("calibration intercept, 250", 0.4, calibration_intercept, draws),
        (
            "clustered, bootstrap of delta, 30 patients",
            2 * float(ndtr(0.4)) - 1,
            clustered("bootstrap"),
            draws,
        ),
        ("clustered, mixed model, 30 patients", 0.8, clustered("mixed"), draws),
    ]


GROUPS = ((10, 60), (60, 10), (10, 10), (20, 20), (100, 100), (20, 200))
SPREADS = ((3.0, 1.0, False), (1.0, 3.0, False), (1.0, 1.0, True))
"""Standard deviations of both groups, and whether values are rounded to whole numbers."""
DELTAS = (0.0, 0.5, 0.9, 0.98)


def spread_row(n: int, m: int, spread: tuple[float, float, bool], draws: int) -> dict[str, object]:
    """A row of the third table: how often tests reject equal groups, and what the interval of
    Cliff's delta holds."""
    one, other, rounded = spread
    row: dict[str, object] = {"groups": f"{n}, {m}"}
    row["SDs"] = f"{one:g} : {other:g}" + (", whole numbers" if rounded else "")
    for delta in DELTAS:
        rng = np.random.default_rng((n, m, round(one), round(other), round(100 * delta)))
        shift = float(ndtri((1 + delta) / 2)) * math.hypot(one, other)
        truth = rounded_delta(shift) if rounded else delta
        held: list[Limits] = []
        rejected = np.zeros(2)
        for _ in range(draws):
            x, y = rng.normal(shift, one, n), rng.normal(0, other, m)
            x, y = (np.round(x), np.round(y)) if rounded else (x, y)
            found = mann_whitney(x, y)
            held.append((found.low, found.high))
            if delta == 0:
                rejected += [found.p_value <= 0.05, brunner_munzel(x, y).p_value <= 0.05]
        if delta == 0:
            row["Mann-Whitney"], row["Brunner-Munzel"] = (100 * rejected / draws).tolist()
        row[f"delta {delta:g}"] = share_held(held, truth)
    return row


def rounded_delta(shift: float) -> float:
    """Cliff's delta of normal values rounded to whole numbers, SD 1 and means `shift` apart."""
    whole = np.arange(-12.0, 20.0)
    x, y = (ndtr(whole + 0.5 - mean) - ndtr(whole - 0.5 - mean) for mean in (shift, 0.0))
    return float(2 * x @ (np.cumsum(y) - y / 2) - 1)


def markdown(rows: list[dict[str, object]]) -> str:
    """A table of the docs; three digits."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    for row in rows:
        cells = [
            f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    numbers = [int(text) for text in sys.argv[1:] if text.isdigit()]
    draws = numbers[0] if numbers else DRAWS
    tables: dict[str, Callable[[], list[dict[str, object]]]] = {
        "auc": lambda: [auc_coverage(area, n, m, draws) for area in AREAS for n, m in CLASSES],
        "others": lambda: [coverage(*case) for case in cases(draws)],
        "spread": lambda: [spread_row(n, m, s, draws) for n, m in GROUPS for s in SPREADS],
    }
    for name in [text for text in sys.argv[1:] if text in tables] or tables:
        print(markdown(tables[name]()), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
