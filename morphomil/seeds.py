"""Random generators by key: what is drawn depends on what it is for, never on the order of work."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np


def generator(*key: Any) -> np.random.Generator:
    """A random generator seeded by a stable hash of its key: numbers and strings."""
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))
