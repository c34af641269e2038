"""Every write goes through here: to a temporary file, flushed to disk, renamed; what is read back
is recognized when it is missing or damaged."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import unicodedata
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.errors import NO_ROOM, DamagedError, InputError, OccupiedError, tells_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what the block wrote there is flushed and renamed to `path`
    when it succeeds.

    Works for files and for folders (Zarr). After an error or a kill the old content of `path` is
    intact, and what is left of the temporary is removed by the next write; a path has one writer at
    a time. Whatever lies at `path` is replaced, but for a folder with something in it where a file
    is written.

    Raises:
        OccupiedError: such a folder lies there, or a file where a folder of the path belongs.
    """
    _make_folder(path.parent)
    partial = path.with_name(f".{path.name}.tmp")
    _remove(partial)
    try:
        yield partial
        for file in sorted(partial.rglob("*")) if partial.is_dir() else [partial]:
            if file.is_file():
                _flush(file)
        if partial.is_dir():
            _remove(path)
        elif path.is_dir() and not path.is_symlink():
            _remove_empty(path)
        partial.replace(path)
        _flush(path.parent)
    except OSError as error:
        if error.filename is None and error.errno in NO_ROOM:  # writing and flushing name no file
            error.filename = str(path)
        raise
    finally:
        _remove(partial)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        above = (folder, *folder.parents)
        file = next((one for one in above if os.path.lexists(one) and not one.is_dir()), folder)
        raise OccupiedError(f"{file} is no folder; {_MOVE_AWAY}") from error


def _remove_empty(folder: Path) -> None:
    """Remove a folder where a file belongs, unless something is in it, which nobody here wrote."""
    try:
        folder.rmdir()
    except OSError as error:
        if not any(folder.iterdir()):
            raise
        raise OccupiedError(
            f"{folder} is a folder with something in it where a file is to be written; {_MOVE_AWAY}"
        ) from error


_MOVE_AWAY = "move it away and run the same command again, which keeps what is done"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


MAKE_AGAIN = "run the command that made it again, which writes it anew"
"""How a result that is missing or damaged is had again."""


@contextmanager
def reading(path: Path, *, mend: str = MAKE_AGAIN) -> Iterator[None]:
    """Whatever a reader raises about the bytes of a stored file becomes one sentence.

    Args:
        path: the file or folder that the block reads.
        mend: how its content is had again; the end of the sentence, if there is such a way.

    Raises:
        DamagedError: it is missing, or damaged.
    """
    end = f"; {mend}" if mend else ""
    try:
        check_kind(path)
        yield
    except InputError:
        raise
    except Exception as error:
        if tells_of_memory(error):
            raise
        if path.is_symlink() and not path.exists():
            raise DamagedError(
                f"{path} is a link that leads nowhere (remove it, or bring back what it leads to)"
                f"{end}"
            ) from error
        if not path.exists() and not isinstance(error, NotADirectoryError):
            raise DamagedError(f"{path} is missing{end}") from error
        if isinstance(error, OSError) and error.errno is not None:
            raise DamagedError(f"{path} can't be read ({os.strerror(error.errno)}){end}") from error
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise DamagedError(f"{path} is damaged ({cause}){end}") from error


def check_kind(path: Path, *, streams: bool = False) -> None:
    """Refuse what is neither a file nor a folder, before a reader waits for it without end.

    With `streams` what a shell gives in place of a file, `<(command)` or `/dev/stdin`, is one.

    Raises:
        OSError: so it is; it has no number, as the system has no fault.
    """
    if streams and path.as_posix().startswith(_STREAMS):
        return
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError("it is a pipe, a socket or a device, no file")


_STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")


def read_json(path: Path, *, mend: str = MAKE_AGAIN) -> Any:
    """What a JSON file holds, without its checksum.

    Raises:
        DamagedError: it is missing, no JSON, or not what its checksum says.
    """
    with reading(path, mend=mend):
        value = json.loads(path.read_text(encoding="utf-8"))
        stated = value.pop(SUM, None) if isinstance(value, dict) else None
        if stated is not None and stated != _sum_json(value):
            raise ValueError("its content isn't what was written")
        return value


_ESCAPES = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[dD][89a-fA-F][0-9a-fA-F]{2}|.)"
)
_LONE_CHARS = len(r"\ud800")


def parse_json(content: str | bytes) -> Any:
    """What the JSON of a user's file or request holds; half a character (`\\ud800` alone) becomes
    U+FFFD, as no file of ours can hold it.

    Raises:
        ValueError: it is no JSON.
    """
    text = content if isinstance(content, str) else content.decode(json.detect_encoding(content))
    if "\\u" in text:
        text = _ESCAPES.sub(lambda m: r"\ufffd" if len(m[0]) == _LONE_CHARS else m[0], text)
    return json.loads(text)


def write_json(path: Path, value: Any, *, seal: bool = False, lines: bool = True) -> None:
    """Write `value` as JSON, keys in the given order, NaN refused; an object that people don't
    change, with a checksum (`seal`); many numbers, which nobody reads, in one line (`lines`)."""
    content = value | {SUM: _sum_json(value)} if seal else value
    text = json.dumps(content, indent=1 if lines else None, allow_nan=False)
    with atomic_path(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


SUM = "sum"
"""The checksum of all else in a JSON object has this name."""


def _sum_json(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_table_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV for people and spreadsheets; text, names of columns too, that a
    spreadsheet would run as a formula is escaped."""
    safe = table.copy()
    for name in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[name]):
            safe[name] = safe[name].map(_escape_formula)
    safe.columns = safe.columns.map(_escape_formula)
    with atomic_path(path) as partial:
        safe.to_csv(partial, index=False)


def _escape_formula(value: Any) -> Any:
    """OWASP ASVS 1.2.10: a cell that starts like a formula is prefixed with an apostrophe; numbers
    are left alone."""
    return (
        f"'{value}"
        if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\0"))
        else value
    )


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file."""
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write named arrays as safetensors, with their checksum."""
    from safetensors.numpy import save

    stored = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    write_bytes(path, save(stored, metadata={"sha256": _sum_arrays(stored)}))


def _sum_arrays(arrays: dict[str, NDArray[Any]]) -> str:
    """SHA-256 of names, types, shapes and values."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        values = arrays[name]
        total.update(f"{name} {values.dtype} {values.shape}\n".encode())
        total.update(np.ascontiguousarray(values).data)
    return total.hexdigest()


def read_arrays(path: Path, *, mend: str = MAKE_AGAIN) -> dict[str, NDArray[Any]]:
    """The named arrays of a safetensors file.

    Raises:
        DamagedError: it is missing, can't be decoded, or isn't what its checksum says.
    """
    from safetensors import safe_open

    with reading(path, mend=mend), safe_open(path, "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        stated = (file.metadata() or {}).get("sha256")
        if stated is not None and _sum_arrays(arrays) != stated:
            raise ValueError("its values aren't those that were written")
        return arrays


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table, sealed with its checksum; the same table gives the same bytes."""
    with atomic_path(path) as partial:
        table.to_parquet(partial, index=False, compression="zstd", write_page_checksum=True)
        content = partial.read_bytes()
        pages, footer = content[: (cut := _footer_at(content[-8:], len(content)))], content[cut:]
        seal = SEAL + hashlib.sha256(pages + footer).digest()
        partial.write_bytes(pages + seal + footer)


SEAL = b"morphomil sha256"
"""Stands between the pages of a Parquet file and its footer, where no reader looks, before the
SHA-256 of all the rest."""


def _footer_at(end: bytes, size: int) -> int:
    """Where the footer of a Parquet file begins, by its last 8 bytes."""
    return size - 8 - int.from_bytes(end[:4], "little")


def _check_seal(path: Path) -> None:
    """Refuse a Parquet file that isn't what was sealed; one without a seal isn't ours, or old.

    Raises:
        ValueError: so it is.
    """
    content = path.read_bytes()
    cut = _footer_at(content[-8:], len(content))
    pages, seal = content[: max(cut - 48, 0)], content[max(cut - 48, 0) : max(cut, 0)]
    if seal.startswith(SEAL):
        total = hashlib.sha256(pages + content[cut:]).digest()
        if seal != SEAL + total:
            raise ValueError("its content isn't what was written")


def read_parquet(path: Path, *, mend: str = MAKE_AGAIN) -> pd.DataFrame:
    """A stored table.

    Raises:
        DamagedError: it is missing, can't be decoded, or isn't what its checksum says.
    """
    with reading(path, mend=mend):
        _check_seal(path)
        return pd.read_parquet(path, page_checksum_verification=True)


def read_csv(path: Path, *, mend: str = MAKE_AGAIN, **options: Any) -> pd.DataFrame:
    """A stored CSV; `options` are those of `pandas.read_csv`.

    Raises:
        DamagedError: it is missing, no table, or not what `INDEX` beside it says.
    """
    with reading(path, mend=mend):
        index = path.with_name(INDEX)
        stated = read_json(index, mend=mend).get("files", {}) if os.path.lexists(index) else {}
        if path.name in stated and digest(path) != stated[path.name]:
            raise ValueError("its content isn't what was written")
        table: pd.DataFrame = pd.read_csv(path, encoding="utf-8", **options)
        return table


INDEX = "about.json"
"""Where a folder has this file, its `files` are the digests of tables that were written with it."""


@contextmanager
def hdf5_file(path: Path, **options: Any) -> Iterator[Any]:
    """An open HDF5 file that is written to `path` when the block succeeds (`write_bytes`).

    It is made in memory: a process in which HDF5 itself failed to write crashes when the file is
    closed.

    Raises:
        OSError: it can't be written.
    """
    import h5py

    with h5py.File(str(path), "w", driver="core", backing_store=False, **options) as file:
        yield file
        file.flush()
        image = file.id.get_file_image()
    write_bytes(path, image)


def harmed_files(folder: Path, names: str = "") -> list[str]:
    """Which files of a `SHA256SUMS` in this folder aren't what it says; `names` is how those begin
    that are looked at.

    Raises:
        DamagedError: there is no `SHA256SUMS`, or it is no such list.
    """
    sums = folder / "SHA256SUMS"
    with reading(sums, mend=""):
        lines = sums.read_text(encoding="utf-8").splitlines()
        listed = {name.strip(): total for total, name in (line.split(maxsplit=1) for line in lines)}
    return [
        name
        for name, total in listed.items()
        if name.startswith(names) and not _has_sum(folder / name, total)
    ]


def _has_sum(path: Path, total: str) -> bool:
    try:
        check_kind(path)
        return hashlib.sha256(path.read_bytes()).hexdigest() == total
    except OSError:
        return False


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, or of a folder's names and bytes.

    Raises:
        OSError: it can't be read, or is neither.
    """
    check_kind(path)
    total = hashlib.sha256()
    for file in sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]:
        total.update(file.relative_to(path.parent).as_posix().encode())
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def split_image_number(path: Path) -> tuple[Path, int | None]:
    """The file of `slide.ome.tif#2`, and which of its images is meant, counted from 1; None: the
    path names no image."""
    name, mark, number = path.name.rpartition("#")
    if not (mark and re.fullmatch(r"[0-9]{1,4}", number)) or path.exists():
        return path, None
    return path.with_name(name), int(number)


def identity(path: Path) -> str:
    """What tells a slide from itself changed: `fingerprint`, and when it was modified; in that
    way what changes between its first and last MiB is noticed too."""
    file, _ = split_image_number(path)
    files = sorted(file.iterdir()) if file.is_dir() else [file]
    return f"{fingerprint(path)} {max((one.stat().st_mtime_ns for one in files), default=0)}"


def fingerprint(path: Path) -> str:
    """What tells a changed input from an unchanged one: size, first and last MiB (slides are too
    large to hash); of a folder, of all its files."""
    path, number = split_image_number(path)
    if number is not None:
        return f"{fingerprint(path)}#{number}"
    check_kind(path)
    if path.is_dir():
        files = [f"{file.name} {fingerprint(file)}" for file in sorted(path.iterdir())]
        return hashlib.sha256("\n".join(files).encode()).hexdigest()
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(END_BYTES)
        stream.seek(max(size - END_BYTES, 0))
        return hash_ends(size, head, stream.read())


END_BYTES = 2**20
"""A file is told by so many bytes at its beginning and at its end."""


def hash_ends(size: int, head: bytes, tail: bytes) -> str:
    """The fingerprint of a file of this size, with these ends."""
    return hashlib.sha256(b"%d" % size + head + tail).hexdigest()


MAX_NAME_BYTES = 100
_RESERVED = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10)),
}


def safe_name(slide_id: str) -> str:
    """The folder name of a slide: its id where that is safe on every system, else what is left of
    it and a hash."""
    kept = re.sub(r"[^\w.+ -]", "_", slide_id).strip(" .")
    if unicodedata.normalize("NFKC", kept).split(".")[0].strip().upper() in _RESERVED:
        kept = f"_{kept}"
    raw = slide_id.encode("utf-8", "surrogatepass")
    if kept == slide_id and kept and len(raw) <= MAX_NAME_BYTES:
        return kept
    mark = hashlib.blake2b(raw, digest_size=4).hexdigest()
    head = kept.encode()[: MAX_NAME_BYTES - len(mark) - 1].decode("utf-8", "ignore").rstrip(" .")
    return f"{head}-{mark}"
