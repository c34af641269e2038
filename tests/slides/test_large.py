"""Real regions, and a slide of 60,000 pixels in bounded memory."""

from __future__ import annotations

import subprocess
import sys
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
import shapely
import tifffile
from PIL import Image
from slide_images import GLASS, PINK, annotate, opened, plain

from morphomil.slides.patches import cut_patches
from morphomil.slides.regions import find_regions
from morphomil.types import ImageSource, PatchSettings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("name", "source", "kept"),
    [
        ("351899_0", "white", 113),
        ("351899_2", "white", 20),
        ("469387_3", "white", 19),
        ("351899", "tissue", None),
    ],
)
def test_bcnb_regions(shared_data: Path, name: str, source: str, kept: int | None) -> None:
    path = shared_data / "bcnb" / "regions" / f"{name}.jpg"
    with opened(path) as image:
        (region,) = find_regions(
            image, ImageSource(path), image_index=0, first_index=0, settings=PatchSettings()
        )
        table = cut_patches(
            image, region, slide_id=name, first_patch_id=0, settings=PatchSettings()
        ).table
    assert region.source == source
    if kept is not None:
        white = (np.asarray(Image.open(path)).min(axis=-1) == 255).mean()
        assert table["tissue_mm2"].sum() == pytest.approx(
            (1 - white) * image.width * image.height * 0.25e-6, rel=0.01
        )
        assert table["kept"].sum() == kept


LARGE = """
import sys, time
from pathlib import Path
import shapely
from morphomil.slides import cut_patches, find_regions, open_image
from morphomil.types import ImageSource, PatchSettings
source = ImageSource(Path(sys.argv[1]), Path(sys.argv[2]))
begun = time.monotonic()
kept = 0
with open_image(source) as image:
    first = {"image_index": 0, "first_index": 0}
    tissue = find_regions(image, source, **first, settings=PatchSettings(regions="tissue"))
    settings = PatchSettings()
    for region in find_regions(image, source, **first, settings=settings):
        patches = cut_patches(image, region, slide_id="s", first_patch_id=0, settings=settings)
        kept += int(patches.table["kept"].sum())
# getrusage would give the parent's peak if that is higher
status = Path("/proc/self/status").read_text()
peak = int(status.split("VmHWM:")[1].split()[0])
print(kept, sum(r.polygon.area for r in tissue), peak, time.monotonic() - begun)
"""


def write_large(path: Path, side: int = 60_000) -> None:
    """A pyramid of 1024-pixel tiles, every other one tissue; each tile is compressed once and
    written many times."""
    rng = np.random.default_rng(0)
    tissue = zlib.compress(
        np.clip(rng.normal(PINK, 12, (128, 128, 3)), 0, 255)
        .astype(np.uint8)
        .repeat(8, 0)
        .repeat(8, 1)
    )
    glass = zlib.compress(plain(1024, 1024, GLASS))
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for factor in (1, 4, 16):
            across = -(-(side // factor) // 1024)
            tiles = (
                tissue if (row * factor // 16 + column * factor // 16) % 2 == 0 else glass
                for row in range(across)
                for column in range(across)
            )
            file.write(
                tiles,
                shape=(side // factor, side // factor, 3),
                dtype=np.uint8,
                tile=(1024, 1024),
                photometric="rgb",
                compression="deflate",
                subfiletype=int(factor > 1),
                resolution=(4e4 / factor, 4e4 / factor),
                resolutionunit="CENTIMETER",
            )


def test_a_slide_of_60000_pixels_is_cut_in_bounded_memory(tmp_path: Path) -> None:
    write_large(tmp_path / "a.tif")
    regions = [
        shapely.box(100, 20_000, 59_900, 21_024),
        shapely.Point(30_000, 45_000).buffer(2_000),
    ]
    annotation = annotate(tmp_path / "a.json", regions)
    result = subprocess.run(
        [sys.executable, "-c", LARGE, tmp_path / "a.tif", annotation],
        capture_output=True,
        text=True,
        check=True,
    )
    kept, tissue_px, peak_kb, _ = map(float, result.stdout.split())
    assert 116 * 2 + 30 <= kept <= 117 * 2 + 50
    assert tissue_px == pytest.approx(60_000**2 / 2, rel=0.1)
    assert peak_kb < 1.5 * 2**20
