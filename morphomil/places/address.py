"""Addresses of files elsewhere: what one may be, and how it is told without secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from morphomil import store
from morphomil.errors import InputError, name_problem

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKAGES = {"https": "aiohttp", "http": "aiohttp", "s3": "s3fs", "gs": "gcsfs"}
"""Files may lie behind these schemes, each reached with this package."""
MANY_FILES = (".mrxs", ".vms", ".vmu", ".dcm")
"""A slide whose name ends so has further files beside it."""
_LIKE_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NUMBERED = re.compile(r"(.*)#([0-9]{1,4})")


@dataclass(frozen=True)
class Address:
    """A file elsewhere, `scheme://host/path`; `#2` at its end means its second image.

    There is no user, password or query in it, so it can be stored and told.

    Raises:
        InputError: there is, or it is no address of a file that can be copied alone.
    """

    text: str

    def __post_init__(self) -> None:
        if problem := _problem(self.text):
            raise InputError(f"{without_secrets(self.text)} {problem}")

    def __str__(self) -> str:
        return self.text

    @property
    def scheme(self) -> str:
        """How it is reached: https, s3 and so on."""
        return self.text.partition("://")[0]

    @property
    def name(self) -> str:
        """Its last part."""
        return PurePosixPath(self.text).name

    @property
    def stem(self) -> str:
        """Its last part without the ending."""
        return PurePosixPath(self.text).stem

    @property
    def file(self) -> Address:
        """Its file, without the number of an image."""
        found = _NUMBERED.fullmatch(self.text)
        return Address(found[1]) if found else self

    @property
    def number(self) -> int | None:
        """Which image of the file is meant, counted from 1; None: it names none."""
        found = _NUMBERED.fullmatch(self.text)
        return int(found[2]) if found else None


Place = Path | Address


def is_address(text: str) -> bool:
    """Whether a text names a file elsewhere, be it well or not."""
    return _LIKE_ADDRESS.match(text) is not None


def is_dicom(path: Path) -> bool:
    """Whether a path is a file of a DICOM slide, which may have others beside it."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def check_names(paths: Iterable[Path]) -> None:
    """Refuse files whose names can't be written down.

    Raises:
        InputError: there are any.
    """
    if problems := [problem for path in paths if (problem := name_problem(path))]:
        raise InputError(problems)


def read_place(text: str, folder: Path | None = None) -> Place:
    """The place that a text names; a path counts from the folder, and becomes absolute.

    Raises:
        InputError: it is an address that can't be used.
    """
    if is_address(text):
        return Address(text)
    return Path(text) if folder is None else (folder / text).absolute()


def split_image_number(place: Place) -> tuple[Place, int | None]:
    """The file of `slide.ome.tif#2`, and which of its images is meant, counted from 1; None: the
    place names no image."""
    if isinstance(place, Path):
        return store.split_image_number(place)
    return place.file, place.number


def without_secrets(text: str) -> str:
    """A text whose addresses have no user, password or query any more."""
    text = re.sub(r"://\S*@", "://", text)
    return re.sub(r"(://[^\s?]*)\?[^\s'\")>,]*", r"\1", text)


def _problem(text: str) -> str:
    """What keeps an address from being used; "" if nothing does."""
    scheme = text.partition("://")[0]
    if scheme not in PACKAGES:
        known = ", ".join(f"{name}://" for name in PACKAGES)
        return f"begins with {scheme}://, which is none of {known}"
    try:
        parts = urlsplit(text)
        _ = parts.port if scheme.startswith("http") else None
    except ValueError:
        return "is no usable address: what stands before the first / is no host"
    named_key = not scheme.startswith("http") and re.match(r"(?!arn:)[^/]*:", parts.netloc)
    if "@" in parts.netloc or named_key:
        return (
            "has a user or a password in it, which would be stored with the run; take it out, and "
            "give it as the guide says under Slides elsewhere"
        )
    if parts.query or "?" in text:
        return (
            "has a query (from its ? on), which may be a signature and would be stored with the "
            "run; give the address without it, and credentials as the guide says under Slides "
            "elsewhere"
        )
    if "#" in text and not _NUMBERED.fullmatch(text):
        return "has a # that isn't followed by the number of an image"
    if not parts.netloc or parts.path.endswith("/") or not parts.path.strip("/"):
        return "names no file (a folder can't be copied; a slide elsewhere is one file)"
    if parts.path.casefold().endswith(MANY_FILES):
        ending = PurePosixPath(parts.path).suffix
        return (
            f"is one of several files ({ending}), and only single files are copied from elsewhere; "
            "bring all of them to a disk, or convert the slide to a TIFF"
        )
    return ""
