"""The resolution that a cohort is worked at: pixel sizes known and one for all, before any work."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from morphomil.errors import InputError, SlideError
from morphomil.places import Address
from morphomil.slides.image import open_image
from morphomil.types import NATIVE, PatchSettings

if TYPE_CHECKING:
    from morphomil.places import Place
    from morphomil.types import Cohort

COARSEST_MPP = 0.6
"""Images coarser than this have no detail to measure nuclei by."""
REFERENCE_MPP = 0.5
"""At the native resolution a patch is as large as `patch_px` pixels of this many um."""


def check_pixel_sizes(cohort: Cohort, mpp: float | None) -> dict[Place, float]:
    """um per pixel of every image that can be opened, before any work; of those elsewhere, which
    aren't copied for it, what the manifest says.

    Raises:
        InputError: images of unknown or contradicted pixel size, all at once.
    """
    problems: list[str] = []
    sizes: dict[Place, float] = {}
    for source in (image for slide in cohort.slides for image in slide.images):
        if isinstance(source.path, Address):
            if source.mpp is not None:
                sizes[source.path] = source.mpp
            continue
        try:
            with open_image(source, default_mpp=mpp, icc=False) as image:
                sizes[source.path] = image.mpp
        except InputError as error:
            problems += error.problems
        except SlideError:
            continue  # reported with its slide, while the others go on
    if problems:
        raise InputError(problems)
    return sizes


def settle_resolution(cohort: Cohort, settings: PatchSettings, mpp: float | None) -> PatchSettings:
    """The settings with a number for `NATIVE`; every image's pixel size is known then.

    The native resolution of a cohort is that of its coarsest image: finer ones are brought to it,
    so that all nuclei are measured alike. Patches keep their size in um.

    Args:
        cohort: the slides.
        settings: how patches are cut.
        mpp: um per level-0 pixel for images whose file and manifest say nothing.

    Raises:
        InputError: as `check_pixel_sizes`; or the coarsest image is too coarse.
    """
    sizes = check_pixel_sizes(cohort, mpp)
    if settings.working_mpp != NATIVE:
        return settings
    images = [image.path for slide in cohort.slides for image in slide.images]
    if unknown := [path for path in images if isinstance(path, Address) and path not in sizes]:
        raise InputError(
            f"the native resolution of a cohort is its coarsest image's, and {unknown[0]} isn't "
            "copied to learn its own: fill the manifest's column mpp, or give --working-mpp as a "
            "number"
        )
    if not sizes:  # no image can be opened, as each slide will say
        return replace(settings, working_mpp=REFERENCE_MPP)
    coarsest = max(sizes, key=lambda path: sizes[path])
    native = sizes[coarsest]
    if native > COARSEST_MPP:
        raise InputError(
            f"image {coarsest} has {native:g} um per pixel, too coarse to measure nuclei by, and "
            "the native resolution of a cohort is its coarsest image's: leave it out, or give "
            "--working-mpp as a number"
        )
    side = round(settings.patch_px * REFERENCE_MPP / native / 4) * 4
    return replace(settings, working_mpp=native, patch_px=side)
