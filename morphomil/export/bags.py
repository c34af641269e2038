"""TRIDENT and CLAM: one HDF5 file for each image with `coords` (level-0 pixels) and, where
embedded, `features`.

For CLAM the features also as a tensor of torch, which is what its training reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.errors import InputError
from morphomil.run.embeddings import Embeddings
from morphomil.store import atomic_path, hdf5_file, reading, write_table_csv

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from morphomil.run.directory import Run
    from morphomil.types import Slide

MAGNIFICATION_MPP = 10.0
"""um per pixel times magnification give this: 0.5 um per pixel is called 20 x, 0.25 is called 40
x."""


def write_trident(run: Run, slides: Sequence[Slide], folder: Path) -> Iterator[Path]:
    """`patches/STEM_patches.h5` of every image; `features_BACKBONE/STEM.h5` where the patches are
    embedded."""
    for slide, stem, patches in _images(run, slides):
        frame = run.masks(slide.slide_id)[int(patches["region"].iloc[0])].frame
        attributes = {
            "patch_size": frame.patch_px,
            "patch_size_level0": round(float(patches["side_px"].iloc[0])),
            "level0_magnification": _plain(MAGNIFICATION_MPP * frame.downsample / frame.mpp),
            "target_magnification": _plain(MAGNIFICATION_MPP / frame.mpp),
            "overlap": 0,
            "name": stem,
            "savetodir": str(folder),
        }
        coords = _coords(patches)
        yield _write(folder / "patches" / f"{stem}_patches.h5", coords, attributes)
        for backbone, features in _features(run, slide, patches):
            yield _write(
                folder / f"features_{backbone}" / f"{stem}.h5", coords, attributes, features
            )


def write_clam(run: Run, slides: Sequence[Slide], folder: Path) -> Iterator[Path]:
    """`patches/STEM.h5` of every image, its features as `h5_files/STEM.h5` and `pt_files/STEM.pt`,
    and `dataset.csv`.

    CLAM cuts patches from a level of the slide; here it is level 0, where a patch is `patch_size`
    pixels wide.
    """
    rows = []
    for slide, stem, patches in _images(run, slides):
        attributes = {
            "patch_size": round(float(patches["side_px"].iloc[0])),
            "patch_level": 0,
            "downsample": np.array([1.0, 1.0]),
            "name": stem,
            "save_path": str(folder / "patches"),
        }
        coords = _coords(patches)
        rows.append({"case_id": slide.patient, "slide_id": stem, "label": slide.label})
        yield _write(folder / "patches" / f"{stem}.h5", coords, attributes)
        for backbone, features in _features(run, slide, patches):
            bags = folder / f"features_{backbone}"
            yield _write(bags / "h5_files" / f"{stem}.h5", coords, attributes, features)
            yield _write_tensor(bags / "pt_files" / f"{stem}.pt", features)
    write_table_csv(
        folder / "dataset.csv", pd.DataFrame(rows, columns=["case_id", "slide_id", "label"])
    )
    yield folder / "dataset.csv"


def _images(run: Run, slides: Sequence[Slide]) -> Iterator[tuple[Slide, str, pd.DataFrame]]:
    """Slide, file name and kept patches of every image that has some."""
    from morphomil.export import file_stems

    stems = file_stems(run)
    for slide in slides:
        patches = run.patches(slide.slide_id)
        for number in range(len(slide.images)):
            kept = patches[patches["kept"] & (patches["image"] == number)]
            if len(kept):
                yield slide, stems[slide.slide_id, number], kept


def _plain(value: float) -> float | int:
    """A whole number where it is one, within a hundredth."""
    return round(value) if abs(value - round(value)) < 0.01 * value else round(value, 3)


def _coords(patches: pd.DataFrame) -> NDArray[np.int64]:
    return np.asarray(np.rint(patches[["x_px", "y_px"]].to_numpy(np.float64)), dtype=np.int64)


def _write(
    path: Path,
    coords: NDArray[np.int64],
    attributes: dict[str, Any],
    features: NDArray[np.float32] | None = None,
) -> Path:
    with hdf5_file(path) as file:
        stored = file.create_dataset("coords", data=coords)
        stored.attrs.update(attributes)
        if features is not None:
            file.create_dataset("features", data=features).attrs["name"] = attributes["name"]
    return path


def _write_tensor(path: Path, features: NDArray[np.float32]) -> Path:
    """CLAM's bag: the tensor (patches, channels) alone, which `torch.load(..., weights_only=True)`
    reads."""
    import torch

    with atomic_path(path) as partial:
        torch.save(torch.from_numpy(features), partial)
    return path


def _features(
    run: Run, slide: Slide, patches: pd.DataFrame
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Backbone and deep features (patches, channels) of these patches, for every backbone that has
    them all.

    Raises:
        InputError: the stored features aren't one row per kept patch.
    """
    kept = run.patches(slide.slide_id).query("kept")["patch_id"].to_numpy()
    rows = np.flatnonzero(np.isin(kept, patches["patch_id"].to_numpy()))
    for folder in run.backbone_folders:
        embeddings = Embeddings(run, folder.name)
        if not embeddings.features_path(slide.slide_id).exists():
            continue
        path = embeddings.stored(slide.slide_id)
        with reading(path):
            stored = np.load(path, mmap_mode="r", allow_pickle=False)
        if stored.ndim != 2 or len(stored) != len(kept):
            raise InputError(
                f"{path} has shape {stored.shape} for {len(kept)} kept patches; run: morphomil "
                f"embed {run.path}"
            )
        yield path.parent.name, np.asarray(stored[rows], dtype=np.float32)
