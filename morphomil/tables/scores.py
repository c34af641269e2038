"""Do the models score patients alike?"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm, rankdata


def correlate_scores(predictions: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """Spearman correlation of every two models' test scores of the same patients.

    Scores of different folds come from different models, so patients are ranked within folds.
    `rho_within_label` ranks within folds and labels: how far the models agree beyond both knowing
    the label.

    Args:
        predictions: `model, part, fold, patient, label, score` (`read_predictions`).
        level: of the intervals.

    Returns:
        One row per pair with 5 or more patients in common: `model_a, model_b, patients, rho,
        rho_low, rho_high`, and the same of `rho_within_label`.
    """
    test = predictions[predictions["part"] == "test"]
    of_model = {str(name): table for name, table in test.groupby("model", sort=False)}
    rows = []
    for a, b in combinations(of_model, 2):
        both = of_model[a].merge(of_model[b], on="patient", suffixes=("_a", "_b"))
        if len(both) < 5:
            continue
        folds = [both["fold_a"].astype(str), both["fold_b"].astype(str)]
        row: dict[str, Any] = {"model_a": a, "model_b": b, "patients": len(both)}
        for name, by in (("rho", folds), ("rho_within_label", [*folds, both["label_a"]])):
            one, other = (
                both.groupby(by)[f"score_{end}"].transform(_center_ranks).to_numpy() for end in "ab"
            )
            spread = np.sqrt((one**2).sum() * (other**2).sum())
            rho = float(one @ other / spread) if spread > 0 else np.nan
            low, high = _rho_interval(rho, len(both) - both.groupby(by).ngroups + 1, level=level)
            row |= {name: rho, f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    columns = [
        f"{name}{end}" for name in ("rho", "rho_within_label") for end in ("", "_low", "_high")
    ]
    return pd.DataFrame(rows, columns=["model_a", "model_b", "patients", *columns])


def _center_ranks(values: pd.Series[float]) -> pd.Series[float]:
    """Ranks around their mean, on one scale for groups of any size."""
    ranks = pd.Series(rankdata(values), index=values.index)
    return (ranks - ranks.mean()) / len(ranks)


def _rho_interval(rho: float, n: int, *, level: float) -> tuple[float, float]:
    """Fisher's z with variance (1 + rho^2 / 2) / (n - 3) (Bonett & Wright 2000); NaN where rho is 1
    or n too small."""
    if n <= 3 or not abs(rho) < 1:
        return np.nan, np.nan
    half = norm.ppf((1 + level) / 2) * np.sqrt((1 + rho**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(rho) + np.array([-half, half]))
    return float(low), float(high)
