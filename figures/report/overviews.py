"""The overview of every slide: its regions and patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from morphomil.figures.slides import overview
from morphomil.figures.style import render
from morphomil.store import write_bytes
from morphomil.tables.slides import image_regions

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from morphomil.run.directory import Run
    from morphomil.slides.image import SlideImage
    from morphomil.types import Slide


def draw_overviews(run: Run) -> list[Path]:
    """An `overview.png` in the folder of every segmented slide that lacks one or whose patches are
    newer."""
    drawn = []
    done = set(run.done("segment"))
    for slide in run.cohort.slides:
        if slide.slide_id not in done:
            continue
        folder = run.slide_folder(slide.slide_id)
        for number in range(len(slide.images)):
            path = folder / numbered_name("overview", number)
            if (
                path.exists()
                and path.stat().st_mtime >= (folder / "patches.parquet").stat().st_mtime
            ):
                continue
            with run.open_image(slide.slide_id, number) as image:
                write_bytes(path, render(draw_overview(run, slide, image, number), "png", dpi=200))
            drawn.append(path)
    return drawn


def draw_overview(run: Run, slide: Slide, image: SlideImage, number: int) -> Figure:
    """The thumbnail of one image with its regions and patches."""
    patches = run.patches(slide.slide_id)
    thumbnail = image.thumbnail()
    return overview(
        thumbnail,
        patches[patches["image"] == number],
        level0_px_per_thumb_px=max(image.width, image.height) / max(thumbnail.shape[:2]),
        mpp=image.mpp,
        regions=image_regions(run, slide.slide_id, number),
        title=slide.slide_id,
    )


def numbered_name(stem: str, number: int) -> str:
    """The name of a picture of a slide's image: the first one's has no number."""
    return f"{stem}.png" if number == 0 else f"{stem}-{number}.png"
