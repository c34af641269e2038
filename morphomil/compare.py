"""A run's predictions and cohort -> the tables of a paper, a paragraph on methods, a reporting checklist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from morphomil.bags import patient_labels
from morphomil.stats.tables import (
    PARTS,
    PREDICTION_COLUMNS,
    calibration_table,
    characteristics_table,
    class_columns,
    comparison_table,
    confusion_counts,
    multiclass_comparison_table,
    multiclass_table,
    net_benefit_table,
    performance_table,
    print_multiclass,
    print_p,
    print_performance,
    print_subgroups,
    subgroup_table,
    to_html,
    to_latex,
)
from morphomil.store import write_bytes, write_table_csv
from morphomil.types import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from morphomil.run import Run

AUTHOR = "AUTHOR TO FILL"
SEED = 0
"""Of the bootstrap in the table of several classes."""
SUBGROUP_VALUES = 8
"""A variable with more values makes no subgroups; numbers are cut at their median."""


def read_predictions(run: Run) -> pd.DataFrame:
    """Predictions of every trained model, and the ranking's out-of-fold ones as `morphometry` (its cutoff is 0.5).

    Models of three or more classes have the columns `probability_0`, `probability_1`, ... beside.

    Raises:
        InputError: there are none.
    """
    tables = []
    for path in sorted((run.path / "models").glob("*/predictions.parquet")):
        tables.append(pd.read_parquet(path).assign(model=path.parent.name))
    ranked = run.path / "rank" / "predictions.parquet"
    if ranked.is_file() and not any((table["model"] == "morphometry").any() for table in tables):
        own = pd.read_parquet(ranked).rename(columns={"probability": "score"})
        tables.append(own.assign(model="morphometry", part="test", cutoff=0.5))
    if not tables:
        raise InputError(f"{run.path} has no predictions; train a model (morphomil train) or rank first")
    table = pd.concat(tables, ignore_index=True)
    return table[[*PREDICTION_COLUMNS, *class_columns(table)]]


def patients_table(run: Run) -> pd.DataFrame:
    """One row per patient: `label`, `split`, `site` and the covariates that are the same on all of its slides."""
    slides = run.cohort.table()
    rows = slides.groupby("patient", sort=True)
    names = [str(name) for name in slides if name not in ("slide_id", "patient")]
    known = [name for name in names if not (rows[name].nunique() > 1).any()]
    patients = rows[known].first()
    patients["label"] = patient_labels(slides)
    return patients.dropna(axis=1, how="all")


def compare(run: Run) -> list[Path]:
    """Write `tables/` of the run: each table as CSV, LaTeX and HTML; `methods.md`; `checklist.md`.

    Raises:
        InputError: the run has no predictions.
    """
    predictions, patients = read_predictions(run), patients_table(run)
    folder = run.path / "tables"
    covariates = patients.drop(columns=["split", "label"], errors="ignore")
    written = []
    tables = _characteristics(patients, covariates)
    several = predictions[class_columns(predictions)].notna().any(axis=1)
    if several.any():
        tables |= _several_classes(predictions[several])
    if not several.all():
        tables |= _two_classes(predictions[~several], covariates)
    notes = _notes(predictions)
    for stem, (caption, table, printed) in tables.items():
        write_table_csv(folder / f"{stem}.csv", table)
        write_bytes(folder / f"{stem}.html", to_html(printed, caption=caption, notes=notes).encode())
        write_bytes(folder / f"{stem}.tex", to_latex(printed, caption=caption).encode())
        written += [folder / f"{stem}.{kind}" for kind in ("csv", "html", "tex")]
    for name, text in (
        ("methods.md", _methods(run, predictions, notes)),
        ("checklist.md", _checklist(run, predictions)),
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
    for name, groups in (("label", patients["label"].astype(str)), ("split", patients.get("split"))):
        if groups is not None and groups.notna().all():
            table = characteristics_table(covariates, groups)
            printed = table.assign(**{p: [_p(x) for x in table[p]] for p in ("p_value", "p_holm")})
            tables[f"characteristics_by_{name}"] = (f"Characteristics by {name}", table, printed)
    return tables


def _two_classes(predictions: pd.DataFrame, covariates: pd.DataFrame) -> Tables:
    performance = performance_table(predictions)
    tables: Tables = {"performance": ("Performance of the models", performance, print_performance(performance))}
    more = [
        ("comparison", "Differences of AUC", comparison_table(predictions)),
        ("calibration", "Calibration of the models", calibration_table(predictions)),
        ("net_benefit", "Net benefit by threshold (decision curve)", net_benefit_table(predictions)),
    ]
    if covariates.shape[1]:
        caption = "Subgroups of the test patients; cutoffs fixed on validation, refitted ones beside (optimistic)"
        table = subgroup_table(predictions, _subgroups(covariates))
        if len(table):
            tables["subgroups"] = (caption, table, print_subgroups(table))
    return tables | {stem: (caption, table, _round(table)) for stem, caption, table in more if len(table)}


def _several_classes(predictions: pd.DataFrame) -> Tables:
    table, counts = multiclass_table(predictions, seed=SEED), confusion_counts(predictions)
    pairs = multiclass_comparison_table(predictions, seed=SEED)
    tables: Tables = {
        "performance_by_class": ("Performance by class", table, print_multiclass(table)),
        "confusion": ("Labels (rows) by calls", counts, counts),
    }
    return tables | (
        {"comparison_by_class": ("Differences of AUC by class", pairs, _round(pairs))} if len(pairs) else {}
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
        "AUC with DeLong's interval (on the logit scale below 50 cases of a class and where the AUC is above 0.9); "
        "accuracy, sensitivity and specificity with exact Clopper-Pearson intervals; predictive values with Mercaldo's "
        "logit interval at the sample's prevalence. AUCs of the same patients were compared by DeLong's test, those of "
        "subgroups by its unpaired form; interactions by the likelihood ratio of label ~ score * subgroup. Cutoffs "
        "were fixed on validation patients (Youden).",
        "T training, V validation, I-T test.",
    ]
    if class_columns(predictions):
        notes.append(
            "Several classes: AUC of a class against the rest, macro average and Hand and Till's, with bootstrap "
            "(BCa) intervals by patient; a patient is called the most probable class. Models were compared by the "
            "bootstrap standard error of the difference, and class by class by DeLong's test."
        )
    if tested["fold"].nunique() > 1:
        notes.append(
            "Test scores are out of fold: AUCs count pairs within folds, and tests between models are approximate, "
            "since folds share training patients."
        )
    if (tested.loc[tested["model"] == "morphometry", "cutoff"] == 0.5).any():
        notes.append("The ranking's morphometry model has no cutoff of its own; 0.5 is used.")
    return notes


def _methods(run: Run, predictions: pd.DataFrame, notes: list[str]) -> str:
    patients = patients_table(run)
    counts = ", ".join(f"{n} with label {name}" for name, n in patients["label"].value_counts().sort_index().items())
    folds = predictions.loc[predictions["part"] == "test", "fold"].nunique()
    how = "one held-out test set" if folds == 1 else f"{folds}-fold cross-validation by patient"
    commands = run.commands()
    segment = commands.get("segment", {}).get("settings", {})
    versions = next(iter(commands.values()), {}).get("versions", {})
    lines = [
        "# Methods",
        "",
        f"{len(patients)} patients ({counts}) with {len(run.cohort.slides)} slides were analyzed with morphomil "
        f"{versions.get('morphomil', '')}. Nuclei were segmented by the model {segment.get('model', AUTHOR)} "
        f"(SHA-256 {str(segment.get('model_sha256', AUTHOR))[:12]}, {segment.get('precision', AUTHOR)}) in patches of "
        f"{segment.get('patch_px', AUTHOR)} pixels at {segment.get('working_mpp', AUTHOR)} um per pixel. "
        f"Models were tested in {how}; patients are the unit of splitting and testing.",
        "",
        *notes,
        "Two-sided p values; Holm's adjustment within each table's family is given beside each.",
        "",
    ]
    return "\n".join(lines)


def _checklist(run: Run, predictions: pd.DataFrame) -> str:
    """Items of TRIPOD+AI (Collins et al. 2024) and CLAIM (Mongan et al. 2020) that a run knows something of."""
    patients = patients_table(run)
    events = "; ".join(f"{name}: {n}" for name, n in patients["label"].value_counts().sort_index().items())
    parts = predictions.drop_duplicates(["part", "patient"])["part"].value_counts()
    segmented = run.figures("segment")
    failed = segmented.loc[segmented["state"] != "done", "slide_id"].astype(str).tolist()
    items = (
        ("Title and abstract: study identified as development or evaluation of a prediction model", AUTHOR),
        ("Background, intended use, target population", AUTHOR),
        ("Data: source, dates, eligibility", AUTHOR),
        ("Participants: number, outcome events", f"{len(patients)} patients; {events}"),
        ("Data partitions, at the level of the patient", "; ".join(f"{PARTS[str(p)]} {n}" for p, n in parts.items())),
        ("Missing data", _missing(patients)),
        ("Exclusions: slides without a result", ", ".join(failed) or "none"),
        (
            "Predictors: definition and units",
            "eight nuclear features (docs: features); covariates as in cohort.parquet",
        ),
        ("Sample size: how it was arrived at", AUTHOR),
        ("Model: architecture, training, hyperparameters", "run.json and models/*/settings.json"),
        ("Models evaluated", ", ".join(predictions["model"].unique())),
        ("Performance measures with confidence intervals", "tables/performance.csv, performance_by_class.csv"),
        ("Calibration", "tables/calibration.csv, net_benefit.csv, where scores are probabilities of two classes"),
        ("Fairness and subgroups", "tables/subgroups.csv, if covariates were kept"),
        ("Software versions", "run.json"),
        ("External validation", AUTHOR),
        ("Limitations and generalizability", AUTHOR),
        ("Funding, ethics, data and code availability, registration", AUTHOR),
    )
    rows = [f"| {item} | {answer.replace('|', chr(92) + '|')} |" for item, answer in items]
    return "\n".join(["# TRIPOD+AI and CLAIM: what this run knows", "", "| item | |", "|---|---|", *rows, ""])


def _missing(patients: pd.DataFrame) -> str:
    counts = {name: int(n) for name, n in patients.isna().sum().items() if n}
    return "; ".join(f"{name}: {n}" for name, n in counts.items()) or "none in the columns that were kept"
