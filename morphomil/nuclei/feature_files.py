"""Features of the user's own, from a Python file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from morphomil.errors import InputError
from morphomil.nuclei.registry import FEATURES
from morphomil.plugins import PythonFile, load_python

if TYPE_CHECKING:
    from pathlib import Path


def load_features(path: Path) -> PythonFile:
    """Run a Python file whose decorated functions are features; they are registered after those
    that are there.

    A file that is registered already is left as it is; one that has changed since replaces its
    features.

    Raises:
        InputError: the file can't be used, or adds no feature; the registry is then as before.
    """
    before = dict(FEATURES)
    for name, entry in before.items():
        if entry.source is not None and entry.source.path == path:
            del FEATURES[name]
    without = set(FEATURES)
    try:
        _, file = load_python(path, kind="features")
        added = [name for name in FEATURES if name not in without]
        if not added:
            raise InputError(
                f"features file {path} adds no feature; decorate a function with "
                "morphomil.nuclei.feature"
            )
    except InputError:
        FEATURES.clear()
        FEATURES.update(before)
        raise
    for name in added:
        FEATURES[name] = replace(FEATURES[name], source=file)
    return file


def feature_files() -> tuple[PythonFile, ...]:
    """The files that registered features come from, in the order of their features."""
    sources = (entry.source for entry in FEATURES.values() if entry.source is not None)
    return tuple(dict.fromkeys(sources))
