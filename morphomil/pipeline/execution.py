"""A stage's execution, slide by slide: locks, resuming, progress, failures."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Protocol

from morphomil.errors import (
    NO_ROOM,
    BusyError,
    InputError,
    MorphomilError,
    OccupiedError,
    tells_of_memory,
    tells_of_names,
)
from morphomil.pipeline.ahead import Ahead, Stopped
from morphomil.run.claims import Part
from morphomil.run.ledger import key_of
from morphomil.types import CORES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from morphomil.places import Place
    from morphomil.run.claims import Claim
    from morphomil.run.directory import Run
    from morphomil.run.ledger import Ledger
    from morphomil.types import Cohort, Slide

    Step = Callable[[int, int], None]
    """Hears how many patches of how many are done."""
    SlideOutput = tuple[list[str], dict[str, Any]]
    """Names of a slide's outputs, and its figures."""


LISTED_CAUSES = 10
"""Where no slide is left, this many causes are listed."""


class Progress(Protocol):
    """Hears what a stage does, one call at a time; the command line draws bars from it."""

    def start(self, stage: str, total: int) -> None:
        """A stage begins on `total` slides."""

    def begin(self, slide_id: str) -> None:
        """Work on a slide begins."""

    def step(self, slide_id: str, done: int, total: int) -> None:
        """So many patches of the slide are done; slides are worked side by side."""

    def end(self, slide_id: str, state: str, message: str) -> None:
        """A slide is `done`, `skipped`, `empty` or `failed`."""


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
    empty: dict[str, str] = field(default_factory=dict)
    """Slide id -> why there is nothing in its result, be it made now or before."""


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` of a cohort, from 1; a slide's part depends on its id alone, or is
    what a plan says."""

    index: int = 1
    count: int = 1
    plan: dict[str, int] | None = None
    """Slide id -> its part (`planning.read_plan`)."""

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise InputError(f"a shard is i/n with 1 <= i <= n, got {self.index}/{self.count}")

    def part(self, stage: str) -> Part:
        """What a stage on this shard has to itself; shards of one run may work side by side."""
        name = key_of(self.plan)[:8] if self.plan is not None else ""
        return Part(stage, self.index, self.count, name) if self.is_part else Part()

    @property
    def is_part(self) -> bool:
        """Whether others work on other slides."""
        return self.count > 1 or self.plan is not None

    def holds(self, slide_id: str) -> bool:
        """Whether a slide belongs to this part."""
        if self.plan is not None:
            return self.plan.get(slide_id) == self.index
        number = int.from_bytes(hashlib.blake2b(slide_id.encode(), digest_size=8).digest(), "big")
        return number % self.count == self.index - 1


@dataclass(frozen=True)
class SlideStage:
    """Work done slide by slide, each slide's result being kept for as long as its key stands."""

    name: str
    """The ledger and the progress know the stage by this name."""
    ledger: Ledger
    """Here stands what is done, and with which key."""
    slides: Sequence[Slide]
    """These slides are worked on."""
    key: Callable[[Slide], str]
    """A short name of everything that a slide's result depends on (`key_of`)."""
    work: Callable[[Slide, Step], SlideOutput]
    """Writes a slide's outputs; returns their names, as the ledger finds them, and its figures."""
    settings: dict[str, Any]
    """The run's log gets these settings."""
    command: str = ""
    """The run's log names the command so; empty: like the stage."""
    emptiness: Callable[[dict[str, Any]], str] = lambda figures: ""
    """Why there is nothing in a result of these figures, with the counts; "" where there is."""
    reads: Callable[[Slide], Sequence[Place]] = lambda slide: ()
    """The files that the work reads; those elsewhere are copied ahead of it."""
    leave: Callable[[Slide], object] = lambda slide: None
    """What else is to be done with a slide while copies of its files are there."""


def execute(
    run: Run,
    stage: SlideStage,
    *,
    cohort: Cohort | None = None,
    shard: Shard | None = None,
    progress: Progress | None = None,
) -> StageResult:
    """Do a stage's work on every slide that has no valid result; one that fails stops no other.

    Args:
        run: is locked meanwhile, and logs the command.
        stage: what is to be done.
        cohort: stored as the run's before the work begins, by a stage that a run starts with.
        shard: the part of the slides to work on.
        progress: hears of every slide.

    Raises:
        BusyError: another process works in the run directory.
        InputError: the run directory can't be written, or the disk is full.
    """
    begun, shard = time.monotonic(), shard or Shard()
    run.log.entries()  # one that is damaged is told before the work, not after it
    with run.lock(shard.part(stage.name)) as claim:
        if cohort is not None:
            run.save_cohort(cohort)
        slides = [slide for slide in stage.slides if shard.holds(slide.slide_id)]
        result = _work_slides(stage, slides, progress or Silence(), claim)
        run.record(stage.command or stage.name, stage.settings, seconds=time.monotonic() - begun)
    return result


def segmented_slides(run: Run, shard: Shard | None = None) -> list[Slide]:
    """The slides of a run, or of a part of it, that have masks with nuclei, for the stages that
    read them; a part may have none.

    Raises:
        InputError: nothing is segmented yet, or no slide has nuclei.
    """
    part = shard or Shard()
    slides = [slide for slide in run.cohort.slides if part.holds(slide.slide_id)]
    segmented = set(run.ledger.done(slides, "segment"))
    if not segmented and not part.is_part:
        causes = [f"slide {name}: {cause}" for name, cause in run.losses("segment").items()]
        raise InputError(
            [
                f"{run.path} has no segmented slides{' with nuclei' if causes else ''}; "
                f"run: morphomil segment COHORT --out {run.path}",
                *causes[:LISTED_CAUSES],
            ]
        )
    return [slide for slide in slides if slide.slide_id in segmented]


def _work_slides(
    stage: SlideStage, slides: Sequence[Slide], progress: Progress, claim: Claim
) -> StageResult:
    """Work as many slides side by side as there are cores: one is read while another waits for its
    network."""
    speaking, stopping = Lock(), Event()
    progress.start(stage.name, len(slides))

    def one(slide: Slide) -> tuple[str, str]:
        def begin() -> None:
            with speaking:
                progress.begin(slide.slide_id)

        def step(done: int, total: int) -> None:
            if stopping.is_set():
                raise Stopped
            claim.check()
            with speaking:
                progress.step(slide.slide_id, done, total)

        def leave() -> None:
            with speaking:
                stage.leave(slide)

        step(0, 1)
        state, message = _work_slide(stage, slide, ahead, begin=begin, step=step, leave=leave)
        with speaking:
            progress.end(slide.slide_id, state, message)
        return state, message

    def look(slide: Slide) -> tuple[str, bool]:
        key = stage.key(slide)
        return key, stage.ledger.is_done(slide.slide_id, stage.name, key)

    ahead = Ahead(slides, look=look, reads=stage.reads, stopping=stopping)
    with ahead, ThreadPoolExecutor(CORES) as pool:
        try:
            names = [slide.slide_id for slide in slides]
            outcomes = dict(zip(names, pool.map(one, slides), strict=True))
        finally:
            stopping.set()
    return StageResult(
        tuple(name for name, (state, _) in outcomes.items() if state == "done"),
        tuple(name for name, (state, _) in outcomes.items() if state == "skipped"),
        {name: message for name, (state, message) in outcomes.items() if state == "failed"},
        {name: message for name, (state, message) in outcomes.items() if state == "empty"},
    )


def _work_slide(
    stage: SlideStage,
    slide: Slide,
    ahead: Ahead,
    *,
    begin: Callable[[], None],
    step: Step,
    leave: Callable[[], None],
) -> tuple[str, str]:
    """A slide's state (done, skipped, empty, failed) after its work, and what is said of it."""
    slide_id, begun, key = slide.slide_id, time.monotonic(), ""
    try:
        with ahead.ready(slide) as ready:
            key, made = ready.key, not ready.done
            if made:
                begin()
                outputs, figures = stage.work(slide, step)
            else:
                entry = stage.ledger.status(slide_id)[stage.name]
                outputs, figures = list(entry["outputs"]), entry["figures"]
            empty = stage.emptiness(figures)
            if made or (empty and stage.ledger.state(slide_id, stage.name) != "empty"):
                stage.ledger.mark_done(
                    slide_id, stage.name, key, outputs=outputs, figures=figures, empty=empty
                )
            if ready.copied:
                leave()
    except Exception as error:
        if isinstance(error, BusyError) or (isinstance(error, OSError) and error.errno in NO_ROOM):
            raise
        known = isinstance(error, MorphomilError)
        cause = str(error) if known else _say_unexpected(error)
        with suppress(OccupiedError):  # in the entry's own place: damaged as it is, it has failed
            stage.ledger.mark_failed(slide_id, stage.name, key, cause)
        return "failed", cause
    if empty:
        return "empty", empty
    if not made:
        return "skipped", "already done"
    return "done", f"{_describe(figures)} ({time.monotonic() - begun:.1f} s)"


def _say_unexpected(error: Exception) -> str:
    """Of an error that no sentence foresees: what it says, and its kind for a report."""
    if tells_of_memory(error):
        return f"the memory is full ({error or 'no size given'}); give this slide a larger machine"
    if problem := tells_of_names(error):
        return problem
    return f"unexpected, please report it: {error or 'no message'} ({type(error).__name__})"


def _describe(figures: dict[str, Any]) -> str:
    counts = [
        f"{name.replace('_', ' ')} {value:,}"
        for name, value in figures.items()
        if isinstance(value, int)
    ]
    return "; ".join([", ".join(counts), *figures.get("notes", ())])
