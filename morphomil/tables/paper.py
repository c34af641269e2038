"""A run's predictions and cohort -> the tables of a paper, a paragraph on methods, a reporting
checklist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from morphomil.run.claims import with_lock
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
from morphomil.stats.predictions import class_columns
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
from morphomil.tables.checklist import checklist_page
from morphomil.tables.facts import collect_facts
from morphomil.tables.methods import methods_page, references
from morphomil.tables.office import to_docx, to_xlsx
from morphomil.tables.predictions import patients_table, read_predictions

if TYPE_CHECKING:
    from pathlib import Path

    from morphomil.run.directory import Run
SUBGROUP_VALUES = 8
"""A variable with more values makes no subgroups; numbers are cut at their median."""


@with_lock
def compare(run: Run) -> list[Path]:
    """Write `tables/` of the run: each table as CSV, LaTeX and HTML, all of them in `tables.xlsx`
    (all digits) and `tables.docx` (as printed); `methods.md`, `references.bib`, `checklist.md`.

    Raises:
        InputError: the run has no predictions.
        BusyError: another process works in the run directory.
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
    workbook = to_xlsx({stem: table for stem, (_, table, _) in tables.items()})
    document = to_docx({caption: own for caption, _, own in tables.values()}, notes=notes)
    for name, content in (("tables.xlsx", workbook), ("tables.docx", document)):
        write_bytes(folder / name, content)
        written.append(folder / name)
    for name, text in (
        ("references.bib", references(run, models=True)),
        ("methods.md", methods_page(run, patients, predictions, notes=notes)),
        ("checklist.md", checklist_page(collect_facts(run, patients, predictions, tables=tables))),
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
    table, counts = multiclass_table(predictions), confusion_counts(predictions)
    pairs = multiclass_comparison_table(predictions)
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
        "AUC is above 0.9); accuracy, sensitivity and specificity with exact Clopper-Pearson "
        "intervals; predictive values with Mercaldo's logit interval at the sample's prevalence. "
        "AUCs of the same patients were compared by DeLong's test, those of subgroups by its "
        "unpaired form; interactions by the likelihood ratio of label ~ score * subgroup. Cutoffs "
        "were fixed on validation patients (Youden).",
        "T training, V validation, I-T test.",
    ]
    if class_columns(predictions):
        notes.append(
            "Several classes: AUC of a class against the rest, macro average and Hand and Till's, "
            "with the influence curve's intervals; a patient is called the most probable class. "
            "Models were compared by the influence curve of the difference, and class by class by "
            "DeLong's test."
        )
    if tested["fold"].nunique() > 1:
        notes.append(
            "Test scores are out of fold: AUCs count pairs within folds. As folds share training "
            "patients, the variance of given scores is multiplied by 1 (a model that doesn't "
            "overfit) to 2 (one that learned nothing else, or whose training isn't known), in "
            "intervals of AUCs and in DeLong's test of models (test: cross-validated), which "
            "concern models trained in this way."
        )
    if (tested.loc[tested["model"] == "morphometry", "cutoff"] == 0.5).any():
        notes.append("The ranking's morphometry model has no cutoff of its own; 0.5 is used.")
    return notes
