"""morphomil: which nuclear morphology goes with an outcome, and how sure are we.

`load_run` opens a run directory for exploration; the stages are in `morphomil.pipeline`;
`morphomil.segment`, `nuclei`, `matrix` and `rank` also serve alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from morphomil.notebook import LoadedRun

__all__ = ["load_run"]


def __getattr__(name: str) -> str:
    """`__version__`, looked up when it is asked for: nothing is loaded before it is needed."""
    if name != "__version__":
        raise AttributeError(f"module 'morphomil' has no attribute {name!r}")
    from importlib.metadata import version

    return version("morphomil")


def load_run(path: str | Path) -> LoadedRun:
    """A run directory for exploration: tables as DataFrames, pixels as arrays, nuclei drawn
    (`explore.LoadedRun`).

    Raises:
        InputError: there is no run directory at `path`.
    """
    from morphomil.notebook import load_run as load

    return load(path)
