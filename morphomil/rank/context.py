"""What else explains a ranking: features against site, scanner, sharpness and whatever is known of
patients and slides beside the nuclei, and these against the label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.cohort.encoding import is_number
from morphomil.nuclei.quantities import Quantity, feature_quantity
from morphomil.stats.adjustment import benjamini_hochberg, holm
from morphomil.stats.categories import category_row
from morphomil.stats.explained import Explained, epsilon_squared, rank_correlation
from morphomil.stats.printing import print_p

if TYPE_CHECKING:
    from collections.abc import Sequence
LABEL = "label"
"""Rows of this "feature" hold the label against the context."""
OWN_COLUMNS = ("slide_id", "patient", "label", "split")
"""These columns of a cohort say nothing of how a slide came about."""
MOST_LEVELS = 20
"""A text of more levels is taken for a name, and left out."""
ALPHA = 0.05
"""Up to this p value, two things go together; of features adjusted over the table (Holm)."""
QUANTITIES = {
    "um_per_pixel": Quantity("Pixel size", "µm"),
    "tissue_mm2": Quantity("Tissue area", "mm²"),
    "tissue_share": Quantity("Share of tissue", ""),
}
"""What is known of slides whose columns don't say it in words."""
TOP = 3
"""Features up to this place are warned of."""


def context_quantity(column: str) -> Quantity:
    """Display name and unit of what a column of the context holds: "tissue_mm2" is Tissue area
    (mm²)."""
    return QUANTITIES.get(column) or feature_quantity(column)


def context_of_patients(slides: pd.DataFrame) -> pd.DataFrame:
    """What is known of each patient beside nuclei and label, sorted by patient.

    Args:
        slides: one row per slide: `patient` and any columns. Numbers become the patient's mean,
            texts that of its slides if they agree, else missing. Columns of one value, and texts of
            more than 20, are left out.
    """
    grouped = slides.groupby("patient", sort=True)
    columns: dict[str, pd.Series[Any]] = {}
    for name in (str(one) for one in slides if one not in OWN_COLUMNS):
        if is_number(slides[name]):
            values = pd.to_numeric(slides[name], errors="coerce")
            values = values.groupby(slides["patient"], sort=True).mean()
        else:
            values = grouped[name].first().where(grouped[name].nunique() == 1)
        levels = values.nunique()
        if levels > 1 and (is_number(slides[name]) or levels <= MOST_LEVELS):
            columns[name] = values
    return pd.DataFrame(columns, index=pd.Index(sorted(slides["patient"].unique())))


def explain_by_context(
    ranking: pd.DataFrame,
    of_patients: pd.DataFrame,
    context: pd.DataFrame,
    *,
    held: Sequence[str] = (),
) -> pd.DataFrame:
    """Each feature, and the label, against each column of the context.

    Args:
        ranking: `feature` and `rank`.
        of_patients: `patient, label` and a column per feature.
        context: by patient (`context_of_patients`).
        held: columns that the ranking holds constant already.

    Returns:
        `feature` (or "label"), `rank, against, n, measure, effect, low, high, p_value`, then
        `p_holm, p_bh` over the rows of the features, `share` (of the ranks' variance that goes
        together: rho squared, or epsilon squared), `label_p` (of the context against the label),
        `held`, and `flagged`: a feature of the first three places goes with something that goes
        with the label and is not held constant. Measures: Spearman's rho of a feature and a number,
        epsilon squared of a feature and groups, or of a number and the label; Cramer's V of groups
        and the label.
    """
    known = context.reindex(of_patients["patient"])
    labels = of_patients["label"].to_numpy()
    rows: list[dict[str, Any]] = []
    for name, values in known.items():
        about = {"against": str(name), "held": name in held}
        to_label = _against_label(values, labels)
        rows.append({"feature": LABEL} | about | to_label)
        for feature in ranking.to_dict("records"):
            own = of_patients[feature["feature"]].to_numpy(np.float64)
            rows.append(
                {"feature": feature["feature"], "rank": feature["rank"]}
                | about
                | _against_feature(own, values)
                | {"label_p": to_label["p_value"]}
            )
    names = ["feature", "rank", "against", "n", "measure", "effect", "low", "high", "p_value"]
    table = pd.DataFrame(rows, columns=[*names, "share", "label_p", "held"])
    of_features = table["feature"] != LABEL
    for column, adjust in (("p_holm", holm), ("p_bh", benjamini_hochberg)):
        table[column] = np.nan
        table.loc[of_features, column] = np.asarray(adjust(table.loc[of_features, "p_value"]))
    table["flagged"] = (
        of_features
        & (table["rank"] <= TOP)
        & (table["p_holm"] <= ALPHA)
        & (table["label_p"] <= ALPHA)
        & ~table["held"].astype(bool)
    )
    return table.sort_values(["against", "rank"], kind="stable", ignore_index=True)


def say_context(table: pd.DataFrame, *, adjustable: Sequence[str]) -> tuple[str, ...]:
    """A sentence for each thing that may explain a feature of the first places.

    `adjustable` are the columns of the cohort, which `--adjust` takes.
    """
    said = []
    for against, rows in table[table["flagged"].astype(bool)].groupby("against", sort=True):
        name = str(against)
        features = [
            f"{_name(row['feature'])} ({row['share']:.0%} of its rank variance)"
            for row in rows.sort_values("rank").to_dict("records")
        ]
        first = rows.iloc[0]
        advice = (
            f"rank with --adjust {name} to see what is left"
            if name in adjustable
            else "give it as a column of the manifest, and rank with --adjust, to see what is left"
        )
        listed = ", ".join(features[:-1]) + " and " * (len(features) > 1) + features[-1]
        verb = "goes" if len(features) == 1 else "go"
        words = _words(name)
        said.append(
            f"{listed[:1].upper()}{listed[1:]} {verb} with {words}, which goes with the label (p "
            f"{_p(first['label_p'])}): the difference may be one of {words}; {advice}."
        )
    return tuple(said)


def _against_label(values: pd.Series[Any], labels: Any) -> dict[str, Any]:
    if is_number(values):
        found = epsilon_squared(values.to_numpy(np.float64, na_value=np.nan), labels)
        return _row("epsilon squared", found, share=found.effect)
    row = category_row(values.reset_index(drop=True), labels, level=0.95)
    effect, low, high = (row[f"cramers_v{end}"] for end in ("", "_low", "_high"))
    found = Explained(row["n"], effect, low, high, row["p_value"])
    return _row("Cramer's V", found, share=found.effect**2)


def _against_feature(own: Any, values: pd.Series[Any]) -> dict[str, Any]:
    if is_number(values):
        found = rank_correlation(own, values.to_numpy(np.float64, na_value=np.nan))
        return _row("rho", found, share=found.effect**2)
    found = epsilon_squared(own, values.to_numpy(object))
    return _row("epsilon squared", found, share=found.effect)


def _row(measure: str, found: Explained, *, share: float) -> dict[str, Any]:
    return {"measure": measure} | found._asdict() | {"share": share}


def _p(value: float) -> str:
    text = print_p(value)
    return text if text.startswith("<") else f"= {text}"


def _words(column: str) -> str:
    """A column of the context within a sentence; those of the cohort are named as there."""
    return QUANTITIES[column].name.lower() if column in QUANTITIES else column.replace("_", " ")


def _name(feature: str) -> str:
    name = feature_quantity(feature).name
    return f"nuclear {name[:1].lower()}{name[1:]}"
