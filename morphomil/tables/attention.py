"""The models side by side: do they score patients alike, and what does the image model look at, in
terms of nuclei?

Attention is compared with morphology inside each slide, so that neither stain nor group can make
the two go together, and pooled over patients, of whom each counts once. Patches of a slide are
neighbors, so no p value comes from them.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import norm, rankdata, t

from morphomil.errors import InputError
from morphomil.matrix import patch_values
from morphomil.nuclei.registry import FEATURES
from morphomil.stats import benjamini_hochberg, holm
from morphomil.store import write_table_csv

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from morphomil.run.directory import Run
STEMS = ("scores", "morphology_of_attention", "morphology_of_slides", "patches_of_attention")
EVIDENCE = ("attention", "occlusion")
"""What a model says of a patch: its share of attention, and what leaving it out takes from the
probability."""
MIN_PATCHES = 10
"""A slide with fewer measured patches gets no correlation."""
SHOWN_PATCHES = 10
"""Of a slide, with most and with least attention, in the report of patches."""


def correlate_scores(predictions: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """Spearman correlation of every two models' test scores of the same patients.

    Scores of different folds come from different models, so patients are ranked within folds.
    `rho_within_label` ranks within folds and labels: how far the models agree beyond both knowing
    the label.

    Args:
        predictions: `model, part, fold, patient, label, score` (`compare.read_predictions`).
        level: of the intervals.

    Returns:
        One row per pair with 5 or more patients in common: `model_a, model_b, patients, rho,
        rho_low, rho_high`, and the same of `rho_within_label`.
    """
    test = predictions[predictions["part"] == "test"]
    own = {str(name): table for name, table in test.groupby("model", sort=False)}
    rows = []
    for a, b in combinations(own, 2):
        both = own[a].merge(own[b], on="patient", suffixes=("_a", "_b"))
        if len(both) < 5:
            continue
        folds = [both["fold_a"].astype(str), both["fold_b"].astype(str)]
        row: dict[str, Any] = {"model_a": a, "model_b": b, "patients": len(both)}
        for name, by in (("rho", folds), ("rho_within_label", [*folds, both["label_a"]])):
            one, other = (
                both.groupby(by)[f"score_{end}"].transform(_center_ranks).to_numpy() for end in "ab"
            )
            spread = np.sqrt((one**2).sum() * (other**2).sum())
            rho = float(one @ other / spread) if spread > 0 else np.nan
            low, high = _rho_interval(rho, len(both) - both.groupby(by).ngroups + 1, level=level)
            row |= {name: rho, f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    columns = [
        f"{name}{end}" for name in ("rho", "rho_within_label") for end in ("", "_low", "_high")
    ]
    return pd.DataFrame(rows, columns=["model_a", "model_b", "patients", *columns])


def _center_ranks(values: pd.Series[float]) -> pd.Series[float]:
    """Ranks around their mean, on one scale for groups of any size."""
    ranks = pd.Series(rankdata(values), index=values.index)
    return (ranks - ranks.mean()) / len(ranks)


def _rho_interval(rho: float, n: int, *, level: float) -> tuple[float, float]:
    """Fisher's z with variance (1 + rho^2 / 2) / (n - 3) (Bonett & Wright 2000); NaN where rho is 1
    or n too small."""
    if n <= 3 or not abs(rho) < 1:
        return np.nan, np.nan
    half = norm.ppf((1 + level) / 2) * np.sqrt((1 + rho**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(rho) + np.array([-half, half]))
    return float(low), float(high)


def associate_patches(scores: pd.Series[float], values: pd.DataFrame) -> pd.Series[float]:
    """Spearman correlation of patches' scores with each column of their values, in one slide.

    Patches without a value are left out of their column; NaN with fewer than `MIN_PATCHES`, or
    where one is constant.
    """
    found = {}
    for name, column in values.items():
        known = column.notna() & scores.notna()
        enough = (
            known.sum() >= MIN_PATCHES
            and scores[known].nunique() > 1
            and column[known].nunique() > 1
        )
        found[name] = scores[known].corr(column[known], method="spearman") if enough else np.nan
    return pd.Series(found, dtype=np.float64)


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
            own = of_patients[
                of_patients.index.isin([(model, evidence, feature, p) for p in family["patient"]])
            ]
            rows.append(
                {"model": model, "evidence": evidence, "feature": feature}
                | _pool(own.to_numpy(), level)
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


def measured_patches(
    run: Run, model: str, slides: Sequence[str] = ()
) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """Test slides of an image model: who (`slide_id, patient, fold`), and patches with evidence and
    nuclear features.

    Slides that aren't measured (`morphomil featurize`) are left out.

    Raises:
        InputError: the model hasn't scored its test slides.
    """
    measured = set(run.done("featurize"))
    folders = [path.parent for path in run.fold_files("attention.parquet", model=model)]
    if not folders:
        raise InputError(
            f"{model} has no attention to patches stored; run: morphomil predict {run.path} "
            f"--model {model}"
        )
    for folder in folders:
        read = pd.read_parquet(folder / "slides.parquet").query("part == 'test'")
        evidence = pd.read_parquet(folder / "attention.parquet")
        for row in read.to_dict("records"):
            name = str(row["slide_id"])
            if name not in measured or (slides and name not in slides):
                continue
            own = evidence.loc[evidence["slide_id"] == name, ["patch_id", *EVIDENCE]]
            values = patch_values(run.nuclei(name), run.patches(name))
            about = {"slide_id": name, "patient": str(row["patient"]), "fold": folder.name}
            yield about, values.merge(own, on="patch_id", validate="one_to_one")


def attended_patches(run: Run, model: str, patient: str) -> pd.DataFrame:
    """The kept patches of the patient's slide that has most of them, with what the model said of
    them as test slide.

    Returns:
        Columns of `PATCHES`, `fold, attention, relative_attention` (1: an even share), most
        attention first; no rows if the model hasn't scored the patient.
    """
    tables = []
    for folder in [path.parent for path in run.fold_files("attention.parquet", model=model)]:
        read = pd.read_parquet(folder / "slides.parquet")
        own = read[(read["part"] == "test") & (read["patient"].astype(str) == patient)]
        scored = pd.read_parquet(
            folder / "attention.parquet", columns=["slide_id", "patch_id", "attention"]
        )
        for name in own["slide_id"].astype(str):
            evidence = scored.loc[scored["slide_id"] == name, ["patch_id", "attention"]]
            tables.append(run.patches(name).merge(evidence, on="patch_id").assign(fold=folder.name))
    if not tables:
        return pd.DataFrame(
            columns=["slide_id", "patch_id", "fold", "attention", "relative_attention"]
        )
    table = max(tables, key=len)
    table = table.assign(relative_attention=table["attention"] * len(table))
    return table.sort_values("attention", ascending=False, kind="stable", ignore_index=True)


def image_models(run: Run) -> list[str]:
    """Models of the run that say where on the slide they look."""
    return sorted({path.parts[-3] for path in run.fold_files("attention.parquet")})


def set_alongside(run: Run, predictions: pd.DataFrame) -> list[Path]:
    """Write `alongside/` of the run; nothing of what lacks (one model only, no image model, nothing
    measured).

    `scores.csv` (`correlate_scores`), `morphology_of_attention.csv` (`pool_associations`),
    `morphology_of_slides.csv` (the correlations of each slide) and `patches_of_attention.csv`
    (`report_patches`, `SHOWN_PATCHES` from either end).
    """
    features = list(FEATURES)
    tables = dict.fromkeys(STEMS, pd.DataFrame()) | {"scores": correlate_scores(predictions)}
    associations, reports = [], []
    for model in image_models(run):
        for about, patches in measured_patches(run, model):
            for evidence in EVIDENCE:
                rho = associate_patches(patches[evidence], patches[features])
                own = pd.DataFrame(
                    {"model": model, **about, "evidence": evidence, "patches": len(patches)},
                    rho.index,
                )
                associations.append(own.assign(rho=rho).rename_axis("feature").reset_index())
            report = report_patches(patches, features)
            count = min(SHOWN_PATCHES, len(report) // 2)
            shown = pd.concat(
                [report.head(count).assign(end="most"), report.tail(count).assign(end="least")]
            )
            reports.append(
                shown.drop(columns="slide_id", errors="ignore").assign(model=model, **about)
            )
    if associations:
        slides = pd.concat(associations, ignore_index=True)
        first = ["model", "fold", "patient", "slide_id", "evidence", "feature", "patches", "rho"]
        tables["morphology_of_attention"] = pool_associations(slides)
        tables["morphology_of_slides"] = slides[first]
        patches = pd.concat(reports, ignore_index=True)
        first = [
            "model",
            "fold",
            "patient",
            "slide_id",
            "end",
            "patch_id",
            "relative_attention",
            "occlusion",
        ]
        first += ["x_px", "y_px", "side_px", "nuclei"]
        both = [f"{name}{end}" for name in features for end in ("", "_z")]
        tables["patches_of_attention"] = patches[first + both]
    written = []
    for stem, table in tables.items():
        path = run.alongside_folder / f"{stem}.csv"
        if len(table):
            write_table_csv(path, table)
            written.append(path)
        else:
            path.unlink(missing_ok=True)
    return written
