"""The report as one HTML page that opens offline, with every picture inside."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd

from morphomil.figures.differences import say_differences
from morphomil.figures.effects import effect_of, groups_of
from morphomil.figures.labels import (
    MINUS,
    MISSING,
    format_interval,
    format_number,
    format_p,
    format_ratio,
)
from morphomil.figures.sentences import say_auc, say_caveats, say_extent, say_first
from morphomil.nuclei.quantities import feature_quantity, patient_quantity, sentence_case
from morphomil.tables.methods import SOFTWARE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from morphomil.figures.report.data import ReportData

_HEADS = {
    "slide_id": "Slide",
    "nuclei_per_mm2": "Nuclei per mm²",
    "median_area_um2": "Median nuclear area (µm²)",
    "p_value": "p",
    "p_holm": "p, Holm",
    "p_bh": "p, Benjamini-Hochberg",
    "brunner_munzel_holm": "p, Brunner-Munzel, Holm",
    "adjusted_p": "p beside covariates",
    "adjusted_p_holm": "p beside covariates, Holm",
    "scan_p": "p of the feature",
    "rank_score": "Score: attention and tests",
    "attention_z": "Attention, SD above permuted labels",
    "attention_p_any": "p of attention, all features",
    "shapley_p_any": "p of Shapley value, all features",
    "scan_p_any": "p of the scan, all features",
    "verdict_p": "p, all routes and features",
    "verdict": "Verdict",
    "attention_p_holm": "p, Holm",
    "occlusion_p_holm": "p, Holm",
}
_P_VALUES = (
    *("p_value", "p_holm", "p_bh", "brunner_munzel_holm"),
    *("adjusted_p", "adjusted_p_holm"),
)
_PRINTED_AS_P = (*_P_VALUES, "scan_p", "_p_any", "verdict_p")
_TESTS = (
    "rank_score",
    "attention_z",
    "attention_p_any",
    "shapley_p_any",
    "scan_p_any",
    "verdict_p",
    "verdict",
)
"""These columns of the ranking are printed where they have been computed."""
_ESTIMATE = re.compile(rf"([-{MINUS}]?\d+\.?\d*) \[[^\]]*\]")
"""An estimate is a number with its interval."""


@dataclass(frozen=True)
class _PrintedCell:
    text: str
    key: str
    numeric: bool


@dataclass(frozen=True)
class _PrintedTable:
    """A table ready to print: heads, cells, and what it is for screen readers."""

    caption: str
    heads: list[str]
    rows: list[list[_PrintedCell]]

    @property
    def numeric(self) -> list[bool]:
        """Which columns are set flush right."""
        return [any(row[at].numeric for row in self.rows) for at in range(len(self.heads))]


def render_report(data: ReportData) -> str:
    """The page as text. Every name and label is escaped; a content-security policy keeps all else
    out."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sha256"] = _csp_hash
    return environment.get_template("report.html").render(
        data=data,
        findings=_findings(data),
        caveats=_caveats(data),
        reliability=None
        if data.limits is None or data.limits.reliability.empty
        else _print_table(data.limits.reliability, "How reliably each feature is measured"),
        flow=_print_table(data.flow, "Patients, slides and patches at every step"),
        cohort=_print_table(data.cohort, "The cohort"),
        slides=_print_table(data.slides, "Segmentation of every slide"),
        types=None
        if data.types is None
        else _print_table(data.types, "Share of each type of nuclei, by group"),
        reviews=None
        if data.reviews is None
        else _print_table(data.reviews, "Agreement of reviewers with the segmentation"),
        ranking=None if data.ranking is None else _print_ranking(data.ranking, data),
        effect_note="" if data.ranking is None else _say_range(data.ranking),
        scan=None
        if data.scan is None
        else _print_table(data.scan.features, "The summary of each feature that differs most"),
        baselines=None
        if data.scan is None
        else _print_table(data.scan.baselines, "Plain models on the same folds"),
        performance=None
        if data.performance is None
        else _print_table(data.performance, "Performance of the models"),
        comparison=None
        if data.comparison is None
        else _print_table(data.comparison, "Differences between models, by DeLong"),
        morphology=None
        if data.attention is None
        else _print_table(data.attention.morphology, "Patches inside each slide"),
        scores=None
        if data.attention is None or data.attention.scores.empty
        else _print_table(data.attention.scores, "Scores of patients"),
        settings=_print_table(_pairs_table(data.settings, "setting"), "Settings of the run"),
        versions=_print_table(
            _pairs_table(data.versions, "software"), "Versions of what the results depend on"
        ),
    )


def summarize(data: ReportData) -> list[str]:
    """The report's summary as sentences: what was found, how sure that is, and what it must not be
    taken for."""
    return _findings(data) + _caveats(data)


def _findings(data: ReportData) -> list[str]:
    names: dict[str, Any] = {
        "positive": data.positive,
        "reference": data.reference,
        "held": data.held,
    }
    findings = say_extent(data.slides)
    if data.whose:
        findings.append(data.whose)
    if data.auc is not None:
        findings.append(say_auc(data.auc))
    if data.ranking is None:
        return [*findings, "The features have not been ranked yet."]
    agreement = [text for text in (data.statement, data.interaction) if text]
    verdict = [data.verdict] if data.verdict else []
    return [
        *findings,
        *verdict,
        say_first(data.ranking, **names),
        *agreement,
        say_differences(data.ranking, **names),
        *(() if data.scan is None else data.scan.findings),
    ]


def _caveats(data: ReportData) -> list[str]:
    caveats = (
        []
        if data.ranking is None
        else say_caveats(data.ranking, nucleus_classes=data.nucleus_classes)
    )
    return [*caveats, *data.cautions]


def _print_table(table: pd.DataFrame, caption: str) -> _PrintedTable:
    rows = [
        [_print_cell(name, value) for name, value in row.items()]
        for row in table.to_dict("records")
    ]
    return _PrintedTable(caption, [_head(str(name)) for name in table.columns], rows)


def _print_ranking(ranking: pd.DataFrame, data: ReportData) -> _PrintedTable:
    tests = [name for name in _TESTS if name in ranking and ranking[name].notna().any()]
    p_values = [name for name in _P_VALUES if name in ranking and ranking[name].notna().any()]
    odds = ["adjusted_odds_ratio"] if "adjusted_odds_ratio" in ranking else []
    effect, several = effect_of(ranking), groups_of(ranking)
    contrast = f", {data.positive} minus {data.reference}"
    if several:
        contrast = f", {' < '.join(several)}" if effect.signed else ""
    shown = {name: name for name in several}
    if not several:
        shown = {"positive": data.positive, "reference": data.reference}
    heads = [
        "Rank",
        "Feature",
        f"Attention relative to 1/{len(ranking)} [95 %]",
        f"{effect.name} [95 %]{contrast}",
        *(f"Median, {group} (n)" for group in shown.values()),
        *(f"Odds ratio per SD beside {data.held.beside} [95 %]" for _ in odds),
        *(_HEADS[name] for name in (*p_values, *tests)),
    ]
    rows = [
        [
            _print_cell("rank", row["rank"]),
            _text_cell(str(patient_quantity(row["feature"]))),
            _estimate_cell(row, "attention"),
            _estimate_cell(row, effect.column),
            *(_median_cell(row, group) for group in shown),
            *(_estimate_cell(row, name) for name in odds),
            *(_print_cell(name, row[name]) for name in (*p_values, *tests)),
        ]
        for row in ranking.sort_values("rank", kind="stable").to_dict("records")
    ]
    return _PrintedTable("The features, ranked", heads, rows)


def _say_range(ranking: pd.DataFrame) -> str:
    effect = effect_of(ranking)
    return f"{effect.name} {effect.range}"


def _estimate_cell(row: Mapping[Any, Any], name: str) -> _PrintedCell:
    text = f"{format_ratio(row[name])} {format_interval(row[f'{name}_low'], row[f'{name}_high'])}"
    return _PrintedCell(text, _sort_key(row[name]), numeric=True)


def _median_cell(row: Mapping[Any, Any], group: str) -> _PrintedCell:
    text = f"{format_number(row[f'median_{group}'])} ({row[f'n_{group}']:,.0f})"
    return _PrintedCell(text, _sort_key(row[f"median_{group}"]), numeric=True)


def _print_cell(column: Any, value: Any) -> _PrintedCell:
    """A cell as people read it: counts with commas, measures with three digits, p values as papers
    print them."""
    if isinstance(value, str) and (estimate := _ESTIMATE.fullmatch(value)):
        return _PrintedCell(value, estimate[1].replace(MINUS, "-"), numeric=True)
    if isinstance(value, str) and value:
        return _text_cell(value)
    if value == "" or pd.isna(value):
        return _PrintedCell(MISSING, "", numeric=False)
    if isinstance(value, bool):
        return _text_cell("yes" if value else "no")
    if isinstance(value, int):
        return _PrintedCell(f"{value:,}", _sort_key(value), numeric=True)
    if isinstance(value, float):
        return _PrintedCell(
            format_p(value) if str(column).endswith(_PRINTED_AS_P) else format_number(value),
            _sort_key(value),
            numeric=True,
        )
    return _text_cell(str(value))


def _text_cell(text: str) -> _PrintedCell:
    return _PrintedCell(text, text.casefold(), numeric=False)


def _sort_key(value: float) -> str:
    return repr(value) if math.isfinite(value) else ""


def _head(column: str) -> str:
    return _HEADS.get(column) or str(feature_quantity(column))


def _pairs_table(entries: Mapping[str, Any], head: str) -> pd.DataFrame:
    rows = [
        (SOFTWARE.get(name) or sentence_case(name), _say_setting(value))
        for name, value in entries.items()
    ]
    return pd.DataFrame(rows, columns=[head, "value"])


def _say_setting(value: Any) -> str:
    """A setting in words: nothing of what isn't set, lists with commas."""
    if value is None or value == "" or value == []:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_say_setting(own)}" for name, own in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_say_setting, value))
    return str(value)


def _csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
