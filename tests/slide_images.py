"""Small images of known content, and what the tests of slides do with them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from morphomil.slides.image import SlideImage, open_image
from morphomil.types import ImageSource

if TYPE_CHECKING:
    from pathlib import Path


Rgb = NDArray[np.uint8]


PINK = (200, 120, 170)


GLASS = (240, 240, 240)


def noise(height: int, width: int, *, seed: int = 0) -> Rgb:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def plain(height: int, width: int, color: tuple[int, int, int]) -> Rgb:
    return np.full((height, width, 3), color, np.uint8)


def png(path: Path, rgb: Rgb) -> Path:
    Image.fromarray(rgb).save(path)
    return path


def pyramid(
    path: Path,
    rgb: Rgb,
    *,
    factors: tuple[int, ...] = (1,),
    mpp: float | None = 0.25,
    tile: int = 128,
) -> Path:
    """A tiled TIFF as scanners write it; level k holds every k-th pixel."""
    with tifffile.TiffWriter(path) as file:
        for factor in factors:
            tags: dict[str, Any] = {}
            if mpp is not None:
                tags = {"resolution": (1e4 / mpp / factor,) * 2, "resolutionunit": "CENTIMETER"}
            level = rgb[::factor, ::factor]
            file.write(
                level,
                tile=(tile, tile),
                photometric="rgb",
                compression="deflate",
                subfiletype=int(factor > 1),
                metadata=None,
                **tags,
            )
    return path


def opened(path: Path, **known: float) -> SlideImage:
    return open_image(ImageSource(path, mpp=known.get("mpp", 0.5)))


def annotate(path: Path, polygons: list[Any], *, negative: list[Any] | None = None) -> Path:
    def entries(shapes: list[Any]) -> list[dict[str, Any]]:
        return [
            {"name": f"A{i}", "vertices": [list(xy) for xy in shape.exterior.coords]}
            for i, shape in enumerate(shapes)
        ]

    path.write_text(
        json.dumps({"positive": entries(polygons), "negative": entries(negative or [])})
    )
    return path
