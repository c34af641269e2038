"""How many um a level-0 pixel is wide: what the manifest says, else the file, else the command.

All other pixel sizes follow: masks and patches are at `PatchSettings.working_mpp`, and
`masks.MaskFrame` ties the two together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from morphomil.cohort.manifest import MPP_RANGE
from morphomil.errors import InputError

if TYPE_CHECKING:
    from morphomil.types import ImageSource

MAX_MPP_CONFLICT = 0.05
"""A pixel size that is given may differ from the file's by this share; more is an error."""


def settle_mpp(source: ImageSource, *, file_mpp: float | None, default: float | None) -> float:
    """um per level-0 pixel of an image: the manifest's, else the file's, else `default` (`--mpp`).

    A size in the file that no microscope gives counts as none.

    Raises:
        InputError: none is known, or what is given is out of range or contradicts the file.
    """
    low, high = MPP_RANGE
    given = default if source.mpp is None else source.mpp
    origin = "--mpp" if source.mpp is None else "the manifest"
    if given is not None and not low <= given <= high:
        raise InputError(
            f"slide {source.path}: {origin} says {given:g} um per pixel; pixel sizes are "
            f"{low:g} to {high:g}"
        )
    usable = file_mpp if file_mpp is not None and low <= file_mpp <= high else None
    if given is not None and usable is not None and abs(given / usable - 1) > MAX_MPP_CONFLICT:
        raise InputError(
            f"slide {source.path}: {origin} says {given:g} um per pixel, the file {usable:g}; "
            "correct the one that is wrong"
        )
    for mpp in (source.mpp, usable, default):
        if mpp is not None:
            return float(mpp)
    says = (
        "doesn't record it"
        if file_mpp is None
        else f"says {file_mpp:.4g} um, which no microscope gives"
    )
    raise InputError(
        f"slide {source.path}: pixel size unknown (the file {says}); give it in the manifest's "
        "column mpp, with --mpp, or use a file that records it"
    )
