"""The ledger of a run: which results there are, of which key, and whether they are unharmed."""

from __future__ import annotations

import hashlib
import json
from typing import Any

SCHEMA_VERSION = 1
"""Of a run directory; results written under another version are made anew."""
STAGES = ("segment", "featurize", "embed")
"""That work slide by slide, in order."""


def key_of(*parts: Any) -> str:
    """A short name of everything that a result depends on."""
    return hashlib.sha256(
        json.dumps([SCHEMA_VERSION, *parts], sort_keys=True).encode()
    ).hexdigest()[:32]
