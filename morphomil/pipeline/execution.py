"""A stage's execution, slide by slide: locks, resuming, progress, failures."""

from __future__ import annotations

import errno
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Protocol

from morphomil.errors import InputError, MorphomilError
from morphomil.types import CORES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from morphomil.run.ledger import Ledger
    from morphomil.types import Slide

    Step = Callable[[int, int], None]
    """Hears how many patches of how many are done."""


class Progress(Protocol):
    """Hears what a stage does, one call at a time; the command line draws bars from it."""

    def start(self, stage: str, total: int) -> None:
        """A stage begins on `total` slides."""

    def begin(self, slide_id: str) -> None:
        """Work on a slide begins."""

    def step(self, slide_id: str, done: int, total: int) -> None:
        """So many patches of the slide are done; slides are worked side by side."""

    def end(self, slide_id: str, state: str, message: str) -> None:
        """A slide is `done`, `skipped` or `failed`."""


class Silence:
    """Progress that nobody sees."""

    def start(self, stage: str, total: int) -> None:
        """Say nothing."""

    def begin(self, slide_id: str) -> None:
        """Say nothing."""

    def step(self, slide_id: str, done: int, total: int) -> None:
        """Say nothing."""

    def end(self, slide_id: str, state: str, message: str) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class StageResult:
    """What became of each slide in a stage."""

    done: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    """Slide id -> cause."""


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` of a cohort, from 1; a slide's part depends on its id alone."""

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise InputError(f"a shard is i/n with 1 <= i <= n, got {self.index}/{self.count}")

    @property
    def lock_name(self) -> str:
        """Shards of one run may work side by side."""
        return "" if self.count == 1 else f".{self.index}of{self.count}"

    def holds(self, slide_id: str) -> bool:
        """Whether a slide belongs to this part."""
        number = int.from_bytes(hashlib.blake2b(slide_id.encode(), digest_size=8).digest(), "big")
        return number % self.count == self.index - 1


class _Stopped(BaseException):
    """The stage ends early; what the slide has so far is dropped."""


def each_slide(
    ledger: Ledger,
    slides: Sequence[Slide],
    stage: str,
    *,
    key: Callable[[Slide], str],
    work: Callable[[Slide, Step], tuple[list[str], dict[str, Any]]],
    progress: Progress,
) -> StageResult:
    """Run `work` on every slide that has no valid result; `work` returns the names of its outputs
    and its figures.

    As many slides as there are cores are worked side by side: one is read while another waits for
    its network.
    """
    speaking, stopping = Lock(), Event()
    progress.start(stage, len(slides))

    def one(slide: Slide) -> tuple[str, str]:
        name, begun, stated = slide.slide_id, time.monotonic(), ""

        def step(done: int, total: int) -> None:
            if stopping.is_set():
                raise _Stopped
            with speaking:
                progress.step(name, done, total)

        step(0, 1)
        try:
            stated = key(slide)
            if ledger.is_done(name, stage, stated):
                state, message, said = "skipped", "", "already done"
            else:
                with speaking:
                    progress.begin(name)
                outputs, figures = work(slide, step)
                ledger.mark_done(name, stage, stated, outputs=outputs, figures=figures)
                state, message, said = (
                    "done",
                    "",
                    f"{_describe(figures)} ({time.monotonic() - begun:.1f} s)",
                )
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            message = (
                str(error)
                if isinstance(error, MorphomilError)
                else f"{type(error).__name__}: {error}"
            )
            state, said = "failed", message
            ledger.mark_failed(name, stage, stated, message)
        with speaking:
            progress.end(name, state, said)
        return state, message

    with ThreadPoolExecutor(CORES) as pool:
        try:
            outcomes = dict(
                zip([slide.slide_id for slide in slides], pool.map(one, slides), strict=True)
            )
        finally:
            stopping.set()
    done, skipped = (
        tuple(name for name, (state, _) in outcomes.items() if state == wanted) for wanted in _GOOD
    )
    return StageResult(
        done, skipped, {name: message for name, (_, message) in outcomes.items() if message}
    )


_GOOD = ("done", "skipped")


def _describe(figures: dict[str, Any]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {value:,}"
        for name, value in figures.items()
        if isinstance(value, int)
    )
