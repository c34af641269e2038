"""Which model is trained, on which split."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from morphomil.errors import InputError

if TYPE_CHECKING:
    from morphomil.cohort.splits import SplitMode
    from morphomil.types import Device
MODELS = ("clinical", "dl-cnb", "dl-cnb+c", "morphometry", "morphometry+clinical")
"""The models have these names, as `morphomil train` takes them."""
IMAGE_MODELS = ("dl-cnb", "dl-cnb+c")
"""These models see patches."""


@dataclass(frozen=True)
class TrainSettings:
    """Which model is trained, on which split."""

    model: str
    preset: str = "default"
    changes: dict[str, Any] = field(default_factory=dict)
    """Settings of the preset's recipe that are changed (`image_model.recipe.ImageRecipe`)."""
    backbone: str = ""
    """The folder of `embeddings`; empty: the only one, or the default."""
    finetune: bool = False
    """The backbone learns too, from the pixels (`backbones.keep_pixels`) and the weights that
    `embed` used."""
    weights: str = ""
    """File of the backbone's weights, where `embed` had one."""
    device: Device = "auto"
    """Where the backbone learns; the model behind it is small, and learns on the processor."""
    covariates: tuple[str, ...] = ()
    """Of the clinical models; empty: all that the cohort has."""
    allow_leakage: tuple[str, ...] = ()
    """Covariates that are used though each of their values stands for one label."""
    split: SplitMode = "auto"
    """auto: the manifest's, else k-fold; holdout: 4:1, then 3:1; site: each site is predicted by
    the others."""
    folds: int = 5
    positive: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what there is no model or split for."""
        check_model(self.model)
        if self.split not in ("auto", "kfold", "holdout", "site"):
            raise InputError(f"a split is auto, kfold, holdout or site, not {self.split!r}")
        if self.finetune and self.model not in IMAGE_MODELS:
            raise InputError(f"{self.model} sees no patches, so there is no backbone to fine-tune")


def check_model(name: str) -> None:
    """Make sure that there is a model of this name.

    Raises:
        InputError: there is none.
    """
    if name not in MODELS:
        raise InputError(f"no model named {name!r}; choose {', '.join(MODELS)}")
