"""QuPath: GeoJSON with regions as annotations, patches as tiles, nuclei as detections; written as a
stream."""

from __future__ import annotations

import gzip
import json
import math
import uuid
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from morphomil.export.outlines import region_outlines
from morphomil.export.qupath_names import nucleus_measurement, patch_measurement
from morphomil.matrix import by_feature, patch_values
from morphomil.nuclei.registry import FEATURES
from morphomil.nuclei.types import TYPE_COLORS, of_type
from morphomil.slides.image import scanned_corner
from morphomil.store import atomic_path, read_parquet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import pandas as pd

    from morphomil.nuclei.outlines import Outline, Rings
    from morphomil.run.directory import Run
    from morphomil.slides.masks import MaskFrame, RegionMasks
    from morphomil.types import Slide

DECIMALS = 2
"""Coordinates, in level-0 pixels, have this many decimals."""
_NUCLEUS = {"name": "Nucleus", "color": [0, 114, 178]}
_NAMESPACE = uuid.UUID("6c0c7fd4-2d43-5a39-9d0c-6f3d7fd8e2b1")


def write_run(run: Run, slides: Sequence[Slide], folder: Path) -> Iterator[Path]:
    """`STEM.geojson.gz` of every image of the slides, one after the other."""
    from morphomil.export import file_stems

    stems = file_stems(run)
    for slide in slides:
        for number in range(len(slide.images)):
            path = folder / f"{stems[slide.slide_id, number]}.geojson.gz"
            features = slide_features(run, slide, image=number)
            corner = scanned_corner(slide.images[number].path)
            if corner != (0, 0):  # QuPath's coordinates begin there
                features = (_shifted(feature, corner) for feature in features)
            write_features(path, features)
            yield path


def _shifted(feature: dict[str, Any], corner: tuple[float, float]) -> dict[str, Any]:
    """A feature with its coordinates counted from a corner; without the property that marks those
    of the level-0 origin."""

    def shift(part: Any) -> Any:
        if isinstance(part[0], (int, float)):
            return [round(part[axis] - corner[axis], DECIMALS) for axis in (0, 1)]
        return [shift(inner) for inner in part]

    moved = dict(feature)
    for name in ("geometry", "nucleusGeometry"):
        if name in moved:
            moved[name] = moved[name] | {"coordinates": shift(moved[name]["coordinates"])}
    properties = {name: value for name, value in moved["properties"].items() if name != "source"}
    return moved | {"properties": properties}


def write_features(path: Path, features: Iterable[dict[str, Any]]) -> None:
    """A gzipped GeoJSON FeatureCollection, one feature a line; equal features give equal bytes."""
    with atomic_path(path) as partial, _gzipped(partial) as stream:
        stream.write(b'{"type":"FeatureCollection","features":[')
        between = b"\n"
        for feature in features:
            stream.write(
                between
                + json.dumps(feature, allow_nan=False, separators=(",", ":")).encode("ascii")
            )
            between = b",\n"
        stream.write(b"\n]}\n")


@contextmanager
def _gzipped(path: Path) -> Iterator[gzip.GzipFile]:
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=4, fileobj=raw, mtime=0) as stream,
    ):
        yield stream


def slide_features(run: Run, slide: Slide, *, image: int) -> Iterator[dict[str, Any]]:
    """GeoJSON features of one image in its level-0 pixels: regions, then patches with values, then
    nuclei.

    Nuclei are those of the nuclei table; their measurements are its columns and, once ranked, what
    they contribute to the slide's probability (`attribution`), missing values left out.
    """
    patches = run.patches(slide.slide_id)
    nuclei = (
        run.nuclei(slide.slide_id).drop(columns="slide_id").sort_values("label", ignore_index=True)
    )
    contributions = run.contributions_path(slide.slide_id)
    if contributions.is_file():  # what each nucleus adds to the slide's probability
        nuclei = nuclei.merge(
            read_parquet(contributions).drop(columns="patch_id"), on="label", how="left"
        )
    regions = [
        region for region in run.regions(slide.slide_id) if region["properties"]["image"] == image
    ]
    for region in regions:
        own = {"id": _identity(slide, "region", region["properties"]["region"])}
        yield (
            {"type": "Feature"} | own | {name: region[name] for name in ("geometry", "properties")}
        )
    yield from _tiles(run, slide, patches, nuclei, image)
    masks = run.masks(slide.slide_id)
    yield from chain.from_iterable(
        _detections(slide, masks[region["properties"]["region"]], nuclei) for region in regions
    )


def _identity(slide: Slide, kind: str, number: int) -> str:
    """The same object has the same id in every export."""
    return str(uuid.uuid5(_NAMESPACE, f"{kind}/{number}/{slide.slide_id}"))


def _tiles(
    run: Run, slide: Slide, patches: pd.DataFrame, nuclei: pd.DataFrame, image: int
) -> Iterator[dict[str, Any]]:
    values = patch_values(of_type(nuclei, run.whose), patches).set_index("patch_id")
    measured = ["nuclei", *(e.value for e in FEATURES.values() if e.value in values)]
    table = patches[patches["image"] == image].set_index("patch_id")
    table = table.join(by_feature(values[measured])).join(patch_scores(run, slide.slide_id))
    shown = table.drop(columns=["slide_id", "image", "region", "x_px", "y_px", "side_px", "kept"])
    names = [patch_measurement(str(name)) for name in shown]
    frames = zip(
        table.index.tolist(),
        table[["x_px", "y_px", "side_px"]].to_numpy(float).tolist(),
        strict=True,
    )
    for (number, (x, y, side)), kept, row in zip(
        frames, table["kept"], shown.to_numpy(float).tolist(), strict=True
    ):
        corners = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
        yield {
            "type": "Feature",
            "id": _identity(slide, "patch", number),
            "geometry": {"type": "Polygon", "coordinates": [np.round(corners, DECIMALS).tolist()]},
            "properties": {
                "objectType": "tile",
                "name": f"patch {number}",
                "classification": {
                    "name": "Patch" if kept else "Dropped patch",
                    "color": [118, 118, 118],
                },
                "measurements": _measurements(dict(zip(names, row, strict=True))),
            },
        }


def patch_scores(run: Run, slide_id: str) -> pd.DataFrame:
    """Attention of the trained image models by patch, mean over folds: index `patch_id`, a column
    for each model."""
    attention = run.attention(slide_id).dropna(subset=["patch_id"])
    wide = attention.pivot_table(
        index="patch_id", columns="model", values="attention", aggfunc="mean"
    )
    wide.columns = [f"attention {model}" for model in wide.columns]
    return wide.astype("float64").rename(index=int)


def _measurements(values: dict[str, float]) -> dict[str, float]:
    """Known numbers only: JSON has no NaN."""
    return {
        name: int(value) if value.is_integer() else float(f"{value:.8g}")
        for name, value in values.items()
        if math.isfinite(value)
    }


def _detections(slide: Slide, masks: RegionMasks, nuclei: pd.DataFrame) -> Iterator[dict[str, Any]]:
    known = nuclei["label"].to_numpy()
    names = [
        str(name)
        for name in nuclei.select_dtypes("number")
        if name not in ("image", "x_px", "y_px")
    ]
    values = nuclei[names].to_numpy(dtype=np.float64)
    said = [nucleus_measurement(name) for name in names]
    types = _classes(nuclei)
    for outline in region_outlines(masks, known):
        place = int(np.searchsorted(known, outline.label))
        row, kind = values[place].tolist(), types[place]
        yield {
            "type": "Feature",
            "id": _identity(slide, "nucleus", outline.label),
            "geometry": _geometry(outline, masks.frame),
            "properties": {
                "objectType": "detection",
                "classification": _classification(kind),
                "measurements": _measurements(dict(zip(said, row, strict=True))),
            },
        }


def _classification(name: str) -> dict[str, Any]:
    """A class with the color of its type; QuPath gives others colors of its own."""
    if name in TYPE_COLORS:
        color = TYPE_COLORS[name]
        return {"name": name, "color": [int(color[at : at + 2], 16) for at in (1, 3, 5)]}
    return {"name": name} if name else _NUCLEUS


def _classes(nuclei: pd.DataFrame) -> list[str]:
    """The class of each nucleus: its type, else what the file that it was imported from says, else
    ""."""
    types = nuclei["type"].astype("object")
    if "said_type" in nuclei:
        types = types.fillna(nuclei["said_type"])
    return types.fillna("").tolist()


def _geometry(outline: Outline, frame: MaskFrame) -> dict[str, Any]:
    polygons = [_coordinates(rings, frame) for rings in outline.polygons]
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def _coordinates(rings: Rings, frame: MaskFrame) -> list[list[list[float]]]:
    return [np.round(frame.to_level0(ring), DECIMALS).tolist() for ring in rings]
