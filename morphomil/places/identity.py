"""What tells a file from itself changed, wherever it lies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from morphomil import store
from morphomil.errors import MorphomilError
from morphomil.places.address import Address, Place, split_image_number
from morphomil.places.remote import Known, look, look_at_all, read_fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable


def fingerprint(place: Place) -> str:
    """Size, first and last MiB of a file (`store.fingerprint`): the same for copies of it in
    several places.

    Of a file behind a server that gives no parts of files, size, first MiB and version.

    Raises:
        SlideError: a file elsewhere can't be reached.
    """
    if isinstance(place, Path):
        return store.fingerprint(place)
    return _fingerprint(place)[0]


def identity(place: Place) -> str:
    """`fingerprint`, and when the file was modified, or which version of it lies elsewhere (ETag,
    else the time).

    Raises:
        SlideError: a file elsewhere can't be reached.
    """
    if isinstance(place, Path):
        return store.identity(place)
    told, known = _fingerprint(place)
    return f"{told} {known.version}"


def _fingerprint(address: Address) -> tuple[str, Known]:
    told, known = read_fingerprint(address.file)
    return (told if address.number is None else f"{told}#{address.number}"), known


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


def sizes_of(places: Iterable[Place]) -> dict[Place, int]:
    """Bytes of files, or of folders' files; 0 where there is none, or it can't be reached."""
    files = {place: split_image_number(place)[0] for place in places}
    elsewhere = look_at_all(file for file in files.values() if isinstance(file, Address))
    sizes = {}
    for place, file in files.items():
        if isinstance(file, Path):
            parts = file.iterdir() if file.is_dir() else [file]
            sizes[place] = sum(part.stat().st_size for part in parts if part.is_file())
        else:
            known = elsewhere[file]
            sizes[place] = known.size if isinstance(known, Known) else 0
    return sizes
