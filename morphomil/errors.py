"""Errors whose message tells the user what is wrong and how to mend it, and what a command's exit
status means.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of the system that every further write would meet too."""
MAY_PASS = frozenset(
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EIO", "EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "EBUSY", "EINTR"),
        *("ESTALE", "ETIMEDOUT", "EPIPE", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET"),
        *("EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENODEV", "ENOLINK", "EREMOTEIO"),
    )
    if hasattr(errno, name)
)
"""Errors of the system after which the same command may succeed: room is made, a disk is back."""


_NO_MEMORY = (
    "bad_alloc",
    "bad allocation",
    "cannot allocate memory",
    "can't allocate memory",
    "failed to map segment",
    "can't start new thread",
    "out of memory",
)


def tells_of_memory(error: BaseException) -> bool:
    """Whether memory was full, in whichever words a library says so."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    said = str(error).lower()
    return any(words in said for words in _NO_MEMORY) or (
        error.__cause__ is not None and tells_of_memory(error.__cause__)
    )


def name_problem(name: object) -> str:
    """What is wrong with a name that no text can hold, as old disks and archives have them; "" if
    nothing is."""
    try:
        str(name).encode()
    except UnicodeEncodeError:
        shown = str(name).encode("utf-8", "backslashreplace").decode()
        return f"{shown}: its name isn't UTF-8; rename it"
    return ""


def tells_of_names(error: BaseException) -> str:
    """What is wrong with a name, where that is what an error is about; else ""."""
    if not isinstance(error, UnicodeEncodeError):
        return ""
    around = error.object[max(0, error.start - 60) : error.end + 60]
    return name_problem(around.replace("\n", " ").strip())


class ExitStatus(IntEnum):
    """What a command's exit status means (documented in the user guide)."""

    DONE = 0
    INTERNAL_ERROR = 1
    BAD_INPUT = 2
    SOME_FAILED = 3
    REFUSED = 4
    BUSY = 5
    INTERRUPTED = 130


class MorphomilError(Exception):
    """An error whose message tells the user what is wrong and how to mend it."""

    exit_status = ExitStatus.INTERNAL_ERROR


class InputError(MorphomilError):
    """Unusable arguments, manifest or file; `problems` lists every one of them."""

    exit_status = ExitStatus.BAD_INPUT

    def __init__(self, problems: str | list[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        head = "" if len(self.problems) == 1 else f"{len(self.problems)} problems:\n- "
        super().__init__(head + "\n- ".join(self.problems))


class DamagedError(InputError):
    """A stored file is missing, or isn't what was written there."""


class OccupiedError(InputError):
    """What nobody here wrote lies where a result is to be written."""


class SlideError(MorphomilError):
    """One slide can't be read or segmented; the others go on."""

    exit_status = ExitStatus.SOME_FAILED


class RefusedError(MorphomilError):
    """A result that would mislead: leakage across splits, or statistics that can't be had from
    these data."""

    exit_status = ExitStatus.REFUSED


class BusyError(MorphomilError):
    """Another process works in the run directory."""

    exit_status = ExitStatus.BUSY


class TrainingError(MorphomilError):
    """A model's loss is no longer a number; the other folds go on."""

    exit_status = ExitStatus.SOME_FAILED


@contextmanager
def translating(refusal: Callable[[str], MorphomilError]) -> Iterator[None]:
    """Whatever a decoder that others wrote raises about the bytes of a user's file becomes one
    sentence; our own errors and a full memory stay what they are.

    Args:
        refusal: makes an error of its cause.
    """
    try:
        yield
    except MorphomilError:
        raise
    except Exception as error:
        if tells_of_memory(error):
            raise
        raise refusal(_say_cause(error)) from error


def _say_cause(error: Exception) -> str:
    """What a decoder's error says, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    said = " ".join(str(error).split())
    if isinstance(error, KeyError) and said:
        return f"it lacks {said}"
    return said or type(error).__name__
