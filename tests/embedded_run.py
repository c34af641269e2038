"""A run as `segment` and `embed` leave it, of features drawn here; the commands; predictions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from morphomil.run.directory import Run
from morphomil.run.embeddings import Embeddings
from morphomil.store import write_json, write_parquet
from morphomil.types import PATCHES, Cohort, ImageSource, Slide

PROGRAM = Path(sys.executable).with_name("morphomil")


def morphomil(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PROGRAM), *map(str, words)], capture_output=True, text=True, check=False
    )


def make_run(
    path: Path,
    *,
    patients: int = 60,
    shift: float = 2.0,
    seed: int = 0,
    classes: int = 2,
    **columns,
) -> Run:
    """A run as `segment` and `embed` leave it, features drawn here; every third patient has two
    slides."""
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True)
    (path / ".lock").touch()
    run, slides, drawn = Run(path), [], {}
    for number in range(patients):
        label, patient = number % classes, f"p{number:03d}"
        for part in range(2 if number % 3 == 0 else 1):
            name = f"{patient}-{part}"
            image = path.parent / "slides" / f"{name}.jpg"
            image.parent.mkdir(exist_ok=True)
            Image.fromarray(rng.integers(150, 240, (256, 320, 3)).astype(np.uint8)).save(image)
            covariates = {
                "age": float(rng.normal(50 + 8 * label, 8)),
                "er": str(rng.choice(["yes", "no"])),
            }
            if number == 5:
                covariates["age"] = None
            extra = {key: value[number] for key, value in columns.items()}
            first = covariates if part == 0 else slides[-1].covariates
            slides.append(
                Slide(
                    name,
                    patient,
                    str(label),
                    (ImageSource(image, None, 0.5),),
                    covariates=first,
                    **extra,
                )
            )
            side = 32
            grid = [(x, y) for y in range(0, 256, side) for x in range(0, 320, side)]
            grid = grid[: int(rng.integers(5, 60))]
            table = pd.DataFrame(grid, columns=["x_px", "y_px"]).assign(
                slide_id=name, patch_id=range(len(grid)), image=0, region=0, side_px=float(side)
            )
            table = table.assign(
                blank_fraction=0.0, tissue_mm2=1e-4, ink_fraction=0.0, sharpness=1.0
            )
            table["kept"] = np.arange(len(grid)) % 5 != 4
            rows = rng.normal(size=(int(table["kept"].sum()), 24))
            rows[: len(rows) // 2, 0] += shift * (2 * label / (classes - 1) - 1)
            drawn[name] = (PATCHES.check(table), rng.permutation(rows).astype(np.float16))
    run.save_cohort(Cohort(tuple(slides)))
    made = Embeddings(run, "efficientnet-lite0")
    for name, (table, rows) in drawn.items():
        write_parquet(run.slide_folder(name) / "patches.parquet", table)
        write_json(
            run.slide_folder(name) / "regions.geojson",
            {"type": "FeatureCollection", "features": []},
        )
        run.ledger.mark_done(name, "segment", "k", outputs=["patches.parquet"], figures={})
        figures = {"patches": len(rows), "features": rows.shape[1]}
        made.ledger.mark_done(name, "embed", "k", outputs=[made.save(name, rows)], figures=figures)
    run.record("segment", {"mpp": None, "model": "default"}, seconds=0)
    return run


def predictions(run: Run, model: str) -> pd.DataFrame:
    return pd.read_parquet(run.path / "models" / model / "predictions.parquet")
