"""A run's results -> the tables that figures draw: each number of a figure stands in one of
them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from shapely.geometry import shape

from morphomil.matrix import (
    Edges,
    fit_edges_to_counts,
    has_enough_nuclei,
    mean_rows,
    rebin,
    relative_frequencies,
)
from morphomil.stats import calibration, confusion_table, decision_curve, grouped_polarity
from morphomil.stats.axial import axial_difference
from morphomil.stats.predictions import class_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from morphomil.run.directory import Run
CALIBRATION_PATIENTS = 12
"""At least so many patients per point of a calibration curve; at most 10 points."""
ANGLE_BINS = 18
"""Of 10 degrees each, around the half circle of axes."""
MIN_ANGLES = 5
"""Patches with fewer oriented nuclei have no direction of their own."""


def flow_table(run: Run) -> pd.DataFrame:
    """Patients, slides, patches and nuclei at every step, and what each step lost and why.

    Returns:
        `step, patients, slides, patches, nuclei` (missing where not known yet), `groups` (patients
        by label), `lost` (a sentence, "" where nothing was lost). A step that the run hasn't
        reached has no row.
    """
    segmented, measured = run.figures("segment"), run.figures("featurize")
    rows = [_flow_row("In the manifest", segmented)]
    done = segmented[segmented["state"] == "done"]
    if done.empty:
        return pd.DataFrame(rows)
    cut, kept, ink = (
        _total(done, name) for name in ("patches", "patches_kept", "patches_with_ink")
    )
    found = _flow_row("Segmented", done, patches=cut, lost=_lost_slides(segmented, done))
    analyzed = done[done["patches_kept"] > 0] if "patches_kept" in done else done
    why = f"{cut - kept:,} patches, blank or outside the region" + (
        f" ({ink:,} with ink)" if ink else ""
    )
    lost = "; ".join(
        part
        for part in (_lost_slides(done, analyzed, "no patch kept"), why if cut > kept else "")
        if part
    )
    rows += [found, _flow_row("With kept patches", analyzed, patches=kept, lost=lost)]
    nuclei = measured[measured["state"] == "done"]
    nuclei = nuclei[nuclei["nuclei"] > 0] if "nuclei" in nuclei else nuclei
    if nuclei.empty:
        return pd.DataFrame(rows)
    enough = {
        name: int(has_enough_nuclei(run.counts(name).counts).sum()) for name in nuclei["slide_id"]
    }
    in_bags = nuclei[nuclei["slide_id"].map(enough) > 0]
    measured_patches = _total(nuclei, "patches_kept")
    dropped = measured_patches - sum(enough.values())
    rows.append(
        _flow_row(
            "With measured nuclei",
            nuclei,
            patches=measured_patches,
            nuclei=_total(nuclei, "nuclei"),
            lost=_lost_slides(analyzed, nuclei, "no nuclei, or not measured"),
        )
    )
    few = f"{dropped:,} patches with fewer than 5 nuclei" if dropped else ""
    lost = "; ".join(part for part in (_lost_slides(nuclei, in_bags, "no patch left"), few) if part)
    rows.append(_flow_row("In the histograms", in_bags, patches=sum(enough.values()), lost=lost))
    predictions = run.rank_folder / "predictions.parquet"
    if predictions.is_file():
        ranked = in_bags[in_bags["patient"].isin(pd.read_parquet(predictions)["patient"])]
        patches = int(ranked["slide_id"].map(enough).sum())
        lost = _lost_slides(in_bags, ranked, "not in the ranking")
        rows.append(_flow_row("Ranked out of fold", ranked, patches=patches, lost=lost))
    return pd.DataFrame(rows)


def _flow_row(
    step: str,
    slides: pd.DataFrame,
    *,
    patches: int | None = None,
    nuclei: int | None = None,
    lost: str = "",
) -> dict[str, Any]:
    patients = slides.drop_duplicates("patient")
    counts = patients["label"].astype(str).value_counts().sort_index()
    return {
        "step": step,
        "patients": len(patients),
        "slides": len(slides),
        "patches": float("nan") if patches is None else float(patches),
        "nuclei": float("nan") if nuclei is None else float(nuclei),
        "groups": ", ".join(f"{count:,} with {label}" for label, count in counts.items()),
        "lost": lost,
    }


def _total(slides: pd.DataFrame, name: str) -> int:
    return int(slides[name].fillna(0).sum()) if name in slides else 0


def _lost_slides(before: pd.DataFrame, after: pd.DataFrame, why: str = "") -> str:
    gone = before[~before["slide_id"].isin(after["slide_id"])]
    if gone.empty:
        return ""
    patients = before["patient"].nunique() - after["patient"].nunique()
    states = why or ", ".join(
        f"{count:,} {state}" for state, count in gone["state"].value_counts().items()
    )
    return f"{_count(len(gone), 'slide')} and {_count(patients, 'patient')} ({states})"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def image_regions(run: Run, slide_id: str, image: int) -> list[BaseGeometry]:
    """The regions on one of a slide's images, level-0 pixels."""
    features = run.regions(slide_id)
    return [shape(f["geometry"]) for f in features if f["properties"]["image"] == image]


def empty_patches(run: Run, slide_id: str) -> int:
    """How many of a measured slide's kept patches hold no nucleus."""
    counts = run.counts(slide_id).counts
    return int((counts.sum(axis=-1).max(axis=0, initial=0) == 0).sum())


class Correlation(NamedTuple):
    """`rho`: features x features, in clustered order; `merges`: the tree, one row per merge
    (x1..x4, y1..y4)."""

    rho: pd.DataFrame
    merges: pd.DataFrame


def correlation_tables(patient_values: pd.DataFrame) -> Correlation:
    """Spearman's correlation of the features over patients, features in the order of an
    average-linkage tree.

    The tree's distance is 1 - |rho|; x counts features (the first at 0), y is the distance.
    Constant features are left out, as they have no correlation.

    Raises:
        ValueError: fewer than two features vary, or fewer than three patients.
    """
    from scipy.cluster.hierarchy import dendrogram, linkage
    from scipy.spatial.distance import squareform

    varying = patient_values.loc[:, patient_values.nunique() > 1]
    if varying.shape[1] < 2 or len(varying) < 3:
        raise ValueError(
            f"a correlation needs two features and three patients, got {varying.shape[::-1]}"
        )
    rho = varying.corr(method="spearman")
    distance = np.clip(1 - np.abs(rho.fillna(0).to_numpy()), 0, None)
    distance = (distance + distance.T) / 2
    np.fill_diagonal(distance, 0)
    tree = dendrogram(linkage(squareform(distance), "average", optimal_ordering=True), no_plot=True)
    order: list[int] = list(np.asarray(tree["leaves"]))
    across = (np.array(tree["icoord"]) - 5) / 10  # scipy puts the leaves at 5, 15, 25...
    merges = pd.DataFrame(np.hstack([across, np.array(tree["dcoord"])]))
    merges.columns = pd.Index([f"{axis}{n}" for axis in "xy" for n in range(1, 5)])
    return Correlation(rho.iloc[order, order], merges)


def class_names(run: Run) -> list[str]:
    """The labels in the order of the classes 0, 1, ... that the run's models, else its ranking,
    tell apart.

    Empty before there are any.
    """
    for path in run.fold_files("settings.json"):
        stated = json.loads(path.read_text(encoding="utf-8"))
        if "classes" in stated:
            return [str(name) for name in stated["classes"]]
    about = run.ranking_about()
    return [str(about["reference"]), str(about["positive"])] if about else []


def confusion_tables(predictions: pd.DataFrame) -> pd.DataFrame:
    """Each model's calls beside the labels: `model, label, call, n, share` (of the label's
    patients).

    Of two classes a patient is called by the model's cutoff, of more the most probable one.

    Args:
        predictions: `model, label, score, cutoff`, labels from 0; of more classes `probability_0`,
            `probability_1`, ...
    """
    several = class_columns(predictions)
    rows = []
    for model, own in predictions.groupby("model", sort=False):
        if own[several].notna().to_numpy().any():
            calls = own[several].to_numpy(float).argmax(axis=1)
        else:
            calls = (own["score"] >= own["cutoff"]).to_numpy(int)
        counts, _ = confusion_table(own["label"], calls, classes=max(len(several), 2))
        long = counts.reset_index().melt("label", var_name="call", value_name="n")
        rows.append(
            long.assign(model=model, share=long["n"] / long.groupby("label")["n"].transform("sum"))
        )
    table = pd.concat(rows, ignore_index=True)[["model", "label", "call", "n", "share"]]
    return table.astype({"label": int, "call": int, "n": int})


class CalibrationTables(NamedTuple):
    """`curve`: `model, n, predicted, observed, low, high`; `summary`: slope, intercept, Brier score
    by model."""

    curve: pd.DataFrame
    summary: pd.DataFrame


def calibration_tables(predictions: pd.DataFrame) -> CalibrationTables:
    """Calibration of each model whose scores are probabilities; `predictions`:
    `model, label, score`.

    Raises:
        ValueError: no model's scores lie in [0, 1].
    """
    curves, rows = [], []
    for model, own in _probabilities(predictions).groupby("model", sort=False):
        groups = int(np.clip(len(own) // CALIBRATION_PATIENTS, 2, 10))
        found = calibration(own["label"], own["score"], groups=groups)
        curves.append(found.curve.assign(model=model))
        row: dict[str, Any] = {
            "model": model,
            "n": len(own),
            "brier": found.brier,
            "scaled_brier": found.scaled_brier,
        }
        for name, limits in (("slope", found.slope), ("intercept", found.intercept)):
            row |= {name: limits[0], f"{name}_low": limits[1], f"{name}_high": limits[2]}
        rows.append(row)
    curve = pd.concat(curves, ignore_index=True)
    return CalibrationTables(
        curve[["model", "n", "predicted", "observed", "low", "high"]], pd.DataFrame(rows)
    )


def decision_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Net benefit of each model whose scores are probabilities: `model` and the columns of
    `decision_curve`.

    Raises:
        ValueError: no model's scores lie in [0, 1].
    """
    groups = _probabilities(predictions).groupby("model", sort=False)
    curves = [
        decision_curve(own["label"], own["score"]).assign(model=model) for model, own in groups
    ]
    table = pd.concat(curves, ignore_index=True)
    return table[["model", "threshold", "net_benefit", "treat_all", "treat_none"]]


def _probabilities(predictions: pd.DataFrame) -> pd.DataFrame:
    inside = predictions["score"].between(0, 1).groupby(predictions["model"]).transform("all")
    if not inside.any():
        raise ValueError("no model's scores lie in [0, 1]")
    return predictions[inside]


def histograms_table(run: Run) -> pd.DataFrame:
    """Each patient's mean histogram of each feature: `patient, label, feature, low, high, share`.

    `low` and `high` are the bin's edges, fitted to all patients; the folds of a ranking fit their
    own to their training patients. Shares of a patient and feature sum to 1, the mean over patches,
    then slides; where a patient has none there is no row.
    """
    slides = {slide.slide_id: slide for slide in run.cohort.slides}
    counts = {name: run.counts(name) for name in run.done("featurize")}
    kept = {name: own.counts[:, has_enough_nuclei(own.counts)] for name, own in counts.items()}
    kept = {name: own for name, own in kept.items() if own.shape[1]}
    columns = ["patient", "label", "feature", "low", "high", "share"]
    if not kept:
        return pd.DataFrame(columns=columns)
    features = counts[next(iter(kept))].features
    owners = pd.Series({name: slides[name].patient for name in kept})
    patients: dict[str, list[str]] = {str(patient): [] for patient in sorted(set(owners))}
    for name, patient in owners.items():
        patients[str(patient)].append(str(name))
    totals = np.stack(
        [
            np.sum([kept[n].sum(axis=1, dtype=np.int64) for n in names], axis=0)
            for names in patients.values()
        ]
    )
    edges = fit_edges_to_counts(totals, features=features)
    tables = []
    for patient, names in patients.items():
        means = np.stack(
            [mean_rows(relative_frequencies(rebin(kept[name], edges))) for name in names]
        )
        present = means.any(axis=-1)  # (slides, features)
        mean = means.sum(axis=0) / np.maximum(present.sum(axis=0), 1)[:, None]
        tables.append(
            _histogram_rows(mean, edges).assign(patient=patient, label=str(slides[names[0]].label))
        )
    return pd.concat(tables, ignore_index=True)[columns]


def _histogram_rows(mean: NDArray[Any], edges: Edges) -> pd.DataFrame:
    tables = []
    for shares, name in zip(mean, edges.features, strict=True):
        if shares.any():
            at = edges.values(name)
            tables.append(
                pd.DataFrame({"feature": name, "low": at[:-1], "high": at[1:], "share": shares})
            )
    return (
        pd.concat(tables) if tables else pd.DataFrame(columns=["feature", "low", "high", "share"])
    )


def orientation_table(run: Run) -> pd.DataFrame:
    """How nuclei turn from the mean axis of the others of their patch, by group: a rose of axes.

    The mean axis and the turn are those of doubled angles, so 179 and 1 degrees are neighbors. A
    slide's own frame means nothing, hence the turn.

    Returns:
        `label, patients, polarity` (median over patients), `low, high` (degrees in [-90, 90)),
        `share` (mean over patients; sums to 1 in a group).
    """
    slides = {slide.slide_id: slide for slide in run.cohort.slides}
    edges = np.linspace(-90, 90, ANGLE_BINS + 1)
    rows = []
    for name in run.done("featurize"):
        nuclei = run.nuclei(name)
        turn = turns_from_others(
            nuclei["orientation_deg"].to_numpy(float), nuclei["patch_id"].to_numpy()
        )
        shares = np.histogram(turn[np.isfinite(turn)], edges)[0]
        found = grouped_polarity(nuclei["orientation_deg"], nuclei["patch_id"])
        polarity = found.polarity[found.n >= MIN_ANGLES]
        if shares.sum() and len(polarity):
            about = {
                "patient": slides[name].patient,
                "label": str(slides[name].label),
                "polarity": polarity.mean(),
            }
            rows.append(about | dict(enumerate(shares / shares.sum())))
    columns = ["label", "patients", "polarity", "low", "high", "share"]
    if not rows:
        return pd.DataFrame(columns=columns)
    patients = pd.DataFrame(rows).groupby(["label", "patient"]).mean().reset_index("label")
    tables = []
    for label, own in patients.groupby("label", sort=True):
        about = {"label": label, "patients": len(own), "polarity": own["polarity"].median()}
        bins = {
            "low": edges[:-1],
            "high": edges[1:],
            "share": own[list(range(ANGLE_BINS))].mean().to_numpy(),
        }
        tables.append(pd.DataFrame(about | bins))
    return pd.concat(tables, ignore_index=True)[columns]


def turns_from_others(degrees: NDArray[np.float64], groups: NDArray[Any]) -> NDArray[np.float64]:
    """The turn of each axis from the mean axis of the *other* axes of its group, in [-90, 90); NaN
    without one.

    Groups of fewer than 5 axes have none.
    """
    turned = np.full(len(degrees), np.nan)
    codes, names = pd.factorize(np.asarray(groups))
    order = np.argsort(codes, kind="stable")
    for members in np.split(order, np.cumsum(np.bincount(codes, minlength=len(names)))[:-1]):
        own = members[np.isfinite(degrees[members])]
        if len(own) < MIN_ANGLES:
            continue
        doubled = np.exp(2j * np.radians(degrees[own]))
        others = doubled.sum() - doubled
        known = np.abs(others) > 1e-9 * len(own)
        mean = np.degrees(np.angle(others)) / 2
        turned[own[known]] = axial_difference(degrees[own], mean)[known]
    return turned


def typical_patients(predictions: pd.DataFrame, *, positive: int = 1) -> tuple[str, str]:
    """The patient of the reference and of the positive group whose out-of-fold probability is its
    group's median.

    `predictions`: `patient, label` (0/1), `probability`. Ties and even numbers: the lower one; so
    nobody picks them.
    """
    reference = typical_patient(predictions[predictions["label"] == 1 - positive])
    return reference, typical_patient(predictions[predictions["label"] == positive])


def typical_patient(predictions: pd.DataFrame) -> str:
    """The patient whose `probability` is the median; of two in the middle the lower one."""
    own = predictions.sort_values(["probability", "patient"], kind="stable")
    return str(own["patient"].iloc[(len(own) - 1) // 2])


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


def typical_patches(values: pd.DataFrame, feature: str, *, count: int) -> pd.DataFrame:
    """The patches whose value of a feature is nearest to the median over patches, of those with at
    least half of the median number of nuclei; `values` as `matrix.patch_values` gives them."""
    own = values[(values["nuclei"] > 0) & values[feature].notna()]
    own = own[own["nuclei"] >= own["nuclei"].median() / 2]
    distance = (own[feature] - own[feature].median()).abs()
    return own.loc[distance.sort_values(kind="stable").index[:count]].sort_values("patch_id")
