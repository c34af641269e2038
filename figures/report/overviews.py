"""The overview of every slide: its regions and patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from morphomil.errors import InputError, SlideError
from morphomil.figures.report.side_by_side import map_in_processes
from morphomil.figures.slide_image import OpenedImage, open_image_of, thumbnail_scale
from morphomil.figures.slides import overview
from morphomil.figures.style import render
from morphomil.pipeline.execution import Shard, Silence
from morphomil.run.directory import Run
from morphomil.slides.masks import implausible_places, outlined_types
from morphomil.store import write_bytes

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from morphomil.pipeline.execution import Progress
    from morphomil.types import Slide


OUTLINE_CELLS = 800
"""Outlines by type are drawn on so many cells along an image's longer side: about a printed dot
each, so that their colors are pure."""


def draw_overviews(
    run: Run,
    *,
    shard: Shard = Shard(),
    missed: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """An `overview.png` in the folder of every segmented slide of a part of the run, empty ones
    too, that lacks one, several slides side by side; `missed` receives the slides that can't be
    read now, and why.

    Raises:
        BusyError: another process works on these slides.
    """
    drawn: list[Path] = []
    with run.lock(shard.part("segment")):
        tasks = [
            (run.path, slide.slide_id)
            for slide in run.cohort.slides
            if shard.holds(slide.slide_id) and _lacking(run, slide)
        ]
        listener = progress or Silence()
        listener.start("overviews", len(tasks))
        for (_, name), (paths, why) in zip(tasks, map_in_processes(_draw, tasks), strict=True):
            listener.end(name, "failed" if why else "done", why)
            drawn += paths
            if why and missed is not None:
                missed[name] = why
    return drawn


def draw_slide(run: Run, slide: Slide, *, missed: dict[str, str]) -> list[Path]:
    """The overviews of one slide, as `draw_overviews` draws them; the caller works on it."""
    drawn = []
    for path, number in _lacking(run, slide):
        try:
            with open_image_of(run, slide, number) as opened:
                write_bytes(path, render(draw_overview(opened), "png", dpi=200))
        except (SlideError, InputError) as error:
            missed[slide.slide_id] = str(error)
            continue
        drawn.append(path)
    return drawn


def _draw(task: tuple[Path, str]) -> tuple[list[Path], str]:
    """The overviews of a slide, and why one of them is not among them."""
    path, name = task
    run, missed = Run(path), dict[str, str]()
    return draw_slide(run, run.slide(name), missed=missed), missed.get(name, "")


def _lacking(run: Run, slide: Slide) -> list[tuple[Path, int]]:
    """The overviews that a segmented slide has not, and of which of its images; results that are
    made anew take theirs with them."""
    if run.ledger.state(slide.slide_id, "segment") not in ("done", "empty"):
        return []
    folder = run.slide_folder(slide.slide_id)
    paths = [folder / numbered_name("overview", number) for number in range(len(slide.images))]
    return [(path, number) for number, path in enumerate(paths) if not path.exists()]


def draw_overview(opened: OpenedImage) -> Figure:
    """The thumbnail of one image with its regions and patches, the outlines of nuclei whose types
    are known, and the objects that are no nuclei."""
    patches = opened.run.patches(opened.slide.slide_id)
    thumbnail = opened.image.thumbnail()
    return overview(
        thumbnail,
        patches[patches["image"] == opened.number],
        level0_px_per_thumb_px=thumbnail_scale(opened.image, thumbnail),
        mpp=opened.image.mpp,
        regions=opened.regions,
        implausible=implausible_places(opened.run.masks(opened.slide.slide_id), opened.number),
        types=_outlined_types(opened),
        title=opened.slide.slide_id,
    )


def _outlined_types(opened: OpenedImage) -> NDArray[np.int8] | None:
    """The outlines of the image's nuclei by type; None where nobody knows types."""
    masks = opened.run.masks(opened.slide.slide_id)
    if all(own.types is None for own in masks.values()):
        return None
    image = opened.image
    scale = max(image.width, image.height) / OUTLINE_CELLS
    shape = (round(image.height / scale), round(image.width / scale))
    return outlined_types(masks, opened.number, shape=shape, scale=scale)


def numbered_name(stem: str, number: int) -> str:
    """The name of a picture of a slide's image: the first one's has no number."""
    return f"{stem}.png" if number == 0 else f"{stem}-{number}.png"
