"""A signal at any moment of the start, and locales that can't write names (faults 42 and 69)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from morphomil.cli import app
from morphomil.cohort.manifest import read_manifest
from morphomil.cohort.matching import find_slides
from morphomil.errors import ExitStatus, InputError

ENTRY = "from morphomil.cli.main import run; run()"
SLOW = """
import sys, time
class Slow:
    '''The first module of the commands takes long to load, and would make another error of one.'''
    def find_spec(self, name, path=None, target=None):
        if name == "morphomil.cli.app":
            print("loading", flush=True)
            try:
                time.sleep(60)
            except BaseException as error:
                raise ImportError("half loaded") from error
sys.meta_path.insert(0, Slow())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_modules_load_ends_with_130(number: int, tmp_path: Path) -> None:
    words = [sys.executable, "-c", SLOW + ENTRY, "phantom", "--out", str(tmp_path / "out")]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "loading\n"
        child.send_signal(number)
        _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert said == "morphomil: interrupted; the same command goes on where it stopped\n"
    assert not (tmp_path / "out").exists()


SWALLOWED = """
import os, signal
from morphomil.cli import app, interruption
interruption.listen()
@app.app.command()
def swallow():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException:
        {then}
app.start()
"""


@pytest.mark.parametrize(
    "then", ["pass", "raise ImportError('half loaded')", "raise SystemExit(3)"]
)
def test_a_signal_that_a_library_swallows_still_ends_with_130(then: str) -> None:
    code = SWALLOWED.format(then=then)
    done = subprocess.run(
        [sys.executable, "-c", code, "swallow"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.startswith("morphomil: interrupted;")


def test_signals_at_many_moments(tmp_path: Path) -> None:
    """Real signals to the real program, spread over its start and its work."""
    words = [
        sys.executable,
        "-c",
        ENTRY,
        "phantom",
        "--out",
        str(tmp_path / "out"),
        "--slides",
        "2",
    ]
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", "import morphomil.cli.app"], check=True)
    loading = time.monotonic() - begun
    for share in (0.5, 0.8, 1.2):
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as child:
            time.sleep(share * loading)
            child.send_signal(signal.SIGTERM)
            _, said = child.communicate(timeout=120)
        assert child.returncode == 130, said
        assert said.endswith("interrupted; the same command goes on where it stopped\n")


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "POSIX"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0"},
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=lambda value: " ".join(f"{name}={text}" for name, text in value.items()),
)
def test_names_with_accents_in_any_locale(locale: dict[str, str], tmp_path: Path) -> None:
    """An id with an accent and one that no encoding of a terminal holds."""
    manifest = tmp_path / "é.csv"
    manifest.write_text("slide,patient,label\nféminin\uff1e2.tif,é,0\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", ENTRY, "segment", str(manifest), "--out", str(tmp_path / "ü")],
        capture_output=True,
        env={**os.environ, **locale},
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert b"UnicodeEncodeError" not in done.stderr
    assert b"minin" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["import-nuclei", "c.csv", "--out", "{old}/run"],
        ["segment", "{old}/c.csv", "--out", "run"],
        ["init", "project", "--slides", "{old}", "--outcomes", "o.csv"],
        ["export", "run", "--to", "spatialdata", "--slide", "s", "--out={old}/q"],
    ],
    ids=lambda words: words[0],
)
def test_a_path_that_is_no_utf8_is_told_before_any_work(words: list[str], tmp_path: Path) -> None:
    """As disks of old systems have them: a byte of Latin-1."""
    done = subprocess.run(
        [
            os.fsencode(sys.executable),
            b"-c",
            os.fsencode(ENTRY),
            *(os.fsencode(word).replace(b"{old}", b"f\xfcr") for word in words),
        ],
        capture_output=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.endswith(b"its name isn't UTF-8; rename it\n")
    assert done.stderr.count(b"\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_or_file_that_is_no_utf8_is_told_where_it_is_found(tmp_path: Path) -> None:
    old = tmp_path / "f\udcfcr"
    try:
        old.mkdir()
    except OSError:
        pytest.skip("this disk has no such names")
    (old / "a.svs").write_bytes(b"x")
    (old / "c.csv").write_text("slide,patient,label\na.svs,p,0\n")
    for read in (
        lambda: read_manifest(old / "c.csv"),
        lambda: find_slides(tmp_path),
        lambda: fail_with_a_name(old),
    ):
        with pytest.raises(InputError, match=r"f\\udcfcr.*: its name isn't UTF-8; rename it"):
            read()


def fail_with_a_name(path: Path) -> None:
    """As a command ends that meets the name later than where paths come in."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        said, status = app._describe(error)
        assert status == ExitStatus.BAD_INPUT
        raise InputError(said) from error
