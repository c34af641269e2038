"""A run whose slides can be looked at: nuclei of known shape, painted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from morphomil.run import Run
from morphomil.viewer.browser import Reviewer
from morphomil.viewer.serving import SlideServer, make_server

HOSTILE = "<img src=x onerror=alert(1)>"


def _paint(run: Run, slide_id: str, path: Path) -> None:
    """Pink tissue with purple nuclei where the masks have them."""
    masks = run.masks(slide_id)[0]
    rgb = np.full((720, 800, 3), (235, 190, 215), np.uint8)
    inside = np.kron(masks.labels[:] > 0, np.ones((2, 2), bool))
    x, y = round(masks.frame.x_px), round(masks.frame.y_px)
    inside = inside[max(-y, 0) :, max(-x, 0) :][:720, :800]
    rgb[: inside.shape[0], : inside.shape[1]][inside] = (110, 80, 160)
    Image.fromarray(rgb).save(path)


@pytest.fixture
def painted(tmp_path: Path, make_run: Callable[..., Run]) -> Run:
    """Two slides with types, one of a hostile name."""
    run = make_run(tmp_path / "run", ("plain", HOSTILE), typed=True)
    for slide in run.cohort.slides:
        _paint(run, slide.slide_id, slide.images[0].path)
    return run


@pytest.fixture
def page(painted: Run) -> Iterator[SlideServer]:
    """The painted run, served to a reviewer."""
    with make_server(painted, reviewer=Reviewer("Dr. A")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
