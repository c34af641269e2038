"""Slide -> deep features of its kept patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from morphomil.errors import SlideError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd
    from numpy.typing import NDArray

    from morphomil.image_model.backbones import LoadedEncoder
    from morphomil.run.directory import Run
    from morphomil.types import Slide
PATCHES_AT_ONCE = 32
"""The number of patches at once is always the same, so that a slide's features don't depend on how
it was cut up."""


def patch_pixels(
    run: Run,
    slide: Slide,
    *,
    outside: Literal["white", "keep"],
    patches: pd.DataFrame | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """A slide's kept patches (or others of their size) one by one, in the order of the table:
    (side, side, 3).

    Raises:
        SlideError: a file can't be read.
    """
    from shapely.geometry import shape

    patches = run.patches(slide.slide_id).query("kept") if patches is None else patches
    masks = run.masks(slide.slide_id)
    outlines = {
        f["properties"]["region"]: shape(f["geometry"]) for f in run.regions(slide.slide_id)
    }
    for number, patches_of_image in patches.groupby("image", sort=False):
        with run.open_image(slide.slide_id, int(str(number))) as image:
            for patch in patches_of_image.to_dict("records"):
                frame = masks[patch["region"]].frame
                corner = (float(patch["x_px"]), float(patch["y_px"]))
                rgb = frame.read_patch(image, *corner)
                if outside == "white" and patch["blank_fraction"] > 0:
                    outline = outlines[patch["region"]]
                    rgb = _paint_outside(rgb, outline, corner, frame.downsample)
                yield rgb


def _paint_outside(
    rgb: NDArray[np.uint8], outline: Any, corner: tuple[float, float], downsample: float
) -> NDArray[np.uint8]:
    """White where the region isn't."""
    import shapely
    from PIL import Image, ImageDraw

    inside = Image.new("1", rgb.shape[1::-1], 0)
    draw = ImageDraw.Draw(inside)
    for ring, fill in [(outline.exterior, 1), *((hole, 0) for hole in outline.interiors)]:
        corners = (shapely.get_coordinates(ring) - corner) / downsample - 0.5
        draw.polygon([tuple(corner) for corner in corners], fill=fill)
    return np.where(np.asarray(inside)[..., None], rgb, np.uint8(255))


def embed_slide(
    run: Run,
    slide: Slide,
    encoder: LoadedEncoder,
    *,
    outside: Literal["white", "keep"],
    step: Callable[[int, int], None],
) -> NDArray[np.float16 | np.uint8]:
    """Features (kept patches, F) of a slide in half precision, pixels in bytes; without kept
    patches no rows.

    Raises:
        SlideError: the slide can't be read, or the encoder gives no finite (n, F).
    """
    total = int(run.patches(slide.slide_id)["kept"].sum())
    parts: list[NDArray[np.float16 | np.uint8]] = []
    waiting: list[NDArray[np.uint8]] = []
    for number, rgb in enumerate(patch_pixels(run, slide, outside=outside), start=1):
        waiting.append(rgb)
        if len(waiting) == PATCHES_AT_ONCE or number == total:
            parts.append(_checked(encoder, np.stack(waiting)))
            waiting = []
            step(number, total)
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float16)


def _checked(encoder: LoadedEncoder, patches: NDArray[np.uint8]) -> NDArray[np.float16 | np.uint8]:
    features = np.asarray(encoder.encode(patches))
    if features.ndim != 2 or len(features) != len(patches):
        raise SlideError(
            f"encoder {encoder.name} must give ({len(patches)}, F), gave {features.shape}"
        )
    if features.dtype == np.uint8:
        return features
    with np.errstate(over="ignore"):
        half = features.astype(np.float16)
    if not np.isfinite(half).all():
        raise SlideError(
            f"encoder {encoder.name} gives values that half precision can't hold "
            "(above 65504, or NaN)"
        )
    return half
