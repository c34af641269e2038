"""One image file of a run's slide, open while pictures of it are drawn."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from morphomil.tables.slides import image_regions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from morphomil.run.directory import Run
    from morphomil.slides.image import SlideImage
    from morphomil.types import Slide


@dataclass(frozen=True)
class OpenedImage:
    """An image file of a slide, from 0 in `number`, with the run that it belongs to."""

    run: Run
    slide: Slide
    number: int
    image: SlideImage

    @property
    def regions(self) -> Sequence[BaseGeometry]:
        """The tumor regions, polygons in level-0 pixels."""
        return image_regions(self.run, self.slide.slide_id, self.number)


@contextmanager
def open_image_of(run: Run, slide: Slide, number: int) -> Iterator[OpenedImage]:
    """Open an image file of a slide for the time of the block.

    Raises:
        SlideError: the file can't be read.
    """
    with run.open_image(slide.slide_id, number) as image:
        yield OpenedImage(run, slide, number, image)


def thumbnail_scale(image: SlideImage, thumbnail: NDArray[np.uint8]) -> float:
    """Level-0 pixels per pixel of the image's thumbnail."""
    scale: float = max(image.width, image.height) / max(thumbnail.shape[:2])
    return scale
