"""Slides are got ready for a stage: what is done is seen, and files elsewhere are copied one slide
after the other, ahead of the work."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Semaphore
from typing import TYPE_CHECKING

from morphomil.places import Address, held
from morphomil.types import CORES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from threading import Event
    from types import TracebackType
    from typing import Self

    from morphomil.places import Place
    from morphomil.types import Slide

AHEAD = 1
"""So many slides more than are worked on have copies."""
LOOK_AGAIN_S = 0.1


class Stopped(BaseException):
    """The stage ends early; what the slide has so far is dropped."""


@dataclass(frozen=True)
class Ready:
    """A slide that can be worked on."""

    key: str
    """A short name of everything that its result depends on."""
    done: bool
    """Its result is there."""
    copies: ExitStack
    """Holds the copies of its files until it is closed."""
    copied: bool = False
    """There are such copies."""


class Ahead:
    """Gets the slides of a stage ready; leaving the block lets go of what nobody worked on."""

    def __init__(
        self,
        slides: Sequence[Slide],
        *,
        look: Callable[[Slide], tuple[str, bool]],
        reads: Callable[[Slide], Sequence[Place]],
        stopping: Event,
    ) -> None:
        """Begin with the first ones.

        Args:
            slides: in the order of the work.
            look: tells a slide's key, and whether its result is there.
            reads: the files that the work on a slide reads.
            stopping: is set when the stage ends early.
        """
        self._look, self._reads, self._stopping = look, reads, stopping
        self._turns = Semaphore(CORES + AHEAD)
        self._pool = ThreadPoolExecutor(1)
        self._coming: dict[str, Future[Ready]] = {
            slide.slide_id: self._pool.submit(self._get_next, slide)
            for slide in slides
            if self._elsewhere(slide)
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        for coming in self._coming.values():
            if not coming.cancelled() and coming.exception() is None:
                coming.result().copies.close()

    @contextmanager
    def ready(self, slide: Slide) -> Iterator[Ready]:
        """A slide for the time of the block.

        Raises:
            SlideError: its files can't be read or copied.
            InputError: there is no place for copies.
        """
        if (coming := self._coming.pop(slide.slide_id, None)) is None:
            yield self._get(slide)
            return
        try:
            ready = coming.result()
            with ready.copies:
                yield ready
        finally:
            self._turns.release()

    def _elsewhere(self, slide: Slide) -> list[Address]:
        return [place for place in self._reads(slide) if isinstance(place, Address)]

    def _get_next(self, slide: Slide) -> Ready:
        while not self._turns.acquire(timeout=LOOK_AGAIN_S):
            if self._stopping.is_set():
                raise Stopped
        return self._get(slide)

    def _get(self, slide: Slide) -> Ready:
        key, done = self._look(slide)
        if done:
            return Ready(key, True, ExitStack())
        copies, wanted = ExitStack(), self._elsewhere(slide)
        stopped = self._stopping.is_set
        try:
            copies.enter_context(held(wanted, patience_s=math.inf, stopped=stopped, remove=True))
        except InterruptedError:
            raise Stopped from None
        return Ready(key, False, copies, copied=bool(wanted))
