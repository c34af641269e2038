"""The ledger: what is done for each slide, with which key, and whether it is unharmed."""

from __future__ import annotations

import errno
import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from morphomil.errors import DamagedError
from morphomil.store import MAKE_AGAIN, digest, read_json, reading, safe_name, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from morphomil.types import Slide

State = Literal["done", "empty", "failed", "missing"]
"""What became of a slide in a stage; missing: it wasn't tried."""
SCHEMA_VERSION = 1
"""A run directory's formats have this version; results written under another are made anew."""
_NO_FILE = (errno.EISDIR, errno.ENOTDIR, errno.ELOOP)
"""Errors of reading what is no file, which no disk mends."""


def key_of(*parts: Any) -> str:
    """A short name of everything that a result depends on."""
    return hashlib.sha256(
        json.dumps([SCHEMA_VERSION, *parts], sort_keys=True).encode()
    ).hexdigest()[:32]


@dataclass(frozen=True)
class Ledger:
    """What stages have done for each slide: one entry per stage, stored beside its outputs.

    An entry holds the stage's key with either its outputs' digests and its figures, or its error.
    A result without anything in it (no region, no patch, no nucleus) has `empty` besides, the
    reason; it is kept like any other, but no later stage works with it.
    """

    folder: Path
    """The entries and the outputs of all slides lie below this folder."""
    file: str
    """A slide's entries lie in this file below the folder, `{slide}` being the slide's safe name;
    the names of its outputs start from the file's own folder."""
    stages: tuple[str, ...]
    """The stages, in order; the file of a ledger with a single stage is that stage's entry."""

    def entries_path(self, slide_id: str) -> Path:
        """The file with a slide's entries."""
        return self.folder / self.file.format(slide=safe_name(slide_id))

    def outputs_folder(self, slide_id: str) -> Path:
        """The folder that the names of a slide's outputs start from."""
        return self.entries_path(slide_id).parent

    def status(self, slide_id: str) -> dict[str, dict[str, Any]]:
        """A slide's entries by stage; none where there is no file.

        A stage whose entry is damaged, or no file, has failed: it is made anew when it runs again.

        Raises:
            DamagedError: the file can't be read for now, or is a link that leads nowhere; entries
                made from that would replace it.
        """
        path = self.entries_path(slide_id)
        try:
            stored = read_json(path)
        except DamagedError as error:
            number = getattr(error.__cause__, "errno", None)
            if number == errno.ENOENT and not path.is_symlink():
                return {}
            if number not in (None, *_NO_FILE):
                raise  # the disk fails, not the entry: what it says may be whole
            return {self.stages[0]: {"key": "", "error": str(error)}}
        status = stored if len(self.stages) > 1 else {self.stages[0]: stored}
        if not isinstance(status, dict):
            status = {self.stages[0]: None}
        damaged = f"{path} is damaged (no entry of a stage); {MAKE_AGAIN}"
        return {
            stage: entry if _is_entry(entry) else {"key": "", "error": damaged}
            for stage, entry in status.items()
            if stage in self.stages
        }

    def is_done(self, slide_id: str, stage: str, key: str) -> bool:
        """Whether a stage's outputs, empty ones too, are there, of this key, and unharmed."""
        entry = self.status(slide_id).get(stage, {})
        if entry.get("key") != key or "error" in entry:
            return False
        folder = self.outputs_folder(slide_id)
        return all(_is_whole(folder / name, sha) for name, sha in entry["outputs"].items())

    def output(self, slide_id: str, stage: str, name: str, *, mend: str = MAKE_AGAIN) -> Path:
        """Where an output of a stage lies, looked at once in a process.

        Args:
            slide_id: the slide.
            stage: it wrote the output.
            name: of the output, as the entry has it.
            mend: how it is made again; the end of the sentence.

        Raises:
            DamagedError: it is missing, or isn't what the stage wrote.
        """
        path = self.outputs_folder(slide_id) / name
        stated = self.status(slide_id).get(stage, {}).get("outputs", {}).get(name)
        with reading(path, mend=mend):
            stamp = _stamp(path)
            if stated is not None and not _is_unharmed(path, stamp, stated):
                raise ValueError("its content isn't what was written")
        return path

    def mark_done(
        self,
        slide_id: str,
        stage: str,
        key: str,
        *,
        outputs: Sequence[str],
        figures: dict[str, Any],
        empty: str = "",
    ) -> None:
        """State that a stage's outputs are complete; the last write of a slide's stage.

        `empty` says why there is nothing in them, where that is so.
        """
        folder = self.outputs_folder(slide_id)
        digests = {name: digest(folder / name) for name in outputs}
        entry = {"key": key, "outputs": digests, "figures": figures}
        self._write(slide_id, stage, entry | ({"empty": empty} if empty else {}))

    def mark_failed(self, slide_id: str, stage: str, key: str, cause: str) -> None:
        """State why a stage has no result for a slide."""
        self._write(slide_id, stage, {"key": key, "error": cause})

    def _write(self, slide_id: str, stage: str, entry: dict[str, Any]) -> None:
        """Replace a stage's entry; what later stages made of its old results is forgotten."""
        earlier = self.stages[: self.stages.index(stage)]
        status = self.status(slide_id)
        kept = {name: status[name] for name in earlier if name in status}
        content = kept | {stage: entry} if len(self.stages) > 1 else entry
        write_json(self.entries_path(slide_id), content, seal=True)

    def done(self, slides: Iterable[Slide], stage: str) -> list[str]:
        """Which of the slides a stage has results for, in their order; none of the empty ones."""
        return [slide.slide_id for slide in slides if self.state(slide.slide_id, stage) == "done"]

    def state(self, slide_id: str, stage: str) -> State:
        """What became of a slide in a stage."""
        return _state(self.status(slide_id).get(stage, {}))

    def cause(self, slide_id: str, stage: str) -> str:
        """Why a stage has no result for a slide, or an empty one, be it for an earlier stage's
        sake; "" where it has one or wasn't tried."""
        status = self.status(slide_id)
        entries = [status.get(name, {}) for name in self.stages[: self.stages.index(stage) + 1]]
        return next((_cause(entry) for entry in entries if _cause(entry)), "")

    def outputs(self, slide_id: str, stage: str) -> dict[str, str]:
        """The digests of a stage's outputs for a slide that it is done for, by name."""
        return dict(self.status(slide_id)[stage]["outputs"])

    def outputs_key(self, slides: Iterable[Slide], stage: str) -> str:
        """Changes with every slide that a stage does anew, adds or loses."""
        return key_of([[name, self.outputs(name, stage)] for name in self.done(slides, stage)])

    def figures(self, slides: Iterable[Slide], stage: str) -> pd.DataFrame:
        """One row per slide: `slide_id`, `patient`, `label`, `state` (done, empty, failed,
        missing), `cause`, a stage's figures."""
        rows = []
        for slide in slides:
            entry = self.status(slide.slide_id).get(stage, {})
            row = {
                "slide_id": slide.slide_id,
                "patient": slide.patient,
                "label": slide.label,
                "state": _state(entry),
                "cause": _cause(entry),
            }
            rows.append(row | entry.get("figures", {}))
        return pd.DataFrame(rows)


def _is_whole(path: Path, sha256: str) -> bool:
    try:
        return digest(path) == sha256
    except OSError:
        return False


def _stamp(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Size and time of a file, or of all files of a folder."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(file.name, file.stat()) for file in files]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


@lru_cache(maxsize=1024)
def _is_unharmed(path: Path, stamp: tuple[tuple[str, int, int], ...], sha256: str) -> bool:
    return digest(path) == sha256


def _is_entry(entry: Any) -> bool:
    """Whether it is what `mark_done` or `mark_failed` wrote."""
    if not isinstance(entry, dict) or not isinstance(entry.get("key"), str):
        return False
    if "error" in entry:
        return True
    outputs, figures = entry.get("outputs"), entry.get("figures")
    if not isinstance(outputs, dict) or not isinstance(figures, dict):
        return False
    return all(isinstance(sha, str) for sha in outputs.values())


def _state(entry: dict[str, Any]) -> State:
    if "error" in entry:
        return "failed"
    if "empty" in entry:
        return "empty"
    return "done" if entry else "missing"


def _cause(entry: dict[str, Any]) -> str:
    return str(entry.get("error", entry.get("empty", "")))
