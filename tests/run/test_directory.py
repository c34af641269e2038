"""A run directory: its cohort, its places, its lock and its log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from morphomil.errors import BusyError, InputError
from morphomil.run import Run
from morphomil.types import Cohort


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
        "from morphomil.run import Run; from pathlib import Path\nwith "
        f"Run(Path({str(run.path)!r})).lock(): pass"
    )
    with run.lock():
        other = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
    assert BusyError.__name__ in other.stderr
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_rests_on_an_older_result_is_forgotten(run: Run) -> None:
    run.ledger.mark_done("s1", "segment", "k", outputs=[], figures={})
    run.ledger.mark_done("s1", "featurize", "k", outputs=[], figures={})
    before = run.measured_key()
    run.ledger.mark_failed("s1", "segment", "k2", "torn file")
    assert run.done("featurize") == []
    assert run.measured_key() != before


def test_figures_have_one_row_per_slide(run: Run) -> None:
    run.ledger.mark_done("s0", "segment", "k", outputs=[], figures={"nuclei": 7})
    run.ledger.mark_failed("s2", "segment", "k", "torn file")
    table = run.figures("segment")
    assert table["state"].tolist() == ["done", "missing", "failed", "missing"]
    assert table["nuclei"].tolist()[0] == 7
    assert run.done("segment") == ["s0"]


def test_every_command_is_logged(run: Run) -> None:
    assert run.commands() == {}
    run.record("segment", {"mpp": 0.5}, seconds=1.26)
    run.record("rank", {"seed": 0}, seconds=2)
    run.record("segment", {"mpp": 0.25}, seconds=3)
    content = json.loads((run.path / "run.json").read_text())
    assert list(content) == ["schema", "commands", "sum"]
    assert [entry["command"] for entry in run.log.entries()] == ["segment", "rank", "segment"]
    assert content["commands"] == run.log.entries()
    assert run.log.entries()[0]["seconds"] == 1.3
    assert run.commands()["segment"]["settings"] == {"mpp": 0.25}
    assert "python" in run.commands()["rank"]["versions"]
    assert run.segmented_with() == {"mpp": 0.25}


@pytest.mark.parametrize("slide_id", ["s1", "../../escape", "a" * 300, "CON", "x/y"])
def test_places_of_a_slide_lie_in_the_run(run: Run, slide_id: str) -> None:
    places = [
        run.slide_folder(slide_id),
        run.contributions_path(slide_id),
        run.slide_figures_folder(slide_id),
        run.map_figures_folder("dl-cnb", slide_id),
        run.map_path("dl-cnb", slide_id),
        run.map_path("dl-cnb", slide_id, image=1),
    ]
    assert len(set(places)) == len(places)
    assert all(run.path in place.resolve().parents for place in places)
    assert run.map_path("m", "s1") == run.path / "models" / "m" / "maps" / "s1.geojson"
    assert run.map_path("m", "s1", image=2).name == "s1-2.geojson"


def test_files_of_models_and_folds_are_listed_in_order(run: Run) -> None:
    for model, fold in (("dl-cnb", "fold1"), ("clinical", "fold0"), ("dl-cnb", "fold0")):
        folder = run.fold_folder(model, fold)
        folder.mkdir(parents=True)
        (folder / "settings.json").write_text("{}")
    (run.model_folder("dl-cnb") / "predictions.parquet").write_text("")
    assert [path.parts[-3:-1] for path in run.fold_files("settings.json")] == [
        ("clinical", "fold0"),
        ("dl-cnb", "fold0"),
        ("dl-cnb", "fold1"),
    ]
    assert [path.parent.name for path in run.fold_files("settings.json", model="dl-cnb")] == [
        "fold0",
        "fold1",
    ]
    assert [path.parent.name for path in run.model_files("predictions.parquet")] == ["dl-cnb"]
