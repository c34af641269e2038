"""Atomic writes, also when each system call fails in turn; digests."""

from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path

import pandas as pd
import pytest

from morphomil import store
from morphomil.errors import DamagedError, OccupiedError
from morphomil.store import (
    atomic_path,
    digest,
    fingerprint,
    parse_json,
    write_json,
    write_parquet,
    write_table_csv,
)


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


def test_a_file_replaces_an_empty_folder_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.mkdir()
    write_json(path, [1])
    assert json.loads(path.read_text()) == [1]
    full = tmp_path / "b.json"
    full.mkdir()
    (full / "mine").touch()
    with pytest.raises(OccupiedError, match=r"b\.json is a folder with something in it .*; move"):
        write_json(full, [1])
    with pytest.raises(OccupiedError, match=r"a\.json is no folder; move"):
        write_json(path / "c" / "d.json", [1])
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.json", "b.json", "mine"]


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path: Path, as_folder: bool) -> None:
    elsewhere, path = tmp_path / "elsewhere", tmp_path / "result"
    elsewhere.mkdir()
    (elsewhere / "mine").touch()
    path.symlink_to(elsewhere)
    with atomic_path(path) as partial:
        partial.mkdir() if as_folder else partial.touch()
    assert not path.is_symlink() and path.is_dir() == as_folder
    assert (elsewhere / "mine").exists()


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


def test_digests_and_fingerprints_tell_changes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(3 * 2**20))
    before = digest(tmp_path), fingerprint(tmp_path / "f")
    (tmp_path / "f").write_bytes(bytes(3 * 2**20 - 1) + b"1")
    assert digest(tmp_path) != before[0]
    assert fingerprint(tmp_path / "f") != before[1]


def test_a_sealed_table_is_read_by_others_and_notices_every_flipped_byte(tmp_path: Path) -> None:
    table = pd.DataFrame({"name": ["a", "b"], "value": [1.5, None], "n": [1, 2]})
    store.write_parquet(tmp_path / "t.parquet", table)
    content = (tmp_path / "t.parquet").read_bytes()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), table)
    pd.testing.assert_frame_equal(store.read_parquet(tmp_path / "t.parquet"), table)
    for place in range(0, len(content), 7):
        harmed = bytearray(content)
        harmed[place] ^= 0x20
        (tmp_path / "t.parquet").write_bytes(harmed)
        try:
            found = store.read_parquet(tmp_path / "t.parquet")
        except DamagedError:
            continue
        pd.testing.assert_frame_equal(found, table)  # only the seal's own name was harmed
    table.to_parquet(tmp_path / "old.parquet")
    pd.testing.assert_frame_equal(store.read_parquet(tmp_path / "old.parquet"), table)


def test_headers_of_columns_are_escaped_like_cells(tmp_path: Path) -> None:
    table = pd.DataFrame({"=1+1": [1], "-x": ["+1"], "@a": [-0.5], "plain": ["\tx"]})
    store.write_table_csv(tmp_path / "t.csv", table)
    with (tmp_path / "t.csv").open(newline="") as file:
        header, row = csv.reader(file)
    assert header == ["'=1+1", "'-x", "'@a", "plain"]
    assert row == ["1", "'+1", "-0.5", "'\tx"]
    assert list(table) == ["=1+1", "-x", "@a", "plain"]


def test_a_failed_write_of_hdf5_is_an_error_of_the_system(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with store.hdf5_file(path) as file:
        file["x"] = [1, 2]
    before = path.read_bytes()
    unwritable = tmp_path / ("b" * 300)
    with pytest.raises(OSError, match="bbb"), store.hdf5_file(unwritable) as file:
        file["x"] = [3]
    with pytest.raises(RuntimeError, match="another"), store.hdf5_file(path) as file:
        file["x"] = [3]
        raise RuntimeError("another")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"\ud800x"', "\ufffdx"),
        (r'"\udE00\ud83d"', "\ufffd\ufffd"),
        (r'"\ud83d\ude00\ud83d\u0041"', "\U0001f600\ufffdA"),
        (r'"\\ud800 \\\ud800 \n\u00e9"', "\\ud800 \\\ufffd \n\u00e9"),
        (r'{"\ud800": [1, "\ud800"]}', {"\ufffd": [1, "\ufffd"]}),
    ],
)
def test_halves_of_characters_in_json_are_replaced(text: str, value: object) -> None:
    assert parse_json(text) == parse_json(text.encode("utf-16")) == value


def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    """Writing and flushing name none."""
    with (
        pytest.raises(OSError, match=r"No space left on device: .*out\.json"),
        atomic_path(tmp_path / "out.json"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
