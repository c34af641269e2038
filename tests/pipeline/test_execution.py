"""The executor with a stage that only counts: resuming, failures, shards, progress, the lock and
the log."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from morphomil.errors import BusyError, InputError, SlideError
from morphomil.pipeline import Shard, Silence
from morphomil.pipeline.execution import SlideStage, execute, segmented_slides
from morphomil.run import Run
from morphomil.store import write_json
from morphomil.types import Cohort, ImageSource, Slide

UNEXPECTED = "unexpected, please report it: no number (ValueError)"


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(
        tuple(
            Slide(f"s{i}", f"p{i}", str(i % 2), (ImageSource(tmp_path / f"{i}.tif"),))
            for i in range(6)
        )
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run")


def counting(
    run: Run,
    cohort: Cohort,
    *,
    key: str = "k",
    errors: dict[str, Exception] | None = None,
    command: str = "",
) -> tuple[SlideStage, list[str]]:
    """A stage that writes one number, or raises a slide's error; the slides that it worked on."""
    worked: list[str] = []

    def work(slide: Slide, step: Any) -> tuple[list[str], dict[str, Any]]:
        worked.append(slide.slide_id)
        step(1, 2)
        if errors and slide.slide_id in errors:
            raise errors[slide.slide_id]
        write_json(run.slide_folder(slide.slide_id) / "out.json", 7)
        return ["out.json"], {"nuclei_found": 1234, "share": 0.5}

    stage = SlideStage(
        "segment",
        run.ledger,
        cohort.slides,
        key=lambda slide: f"{key} {slide.slide_id}",
        work=work,
        settings={"key": key},
        command=command,
    )
    return stage, worked


class Recorder(Silence):
    def __init__(self) -> None:
        self.totals: list[tuple[str, int]] = []
        self.begun: list[str] = []
        self.ends: dict[str, tuple[str, str]] = {}

    def start(self, stage: str, total: int) -> None:
        self.totals.append((stage, total))

    def begin(self, slide_id: str) -> None:
        self.begun.append(slide_id)

    def end(self, slide_id: str, state: str, message: str) -> None:
        self.ends[slide_id] = (state, message)


def names(cohort: Cohort) -> tuple[str, ...]:
    return tuple(slide.slide_id for slide in cohort.slides)


def test_what_is_done_is_skipped_until_its_key_changes(run: Run, cohort: Cohort) -> None:
    stage, worked = counting(run, cohort)
    heard = Recorder()
    result = execute(run, stage, cohort=cohort, progress=heard)
    assert (result.done, result.skipped, result.failed) == (names(cohort), (), {})
    assert heard.totals == [("segment", 6)]
    assert sorted(heard.begun) == sorted(worked) == list(names(cohort))
    state, message = heard.ends["s0"]
    assert state == "done"
    assert message.startswith("nuclei found 1,234 (")
    heard = Recorder()
    result = execute(run, stage, progress=heard)
    assert (result.done, result.skipped) == ((), names(cohort))
    assert heard.begun == []
    assert heard.ends["s5"] == ("skipped", "already done")
    assert len(worked) == 6
    (run.slide_folder("s3") / "out.json").write_text("8")
    assert execute(run, stage).done == ("s3",)
    other, _ = counting(run, cohort, key="other")
    assert execute(run, other).done == names(cohort)


def test_a_slide_that_fails_stops_no_other(run: Run, cohort: Cohort) -> None:
    errors = {"s1": SlideError("torn file"), "s4": ValueError("no number")}
    stage, _ = counting(run, cohort, errors=errors)
    heard = Recorder()
    result = execute(run, stage, cohort=cohort, progress=heard)
    assert result.failed == {"s1": "torn file", "s4": UNEXPECTED}
    assert result.done == ("s0", "s2", "s3", "s5")
    assert heard.ends["s4"] == ("failed", UNEXPECTED)
    assert run.figures("segment")["cause"].tolist() == [
        "",
        "torn file",
        "",
        "",
        UNEXPECTED,
        "",
    ]
    healed, worked = counting(run, cohort)
    assert execute(run, healed).done == ("s1", "s4")
    assert sorted(worked) == ["s1", "s4"]


def test_a_slide_whose_key_cannot_be_had_fails_alone(run: Run, cohort: Cohort) -> None:
    stage, _ = counting(run, cohort)

    def key(slide: Slide) -> str:
        if slide.slide_id == "s2":
            raise FileNotFoundError("2.tif")
        return "k"

    broken = SlideStage("segment", run.ledger, stage.slides, key, stage.work, {})
    result = execute(run, broken, cohort=cohort)
    assert result.failed == {"s2": "unexpected, please report it: 2.tif (FileNotFoundError)"}
    assert len(result.done) == 5


def test_a_full_disk_stops_the_stage(run: Run, cohort: Cohort) -> None:
    stage, _ = counting(run, cohort, errors={"s1": OSError(errno.ENOSPC, "No space left")})
    with pytest.raises(InputError, match=r"can't be written.*No space left"):
        execute(run, stage, cohort=cohort)
    assert run.ledger.status("s1") == {}
    assert run.commands() == {}


def test_shards_share_the_slides(run: Run, cohort: Cohort) -> None:
    stage, worked = counting(run, cohort)
    parts = [execute(run, stage, cohort=cohort, shard=Shard(i, 3)).done for i in (1, 2, 3)]
    assert sorted(sum(parts, ())) == sorted(worked) == list(names(cohort))


def test_a_run_has_one_writer(run: Run, cohort: Cohort) -> None:
    stage, worked = counting(run, cohort)
    with run.lock(), pytest.raises(BusyError):
        execute(run, stage, cohort=cohort)
    assert worked == []
    assert not (run.path / "cohort.parquet").exists()


def test_the_command_is_logged(run: Run, cohort: Cohort) -> None:
    execute(run, counting(run, cohort)[0], cohort=cohort)
    execute(run, counting(run, cohort, command="import-nuclei")[0])
    assert [(entry["command"], entry["settings"]) for entry in run.log.entries()] == [
        ("segment", {"key": "k"}),
        ("import-nuclei", {"key": "k"}),
    ]


def test_later_stages_work_on_segmented_slides(run: Run, cohort: Cohort) -> None:
    run.save_cohort(cohort)
    with pytest.raises(InputError, match="has no segmented slides; run: morphomil segment"):
        segmented_slides(run)
    execute(run, counting(run, cohort, errors={"s2": SlideError("torn file")})[0])
    assert [slide.slide_id for slide in segmented_slides(run)] == ["s0", "s1", "s3", "s4", "s5"]
