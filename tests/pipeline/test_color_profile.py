"""A color profile that is applied is recorded, and only slides that carry one depend on it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageCms
from slide_images import PINK, plain

from morphomil.pipeline.importing import import_nuclei
from morphomil.types import Cohort, ImageSource, PatchSettings, Slide

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = PatchSettings(patch_px=128, regions="whole")


def swapped_profile() -> bytes:
    """sRGB with the primaries of red and blue exchanged."""
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tags = content[128:].replace(b"rXYZ", b"keep").replace(b"bXYZ", b"rXYZ")
    return content[:128] + tags.replace(b"keep", b"bXYZ")


@pytest.mark.parametrize("profiled", [True, False])
def test_profile_is_recorded_and_followed(tmp_path: Path, profiled: bool) -> None:
    picture = tmp_path / "slide.png"
    Image.fromarray(plain(256, 256, PINK)).save(
        picture, icc_profile=swapped_profile() if profiled else None
    )
    labels = np.zeros((256, 256), np.uint16)
    labels[40:60, 40:60] = 1
    Image.fromarray(labels).save(tmp_path / "labels.png")
    cohort = Cohort((Slide("s", "p", "1", (ImageSource(picture, mpp=0.5),)),))
    skipped = []
    for settings in (WHOLE, WHOLE, replace(WHOLE, icc=False)):
        before = (tmp_path / "run/slides/s/status.json").stat().st_mtime_ns if skipped else 0
        run, result = import_nuclei(
            cohort, {picture: tmp_path / "labels.png"}, tmp_path / "run", settings=settings
        )
        assert not result.failed
        skipped.append((tmp_path / "run/slides/s/status.json").stat().st_mtime_ns == before)
        figures = run.ledger.status("s")["segment"]["figures"]
        applied = profiled and settings.icc
        assert ("is applied" in " ".join(figures.get("notes", []))) == applied
        with run.open_image("s") as image:
            wanted = PINK[::-1] if applied else PINK
            assert np.abs(image.read(9, 9, 9, 9, downsample=1).astype(int) - wanted).max() <= 3
    assert skipped == [False, True, not profiled]
