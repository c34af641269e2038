"""Phantoms as slides, annotations, truth tables and a manifest."""

from __future__ import annotations

import io
import itertools
import struct
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from PIL import Image

from morphomil.errors import InputError
from morphomil.phantom.chance import random_for
from morphomil.phantom.paint import Phantom, render_slide
from morphomil.phantom.settings import TRAIT_SDS, Effect, PhantomSettings
from morphomil.store import atomic_path, write_bytes, write_json, write_parquet, write_table_csv

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from shapely import Polygon

TILE_PX = 256
"""Slides are stored in tiles of this side."""


def write_cohort(
    out: Path,
    *,
    seed: int,
    slides: int = 24,
    effect: str = "density_per_mm2",
    shift: float = 2.0,
    settings: PhantomSettings | None = None,
    on_slide: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a cohort of one slide per patient, groups 0 and 1 in turn, and return its manifest
    (paths relative to it).

    Beside the slides (pyramidal TIFF) lie annotations (GeoJSON) and, in `truth`, each slide's
    nuclei (Parquet) and labels (TIFF), the patients' traits in SDs between patients (the group's
    shift included), and the settings. The same arguments give the same bytes. `on_slide` is called
    with the slides done and their number.

    Raises:
        InputError: fewer than two slides, a negative seed, no such effect, or `out` can't be made.
    """
    settings, planted = settings or PhantomSettings(), Effect(effect, shift)
    if slides < 2 or seed < 0:
        raise InputError(
            f"a cohort needs at least 2 slides and a seed from 0, got {slides} "
            f"slides and seed {seed}"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cohort folder {out} can't be made: {error.strerror}; name another one"
        ) from error
    manifest, truth = [], []
    for number in range(slides):
        phantom = render_slide(settings, seed=seed, number=number, effect=planted, label=number % 2)
        name = f"P{number + 1:03d}"
        _write_phantom(out, name, phantom)
        age = random_for((seed, number), "age").normal(55, 11)
        row = {"slide": f"slides/{name}.tif", "patient": name, "label": number % 2}
        row |= {"annotation": f"annotations/{name}.geojson", "site": "AB"[number // 2 % 2]}
        manifest.append(row | {"age": round(float(np.clip(age, 25, 90)))})
        scores = {trait: value / TRAIT_SDS[trait] for trait, value in phantom.plan.traits.items()}
        truth.append({"patient": name, "label": number % 2} | scores)
        if on_slide:
            on_slide(number + 1, slides)
    write_table_csv(out / "truth" / "patients.csv", pd.DataFrame(truth))
    about = {
        "seed": seed,
        "slides": slides,
        "effect": effect,
        "shift": shift,
        "settings": asdict(settings),
    }
    write_json(out / "truth" / "phantom.json", about)
    write_table_csv(out / "cohort.csv", pd.DataFrame(manifest))
    return out / "cohort.csv"


def _write_phantom(out: Path, name: str, phantom: Phantom) -> None:
    import tifffile

    settings = phantom.plan.settings
    _write_slide(
        out / "slides" / f"{name}.tif", phantom.rgb, mpp=settings.mpp, quality=settings.jpeg_quality
    )
    write_json(out / "annotations" / f"{name}.geojson", _annotation(phantom.plan.tumor))
    write_parquet(out / "truth" / f"{name}.parquet", phantom.plan.nuclei)
    with atomic_path(out / "truth" / f"{name}_labels.tif") as path:
        tifffile.imwrite(path, phantom.labels, compression="zlib", metadata=None)


def _annotation(tumor: Polygon) -> dict[str, Any]:
    """As QuPath exports it."""
    properties = {
        "objectType": "annotation",
        "classification": {"name": "Tumor", "color": [200, 0, 0]},
    }
    feature = {
        "type": "Feature",
        "geometry": shapely.geometry.mapping(tumor),
        "properties": properties,
    }
    return {"type": "FeatureCollection", "features": [feature]}


def _write_slide(path: Path, rgb: NDArray[np.uint8], *, mpp: float, quality: int) -> None:
    """Pyramid of levels halved down to one tile, each a directory of JPEG tiles that states its
    resolution.

    A classic TIFF 6.0 with the JPEG tiles of TIFF Technical Note 2, assembled here because tifffile
    writes JPEG only with imagecodecs; OpenSlide reads it as generic tiled TIFF.
    """
    content = bytearray(struct.pack("<2sHI", b"II", 42, 0))
    image, factor, link = Image.fromarray(rgb), 1, 4
    while True:
        tiles = _jpeg_tiles(image, quality)
        tags = _level_tags(image.size, reduced=factor > 1, per_cm=1e4 / (mpp * factor))
        tags[324] = ("I", list(itertools.accumulate(map(len, tiles[:-1]), initial=len(content))))
        tags[325] = ("I", [len(tile) for tile in tiles])
        content += b"".join(tiles)
        link = _append_directory(content, tags, link=link)
        if max(image.size) <= TILE_PX:
            return write_bytes(path, bytes(content))
        image, factor = image.reduce(2), factor * 2


def _level_tags(
    size: tuple[int, int], *, reduced: bool, per_cm: float
) -> dict[int, tuple[str, list[int]]]:
    """TIFF tags of a level but for its tiles: number -> (type as in `struct`, values); rationals
    are two integers."""
    resolution = ("R", [round(per_cm * 1000), 1000])
    return {
        254: ("I", [int(reduced)]),
        256: ("I", [size[0]]),
        257: ("I", [size[1]]),
        258: ("H", [8, 8, 8]),
        259: ("H", [7]),  # JPEG
        262: ("H", [6]),  # YCbCr
        277: ("H", [3]),
        282: resolution,
        283: resolution,
        284: ("H", [1]),
        296: ("H", [3]),  # per cm
        322: ("I", [TILE_PX]),
        323: ("I", [TILE_PX]),
        530: ("H", [2, 2]),  # chroma at half resolution
    }


def _append_directory(
    content: bytearray, tags: dict[int, tuple[str, list[int]]], *, link: int
) -> int:
    """Append values and directory, point `link` to the directory; the place of its own link to the
    next one."""
    entries = bytearray()
    for number, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}{'I' if kind == 'R' else kind}", *values)
        count = len(values) // 2 if kind == "R" else len(values)
        if len(packed) > 4:
            content += b"\0" * (len(content) % 2)
            place, content[len(content) :] = len(content), packed
            packed = struct.pack("<I", place)
        entries += struct.pack("<HHI4s", number, {"H": 3, "I": 4, "R": 5}[kind], count, packed)
    content += b"\0" * (len(content) % 2)
    struct.pack_into("<I", content, link, len(content))
    content += struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return len(content) - 4


def _jpeg_tiles(image: Image.Image, quality: int) -> list[bytes]:
    """Row by row; the edge is repeated where a tile juts out."""
    padding = ((0, -image.height % TILE_PX), (0, -image.width % TILE_PX), (0, 0))
    padded, tiles = np.pad(np.asarray(image), padding, mode="edge"), []
    for top, left in itertools.product(
        range(0, image.height, TILE_PX), range(0, image.width, TILE_PX)
    ):
        stream = io.BytesIO()
        tile = Image.fromarray(padded[top : top + TILE_PX, left : left + TILE_PX])
        tile.save(stream, "JPEG", quality=quality, subsampling="4:2:0")
        tiles.append(stream.getvalue())
    return tiles
