"""SpatialData stores: what is in them, back into a run, and as spatialdata itself reads them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely
import zarr
from measured_run import add_types

from morphomil import pipeline
from morphomil.export import export_run
from morphomil.run.directory import Run

READER = Path(__file__).parents[2] / ".venv-spatialdata" / "bin" / "python"


@pytest.fixture(scope="module")
def run(make_run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make_run(tmp_path_factory.mktemp("known") / "run", ("plain", "../=1"), images=2)
    add_types(run, "plain", [0.5, 0.3, 0.2, 0])
    pipeline.featurize(run)
    return run


def test_a_store_for_every_image(run: Run, tmp_path: Path) -> None:
    paths = export_run(run, "spatialdata", out=tmp_path)
    assert len(paths) == 4
    assert {path.parent for path in paths} == {tmp_path}
    nuclei = run.nuclei("plain").query("image == 1").set_index("label")
    store = zarr.open_group(tmp_path / "plain_1.zarr", mode="r")
    shapes = pd.read_parquet(tmp_path / "plain_1.zarr" / "shapes" / "nuclei" / "shapes.parquet")
    assert sorted(shapes.index) == sorted(nuclei.index)
    outlines = shapely.from_wkb(shapes["geometry"].to_numpy())
    areas = pd.Series(shapely.area(outlines) * 0.25**2, index=shapes.index)
    np.testing.assert_allclose(areas[nuclei.index], nuclei["area_um2"])
    table = store["tables/measurements"]
    assert table.attrs["instance_key"] == "nucleus"
    np.testing.assert_array_equal(table["obs/nucleus"][:], sorted(nuclei.index))
    for name in ("nuclei", "patches", "regions"):
        systems = store[f"shapes/{name}"].attrs["coordinateTransformations"]
        assert [one["output"]["name"] for one in systems] == ["global", "um"]
        assert systems[1]["scale"] == [0.25, 0.25]


@pytest.mark.skipif(not READER.is_file(), reason="make test-spatialdata builds .venv-spatialdata")
def test_spatialdata_reads_and_writes_it(run: Run, tmp_path: Path) -> None:
    """In an environment of its own, which is large."""
    export_run(run, "spatialdata", out=tmp_path)
    script = Path(__file__).parent / "read_spatialdata.py"
    done = subprocess.run([READER, script, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert len(said) == 4
    for image in (0, 1):
        own = run.nuclei("plain").query("image == @image").set_index("label")
        found = said[f"plain_{image}"]
        assert found["shapes"] == {"nuclei": len(own), "patches": 4, "regions": 1}
        assert found["measured"] == pytest.approx(own.loc[found["numbers"], "area_um2"].tolist())
        areas = {int(number): area for number, area in found["area_um2"].items()}
        assert areas == pytest.approx(own["area_um2"].to_dict())
        assert found["systems"] == ["global", "um"]
        assert found["patient"] == "=1+1"
        assert set(found["types"]) == {"epithelial", "lymphocyte", "stroma"}
