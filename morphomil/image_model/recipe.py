"""How the image model is built and trained: settings and presets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from morphomil.bags import BAG_SIZE
from morphomil.errors import InputError


@dataclass(frozen=True)
class ImageRecipe:
    """How the image model is built and trained."""

    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 3e-4
    momentum: float = 0.0
    """Of SGD."""
    weight_decay: float = 1e-3
    """Added to the gradient."""
    restart_epochs: int = 20
    """T_0 of the cosine annealing with warm restarts (Loshchilov & Hutter 2017)."""
    restart_factor: int = 2
    """T_mult: each cycle is so much longer than the last."""
    epochs: int = 200
    """At most."""
    patience: int = 30
    """Epochs without a better validation AUC before training ends."""
    stop_train_auc: float = 1.0
    """Training ends when the training bags' AUC exceeds it; 1: never."""
    bags_per_step: int = 16
    clip: float = 5.0
    """Largest norm of a step's gradient; 0: any."""
    bag_size: int = BAG_SIZE
    """Patches in a bag; 0: all of a slide's patches are one bag."""
    redraw: bool = True
    """Draw the training bags anew in every epoch; else they are those of prediction."""
    max_bags: int = 0
    """Of a slide, in training; 0: all."""
    inner: int = 128
    """Width of the attention's hidden layer."""
    dropout: float = 0.5
    attention_dropout: float = 0.0
    """Share of the attention's hidden and final values left out in training."""
    standardize: bool = True
    """Bring every deep feature to mean 0 and SD 1 over the training patches, every patient with the
    same weight."""
    equal_patients: bool = True
    """Every patient has the same total weight in the loss; else every bag."""
    balanced: bool = False
    """Every class has the same total weight in the loss; probabilities then ignore the
    prevalence."""
    backbone_rate: float = 0.1
    """Learning rate of a fine-tuned backbone, as a share of the head's."""
    pool: Literal["mean", "max"] = "mean"
    """A slide's probability over its bags: their mean, or the bag with the largest probability of
    the last class."""

    def __post_init__(self) -> None:
        """Refuse what can't be trained."""
        problems = []
        rates = (self.learning_rate, self.backbone_rate)
        if not all(0 < rate < math.inf for rate in rates) or not 0 <= self.weight_decay < math.inf:
            problems.append(
                f"learning rate must be a positive number, got {self.learning_rate:g} (decay "
                f"{self.weight_decay:g})"
            )
        if (
            min(
                self.restart_epochs,
                self.restart_factor,
                self.epochs,
                self.patience,
                self.bags_per_step,
            )
            < 1
        ):
            problems.append("epochs, patience, restarts and bags per step must be 1 or more")
        if self.bag_size < 0 or not 0 <= self.dropout < 1 or not 0 <= self.attention_dropout < 1:
            problems.append("bag size must be 0 (all patches) or more, and dropout a share below 1")
        if problems:
            raise InputError(problems)


PRESETS = {
    "default": ImageRecipe(),
    "paper": ImageRecipe(
        learning_rate=1e-4,
        redraw=False,
        standardize=False,
        attention_dropout=0.5,
        patience=200,
        backbone_rate=1.0,
    ),
    "released-code": ImageRecipe(
        optimizer="sgd",
        learning_rate=1e-4,
        momentum=0.3,
        stop_train_auc=0.98,
        bags_per_step=1,
        clip=0.0,
        redraw=False,
        inner=1,
        attention_dropout=0.5,
        standardize=False,
        equal_patients=False,
        patience=200,
        backbone_rate=1.0,
    ),
}
"""`paper` and `released-code` are as described there; the latter's patches are embedded at 224
pixels."""


def settle_recipe(preset: str, **changes: Any) -> ImageRecipe:
    """A preset with some settings changed; those that are None stay.

    Raises:
        InputError: there is no such preset, or a setting is out of range.
    """
    if preset not in PRESETS:
        raise InputError(f"no preset named {preset!r}; choose {', '.join(PRESETS)}")
    return replace(
        PRESETS[preset], **{name: value for name, value in changes.items() if value is not None}
    )
