"""Pixel sizes: the manifest's, else the file's, else the default; absurd and contradicted ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import tifffile
from slide_images import noise, png, pyramid

from morphomil.errors import InputError, SlideError
from morphomil.slides.image import open_image
from morphomil.types import ImageSource

if TYPE_CHECKING:
    from pathlib import Path


def test_pixel_size_is_the_manifests_else_the_files_else_the_default(tmp_path: Path) -> None:
    stated, silent = (
        pyramid(tmp_path / "a.tif", noise(99, 99)),
        png(tmp_path / "a.png", noise(99, 99)),
    )
    with open_image(ImageSource(stated)) as image:
        assert image.mpp == pytest.approx(0.25)
    with open_image(ImageSource(stated), default_mpp=0.26) as image:
        assert image.mpp == pytest.approx(0.25)
    with open_image(ImageSource(stated, mpp=0.26), default_mpp=0.5) as image:
        assert image.mpp == 0.26
    with open_image(ImageSource(silent), default_mpp=0.5) as image:
        assert image.mpp == 0.5
    with open_image(ImageSource(silent, mpp=0.3), default_mpp=0.5) as image:
        assert image.mpp == 0.3


def test_pixel_size_that_the_file_contradicts_is_refused(tmp_path: Path) -> None:
    path = pyramid(tmp_path / "a.tif", noise(99, 99))
    with pytest.raises(
        InputError,
        match=r"a\.tif: the manifest says 0\.5 um per pixel, the file "
        r"0\.25",
    ):
        open_image(ImageSource(path, mpp=0.5))
    with pytest.raises(InputError, match=r"a\.tif: --mpp says 0\.2 um per pixel, the file 0\.25"):
        open_image(ImageSource(path), default_mpp=0.2)


def test_unknown_pixel_size_names_the_ways_to_give_it(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"a\.png: pixel size unknown \(the file doesn't record it\).*column "
        r"mpp.*--mpp",
    ):
        open_image(ImageSource(png(tmp_path / "a.png", noise(9, 9))))


def test_72_dpi_is_no_pixel_size(tmp_path: Path) -> None:
    for name, tile in (("tiled.tif", (16, 16)), ("flat.tif", None)):
        path = tmp_path / name
        tifffile.imwrite(
            path,
            noise(64, 64),
            tile=tile,
            photometric="rgb",
            resolution=(72, 72),
            resolutionunit="INCH",
        )
        with pytest.raises(InputError, match=r"the file says 352\.8 um, which no microscope gives"):
            open_image(ImageSource(path))
        with open_image(ImageSource(path), default_mpp=0.5) as image:
            assert image.mpp == 0.5


@pytest.mark.parametrize("mpp", [0.01, 50.0, float("nan")])
def test_absurd_stated_pixel_size_is_refused(tmp_path: Path, mpp: float) -> None:
    with pytest.raises(InputError, match="pixel sizes are"):
        open_image(ImageSource(png(tmp_path / "a.png", noise(9, 9)), mpp=mpp))


def test_pixel_size_of_ome_and_imagej_tiffs(tmp_path: Path) -> None:
    ome = tmp_path / "a.ome.tif"
    size = {
        "PhysicalSizeX": 250.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 250.0,
        "PhysicalSizeYUnit": "nm",
    }
    tifffile.imwrite(
        ome,
        noise(64, 64),
        photometric="rgb",
        tile=(16, 16),
        ome=True,
        metadata={"axes": "YXS"} | size,
    )
    with open_image(ImageSource(ome)) as image:
        assert image.mpp == pytest.approx(0.25)
    imagej = tmp_path / "a.tif"
    tifffile.imwrite(imagej, noise(64, 64), imagej=True, resolution=(4, 4), metadata={"unit": "um"})
    with open_image(ImageSource(imagej)) as image:
        assert image.mpp == pytest.approx(0.25)


def test_oblong_pixels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        noise(64, 64),
        photometric="rgb",
        resolution=(40000, 20000),
        resolutionunit="CENTIMETER",
    )
    with pytest.raises(SlideError, match=r"pixels are 0\.25 x 0\.5 um; resample"):
        open_image(ImageSource(path))
