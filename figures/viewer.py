"""The slide browser: deep zoom, heatmaps, patches and nuclear outlines of a run, as the server of
its page (`serving`) asks for them."""

from __future__ import annotations

import io
import math
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from morphomil.errors import InputError
from morphomil.matrix import features_in, patch_values
from morphomil.nuclei.outlines import trace_outlines
from morphomil.nuclei.quantities import feature_quantity, patient_quantity
from morphomil.nuclei.types import TYPE_COLORS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd
    from numpy.typing import NDArray

    from morphomil.run.directory import Run
    from morphomil.slides.image import SlideImage
    from morphomil.types import Slide

TILE_PX = 256
MARGIN_PX = 48
"""So much around a patch is read too, so that nuclei that reach past its border are whole."""
OPEN_IMAGES = 4
"""So many slides stay open at once."""


@dataclass
class SlideBrowser:
    """What the browser shows of a run: slides, tiles, patches with values, outlines."""

    run: Run
    _images: dict[tuple[int, int], SlideImage] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """List the segmented slides, empty ones too.

        Raises:
            InputError: the run has none.
        """
        self.slides: list[Slide] = [
            slide
            for slide in self.run.cohort.slides
            if self.run.ledger.state(slide.slide_id, "segment") in ("done", "empty")
        ]
        if not self.slides:
            raise InputError(
                f"{self.run.path} has no segmented slide to show; run: morphomil segment"
            )
        self._measured = set(self.run.done("featurize"))
        self.outlines: Callable[[int, int], list[dict[str, Any]]] = lru_cache(maxsize=512)(
            self._outlines
        )
        self._patch_table: Callable[[int], pd.DataFrame] = lru_cache(maxsize=16)(self._values)

    def list_slides(self) -> list[dict[str, Any]]:
        """Every segmented slide: name, patient, label and number of images."""
        return [
            {
                "name": s.slide_id,
                "patient": s.patient,
                "label": str(s.label),
                "images": len(s.images),
            }
            for s in self.slides
        ]

    def describe(self, slide: int, image: int) -> dict[str, Any]:
        """Size, um per pixel, patches with their values, and what the values are called."""
        with self._lock:
            opened = self._open(slide, image)
            about = {
                "width": opened.width,
                "height": opened.height,
                "mpp": opened.mpp,
                "tile": TILE_PX,
            }
        table = self._patch_table(slide)
        own = table[table["image"] == image]
        names = [name for name in table if name not in _PATCH_COLUMNS]
        places = own[["patch_id", "x_px", "y_px", "side_px", "kept"]].to_dict("records")
        values = {name: [_number(v) for v in own[name]] for name in names}
        known = {name: [v for v in column if v is not None] for name, column in values.items()}
        limits = {
            name: [float(x) for x in np.percentile(v, (2, 98))] for name, v in known.items() if v
        }
        shown = [name for name in names if name in limits]
        return about | {
            "patches": places,
            "values": {name: values[name] for name in shown},
            "limits": limits,
            "names": {name: _quantity(str(name)) for name in shown},
            "nuclei": self._nucleus_features(slide),
            "types": self._types(slide),
        }

    def _types(self, slide: int) -> list[dict[str, Any]]:
        """The types that nuclei of a slide have: name, color, number; none where nobody knows
        them."""
        if self.slides[slide].slide_id not in self._measured:
            return []
        types = self.run.nuclei(self.slides[slide].slide_id)["type"]
        counts = types.value_counts(sort=False)
        if not counts.sum():
            return []
        known: list[dict[str, Any]] = [
            {"name": name, "color": color, "nuclei": int(counts[name])}
            for name, color in TYPE_COLORS.items()
        ]
        if count := int(types.isna().sum()):
            known.append({"name": "unknown", "color": "#000000", "nuclei": count})
        return known

    def _nucleus_features(self, slide: int) -> dict[str, Any]:
        """Of each feature of nuclei: what it is called and the 2nd and 98th percentile of the
        slide."""
        if self.slides[slide].slide_id not in self._measured:
            return {}
        nuclei = self.run.nuclei(self.slides[slide].slide_id)
        found = {}
        for name in features_in(nuclei):
            known = nuclei[name].dropna()
            if len(known):
                limits = [float(x) for x in np.percentile(known, (2, 98))]
                found[name] = {"name": str(feature_quantity(name)), "limits": limits}
        return found

    def _values(self, slide: int) -> pd.DataFrame:
        """All patches of a slide with the values of the kept ones: medians of features, attention
        of image models."""
        name = self.slides[slide].slide_id
        patches = self.run.patches(name)
        if name in self._measured:
            values = patch_values(self.run.counted_nuclei(name), patches)
            columns = [column for column in values if column not in patches or column == "patch_id"]
            patches = patches.merge(values[columns], on="patch_id", how="left")
        attention = self.run.attention(name).dropna(subset=["patch_id"])
        for model, own in attention.groupby("model"):
            mean = own.groupby("patch_id")["attention"].mean()
            patches[f"attention {model}"] = patches["patch_id"].map(mean.to_dict())
        return patches

    def tile(self, slide: int, image: int, level: int, column: int, row: int) -> bytes:
        """A tile of the deep-zoom pyramid as JPEG: level 0 is one pixel, each level twice the one
        below.

        Raises:
            LookupError: there is no such tile.
            SlideError: the slide can't be read.
        """
        with self._lock:
            opened = self._open(slide, image)
            top = math.ceil(math.log2(max(opened.width, opened.height)))
            if not 0 <= level <= top:
                raise LookupError(f"levels are 0 to {top}, got {level}")
            scale = 2 ** (top - level)
            x, y = column * TILE_PX, row * TILE_PX
            width, height = (
                math.ceil(side / scale) - at for side, at in ((opened.width, x), (opened.height, y))
            )
            if min(width, height) <= 0 or min(column, row) < 0:
                raise LookupError(f"level {level} has no tile {column}, {row}")
            shape = (min(width, TILE_PX), min(height, TILE_PX))
            rgb = opened.read(x * scale, y * scale, *shape, downsample=scale)
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, "JPEG", quality=85)
        return buffer.getvalue()

    def _open(self, slide: int, image: int) -> SlideImage:
        """An image that stays open; after an error it is opened anew by the next call."""
        key = (slide, image)
        if key not in self._images:
            while len(self._images) >= OPEN_IMAGES:
                oldest = next(iter(self._images))
                self._images.pop(oldest).__exit__(None, None, None)
            self._images[key] = self.run.open_image(self.slides[slide].slide_id, image)
        return self._images[key]

    def forget(self, slide: int, image: int) -> None:
        """Close an image whose handle failed."""
        with self._lock:
            failed = self._images.pop((slide, image), None)
            if failed is not None:
                failed.__exit__(None, None, None)

    def _outlines(self, slide: int, patch_id: int) -> list[dict[str, Any]]:
        """The nuclei of a patch: outer ring in level-0 pixels, and their features."""
        name = self.slides[slide].slide_id
        patches = self.run.patches(name).set_index("patch_id")
        if patch_id not in patches.index or name not in self._measured:
            return []
        patch = patches.loc[[patch_id]].to_dict("records")[0]
        nuclei = self.run.nuclei(name)
        own = nuclei[nuclei["patch_id"] == patch_id].set_index("label")
        features = list(features_in(nuclei))
        types = own["type"].dropna().to_dict()
        shapes = []
        for label, ring in self._rings(name, patch, own.index):
            values = {key: _number(own.at[label, key]) for key in features}
            shape = {"ring": ring.round(1).ravel().tolist(), "values": values}
            shapes.append(shape | {"type": types.get(label, "unknown")})
        return shapes

    def _rings(
        self, name: str, patch: dict[Any, Any], known: pd.Index
    ) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """The labels of a patch's nuclei with their outer rings, level-0 pixels: those that are
        stored, or else along the pixels."""
        masks = self.run.masks(name)[patch["region"]]
        if masks.outlines is not None:
            for label, ring in masks.outlines.rings(known.tolist()):
                yield label, masks.frame.to_level0(ring)
            return
        rows, columns = masks.frame.patch_window(patch["x_px"], patch["y_px"], margin_px=MARGIN_PX)
        labels = masks.crop((rows, columns))
        labels[~np.isin(labels, known)] = 0
        corner = (columns.start, rows.start)
        for outline in trace_outlines(labels):
            for polygon in outline.polygons:
                yield outline.label, masks.frame.to_level0(polygon[0][:-1] + corner)


_PATCH_COLUMNS = {
    "slide_id",
    "patch_id",
    "image",
    "region",
    "x_px",
    "y_px",
    "side_px",
    "kept",
    "blank_fraction",
    "ink_fraction",
}


def _number(value: Any) -> float | None:
    number = float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else None


def _quantity(name: str) -> str:
    if name.startswith("attention "):
        return f"Attention of {name.removeprefix('attention ')} (evidence, no explanation)"
    return str(patient_quantity(name))
