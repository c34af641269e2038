"""What other tools read of a run: QuPath's GeoJSON, h5ad, HDF5 bags, CSV; hostile names
everywhere."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import shapely

from morphomil.errors import InputError
from morphomil.export import export_run, file_stems
from morphomil.export.qupath_names import nucleus_measurement, patch_measurement
from morphomil.nuclei.registry import FEATURES
from morphomil.run.directory import Run
from morphomil.types import FEATURE_NAMES, Cohort, ImageSource, Slide

MakeRun = Callable[..., Run]
READER = Path(__file__).parents[2] / ".venv-readers" / "bin" / "python"


@pytest.fixture(scope="module")
def run(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("known") / "run")


def read_geojson(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        tree = json.load(stream)
    assert tree["type"] == "FeatureCollection"
    return list(tree["features"])


def of_type(features: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [feature for feature in features if feature["properties"]["objectType"] == kind]


@pytest.mark.parametrize("target", ["qupath", "anndata", "trident", "clam", "csv"])
def test_hostile_names_stay_in_the_folder(run: Run, tmp_path: Path, target: Any) -> None:
    before = set(tmp_path.parent.rglob("*"))
    written = export_run(run, target, out=tmp_path / "out")
    assert len(set(written)) == len(written) > 0
    assert all(
        path.is_file() and path.resolve().is_relative_to(tmp_path / "out") for path in written
    )
    new = {path for path in set(tmp_path.parent.rglob("*")) - before if path.is_file()}
    assert new == set(written)


def test_every_nucleus_is_a_detection_with_its_measurements(
    run: Run, hostile: tuple[str, ...], tmp_path: Path
) -> None:
    slide_id = hostile[1]
    (path,) = export_run(run, "qupath", out=tmp_path, slides=[slide_id])
    features = read_geojson(path)
    nuclei, patches = run.nuclei(slide_id).set_index("label"), run.patches(slide_id)
    detections = of_type(features, "detection")
    assert Counter(f["properties"]["objectType"] for f in features) == {
        "annotation": 1,
        "tile": len(patches),
        "detection": len(nuclei),
    }
    assert len({feature["id"] for feature in features}) == len(features)
    for feature in detections:
        said = feature["properties"]["measurements"]
        row = nuclei.loc[said["Label"]]
        outline = shapely.geometry.shape(feature["geometry"])
        assert outline.is_valid
        assert outline.area * 0.25**2 == pytest.approx(row["area_um2"], rel=1e-6)
        center = outline.centroid
        assert (center.x, center.y) == pytest.approx((row["x_px"], row["y_px"]), abs=1e-6)
        for name in FEATURE_NAMES:
            measured = said.get(nucleus_measurement(name), np.nan)
            assert measured == pytest.approx(row[name], rel=1e-6, nan_ok=True)
    places = sorted(
        tuple(shapely.geometry.shape(f["geometry"]).bounds[:2]) for f in of_type(features, "tile")
    )
    assert places == sorted(zip(patches["x_px"], patches["y_px"], strict=True))


def test_measurements_are_named_as_qupath_names_them(run: Run, tmp_path: Path) -> None:
    (path,) = export_run(run, "qupath", out=tmp_path, slides=["plain"])
    features = read_geojson(path)
    nucleus = of_type(features, "detection")[0]["properties"]["measurements"]
    assert {
        "Nucleus: Area µm^2",
        "Nucleus: Major axis µm",
        "Nucleus: Orientation °",
        "Nucleus: Density per mm^2",
        "Nucleus: Circularity",
    } <= set(nucleus)
    patch = of_type(features, "tile")[0]["properties"]["measurements"]
    assert {"Nucleus: Area µm^2: Median", "Orientation polarity", "Tissue mm^2"} <= set(patch)
    assert nucleus_measurement("contribution_area_um2") == "Contribution: Area"
    assert patch_measurement("type_mixing") == "Nucleus: Mixing of types: Mean"
    assert (
        patch_measurement("type_inside_per_mm2") == "Density of lymphocytes inside nests per mm^2"
    )


def test_tiles_carry_the_scores_of_image_models(run: Run, tmp_path: Path) -> None:
    copy = Run(shutil.copytree(run.path, tmp_path / "run"))
    for fold, attention in (("fold0", 0.25), ("fold1", 0.75)):
        folder = copy.path / "models" / "dl-cnb" / fold
        folder.mkdir(parents=True)
        table = pd.DataFrame({"slide_id": ["plain"], "patch_id": [2], "attention": [attention]})
        table.to_parquet(folder / "attention.parquet")
    (path,) = export_run(copy, "qupath", out=tmp_path / "out", slides=["plain"])
    tiles = {
        f["properties"]["name"]: f["properties"]["measurements"]
        for f in of_type(read_geojson(path), "tile")
    }
    assert tiles["patch 2"]["Attention dl-cnb"] == 0.5
    assert "Attention dl-cnb" not in tiles["patch 0"]
    assert tiles["patch 0"]["Nuclei"] == (copy.nuclei("plain")["patch_id"] == 0).sum()


def test_equal_runs_give_equal_bytes_and_windows_leave_no_trace(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from morphomil.export import outlines

    (first,) = export_run(run, "qupath", out=tmp_path / "1", slides=["plain"])
    (second,) = export_run(run, "qupath", out=tmp_path / "2", slides=["plain"])
    assert first.read_bytes() == second.read_bytes()
    monkeypatch.setattr(outlines, "TILE_PX", 50)
    (tiled,) = export_run(run, "qupath", out=tmp_path / "3", slides=["plain"])
    ordered = [
        sorted(read_geojson(path), key=lambda feature: str(feature["id"]))
        for path in (first, tiled)
    ]
    assert ordered[0] == ordered[1]


def test_each_image_of_a_slide_has_its_own_file(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ("a", "b"), images=2)
    paths = export_run(run, "qupath", out=tmp_path / "out", slides=["b"])
    assert [path.name for path in paths] == ["b_0.geojson.gz", "b_1.geojson.gz"]
    found = [len(of_type(read_geojson(path), "detection")) for path in paths]
    nuclei = run.nuclei("b")
    assert found == [int((nuclei["image"] == image).sum()) for image in (0, 1)]
    assert min(found) > 50


def test_no_two_images_share_a_file(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    image = ImageSource(tmp_path / "a.png")
    cohort = [
        Slide(name, name, "1", (image,) * count)
        for name, count in (("a", 2), ("a_1", 1), ("A_0", 1), ("a_0", 1))
    ]
    run.save_cohort(Cohort(tuple(cohort)))
    stems = list(file_stems(run).values())
    assert len({stem.casefold() for stem in stems}) == len(stems) == 5
    assert stems[:2] == ["a_0", "a_1"]


def test_h5ad_by_the_specification(run: Run, hostile: tuple[str, ...], tmp_path: Path) -> None:
    patches, histograms, slides, *nuclei = export_run(run, "anndata", out=tmp_path)
    assert [path.stem for path in nuclei] == list(file_stems(run).values())
    with h5py.File(patches) as file:
        assert dict(file.attrs) == {"encoding-type": "anndata", "encoding-version": "0.1.0"}
        assert file["X"].shape == (sum(run.patches()["kept"]), 8)
        assert file["obsm/spatial"][0].tolist() == pytest.approx(
            [(100 + 128) * 0.25, (60 + 128) * 0.25]
        )
        assert file["obsm/spatial_px"][0].tolist() == [228, 188]
    with h5py.File(histograms) as file:
        counts = file["X"][:]
        measured = run.nuclei()["area_um2"].notna().sum()
        assert counts[:, :32].sum() == measured
        assert counts.shape[1] == 8 * 32
    with h5py.File(slides) as file:
        names = [name.decode() for name in file["obs/slide_id"][:]]
        assert names == list(hostile)
    table = run.nuclei(hostile[0])
    with h5py.File(nuclei[0]) as file:
        np.testing.assert_array_equal(file["X"][:], table[list(FEATURE_NAMES)])
        np.testing.assert_array_equal(file["obs/nucleus"][:], table["label"])
        np.testing.assert_array_equal(file["obsm/spatial_px"][:], table[["x_px", "y_px"]])
        np.testing.assert_allclose(file["obsm/spatial"][:], table[["x_px", "y_px"]] * 0.25)
        assert file["var/unit"]["categories"][0].decode() == "1"


@pytest.mark.skipif(
    not READER.is_file(), reason="make test builds .venv-readers; anndata needs another pandas"
)
def test_anndata_reads_and_writes_it(run: Run, hostile: tuple[str, ...], tmp_path: Path) -> None:
    """In an environment of its own: anndata asks for an older pandas than morphomil."""
    export_run(run, "anndata", out=tmp_path)
    script = Path(__file__).parent / "read_h5ad.py"
    done = subprocess.run(
        [READER, "-W", "error", script, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    values = run.nuclei("plain").query("patch_id == 0")["area_um2"]
    assert said["patches"]["first"] == pytest.approx(values.median())
    assert said["slides"]["obs_names"] == list(hostile)
    assert said["slides"]["patient"][0] == "=1+1"
    assert said["slides"]["age"][:2] == [40, 41]
    assert list(said["patches"]["settings"]) == ["featurize"]
    assert said["histograms"]["shape"] == [4 * len(hostile), 256]
    names = list(run.nuclei("plain")["label"].astype(str))
    assert said["nuclei/plain"]["obs_names"] == [f"plain:{name}" for name in names]
    assert said["nuclei/plain"]["patient"][0] == "=1+1"
    assert said["patches"]["var_names"] == [FEATURES[name].value for name in FEATURE_NAMES]


def test_no_cell_of_a_csv_is_a_formula(run: Run, tmp_path: Path) -> None:
    for path in export_run(run, "csv", out=tmp_path):
        with path.open(encoding="utf-8", newline="") as stream:
            for cells in csv.reader(stream):
                for cell in cells:
                    assert not cell.startswith(("=", "+", "@", "\t", "\r", "\0"))
                    assert not cell.startswith("-") or float(cell) < 0
    slides = pd.read_csv(tmp_path / "slides.csv")
    assert slides["slide_id"].iloc[-1] == "'-1"
    nuclei = pd.read_csv(tmp_path / "nuclei" / "plain.csv")
    expected = run.nuclei("plain").assign(type=np.nan)  # nobody knows types here
    pd.testing.assert_frame_equal(nuclei, expected, check_dtype=False, rtol=1e-12)
    patches = pd.read_csv(tmp_path / "patches" / "plain.csv")
    assert patches["nuclei"].sum() == len(nuclei)


def test_what_cannot_be_exported_is_told(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="such as plain"):
        export_run(run, "csv", out=tmp_path, slides=["plane"])
    with pytest.raises(InputError, match="excel"):
        export_run(run, "excel", out=tmp_path)  # type: ignore[arg-type]
    empty = Run.create(tmp_path / "run")
    empty.save_cohort(Cohort((Slide("a", "p", "1", (ImageSource(tmp_path / "a.png"),)),)))
    with pytest.raises(InputError, match="morphomil featurize"):
        export_run(empty, "csv")


def test_a_slide_without_nuclei_is_left_out(make_run: MakeRun, tmp_path: Path) -> None:
    import zarr

    from morphomil import pipeline

    run = make_run(tmp_path / "run", ("bare", "full"))
    zarr.open_group(run.slide_folder("bare") / "masks.zarr")["0"]["labels"][:] = 0
    run.ledger.mark_done(
        "bare",
        "segment",
        "bare",
        outputs=["patches.parquet", "regions.geojson", "masks.zarr"],
        figures={},
    )
    pipeline.featurize(run)
    for target in ("qupath", "anndata", "trident", "clam", "csv"):
        with pytest.raises(InputError, match=r"slide bare has no nuclei to export: \S+"):
            export_run(run, target, out=tmp_path / target, slides=["bare"])  # type: ignore[arg-type]
        assert export_run(run, target, out=tmp_path / target)  # type: ignore[arg-type]
    assert sorted(path.name for path in (tmp_path / "qupath").glob("*.gz")) == ["full.geojson.gz"]


def test_the_command(run: Run, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("morphomil")
    words = [
        str(program),
        "export",
        str(run.path),
        "--to",
        "csv",
        "--out",
        str(tmp_path),
        "--slide",
        "plain",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "3 files" in done.stdout
    assert sorted(path.name for path in tmp_path.rglob("*.csv")) == [
        "plain.csv",
        "plain.csv",
        "slides.csv",
    ]
    done = subprocess.run([*words[:-1], "nowhere"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no slide 'nowhere'" in done.stderr
