"""Who works in a run directory: on one machine by its processes, elsewhere by their signs of
life."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pandas as pd
import pytest

from morphomil.errors import BusyError, InputError
from morphomil.run import Part, Run, claims

STARTS = Path(__file__).with_name("starts.py")
PARTS = [Part("segment", index, count) for count in range(1, 7) for index in range(1, count + 1)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "run").mkdir()
    return Run(tmp_path / "run")


def files(run: Run) -> list[str]:
    return sorted(path.name for path in run.path.iterdir())


def elsewhere(path: Path, beat: int = 0) -> None:
    """The file of a process on another machine, as a disk without symbolic links has it."""
    owner = {"host": "node7", "boot": "b", "pids": "p", "pid": 1, "started": "1", "token": "t"}
    path.write_text(json.dumps(owner | {"beat": f"{beat:020d}"}))


def ended_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_parts_and_writers_that_start_together_keep_out_of_each_others_way(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, STARTS, tmp_path, "3", "12"], capture_output=True, text=True, check=True
    )
    result = json.loads(done.stdout)
    assert result["problems"] == [], done.stderr
    assert result["ends"] >= 3 * 9


def test_parts_meet_where_they_share_a_slide() -> None:
    held = {
        part: {number for number in range(60) if number % part.count == part.index - 1}
        for part in PARTS
    }
    for one, two in product(PARTS, PARTS):
        assert one.meets(two) == bool(held[one] & held[two]), (one, two)


def test_stages_meet_where_one_rests_on_the_other() -> None:
    works = ("", "segment", "featurize", "embed", "tables")
    apart = {("embed", "featurize"), *((work, "tables") for work in works[1:4])}
    for one, two in product(works, works):
        expected = tuple(sorted((one, two))) not in apart
        assert Part(one, 1, 2).meets(Part(two, 1, 2)) == expected, (one, two)
    assert not Part("embed", 1, 2).meets(Part("segment", 2, 2))
    assert Part("segment", 1, 2, "0" * 8).meets(Part("segment", 2, 2))
    assert not Part("segment", 1, 2, "0" * 8).meets(Part("segment", 2, 2, "0" * 8))


@pytest.mark.parametrize("part", [Part(), Part("embed", 3, 12), Part("segment", 1, 2, "0f" * 4)])
def test_a_claims_file_says_which_part_it_is(part: Part) -> None:
    assert Part.of(part.file_name) == part
    assert Part.of(claims.GUARD) is None


def test_nothing_is_left_behind(run: Run) -> None:
    with run.lock(), pytest.raises(BusyError, match="process"), run.lock(Part("embed", 1, 3)):
        pass
    with run.lock(Part("segment", 1, 2)), run.lock(Part("segment", 2, 2)):
        assert files(run) == [".lock.segment.1of2", ".lock.segment.2of2"]
    assert files(run) == []


def test_leftovers_of_ended_processes_are_cleared_at_once(run: Run) -> None:
    owner = claims._here() | {"pid": ended_process(), "started": "1", "token": "t", "beat": "0"}
    for name in (".lock", claims.GUARD):
        (run.path / name).write_text(json.dumps(owner))
    (run.path / ".lock.segment.1of2").touch()  # ended before it said who it is
    begun = time.monotonic()
    with run.lock():
        assert files(run) == [".lock"]
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("name", [".lock", claims.GUARD])
@pytest.mark.parametrize(
    "changes",
    [{"pid": wrong} for wrong in ("abc", None, [1], 10**30, -1, 0, True, 1.5)]
    + [{"token": 7}, {"host": None}, {"started": 5}, None],
    ids=str,
)
def test_a_damaged_claim_is_nobodys(
    name: str, changes: dict[str, object] | None, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "SILENCE_S", 0.2)
    owner = claims._here() | {"pid": os.getpid(), "started": None, "token": "t", "beat": "0"}
    text = "[" * 5000 if changes is None else json.dumps(owner | changes)
    (run.path / name).write_text(text)
    with run.lock():
        assert files(run) == [".lock"]
    assert files(run) == []


@pytest.mark.parametrize("name", [".lock", claims.GUARD])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_no_claim(name: str, make: Callable[[Path], object], run: Run) -> None:
    make(run.path / name)
    begun = time.monotonic()
    with run.lock():
        assert files(run) == [".lock"]
    assert time.monotonic() - begun < 10


def test_a_number_that_another_process_has_now_is_no_sign_of_life(run: Run) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = claims._here() | {"pid": sleeper.pid, "token": "t", "beat": "0"}
    started = claims._started(sleeper.pid)
    try:
        (run.path / ".lock").write_text(json.dumps(owner | {"started": started}))
        with pytest.raises(BusyError, match=str(sleeper.pid)), run.lock():
            pass
        if started is not None:
            (run.path / ".lock").write_text(json.dumps(owner | {"started": "1"}))
            with run.lock():
                pass
    finally:
        sleeper.communicate()


def test_a_process_elsewhere_is_believed_as_long_as_it_gives_signs(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "SILENCE_S", 1.0)
    elsewhere(run.path / ".lock")
    watched = 0

    def state_of(*arguments: object, **options: object) -> str:
        nonlocal watched
        watched += 1
        if watched == 2:
            elsewhere(run.path / ".lock", beat=5)
        return str(kept(*arguments, **options))  # type: ignore[arg-type]

    kept = claims._state_of
    monkeypatch.setattr(claims, "_state_of", state_of)
    with pytest.raises(BusyError, match="node7"), run.lock():
        pass
    begun = time.monotonic()
    with run.lock():  # silent from here on
        assert time.monotonic() - begun >= 1.0
    assert files(run) == []


def test_a_silent_guard_elsewhere_is_taken_away(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "SILENCE_S", 0.3)
    elsewhere(run.path / claims.GUARD)
    with run.lock():
        pass
    (run.path / claims.GUARD).touch()  # ended before it said who it is
    with run.lock():
        pass
    assert files(run) == []


def test_another_ones_guard_is_put_back(run: Run) -> None:
    elsewhere(run.path / claims.GUARD, beat=2)
    claims._take_away(run.path / claims.GUARD, b"what was seen before")
    assert files(run) == [claims.GUARD]


def test_who_was_taken_for_ended_notices_it_and_stops(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "BEAT_S", 0.02)
    with run.lock() as claim:
        before = (run.path / ".lock").read_bytes()
        time.sleep(0.3)
        after = (run.path / ".lock").read_bytes()
        assert before != after
        assert len(before) == len(after)
        claim.check()
        elsewhere(run.path / ".lock")
        assert claim.lost.wait(10)
        with pytest.raises(BusyError, match="took over"):
            claim.check()
    assert files(run) == [".lock"]  # the other one's


def test_waiting_is_set_by_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORPHOMIL_WAIT_S", "soon")
    with pytest.raises(InputError, match="MORPHOMIL_WAIT_S"), run.lock():
        pass
    monkeypatch.setenv("MORPHOMIL_WAIT_S", "0.4")
    begun = time.monotonic()
    with run.lock(), pytest.raises(BusyError), run.lock():
        pass
    assert time.monotonic() - begun >= 0.4


def test_whatever_writes_into_a_run_holds_it(run: Run) -> None:
    from morphomil.export import export_run
    from morphomil.figures.registry import draw_figures
    from morphomil.figures.report.overviews import draw_overviews
    from morphomil.figures.report.write import write_report
    from morphomil.tables.attention import write_alongside
    from morphomil.tables.paper import compare

    writers: list[Callable[[], object]] = [
        lambda: export_run(run, "csv"),
        lambda: list(draw_figures(run)),
        lambda: draw_overviews(run),
        lambda: write_report(run),
        lambda: write_alongside(run, pd.DataFrame()),
        lambda: compare(run),
    ]
    with run.lock(Part("embed", 1, 3)):
        for write in writers:
            with pytest.raises(BusyError):
                write()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_run_that_nobody_may_write_is_read_all_the_same(run: Run) -> None:
    run.path.chmod(0o500)
    with pytest.raises(InputError, match="can't be written"), run.lock():
        pass
    with run.lock(reading=True):
        pass


@pytest.mark.parametrize(
    ("name", "reading", "blamed"),
    [
        ("run/slides/a", False, "run directory"),
        ("run/slides/a", True, "run directory"),
        ("elsewhere/a", False, ""),
        ("elsewhere/a", True, ""),
        (None, False, "run directory"),
        (None, True, ""),
    ],
)
def test_a_run_is_blamed_for_its_own_full_disk(
    run: Run, name: str | None, reading: bool, blamed: str
) -> None:
    file = name and str(run.path.parent / name)
    with (
        pytest.raises(InputError if blamed else OSError, match=blamed or "No space"),
        run.lock(reading=reading),
    ):
        raise OSError(errno.ENOSPC, "No space left on device", file)
