"""morphomil: which nuclear morphology goes with an outcome, and how sure are we.

The stages are in `morphomil.pipeline`; `morphomil.segment`, `nuclei`, `matrix` and `rank` also serve alone.
"""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("morphomil")
