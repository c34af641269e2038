"""How features are ranked."""

from __future__ import annotations

from dataclasses import dataclass

SEEDS = 5
"""A fold has this many models, each with weights and an inner validation of its own; `quick` trains
one."""
PERMUTATIONS = 199
"""The labels are permuted so often, each time trained anew; `quick` trains none."""


@dataclass(frozen=True)
class RankSettings:
    """How features are ranked: for `rank_nuclei`, `rank_counts` and the command alike."""

    seed: int
    """Of folds, bags and training."""
    positive: str | None = None
    """The label that counts as positive; needed unless labels are 0 and 1."""
    folds: int = 5
    """Of the cross-validation, where the cohort gives no split."""
    quick: bool = False
    """One model per fold, no permutations, no ablation."""
    permutations: int = PERMUTATIONS
    """Of the labels, for the null; each is trained."""
    ablation: bool = True
    """Also train without each feature, and with each alone."""

    @property
    def models_per_fold(self) -> int:
        """How many models are trained on all features."""
        return 1 if self.quick else SEEDS

    @property
    def labelings(self) -> int:
        """How many permutations are trained."""
        return 0 if self.quick else self.permutations

    @property
    def ablates(self) -> bool:
        """Whether models are trained on some of the features."""
        return self.ablation and not self.quick
