"""Composition: which share of the nuclei is of which type, by patient and by group."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from morphomil.stats.resampling import bootstrap_by_patient, resampled_mean
from morphomil.store import write_table_csv
from morphomil.types import NUCLEUS_TYPES

if TYPE_CHECKING:
    from morphomil.run.directory import Run

SEED = 0
"""Of the bootstrap."""


def types_of_patients(run: Run) -> pd.DataFrame:
    """One row per patient whose nuclei have types, of all its measured slides together.

    Returns:
        `patient, label, nuclei, untyped` (numbers) and the share of each type in the nuclei of
        known type. No rows where no nucleus has a type.
    """
    figures = run.figures("featurize")
    figures = figures[figures.get("types", pd.Series(None, figures.index)).notna()]
    if figures.empty:
        return pd.DataFrame(columns=["patient", "label", "nuclei", "untyped", *NUCLEUS_TYPES])
    counts = pd.DataFrame(list(figures["types"]), index=figures.index, columns=list(NUCLEUS_TYPES))
    both = figures[["patient", "label", "nuclei"]].join(counts)
    table = both.groupby(["patient", "label"], sort=True, as_index=False).sum()
    known = table[list(NUCLEUS_TYPES)].sum(axis=1)
    table.insert(3, "untyped", table["nuclei"] - known)
    table[list(NUCLEUS_TYPES)] = table[list(NUCLEUS_TYPES)].div(known.where(known > 0), axis=0)
    return table


def types_mean_nothing(run: Run) -> bool:
    """Whether slides of the run are synthetic (`phantom.write_cohort`), and it was the network,
    which knows real tissue, that said the types of their nuclei."""
    made = run.segmented_with()
    if made.get("model") == "imported" and "classify" not in made:
        return False
    images = [image.path for slide in run.cohort.slides for image in slide.images]
    return any(
        isinstance(path, Path) and (path.parent.parent / "truth" / "phantom.json").is_file()
        for path in images
    )


def types_of_groups(patients: pd.DataFrame) -> pd.DataFrame:
    """The mean share of each type over a group's patients (`types_of_patients`).

    Returns:
        One row per group and type: `label, type, patients, share, share_low, share_high`, the
        limits of the 95 % BCa interval by patient (NaN of fewer than two patients, or of equal
        ones).
    """
    rows = []
    for label, group in patients.groupby("label", sort=True):
        for name in NUCLEUS_TYPES:
            shares = group[name].dropna().to_numpy(np.float64)
            row = {"label": label, "type": name, "patients": len(shares)}
            limits = {"share": np.nan, "share_low": np.nan, "share_high": np.nan}
            if len(shares):
                limits["share"] = float(shares.mean())
            if len(shares) > 1:
                found = bootstrap_by_patient(
                    resampled_mean(shares), np.arange(len(shares)), seed=SEED, vectorized=True
                )
                limits |= {"share_low": found.low, "share_high": found.high}
            rows.append(row | limits)
    columns = ["label", "type", "patients", "share", "share_low", "share_high"]
    return pd.DataFrame(rows, columns=columns)


def write_types(run: Run) -> list[Path]:
    """Write `types.csv` (patients) and `types_by_group.csv` to the run's tables; nothing where no
    nucleus has a type, and none of an earlier measurement stays then."""
    patients = types_of_patients(run)
    paths = [run.tables_folder / f"{stem}.csv" for stem in ("types", "types_by_group")]
    if patients.empty:
        for path in paths:
            path.unlink(missing_ok=True)
        return []
    for path, table in zip(paths, (patients, types_of_groups(patients)), strict=True):
        write_table_csv(path, table)
    return paths
