"""Files elsewhere through fsspec: what is known of one, its ends, a copy of it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from morphomil.errors import NO_ROOM, InputError, MorphomilError, SlideError
from morphomil.places.address import PACKAGES, Address, without_secrets
from morphomil.store import END_BYTES, hash_ends

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

T = TypeVar("T")
TRIES = 3
"""What fails on the way is tried so often."""
PAUSE_S = 0.5
"""Before the second try; before the third, twice as long."""
CONNECT_S, SILENT_S = 30, 120
"""A web server may take so long to answer, and be silent for so long."""
PART_BYTES, PARTS_AT_ONCE = 2**23, 4
"""S3 gives a file in such parts, so many of which are in memory."""
ASKED_AT_ONCE = 16
"""So many files are asked about side by side."""
_VERSION = ("ETag", "etag", "Last-Modified", "LastModified", "updated", "mtime")


@dataclass(frozen=True)
class Known:
    """What a server says of a file."""

    size: int
    """Bytes."""
    version: str
    """Its ETag, else when it was modified; empty where neither is said."""


class _TransientError(SlideError):
    """What another try may mend."""


def look(address: Address) -> Known:
    """What the server says of a file now.

    Raises:
        SlideError: it doesn't exist, or can't be reached.
        InputError: the package for it isn't installed.
    """

    return _trying(lambda: _ask(address))


def _ask(address: Address) -> Known:
    with _speaking(address):
        info = _filesystem(address).info(address.text)
    if info.get("type") == "directory":
        raise SlideError(f"{address} is a folder; a slide elsewhere is one file")
    if info.get("size") is None:
        raise SlideError(f"{address}: the server doesn't say how large it is")
    version = next((str(info[name]) for name in _VERSION if info.get(name)), "")
    return Known(int(info["size"]), version)


def look_at_all(addresses: Iterable[Address]) -> dict[Address, Known | MorphomilError]:
    """What servers say of many files, or why they don't; once servers can't be reached, no more
    are asked."""
    unreached: list[Address] = []

    def one(address: Address) -> Known | MorphomilError:
        if len(unreached) >= TRIES:
            return SlideError(f"{address} isn't asked for, as {unreached[0]} can't be reached")
        try:
            return look(address)
        except MorphomilError as error:
            if isinstance(error, _TransientError):
                unreached.append(address)
            return error

    asked = list(dict.fromkeys(addresses))
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        return dict(zip(asked, pool.map(one, asked), strict=True))


def read_fingerprint(address: Address) -> tuple[str, Known]:
    """Size, first and last MiB, as of a file on a disk, and what the server says of it; where it
    gives no parts of files, the version stands for the last MiB.

    Raises:
        SlideError: it doesn't exist, or can't be reached.
        InputError: the package for it isn't installed.
    """

    def ask() -> tuple[str, Known]:
        known = _ask(address)
        with _speaking(address):
            options = {"block_size": END_BYTES, "cache_type": "none", "size": known.size}
            with _filesystem(address).open(address.text, "rb", **options) as stream:
                head = stream.read(END_BYTES)
                try:
                    stream.seek(max(known.size - END_BYTES, 0))
                    tail = stream.read(END_BYTES)
                except ValueError:  # the server gives whole files only
                    tail = known.version.encode()
        return hash_ends(known.size, head, tail), known

    return _trying(ask)


def fetch(address: Address, path: Path, known: Known, *, stopped: Callable[[], bool]) -> None:
    """Copy a file to a path; it is whole, and the version that is known, or an error.

    Args:
        address: the file.
        path: where the copy is written.
        known: what the server said of it.
        stopped: is asked now and then whether to give up.

    Raises:
        SlideError: it can't be reached, comes cut, has changed, or the disk is full.
        InterruptedError: the copy was given up.
    """
    from fsspec import Callback

    class Watching(Callback):  # type: ignore[misc, unused-ignore]
        def relative_update(self, inc: int = 1) -> None:
            if stopped():
                raise InterruptedError

    def copy() -> None:
        with _speaking(address):
            _filesystem(address).get_file(address.text, str(path), callback=Watching())
        if (now := _ask(address)) != known:
            raise _TransientError(f"{address} changed while it was copied; run the command again")
        if (size := path.stat().st_size) != now.size:
            raise _TransientError(f"{address} came cut: {size:,} of {now.size:,} bytes")

    _trying(copy)


def _trying(work: Callable[[], T]) -> T:
    for attempt in range(1, TRIES):
        try:
            return work()
        except _TransientError:
            time.sleep(PAUSE_S * 2 ** (attempt - 1))
    return work()


def _filesystem(address: Address) -> Any:
    """The file system of an address; credentials and servers are those of its own settings."""
    from fsspec import filesystem
    from fsspec.config import conf

    options: dict[str, Any] = {"use_listings_cache": False}
    own = conf.get(address.scheme, {})
    if address.scheme == "s3":
        options |= {"default_block_size": PART_BYTES, "max_concurrency": PARTS_AT_ONCE} | own
    elif address.scheme.startswith("http"):
        import aiohttp

        limit = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENT_S)
        web = {"trust_env": True, "timeout": limit} | own.get("client_kwargs", {})
        options |= {"client_kwargs": web}
    return filesystem(address.scheme, **options)


@contextmanager
def _speaking(address: Address) -> Iterator[None]:
    """Whatever a library raises about a file elsewhere becomes one sentence, without secrets.

    Raises:
        SlideError: so it is; `_TransientError` if another try may mend it.
        InputError: the library isn't installed.
    """
    try:
        yield
    except (MorphomilError, InterruptedError):
        raise
    except ImportError as error:
        raise InputError(
            f"{address}: {address.scheme}:// needs the package {PACKAGES[address.scheme]}; install "
            "it with: pip install 'morphomil[remote]'"
        ) from error
    except Exception as error:
        causes = [error, *_causes(error)]
        if any(isinstance(one, OSError) and one.errno in NO_ROOM for one in causes):
            raise SlideError(f"{address} can't be copied: {error}") from error
        status = next(filter(None, map(_status, causes)), None)
        denied = any(isinstance(one, PermissionError) for one in causes)
        if status in (401, 403) or denied or "Credentials" in type(error).__name__:
            raise SlideError(
                f"{address}: access is denied ({_said(error, status)}); give credentials as the "
                "guide says under Slides elsewhere"
            ) from None
        if status in (404, 410) or (status is None and type(causes[-1]) is FileNotFoundError):
            raise SlideError(f"{address} doesn't exist") from None
        said = _said(causes[-1], status)
        raise _TransientError(f"{address} can't be reached: {said}; try again later") from None


def _causes(error: BaseException) -> list[BaseException]:
    """What an error came from, the first cause last."""
    below = error.__cause__ or error.__context__
    return [] if below is None else [below, *_causes(below)]


def _status(error: BaseException) -> int | None:
    """The status that a server answered with, as aiohttp or botocore has it."""
    answer: Any = getattr(error, "response", None)
    if isinstance(answer, dict):
        answer = answer.get("ResponseMetadata", {})
        return int(answer.get("HTTPStatusCode", 0)) or None
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None


def _said(error: BaseException, status: int | None) -> str:
    if status is not None:
        return f"status {status}"
    return " ".join(without_secrets(str(error)).split())[:200] or type(error).__name__
