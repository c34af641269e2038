"""Python files of the user: their code runs in this process, and results depend on their bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from morphomil.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class PythonFile:
    """A Python file by its content."""

    path: Path
    sha256: str


def load_python(path: Path, *, kind: str) -> tuple[ModuleType, PythonFile]:
    """Run a Python file; its names, and what was run.

    `kind` says in messages what the file is for, such as "encoder".

    Raises:
        InputError: there is no such file, it is no Python, or it fails.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the {kind} file (.py) in it")
    if not path.is_file():
        raise InputError(f"{kind} file {path} doesn't exist")
    if path.suffix != ".py":
        raise InputError(f"{kind} file {path} is no Python file")
    content = path.read_bytes()
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        cause = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise InputError(f"{kind} file {path} can't be used: {cause}") from error
    return module, PythonFile(path, hashlib.sha256(content).hexdigest())
