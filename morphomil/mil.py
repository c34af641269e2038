"""Bags -> probability and attention: the attention-MIL head after Ilse et al. 2018."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping
CLINICAL_REPEATS = 10
"""Clinical covariates are repeated so often before the classifier (Xu et al. 2021)."""
EMBEDDED = 256
"""An embedded instance has this many values."""


@dataclass(frozen=True)
class HeadShape:
    """The sizes that stored weights of a head decide."""

    in_features: int
    classes: int
    clinical: int

    @classmethod
    def of(cls, arrays: Mapping[str, Any]) -> HeadShape:
        """The shape of the head that these arrays are the state of.

        Raises:
            KeyError: an array is missing.
        """
        width, in_features = arrays["embed.0.weight"].shape
        pooled = arrays["classify.0.weight"].shape[1]
        classes = arrays["classify.2.weight"].shape[0]
        return cls(in_features, classes, (pooled - width) // CLINICAL_REPEATS)


class AttentionMIL(nn.Module):
    """Attention-MIL (Ilse et al. 2018) with the head of Xu et al. 2021.

    h = ReLU(Dropout(W x)), a = softmax(v' tanh(V h)) over the N instances, logits = classifier(sum
    a h, covariates). `inner` is the width of V h; with 1, as in the released code, the attention of
    two instances differs by no more than the factor exp(2 |v|).
    """

    def __init__(
        self,
        in_features: int,
        *,
        classes: int = 2,
        clinical: int = 0,
        inner: int = 128,
        dropout: float = 0.5,
        attention_dropout: float = 0.0,
    ) -> None:
        """A model with random weights.

        Args:
            in_features: of an instance.
            classes: that are told apart.
            clinical: covariates of a bag.
            inner: width of the attention's hidden layer.
            dropout: share of embedded values left out in training.
            attention_dropout: share of the attention's hidden and final values left out in
                training, as in the released code.
        """
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(in_features, EMBEDDED), nn.Dropout(dropout), nn.ReLU())
        self.attend = nn.Sequential(nn.Linear(EMBEDDED, inner), nn.Tanh(), nn.Linear(inner, 1))
        self.classify = nn.Sequential(
            nn.Linear(EMBEDDED + CLINICAL_REPEATS * clinical, 64),
            nn.ReLU(),
            nn.Linear(64, classes),
        )
        self.clinical, self.attention_dropout = clinical, attention_dropout

    def forward(
        self, bag: torch.Tensor, clinical: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Instances (..., N, F) and covariates (..., C) -> logits (..., classes), attention (...,
        N) that sums to 1."""
        return self.decide(*self.read(bag), clinical)

    def read(self, instances: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Instances (..., N, F) -> embedded (..., N, 256), attention before the softmax (...,
        N)."""
        embedded = self.embed(instances)
        return embedded, self.score(embedded)

    def score(self, embedded: torch.Tensor) -> torch.Tensor:
        """Embedded instances (..., N, 256) -> attention before the softmax (..., N)."""
        if not (self.training and self.attention_dropout):
            scores: torch.Tensor = self.attend(embedded)
            return scores.squeeze(-1)
        hidden, activate, last = self.attend
        thinned = functional.dropout(hidden(embedded), self.attention_dropout)
        return functional.dropout(last(activate(thinned)), self.attention_dropout).squeeze(-1)

    def decide(
        self, embedded: torch.Tensor, score: torch.Tensor, clinical: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embedded instances (..., N, 256), scores (..., N; -inf: no instance), covariates (..., C)
        -> logits (..., classes), attention (..., N)."""
        attention = torch.softmax(score, dim=-1)
        return self.judge((attention.unsqueeze(-2) @ embedded).squeeze(-2), clinical), attention

    def judge(self, pooled: torch.Tensor, clinical: torch.Tensor | None = None) -> torch.Tensor:
        """Pooled instances (..., 256) and covariates (..., C) -> logits (..., classes).

        Raises:
            ValueError: the covariates aren't as many as the model takes.
        """
        given = 0 if clinical is None else clinical.shape[-1]
        if given != self.clinical:
            raise ValueError(f"the model takes {self.clinical} clinical covariates, got {given}")
        if clinical is not None:
            pooled = torch.cat([pooled, *[clinical] * CLINICAL_REPEATS], dim=-1)
        logits: torch.Tensor = self.classify(pooled)
        return logits
