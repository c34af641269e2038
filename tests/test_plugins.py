"""Python files of the user: what is run, and what a bad one says."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from morphomil.errors import InputError
from morphomil.plugins import load_python


def test_a_file_is_run_and_known_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def twice(x):\n    return 2 * x\n", encoding="utf-8")
    module, file = load_python(path, kind="features")
    assert module.twice(3) == 6
    assert (module.__name__, module.__file__) == ("mine", str(path))
    assert file.path == path
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.py", "1 / 0", "features file .*a.py can't be used: ZeroDivisionError: division by"),
        ("a.py", "def (", "features file .*a.py can't be used: SyntaxError: "),
        ("a.py", "import sys\nsys.exit(0)", "can't be used: SystemExit: 0"),
        ("a.py", "raise ValueError('no such unit')", "a.py can't be used: no such unit"),
        ("a.txt", "x = 1", "features file .*a.txt is no Python file"),
        ("a.py", None, "features file .*a.py doesn't exist"),
    ],
)
def test_a_bad_file_is_one_sentence(
    name: str, text: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_python(path, kind="features")


def test_a_folder_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder; name the features file \(.py\) in it"):
        load_python(tmp_path, kind="features")
