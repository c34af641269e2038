"""What tells a file from itself changed, wherever it lies."""

from __future__ import annotations

from pathlib import Path

from morphomil import store
from morphomil.errors import MorphomilError
from morphomil.places.address import Place, split_image_number
from morphomil.places.remote import look, read_fingerprint


def fingerprint(place: Place) -> str:
    """Size, first and last MiB of a file (`store.fingerprint`): the same for copies of it in
    several places.

    Of a file behind a server that gives no parts of files, size, first MiB and version.

    Raises:
        SlideError: a file elsewhere can't be reached.
    """
    if isinstance(place, Path):
        return store.fingerprint(place)
    known = read_fingerprint(place.file)
    return known if place.number is None else f"{known}#{place.number}"


def identity(place: Place) -> str:
    """`fingerprint`, and when the file was modified, or which version of it lies elsewhere (ETag,
    else the time).

    Raises:
        SlideError: a file elsewhere can't be reached.
    """
    if isinstance(place, Path):
        return store.identity(place)
    return f"{fingerprint(place)} {look(place.file).version}"


def stamp(place: Place) -> tuple[int | str, int] | None:
    """Version and size of a file, told without reading it; None where there is none, or it can't be
    reached."""
    if isinstance(place, Path):
        return (place.stat().st_mtime_ns, place.stat().st_size) if place.is_file() else None
    try:
        known = look(place.file)
    except MorphomilError:
        return None
    return known.version, known.size


def size_of(place: Place) -> int:
    """Bytes of a file, or of a folder's files; 0 where there is none, or none can be reached."""
    place, _ = split_image_number(place)
    if isinstance(place, Path):
        files = place.iterdir() if place.is_dir() else [place]
        return sum(file.stat().st_size for file in files if file.is_file())
    try:
        return look(place).size
    except MorphomilError:
        return 0
