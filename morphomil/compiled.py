"""Loops compiled by numba, whose machine code is kept for the next process where that can be.

What numba keeps it mixes up (seen with 0.68): code of several processes that compiled at the same
time may stand under another's types, and functions inside compiled code are told apart by a number
that every process counts from 1, so that `np.sort` in one loop and `np.argsort` in another can
become one function when both are loaded. Results are then wrong without a word. Here files are
named by what they hold, and each process counts from a number of its own.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from numba import njit
from numba.core.bytecode import FunctionIdentity
from numba.core.caching import FunctionCache, IndexDataCacheFile

if TYPE_CHECKING:
    from collections.abc import Callable

Loop = TypeVar("Loop", bound="Callable[..., Any]")


def _count_from_anywhere() -> None:
    """Functions that are compiled from now on have numbers that no other process gives."""
    FunctionIdentity._unique_ids = count(secrets.randbits(60))


_count_from_anywhere()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_count_from_anywhere)


class _Files(IndexDataCacheFile):  # type: ignore[misc, unused-ignore]
    """An index of types, and a file for each of them."""

    def __init__(self, cache_path: str, filename_base: str, source_stamp: Any) -> None:
        """Beside numba's own files, which are left alone."""
        self.base = f"{filename_base}.own"
        super().__init__(cache_path, self.base, source_stamp)

    def save(self, key: Any, data: Any) -> None:
        """Of processes that save at once one's entry may be lost; none is another's."""
        name = f"{self.base}.{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.nbc"
        self._save_data(name, data)
        self._save_index(self._load_index() | {key: name})


class _Cache(FunctionCache):  # type: ignore[misc, unused-ignore]
    """Machine code on disk; a damaged entry counts as none, and one that can't be written is
    done without."""

    def __init__(self, loop: Callable[..., Any]) -> None:
        """Where numba would keep it."""
        super().__init__(loop)
        old = self._cache_file
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, old._source_stamp)

    def load_overload(self, *key: Any) -> Any:
        """The stored code, None where there is none that can be read."""
        try:
            return super().load_overload(*key)
        except Exception:  # noqa: BLE001 - whatever unpickling harmed bytes raises
            self.flush()
            return None

    def save_overload(self, *entry: Any) -> None:
        """Store code, if there is room."""
        try:
            super().save_overload(*entry)
        except Exception:  # noqa: BLE001 - an index that is harmed is read here too
            self.flush()

    def flush(self) -> None:
        """Forget what is stored, as far as that can be written."""
        try:
            super().flush()
        except OSError:
            self.disable()


def compiled(**options: Any) -> Callable[[Loop], Loop]:
    """A decorator: `numba.njit` with these options.

    Where neither the package's folder nor the user's cache can be written, every process compiles
    anew.
    """

    def compile_loop(loop: Loop) -> Loop:
        made: Any = njit(**options)(loop)
        with suppress(RuntimeError):  # numba: no locator available
            made._cache = _Cache(loop)
        known: Loop = made
        return known

    return compile_loop
