"""What a run knows of the items of reporting checklists; what it knows in part says what is the
author's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from morphomil.stats.predictions import PARTS, class_columns
from morphomil.tables.checklist import AUTHOR, Facts
from morphomil.tables.methods import how_tested, software

if TYPE_CHECKING:
    from collections.abc import Collection

    import pandas as pd

    from morphomil.run.directory import Run

MEASURES = {
    "performance": "AUC, accuracy, sensitivity, specificity, predictive values",
    "performance_by_class": "AUC macro, Hand and Till's and by class, accuracy, recall, precision",
    "comparison": "differences of AUC",
    "comparison_by_class": "differences of AUC by class",
    "calibration": "calibration slope, intercept, Brier score",
    "net_benefit": "net benefit",
}
"""Each table of models holds these measures."""


def collect_facts(
    run: Run, patients: pd.DataFrame, predictions: pd.DataFrame, *, tables: Collection[str]
) -> Facts:
    """The facts of a run with predictions; `patients` as `patients_table` gives them, `tables` the
    names of those that are written."""
    return Facts(
        **_of_cohort(run, patients, tables),
        **_of_settings(run),
        **_of_models(patients, predictions, tables),
    )


def _of_cohort(run: Run, patients: pd.DataFrame, tables: Collection[str]) -> dict[str, str]:
    """Participants, what was lost, and their characteristics."""
    events = _events(patients)
    segmented = run.figures("segment")
    failed = segmented.loc[segmented["state"] != "done", "slide_id"].astype(str).tolist()
    without = f"{', '.join(failed) or 'none'}"
    outlined = sum(any(image.annotation for image in slide.images) for slide in run.cohort.slides)
    return {
        "outcome": f"label in cohort.parquet; {events}; definition: {AUTHOR}",
        "missing": _missing(patients),
        "sites": f"{patients['site'].nunique()} sites; which: {AUTHOR}"
        if "site" in patients
        else "",
        "classes": f"{events}; what was done about imbalance: {AUTHOR}",
        "flow": f"{_participants(patients)}; {len(segmented)} slides, of which without a result: "
        f"{without}",
        "failures": f"slides without a result: {without}; status.json of each says why",
        "annotations": f"outlines of the tumor for {outlined} of {len(segmented)} slides; tool: "
        f"{AUTHOR}",
        "characteristics": _listed(tables, "characteristics_by_label", "characteristics_by_split"),
        "by_split": _listed(tables, "characteristics_by_split"),
    }


def _of_settings(run: Run) -> dict[str, str]:
    """What the settings of the run's commands tell."""
    commands = run.commands()
    settings = {name: dict(entry["settings"]) for name, entry in commands.items()}
    segmented, ranked = run.segmented_with(), settings.get("rank", {})
    seeds = {chosen["seed"] for chosen in settings.values() if "seed" in chosen}
    versions = ", ".join(f"{name} {version}" for name, version in software(run).items())
    return {
        "regions": f"tumor regions ({segmented['regions']})" if "regions" in segmented else "",
        "preparation": _preparation(segmented),
        "predictors": ", ".join(settings.get("featurize", {}).get("features", [])),
        "software": f"{versions}; code availability: {AUTHOR}" if versions else "",
        "initialization": f"seeds {', '.join(map(str, sorted(seeds)))}" if seeds else "",
        "explanation": "attention of features with its evidence, rank/ (docs: ranking)"
        if ranked
        else "",
        "robustness": f"rank: {ranked['permutations']} permutations of the labels; others: {AUTHOR}"
        if ranked.get("permutations")
        else "",
    }


def _of_models(
    patients: pd.DataFrame, predictions: pd.DataFrame, tables: Collection[str]
) -> dict[str, str]:
    """How models were built, tested and measured."""
    models = ", ".join(predictions["model"].unique())
    parts = predictions.drop_duplicates(["part", "patient"])["part"].value_counts()
    partitions = "; ".join(f"{PARTS[str(part)]} {n}" for part, n in parts.items())
    tested = predictions[predictions["part"] == "test"]
    by_patient = "calls of each patient in models/*/predictions.parquet"
    performance = ("performance", "performance_by_class")
    return {
        "partitions": f"patients predicted: {partitions}; {how_tested(tested)}",
        "level": _level(predictions),
        "handling": "histogram edges, scales and encodings come from each fold's training patients",
        "building": f"{models}; settings of every command in run.json, of trained models in "
        "models/",
        "measures": "; ".join(words for stem, words in MEASURES.items() if stem in tables),
        "uncertainty": "methods.md: DeLong, exact, Mercaldo and bootstrap intervals; Holm's "
        "adjustment; two-sided p",
        "scoring": "each patient by models that were not trained on that patient; "
        "models/*/predictions.parquet",
        "subgroups": f"{_listed(tables, 'subgroups')}; what was done: {AUTHOR}"
        if "subgroups" in tables
        else "",
        "output": _output(predictions),
        "numbers": f"{_participants(patients)}; per model and part: "
        f"{_listed(tables, *performance)}",
        "performance": _listed(tables, *performance, "subgroups"),
        "misclassified": f"{_listed(tables, 'confusion') or by_patient}; what went wrong: {AUTHOR}",
        "model": "weights and settings in models/",
        "choice": "by validation patients, apart from the test patients; among which candidates: "
        f"{AUTHOR}"
        if (predictions["part"] == "val").any()
        else "",
    }


def _events(patients: pd.DataFrame) -> str:
    counts = patients["label"].value_counts().sort_index()
    return "; ".join(f"{name}: {n}" for name, n in counts.items())


def _participants(patients: pd.DataFrame) -> str:
    return f"{len(patients)} patients; {_events(patients)}"


def _listed(tables: Collection[str], *stems: str) -> str:
    return ", ".join(f"tables/{stem}.csv" for stem in stems if stem in tables)


def _level(predictions: pd.DataFrame) -> str:
    shared = predictions.groupby(["model", "fold", "patient"])["part"].nunique().gt(1)
    if not shared.any():
        return "patients: none stands in two parts of a fold"
    return (
        f"{shared[shared].index.get_level_values('patient').nunique()} patients stand in two "
        "parts of a fold"
    )


def _output(predictions: pd.DataFrame) -> str:
    if class_columns(predictions):
        return "probability of each class; a patient is called the most probable class"
    return (
        "probability of each class; a patient is called class 1 from the model's cutoff on; "
        "cutoffs have the largest Youden index in validation, the ranking's is 0.5"
    )


NORMALIZED: dict[str | bool, str] = {
    "always": "yes",
    "never": "no",
    "auto": "where unusual and the network was surer then",
    True: "yes",  # as earlier versions recorded it
    False: "no",
}


def _preparation(segmented: dict[str, Any]) -> str:
    if "patch_px" not in segmented:
        return ""
    text = (
        f"patches of {segmented['patch_px']} pixels at {segmented.get('working_mpp', AUTHOR)} um "
        "per pixel"
    )
    for name, words in (("max_blank", "blank area"), ("max_ink", "ink")):
        if name in segmented:
            text += f"; dropped from a share of {words} of {segmented[name]:g} on"
    if segmented.get("model") == "imported":
        return text
    return text + f"; stain normalized: {NORMALIZED[segmented.get('normalize_stain', 'never')]}"


def _missing(patients: pd.DataFrame) -> str:
    counts = {name: int(n) for name, n in patients.isna().sum().items() if n}
    return (
        "; ".join(f"{name}: {n}" for name, n in counts.items())
        or "none in the columns that were kept"
    )
