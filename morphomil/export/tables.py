"""Spreadsheets and R: CSV tables whose text no spreadsheet runs as a formula."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from morphomil.matrix import features_in, patch_values, slide_values
from morphomil.nuclei.registry import FEATURES
from morphomil.nuclei.types import of_type
from morphomil.store import safe_name, write_table_csv

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from morphomil.run.directory import Run
    from morphomil.types import Slide


def write_run(run: Run, slides: Sequence[Slide], folder: Path) -> Iterator[Path]:
    """`slides.csv`, `patches/STEM.csv` and `nuclei/STEM.csv` of every slide, `ranking.csv` where
    there is one."""
    rows = []
    for slide in slides:
        nuclei, patches = run.nuclei(slide.slide_id), run.patches(slide.slide_id)
        counted = of_type(nuclei, run.whose)
        rows.append(_slide_row(slide, counted, patches))
        measured = [FEATURES[name].value for name in features_in(nuclei)]
        values = patch_values(counted, patches)[["patch_id", "nuclei", *measured]]
        stem = f"{safe_name(slide.slide_id)}.csv"
        yield _write(folder / "patches" / stem, patches.merge(values, on="patch_id", how="left"))
        yield _write(folder / "nuclei" / stem, nuclei)
    yield _write(folder / "slides.csv", pd.DataFrame(rows))
    if run.ranking_about():
        yield _write(folder / "ranking.csv", run.ranking)


def _slide_row(slide: Slide, nuclei: pd.DataFrame, patches: pd.DataFrame) -> dict[str, Any]:
    named = {
        name: getattr(slide, name) for name in ("slide_id", "patient", "label", "split", "site")
    }
    kept = patches[patches["kept"]]
    sizes = {
        "patches": len(kept),
        "tissue_mm2": float(kept["tissue_mm2"].sum()),
        "nuclei": len(nuclei),
    }
    values = slide_values(nuclei, patches, features=features_in(nuclei))
    covariates = {_free(name, values): value for name, value in slide.covariates.items()}
    return named | sizes | dict(values) | covariates


def _free(name: str, values: pd.Series[float]) -> str:
    """A covariate's column, which is no feature's."""
    return f"covariate_{name}" if name in values else name


def _write(path: Path, table: pd.DataFrame) -> Path:
    """One table; a column's name that starts like a formula is prefixed as its cells are."""
    names = {
        name: f"'{name}"
        for name in table.columns
        if str(name).startswith(("=", "+", "-", "@", "\t", "\r", "\0"))
    }
    write_table_csv(path, table.rename(columns=names))
    return path
