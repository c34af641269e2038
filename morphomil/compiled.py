"""Loops compiled by numba, whose machine code is kept for the next process where that can be."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from numba import njit
from numba.core.caching import FunctionCache

if TYPE_CHECKING:
    from collections.abc import Callable

Loop = TypeVar("Loop", bound="Callable[..., Any]")


class _Cache(FunctionCache):  # type: ignore[misc, unused-ignore]
    """Machine code on disk; a damaged entry counts as none, and one that can't be written is
    done without."""

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
