"""What does the image model look at, in terms of nuclei?

Attention is compared with morphology inside each slide, so that neither stain nor group can make
the two go together, and pooled over patients, of whom each counts once. Patches of a slide are
neighbors, so no p value comes from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t

from morphomil.errors import InputError
from morphomil.matrix import patch_values
from morphomil.nuclei.registry import FEATURES
from morphomil.run.claims import with_lock
from morphomil.stats import benjamini_hochberg, holm
from morphomil.store import read_parquet, write_table_csv
from morphomil.tables.scores import correlate_scores

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from morphomil.run.directory import Run

STEMS = ("scores", "morphology_of_attention", "morphology_of_slides", "patches_of_attention")
"""The tables of `alongside/` have these names."""
EVIDENCE = ("attention", "occlusion")
"""A model says this of a patch: its share of attention, and what leaving it out takes from the
probability."""
MIN_PATCHES = 10
"""A slide with fewer measured patches gets no correlation."""
SHOWN_PATCHES = 10
"""So many patches of a slide with most attention, and as many with least, are reported."""


def associate_patches(scores: pd.Series[float], values: pd.DataFrame) -> pd.Series[float]:
    """Spearman correlation of patches' scores with each column of their values, in one slide.

    Patches without a value are left out of their column; NaN with fewer than `MIN_PATCHES`, or
    where one is constant.
    """
    correlations = {}
    for name, column in values.items():
        known = column.notna() & scores.notna()
        enough = (
            known.sum() >= MIN_PATCHES
            and scores[known].nunique() > 1
            and column[known].nunique() > 1
        )
        correlations[name] = (
            scores[known].corr(column[known], method="spearman") if enough else np.nan
        )
    return pd.Series(correlations, dtype=np.float64)


def pool_associations(slides: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """Within-slide correlations, pooled over patients: is the patch that the model weights one of
    larger nuclei?

    Each patient counts once: Fisher's z, mean over the patient's slides, then mean and t interval
    over patients (random patients, so the interval covers that they differ), and back.

    Args:
        slides: `model, evidence, patient, feature, rho`, one row per slide.
        level: of the intervals.

    Returns:
        `model, evidence, feature, patients, rho, rho_low, rho_high, positive` (share of patients
        above 0), `p_value` (t test that the mean is 0), `p_holm, p_bh`: the features of a model and
        kind of evidence are the family. Without two patients with a correlation the numbers are
        NaN.
    """
    z = slides.assign(z=np.arctanh(slides["rho"].clip(-0.999, 0.999)))
    of_patients = (
        z.groupby(["model", "evidence", "feature", "patient"], sort=False)["z"].mean().dropna()
    )
    tables = []
    for (model, evidence), family in z.groupby(["model", "evidence"], sort=False):
        rows = []
        for feature in family["feature"].unique():
            patients = of_patients[
                of_patients.index.isin([(model, evidence, feature, p) for p in family["patient"]])
            ]
            rows.append(
                {"model": model, "evidence": evidence, "feature": feature}
                | _pool(patients.to_numpy(), level)
            )
        table = pd.DataFrame(rows)
        tables.append(
            table.assign(p_holm=holm(table["p_value"]), p_bh=benjamini_hochberg(table["p_value"]))
        )
    columns = [
        "model",
        "evidence",
        "feature",
        "patients",
        "rho",
        "rho_low",
        "rho_high",
        "positive",
        "p_value",
    ]
    return (
        pd.concat(tables, ignore_index=True)
        if tables
        else pd.DataFrame(columns=[*columns, "p_holm", "p_bh"])
    )


def _pool(z: NDArray[np.float64], level: float) -> dict[str, Any]:
    n = len(z)
    mean, error = (z.mean(), z.std(ddof=1) / np.sqrt(n)) if n > 1 else (np.nan, np.nan)
    half = t.ppf((1 + level) / 2, n - 1) * error if n > 1 else np.nan
    rho, low, high = np.tanh([mean, mean - half, mean + half])
    p_value = 2 * t.sf(abs(mean) / error, n - 1) if error > 0 else np.nan
    positive = float((z > 0).mean()) if n else np.nan
    return {
        "patients": n,
        "rho": rho,
        "rho_low": low,
        "rho_high": high,
        "positive": positive,
        "p_value": p_value,
    }


def report_patches(patches: pd.DataFrame, features: Sequence[str]) -> pd.DataFrame:
    """A slide's patches by attention: which, what nuclei they have, and which way these differ from
    the slide's others.

    Args:
        patches: one slide's: `attention` and a column per feature (`matrix.patch_values`).
        features: names of those columns.

    Returns:
        The patches, most attention first, with `relative_attention` (1: an even share) and, for
        each feature, `FEATURE_z`: how many robust SDs (1.4826 MAD) its value is above the slide's
        median; NaN where the MAD is 0.
    """
    table = patches.assign(relative_attention=patches["attention"] * len(patches))
    for name in features:
        apart = table[name] - table[name].median()
        mad = 1.4826 * apart.abs().median()
        table[f"{name}_z"] = apart / mad if mad > 0 else np.nan
    return table.sort_values("attention", ascending=False, kind="stable", ignore_index=True)


class ScoredSlide(NamedTuple):
    """A test slide as the image model of a fold reads it; `patches`: `patch_id, attention,
    occlusion`."""

    slide_id: str
    patient: str
    fold: str
    patches: pd.DataFrame


def scored_slides(run: Run, model: str) -> Iterator[ScoredSlide]:
    """The test slides that an image model has scored, by fold; none before it has."""
    for path in run.fold_files("attention.parquet", model=model):
        slides = read_parquet(path.parent / "slides.parquet").query("part == 'test'")
        patches = read_parquet(path)
        for row in slides.to_dict("records"):
            name = str(row["slide_id"])
            of_slide = patches[patches["slide_id"] == name]
            scored = of_slide.reindex(columns=["patch_id", *EVIDENCE])
            yield ScoredSlide(name, str(row["patient"]), path.parent.name, scored)


def measured_patches(
    run: Run, model: str, slides: Sequence[str] = ()
) -> Iterator[tuple[ScoredSlide, pd.DataFrame]]:
    """Test slides of an image model, and their patches with what the model says and nuclear
    features.

    Slides that aren't measured (`morphomil featurize`) are left out.

    Raises:
        InputError: the model hasn't scored its test slides.
    """
    if model not in image_models(run):
        raise InputError(
            f"{model} has no attention to patches stored; run: morphomil predict {run.path} "
            f"--model {model}"
        )
    measured = set(run.done("featurize"))
    for slide in scored_slides(run, model):
        name = slide.slide_id
        if name in measured and (not slides or name in slides):
            values = patch_values(run.counted_nuclei(name), run.patches(name))
            yield slide, values.merge(slide.patches, on="patch_id", validate="one_to_one")


def attended_patches(run: Run, model: str, patient: str) -> pd.DataFrame:
    """The kept patches of the patient's slide that has most of them, with what the model said of
    them as test slide.

    Returns:
        Columns of `PATCHES`, `fold, attention, relative_attention` (1: an even share), most
        attention first; no rows if the model hasn't scored the patient.
    """
    tables = [
        run.patches(slide.slide_id)
        .merge(slide.patches[["patch_id", "attention"]], on="patch_id")
        .assign(fold=slide.fold)
        for slide in scored_slides(run, model)
        if slide.patient == patient
    ]
    if not tables:
        return pd.DataFrame(
            columns=["slide_id", "patch_id", "fold", "attention", "relative_attention"]
        )
    table = max(tables, key=len)
    table = table.assign(relative_attention=table["attention"] * len(table))
    return table.sort_values("attention", ascending=False, kind="stable", ignore_index=True)


def image_models(run: Run) -> list[str]:
    """Models of the run that say at which of its patches they look; those that read tiles of
    another program don't."""
    return sorted(
        {
            path.parts[-3]
            for path in run.fold_files("attention.parquet")
            if "tile" not in read_parquet(path)
        }
    )


@with_lock
def write_alongside(run: Run, predictions: pd.DataFrame) -> list[Path]:
    """Write `alongside/` of the run; nothing of what lacks (one model only, no image model, nothing
    measured).

    `scores.csv` (`correlate_scores`), `morphology_of_attention.csv` (`pool_associations`),
    `morphology_of_slides.csv` (the correlations of each slide) and `patches_of_attention.csv`
    (`report_patches`, `SHOWN_PATCHES` from either end).
    """
    features = [FEATURES[name].value for name in run.features]
    tables = dict.fromkeys(STEMS, pd.DataFrame()) | {"scores": correlate_scores(predictions)}
    associations, reports = [], []
    for model in image_models(run):
        for slide, patches in measured_patches(run, model):
            associations.append(_associations(model, slide, patches, features=features))
            reports.append(_most_and_least(model, slide, patches, features=features))
    if associations:
        slides = pd.concat(associations, ignore_index=True)
        tables["morphology_of_attention"] = pool_associations(slides)
        tables["morphology_of_slides"] = slides
        tables["patches_of_attention"] = pd.concat(reports, ignore_index=True)
    written = []
    for stem, table in tables.items():
        path = run.alongside_folder / f"{stem}.csv"
        if len(table):
            write_table_csv(path, table)
            written.append(path)
        else:
            path.unlink(missing_ok=True)
    return written


def _associations(
    model: str, slide: ScoredSlide, patches: pd.DataFrame, *, features: Sequence[str]
) -> pd.DataFrame:
    """One slide's rows of `morphology_of_slides.csv`."""
    tables = []
    for evidence in EVIDENCE:
        rho = associate_patches(patches[evidence], patches[list(features)])
        tables.append(pd.DataFrame({"evidence": evidence, "feature": rho.index, "rho": rho.array}))
    table = pd.concat(tables, ignore_index=True).assign(
        model=model,
        fold=slide.fold,
        patient=slide.patient,
        slide_id=slide.slide_id,
        patches=len(patches),
    )
    return table[["model", "fold", "patient", "slide_id", "evidence", "feature", "patches", "rho"]]


def _most_and_least(
    model: str, slide: ScoredSlide, patches: pd.DataFrame, *, features: Sequence[str]
) -> pd.DataFrame:
    """One slide's rows of `patches_of_attention.csv`."""
    report = report_patches(patches, features)
    count = min(SHOWN_PATCHES, len(report) // 2)
    most, least = report.head(count).assign(end="most"), report.tail(count).assign(end="least")
    shown = pd.concat([most, least]).assign(
        model=model, fold=slide.fold, patient=slide.patient, slide_id=slide.slide_id
    )
    who = ["model", "fold", "patient", "slide_id", "end", "patch_id"]
    says = ["relative_attention", "occlusion", "x_px", "y_px", "side_px", "nuclei"]
    return shown[[*who, *says, *(f"{name}{end}" for name in features for end in ("", "_z"))]]
