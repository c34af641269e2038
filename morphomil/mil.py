"""Bags -> probability and attention: the attention-MIL head after Ilse et al. 2018."""

from __future__ import annotations

import torch
from torch import nn

CLINICAL_REPEATS = 10
"""Clinical covariates are repeated so often before the classifier (Xu et al. 2021)."""


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
    ) -> None:
        """A model with random weights; `dropout` is the share of embedded values left out in
        training."""
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(in_features, 256), nn.Dropout(dropout), nn.ReLU())
        self.attend = nn.Sequential(nn.Linear(256, inner), nn.Tanh(), nn.Linear(inner, 1))
        self.classify = nn.Sequential(
            nn.Linear(256 + CLINICAL_REPEATS * clinical, 64), nn.ReLU(), nn.Linear(64, classes)
        )
        self.clinical = clinical

    def forward(
        self, bag: torch.Tensor, clinical: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Instances (..., N, F) and covariates (..., C) -> logits (..., classes), attention (...,
        N) that sums to 1."""
        given = 0 if clinical is None else clinical.shape[-1]
        if given != self.clinical:
            raise ValueError(f"the model takes {self.clinical} clinical covariates, got {given}")
        embedded = self.embed(bag)  # (..., N, 256)
        attention = torch.softmax(self.attend(embedded).squeeze(-1), dim=-1)  # (..., N)
        pooled = (attention.unsqueeze(-2) @ embedded).squeeze(-2)  # (..., 256)
        if clinical is not None:
            pooled = torch.cat([pooled, torch.cat([clinical] * CLINICAL_REPEATS, dim=-1)], dim=-1)
        return self.classify(pooled), attention
