"""Damaged files of a run: each is recognized when it is read, named, and made anew by its stage
(faults 41, 49 and 51)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from imported_run import Imported
from typer.testing import CliRunner

from morphomil.cli.app import app
from morphomil.errors import DamagedError
from morphomil.figures import registry
from morphomil.run import Embeddings, Run
from morphomil.store import digest, read_arrays, write_arrays

Harm = Callable[[Path], object]


def file_of(path: Path) -> Path:
    """The largest file of a folder, or the file itself."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return max(files, key=lambda file: (file.stat().st_size, str(file)))


def truncate(path: Path) -> None:
    os.truncate(file_of(path), file_of(path).stat().st_size // 2)


def flip(path: Path) -> None:
    file = file_of(path)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


def empty(path: Path) -> None:
    file_of(path).write_bytes(b"")


def replace(path: Path) -> None:
    file_of(path).write_text("something else\n")


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def exchange(path: Path) -> None:
    """A file where a folder was, or a folder where a file was."""
    was_folder = path.is_dir()
    remove(path)
    path.write_text("") if was_folder else path.mkdir()


def pipe(path: Path) -> None:
    """What a reader would wait for."""
    file = file_of(path)
    file.unlink()
    os.mkfifo(file)


def loop(path: Path) -> None:
    """A link to itself."""
    remove(path)
    path.symlink_to(path.name)


HARMS: tuple[Harm, ...] = (truncate, flip, empty, replace, remove, exchange, pipe, loop)
pytestmark = pytest.mark.usefixtures("without_waiting")
READERS: dict[str, tuple[Callable[[Run], object], Callable[[Imported], object]]] = {
    "patches.parquet": (lambda run: run.patches("s0"), Imported.segment),
    "regions.geojson": (lambda run: run.regions("s0"), Imported.segment),
    "masks.zarr": (lambda run: run.masks("s0"), Imported.segment),
    "nuclei.parquet": (lambda run: run.nuclei("s0"), Imported.measure),
    "counts.zarr": (lambda run: run.counts("s0"), Imported.measure),
}


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_result_is_named_and_made_anew(name: str, harm: Harm, imported: Imported) -> None:
    read, make = READERS[name]
    path = imported.run.slide_folder("s0") / name
    read(imported.run)
    before = digest(path)
    harm(path)
    with pytest.raises(DamagedError) as refusal:
        read(imported.run)
    said = str(refusal.value)
    assert said.startswith(str(path))
    assert ("is missing" in said) == (harm is remove)
    assert "again, which makes it anew" in said
    make(imported)
    assert digest(path) == before
    read(imported.run)


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_a_damaged_cohort_is_named_and_written_anew(harm: Harm, imported: Imported) -> None:
    path = imported.run.path / "cohort.parquet"
    before = path.read_bytes()
    harm(path)
    run = Run(path.parent)
    with pytest.raises(DamagedError, match=r"cohort\.parquet .*; run the command that made it"):
        _ = run.cohort
    imported.segment()
    assert path.read_bytes() == before
    assert Run(run.path).cohort == imported.cohort


ENTRY = {"command": "x", "settings": {}, "versions": {}, "seconds": 1.5, "finished": "now"}
WRONG_ENTRIES = [
    json.dumps({"commands": [ENTRY | {name: wrong}]})
    for name, wrong in (("command", ["x"]), ("command", None), ("settings", []),
                        ("versions", "1"), ("seconds", "1"), ("finished", 7))
]  # fmt: skip


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "7", '"text"', "null", '{"commands": 7}', '{"commands": [{}]}',
     '{"commands": ["segment"]}', "\0\0\0", *WRONG_ENTRIES],
)  # fmt: skip
def test_a_damaged_log_is_told_before_any_work(content: str, imported: Imported) -> None:
    path = imported.run.path / "run.json"
    path.write_text(content)
    with pytest.raises(DamagedError, match=r"run\.json is damaged .*; bring back a copy"):
        imported.measure()
    with pytest.raises(DamagedError):
        imported.run.segmented_with()
    path.unlink()
    imported.segment()
    assert imported.run.segmented_with()["model"] == "imported"


def lead_nowhere(path: Path) -> None:
    remove(path)
    path.symlink_to("gone")


@pytest.mark.parametrize("harm", [exchange, pipe, loop, lead_nowhere], ids=lambda h: h.__name__)
def test_a_log_that_is_no_file_is_told_and_not_begun_anew(harm: Harm, imported: Imported) -> None:
    path = imported.run.path / "run.json"
    harm(path)
    mode = path.lstat().st_mode
    says = "link that leads nowhere" if path.is_symlink() else "is damaged|can't be read"
    with pytest.raises(DamagedError, match=rf"run\.json.*({says}).*remove it and run"):
        imported.measure()
    assert path.lstat().st_mode == mode
    remove(path)
    imported.segment()
    assert imported.run.segmented_with()["model"] == "imported"


@pytest.mark.parametrize("harm", [exchange, pipe, loop], ids=lambda harm: harm.__name__)
def test_a_ledger_that_is_no_file_is_made_anew(harm: Harm, imported: Imported) -> None:
    run = imported.run
    path = run.ledger.entries_path("s0")
    before = path.read_bytes()
    harm(path)
    assert str(path) in run.losses("segment")["s0"]
    assert imported.measure().skipped == ("s1",)
    assert imported.segment().done == ("s0",)
    assert imported.measure().done == ("s0",)
    assert path.read_bytes() == before


def test_a_ledger_whose_link_leads_nowhere_is_told_and_not_replaced(imported: Imported) -> None:
    path = imported.run.ledger.entries_path("s0")
    lead_nowhere(path)
    with pytest.raises(DamagedError, match=r"status\.json is a link that leads nowhere"):
        imported.segment()
    assert path.is_symlink()


@pytest.mark.parametrize("name", ["patches.parquet", "status.json"])
def test_a_folder_with_someones_files_in_place_of_ours_is_kept(
    name: str, imported: Imported
) -> None:
    path = imported.run.slide_folder("s0") / name
    exchange(path)
    (path / "mine.txt").touch()
    result = imported.segment()
    assert list(result.failed) == ["s0"]
    assert f"{path} is a folder with something in it" in result.failed["s0"]
    assert "move it away and run the same command again" in result.failed["s0"]
    assert result.skipped == ("s1",)
    assert "s0" in imported.run.losses("segment")
    path.rename(path.with_name("aside"))
    assert imported.segment().done == ("s0",)


def test_a_file_in_place_of_a_slides_folder_fails_that_slide(imported: Imported) -> None:
    folder = imported.run.slide_folder("s0")
    remove(folder)
    folder.touch()
    result = imported.segment()
    assert f"{folder} is no folder; move it away" in result.failed["s0"]
    assert result.skipped == ("s1",)
    assert "s0" in imported.run.losses("segment")


ENTRIES = (
    "", "{", "[]", "5", "null", '{"segment": 5}', '{"segment": null}', '{"segment": {}}',
    '{"segment": {"key": 7}}', '{"segment": {"key": "k", "outputs": [], "figures": {}}}',
    '{"segment": {"key": "k", "outputs": {"patches.parquet": 5}, "figures": {}}}',
    '{"segment": {"key": "k", "outputs": {}}}', "\0\0\0",
)  # fmt: skip


@pytest.mark.parametrize("content", ENTRIES)
def test_a_damaged_ledger_loses_no_slide_in_silence(content: str, imported: Imported) -> None:
    run = imported.run
    path = run.ledger.entries_path("s0")
    before = path.read_bytes()
    path.write_text(content)
    assert run.done("segment") == ["s1"]
    assert f"{path} is damaged" in run.losses("segment")["s0"]
    assert run.figures("segment")["state"].tolist() == ["failed", "done"]
    assert imported.segment().done == ("s0",)
    assert imported.measure().done == ("s0",)
    assert path.read_bytes() == before


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_damaged_features_are_named(harm: Harm, imported: Imported) -> None:
    embeddings = Embeddings(imported.run, "vgg")
    rows = np.arange(512, dtype=np.float16).reshape(2, 256)
    name = embeddings.save("s0", rows)
    figures = {"patches": 2, "features": 256}
    embeddings.ledger.mark_done("s0", "embed", "k", outputs=[name], figures=figures)
    np.testing.assert_array_equal(np.load(embeddings.stored("s0")), rows)
    harm(embeddings.features_path("s0"))
    with pytest.raises(DamagedError, match=r"s0\.npy .*run morphomil embed again"):
        embeddings.stored("s0")
    assert not embeddings.ledger.is_done("s0", "embed", "k")


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_damaged_arrays_are_named(harm: Harm, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    arrays = {"a": np.arange(64.0), "b": np.float32(3), "c": np.zeros((0, 3), bool)}
    write_arrays(path, arrays)
    found = read_arrays(path)
    assert found["b"] == 3 and found["c"].shape == (0, 3)
    np.testing.assert_array_equal(found["a"], arrays["a"])
    harm(path)
    with pytest.raises(DamagedError, match=r"weights\.safetensors (is|can't)"):
        read_arrays(path)


def test_an_error_of_reading_is_not_said_to_be_one_of_writing(imported: Imported) -> None:
    with pytest.raises(FileNotFoundError, match="gone"), imported.run.lock():
        Path("/gone").read_text()
    assert json.loads((imported.run.path / "run.json").read_text())["commands"]


def test_a_figure_of_a_damaged_result_is_left_out_and_told(
    imported: Imported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its caption alone needs the result, and where only problems are printed."""
    figures = {name: registry.FIGURES[name] for name in ("flow", "quality")}
    monkeypatch.setattr(registry, "FIGURES", figures)
    monkeypatch.setattr(registry, "_OF_RANKED_PATIENTS", ("flow",))
    ranked = imported.run.rank_folder
    ranked.mkdir()
    (ranked / "about.json").write_text("{")
    try:
        done = CliRunner().invoke(app, ["figures", str(imported.run.path), "--quiet"])
    finally:
        shutil.rmtree(ranked)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("flow: left out, ")
    assert "about.json is damaged" in done.output
    assert "quality" not in done.output
