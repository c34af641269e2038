"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from morphomil import memory


def test_memory_is_given_back_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1000.0, 1000.5, 1000.99, 1001.0, 1001.5, 1003.0])
    given: list[int] = []
    monkeypatch.setattr(memory, "_given_back", 0.0)
    monkeypatch.setattr(memory, "monotonic", lambda: next(times))
    library = SimpleNamespace(malloc_trim=given.append)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    counts = []
    for _ in range(6):
        memory.give_back_memory()
        counts.append(len(given))
    assert counts == [1, 1, 1, 2, 2, 3]


def test_another_c_library_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_given_back", 0.0)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    memory.give_back_memory()
