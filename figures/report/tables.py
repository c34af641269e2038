"""The report's tables of slides, cohort and models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.figures.labels import (
    format_estimate,
    format_interval,
    format_ratio,
    model_name,
)
from morphomil.figures.report.data import LimitsSection
from morphomil.nuclei.quantities import feature_quantity
from morphomil.tables.limits import describe_limits
from morphomil.tables.models import print_models
from morphomil.tables.slides import empty_patches, slide_states
from morphomil.tables.types import types_of_groups
from morphomil.types import NUCLEUS_TYPES

if TYPE_CHECKING:
    from morphomil.run.directory import Run


def slides_table(run: Run) -> pd.DataFrame:
    """Segmentation and measurement of every slide, and why a slide has none."""
    measured, segmented = slide_states(run), run.figures("segment").set_index("slide_id")
    for name in ("patches_with_ink", "patches_blurred", "implausible"):
        measured[name] = measured["slide_id"].map(segmented[name]) if name in segmented else np.nan
    counted = run.figures("featurize")["state"].isin(["done", "empty"])
    names = zip(measured["slide_id"], counted, strict=True)
    empty_counts = [empty_patches(run, name) if known else None for name, known in names]
    measured["patches_empty"] = pd.array(empty_counts, dtype="Int64")
    columns = [
        "patches_kept",
        "patches_dropped",
        "patches_empty",
        "patches_with_ink",
        "patches_blurred",
        "nuclei",
        "implausible",
        "nuclei_per_mm2",
        "median_area_um2",
    ]
    return measured.reindex(columns=["slide_id", "patient", "label", "state", *columns, "cause"])


def cohort_table(run: Run) -> pd.DataFrame:
    """Patients and slides of each label."""
    slides = run.cohort.table()
    grouped = slides.groupby("label", sort=True)
    return pd.DataFrame(
        {
            "label": list(grouped.groups),
            "patients": grouped["patient"].nunique().tolist(),
            "slides": grouped.size().tolist(),
        }
    )


def types_table(patients: pd.DataFrame) -> pd.DataFrame:
    """Composition by group as printed: `label, patients`, and of each type the mean share with its
    interval; from `tables.types.types_of_patients`."""
    table = types_of_groups(patients)
    printed = [
        f"{share:.1%} [{low:.1%}, {high:.1%}]" if np.isfinite([low, high]).all() else f"{share:.1%}"
        for share, low, high in table[["share", "share_low", "share_high"]].to_numpy(float)
    ]
    wide = table.assign(printed=printed).pivot(index="label", columns="type", values="printed")
    counts = patients.groupby("label", sort=True)["patient"].nunique()
    wide = wide[list(NUCLEUS_TYPES)].reset_index().rename_axis(columns=None)
    wide.insert(1, "patients", wide["label"].map(counts))
    return wide


def reviews_table(agreement: pd.DataFrame) -> pd.DataFrame:
    """Agreement of reviewers with the segmentation as printed, from
    `tables.reviews.agreement_of_reviewers`."""

    def share(row: dict[Any, Any], name: str, whole: str) -> str:
        if not row[whole]:
            return ""
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        return f"{row[name]} of {row[whole]}: {row[f'{name}_share']:.0%} [{low:.0%}, {high:.0%}]"

    return pd.DataFrame(
        {
            "slide_id": row["slide_id"],
            "reviewer": row["reviewer"],
            "label hidden": bool(row["blind"]),
            "random sample: nuclei [95 %]": share(row, "nuclei", "sampled"),
            "of the stated type [95 %]": share(row, "types", "typed"),
            "skipped": row["skipped"],
            "chosen: rejected, retyped": f"{row['chosen_rejected']}, {row['chosen_retyped']} of "
            f"{row['chosen']}"
            if row["chosen"]
            else "",
        }
        for row in agreement.to_dict("records")
    )


def limits_section(run: Run) -> LimitsSection:
    """What the run can't say (`tables.limits`)."""
    limits = describe_limits(run)
    rows = [
        {
            "feature": feature_quantity(str(row["feature"])).name,
            "annotated images": f"{row['group']}, {row['mpp']:g} µm per pixel",
            "images": int(row["images"]),
            "slope of the images' means [95 %]": format_estimate(
                row["slope"], row["slope_low"], row["slope_high"]
            ),
            "correlation [95 %]": format_estimate(
                row["correlation"], row["correlation_low"], row["correlation_high"]
            ),
            "rank correlation of nuclei [95 %]": format_estimate(
                row["spearman"], row["spearman_low"], row["spearman_high"]
            ),
        }
        for row in limits.reliability.to_dict("records")
    ]
    return LimitsSection(limits.sentences, pd.DataFrame(rows))


def model_tables(run: Run) -> dict[str, Any]:
    """Performance of the models and DeLong's tests, as printed; empty without predictions of two
    classes or more."""
    printed = print_models(run)
    if printed is None:
        return {}
    performance, pairs = printed
    if performance is not None:
        performance = performance.assign(model=performance["model"].map(model_name))
    tables: dict[str, Any] = {"performance": performance}
    if len(pairs):
        pairs = pairs.assign(
            **{name: pairs[name].map(model_name) for name in ("model_a", "model_b")}
        )
        pairs["difference"] = [
            f"{format_ratio(row['difference'])} {format_interval(row['low'], row['high'])}"
            for row in pairs.to_dict("records")
        ]
        columns = [
            "part",
            "model_a",
            "model_b",
            "test",
            "n",
            "auc_a",
            "auc_b",
            "difference",
            "p_value",
            "p_holm",
        ]
        heads = {
            "n": "patients",
            "auc_a": "AUC of a",
            "auc_b": "AUC of b",
            "difference": "difference of AUC [95 %]",
        }
        tables["comparison"] = pairs[columns].rename(columns=heads)
    return tables
