"""A stage's slides that lie elsewhere: the next is copied while others are worked on, never more
than that."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from morphomil.errors import BusyError
from morphomil.pipeline.ahead import AHEAD
from morphomil.pipeline.execution import SlideStage, execute
from morphomil.places import Address, local_copy
from morphomil.run import Run
from morphomil.store import write_json
from morphomil.types import CORES, Cohort, ImageSource, Slide

if TYPE_CHECKING:
    from collections.abc import Callable

    from stores import Web


def stage_of(web: Web, run: Run, work: Callable[[Slide], None]) -> tuple[SlideStage, Cohort]:
    """Slides of one small file each."""
    slides = []
    for number in range(CORES + 6):
        name = f"{number:02}.svs"
        (web.folder / name).write_bytes(name.encode())
        slides.append(Slide(name, name, "1", (ImageSource(Address(f"{web.url}/{name}")),)))

    def write(slide: Slide, step: Any) -> tuple[list[str], dict[str, Any]]:
        step(0, 1)
        work(slide)
        with local_copy(slide.images[0].path) as path:
            assert path.read_bytes() == slide.slide_id.encode()
        write_json(run.slide_folder(slide.slide_id) / "out.json", 7)
        return ["out.json"], {}

    stage = SlideStage(
        "segment",
        run.ledger,
        slides,
        key=lambda slide: slide.slide_id,
        work=write,
        settings={},
        reads=lambda slide: [slide.images[0].path],
    )
    return stage, Cohort(tuple(slides))


def copied(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("*/copies/*/*"))


def wait_for(condition: Callable[[], bool]) -> None:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < 30
        time.sleep(0.01)


def test_the_next_slide_is_copied_while_others_are_worked_on(
    web: Web, cache: Path, tmp_path: Path
) -> None:
    seen: list[list[str]] = []

    def work(slide: Slide) -> None:
        if int(slide.slide_id[:2]) < CORES:
            wait_for(lambda: len(copied(cache)) == CORES + AHEAD)
            time.sleep(0.1)
        seen.append(copied(cache))

    run = Run.create(tmp_path / "run")
    stage, cohort = stage_of(web, run, work)
    result = execute(run, stage, cohort=cohort)
    assert sorted(result.done) == sorted(slide.slide_id for slide in cohort.slides)
    assert seen[0] == sorted(slide.slide_id for slide in cohort.slides)[: CORES + AHEAD]
    assert max(map(len, seen)) == CORES + AHEAD
    assert set(web.sent.values()) == {1}
    assert copied(cache) == []
    web.sent.clear()
    assert len(execute(run, stage, cohort=cohort).skipped) == len(cohort)
    assert not web.sent


def test_a_stage_that_ends_early_lets_go_of_all(web: Web, cache: Path, tmp_path: Path) -> None:
    def work(slide: Slide) -> None:
        if slide.slide_id == "01.svs":
            wait_for(lambda: len(copied(cache)) > 1)
            raise BusyError("taken over")

    run = Run.create(tmp_path / "run")
    stage, cohort = stage_of(web, run, work)
    with pytest.raises(BusyError, match="taken over"):
        execute(run, stage, cohort=cohort)
    assert not [path for path in cache.glob("*/process-*/*") if path.name != "alive"]
    assert len(web.sent) < len(cohort)
    result = execute(run, stage_of(web, run, lambda slide: None)[0], cohort=cohort)
    assert len(result.done) + len(result.skipped) == len(cohort)
