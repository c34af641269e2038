"""How many um a level-0 pixel is wide: what the manifest says, else the file, else the command.

All other pixel sizes follow: masks and patches are at `PatchSettings.working_mpp`, and
`masks.MaskFrame` ties the two together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from morphomil.cohort.checks import MPP_RANGE
from morphomil.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from morphomil.slides.tiff_sizes import StatedSize
    from morphomil.types import ImageSource

MAX_MPP_CONFLICT = 0.05
"""A pixel size that is given may differ from the file's by this share; more is an error."""


def settle_mpp(
    source: ImageSource, *, stated: Sequence[StatedSize], default: float | None
) -> float:
    """um per level-0 pixel of an image: the manifest's, else the file's, else `default` (`--mpp`).

    A size in the file that no microscope gives, as 72 dpi are, counts as none. Of two sizes in the
    file that agree the first counts; of two that don't, the one that agrees with what is given.

    Raises:
        InputError: none is known, or what is given is out of range or contradicts the file, or the
            file contradicts itself.
    """
    low, high = MPP_RANGE
    given = default if source.mpp is None else source.mpp
    origin = "--mpp" if source.mpp is None else "the manifest"
    if given is not None and not low <= given <= high:
        raise InputError(
            f"slide {source.path}: {origin} says {given:g} um per pixel; pixel sizes are "
            f"{low:g} to {high:g}"
        )
    usable = [size for size in stated if low <= size.mpp <= high]
    file_mpp = _of_file(source, usable, given)
    if given is not None and file_mpp is not None and _differ(given, file_mpp):
        raise InputError(
            f"slide {source.path}: {origin} says {given:g} um per pixel, the file {file_mpp:g}; "
            "correct the one that is wrong"
        )
    for mpp in (source.mpp, file_mpp, default):
        if mpp is not None:
            return float(mpp)
    says = (
        f"says {stated[0].mpp:.4g} um, which no microscope gives" if stated else "doesn't record it"
    )
    raise InputError(
        f"slide {source.path}: pixel size unknown (the file {says}); give it in the manifest's "
        "column mpp, with --mpp, or use a file that records it"
    )


def _of_file(source: ImageSource, usable: list[StatedSize], given: float | None) -> float | None:
    """The one size that a file states, or None."""
    if not usable:
        return None
    first = usable[0]
    for other in usable[1:]:
        if not _differ(other.mpp, first.mpp):
            continue
        for size in (first, other):
            if given is not None and not _differ(given, size.mpp):
                return size.mpp
        raise InputError(
            f"slide {source.path}: {first.origin} says {first.mpp:.4g} um per pixel and "
            f"{other.origin} {other.mpp:.4g}; give the right one in the manifest's column mpp"
        )
    return first.mpp


def _differ(one: float, other: float) -> bool:
    return abs(one / other - 1) > MAX_MPP_CONFLICT
