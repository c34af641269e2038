"""Annotations lie where their program drew them: origins, units, other levels' pixels."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import shapely
from scanner_files import ndpi, scn, tissue_at
from slide_images import annotate, png, pyramid

from morphomil.errors import InputError, SlideError
from morphomil.slides.image import open_image
from morphomil.slides.regions import Survey, regions_geojson, survey_regions
from morphomil.types import ImageSource, PatchSettings

if TYPE_CHECKING:
    from pathlib import Path

CORNER = (700, 900)
DRAWN = (300, 200, 800, 600)
"""Of the scanned part's tissue, in pixels of the scanned part."""
ON_CANVAS = (1000, 1100, 1500, 1500)
"""The same place in level-0 pixels."""


def survey(slide: Path, annotation: Path, *, mpp: float | None = None, **how: Any) -> Survey:
    origin = how.pop("origin", None)
    source = ImageSource(slide, annotation, mpp, origin)
    with open_image(source) as image:
        return survey_regions(
            image, source, image_index=0, first_index=0, settings=PatchSettings(**how)
        )


def bounds(slide: Path, annotation: Path, **how: Any) -> tuple[float, ...]:
    return shapely.total_bounds([r.polygon for r in survey(slide, annotation, **how).regions])


def ring(box: tuple[float, ...]) -> list[list[float]]:
    left, top, right, bottom = box
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def geojson(path: Path, *boxes: tuple[float, ...], crs: str | None = None) -> Path:
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring(box)]},
            "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
        }
        for box in boxes
    ]
    tree: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if crs:
        tree["crs"] = {"type": "name", "properties": {"name": crs}}
    path.write_text(json.dumps(tree))
    return path


def asap(path: Path, box: tuple[float, ...]) -> Path:
    points = "".join(
        f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(ring(box))
    )
    path.write_text(
        '<ASAP_Annotations><Annotations><Annotation Name="A" Type="Polygon" PartOfGroup="Tumor">'
        f"<Coordinates>{points}</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    )
    return path


def layers(path: Path, box: tuple[float, ...], *, halo: bool) -> Path:
    vertex, kind = ("V", "Polygon") if halo else ("Vertex", "0")
    points = "".join(f'<{vertex} X="{x}" Y="{y}"/>' for x, y in ring(box))
    path.write_text(
        f'<Annotations><Annotation Name="Tumor"><Regions><Region Type="{kind}" NegativeROA="0">'
        f"<Vertices>{points}</Vertices></Region></Regions></Annotation></Annotations>"
    )
    return path


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A canvas of 4,000 x 4,000 pixels; tissue lies at DRAWN of its scanned part."""
    rgb = tissue_at(1024, 1280, DRAWN)
    path = tmp_path_factory.mktemp("scn") / "slide.scn"
    return scn(path, rgb, corner=CORNER, canvas=(4000, 4000))


def test_a_scanned_part_within_the_canvas(scanned: Path, tmp_path: Path) -> None:
    with open_image(ImageSource(scanned)) as image:
        assert (image.width, image.height, image.mpp) == (4000, 4000, 0.5)
        assert image.properties["openslide.bounds-x"] == "700"
    qupath = geojson(tmp_path / "a.geojson", DRAWN)
    assert tuple(bounds(scanned, qupath)) == ON_CANVAS
    assert tuple(bounds(scanned, asap(tmp_path / "a.xml", ON_CANVAS))) == ON_CANVAS
    bcnb = annotate(tmp_path / "a.json", [shapely.box(*ON_CANVAS)])
    assert tuple(bounds(scanned, bcnb)) == ON_CANVAS
    halo = layers(tmp_path / "a.annotations", (488, 332, 988, 732), halo=True)
    assert tuple(bounds(scanned, halo)) == ON_CANVAS  # it begins at (512, 768)


def test_the_manifest_overrides_the_format(scanned: Path, tmp_path: Path) -> None:
    whole = geojson(tmp_path / "a.geojson", ON_CANVAS)
    assert tuple(bounds(scanned, whole, origin="level0")) == ON_CANVAS
    part = asap(tmp_path / "a.xml", DRAWN)
    assert tuple(bounds(scanned, part, origin="bounds")) == ON_CANVAS
    imagescope = layers(tmp_path / "b.xml", DRAWN, halo=False)
    with pytest.raises(InputError, match=r"begins at \(700, 900\) .*column annotation_origin"):
        survey(scanned, imagescope)
    assert tuple(bounds(scanned, imagescope, origin="bounds")) == ON_CANVAS


def test_the_wrong_corner_is_refused_and_the_right_one_named(scanned: Path, tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"only 0% of annotation .* lies on tissue.*level0"):
        survey(scanned, geojson(tmp_path / "a.geojson", ON_CANVAS))
    with pytest.raises(SlideError, match=r"scanned part's corner \(700, 900\): bounds"):
        survey(scanned, asap(tmp_path / "a.xml", DRAWN))


def test_our_own_regions_begin_at_level_0(scanned: Path, tmp_path: Path) -> None:
    found = survey(scanned, geojson(tmp_path / "a.geojson", DRAWN)).regions
    (tmp_path / "regions.geojson").write_text(json.dumps(regions_geojson(found)))
    assert tuple(bounds(scanned, tmp_path / "regions.geojson")) == ON_CANVAS


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,048 x 2,048 pixels of 0.5 um, levels of downsample 1 and 4; tissue at (1200, 1200, 1800,
    1700)."""
    rgb = tissue_at(2048, 2048, (1200, 1200, 1800, 1700))
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    return pyramid(path, rgb, factors=(1, 4), mpp=0.5)


TISSUE = (1200.0, 1200.0, 1800.0, 1700.0)


def scaled(factor: float) -> tuple[float, ...]:
    return tuple(side * factor for side in TISSUE)


@pytest.mark.parametrize(
    ("factor", "says"),
    [
        (1 / 4, "pixels of level 1"),
        (1 / 2, r"an image 2 times smaller \(or micrometers\)"),
        (1 / 8, "an image 8 times smaller"),
        (2, "an image 2 times larger"),
        (500, "nanometers"),
        (0.0005 * 4, "smaller than|millimeters|aren't pixels"),
    ],
)
def test_pixels_of_another_level_are_recognized(
    slide: Path, tmp_path: Path, factor: float, says: str
) -> None:
    assert tuple(bounds(slide, geojson(tmp_path / "a.geojson", TISSUE))) == TISSUE
    with pytest.raises((SlideError, InputError), match=says) as error:
        survey(slide, geojson(tmp_path / "b.geojson", scaled(factor)))
    assert "b.geojson" in str(error.value)


@pytest.mark.parametrize(
    ("box", "crs", "says"),
    [
        ((0.58, 0.58, 0.88, 0.83), None, r"look like shares of the image \(0 to 1\)"),
        ((0.0, 0.0, 1.0, 1.0), None, "look like shares of the image"),
        ((-71.0589, 42.3601, -71.0011, 42.3999), None, "look like degrees"),
        ((8.40421, 49.00937, 8.50021, 49.10937), None, "look like degrees"),
        ((-71.0589, 12.3601, 10.0011, 42.3999), None, "look like degrees|outside the image"),
        ((10.0, 20.0, 30.0, 40.0), "urn:ogc:def:crs:OGC:1.3:CRS84", "look like degrees"),
        ((58.59375, 58.59375, 87.89062, 83.00781), None, "degrees or percent"),
    ],
)
def test_degrees_and_shares_are_recognized(
    slide: Path, tmp_path: Path, box: tuple[float, ...], crs: str | None, says: str
) -> None:
    with pytest.raises((InputError, SlideError), match=says) as error:
        survey(slide, geojson(tmp_path / "a.geojson", box, crs=crs))
    assert "a.geojson" in str(error.value)


def test_annotation_on_glass_is_refused_with_numbers(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"only 0% .* \(x 100 to 500, y 1500 to 1900\)"):
        survey(slide, geojson(tmp_path / "a.geojson", (100, 1500, 500, 1900)))
    half = (1000, 1000, 1500, 1500)
    assert tuple(bounds(slide, geojson(tmp_path / "b.geojson", half))) == half


def test_what_lies_on_tissue_stays_accepted(slide: Path, tmp_path: Path) -> None:
    small = (1300, 1300, 1320, 1310)
    assert tuple(bounds(slide, geojson(tmp_path / "a.geojson", small))) == small
    crop = png(tmp_path / "crop.png", tissue_at(1024, 1024, (0, 0, 1024, 1024)))
    corner = (10.5, 10.5, 80.5, 80.25)
    assert tuple(bounds(crop, geojson(tmp_path / "b.geojson", corner), mpp=0.5)) == corner


@pytest.fixture(scope="module")
def hamamatsu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,280 x 1,024 pixels of 0.5 um, centered 3 mm left of the slide's center and 2 mm below."""
    path = tmp_path_factory.mktemp("ndpi") / "slide.ndpi"
    return ndpi(path, tissue_at(1024, 1280, DRAWN), center_nm=(-3_000_000, 2_000_000))


def ndpa(path: Path, *annotations: str) -> Path:
    views = "".join(
        f'<ndpviewstate id="{i}"><title>Tumor</title><coordformat>nanometers</coordformat>'
        f"{text}</ndpviewstate>"
        for i, text in enumerate(annotations)
    )
    path.write_text(f'<?xml version="1.0" encoding="utf-8"?><annotations>{views}</annotations>')
    return path


def freehand(box: tuple[float, ...], *, closed: int = 1) -> str:
    points = "".join(
        f"<point><x>{round(-3_000_000 + (x - 640) * 500)}</x>"
        f"<y>{round(2_000_000 + (y - 512) * 500)}</y></point>"
        for x, y in ring(box)[:-1]
    )
    return (
        '<annotation type="freehand" displayname="AnnotateFreehand" color="#000000">'
        f"<closed>{closed}</closed><pointlist>{points}</pointlist></annotation>"
    )


def test_ndpa_counts_nanometers_from_the_slides_center(hamamatsu: Path, tmp_path: Path) -> None:
    path = ndpa(
        tmp_path / "a.ndpa",
        freehand(DRAWN),
        freehand(DRAWN, closed=0),
        '<annotation type="pin"><x>1</x><y>2</y></annotation>',
    )
    found = survey(hamamatsu, path)
    (region,) = found.regions
    assert region.polygon.bounds == pytest.approx(DRAWN, abs=0.01)
    assert sum(found.left_out.values()) == 2


def test_ndpa_circle(hamamatsu: Path, tmp_path: Path) -> None:
    x, y = -3_000_000 + (500 - 640) * 500, 2_000_000 + (400 - 512) * 500
    circle = f'<annotation type="circle"><x>{x}</x><y>{y}</y><radius>50000</radius></annotation>'
    (region,) = survey(hamamatsu, ndpa(tmp_path / "a.ndpa", circle)).regions
    assert region.polygon.bounds == pytest.approx((400, 300, 600, 500), abs=0.01)


def test_ndpa_needs_its_slide(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"doesn't say where that is .*give the NDPI file"):
        survey(slide, ndpa(tmp_path / "a.ndpa", freehand(DRAWN)))
