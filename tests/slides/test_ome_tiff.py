"""OME-TIFF and TIFFs of several images: which one is the slide, which plane, and what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from slide_images import PINK, Rgb, noise, plain

from morphomil.cohort.manifest import read_manifest
from morphomil.errors import InputError, SlideError
from morphomil.slides.image import SlideImage, open_image
from morphomil.store import fingerprint
from morphomil.types import ImageSource

if TYPE_CHECKING:
    from pathlib import Path

LARGE, SMALL = noise(300, 420), noise(90, 130, seed=1)
LAYOUTS = pytest.mark.parametrize(
    "layout", [{"tile": (64, 64)}, {"rowsperstrip": 16}], ids=["tiles", "strips"]
)


def opened(path: Path) -> SlideImage:
    return open_image(ImageSource(path), default_mpp=0.5)


def pixels(path: Path) -> tuple[Rgb, str]:
    with opened(path) as image:
        return image.read(0, 0, image.width, image.height, downsample=1), "; ".join(image.notes)


def refused(path: Path, says: str) -> None:
    with pytest.raises(SlideError, match=says):
        pixels(path)


@LAYOUTS
@pytest.mark.parametrize("ome", [True, False])
def test_the_largest_image_is_the_slide_and_others_can_be_named(
    tmp_path: Path, layout: dict[str, Any], ome: bool
) -> None:
    path = tmp_path / "slide.ome.tif"
    with tifffile.TiffWriter(path, ome=ome) as file:
        for number, rgb in enumerate((SMALL, LARGE, SMALL[::-1])):
            meta = {"axes": "YXS", "PhysicalSizeX": 0.49 + 0.005 * number} if ome else None
            file.write(rgb, photometric="rgb", metadata=meta, **layout)
    rgb, notes = pixels(path)
    assert np.array_equal(rgb, LARGE)
    assert notes == "image 2 of 3 is read, 420 x 300 pixels"
    for number, wanted in enumerate((SMALL, LARGE, SMALL[::-1]), start=1):
        named = path.with_name(f"{path.name}#{number}")
        assert np.array_equal(pixels(named)[0], wanted)
        if ome:
            with open_image(ImageSource(named)) as image:
                assert image.mpp == pytest.approx(0.485 + 0.005 * number)
    refused(path.with_name(f"{path.name}#4"), "there is no image 4; the file holds 3")
    refused(path.with_name(f"{path.name}#0"), "there is no image 0")


def test_levels_below_the_image_are_used(tmp_path: Path) -> None:
    path = tmp_path / "slide.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(SMALL, tile=(64, 64), photometric="rgb", metadata={"axes": "YXS"})
        whole = {"tile": (64, 64), "photometric": "rgb"}
        file.write(plain(1024, 1024, PINK), subifds=1, metadata={"axes": "YXS"}, **whole)
        file.write(plain(256, 256, (90, 40, 120)), subfiletype=1, **whole)
    with opened(path) as image:
        assert (image.read(0, 0, 500, 500, downsample=1) == PINK).all()
        assert (image.read(100, 100, 50, 50, downsample=4) == (90, 40, 120)).all()


@LAYOUTS
def test_a_gray_slide_beside_a_color_label_is_refused(
    tmp_path: Path, layout: dict[str, Any]
) -> None:
    path = tmp_path / "slide.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(LARGE[..., 0], photometric="minisblack", metadata={"axes": "YX"}, **layout)
        file.write(SMALL, photometric="rgb", metadata={"axes": "YXS"}, **layout)
    refused(path, r"largest image is gray; if image 2, 130 x 90 .*name it: slide\.ome\.tif#2")
    assert np.array_equal(pixels(path.with_name("slide.ome.tif#2"))[0], SMALL)
    refused(path.with_name("slide.ome.tif#1"), "gray")


@LAYOUTS
def test_z_stack_in_color_gives_its_middle_plane_and_says_so(
    tmp_path: Path, layout: dict[str, Any]
) -> None:
    stack = np.stack([noise(100, 130, seed=number) for number in range(5)])
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, stack, photometric="rgb", metadata={"axes": "ZYXS"}, **layout)
    rgb, notes = pixels(path)
    assert np.array_equal(rgb, stack[2])
    assert notes == "plane Z 3 of 5 is read"


@LAYOUTS
def test_planar_color_is_read(tmp_path: Path, layout: dict[str, Any]) -> None:
    path = tmp_path / "a.ome.tif"
    planes = np.moveaxis(LARGE, 2, 0)
    tifffile.imwrite(
        path, planes, photometric="rgb", planarconfig="separate", metadata={"axes": "CYX"}, **layout
    )
    assert np.array_equal(pixels(path)[0], LARGE)


@LAYOUTS
def test_channels_in_planes_of_their_own(tmp_path: Path, layout: dict[str, Any]) -> None:
    planes = np.ascontiguousarray(np.moveaxis(LARGE, 2, 0))
    for names in (["DAPI", "FITC", "Cy5"], None):
        meta: dict[str, Any] = {"axes": "CYX"} | ({"Channel": {"Name": names}} if names else {})
        tifffile.imwrite(
            tmp_path / "a.ome.tif", planes, photometric="minisblack", metadata=meta, **layout
        )
        refused(tmp_path / "a.ome.tif", "3 channels in planes of their own, each gray")
    meta = {"axes": "CYX", "Channel": {"Name": ["Red", "Green", "Blue"]}}
    path = tmp_path / "named.ome.tif"
    tifffile.imwrite(path, planes, photometric="minisblack", metadata=meta, **layout)
    assert np.array_equal(pixels(path)[0], LARGE)


def test_a_reduced_page_of_another_picture_is_no_level(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tags: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as file:
        file.write(plain(512, 512, PINK), **tags)
        file.write(plain(128, 256, (10, 200, 10)), subfiletype=1, **tags)
    with opened(path) as image:
        assert (image.read(20, 20, 100, 100, downsample=4) == PINK).all()


def test_a_number_where_the_file_has_one_image(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", LARGE, photometric="rgb", tile=(64, 64))
    assert np.array_equal(pixels(tmp_path / "a.tif#1")[0], LARGE)
    refused(tmp_path / "a.tif#2", "there is no image 2")
    (tmp_path / "a.tif").rename(tmp_path / "a#2")
    assert np.array_equal(pixels(tmp_path / "a#2")[0], LARGE)


def test_manifest_names_images_of_one_file(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "s.ome.tif", ome=True) as file:
        for rgb in (SMALL, LARGE):
            file.write(rgb, photometric="rgb", metadata={"axes": "YXS"})
    (tmp_path / "cohort.csv").write_text(
        "slide,patient,label\ns.ome.tif#1,p,1\ns.ome.tif#2,q,0\n", encoding="utf-8"
    )
    one, two = read_manifest(tmp_path / "cohort.csv", mpp=0.5).cohort.slides
    assert (one.slide_id, two.slide_id) == ("s.ome-1", "s.ome-2")
    assert fingerprint(one.images[0].path) != fingerprint(two.images[0].path)
    assert np.array_equal(pixels(two.images[0].path)[0], LARGE)
    (tmp_path / "cohort.csv").write_text("slide,patient,label\nt.tif#1,p,1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"slide 't\.tif#1' doesn't exist"):
        read_manifest(tmp_path / "cohort.csv", mpp=0.5)
