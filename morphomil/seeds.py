"""What makes results the same everywhere: random generators by key, so that what is drawn depends
on what it is for, never on the order of work; and sums that don't depend on the number of cores."""

from __future__ import annotations

import hashlib
import json
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


def generator(*key: Any) -> np.random.Generator:
    """A random generator seeded by a stable hash of its key: numbers and strings."""
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def sums_on_one_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Decorates a function whose products of matrices are to be added up in one order, whatever the
    number of threads that the linear algebra (BLAS) would share them out to."""

    @wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> T:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return limited
