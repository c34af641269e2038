"""A slide that isn't the one that was segmented, or is gone (faults 3, 26 and 50)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from imported_run import Imported
from PIL import Image

from morphomil.errors import SlideError
from morphomil.figures.report.overviews import draw_overviews
from morphomil.figures.report.write import write_report
from morphomil.image_model.embed import patch_pixels
from morphomil.pipeline.execution import Silence


def repaint(path: Path) -> None:
    """Other pixels of the same size."""
    pixels = np.asarray(Image.open(path))
    Image.fromarray(pixels[::-1].copy()).save(path)


def rewrite_in_place(path: Path) -> None:
    """The same size and content; only its time tells that it was touched."""
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))


def keep_time(path: Path) -> None:
    """Other pixels at the same time."""
    before = path.stat().st_mtime_ns
    repaint(path)
    os.utime(path, ns=(before, before))


CHANGES = (repaint, rewrite_in_place, keep_time)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_slide_is_refused_until_it_is_segmented_again(
    change: Callable[[Path], None], imported: Imported
) -> None:
    run = imported.run
    with run.open_image("s0") as image:
        assert image.width == 256
    change(imported.image(0))
    with pytest.raises(SlideError, match=r"s0.png has changed since its nuclei were found"):
        run.open_image("s0")
    with pytest.raises(SlideError, match="has changed"):
        next(patch_pixels(run, run.slide("s0"), outside="keep"))
    with run.open_image("s1"):
        pass
    result = imported.segment()
    assert (result.done, result.skipped) == (("s0",), ("s1",))
    with run.open_image("s0"):
        pass


class Told(Silence):
    """What somebody who waits hears."""

    def __init__(self) -> None:
        self.said: list[tuple[str, object]] = []

    def start(self, stage: str, total: int) -> None:
        self.said.append((stage, total))

    def end(self, slide_id: str, state: str, message: str) -> None:
        self.said.append((slide_id, state))


def test_pictures_go_with_the_results_they_show(imported: Imported) -> None:
    run, told = imported.run, Told()
    drawn = draw_overviews(run, progress=told)
    assert [path.parent.name for path in drawn] == ["s0", "s1"]
    assert told.said == [("overviews", 2), ("s0", "done"), ("s1", "done")]
    assert draw_overviews(run, progress=told) == []
    assert told.said[3:] == [("overviews", 0)]
    future = drawn[0].stat().st_mtime + 1e6  # a clock that was set back since
    os.utime(drawn[0], (future, future))
    repaint(imported.image(0))
    imported.segment()
    assert not drawn[0].exists()
    assert draw_overviews(run) == [drawn[0]]


def test_a_report_goes_on_without_a_slide_that_is_gone(imported: Imported) -> None:
    imported.image(0).unlink()
    missed: dict[str, str] = {}
    page = write_report(imported.run, missed=missed).read_text(encoding="utf-8")
    assert list(missed) == ["s0"]
    assert "s0.png is missing" in missed["s0"]
    assert "No pictures: slide s0" in page
    assert page.count('class="gallery"') == 2
    draw_overviews(imported.run, missed=(again := {}), progress=(told := Told()))
    assert again == missed
    assert ("s0", "failed") in told.said
