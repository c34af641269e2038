"""A picture that tests of regions and of patches share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from slide_images import PINK, plain, png

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def pink_png(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return png(tmp_path_factory.mktemp("pink") / "pink.png", plain(1000, 1000, PINK))
