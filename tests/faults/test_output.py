"""Nobody takes what the program prints (a full disk, a pipe that was closed, no stream at all): the
work goes on, and its exit status is the documented one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from imported_run import Imported

ENTRY = "from morphomil.cli.main import run; run()"
FULL = Path("/dev/full")
WAYS = {
    "full disk": f">{FULL} 2>{FULL}",
    "full disk under the log": f"2>{FULL}",
    "closed": "<&- >&- 2>&-",
    "read to the first line": "2>&1 | head -n 1",
    "read by nobody": "2>&1 | true",
}
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")


def shell(
    words: list[str | Path], way: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """The program as bash starts it, with its own exit status."""
    line = f'"$0" -c "{ENTRY}" "$@" {way}; exit ${{PIPESTATUS[0]}}'
    return subprocess.run(
        ["bash", "-c", line, sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


def measured(made: Imported) -> list[Path]:
    return sorted(made.run.path.glob("slides/*/nuclei.parquet"))


@pytest.mark.parametrize(
    ("way", "unbuffered"), [*((way, "") for way in WAYS), ("read to the first line", "1")]
)
def test_work_goes_on_when_its_lines_are_lost(
    imported: Imported, way: str, unbuffered: str
) -> None:
    for path in (before := measured(imported)):
        path.unlink()
    done = shell(["featurize", imported.run.path], WAYS[way], PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 0, done.stderr
    assert measured(imported) == before
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_a_problem_keeps_its_status_when_its_sentence_is_lost(way: str, tmp_path: Path) -> None:
    done = shell(["rank", tmp_path / "nope"], WAYS[way])
    assert done.returncode == 2
    assert shell(["--help"], WAYS[way]).returncode == 0
    assert "Exception" not in done.stderr


def test_an_export_is_whole_though_its_list_is_cut_off(imported: Imported, tmp_path: Path) -> None:
    words = ["export", imported.run.path, "--to", "csv", "--out"]
    whole = shell([*words, tmp_path / "whole"])
    assert whole.returncode == 0, whole.stderr
    for number, way in enumerate(("| head -n 1", f">{FULL}")):
        out = tmp_path / str(number)
        done = shell([*words, out], way)
        assert done.returncode == 0, done.stderr
        assert {p.relative_to(out) for p in out.rglob("*")} == {
            p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*")
        }
    assert done.stderr.startswith("morphomil: standard output can't be written (No space left")


PIPE = """
from morphomil.cli import app
@app.app.command()
def meet():
    raise {error}
app.start()
"""


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        ("BrokenPipeError(32, 'Broken pipe')", 2, "[Errno 32] Broken pipe; what is finished"),
        (
            "NotADirectoryError(20, 'Not a directory', 'a.csv/b')",
            2,
            "[Errno 20] Not a directory: 'a.csv/b'; name another path",
        ),
        ("EOFError('cut short')", 1, "internal error, please report it: EOFError: cut short"),
    ],
)
def test_errors_of_the_system_are_told_with_what_helps(error: str, status: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PIPE.format(error=error), "meet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status
    assert done.stderr.startswith(f"morphomil: {said}")


@pytest.mark.parametrize("text", ["abc", "9" * 5000])
@pytest.mark.parametrize("name", ["SOURCE_DATE_EPOCH", "MORPHOMIL_CORES"])
def test_variables_that_are_no_numbers_are_not_used(
    imported: Imported, name: str, text: str
) -> None:
    done = shell(["featurize", imported.run.path], **{name: text})
    assert done.returncode == 0, done.stderr
