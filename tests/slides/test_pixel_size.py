"""Pixel sizes: the manifest's, else the file's, else the default; absurd and contradicted ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


LAYOUTS = pytest.mark.parametrize(
    "layout", [{"tile": (64, 64)}, {"rowsperstrip": 16}], ids=["tiles", "strips"]
)


def size_of(path: Path, **known: float) -> float | None:
    """um per pixel that is settled; None: unknown."""
    try:
        with open_image(ImageSource(path, **known)) as image:
            return image.mpp
    except InputError as error:
        if "pixel size unknown" in str(error):
            return None
        raise


def write_ome(path: Path, layout: dict[str, Any], *, dpi: float = 0, **stated: Any) -> Path:
    tags: dict[str, Any] = {"resolution": (dpi, dpi), "resolutionunit": 2} if dpi else {}
    meta = {"axes": "YXS"} | stated
    tifffile.imwrite(path, noise(64, 64), photometric="rgb", metadata=meta, **tags, **layout)
    return path


@LAYOUTS
def test_ome_xml_is_the_authority(tmp_path: Path, layout: dict[str, Any]) -> None:
    stated = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    for dpi in (72, 96, 100, 150, 300, 1, 25400 / 0.49):
        path = write_ome(tmp_path / "a.ome.tif", layout, dpi=dpi, **stated)
        assert size_of(path) == 0.5


@LAYOUTS
def test_two_sizes_in_a_file_that_differ_are_refused(
    tmp_path: Path, layout: dict[str, Any]
) -> None:
    stated = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    path = write_ome(tmp_path / "a.ome.tif", layout, dpi=25400 / 0.25, **stated)
    with pytest.raises(
        InputError,
        match=r"OME-XML says 0\.5 um per pixel and its resolution tag 0\.25; give the right one",
    ):
        size_of(path)
    assert size_of(path, mpp=0.5) == 0.5
    assert size_of(path, mpp=0.25) == 0.25
    with pytest.raises(InputError):
        size_of(path, mpp=1.0)


@LAYOUTS
@pytest.mark.parametrize(
    ("unit", "x"),
    [
        ("nm", 250),
        ("µm", 0.25),
        ("μm", 0.25),
        ("um", 0.25),
        ("micron", 0.25),
        ("mm", 0.00025),
        ("cm", 0.000025),
        ("m", 0.25e-6),
        ("pm", 250_000),
        ("Å", 2500),
        ("micrometer", 0.25),
        ("in", 0.25 / 25400),
    ],
)
def test_units_of_ome(tmp_path: Path, layout: dict[str, Any], unit: str, x: float) -> None:
    meta = {"PhysicalSizeX": x, "PhysicalSizeXUnit": unit}
    both = meta | {"PhysicalSizeY": 0.2501, "PhysicalSizeYUnit": "µm"}
    assert size_of(write_ome(tmp_path / "a.ome.tif", layout, **meta)) == pytest.approx(0.25)
    assert size_of(write_ome(tmp_path / "a.ome.tif", layout, **both)) == pytest.approx(0.25005)
    oblong = meta | {"PhysicalSizeY": 0.26, "PhysicalSizeYUnit": "µm"}
    with pytest.raises(SlideError, match=r"pixels are 0\.25 x 0\.26 um; resample"):
        size_of(write_ome(tmp_path / "a.ome.tif", layout, **oblong))


@LAYOUTS
@pytest.mark.parametrize("unit", ["pixel", "reference frame", "parsecs"])
def test_units_that_are_no_lengths_state_nothing(
    tmp_path: Path, layout: dict[str, Any], unit: str
) -> None:
    meta = {f"PhysicalSize{axis}": 0.25 for axis in "XY"}
    meta_units = {f"PhysicalSize{axis}Unit": unit for axis in "XY"}
    path = write_ome(tmp_path / "a.ome.tif", layout, **meta, **meta_units)
    assert size_of(path) is None
    assert size_of(path, mpp=0.5) == 0.5


@pytest.mark.parametrize(
    ("unit", "per_unit"),
    [
        ("micron", 4),
        ("microns", 4),
        ("µm", 4),
        ("um", 4),
        ("\\u00B5m", 4),
        ("nm", 0.004),
        ("mm", 4000),
        ("cm", 40_000),
        ("inch", 101_600),
        ("inches", 101_600),
        ("meter", 4e6),
    ],
)
@pytest.mark.parametrize("tag", [None, "INCH", "CENTIMETER"])
def test_units_of_imagej(tmp_path: Path, unit: str, per_unit: float, tag: str | None) -> None:
    path = tmp_path / "a.tif"
    description = f"ImageJ=1.54f\nunit={unit}\n".encode("utf-8" if unit.isascii() else "latin-1")
    tifffile.imwrite(
        path,
        noise(64, 64),
        photometric="rgb",
        metadata=None,
        resolution=(per_unit, per_unit),
        resolutionunit=tag or "NONE",
        description=description,
    )
    assert size_of(path) == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("unit", ["pixel", "pixels", ""])
def test_imagej_in_pixels_states_nothing(tmp_path: Path, unit: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        noise(64, 64),
        photometric="rgb",
        metadata=None,
        resolution=(40_000, 40_000),
        resolutionunit="CENTIMETER",
        description=f"ImageJ=1.54f\nunit={unit}\n",
    )
    assert size_of(path) is None


@pytest.mark.parametrize("dpi", [72, 96, 100, 150, 300])
@pytest.mark.parametrize("unit", ["INCH", "CENTIMETER"])
@LAYOUTS
def test_dots_for_printing_state_nothing(
    tmp_path: Path, layout: dict[str, Any], unit: str, dpi: int
) -> None:
    path = tmp_path / "a.tif"
    per_unit = dpi if unit == "INCH" else round(dpi / 2.54)
    tifffile.imwrite(
        path,
        noise(64, 64),
        photometric="rgb",
        metadata=None,
        resolution=(per_unit, per_unit),
        resolutionunit=unit,
        **layout,
    )
    assert size_of(path) is None
    assert size_of(path, mpp=0.5) == 0.5


@LAYOUTS
def test_one_percent_is_the_limit_of_oblong_pixels(tmp_path: Path, layout: dict[str, Any]) -> None:
    for y, square in ((0.252, True), (0.253, False)):
        path = write_ome(tmp_path / "a.ome.tif", layout, PhysicalSizeX=0.25, PhysicalSizeY=y)
        if square:
            assert size_of(path) == pytest.approx(0.251)
        else:
            with pytest.raises(SlideError, match="resample it to square pixels"):
                size_of(path)
