"""What the models of all folds say together: the ranking's tables."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.nuclei.registry import FEATURES
from morphomil.rank.chance import PooledNull
from morphomil.rank.classes import out_of_fold_auc, out_of_fold_difference
from morphomil.rank.contrasts import AucContrasts, contrast_log_likelihood, resample_shares
from morphomil.rank.interactions import find_interactions, pair_scores
from morphomil.rank.robustness import (
    TOP,
    curves_of_removal,
    kendalls_w,
    measure_faithfulness,
    null_p,
    rank_distribution,
)
from morphomil.rank.shapley import log_likelihood, scored_classes
from morphomil.seeds import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from morphomil.rank.classes import Classes
    from morphomil.rank.folds import FoldResult
    from morphomil.rank.interactions import Interactions
    from morphomil.rank.plan import FoldOutcome, TrainingPlan
    from morphomil.stats.roc import AucInterval
RESAMPLES = 2000
"""Patients and seeds are resampled so often for the intervals of attention."""
LEAST_P = 0.001
"""Below this p, where a test has found its feature, attention alone goes on with the order."""


class PooledOutcomes:
    """What the models of all folds say together."""

    def __init__(
        self,
        plan: TrainingPlan,
        outcomes: dict[str, FoldOutcome],
        predictions: pd.DataFrame,
        *,
        classes: Classes,
        seed: int,
    ) -> None:
        """Outcomes by fold, in the order of the predictions' patients; `seed` of bootstraps."""
        self.plan, self.seed = plan, seed
        of_folds = list(outcomes.values())
        self.patients = predictions["patient"]
        self.labels = predictions["label"].to_numpy()
        self.folds = predictions["fold"].to_numpy()
        counts = pd.crosstab(self.folds, self.labels).reindex(
            columns=range(len(classes)), fill_value=0
        )
        pairs = (counts.mul(-1).add(counts.sum(axis=1), axis=0) * counts).sum().to_numpy()
        nulls = [one.null for one in of_folds if one.null is not None]
        self.null = (
            PooledNull.of(
                nulls, patients=len(predictions), pairs=pairs[list(scored_classes(len(classes)))]
            )
            if nulls
            else None
        )
        # (seeds, patients, features)
        self.attention = np.concatenate([one.result.attention for one in of_folds], axis=1)
        # (seeds, coalitions, patients, classes)
        self.coalitions = np.concatenate([one.result.coalitions for one in of_folds], axis=2)
        self.ablated = [one.ablated for one in of_folds if one.ablated is not None]
        self.of_models = {
            "attention": np.concatenate([one.result.attention.mean(axis=1) for one in of_folds]),
            "shapley": np.concatenate([self._shapley_of_models(one.result) for one in of_folds]),
        }
        """How each model scores the features, (models, features)."""
        shown = classes.shown(self.labels)
        mean = self.coalitions.mean(axis=0)
        probability = np.ascontiguousarray(mean[:, np.arange(len(shown)), shown])
        # (features, patients)
        self.contributions = plan.coalitions.weights @ probability

    @cached_property
    def auc_contrasts(self) -> AucContrasts:
        """Sums over coalitions, with the same resamples for all tables."""
        return AucContrasts(self.coalitions, self.labels, self.folds, seed=self.seed)

    def auc(self, *, features: bool) -> AucInterval:
        """Of all features, or of none, from pairs within folds."""
        probability = self.coalitions[:, -1 if features else 0].mean(axis=0)
        return out_of_fold_auc(self.labels, probability, self.folds)

    def of_patients(self, values: NDArray[np.float64]) -> pd.DataFrame:
        """Values (patients, features) as a table, `patient` first."""
        table = pd.DataFrame(values, columns=list(self.plan.features))
        table.insert(0, "patient", self.patients)
        return table

    def table(self, compared: pd.DataFrame) -> pd.DataFrame:
        """The ranking, in the order of `score_features`; of attention where it has no null."""
        count = len(self.plan.features)
        columns: dict[str, Any] = {"feature": list(self.plan.features), "attention_z": np.nan}
        columns |= _mean_attention(self.attention * count, seed=self.seed)
        columns |= {"attention_p": np.nan, "attention_p_any": np.nan}
        columns |= self._share(self.plan.coalitions.weights)
        columns["shapley_probability"] = np.abs(self.contributions).mean(axis=1)
        if self.plan.coalitions.steps is not None:
            mean = log_likelihood(self.coalitions.mean(axis=0), self.labels).mean(axis=1)
            columns["shapley_log_loss_se"] = self.plan.coalitions.standard_error(mean)
        columns |= {"shapley_p": np.nan, "shapley_p_any": np.nan} | self._test()
        columns |= {name: values[:count] for name, values in self._ablate().items()}
        table = pd.DataFrame(columns)
        stability = self.stability().set_index("feature")
        for by in ("attention", "shapley"):
            chosen = stability.loc[stability["by"] == by, ["rank_mean", "top1", f"top{TOP}"]]
            table = table.merge(chosen.add_prefix(f"{by}_"), left_on="feature", right_index=True)
        table = table.merge(compared, on="feature", validate="one_to_one")
        table.insert(1, "rank_score", score_features(table))
        order = ["rank_score", "attention"]
        table = table.sort_values(order, ascending=False, kind="stable", ignore_index=True)
        table.insert(0, "rank", np.arange(1, count + 1))
        return table

    def _test(self) -> dict[str, NDArray[np.float64]]:
        """What the permuted labels say of attention and Shapley values."""
        if self.null is None:
            return {}
        axial = [FEATURES[name].axial for name in self.plan.features]
        mean, sd = self.null.attention_moments(np.array(axial, dtype=np.intp))
        columns = {"attention_z": (self.attention.mean(axis=(0, 1)) - mean) / sd}
        for name, score in self.null_scores().items():
            if score.ndim > 1:
                columns[f"{name}_p"], columns[f"{name}_p_any"] = null_p(score)
        return columns

    def null_scores(self) -> dict[str, NDArray[np.float64]]:
        """What the models score under the true and the permuted labels (`PooledNull.scores`), with
        the highest synergy of a pair, (labelings,); none where these are not for tests."""
        coalitions = self.plan.coalitions
        scores = {} if self.null is None else self.null.scores(coalitions.weights)
        if self.null is None or self.null.auc is None or coalitions.steps is not None:
            return scores
        return scores | {"pairs": pair_scores(coalitions, self.null.auc).max(axis=1)}

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
        columns: dict[str, Any] = _mean_attention(grouped, seed=self.seed)
        if self.plan.coalitions.steps is None:
            columns |= self._share(self.plan.coalitions.group(list(self.plan.families.values())))
        count = len(self.plan.features)
        place = [
            count + i if len(of) > 1 else of[0] for i, of in enumerate(self.plan.families.values())
        ]
        columns |= {name: values[place] for name, values in self._ablate().items()}
        order = "shapley_rank" if "shapley_rank" in columns else "group"
        return table.assign(**columns).sort_values(order, kind="stable", ignore_index=True)

    def _shapley_of_models(self, result: FoldResult) -> NDArray[np.float64]:
        truth = result.predictions["label"].to_numpy()
        likelihood = log_likelihood(result.coalitions, truth).mean(axis=2)
        return np.asarray(likelihood @ self.plan.coalitions.weights.T)

    def stability(self) -> pd.DataFrame:
        """Rankings by single models, those of seeds and folds."""
        parts = []
        for by, scores in self.of_models.items():
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

    def interactions(self) -> Interactions:
        """Of every two features."""
        return find_interactions(
            self.plan.coalitions,
            self.plan.features,
            self.auc_contrasts,
            null_auc=None if self.null is None else self.null.auc,
        )

    def _share(self, weights: NDArray[np.float64]) -> dict[str, Any]:
        """Shapley values of players, and their order by the AUC."""
        loss = contrast_log_likelihood(self.coalitions, self.labels, weights, seed=self.seed)
        area = self.auc_contrasts.estimate(weights)
        rank = np.empty(len(weights), np.int64)
        rank[np.argsort(-area.value, kind="stable")] = np.arange(1, len(weights) + 1)
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
        if not self.ablated:
            return {name: np.full(count, np.nan) for name in names}
        probability = np.concatenate(self.ablated, axis=2).mean(axis=0)  # (sets, patients, classes)
        without, alone = probability[:count], probability[count:]
        whole = self.coalitions[:, -1].mean(axis=0)
        lost = [out_of_fold_difference(self.labels, whole, own, self.folds) for own in without]
        reached = [out_of_fold_auc(self.labels, own, self.folds) for own in alone]
        return dict(
            zip(names, np.concatenate([np.array(lost).T, np.array(reached).T]), strict=True)
        )


def score_features(table: pd.DataFrame) -> NDArray[np.float64]:
    """What the features are ranked by: their attention in SD above that under permuted labels, less
    the natural logarithm of the smaller p value of the two tests without a model, the values' and
    the plain scan's, each adjusted for all features, and counted down to `LEAST_P`.

    A model of few patients spends them on more questions than a test that asks one; the test is
    blind to all others. Where attention has no null the score is NaN.

    Args:
        table: one row per feature: `attention_z`, `scan_p_any`, and `adjusted_p_holm` (beside
            covariates) or `p_holm`. A p that is missing counts as 1.
    """
    test = "adjusted_p_holm" if "adjusted_p_holm" in table else "p_holm"
    least = table[[test, "scan_p_any"]].min(axis=1).fillna(1).clip(lower=LEAST_P)
    return np.asarray(table["attention_z"].to_numpy(float) - np.log(least.to_numpy(float)))


def _mean_attention(relative: NDArray[np.float64], *, seed: int) -> dict[str, NDArray[np.float64]]:
    """Attention relative to an even share, (seeds, patients, features), as means with intervals
    over both."""
    rng = generator("bootstrap", seed)
    seeds, patients, _ = relative.shape
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    of_patients = resample_shares(patients, RESAMPLES, rng)
    means = np.einsum("bs,bp,spf->bf", of_seeds, of_patients, relative, optimize=True)
    low, high = np.percentile(means, (2.5, 97.5), axis=0)
    return {"attention": relative.mean(axis=(0, 1)), "attention_low": low, "attention_high": high}
