"""The log of a run: which commands ran, with which settings and versions."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from morphomil.run.ledger import SCHEMA_VERSION
from morphomil.store import read_json, reading, write_json

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = (
    "morphomil",
    "numpy",
    "pandas",
    "scipy",
    "scikit-image",
    "scikit-learn",
    "statsmodels",
    "stardist",
    "openvino",
    "tensorflow-cpu",
    "torch",
    "openslide-python",
    "matplotlib",
)
"""The results depend on these packages, as far as they are installed."""
ENTRY: dict[str, type | tuple[type, ...]] = {
    "command": str,
    "settings": dict,
    "versions": dict,
    "seconds": (int, float),
    "finished": str,
}
"""An entry of the log has these, of these types."""
_MEND = (
    "bring back a copy, or remove it and run the same commands again, which keep what is done and "
    "write it anew"
)


@dataclass(frozen=True)
class CommandLog:
    """The log of commands, `run.json`."""

    path: Path

    def entries(self) -> list[dict[str, Any]]:
        """Every finished command, oldest first: `command`, `settings`, `versions`, `seconds`,
        `finished`.

        Raises:
            DamagedError: the log can't be read.
        """
        return list(self._read().get("commands", []))

    def latest(self) -> dict[str, dict[str, Any]]:
        """The last entry for each command."""
        return {entry["command"]: entry for entry in self.entries()}

    def newest(self, *commands: str) -> dict[str, Any]:
        """The last entry of any of these commands, of all where none is named; empty where there
        is none. The order of the log says which is last: clocks are set back."""
        entries = [e for e in self.entries() if not commands or e["command"] in commands]
        return entries[-1] if entries else {}

    def add(self, command: str, settings: dict[str, Any], *, seconds: float) -> None:
        """Add a command that has just finished."""
        entry = {
            "command": command,
            "settings": settings,
            "versions": versions(),
            "seconds": round(seconds, 1),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        content = self._read() | {"commands": [*self.entries(), entry]}
        write_json(self.path, content, seal=True)

    def _read(self) -> dict[str, Any]:
        if not os.path.lexists(self.path):
            return {"schema": SCHEMA_VERSION}
        with reading(self.path, mend=_MEND):
            stored = read_json(self.path, mend=_MEND)
            for entry in stored.get("commands", []):
                for name, kind in ENTRY.items():
                    if not isinstance(entry.get(name), kind):
                        raise ValueError(f"an entry lacks its {name}")
            return dict(stored)


def versions() -> dict[str, str]:
    """Versions of what the results depend on, and the processor."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    installed = {"python": platform.python_version(), "machine": platform.machine()}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed
