"""Outlines of nuclei as polygons, and what can be done with them as a whole."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from morphomil.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

READ_AT_ONCE = 2**18
"""Stored vertices are read in pieces of about so many."""


@dataclass(frozen=True)
class Outlines:
    """Nuclei: centers (n, 2) as (row, column), probabilities (n,), and the vertices of all outlines
    one after the other (m, 2), of which nucleus i has those before `ends[i]`; `evidence` (n, k) of
    whether they are nuclei (`plausible.measure_evidence`), where it was taken; and the
    probabilities of `NUCLEUS_TYPES` (n, 4), where the model knows types."""

    points: NDArray[np.float32]
    prob: NDArray[np.float32]
    vertices: NDArray[np.float32]
    ends: NDArray[np.int64]
    evidence: NDArray[np.float32] | None = None
    types: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.prob)

    def __getitem__(self, keep: NDArray[np.bool_] | NDArray[np.intp]) -> Outlines:
        chosen = np.arange(len(self))[keep]
        counts = np.diff(self.ends, prepend=0)[chosen]
        ends = np.cumsum(counts)
        first = np.repeat(self.ends[chosen] - counts, counts)
        own = np.arange(len(first)) - np.repeat(ends - counts, counts)
        evidence, types = (
            None if part is None else part[chosen] for part in (self.evidence, self.types)
        )
        vertices = self.vertices[first + own]
        return Outlines(self.points[chosen], self.prob[chosen], vertices, ends, evidence, types)

    def scaled(self, factor: float) -> Outlines:
        """The same outlines where a pixel is `factor` times smaller."""
        half, scale = np.float32(0.5), np.float32(factor)
        points, vertices = ((p + half) * scale - half for p in (self.points, self.vertices))
        return replace(self, points=points, vertices=vertices)

    def shifted(self, pixels: float) -> Outlines:
        """The same outlines, down and to the right by so many pixels."""
        shift = np.float32(pixels)
        return replace(self, points=self.points + shift, vertices=self.vertices + shift)

    def boxes(self) -> NDArray[np.float32]:
        """The first row and column and the last ones of each (n, 4)."""
        if not len(self):
            return np.empty((0, 4), np.float32)
        starts = self.ends - np.diff(self.ends, prepend=0)
        low, high = (edge.reduceat(self.vertices, starts) for edge in (np.minimum, np.maximum))
        return np.concatenate([low, high], axis=1)

    def loaded(self) -> Outlines:
        """Themselves."""
        return self

    def areas(self) -> NDArray[np.float64]:
        """The area inside each outline (n,), squared pixels."""
        if not len(self):
            return np.empty(0)
        starts = self.ends - np.diff(self.ends, prepend=0)
        origin = np.repeat(self.vertices[starts], np.diff(self.ends, prepend=0), axis=0)
        own = (self.vertices - origin).astype(np.float64)
        following = np.roll(own, -1, axis=0)
        following[self.ends - 1] = 0  # the first vertex, which is the origin
        twice = own[:, 1] * following[:, 0] - own[:, 0] * following[:, 1]
        return np.abs(np.add.reduceat(twice, starts)) / 2


def join_outlines(parts: Sequence[Outlines]) -> Outlines:
    """All outlines of `parts`, in order."""
    empty = np.empty((0, 2), np.float32)
    parts = [Outlines(empty, empty[:, 0], empty, np.empty(0, np.int64)), *parts]
    before = np.cumsum([0, *(len(part.vertices) for part in parts[:-1])])
    return Outlines(
        np.concatenate([part.points for part in parts]),
        np.concatenate([part.prob for part in parts]),
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.ends + start for part, start in zip(parts, before, strict=True)]),
        _of_all([part.evidence for part in parts], sum(map(len, parts))),
        _of_all([part.types for part in parts], sum(map(len, parts))),
    )


def _of_all(parts: Sequence[NDArray[np.float32] | None], count: int) -> NDArray[np.float32] | None:
    """The parts one after the other; None unless they are of all outlines."""
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known and sum(map(len, known)) == count else None


class StoredOutlines:
    """A region's outlines whose vertices wait in a file, if they are many: all of them know their
    place and what was said of them, and some can be loaded."""

    def __init__(self, parts: Iterable[Outlines]) -> None:
        """All outlines of `parts`, in order."""
        self._vertices = Spool(np.float32)
        rest, boxes, areas = [], [], []
        none = np.empty((0, 2), np.float32)  # a part of their vertices would hold them all
        for part in parts:
            if len(part):
                self._vertices.add(part.vertices)
                boxes.append(part.boxes())
                areas.append(part.areas())
                rest.append(replace(part, vertices=none))
        said = join_outlines(rest)
        counts = [np.diff(part.ends, prepend=0) for part in rest]
        self._counts = np.concatenate([np.empty(0, np.int64), *counts])
        self._starts = np.cumsum(self._counts) - self._counts
        self._points, self.prob = said.points, said.prob
        self.evidence, self.types = said.evidence, said.types
        self._boxes = np.concatenate([np.empty((0, 4), np.float32), *boxes])
        self._areas = np.concatenate([np.empty(0), *areas])

    def __len__(self) -> int:
        return len(self._counts)

    def __getitem__(self, keep: NDArray[np.bool_] | NDArray[np.intp]) -> StoredOutlines:
        chosen = copy(self)
        for name in ("_counts", "_starts", "_points", "prob", "_boxes", "_areas"):
            setattr(chosen, name, getattr(self, name)[keep])
        for name in ("evidence", "types"):
            part = getattr(self, name)
            setattr(chosen, name, None if part is None else part[keep])
        return chosen

    @property
    def ends(self) -> NDArray[np.int64]:
        """Where each would end if all vertices came one after the other."""
        return np.cumsum(self._counts)

    def boxes(self) -> NDArray[np.float32]:
        """As of `Outlines`."""
        return self._boxes

    def areas(self) -> NDArray[np.float64]:
        """As of `Outlines`."""
        return self._areas

    def loaded(self) -> Outlines:
        """With their vertices."""
        return Outlines(
            self._points, self.prob, self.vertices(), self.ends, self.evidence, self.types
        )

    def vertices(self) -> NDArray[np.float32]:
        """The vertices (m, 2) of all outlines one after the other."""
        parts, first = [np.empty((0, 2), np.float32)], 0
        while first < len(self):
            # as many as lie near each other
            begun = int(self._starts[first])
            end = int(np.searchsorted(self._starts, begun + READ_AT_ONCE))
            starts, counts = self._starts[first:end] - begun, self._counts[first:end]
            some = self._vertices[begun : begun + int(starts[-1] + counts[-1])]
            before = np.cumsum(counts) - counts
            parts.append(some[np.repeat(starts - before, counts) + np.arange(counts.sum())])
            first = end
        return np.concatenate(parts)


SomeOutlines = TypeVar("SomeOutlines", Outlines, StoredOutlines)
