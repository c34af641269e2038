"""The report: one HTML page that opens offline, with every picture inside."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jinja2
import pandas as pd

from morphomil.figures.labels import (
    MINUS,
    MISSING,
    feature_quantity,
    format_interval,
    format_number,
    format_p,
    format_ratio,
    patient_quantity,
    sentence_case,
)
from morphomil.figures.prose import (
    Auc,
    say_auc,
    say_caveats,
    say_differences,
    say_extent,
    say_first,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_HEADS = {
    "slide_id": "Slide",
    "nuclei_per_mm2": "Nuclei per mm²",
    "median_area_um2": "Median nuclear area (µm²)",
    "p_value": "p",
    "p_holm": "p, Holm",
    "p_bh": "p, Benjamini-Hochberg",
    "attention_p_holm": "p, Holm",
    "occlusion_p_holm": "p, Holm",
}
_P_VALUES = ("p_value", "p_holm", "p_bh")
_ESTIMATE = re.compile(rf"([-{MINUS}]?\d+\.?\d*) \[[^\]]*\]")
"""A number with its interval."""
Shape = Literal["wide", "medium", "square", "strip", "slide"]
"""A picture's width on the page."""
_MAGIC = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"))


@dataclass(frozen=True)
class Picture:
    """A picture as PNG, JPEG or SVG bytes, its caption, and in `alt` what it shows for those who
    can't see it."""

    title: str
    alt: str
    data: bytes
    caption: str = ""
    shape: Shape = "wide"

    @property
    def uri(self) -> str:
        """The picture as a data URI; an SVG within an image element runs no script and loads
        nothing."""
        media = next(
            (name for magic, name in _MAGIC if self.data.startswith(magic)), "image/svg+xml"
        )
        return f"data:{media};base64,{base64.b64encode(self.data).decode('ascii')}"


@dataclass(frozen=True)
class SlidePictures:
    """A slide's pictures in the gallery."""

    slide_id: str
    label: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Looks:
    """What the image models look at, in terms of nuclei: sentences, tables and pictures.

    `morphology`: `model, feature, patients`, and for `attention` and `occlusion` each a text with
    the interval and the adjusted p. `scores`: of each pair of models, how alike they score
    patients; may be empty.
    """

    sentences: tuple[str, ...]
    morphology: pd.DataFrame
    scores: pd.DataFrame
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class ReportData:
    """Everything that the report shows; a part that is None is left out.

    `flow`: one row per step of the patient flow, first column its name, then counts and what was
    lost why. `cohort`: any table. `slides`: slide_id, patient, label, state ("done" or why not),
    patches_kept, patches_dropped, nuclei, nuclei_per_mm2, median_area_um2, cause ("" if done).
    `ranking`: as `ranking_plot`, with n_positive, n_reference, median_positive, median_reference.
    `statement` says how the ways of ranking agree; `cautions` are further sentences of the summary.
    `performance` and `comparison`: any tables of the models. `pictures` are all further figures,
    `absent` sentences on those that could not be drawn.
    """

    title: str
    positive: str
    reference: str
    flow: pd.DataFrame
    cohort: pd.DataFrame
    slides: pd.DataFrame
    ranking: pd.DataFrame | None = None
    statement: str = ""
    auc: Auc | None = None
    ranking_picture: Picture | None = None
    groups_picture: Picture | None = None
    roc_picture: Picture | None = None
    performance: pd.DataFrame | None = None
    comparison: pd.DataFrame | None = None
    looks: Looks | None = None
    pictures: tuple[Picture, ...] = ()
    absent: tuple[str, ...] = ()
    gallery: tuple[SlidePictures, ...] = ()
    gallery_note: str = ""
    cautions: tuple[str, ...] = ()
    nucleus_classes: bool = False
    methods: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Cell:
    text: str
    key: str
    numeric: bool


@dataclass(frozen=True)
class _View:
    """A table ready to print: heads, cells, and what it is for screen readers."""

    caption: str
    heads: list[str]
    rows: list[list[_Cell]]

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
        flow=_view(data.flow, "Patients, slides and patches at every step"),
        cohort=_view(data.cohort, "The cohort"),
        slides=_view(data.slides, "Segmentation of every slide"),
        ranking=None if data.ranking is None else _ranking_view(data.ranking, data),
        performance=None
        if data.performance is None
        else _view(data.performance, "Performance of the models"),
        comparison=None
        if data.comparison is None
        else _view(data.comparison, "Differences between models, by DeLong"),
        morphology=None
        if data.looks is None
        else _view(data.looks.morphology, "Patches inside each slide"),
        scores=None
        if data.looks is None or data.looks.scores.empty
        else _view(data.looks.scores, "Scores of patients"),
        settings=_view(_pairs(data.settings, "setting"), "Settings of the run"),
        versions=_view(_pairs(data.versions, "software"), "Versions of what the results depend on"),
    )


def summarize(data: ReportData) -> list[str]:
    """The report's summary as sentences: what was found, how sure that is, and what it must not be
    taken for."""
    return _findings(data) + _caveats(data)


def _findings(data: ReportData) -> list[str]:
    names = {"positive": data.positive, "reference": data.reference}
    findings = say_extent(data.slides)
    if data.auc is not None:
        findings.append(say_auc(data.auc))
    if data.ranking is None:
        return [*findings, "The features have not been ranked yet."]
    said = [data.statement] if data.statement else []
    return [
        *findings,
        say_first(data.ranking, **names),
        *said,
        say_differences(data.ranking, **names),
    ]


def _caveats(data: ReportData) -> list[str]:
    own = (
        []
        if data.ranking is None
        else say_caveats(data.ranking, nucleus_classes=data.nucleus_classes)
    )
    return [*own, *data.cautions]


def _view(table: pd.DataFrame, caption: str) -> _View:
    rows = [[_cell(name, value) for name, value in row.items()] for row in table.to_dict("records")]
    return _View(caption, [_head(str(name)) for name in table.columns], rows)


def _ranking_view(ranking: pd.DataFrame, data: ReportData) -> _View:
    heads = [
        "Rank",
        "Feature",
        f"Attention relative to 1/{len(ranking)} [95 %]",
        f"Cliff's delta [95 %], {data.positive} minus {data.reference}",
        *(f"Median, {group} (n)" for group in (data.positive, data.reference)),
        *(_HEADS[name] for name in _P_VALUES),
    ]
    rows = [
        [
            _cell("rank", row["rank"]),
            _text(str(patient_quantity(row["feature"]))),
            _estimate(row, "attention"),
            _estimate(row, "cliffs_delta"),
            *(_median(row, group) for group in ("positive", "reference")),
            *(_cell(name, row[name]) for name in _P_VALUES),
        ]
        for row in ranking.sort_values("rank", kind="stable").to_dict("records")
    ]
    return _View("The features, ranked by attention", heads, rows)


def _estimate(row: Mapping[Any, Any], name: str) -> _Cell:
    text = f"{format_ratio(row[name])} {format_interval(row[f'{name}_low'], row[f'{name}_high'])}"
    return _Cell(text, _key(row[name]), numeric=True)


def _median(row: Mapping[Any, Any], group: str) -> _Cell:
    text = f"{format_number(row[f'median_{group}'])} ({row[f'n_{group}']:,.0f})"
    return _Cell(text, _key(row[f"median_{group}"]), numeric=True)


def _cell(column: Any, value: Any) -> _Cell:
    """A cell as people read it: counts with commas, measures with three digits, p values as papers
    print them."""
    if isinstance(value, str) and (found := _ESTIMATE.fullmatch(value)):
        return _Cell(value, found[1].replace(MINUS, "-"), numeric=True)
    if isinstance(value, str) and value:
        return _text(value)
    if value == "" or pd.isna(value):
        return _Cell(MISSING, "", numeric=False)
    if isinstance(value, bool):
        return _text("yes" if value else "no")
    if isinstance(value, int):
        return _Cell(f"{value:,}", _key(value), numeric=True)
    if isinstance(value, float):
        return _Cell(
            format_p(value) if str(column).endswith(_P_VALUES) else format_number(value),
            _key(value),
            numeric=True,
        )
    return _text(str(value))


def _text(text: str) -> _Cell:
    return _Cell(text, text.casefold(), numeric=False)


def _key(value: float) -> str:
    return repr(value) if math.isfinite(value) else ""


def _head(column: str) -> str:
    return _HEADS.get(column) or str(feature_quantity(column))


def _pairs(entries: Mapping[str, Any], head: str) -> pd.DataFrame:
    rows = [(sentence_case(name), str(value)) for name, value in entries.items()]
    return pd.DataFrame(rows, columns=[head, "value"])


def _csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
