"""The slide browser: what its page shows of a run, as the server (`serving`) asks for it."""

from __future__ import annotations

import io
import math
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from morphomil.errors import InputError
from morphomil.nuclei.types import TYPE_COLORS
from morphomil.run.reviews import Review, add_review, random_order, read_reviews
from morphomil.tables.ranges import Ranges, patch_columns, patch_quantities
from morphomil.tables.slides import image_regions, region_rings
from morphomil.types import NUCLEUS_TYPES
from morphomil.viewer.cohort import CohortRanges
from morphomil.viewer.naming import SHARE, nucleus_quantity, patch_quantity
from morphomil.viewer.nuclei import TYPES, SlideNuclei, SlideRings, load_rings, read_nuclei
from morphomil.viewer.tiles import (
    CELL_PX,
    TILE_PX,
    count_levels,
    density_tile,
    outline_tile,
    value_tile,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from numpy.typing import NDArray

    from morphomil.run.directory import Run
    from morphomil.slides.image import SlideImage
    from morphomil.types import Slide

IMAGE_TILE_PX = 256
OPEN_IMAGES = 4
"""So many images stay open at once."""
KEPT_SLIDES = 2
"""The nuclei of so many slides, and the outlines of so many images, are kept."""
WAIT_SECONDS = 20.0
"""Colors wait so long for the cohort's ranges."""
End = Literal["high", "low", "random"]
"""A gallery has the highest values first, the lowest, or nuclei drawn at random."""


class Reviewer(NamedTuple):
    """Who looks at the slides."""

    name: str = ""
    blind: bool = False
    """The slides' labels are hidden."""


class SlideBrowser:
    """What the browser shows of a run."""

    def __init__(self, run: Run, reviewer: Reviewer | None = None) -> None:
        """List the segmented slides, empty ones too.

        Raises:
            InputError: the run has none.
        """
        self.run, self.reviewer = run, reviewer or Reviewer()
        self.slides: list[Slide] = [
            slide
            for slide in run.cohort.slides
            if run.ledger.state(slide.slide_id, "segment") in ("done", "empty")
        ]
        if not self.slides:
            raise InputError(f"{run.path} has no segmented slide to show; run: morphomil segment")
        self._measured = set(run.done("featurize"))
        self.cohort = CohortRanges(run)
        self._images: dict[tuple[int, int], SlideImage] = {}
        self._lock = threading.Lock()
        self._loading, self._writing = threading.RLock(), threading.Lock()
        keep = lru_cache(maxsize=KEPT_SLIDES)
        self._nuclei: Callable[[int], SlideNuclei] = keep(self._read_nuclei)
        self._on_image: Callable[[int, int], SlideNuclei] = keep(self._read_image)
        self._rings: Callable[[int, int], SlideRings] = keep(self._read_rings)
        self._levels: Callable[[int, int], int] = lru_cache(maxsize=16)(self._count_levels)
        self._patches: Callable[[int], pd.DataFrame] = lru_cache(maxsize=16)(self._read_patches)
        self._orders: Callable[[int, End, str], NDArray[np.int64]] = lru_cache(8)(self._order)

    # What there is -------------------------------------------------------------------------------

    def describe_run(self) -> dict[str, Any]:
        """Who reviews, whether blind, and the types of nuclei with their colors."""
        types = [{"name": name, "color": TYPE_COLORS.get(name, "#000000")} for name in TYPES]
        return {
            "reviewer": self.reviewer.name,
            "blind": self.reviewer.blind,
            "types": types,
            "outline_tile": TILE_PX,
            "cell": CELL_PX,
        }

    def list_slides(self) -> list[dict[str, Any]]:
        """Every segmented slide: name, patient, label (if it may be seen) and number of images."""
        return [
            {
                "name": s.slide_id,
                "patient": s.patient,
                "label": None if self.reviewer.blind else str(s.label),
                "images": len(s.images),
            }
            for s in self.slides
        ]

    def describe(self, slide: int, image: int) -> dict[str, Any]:
        """Size, um per pixel, regions, and what is known of the nuclei."""
        with self._lock:
            opened = self._open(slide, image)
            mpp = opened.mpp
            about: dict[str, Any] = {"width": opened.width, "height": opened.height, "mpp": mpp}
        regions = image_regions(self.run, self.slides[slide].slide_id, image)
        _, rings = region_rings(regions)
        self.cohort.start(at_once=False)
        about |= {"tile": IMAGE_TILE_PX, "regions": [_flat(np.asarray(ring)) for ring in rings]}
        if self.slides[slide].slide_id not in self._measured:
            return about | {"nuclei": 0, "columns": [], "types": [], "levels": 0}
        nuclei = self._get(self._on_image, slide, image)
        counts = np.bincount(nuclei.type, minlength=len(TYPES))
        known = bool(counts[:-1].sum())
        return about | {
            "nuclei": len(nuclei.label),
            "levels": self._levels(slide, image),
            "types": counts.tolist() if known else [],
            "columns": [
                {"column": number, "key": name, "name": nucleus_quantity(name)}
                for number, name in enumerate(nuclei.columns)
                if not name.startswith(f"{SHARE}_")
            ],
        }

    def patches(self, slide: int, image: int) -> dict[str, Any]:
        """Every patch of an image, and the values of those that are kept, by what they are of."""
        table = self._patches(slide)
        own = table[table["image"] == image]
        columns = [name for name in patch_columns(own) if own[name].notna().any()]
        return {
            "patches": own[["patch_id", "x_px", "y_px", "side_px", "kept"]].to_dict("records"),
            "names": {name: patch_quantity(name) for name in columns},
            "values": {name: [_number(v) for v in own[name]] for name in columns},
        }

    # Tiles ---------------------------------------------------------------------------------------

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
            x, y = column * IMAGE_TILE_PX, row * IMAGE_TILE_PX
            width, height = (
                math.ceil(side / scale) - at for side, at in ((opened.width, x), (opened.height, y))
            )
            if min(width, height) <= 0 or min(column, row) < 0:
                raise LookupError(f"level {level} has no tile {column}, {row}")
            shape = (min(width, IMAGE_TILE_PX), min(height, IMAGE_TILE_PX))
            rgb = opened.read(x * scale, y * scale, *shape, downsample=scale)
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, "JPEG", quality=85)
        return buffer.getvalue()

    def outlines(self, slide: int, image: int, level: int, column: int, row: int) -> bytes:
        """A tile of outlines, or on a level that has none a tile of counts (`tiles`).

        Raises:
            LookupError: the nuclei aren't measured.
        """
        nuclei = self._measured_image(slide, image)
        if level >= self._levels(slide, image):
            return density_tile(nuclei, level, column, row)
        rings = self._get(self._rings, slide, image)
        return outline_tile(nuclei, rings, level, column, row)

    def values(self, slide: int, image: int, number: int, *place: int) -> bytes:
        """The values of a column for a tile of outlines (`place`: level, column, row), as shares of
        the cohort's range.

        Raises:
            LookupError: there is no such column, or no range of it yet.
        """
        nuclei = self._measured_image(slide, image)
        level, column, row = place
        if number >= len(nuclei.columns) or level >= self._levels(slide, image):
            raise LookupError(f"there are no values {number} of level {level}")
        limits = None
        if self.cohort.wait(WAIT_SECONDS):
            limits = self.cohort.nuclei.limits(nuclei.columns[number])
        if limits is None:
            raise LookupError(f"{nuclei.columns[number]} has no range")
        rings = self._get(self._rings, slide, image)
        return value_tile(nuclei.values[number], rings, limits, (level, column, row))

    def _measured_image(self, slide: int, image: int) -> SlideNuclei:
        if self.slides[slide].slide_id not in self._measured:
            raise LookupError(f"{self.slides[slide].slide_id} has no measured nuclei")
        nuclei: SlideNuclei = self._get(self._on_image, slide, image)
        return nuclei

    def _count_levels(self, slide: int, image: int) -> int:
        with self._lock:
            mpp = self._open(slide, image).mpp
        return count_levels(self._measured_image(slide, image), mpp=mpp)

    # One nucleus ---------------------------------------------------------------------------------

    def nucleus(self, slide: int, label: int) -> dict[str, Any]:
        """A nucleus: place, outline, type, measurements, what it contributes, and where these stand
        in the cohort, as soon as that is read (`complete`).

        Raises:
            LookupError: there is none such.
        """
        nuclei = self._all_nuclei(slide)
        row = nuclei.row(label)
        image = int(nuclei.image[row])
        of_image = self._get(self._on_image, slide, image)
        outline = self._get(self._rings, slide, image).of(of_image.row(label))
        self.cohort.start()
        probability = float(nuclei.type_probability[row])
        return {
            "label": label,
            "image": image,
            "patch": int(nuclei.patch[row]),
            "x": round(float(nuclei.place[row, 0]), 2),
            "y": round(float(nuclei.place[row, 1]), 2),
            "rings": [_flat(ring) for ring in outline],
            "type": TYPES[nuclei.type[row]],
            "type_probability": _number(probability),
            "measured": [self._measurement(nuclei, name, row) for name in nuclei.features],
            "contributed": [
                self._measurement(nuclei, name, row)
                for name in nuclei.columns
                if name.startswith(SHARE)
            ],
            "complete": self.cohort.done,
        }

    def _measurement(self, nuclei: SlideNuclei, name: str, row: int) -> dict[str, Any]:
        value = float(nuclei.values[nuclei.columns.index(name), row])
        known = self.cohort.nuclei if self.cohort.done else Ranges()
        percentile = known.percentile(name, value)
        return {
            "key": name,
            "name": nucleus_quantity(name),
            "value": _number(value),
            "percentile": None if percentile is None else round(percentile, 1),
        }

    def gallery(self, slide: int, end: End, number: int, rank: int) -> dict[str, Any]:
        """The nucleus of a place, from 0, in the order of a column's values, or in random order,
        and how many there are.

        Raises:
            LookupError: there is none such.
        """
        nuclei = self._all_nuclei(slide)
        if number >= len(nuclei.columns):
            raise LookupError(f"there is no column {number}")
        order = self._orders(slide, end, nuclei.columns[number])
        if rank >= len(order):
            raise LookupError(f"the gallery has {len(order):,} nuclei")
        return {"count": len(order), "rank": rank} | self.nucleus(slide, int(order[rank]))

    def _order(self, slide: int, end: End, column: str) -> NDArray[np.int64]:
        nuclei = self._all_nuclei(slide)
        if end == "random":
            return random_order(self.run, self.slides[slide].slide_id, nuclei.label)
        values = nuclei.values[nuclei.columns.index(column)]
        known = np.flatnonzero(~np.isnan(values))
        ordered = known[np.argsort(values[known], kind="stable")]
        return nuclei.label[ordered[::-1] if end == "high" else ordered]

    def _all_nuclei(self, slide: int) -> SlideNuclei:
        if self.slides[slide].slide_id not in self._measured:
            raise LookupError(f"{self.slides[slide].slide_id} has no measured nuclei")
        nuclei: SlideNuclei = self._get(self._nuclei, slide)
        return nuclei

    # Reviews -------------------------------------------------------------------------------------

    def reviews(self, slide: int) -> list[dict[str, Any]]:
        """What holds of a slide's nuclei, with their places."""
        slide_id = self.slides[slide].slide_id
        table = read_reviews(self.run, slide_id)
        if table.empty or slide_id not in self._measured:
            return []
        nuclei = self._all_nuclei(slide)
        table = table[table["label"].isin(nuclei.label)]
        rows = np.searchsorted(nuclei.label, table["label"])
        table = table.assign(
            image=nuclei.image[rows], x=nuclei.place[rows, 0], y=nuclei.place[rows, 1]
        )
        names = ["label", "image", "x", "y", "reviewer", "time", "decision", "type", "random_rank"]
        shown = table[names].astype(object)
        listed: list[dict[str, Any]] = [
            {str(name): value for name, value in row.items()}
            for row in shown.where(shown.notna(), None).to_dict("records")
        ]
        return listed

    def review(self, slide: int, asked: Any) -> list[dict[str, Any]]:
        """Store the reviewer's decision as the page sends it: `label`, `decision`, and `type` and
        `random_rank` if they apply; what holds then.

        Raises:
            LookupError: there is no such nucleus.
            InputError: it is no decision, or can't be stored.
        """
        whole = isinstance(asked, dict) and _is_whole(asked.get("label"))
        if not whole or not isinstance(asked.get("decision"), str):
            raise InputError("a review has a label and a decision")
        nuclei, slide_id = self._all_nuclei(slide), self.slides[slide].slide_id
        row = nuclei.row(asked["label"])
        rank = asked.get("random_rank")
        if rank is not None:
            order = self._orders(slide, "random", "")
            if not _is_whole(rank) or not 0 <= rank < len(order):
                raise InputError(f"random_rank is 0 to {len(order) - 1}, got {rank!r}")
            if int(order[rank]) != asked["label"]:
                raise InputError(f"nucleus {asked['label']} isn't at {rank} of the random order")
        found = TYPES[nuclei.type[row]]
        decided = asked["decision"], asked.get("type")
        if decided == ("retype", found):
            decided = "accept", None
        with self._writing:
            add_review(
                self.run,
                slide_id,
                Review(asked["label"], *decided, rank),
                reviewer=self.reviewer.name,
                found_type=found if found in NUCLEUS_TYPES else None,
                blind=self.reviewer.blind,
            )
        return self.reviews(slide)

    # Reading -------------------------------------------------------------------------------------

    def _get(self, read: Callable[..., Any], *key: int) -> Any:
        """What is kept, else read by one thread while the others wait for it."""
        with self._loading:
            return read(*key)

    def _read_nuclei(self, slide: int) -> SlideNuclei:
        return read_nuclei(self.run, self.slides[slide].slide_id)

    def _read_image(self, slide: int, image: int) -> SlideNuclei:
        return self._nuclei(slide).on_image(image)

    def _read_rings(self, slide: int, image: int) -> SlideRings:
        labels = self._on_image(slide, image).label
        return load_rings(self.run, self.slides[slide].slide_id, image, labels)

    def _read_patches(self, slide: int) -> pd.DataFrame:
        return patch_quantities(self.run, self.slides[slide].slide_id)

    def _open(self, slide: int, image: int) -> SlideImage:
        """An image that stays open; after an error it is opened anew by the next call."""
        key = (slide, image)
        if key not in self._images:
            while len(self._images) >= OPEN_IMAGES:
                oldest = next(iter(self._images))
                self._images.pop(oldest).__exit__(None, None, None)
            self._images[key] = self.run.open_image(self.slides[slide].slide_id, image)
        return self._images[key]

    def close(self) -> None:
        """Let go of files and threads."""
        self.cohort.close()
        with self._lock:
            for image in self._images.values():
                image.__exit__(None, None, None)
            self._images.clear()

    def forget(self, slide: int, image: int) -> None:
        """Close an image whose handle failed."""
        with self._lock:
            failed = self._images.pop((slide, image), None)
            if failed is not None:
                failed.__exit__(None, None, None)


def _flat(ring: NDArray[np.floating]) -> list[float]:
    """x and y in turns, level-0 pixels."""
    return [round(float(value), 1) for value in ring.ravel()]


def _is_whole(value: Any) -> bool:
    """Of JSON, in which true is no number."""
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> float | None:
    number = float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else None
