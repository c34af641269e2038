"""Every write of a run goes through here: to a temporary file, flushed to disk, renamed; and the run's readers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from morphomil.types import NUCLEI, PATCHES, BusyError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from morphomil.types import Cohort

SCHEMA_VERSION = 1
"""Of a run directory; results written under another version are made anew."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what the block wrote there is flushed and renamed to `path` when it succeeds.

    Works for files and for folders (Zarr). After an error or a kill the old content of `path` is intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _remove(partial)
    try:
        yield partial
        for file in sorted(partial.rglob("*")) if partial.is_dir() else [partial]:
            if file.is_file():
                _flush(file)
        if partial.is_dir():
            _remove(path)
        partial.replace(path)
        _flush(path.parent)
    finally:
        _remove(partial)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, keys in the given order, NaN refused."""
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def write_table_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV for people and spreadsheets; text that a spreadsheet would run as a formula is escaped."""
    safe = table.copy()
    for name in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[name]):
            safe[name] = safe[name].map(_escape_formula)
    with atomic_path(path) as partial:
        safe.to_csv(partial, index=False)


def _escape_formula(value: Any) -> Any:
    """OWASP ASVS 1.2.10: a cell that starts like a formula is prefixed with an apostrophe; numbers are left alone."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\0")) else value


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file."""
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table; the same table gives the same bytes."""
    with atomic_path(path) as partial:
        table.to_parquet(partial, index=False, compression="zstd")


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, or of a folder's names and bytes."""
    total = hashlib.sha256()
    for file in sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]:
        total.update(file.relative_to(path.parent).as_posix().encode())
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def fingerprint(path: Path) -> str:
    """What tells a changed input from an unchanged one: size, first and last MiB (slides are too large to hash)."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(2**20)
        stream.seek(max(size - 2**20, 0))
        return hashlib.sha256(b"%d" % size + head + stream.read()).hexdigest()


def key_of(*parts: Any) -> str:
    """A short name of everything that a result depends on."""
    return hashlib.sha256(json.dumps([SCHEMA_VERSION, *parts], sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Run:
    """A run directory: where each result lies, whether it is still valid, and its readers."""

    path: Path

    @classmethod
    def create(cls, path: Path, cohort: Cohort) -> Run:
        """The run directory of a cohort, made or reused; a changed manifest replaces the stored one.

        Raises:
            InputError: the folder can't be written, or holds something else.
        """
        from morphomil.cohort import cohort_table

        run = cls(path)
        if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not run._is_run())):
            raise InputError(f"{path} exists and is no run directory; name a new or empty folder with --out")
        try:
            write_parquet(path / "cohort.parquet", cohort_table(cohort))
        except OSError as error:
            raise InputError(f"run directory {path} can't be written: {error}") from error
        return run

    @classmethod
    def open(cls, path: Path) -> Run:
        """An existing run directory.

        Raises:
            InputError: there is none at `path`.
        """
        run = cls(path)
        if not run._is_run():
            raise InputError(f"{path} is no run directory; make one with: morphomil segment COHORT --out {path}")
        return run

    def _is_run(self) -> bool:
        return (self.path / "cohort.parquet").is_file() or (self.path / ".lock").is_file()

    @cached_property
    def cohort(self) -> Cohort:
        """The cohort as the last `segment` read it."""
        from morphomil.cohort import cohort_from_table

        return cohort_from_table(pd.read_parquet(self.path / "cohort.parquet"))

    @contextmanager
    def lock(self, name: str = "") -> Iterator[None]:
        """The right to write; held by one process at a time (by one per `name` with shards).

        Raises:
            BusyError: another process holds it.
        """
        from filelock import FileLock, Timeout

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path / f".lock{name}", timeout=0):
                yield
        except Timeout:
            raise BusyError(f"another morphomil process works in {self.path}; wait for it or name another --out") from None
        except PermissionError as error:
            raise InputError(f"run directory {self.path} can't be written: {error}") from error

    def slide_folder(self, slide_id: str) -> Path:
        """Where a slide's results lie."""
        from morphomil.cohort import safe_name

        return self.path / "slides" / safe_name(slide_id)

    def status(self, slide_id: str) -> dict[str, Any]:
        """What each stage left for a slide: its key, its outputs' digests and its figures, or its error."""
        try:
            status = json.loads((self.slide_folder(slide_id) / "status.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    def is_done(self, slide_id: str, stage: str, key: str) -> bool:
        """Whether a stage's outputs are there, of this key, and unharmed."""
        entry = self.status(slide_id).get(stage, {})
        if entry.get("key") != key or "error" in entry:
            return False
        folder = self.slide_folder(slide_id)
        return all((folder / name).exists() and digest(folder / name) == sha for name, sha in entry["outputs"].items())

    def mark_done(self, slide_id: str, stage: str, key: str, *, outputs: Sequence[str], figures: dict[str, Any]) -> None:
        """State that a stage's outputs are complete; the last write of a slide's stage."""
        folder = self.slide_folder(slide_id)
        entry = {"key": key, "outputs": {name: digest(folder / name) for name in outputs}, "figures": figures}
        write_json(folder / "status.json", self.status(slide_id) | {stage: entry})

    def mark_failed(self, slide_id: str, stage: str, key: str, cause: str) -> None:
        """State why a stage has no result for a slide."""
        status = self.status(slide_id) | {stage: {"key": key, "error": cause}}
        write_json(self.slide_folder(slide_id) / "status.json", status)

    def figures(self, stage: str) -> pd.DataFrame:
        """One row per slide of the cohort: `slide_id`, `state` (done, failed, missing), `cause` and a stage's figures."""
        rows = []
        for slide in self.cohort.slides:
            entry = self.status(slide.slide_id).get(stage, {})
            state = "failed" if "error" in entry else "done" if entry else "missing"
            row = {"slide_id": slide.slide_id, "patient": slide.patient, "label": slide.label, "state": state}
            rows.append(row | {"cause": entry.get("error", "")} | entry.get("figures", {}))
        return pd.DataFrame(rows)

    def done(self, stage: str) -> list[str]:
        """The slides that a stage has results for, in the cohort's order."""
        table = self.figures(stage)
        return table.loc[table["state"] == "done", "slide_id"].tolist()

    def patches(self, slide_id: str) -> pd.DataFrame:
        """A slide's patches (schema `PATCHES`)."""
        return PATCHES.check(pd.read_parquet(self.slide_folder(slide_id) / "patches.parquet"))

    def nuclei(self, slide_id: str) -> pd.DataFrame:
        """A slide's nuclei (schema `NUCLEI`)."""
        return NUCLEI.check(pd.read_parquet(self.slide_folder(slide_id) / "nuclei.parquet"))

    def masks(self, slide_id: str) -> Any:
        """A slide's masks: Zarr group with `labels` and `tissue` per region and each region's frame as attributes."""
        import zarr

        return zarr.open_group(self.slide_folder(slide_id) / "masks.zarr", mode="r")

    def record(self, command: str, settings: dict[str, Any], *, seconds: float) -> None:
        """Add a finished command to run.json: settings, versions, duration."""
        with self.lock(".record"):
            path = self.path / "run.json"
            log = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"schema": SCHEMA_VERSION}
            entry = {
                "command": command,
                "settings": settings,
                "versions": versions(),
                "seconds": round(seconds, 1),
                "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            }
            write_json(path, log | {"commands": [*log.get("commands", []), entry]})


def versions() -> dict[str, str]:
    """Versions of what the results depend on, and the processor."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("morphomil", "numpy", "pandas", "scipy", "scikit-image", "stardist", "tensorflow-cpu", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
