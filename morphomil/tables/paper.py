"""A run's predictions and cohort -> the tables of a paper, a paragraph on methods, a reporting
checklist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from morphomil.stats.characteristics import characteristics_table
from morphomil.stats.multiclass_tables import (
    confusion_counts,
    multiclass_comparison_table,
    multiclass_table,
)
from morphomil.stats.performance import (
    calibration_table,
    comparison_table,
    net_benefit_table,
    performance_table,
)
from morphomil.stats.predictions import PARTS, class_columns
from morphomil.stats.printing import (
    print_multiclass,
    print_p,
    print_performance,
    print_subgroups,
    to_html,
    to_latex,
)
from morphomil.stats.subgroups import subgroup_table
from morphomil.store import write_bytes, write_table_csv
from morphomil.tables.checklist import AUTHOR, checklist_page
from morphomil.tables.predictions import patients_table, read_predictions

if TYPE_CHECKING:
    from pathlib import Path

    from morphomil.run.directory import Run
SEED = 0
"""Of the bootstrap in the table of several classes."""
SUBGROUP_VALUES = 8
"""A variable with more values makes no subgroups; numbers are cut at their median."""


def compare(run: Run) -> list[Path]:
    """Write `tables/` of the run: each table as CSV, LaTeX and HTML; `methods.md`; `checklist.md`.

    Raises:
        InputError: the run has no predictions.
    """
    predictions, patients = read_predictions(run), patients_table(run)
    folder = run.tables_folder
    covariates = patients.drop(columns=["split", "label"], errors="ignore")
    written = []
    tables = _characteristics(patients, covariates)
    several = predictions[class_columns(predictions)].notna().any(axis=1)
    if several.any():
        tables |= _several_classes(predictions[several])
    if not several.all():
        tables |= two_class_tables(predictions[~several], covariates)
    notes = _notes(predictions)
    for stem, (caption, table, printed) in tables.items():
        write_table_csv(folder / f"{stem}.csv", table)
        write_bytes(
            folder / f"{stem}.html", to_html(printed, caption=caption, notes=notes).encode()
        )
        write_bytes(folder / f"{stem}.tex", to_latex(printed, caption=caption).encode())
        written += [folder / f"{stem}.{kind}" for kind in ("csv", "html", "tex")]
    for name, text in (
        ("methods.md", _methods(run, predictions, notes)),
        ("checklist.md", checklist_page(_facts(run, predictions, tables))),
    ):
        write_bytes(folder / name, text.encode())
        written.append(folder / name)
    return written


Tables = dict[str, tuple[str, pd.DataFrame, pd.DataFrame]]
"""File stem -> caption, table with all digits, table as printed."""


def _characteristics(patients: pd.DataFrame, covariates: pd.DataFrame) -> Tables:
    tables: Tables = {}
    if covariates.empty or not covariates.shape[1]:
        return tables
    for name, groups in (
        ("label", patients["label"].astype(str)),
        ("split", patients.get("split")),
    ):
        if groups is not None and groups.notna().all():
            table = characteristics_table(covariates, groups)
            printed = table.assign(**{p: [_p(x) for x in table[p]] for p in ("p_value", "p_holm")})
            tables[f"characteristics_by_{name}"] = (f"Characteristics by {name}", table, printed)
    return tables


def two_class_tables(predictions: pd.DataFrame, covariates: pd.DataFrame | None = None) -> Tables:
    """Performance, comparison, calibration, net benefit and, with covariates by patient,
    subgroups.

    Raises:
        ValueError, RefusedError: as `performance_table`.
    """
    performance = performance_table(predictions)
    tables: Tables = {
        "performance": ("Performance of the models", performance, print_performance(performance))
    }
    more = [
        ("comparison", "Differences of AUC", comparison_table(predictions)),
        ("calibration", "Calibration of the models", calibration_table(predictions)),
        (
            "net_benefit",
            "Net benefit by threshold (decision curve)",
            net_benefit_table(predictions),
        ),
    ]
    if covariates is not None and covariates.shape[1]:
        caption = (
            "Subgroups of the test patients; cutoffs fixed on validation, refitted ones beside "
            "(optimistic)"
        )
        table = subgroup_table(predictions, _subgroups(covariates))
        if len(table):
            tables["subgroups"] = (caption, table, print_subgroups(table))
    return tables | {
        stem: (caption, table, _round(table)) for stem, caption, table in more if len(table)
    }


def _several_classes(predictions: pd.DataFrame) -> Tables:
    table, counts = multiclass_table(predictions, seed=SEED), confusion_counts(predictions)
    pairs = multiclass_comparison_table(predictions, seed=SEED)
    tables: Tables = {
        "performance_by_class": ("Performance by class", table, print_multiclass(table)),
        "confusion": ("Labels (rows) by calls", counts, counts),
    }
    return tables | (
        {"comparison_by_class": ("Differences of AUC by class", pairs, _round(pairs))}
        if len(pairs)
        else {}
    )


def _p(value: Any) -> str:
    return print_p(value) if isinstance(value, float) else str(value)


def _round(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(
        **{
            str(name): [_p(x) if str(name).startswith("p_") else f"{x:.3f}" for x in table[name]]
            for name in table
            if pd.api.types.is_float_dtype(table[name])
        }
    )


def _subgroups(covariates: pd.DataFrame) -> pd.DataFrame:
    """Categories as they are; numbers of many values as below and from their median."""
    columns = {}
    for name, values in covariates.items():
        if values.nunique() <= SUBGROUP_VALUES:
            columns[name] = values
        elif pd.api.types.is_numeric_dtype(values):
            middle = values.median()
            halves = (values >= middle).map({True: f">= {middle:.4g}", False: f"< {middle:.4g}"})
            columns[name] = halves.where(values.notna())
    return pd.DataFrame(columns, index=covariates.index)


def _notes(predictions: pd.DataFrame) -> list[str]:
    tested = predictions[predictions["part"] == "test"]
    notes = [
        "AUC with DeLong's interval (on the logit scale below 50 cases of a class and where the "
        "AUC is above 0.9); "
        "accuracy, sensitivity and specificity with exact Clopper-Pearson intervals; predictive "
        "values with Mercaldo's "
        "logit interval at the sample's prevalence. AUCs of the same patients were compared by "
        "DeLong's test, those of "
        "subgroups by its unpaired form; interactions by the likelihood ratio of label ~ score * "
        "subgroup. Cutoffs "
        "were fixed on validation patients (Youden).",
        "T training, V validation, I-T test.",
    ]
    if class_columns(predictions):
        notes.append(
            "Several classes: AUC of a class against the rest, macro average and Hand and Till's, "
            "with bootstrap "
            "(BCa) intervals by patient; a patient is called the most probable class. Models were "
            "compared by the "
            "bootstrap standard error of the difference, and class by class by DeLong's test."
        )
    if tested["fold"].nunique() > 1:
        notes.append(
            "Test scores are out of fold: AUCs count pairs within folds, and tests between models "
            "are approximate, "
            "since folds share training patients."
        )
    if (tested.loc[tested["model"] == "morphometry", "cutoff"] == 0.5).any():
        notes.append("The ranking's morphometry model has no cutoff of its own; 0.5 is used.")
    return notes


def _methods(run: Run, predictions: pd.DataFrame, notes: list[str]) -> str:
    patients = patients_table(run)
    counts = ", ".join(
        f"{n} with label {name}"
        for name, n in patients["label"].value_counts().sort_index().items()
    )
    how = _how_tested(predictions[predictions["part"] == "test"])
    commands = run.commands()
    segment = commands.get("segment", {}).get("settings", {})
    versions = next(iter(commands.values()), {}).get("versions", {})
    lines = [
        "# Methods",
        "",
        f"{len(patients)} patients ({counts}) with {len(run.cohort.slides)} slides were analyzed "
        "with morphomil "
        f"{versions.get('morphomil', '')}. Nuclei were segmented by the model "
        f"{segment.get('model', AUTHOR)} "
        f"(SHA-256 {str(segment.get('model_sha256', AUTHOR))[:12]}, "
        f"{segment.get('precision', AUTHOR)}) in patches of "
        f"{segment.get('patch_px', AUTHOR)} pixels at {segment.get('working_mpp', AUTHOR)} um per "
        "pixel. "
        f"Models were tested in {how}; patients are the unit of splitting and testing.",
        "",
        *notes,
        "Two-sided p values; Holm's adjustment within each table's family is given beside each.",
        "",
    ]
    return "\n".join(lines)


def _facts(run: Run, predictions: pd.DataFrame, tables: Tables) -> dict[str, str]:
    """What the run knows of the checklists' items; what it knows in part says what is the
    author's."""
    patients, commands = patients_table(run), run.commands()
    events = "; ".join(
        f"{name}: {n}" for name, n in patients["label"].value_counts().sort_index().items()
    )
    participants = f"{len(patients)} patients; {events}"
    parts = predictions.drop_duplicates(["part", "patient"])["part"].value_counts()
    partitions = "; ".join(f"{PARTS[str(part)]} {n}" for part, n in parts.items())
    segmented = run.figures("segment")
    failed = segmented.loc[segmented["state"] != "done", "slide_id"].astype(str).tolist()
    models = ", ".join(predictions["model"].unique())
    versions = next(reversed(commands.values()), {}).get("versions", {})
    software = ", ".join(
        f"{name} {version}" for name, version in versions.items() if name != "machine"
    )
    segment = commands.get("segment", {}).get("settings", {})
    ranked = commands.get("rank", {}).get("settings", {})
    tested = predictions[predictions["part"] == "test"]
    outlined = sum(any(image.annotation for image in slide.images) for slide in run.cohort.slides)
    seeds = {
        entry["settings"]["seed"] for entry in commands.values() if "seed" in entry["settings"]
    }

    def listed(*stems: str) -> str:
        return ", ".join(f"tables/{stem}.csv" for stem in stems if stem in tables)

    facts = {
        "outcome": f"label in cohort.parquet; {events}; definition: {AUTHOR}",
        "missing": _missing(patients),
        "partitions": f"patients predicted: {partitions}; {_how_tested(tested)}",
        "level": _level(predictions),
        "handling": "histogram edges, scales and encodings come from each fold's training patients",
        "building": f"{models}; settings of every command in run.json, of trained models in "
        "models/",
        "measures": _measures(tables),
        "uncertainty": "methods.md: DeLong, exact, Mercaldo and bootstrap intervals; Holm's "
        "adjustment; two-sided p",
        "scoring": "each patient by models that were not trained on that patient; "
        "models/*/predictions.parquet",
        "classes": f"{events}; what was done about imbalance: {AUTHOR}",
        "subgroups": f"{listed('subgroups')}; what was done: {AUTHOR}"
        if "subgroups" in tables
        else "",
        "output": _output(predictions),
        "characteristics": listed("characteristics_by_label", "characteristics_by_split"),
        "by_split": listed("characteristics_by_split"),
        "numbers": f"{participants}; per model and part: "
        f"{listed('performance', 'performance_by_class')}",
        "performance": listed("performance", "performance_by_class", "subgroups"),
        "flow": f"{participants}; {len(segmented)} slides, of which without a result: "
        f"{', '.join(failed) or 'none'}",
        "failures": f"slides without a result: {', '.join(failed) or 'none'}; status.json of each "
        "says why",
        "misclassified": (
            listed("confusion") or "calls of each patient in models/*/predictions.parquet"
        )
        + f"; what went wrong: {AUTHOR}",
        "model": "weights and settings in models/",
        "software": f"{software}; code availability: {AUTHOR}" if software else "",
        "initialization": f"seeds {', '.join(map(str, sorted(seeds)))}" if seeds else "",
        "annotations": f"outlines of the tumor for {outlined} of {len(segmented)} slides; tool: "
        f"{AUTHOR}",
        "regions": f"tumor regions ({segment['regions']})" if "regions" in segment else "",
        "preparation": _preparation(segment),
        "predictors": ", ".join(
            commands.get("featurize", {}).get("settings", {}).get("features", [])
        ),
    }
    if "site" in patients:
        facts["sites"] = f"{patients['site'].nunique()} sites; which: {AUTHOR}"
    if ranked:
        facts["explanation"] = "attention of features with its evidence, rank/ (docs: ranking)"
    if (predictions["part"] == "val").any():
        facts["choice"] = (
            "by validation patients, apart from the test patients; among which candidates: "
            f"{AUTHOR}"
        )
    if ranked.get("permutations"):
        facts["robustness"] = (
            f"rank: {ranked['permutations']} permutations of the labels; others: {AUTHOR}"
        )
    return facts


def _how_tested(tested: pd.DataFrame) -> str:
    folds = tested["fold"].nunique()
    return "one held-out test set" if folds == 1 else f"{folds}-fold cross-validation by patient"


def _level(predictions: pd.DataFrame) -> str:
    shared = predictions.groupby(["model", "fold", "patient"])["part"].nunique().gt(1)
    if not shared.any():
        return "patients: none stands in two parts of a fold"
    return (
        f"{shared[shared].index.get_level_values('patient').nunique()} patients stand in two "
        "parts of a fold"
    )


def _output(predictions: pd.DataFrame) -> str:
    called = (
        "the most probable class"
        if class_columns(predictions)
        else "class 1 from the model's cutoff on"
    )
    how = (
        ""
        if class_columns(predictions)
        else "; cutoffs have the largest Youden index in validation, the ranking's is 0.5"
    )
    return f"probability of each class; a patient is called {called}{how}"


def _measures(tables: Tables) -> str:
    shown = {
        "performance": "AUC, accuracy, sensitivity, specificity, predictive values",
        "performance_by_class": "AUC macro, Hand and Till's and by class, accuracy, recall, "
        "precision",
        "comparison": "differences of AUC",
        "comparison_by_class": "differences of AUC by class",
        "calibration": "calibration slope, intercept, Brier score",
        "net_benefit": "net benefit",
    }
    return "; ".join(words for stem, words in shown.items() if stem in tables)


def _preparation(segment: dict[str, Any]) -> str:
    if "patch_px" not in segment:
        return ""
    text = (
        f"patches of {segment['patch_px']} pixels at {segment.get('working_mpp', AUTHOR)} um per "
        "pixel"
    )
    for name, words in (("max_blank", "blank area"), ("max_ink", "ink")):
        if name in segment:
            text += f"; dropped from a share of {words} of {segment[name]:g} on"
    return text + f"; stain normalized: {'yes' if segment.get('normalize_stain') else 'no'}"


def _missing(patients: pd.DataFrame) -> str:
    counts = {name: int(n) for name, n in patients.isna().sum().items() if n}
    return (
        "; ".join(f"{name}: {n}" for name, n in counts.items())
        or "none in the columns that were kept"
    )
