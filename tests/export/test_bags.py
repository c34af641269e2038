"""What TRIDENT and CLAM read of a run; with torch, which writes CLAM's tensors."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from morphomil.errors import InputError
from morphomil.export import export_run
from morphomil.run.directory import Run


@pytest.fixture(scope="module")
def run(make_run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("known") / "run")


def test_trident_and_clam_bags(run: Run, hostile: tuple[str, ...], tmp_path: Path) -> None:
    copy = Run(shutil.copytree(run.path, tmp_path / "run"))
    folder = copy.path / "embeddings" / "vgg16_bn"
    folder.mkdir(parents=True)
    embedded = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    np.save(folder / f"{copy.slide_folder(hostile[2]).name}.npy", embedded)
    trident = {path.name: path for path in export_run(copy, "trident", out=tmp_path / "trident")}
    assert len(trident) == len(hostile) + 1
    with h5py.File(trident["plain_patches.h5"]) as file:
        coords = file["coords"]
        assert coords.dtype.kind == "i"
        assert coords[:].tolist() == run.patches("plain")[["x_px", "y_px"]].to_numpy().tolist()
        said = dict(coords.attrs)
    assert (said["patch_size"], said["patch_size_level0"], said["overlap"]) == (128, 256, 0)
    assert (said["level0_magnification"], said["target_magnification"]) == (40, 20)
    (features,) = (tmp_path / "trident" / "features_vgg16_bn").iterdir()
    with h5py.File(features) as file:
        np.testing.assert_array_equal(file["features"][:], embedded)
        assert file["coords"].shape == (4, 2)
    clam = export_run(copy, "clam", out=tmp_path / "clam")
    with h5py.File(tmp_path / "clam" / "patches" / "plain.h5") as file:
        assert (file["coords"].attrs["patch_size"], file["coords"].attrs["patch_level"]) == (256, 0)
    bags = tmp_path / "clam" / "features_vgg16_bn"
    (stem,) = (path.stem for path in (bags / "h5_files").iterdir())
    tensor = torch.load(bags / "pt_files" / f"{stem}.pt", weights_only=True)
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), embedded)
    assert clam[-1].name == "dataset.csv"
    header, first, *_ = csv.reader(clam[-1].read_text(encoding="utf-8").splitlines())
    assert header == ["case_id", "slide_id", "label"]
    assert first == ["'=1+1", "plain", "0"]
    np.save(folder / "plain.npy", embedded[:3])
    with pytest.raises(InputError, match="4 kept patches"):
        export_run(copy, "trident", out=tmp_path / "again")
