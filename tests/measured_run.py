"""Measured runs of known nuclei under hostile names, made without a segmenter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

from morphomil import pipeline
from morphomil.run.directory import Run
from morphomil.slides.masks import PAD_PX, DrawnNuclei, MaskFrame, store_region
from morphomil.store import write_json, write_parquet
from morphomil.types import PATCHES, Cohort, ImageSource, Slide

HOSTILE = (
    "plain",
    '=HYPERLINK("http://x")',
    "../../escape",
    "<script>alert(1)</script>",
    "Ångström \uff1e2 \u202e",
    "a" * 300,
    "CON",
    "-1",
)


def _draw_nuclei(
    shape: tuple[int, int], *, first: int = 1, step: int = 24, seed: int = 0
) -> np.ndarray:
    """Label image of tilted ellipses on a grid."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    number = first
    for y in range(step, shape[0] - step, step):
        for x in range(step, shape[1] - step, step):
            long, short, angle = rng.uniform(7, 10), rng.uniform(4, 6), rng.uniform(0, np.pi)
            box = np.s_[y - 11 : y + 12, x - 11 : x + 12]
            across, down = columns[box] - x, rows[box] - y
            u = across * np.cos(angle) + down * np.sin(angle)
            v = down * np.cos(angle) - across * np.sin(angle)
            labels[box][(u / long) ** 2 + (v / short) ** 2 <= 1] = number
            number += 1
    return labels


def _make_run(
    path: Path,
    slide_ids: tuple[str, ...] = HOSTILE,
    *,
    images: int = 1,
    downsample: float = 2.0,
    typed: bool = False,
) -> Run:
    """A measured run: per slide `images` files with one region of 2 x 2 patches each, nuclei of
    known shape; `typed`, of random types."""
    run = Run.create(path)
    slides = tuple(
        Slide(
            slide_id,
            f"patient {number}" if number else "=1+1",
            str(number % 2),
            tuple(
                ImageSource(path / f"{number}_{image}.png", mpp=0.5 / downsample)
                for image in range(images)
            ),
            site="@site",
            covariates={"age": 40.0 + number, "=cmd|' /C calc'!A0": "+1", "a/b": None},
        )
        for number, slide_id in enumerate(slide_ids)
    )
    run.save_cohort(Cohort(slides))
    for seed, slide in enumerate(slides):
        _store_masks(run, slide, seed, downsample, typed=typed)
    assert len(pipeline.featurize(run).done) == len(slides)
    return run


def _store_masks(run: Run, slide: Slide, seed: int, downsample: float, *, typed: bool) -> None:
    folder = run.slide_folder(slide.slide_id)
    group = zarr.open_group(folder / "masks.zarr", mode="w")
    side, first, tables, regions = 128, 1, [], []
    for image in range(len(slide.images)):
        labels = _draw_nuclei(
            (2 * side + 2 * PAD_PX, 2 * side + 2 * PAD_PX), first=first, seed=seed + image
        )
        first_label, first = first, int(labels.max()) + 1
        x, y = 100.0, 60.0
        frame = MaskFrame(
            shape=labels.shape,
            x_px=x - PAD_PX * downsample,
            y_px=y - PAD_PX * downsample,
            downsample=downsample,
            mpp=0.5,
            patch_px=side,
            image=image,
        )
        shares = np.random.default_rng(seed).dirichlet(np.ones(4), first - first_label)
        types = shares.astype(np.float32) if typed else None
        drawn = DrawnNuclei(first - first_label, [(0, 0, labels)], types=types)
        tissue = np.ones((side // 2, side // 2), bool)
        store_region(group, image, frame, drawn, tissue, first_label=first_label)
        width = side * downsample
        for row, column in np.ndindex(2, 2):
            place = {"x_px": x + column * width, "y_px": y + row * width, "side_px": width}
            measures = {
                "blank_fraction": 0.0,
                "tissue_mm2": (side * 0.5e-3) ** 2,
                "ink_fraction": 0.0,
                "sharpness": 0.01,
            }
            names = {
                "slide_id": slide.slide_id,
                "patch_id": len(tables),
                "image": image,
                "region": image,
            }
            tables.append(names | place | measures | {"kept": True})
        ring = [
            [x, y],
            [x + 2 * width, y],
            [x + 2 * width, y + 2 * width],
            [x, y + 2 * width],
            [x, y],
        ]
        properties = {
            "objectType": "annotation",
            "name": "r",
            "image": image,
            "region": image,
            "source": "whole",
        }
        geometry = {"type": "Polygon", "coordinates": [ring]}
        regions.append({"type": "Feature", "geometry": geometry, "properties": properties})
    write_parquet(folder / "patches.parquet", PATCHES.check(pd.DataFrame(tables)))
    write_json(folder / "regions.geojson", {"type": "FeatureCollection", "features": regions})
    outputs = ["patches.parquet", "regions.geojson", "masks.zarr"]
    run.ledger.mark_done(slide.slide_id, "segment", "known", outputs=outputs, figures={})


def add_types(run: Run, slide_id: str, shares: list[float], *, seed: int = 0) -> None:
    """Give a slide's masks types drawn by their shares, each with probability 0.7."""
    group: Any = zarr.open_group(run.masks_path(slide_id), mode="a")
    for _, region in group.groups():
        count = int(np.max(region["labels"][:]))
        drawn = np.random.default_rng(seed).choice(4, count, p=shares)
        types = np.where(np.eye(4)[drawn] == 1, 0.7, 0.1).astype(np.float32)
        region.create_array("types", data=types)
        region.attrs["first_label"] = 1
    outputs = ["patches.parquet", "regions.geojson", "masks.zarr"]
    run.ledger.mark_done(slide_id, "segment", "typed", outputs=outputs, figures={})


@pytest.fixture(scope="session")
def hostile() -> tuple[str, ...]:
    """Slide ids that a file system, a spreadsheet or a page could stumble over."""
    return HOSTILE


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Run]:
    """Makes a measured run at a path: slide ids, number of images per slide, level-0 pixels per
    working pixel."""
    return _make_run


@pytest.fixture(scope="session")
def draw_nuclei() -> Callable[..., np.ndarray]:
    """Draws a label image of a shape."""
    return _draw_nuclei
