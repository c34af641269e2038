"""The models by name; a new one is added here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from morphomil.models.clinical import Clinical
from morphomil.models.image import Image, ImageClinical
from morphomil.models.morphometry import Morphometry
from morphomil.models.stacked import Stacked

if TYPE_CHECKING:
    from collections.abc import Callable

    from morphomil.models.protocol import Model
    from morphomil.models.settings import TrainSettings

    Build = Callable[[TrainSettings], Model[Any]]

_BUILD: dict[str, Build] = {
    "clinical": Clinical,
    "dl-cnb": Image,
    "dl-cnb+c": lambda settings: ImageClinical(Image(settings)),
    "morphometry": Morphometry,
    "morphometry+clinical": lambda settings: Stacked(Morphometry(settings)),
}


def model_of(settings: TrainSettings) -> Model[Any]:
    """The model that the settings name."""
    return _BUILD[settings.model](settings)
