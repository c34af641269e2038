"""The report's section on the plain scan and the plain models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from morphomil.figures.effects import effect_of, groups_of
from morphomil.figures.labels import format_estimate
from morphomil.figures.report.data import ScanSection
from morphomil.figures.sentences import say_plainly, say_statement
from morphomil.nuclei.quantities import nucleus_phrase, sentence_case
from morphomil.rank.summaries import SUMMARY_TITLES
from morphomil.store import read_csv

if TYPE_CHECKING:
    from morphomil.run.directory import Run


def read_scan_section(run: Run, ranking: pd.DataFrame | None) -> ScanSection | None:
    """The section, or None where the run has no scan."""
    path = run.rank_folder / "baselines.csv"
    if ranking is None or "scan_p_any" not in ranking or not path.is_file():
        return None
    summary = run.ranking_about()
    effect = effect_of(ranking)
    name = f"scan_{effect.scanned}"
    features = ranking.sort_values("scan_p_any", kind="stable")
    table = pd.DataFrame(
        {
            "feature": [sentence_case(nucleus_phrase(name)) for name in features["feature"]],
            "differs most in": features["scan_summary"].map(SUMMARY_TITLES).fillna(""),
            f"{effect.name} [95 %]": _estimates(features, name, f"{name}_"),
        }
        | ({"highest in": features["scan_highest"]} if groups_of(ranking) else {})
        | {
            "scan_p": features["scan_p"],
            "scan_p_any": features["scan_p_any"],
        }
    )
    baselines, known = read_csv(path), ranking["feature"].tolist()
    models = pd.DataFrame(
        {
            "model": [sentence_case(say_plainly(text, known)) for text in baselines["description"]],
            "AUC, out of fold [95 %]": _estimates(baselines, "auc", ""),
            "difference [95 %]": _estimates(baselines, "difference", "difference_"),
        }
    )
    findings = (*summary.get("findings", ()), say_statement(summary, ranking, "baselines"))
    return ScanSection(tuple(text for text in findings if text), table, models)


def _estimates(table: pd.DataFrame, name: str, prefix: str) -> list[str]:
    return [
        format_estimate(row[name], row[f"{prefix}low"], row[f"{prefix}high"])
        for row in table.to_dict("records")
    ]
