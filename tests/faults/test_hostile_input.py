"""Files that someone made to break their reader: each is read, or refused in a sentence (faults 57
to 62)."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from imported_run import Imported
from PIL import Image

from morphomil.cli.settings_file import read_settings
from morphomil.cohort.manifest import read_manifest
from morphomil.errors import DamagedError, InputError, MorphomilError, SlideError
from morphomil.run import CommandLog, Ledger
from morphomil.segment.annotated import read_annotated
from morphomil.segment.folders import WEIGHTS, design_of, read_model_folder
from morphomil.slides.annotations import read_annotation
from morphomil.slides.image import open_image
from morphomil.slides.nuclei_files import read_nuclei
from morphomil.slides.regions import find_regions
from morphomil.types import ImageSource, PatchSettings

EXAMPLES = 3_000 if os.environ.get("MORPHOMIL_FAULTS", "sample") != "sample" else 60
bounded = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
NAMES = st.sampled_from(
    ["type", "features", "geometry", "coordinates", "properties", "Polygon", "positive", "vertices",
     "commands", "settings", "segment", "key", "outputs", "figures", "error", "empty",
     "rays", "widths", "outline", "types", "backbone", "prob", "nms", "edge_logit",
     "resolutions_mpp", "normalize", "temperature", "bias"],
)  # fmt: skip
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | NAMES
    | st.text(max_size=8)
    | st.just("half \ud83d")
)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(NAMES | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=12,
)
OBJECTS = st.dictionaries(NAMES, TREES, max_size=8)


@bounded
@given(tree=TREES | OBJECTS)
def test_any_ledger_and_log(tree: Any, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "{slide}/status.json", ("segment", "featurize"))
    path = ledger.entries_path("s")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(tree))
    assert ledger.state("s", "segment") in ("done", "empty", "failed", "missing")
    assert isinstance(ledger.cause("s", "featurize"), str)
    assert not ledger.is_done("s", "segment", "another key")
    (tmp_path / "run.json").write_text(json.dumps(tree))
    try:
        assert isinstance(CommandLog(tmp_path / "run.json").latest(), dict)
    except DamagedError as error:
        assert "run.json" in str(error)


@bounded
@given(name=st.sampled_from(["config", "morphomil", "ranges", "thresholds", "types"]), tree=OBJECTS)
def test_any_model_folder(name: str, tree: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(WEIGHTS / "default", folder, dirs_exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(tree))
    try:
        files = read_model_folder(folder)
        if files.config["backbone"] == "efficientnet-lite0":
            design_of(files)
    except InputError as error:
        assert str(folder) in str(error)
    shutil.rmtree(folder)


@bounded
@given(
    place=st.sampled_from(
        [(file, name)
         for file, names in {
             "config": ("rays", "widths", "outline", "types", "backbone"),
             "morphomil": ("resolutions_mpp", "normalize", "stain"),
             "thresholds": ("prob", "nms", "edge_logit"),
             "ranges": ("decoder2a", "no layer"),
         }.items()
         for name in names]
    ),
    tree=TREES,
)  # fmt: skip
def test_any_changed_value_of_a_model(place: tuple[str, str], tree: Any, tmp_path: Path) -> None:
    folder, (file, name) = tmp_path / "model", place
    shutil.copytree(WEIGHTS / "default", folder, dirs_exist_ok=True)
    known = json.loads((folder / f"{file}.json").read_text())
    (folder / f"{file}.json").write_text(json.dumps(known | {name: tree}))
    try:
        files = read_model_folder(folder)
        if files.config["backbone"] == "efficientnet-lite0":
            design_of(files)
    except InputError as error:
        assert str(folder) in str(error)
    shutil.rmtree(folder)


@bounded
@given(data=st.data(), tree=TREES)
def test_any_changed_value_of_what_a_run_keeps(
    data: st.DataObject, tree: Any, imported: Imported
) -> None:
    """Whatever is changed in its log or its ledger is told, or read as nothing was changed."""
    run = imported.run
    path = data.draw(st.sampled_from([run.path / "run.json", run.ledger.entries_path("s0")]))
    whole = path.read_bytes()
    stored = json.loads(whole)
    branch: Any = stored
    while True:
        keys = sorted(branch) if isinstance(branch, dict) else range(len(branch))
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(branch[key], dict | list) or not branch[key] or data.draw(st.booleans()):
            break
        branch = branch[key]
    branch[key] = tree
    path.write_text(json.dumps(stored))
    try:
        for read in (run.segmented_with, lambda: run.features, lambda: run.whose):
            assert isinstance(read(), dict | tuple | str)
        assert run.figures("segment")["state"].isin(["done", "failed"]).all()
        assert set(run.losses("featurize")) <= {"s0"}
        run.nuclei("s0")
    except InputError as error:
        assert str(path) in str(error) or "slide s0" in str(error)
    path.write_bytes(whole)


@bounded
@given(tree=TREES | OBJECTS)
def test_any_annotation_as_json(tree: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(tree))
    with pytest.raises(InputError, match="annotation"):
        read_annotation(path)


TAGS = st.sampled_from(["Annotations", "Annotation", "Coordinates", "Coordinate", "ASAP", "Region"])
ATTRIBUTES = st.dictionaries(
    st.sampled_from(["X", "Y", "Order", "Name", "PartOfGroup", "Type"]),
    st.sampled_from(["1", "-1e999", "nan", "", "Tumor", "1,5", "&#65;"]),
    max_size=4,
)


@st.composite
def elements(draw: st.DrawFn, depth: int = 3) -> str:
    tag = draw(TAGS)
    words = "".join(f' {name}="{value}"' for name, value in draw(ATTRIBUTES).items())
    inner = draw(st.lists(elements(depth - 1), max_size=3)) if depth else []
    return f"<{tag}{words}>{''.join(inner)}</{tag}>"


@bounded
@given(text=elements(), cut=st.integers(0, 400))
def test_any_annotation_as_xml(text: str, cut: int, tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    for content in (text, text[:cut], f'<!DOCTYPE a [<!ENTITY b "c">]>{text}'):
        path.write_text(content)
        with pytest.raises(InputError, match="annotation"):
            read_annotation(path)


@bounded
@given(content=st.binary(max_size=80) | st.text(alphabet="slide,patient;\n\t\"'01é=", max_size=80))
def test_any_manifest(content: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(b"slide,patient,label\n" + raw)
    try:
        read_manifest(path)
    except MorphomilError as error:
        assert "m.csv" in str(error)


NUMBERS = (
    st.integers(-300, 600)
    | st.sampled_from([0, 256, 10**400, 1e308, -1e308, 1e-308, float("nan"), float("inf"), 2**53])
    | st.floats()
)
RINGS = st.lists(st.lists(NUMBERS, min_size=1, max_size=3), max_size=6).map(
    lambda ring: ring + ring[:1]
)
SHAPES = st.sampled_from(
    ["Point", "MultiPoint", "LineString", "Polygon", "MultiPolygon", "GeometryCollection", "Circle"]
)
GEOMETRIES = st.fixed_dictionaries(
    {"type": SHAPES, "coordinates": st.recursive(RINGS, lambda inner: st.lists(inner, max_size=3))}
)
NAMED = st.fixed_dictionaries(
    {"type": st.just("Feature"), "geometry": GEOMETRIES | TREES},
    optional={
        "properties": st.dictionaries(
            st.sampled_from(["classification", "name", "objectType", "isLocked", "measurements"]),
            TREES
            | st.sampled_from([{"name": "Tumor"}, {"name": "Tumor \ud83d"}])
            | st.sampled_from(["Tumor", "annotation"]),
            max_size=3,
        ),
        "nucleusGeometry": GEOMETRIES,
    },
)


@bounded
@given(features=st.lists(NAMED, max_size=4), as_list=st.booleans())
def test_any_shapes(features: list[Any], as_list: bool, imported: Imported) -> None:
    """As the annotation of a slide and as its nuclei."""
    path = imported.folder / "shapes.geojson"
    tree = features if as_list else {"type": "FeatureCollection", "features": features}
    path.write_text(json.dumps(tree))
    source = ImageSource(imported.image(0), annotation=path, mpp=0.5)
    settings = PatchSettings(patch_px=128, regions="annotation")
    with open_image(source) as image:
        for read in (
            lambda: find_regions(image, source, image_index=0, first_index=0, settings=settings),
            lambda: read_nuclei(path, image).said.to_dict(),
        ):
            try:
                assert r"\ud83d" not in repr(read())
            except MorphomilError as error:
                assert "shapes.geojson" in str(error)
                str(error).encode()


CELLS = st.sampled_from(
    ["", " ", "s0.png", "s1.png", "gone.svs", "../s0.png", "/", "0", "1", "01", "nan", "-1", "1e9",
     "train", "val", "Test", "level0", "p", "P", "é", "=1+1", "0,25", "\0", "a" * 300, "\u202e"]
) | st.text(max_size=6)  # fmt: skip
HEADS = st.lists(
    st.sampled_from(
        ["slide", "patient", "label", "slide_id", "split", "annotation", "annotation_origin", "mpp",
         "site", "age", "Slide", "", "label "]
    ),
    min_size=1, max_size=9,
)  # fmt: skip


@bounded
@given(head=HEADS, data=st.data(), options=st.dictionaries(
    st.sampled_from(["drop_missing", "distinct_ids"]), st.booleans()))  # fmt: skip
def test_any_cells_of_a_manifest(
    head: list[str], data: st.DataObject, options: dict[str, bool], imported: Imported
) -> None:
    rows = data.draw(st.lists(st.lists(CELLS, min_size=1, max_size=len(head) + 1), max_size=4))
    path = imported.folder / "m.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter=data.draw(st.sampled_from([",", ";", "\t"]))).writerows(
            [["slide", "patient", "label", *head], *rows]
        )
    covariates = ("age",) if "age" in head else ()
    try:
        read_manifest(path, covariates=covariates, mpp=0.5, **options)
    except MorphomilError as error:
        assert str(error)


PACKED = ("zlib", "lzma", "lzw", "zstd", "packbits", "png", None)
DAMAGE = st.one_of(
    st.tuples(st.just("cut"), st.integers(0, 90) | st.integers(0, 60_000), st.just(0)),
    *(
        st.tuples(st.just("flip"), place, st.integers(0, 255))
        for place in (st.integers(0, 400), st.integers(0, 60_000), st.integers(-400, -1))
    ),
)


def damaged(whole: bytes, damages: list[tuple[str, int, int]]) -> bytes:
    content = bytearray(whole)
    for how, place, value in damages:
        if not content:
            break
        if how == "cut":
            del content[place % len(content) :]
        else:
            content[place % len(content)] = value
    return bytes(content)


@pytest.fixture(scope="module")
def image_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bytes]]:
    """By its name: the bytes of an image of 160 x 160 pixels, and of labels of its nuclei."""
    folder, rng = tmp_path_factory.mktemp("whole"), np.random.default_rng(0)
    rgb = (rng.integers(0, 60, (160, 160, 3)) + np.array([180, 90, 150])).astype(np.uint8)
    labels = np.zeros((160, 160), np.uint16)
    for number, (row, column) in enumerate(np.ndindex(6, 6), start=1):
        labels[row * 25 : row * 25 + 14, column * 25 : column * 25 + 14] = number
    files = {}
    for name in PACKED:
        for image, path in ((rgb, folder / "rgb.tif"), (labels, folder / "labels.tif")):
            tifffile.imwrite(path, image, compression=name, tile=(64, 64))
        files[f"{name}.tif"] = (folder / "rgb.tif", folder / "labels.tif")
    Image.fromarray(rgb).save(folder / "rgb.png")
    Image.fromarray(labels).save(folder / "labels.png")
    files["a.png"] = (folder / "rgb.png", folder / "labels.png")
    return {name: (image.read_bytes(), own.read_bytes()) for name, (image, own) in files.items()}


@bounded
@given(
    name=st.sampled_from([*(f"{name}.tif" for name in PACKED), "a.png"]),
    damages=st.lists(DAMAGE, min_size=1, max_size=4),
)
@example(name="lzma.tif", damages=[("flip", 3_000 + byte, 7) for byte in range(20)])
@example(name="zlib.tif", damages=[("cut", 700, 0)])
@example(name="zlib.tif", damages=[("cut", 4, 0)])
@example(name="zlib.tif", damages=[("flip", 18, 1)])
@example(name="a.png", damages=[("cut", 33, 0)])
@example(name="a.png", damages=[("cut", 40, 0)])
@pytest.mark.filterwarnings("ignore")
def test_any_damage_to_an_image(
    name: str,
    damages: list[tuple[str, int, int]],
    image_files: dict[str, tuple[bytes, bytes]],
    tmp_path: Path,
) -> None:
    """As a slide, as labels of nuclei, and among the images to train on; a header that asks for
    more memory than there is is told as that."""
    path, slide = tmp_path / f"damaged_{name}", tmp_path / "slide.png"
    rgb, labels = image_files[name]
    slide.write_bytes(image_files["a.png"][0])

    def as_slide() -> None:
        path.write_bytes(damaged(rgb, damages))
        with open_image(ImageSource(path, mpp=0.5)) as image:
            image.read(0, 0, 160, 160, downsample=1)

    def as_labels() -> None:
        path.write_bytes(damaged(labels, damages))
        with open_image(ImageSource(slide, mpp=0.5)) as image:
            nuclei = read_nuclei(path, image)
            chosen = np.arange(len(nuclei.centers))
            canvas = np.zeros((160, 160), np.int32)
            nuclei.draw(canvas, chosen, 1, x_px=0, y_px=0, downsample=1)

    def to_train_on() -> None:
        row = {"image": slide.name, "labels": path.name, "mpp": 0.5}
        read_annotated(pd.DataFrame([row]), tmp_path)

    for read in (as_slide, as_labels, to_train_on):
        try:
            read()
        except MorphomilError as error:
            assert path.name in str(error)
        except MemoryError:
            pass


def test_a_label_image_that_is_damaged_after_it_was_opened(
    image_files: dict[str, tuple[bytes, bytes]], tmp_path: Path
) -> None:
    """It is decoded part by part, each time it is drawn."""
    path, slide = tmp_path / "labels.tif", tmp_path / "slide.png"
    slide.write_bytes(image_files["a.png"][0])
    path.write_bytes(image_files["zlib.tif"][1])
    with open_image(ImageSource(slide, mpp=0.5)) as image:
        nuclei = read_nuclei(path, image)
    path.write_bytes(image_files["zlib.tif"][1][:700])
    canvas = np.zeros((160, 160), np.int32)
    with pytest.raises(SlideError, match=r"nuclei .*labels\.tif can't be read"):
        nuclei.draw(canvas, np.arange(36), 1, x_px=0, y_px=0, downsample=1)


@pytest.mark.usefixtures("without_waiting")
def test_nothing_waits_for_a_pipe(imported: Imported) -> None:
    path = imported.folder / "pipe.tif"
    os.mkfifo(path)
    with open_image(ImageSource(imported.image(0), mpp=0.5)) as image:
        for read in (
            lambda: read_manifest(path),
            lambda: read_annotation(path),
            lambda: read_nuclei(path, image),
            lambda: open_image(ImageSource(path, mpp=0.5)),
            lambda: read_settings(path, {}),
        ):
            with pytest.raises(MorphomilError, match=r"pipe\.tif can't be read: it is a pipe"):
                read()


def test_a_manifest_may_come_from_another_command(imported: Imported) -> None:
    """As by `<(command)` in a shell."""
    end, start = os.pipe()
    os.write(start, f"slide,patient,label\n{imported.image(0)},p,1\n".encode())
    os.close(start)
    slides = read_manifest(Path(f"/dev/fd/{end}"), mpp=0.5).cohort.slides
    os.close(end)
    assert [slide.patient for slide in slides] == ["p"]
