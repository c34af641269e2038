"""Colors of an image: gray stored as RGB, ICC profiles, significant bits, transparency."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from morphomil.errors import SlideError, translating

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

COLORED = 12
"""A pixel is colored if its largest and its smallest channel differ by more: noise of JPEG and of
white balance stays below."""
COLORED_SHARE = 0.002
"""An area is colored where this share of its pixels is."""
DARK_SHARE = 0.01
"""A picture without color is gray if this share of it is neither white nor black; else it may be
empty."""
PROFILE_CHANGE = 3
"""A color profile that changes no color by more of 255 counts as sRGB."""
BIT_DEPTHS = (8, 10, 12, 14, 16)
"""Cameras give so many bits per sample."""


def wrong_color(path: Path, kind: str) -> SlideError:
    """The error for pixels that aren't H&E in color."""
    return SlideError(
        f"slide {path}: its pixels are {kind}, but nuclei are measured in H&E color; save it as "
        "8-bit RGB"
    )


def is_gray(areas: Iterable[NDArray[np.uint8]]) -> bool:
    """Whether a picture that is stored as RGB has no color; `areas` (height, width, 3), of which
    as few are looked at as needed.

    White and black areas say nothing. False, too, where all is white or black.
    """
    seen = dark = 0
    for area in areas:
        low, high = area.min(axis=2), area.max(axis=2)
        if ((high.astype(np.int16) - low) > COLORED).mean() > COLORED_SHARE:
            return False
        seen += low.size
        dark += int(((high < 215) & (high > 16)).sum())
    return dark > DARK_SHARE * seen


def refuse_gray(path: Path, areas: Iterable[NDArray[np.uint8]]) -> None:
    """Raise SlideError for a picture without color; see `is_gray`."""
    if is_gray(areas):
        raise wrong_color(path, "gray (stored as RGB)")


def squares(image: NDArray[np.uint8], side: int = 512) -> Iterable[NDArray[np.uint8]]:
    """The parts of an image on a grid, the middle first."""
    corners = [
        (y, x) for y in range(0, image.shape[0], side) for x in range(0, image.shape[1], side)
    ]
    middle = len(corners) // 2
    for y, x in corners[middle:] + corners[:middle]:
        yield image[y : y + side, x : x + side]


class Profile:
    """What an ICC color profile makes of RGB: the same colors in sRGB, relative colorimetric."""

    def __init__(self, name: str, transform: Any) -> None:
        """See `open_profile`."""
        self.name, self._transform = name, transform

    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """sRGB of pixels (height, width, 3)."""
        from PIL.Image import fromarray
        from PIL.ImageCms import applyTransform

        changed = applyTransform(fromarray(np.ascontiguousarray(rgb)), self._transform)
        return np.array(changed)


def open_profile(path: Path, content: bytes | None) -> Profile | None:
    """The color profile of a file; None where it has none, or one that changes nothing.

    Raises:
        SlideError: the profile is damaged or isn't for RGB.
    """
    from PIL import ImageCms

    if not content:
        return None
    with translating(
        lambda cause: SlideError(
            f"slide {path}: its color profile can't be applied ({cause}); remove it from the file, "
            "or leave it aside with --no-icc"
        )
    ):
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        space = profile.profile.xcolor_space.strip()
        if space != "RGB":
            raise ImageCms.PyCMSError(f"it is for {space}")
        transform = ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            "RGB",
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
        found = Profile(ImageCms.getProfileDescription(profile).strip() or "unnamed", transform)
        axis = np.arange(0, 256, 17, dtype=np.uint8)
        colors = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(1, -1, 3)
        change = np.abs(found(colors).astype(np.int16) - colors)
    return found if change.max() > PROFILE_CHANGE else None


def significant_bits(bits: int, *, stated: int | None, peak: int) -> int:
    """How many bits of a sample count: what the file states, else what its largest value needs.

    Args:
        bits: bits that are stored per sample.
        stated: significant bits by the file's metadata.
        peak: the largest value that was seen.
    """
    if stated is not None and 1 < stated < bits:
        return stated
    return next((depth for depth in BIT_DEPTHS if 0 < peak < 2**depth), bits)


def to_rgb8(
    samples: NDArray[Any],
    *,
    bits: int,
    alpha: tuple[int, bool] | None,
    fits: Callable[[], SlideError],
) -> NDArray[np.uint8]:
    """8-bit RGB on white paper of samples (height, width, 3 or more).

    Args:
        samples: unsigned integers.
        bits: significant bits of a sample.
        alpha: which sample is the opacity, and whether the colors are multiplied by it already.
        fits: makes the error for a sample that needs more bits.
    """
    top = 2**bits - 1
    if bits < 8 * samples.dtype.itemsize and samples[..., :3].max(initial=0) > top:
        raise fits()
    scaled = samples.astype(np.float32) * (255 / top) if bits != 8 or alpha else None
    if alpha is None:
        rgb = samples[..., :3] if scaled is None else np.rint(scaled[..., :3])
        return np.ascontiguousarray(rgb.astype(np.uint8))
    assert scaled is not None
    sample, multiplied = alpha
    opacity = scaled[..., sample, None] / 255
    colors = scaled[..., :3] if multiplied else scaled[..., :3] * opacity
    on_white = np.rint(np.clip(colors + 255 * (1 - opacity), 0, 255))
    return np.ascontiguousarray(on_white.astype(np.uint8))
