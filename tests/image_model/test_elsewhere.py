"""Features of other programs, written as these write them: read, trained on, refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import shapely
import zarr
from embedded_run import morphomil
from pyarrow import parquet
from sklearn.metrics import roc_auc_score

from morphomil.errors import InputError
from morphomil.image_model.elsewhere import describe_features, read_tile_features
from morphomil.run.directory import Run
from morphomil.run.embeddings import Embeddings

Write = Callable[..., None]
SIDE = 512.0
CORNERS = np.array([[x, y] for x in range(0, 2048, 512) for y in range(0, 1536, 512)])


def write_trident(path: Path, values: np.ndarray, corners: np.ndarray) -> None:
    """As `save_h5` of TRIDENT."""
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=values, chunks=(1, values.shape[1]))
        coords = file.create_dataset("coords", data=corners.astype(np.int64))
        file["features"].attrs.update({"name": path.stem, "savetodir": "features_uni_v1"})
        coords.attrs.update(
            {
                "patch_size": 256,
                "patch_size_level0": 512,
                "level0_magnification": 40,
                "target_magnification": 20,
                "overlap": 0,
                "name": path.stem,
                "level0_width": 4096,
            }
        )


def write_clam(path: Path, values: np.ndarray, corners: np.ndarray) -> None:
    """As `compute_w_loader` of CLAM: no attributes."""
    with h5py.File(path, "w") as file:
        file["features"] = values
        file["coords"] = corners.astype(np.int32)


def write_stamp(path: Path, values: np.ndarray, corners: np.ndarray) -> None:
    """As `extract_` of STAMP: um, half precision; here 0.25 um per pixel."""
    with h5py.File(path, "w") as file:
        file["coords"] = (corners * 0.25).astype(np.float32)
        file["feats"] = values.astype(np.float16)
        file.attrs.update(
            {
                "stamp_version": "2.4.0",
                "extractor": "uni2",
                "unit": "um",
                "tile_size_um": 128.0,
                "tile_size_px": 224,
                "feat_type": "tile",
            }
        )


def write_lazyslide(path: Path, values: np.ndarray, corners: np.ndarray) -> None:
    """As wsidata's `add_tiles` and `add_features`, written by SpatialData."""
    store = zarr.open_group(path, mode="w")
    store.attrs["tile_spec"] = {"tiles": {"width": 256, "height": 256, "mpp": 0.5}}
    tables = store.create_group("tables")
    tables.create_group("virchow2_tiles").create_array("X", data=values)
    folder = path / "shapes" / "tiles"
    folder.mkdir(parents=True)
    squares = [shapely.box(x, y, x + SIDE, y + SIDE) for x, y in corners]
    table = pa.table({"geometry": shapely.to_wkb(np.array(squares, dtype=object))})
    parquet.write_table(table, folder / "shapes.parquet")


LAYOUTS: dict[str, tuple[Write, str, str, str]] = {
    "trident": (write_trident, ".h5", "uni_v1", "256 px at 20 x"),
    "clam": (write_clam, ".h5", "uni_v1", ""),
    "stamp": (write_stamp, ".h5", "uni2", "128 um"),
    "lazyslide": (write_lazyslide, ".zarr", "virchow2", "256 px of 0.5 um"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_each_program_writes_is_read(layout: str, tmp_path: Path) -> None:
    write, ending, encoder, tile = LAYOUTS[layout]
    folder = tmp_path / "features_uni_v1"
    folder.mkdir()
    values = np.random.default_rng(0).normal(size=(len(CORNERS), 20)).astype(np.float32)
    path = folder / f"a{ending}"
    write(path, values, CORNERS)
    about = describe_features(path)
    assert (about.layout, about.encoder, about.tile) == (layout, encoder, tile)
    assert (about.tiles, about.features) == (12, 20)
    read = read_tile_features(path)
    np.testing.assert_allclose(read.values, values, atol=2e-3)
    factor = 0.25 if read.unit == "um" else 1
    np.testing.assert_allclose(read.tiles[["x", "y"]], CORNERS * factor)
    np.testing.assert_allclose(read.tiles["side"], SIDE * factor)
    assert (read.unit == "um") == (layout == "stamp")


def cohort(
    folder: Path, write: Write, ending: str, *, patients: int = 40, shift: float = 3.0
) -> tuple[Path, Path]:
    """A manifest whose slides aren't there, and features that tell the labels apart."""
    rng, rows = np.random.default_rng(1), []
    features = folder / "features_uni_v1"
    features.mkdir(parents=True)
    for number in range(patients):
        rows.append(
            {"slide": f"slides/s{number}.svs", "patient": f"p{number}", "label": number % 2}
        )
        values = rng.normal(size=(len(CORNERS), 16)).astype(np.float32)
        values[:6, 0] += shift * (number % 2)
        write(features / f"s{number}{ending}", values, CORNERS)
    pd.DataFrame(rows).to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv", features


def test_features_are_learned_from_without_slides(tmp_path: Path) -> None:
    manifest, features = cohort(tmp_path, write_trident, ".h5")
    run = tmp_path / "run"
    words = ("import-features", manifest, "--features", features, "--out", run)
    done = morphomil(*words)
    assert done.returncode == 0, done.stderr
    assert "16 features" in done.stdout
    stored = Embeddings(Run.open(run), "uni_v1")
    assert len(stored.done()) == 40
    tiles = stored.tiles("s0")
    assert tiles is not None
    assert tiles[["x", "y", "side"]].iloc[1].tolist() == [0, 512, 512]
    assert "40/40 skipped" in morphomil(*words).stderr
    options = ("--folds", "2", "--epochs", "30", "--learning-rate", "0.01", "--quiet")
    trained = morphomil("train", run, "--model", "dl-cnb", *options)
    assert trained.returncode == 0, trained.stderr
    assert morphomil("predict", run, "--quiet").returncode == 0
    scores = pd.read_parquet(run / "models" / "dl-cnb" / "predictions.parquet")
    test = scores[scores["part"] == "test"]
    assert len(test) == 40
    assert roc_auc_score(test["label"], test["score"]) > 0.9
    table = pd.read_parquet(run / "models" / "dl-cnb" / "fold0" / "attention.parquet")
    assert table["patch_id"].isna().all()
    assert table.groupby("slide_id")["tile"].agg(list).map(lambda own: own == [*range(12)]).all()
    compared = morphomil("compare", run, "--quiet")
    assert compared.returncode == 0, compared.stderr
    drawn = morphomil("heatmap", run, "--slide", "s0")
    assert drawn.returncode != 0
    assert "s0.svs is missing" in drawn.stderr


def refusal(manifest: Path, features: Path, *words: str) -> str:
    done = morphomil(
        "import-features", manifest, "--features", features, "--out", manifest.parent / "r", *words
    )
    assert done.returncode == 2
    return done.stderr


def test_what_doesnt_go_together_is_refused(tmp_path: Path) -> None:
    manifest, features = cohort(tmp_path, write_trident, ".h5", patients=4)
    (features / "s3.h5").unlink()
    said = refusal(manifest, features)
    assert "1 of 4 images have no file of features" in said
    assert "s3.svs.h5" not in said
    assert "s3.h5" in said
    write_trident(features / "s3.h5", np.zeros((12, 8), np.float32), CORNERS)
    said = refusal(manifest, features)
    assert "of different widths: 16 numbers (3, such as s0), 8 numbers (1, such as s3)" in said
    write_stamp(features / "s3.h5", np.zeros((12, 16), np.float32), CORNERS)
    said = refusal(manifest, features)
    assert "of different programs: TRIDENT (3, such as s0), STAMP (1, such as s3)" in said
    assert "of different encoders: uni_v1 (3, such as s0), uni2 (1, such as s3)" in said
    (features / "s3.h5").unlink()
    (features / "virchow").mkdir()
    write_trident(features / "virchow" / "s0.h5", np.zeros((12, 16), np.float32), CORNERS)
    said = refusal(manifest, features, "--allow-absent")
    assert "s0.svs has more than one file of features" in said


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(b"no HDF5")
    with pytest.raises(InputError, match=r"a\.h5 can't be read"):
        describe_features(path)
    with h5py.File(path, "w") as file:
        file["coords"] = CORNERS
    with pytest.raises(InputError, match="holds no features: it has coords"):
        describe_features(path)
    write_clam(path, np.zeros((3, 4), np.float32), CORNERS)
    with pytest.raises(InputError, match="features of 3 tiles and positions of 12"):
        read_tile_features(path)
    with h5py.File(path, "w") as file:
        file["features"] = np.zeros(768, np.float32)
    with pytest.raises(InputError, match="features of whole slides"):
        describe_features(path)
    write_clam(path, np.full((12, 4), 1e9, np.float32), CORNERS)
    with pytest.raises(InputError, match="half precision can't hold"):
        read_tile_features(path)
    store = tmp_path / "b.zarr"
    write_lazyslide(store, np.zeros((12, 4), np.float32), CORNERS)
    zarr.open_group(store, mode="a")["tables"].create_group("uni_tiles").create_array(
        "X", data=np.zeros((12, 8), np.float32)
    )
    with pytest.raises(InputError, match="uni_tiles, virchow2_tiles; name the table"):
        describe_features(store)
    assert describe_features(store, table="uni").features == 8
