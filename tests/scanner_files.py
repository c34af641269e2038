"""The smallest files that OpenSlide takes for a scanner's: Leica SCN with a scanned part within its
canvas, Hamamatsu NDPI with the place of the image on the slide.
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import numpy as np
import tifffile
from PIL import Image
from slide_images import GLASS, Rgb, plain

if TYPE_CHECKING:
    from pathlib import Path

_SCN = """<?xml version="1.0"?>
<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">
<collection name="c" sizeX="{canvas[0]}" sizeY="{canvas[1]}">{images}</collection></scn>"""
_SCN_IMAGE = """<image name="{ifd}"><creationDate>2020-01-01</creationDate><device model="SCN400"/>
<pixels sizeX="{width}" sizeY="{height}">
<dimension sizeX="{width}" sizeY="{height}" r="0" ifd="{ifd}"/></pixels>
<view sizeX="{view[0]}" sizeY="{view[1]}" offsetX="{corner[0]}" offsetY="{corner[1]}"/>
<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings>
<illuminationSettings><numericalAperture>0.4</numericalAperture>
<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"""
_SHORT, _LONG, _RATIONAL, _FLOAT, _SIGNED = 3, 4, 5, 11, 9


def scn(
    path: Path, rgb: Rgb, *, corner: tuple[int, int], canvas: tuple[int, int], mpp: float = 0.5
) -> Path:
    """A canvas of so many pixels whose scanned part, `rgb`, begins at `corner`."""
    nm = round(mpp * 1000)
    height, width = rgb.shape[:2]
    size = [side * nm for side in canvas]
    macro = _SCN_IMAGE.format(ifd=0, width=256, height=256, view=size, corner=(0, 0))
    main = _SCN_IMAGE.format(
        ifd=1,
        width=width,
        height=height,
        view=(width * nm, height * nm),
        corner=[side * nm for side in corner],
    )
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for pixels, text in (
            (plain(256, 256, GLASS), _SCN.format(canvas=size, images=macro + main)),
            (rgb, None),
        ):
            file.write(
                pixels,
                tile=(256, 256),
                photometric="rgb",
                description=text,
                resolution=(1e4 / mpp, 1e4 / mpp),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    return path


def ndpi(path: Path, rgb: Rgb, *, center_nm: tuple[int, int], mpp: float = 0.5) -> Path:
    """An image whose center lies so many nanometers from the slide's."""
    height, width = rgb.shape[:2]
    packed = io.BytesIO()
    Image.fromarray(rgb).save(packed, "JPEG", quality=95, subsampling=0)
    body = bytearray(struct.pack("<2sHQ4x", b"II", 42, 0)) + packed.getvalue()
    body += b"\0" * (len(body) % 2)
    bits = len(body)
    body += struct.pack("<3H2xII", 8, 8, 8, round(1e4 / mpp), 1) + b"Hamamatsu\0\0\0"
    tags = [
        (256, _LONG, 1, width),
        (257, _LONG, 1, height),
        (258, _SHORT, 3, bits),
        (259, _SHORT, 1, 7),
        (262, _SHORT, 1, 6),
        (271, 2, 10, bits + 16),
        (273, _LONG, 1, 16),
        (277, _SHORT, 1, 3),
        (278, _LONG, 1, height),
        (279, _LONG, 1, len(packed.getvalue())),
        (282, _RATIONAL, 1, bits + 8),
        (283, _RATIONAL, 1, bits + 8),
        (296, _SHORT, 1, 3),
        (65420, _LONG, 1, 1),
        (65421, _FLOAT, 1, 20.0),
        (65422, _SIGNED, 1, center_nm[0]),
        (65423, _SIGNED, 1, center_nm[1]),
        (65424, _SIGNED, 1, 0),
    ]
    directory = len(body)
    body += struct.pack("<H", len(tags))
    for tag, kind, count, value in tags:
        body += struct.pack(
            "<HHI" + {_FLOAT: "f", _SIGNED: "i"}.get(kind, "I"), tag, kind, count, value
        )
    body += struct.pack("<Q", 0) + bytes(4 * len(tags))
    body[4:12] = struct.pack("<Q", directory)
    path.write_bytes(bytes(body))
    return path


def tissue_at(height: int, width: int, box: tuple[int, int, int, int], *, seed: int = 0) -> Rgb:
    """Glass with a rectangle (left, top, right, bottom) of tissue."""
    left, top, right, bottom = box
    rgb = plain(height, width, GLASS)
    rng = np.random.default_rng(seed)
    grain = rng.integers(-15, 16, (bottom - top, right - left, 1))
    rgb[top:bottom, left:right] = np.clip(np.array([200, 120, 170]) + grain, 0, 250)
    return rgb
