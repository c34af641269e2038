"""What is done, with which key: stale, harmed and failed results, in both forms of a ledger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from morphomil.errors import DamagedError
from morphomil.run import Ledger, key_of
from morphomil.store import digest, write_json
from morphomil.types import Cohort

KINDS = ("folders", "files")


@pytest.fixture(params=KINDS)
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    """A ledger of two stages with a folder per slide, and one of one stage with a file per
    slide."""
    if request.param == "folders":
        return Ledger(tmp_path / "slides", "{slide}/status.json", ("segment", "featurize"))
    return Ledger(tmp_path / "vgg", "{slide}.json", ("segment",))


def test_results_are_valid_only_for_their_key_and_unharmed(ledger: Ledger) -> None:
    output = ledger.outputs_folder("s1") / "out.json"
    write_json(output, [1, 2])
    ledger.mark_done("s1", "segment", "k", outputs=["out.json"], figures={"nuclei": 2})
    assert ledger.is_done("s1", "segment", "k")
    assert ledger.outputs("s1", "segment") == {"out.json": digest(output)}
    assert not ledger.is_done("s1", "segment", "other settings")
    assert not ledger.is_done("s1", "featurize", "k")
    assert not ledger.is_done("s2", "segment", "k")
    output.write_text("[1, 2")
    assert not ledger.is_done("s1", "segment", "k")
    output.unlink()
    assert not ledger.is_done("s1", "segment", "k")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file that can't be read")
def test_an_entry_that_cannot_be_read_for_now_is_not_replaced(ledger: Ledger) -> None:
    """Reading the process's memory at 0 is an input/output error, as of a failing disk."""
    path = ledger.entries_path("s1")
    path.parent.mkdir(parents=True)
    path.symlink_to("/proc/self/mem")
    with pytest.raises(DamagedError, match="Input/output error"):
        ledger.status("s1")
    with pytest.raises(DamagedError, match="can't be read"):
        ledger.mark_failed("s1", ledger.stages[-1], "k", "cause")
    assert path.is_symlink()


@pytest.mark.parametrize("content", ["", "{", "[1]", "null"])
def test_a_harmed_entry_means_not_done(ledger: Ledger, cohort: Cohort, content: str) -> None:
    path = ledger.entries_path("s1")
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert not ledger.is_done("s1", "segment", "k")
    ledger.mark_failed("s1", "segment", "k", "why")
    table = ledger.figures(cohort.slides, "segment").set_index("slide_id")
    assert table.loc["s1", ["state", "cause"]].tolist() == ["failed", "why"]


def test_a_failure_is_never_done(ledger: Ledger, cohort: Cohort) -> None:
    ledger.mark_failed("s1", "segment", "k", "torn file")
    assert not ledger.is_done("s1", "segment", "k")
    assert ledger.done(cohort.slides, "segment") == []


def test_an_empty_result_is_kept_but_nobody_works_with_it(ledger: Ledger, cohort: Cohort) -> None:
    before = ledger.outputs_key(cohort.slides, "segment")
    write_json(ledger.outputs_folder("s1") / "out.json", [])
    ledger.mark_done(
        "s1", "segment", "k", outputs=["out.json"], figures={"regions": 0}, empty="no region"
    )
    assert ledger.is_done("s1", "segment", "k")
    assert not ledger.is_done("s1", "segment", "other settings")
    assert ledger.state("s1", "segment") == "empty"
    assert ledger.done(cohort.slides, "segment") == []
    assert ledger.outputs_key(cohort.slides, "segment") == before
    row = ledger.figures(cohort.slides, "segment").set_index("slide_id").loc["s1"]
    assert row[["state", "cause", "regions"]].tolist() == ["empty", "no region", 0]
    ledger.mark_done("s1", "segment", "k2", outputs=["out.json"], figures={"regions": 1})
    assert ledger.state("s1", "segment") == "done"
    assert "empty" not in ledger.status("s1")["segment"]


def test_a_later_stage_knows_the_cause_of_an_earlier_one(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "{slide}/status.json", ("segment", "featurize"))
    ledger.mark_done("s1", "segment", "k", outputs=[], figures={})
    ledger.mark_done("s1", "featurize", "k", outputs=[], figures={}, empty="no nucleus")
    assert ledger.cause("s1", "segment") == ""
    assert ledger.cause("s1", "featurize") == "no nucleus"
    ledger.mark_done("s1", "segment", "k2", outputs=[], figures={}, empty="no region")
    assert list(ledger.status("s1")) == ["segment"]
    assert ledger.cause("s1", "featurize") == "no region"
    assert ledger.cause("s2", "featurize") == ""


def test_the_key_of_all_outputs_tells_changes(ledger: Ledger, cohort: Cohort) -> None:
    keys = [ledger.outputs_key(cohort.slides, "segment")]
    for content in ([1], [2]):
        write_json(ledger.outputs_folder("s2") / "out.json", content)
        ledger.mark_done("s2", "segment", "k", outputs=["out.json"], figures={})
        keys.append(ledger.outputs_key(cohort.slides, "segment"))
    ledger.mark_failed("s2", "segment", "k", "torn file")
    assert len(set(keys)) == 3
    assert ledger.outputs_key(cohort.slides, "segment") == keys[0]


def test_replacing_a_stage_forgets_what_rests_on_it(tmp_path: Path, cohort: Cohort) -> None:
    ledger = Ledger(tmp_path, "{slide}/status.json", ("segment", "featurize"))
    ledger.mark_done("s1", "segment", "k", outputs=[], figures={})
    ledger.mark_done("s1", "featurize", "k", outputs=[], figures={})
    assert list(ledger.status("s1")) == ["segment", "featurize"]
    ledger.mark_done("s1", "featurize", "k2", outputs=[], figures={})
    assert ledger.is_done("s1", "segment", "k")
    ledger.mark_failed("s1", "segment", "k2", "torn file")
    assert list(ledger.status("s1")) == ["segment"]
    assert ledger.done(cohort.slides, "featurize") == []


def test_entries_are_stored_as_documented(tmp_path: Path) -> None:
    done = {"key": "k", "outputs": {}, "figures": {"patches": 3}}
    several = Ledger(tmp_path / "slides", "{slide}/status.json", ("segment", "featurize"))
    single = Ledger(tmp_path / "vgg", "{slide}.json", ("embed",))
    several.mark_done("s1", "featurize", "k", outputs=[], figures={"patches": 3})
    single.mark_done("../s1", "embed", "k", outputs=[], figures={"patches": 3})
    stored = json.loads((tmp_path / "slides" / "s1" / "status.json").read_text())
    assert len(stored.pop("sum")) == 64
    assert stored == {"featurize": done}
    (path,) = (tmp_path / "vgg").iterdir()
    assert path == single.entries_path("../s1")
    assert json.loads(path.read_text()) == done | {
        "sum": "f9740de7ab3ed8c7870e3d79a3411415ed21cd3da94f0f4523fb097e429cb664"
    }
    assert single.status("../s1") == {"embed": done}


def test_figures_have_one_row_per_slide(ledger: Ledger, cohort: Cohort) -> None:
    ledger.mark_done("s0", "segment", "k", outputs=[], figures={"nuclei": 7})
    ledger.mark_failed("s2", "segment", "k", "torn file")
    table = ledger.figures(cohort.slides, "segment")
    assert table["state"].tolist() == ["done", "missing", "failed", "missing"]
    assert table["nuclei"].tolist()[0] == 7
    assert ledger.done(cohort.slides, "segment") == ["s0"]


def test_keys_tell_changes_but_not_order() -> None:
    assert (
        key_of("a", {"x": 1, "y": 2})
        == key_of("a", {"y": 2, "x": 1})
        != key_of("a", {"x": 1, "y": 3})
    )
