"""Atomic writes, also when each system call fails in turn; stale and harmed results; locks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from morphomil import store
from morphomil.errors import BusyError, InputError
from morphomil.run.directory import Run
from morphomil.run.ledger import key_of
from morphomil.store import (
    atomic_path,
    digest,
    fingerprint,
    write_json,
    write_parquet,
    write_table_csv,
)
from morphomil.types import Cohort, ImageSource, Slide


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(
        tuple(
            Slide(f"s{i}", f"p{i}", str(i % 2), (ImageSource(tmp_path / f"{i}.tif"),))
            for i in range(4)
        )
    )


@pytest.fixture
def run(tmp_path: Path, cohort: Cohort) -> Run:
    run = Run.create(tmp_path / "run")
    run.save_cohort(cohort)
    return run


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, [1])
    with pytest.raises(RuntimeError), atomic_path(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_every_failing_system_call_leaves_old_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_json(path, "old")
    calls = failing = 0
    real_fsync, real_replace = os.fsync, Path.replace

    def maybe_fail() -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "fsync", lambda handle: (maybe_fail(), real_fsync(handle))[1])
    monkeypatch.setattr(
        Path, "replace", lambda self, target: (maybe_fail(), real_replace(self, target))[1]
    )
    for failing in range(1, 10):  # noqa: B007 - read by maybe_fail
        calls = 0
        try:
            write_json(path, "new")
        except OSError:
            assert json.loads(path.read_text()) in ("old", "new")
            assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
        else:
            break
    assert failing == 4
    assert json.loads(path.read_text()) == "new"


def test_folders_are_replaced_whole(tmp_path: Path) -> None:
    for content in ("one", "two"):
        with atomic_path(tmp_path / "folder") as partial:
            partial.mkdir()
            (partial / content).write_text(content)
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["two"]


def test_csv_escapes_formulas_but_not_numbers(tmp_path: Path) -> None:
    write_table_csv(
        tmp_path / "t.csv",
        pd.DataFrame({"label": ["=HYPERLINK()", "-x", "plain"], "value": [-0.3, 1, 2]}),
    )
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        "label,value",
        "'=HYPERLINK(),-0.3",
        "'-x,1.0",
        "plain,2.0",
    ]


def test_same_table_same_bytes(tmp_path: Path) -> None:
    table = pd.DataFrame({"a": [1.5, 2], "b": ["x", "y"]})
    write_parquet(tmp_path / "1.parquet", table)
    write_parquet(tmp_path / "2.parquet", table)
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_results_are_valid_only_for_their_key_and_unharmed(run: Run) -> None:
    folder = run.slide_folder("s1")
    write_json(folder / "out.json", [1, 2])
    run.ledger.mark_done("s1", "segment", "k", outputs=["out.json"], figures={"nuclei": 2})
    assert run.ledger.is_done("s1", "segment", "k")
    assert not run.ledger.is_done("s1", "segment", "other settings")
    assert not run.ledger.is_done("s1", "featurize", "k")
    (folder / "out.json").write_text("[1, 2")
    assert not run.ledger.is_done("s1", "segment", "k")
    (folder / "out.json").unlink()
    assert not run.ledger.is_done("s1", "segment", "k")


def test_what_rests_on_an_older_result_is_forgotten(run: Run) -> None:
    run.ledger.mark_done("s1", "segment", "k", outputs=[], figures={})
    run.ledger.mark_done("s1", "featurize", "k", outputs=[], figures={})
    before = run.measured_key()
    run.ledger.mark_failed("s1", "segment", "k2", "torn file")
    assert run.done("featurize") == []
    assert run.measured_key() != before


@pytest.mark.parametrize("content", ["", "{", "[1]", "null"])
def test_a_harmed_status_means_not_done(run: Run, content: str) -> None:
    folder = run.slide_folder("s1")
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(content)
    assert not run.ledger.is_done("s1", "segment", "k")
    run.ledger.mark_failed("s1", "segment", "k", "why")
    assert run.figures("segment").set_index("slide_id").loc["s1", ["state", "cause"]].tolist() == [
        "failed",
        "why",
    ]


def test_figures_have_one_row_per_slide(run: Run) -> None:
    run.ledger.mark_done("s0", "segment", "k", outputs=[], figures={"nuclei": 7})
    run.ledger.mark_failed("s2", "segment", "k", "torn file")
    table = run.figures("segment")
    assert table["state"].tolist() == ["done", "missing", "failed", "missing"]
    assert table["nuclei"].tolist()[0] == 7
    assert run.done("segment") == ["s0"]


def test_the_cohort_comes_back(run: Run, cohort: Cohort) -> None:
    assert Run.open(run.path).cohort == cohort


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.doc").write_text("precious")
    with pytest.raises(InputError, match="no run directory"):
        Run.create(tmp_path / "mine")
    with pytest.raises(InputError, match="morphomil segment"):
        Run.open(tmp_path / "nothing")


def test_two_processes_do_not_write_one_run(run: Run) -> None:
    code = (
        "from morphomil.run.directory import Run; from pathlib import Path\nwith "
        f"Run(Path({str(run.path)!r})).lock(): pass"
    )
    with run.lock():
        other = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
    assert BusyError.__name__ in other.stderr
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_keys_and_digests_tell_changes(tmp_path: Path) -> None:
    assert (
        key_of("a", {"x": 1, "y": 2})
        == key_of("a", {"y": 2, "x": 1})
        != key_of("a", {"x": 1, "y": 3})
    )
    (tmp_path / "f").write_bytes(bytes(3 * 2**20))
    before = digest(tmp_path), fingerprint(tmp_path / "f")
    (tmp_path / "f").write_bytes(bytes(3 * 2**20 - 1) + b"1")
    assert digest(tmp_path) != before[0]
    assert fingerprint(tmp_path / "f") != before[1]
