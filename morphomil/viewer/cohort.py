"""The ranges of the cohort, read while the first slide is already open."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from morphomil.errors import MorphomilError
from morphomil.tables.ranges import (
    Ranges,
    nucleus_quantities,
    patch_columns,
    patch_quantities,
    ranged_slides,
)
from morphomil.viewer.naming import nucleus_quantity, patch_quantity

if TYPE_CHECKING:
    from collections.abc import Callable

    from morphomil.run.directory import Run


HEAD_START_SECONDS = 5.0
"""The first slide is shown before anything of the others is read, unless somebody asks for it."""


class CohortRanges:
    """Ranges of nuclei and patches over a run's measured slides."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.slides = ranged_slides(run.done("featurize"))
        self.measured = len(run.done("featurize"))
        self.nuclei, self.patches = Ranges(), Ranges()
        self.unread: list[str] = []
        """Slides whose results are damaged."""
        self._asked, self._done, self._ended = (threading.Event() for _ in range(3))
        self._begun = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self, *, at_once: bool = True) -> None:
        """Read in a thread of its own, once."""
        if at_once:
            self._asked.set()
        with self._begun:
            if self._thread is None:
                self._thread = threading.Thread(target=self._read, daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End reading after the slide at hand."""
        self._ended.set()
        self._asked.set()
        with self._begun:
            if self._thread is not None:
                self._thread.join()

    @property
    def done(self) -> bool:
        """Whether all is read; until then there are no limits and percentiles."""
        return self._done.is_set()

    def wait(self, seconds: float) -> bool:
        """Whether all is read, after so many seconds at most."""
        self.start()
        return self._done.wait(seconds)

    def _read(self) -> None:
        self._asked.wait(HEAD_START_SECONDS)
        for slide_id in self.slides:
            if self._ended.is_set():
                return
            try:
                nuclei = nucleus_quantities(self.run, slide_id)
                patches = patch_quantities(self.run, slide_id)
            except (MorphomilError, OSError):
                self.unread.append(slide_id)
                continue
            names = patch_columns(patches)
            self.nuclei.add(nuclei)
            self.patches.add({name: patches[name].to_numpy(np.float64) for name in names})
        self._done.set()

    def describe(self) -> dict[str, Any]:
        """Whether all is read, of how many slides, and each quantity's name and limits."""
        self.start()
        if not self.done:
            return {"done": False}
        return {
            "done": True,
            "slides": len(self.slides) - len(self.unread),
            "measured": self.measured,
            "nuclei": _describe(self.nuclei, nucleus_quantity),
            "patches": _describe(self.patches, patch_quantity),
        }


def _describe(ranges: Ranges, name_of: Callable[[str], str]) -> list[dict[str, Any]]:
    found = ((name, ranges.limits(name)) for name in ranges.slides)
    return [{"column": n, "name": name_of(n), "limits": limits} for n, limits in found if limits]
