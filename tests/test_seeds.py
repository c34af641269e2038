"""Sums that don't depend on the number of cores."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_info

from morphomil.seeds import sums_on_one_thread


def threads() -> set[int]:
    return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}


def test_products_are_added_up_by_one_thread() -> None:
    @sums_on_one_thread
    def look(number: int, *, more: str) -> tuple[int, str, set[int]]:
        """Look."""
        return number, more, threads()

    assert np.ones((2, 2)).shape == (2, 2)  # NumPy's library is loaded
    before = threads()
    assert look(3, more="x") == (3, "x", {1})
    assert look.__doc__ == "Look."
    assert threads() == before
