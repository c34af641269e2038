"""TIFF -> the pixel sizes that it states: OME-XML, ImageJ's description, resolution tags.

Sources: the OME schema of June 2016 (`PhysicalSizeX`, `UnitsLength`), the TIFF 6.0 specification
(`XResolution`, `ResolutionUnit`), and ImageJ's `TiffEncoder` (`unit=`, `yunit=` in the
description).
"""

from __future__ import annotations

import math
import unicodedata
from typing import TYPE_CHECKING, Any, NamedTuple

from morphomil.errors import SlideError

if TYPE_CHECKING:
    from pathlib import Path
    from xml.etree.ElementTree import Element

MAX_OBLONG = 0.01
"""A pixel may be longer than it is wide by this share."""
PRINT_DPI = (72.0, 96.0, 100.0, 150.0, 300.0)
"""Resolution tags of so many dots per inch are for printers and screens: they say no pixel size."""
PRINT_TOLERANCE = 0.005
"""A resolution within this share of one in `PRINT_DPI` counts as it: dots per cm are rounded."""
UM_PER_INCH = 25400.0
UM_PER_CM = 10000.0
UM_PER_UNIT = {
    "pm": 1e-6,
    "picometer": 1e-6,
    "å": 1e-4,
    "angstrom": 1e-4,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "um": 1.0,
    "micron": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": UM_PER_CM,
    "centimeter": UM_PER_CM,
    "dm": 1e5,
    "m": 1e6,
    "meter": 1e6,
    "in": UM_PER_INCH,
    "inch": UM_PER_INCH,
    "thou": 25.4,
    "mil": 25.4,
    "pt": UM_PER_INCH / 72,
}
"""A unit of this name is so many um; names that aren't here ("pixel", "reference frame") are no
lengths."""


class StatedSize(NamedTuple):
    """A pixel size in um that a file states, and the place in the file that states it."""

    origin: str
    mpp: float


def um_per_unit(name: str | None) -> float | None:
    """How many um a unit of length is, by its name in any usual spelling; None: it is no length."""
    text = (name or "").strip().strip('"').replace("\\u00B5", "u").replace("\\u00b5", "u")
    text = (
        unicodedata.normalize("NFKC", text).casefold().replace("μ", "u").replace("metre", "meter")
    )
    for known in (text, text.removesuffix("s"), text.replace("inches", "inch")):
        if known in UM_PER_UNIT:
            return UM_PER_UNIT[known]
    return None


def square_mpp(path: Path, x: float, y: float) -> float | None:
    """um per pixel of a file that states `x` and `y`; None where it states none.

    Raises:
        SlideError: they differ by more than 1 %.
    """
    if not (0 < x < math.inf and 0 < y < math.inf):
        return None
    if abs(x / y - 1) > MAX_OBLONG:
        raise SlideError(
            f"slide {path}: its pixels are {x:g} x {y:g} um; resample it to square pixels"
        )
    return (x + y) / 2


def stated_sizes(path: Path, file: Any, page: Any, pixels: Element | None) -> list[StatedSize]:
    """The pixel sizes that a TIFF states of one of its images, the authority first.

    Args:
        path: the file, for messages.
        file: the open `tifffile.TiffFile`.
        page: the image's page.
        pixels: the element `Pixels` of the image in the OME-XML, if the file has one.

    Raises:
        SlideError: a pixel is more than 1 % longer than wide.
    """
    sizes = []
    if pixels is not None and (mpp := _ome_mpp(path, pixels)):
        sizes.append(StatedSize("its OME-XML", mpp))
    if mpp := _resolution_mpp(path, file, page):
        sizes.append(StatedSize("its resolution tag", mpp))
    return sizes


def _ome_mpp(path: Path, pixels: Element) -> float | None:
    """um per pixel; an axis that isn't stated is as the other."""
    x, y = (_ome_axis(pixels, axis) for axis in "XY")
    return square_mpp(path, x or y or 0.0, y or x or 0.0)


def _ome_axis(pixels: Element, axis: str) -> float | None:
    factor = um_per_unit(pixels.get(f"PhysicalSize{axis}Unit", "um"))
    try:
        return float(pixels.get(f"PhysicalSize{axis}", "").replace(",", ".")) * (factor or 0.0)
    except ValueError:
        return None


def _resolution_mpp(path: Path, file: Any, page: Any) -> float | None:
    """um per pixel of the resolution tags, in the unit of ImageJ's description where there is
    one."""
    per_pixel = []
    for axis, name in zip("xy", ("XResolution", "YResolution"), strict=True):
        value = page.tags.valueof(name)
        if not isinstance(value, tuple) or 0 in value:  # a rational's numerator or denominator
            return None
        unit = _unit_of_tags(file, page, axis)
        if unit is None:
            return None
        per_pixel.append(unit * value[1] / value[0])
    x, y = per_pixel
    for_print = any(abs(x / (UM_PER_INCH / dpi) - 1) < PRINT_TOLERANCE for dpi in PRINT_DPI)
    return x if for_print else square_mpp(path, x, y)


def _unit_of_tags(file: Any, page: Any, axis: str) -> float | None:
    """um of the unit that a resolution tag counts pixels in."""
    described = (file.imagej_metadata or {}) if file.is_imagej else {}
    unit = described.get("yunit" if axis == "y" and "yunit" in described else "unit")
    if unit is not None:
        return um_per_unit(str(unit))
    return {2: UM_PER_INCH, 3: UM_PER_CM}.get(int(page.tags.valueof("ResolutionUnit", default=2)))
