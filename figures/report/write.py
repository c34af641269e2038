"""The report of a run: its results are gathered, drawn and written as one page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from morphomil.figures.differences import Held
from morphomil.figures.report.data import ReportData
from morphomil.figures.report.figures import draw_report_figures
from morphomil.figures.report.gallery import choose_slides, draw_gallery, note_on_slides
from morphomil.figures.report.page import render_report
from morphomil.figures.report.scan import read_scan_section
from morphomil.figures.report.tables import (
    cohort_table,
    limits_section,
    model_tables,
    reviews_table,
    slides_table,
    types_table,
)
from morphomil.figures.sentences import read_auc, say_statement, say_whose
from morphomil.run.claims import with_lock
from morphomil.store import read_csv, write_bytes
from morphomil.tables.flow import flow_table
from morphomil.tables.methods import describe_run
from morphomil.tables.quality import describe_quality, read_quality
from morphomil.tables.reviews import agreement_of_reviewers, write_agreement
from morphomil.tables.types import types_mean_nothing, types_of_patients

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from morphomil.pipeline.execution import Progress
    from morphomil.run.directory import Run


@with_lock
def write_report(
    run: Run, *, progress: Progress | None = None, missed: dict[str, str] | None = None
) -> Path:
    """Draw every figure that the run has results for and write `report.html`; returns its path.

    `progress` hears of slides and figures; `missed` receives the slides that there are no pictures
    of, as their files can't be read, and why; the report says so too.

    Raises:
        InputError: nothing is measured yet.
        BusyError: another process works in the run directory.
    """
    slides = slides_table(run)
    ranking = _read(run, "ranking")
    summary = run.ranking_about()
    top = str(ranking["feature"].iloc[0]) if ranking is not None else "area_um2"
    commands = run.commands()
    types = types_of_patients(run)
    agreement = agreement_of_reviewers(run)
    write_agreement(run)
    shown = choose_slides(run)
    data = ReportData(
        title=f"Nuclear morphology of {len(slides)} slides",
        positive=str(summary.get("positive", "positive")),
        reference=str(summary.get("reference", "reference")),
        flow=flow_table(run).astype({"patches": "Int64", "nuclei": "Int64"}),
        cohort=cohort_table(run),
        slides=slides,
        ranking=ranking,
        held=Held.of(summary),
        verdict=say_statement(summary, ranking, "verdict"),
        verdict_plain=say_statement(summary, ranking, "verdict", plain=True),
        statement=say_statement(summary, ranking),
        scan=read_scan_section(run, ranking),
        interaction=say_statement(summary, ranking, "interaction"),
        auc=read_auc(summary),
        limits=limits_section(run),
        gallery=tuple(
            draw_gallery(run, shown, top, positive=summary.get("positive"), progress=progress)
        ),
        gallery_note=note_on_slides(run, shown),
        cautions=tuple(_cautions(run, summary)),
        nucleus_classes=len(types) > 0,
        whose=say_whose(run.whose, types, meaningless=types_mean_nothing(run)),
        types=types_table(types) if len(types) else None,
        reviews=reviews_table(agreement) if len(agreement) else None,
        methods=(describe_run(run),) if ranking is not None else (),
        settings={
            f"{c['command']}: {name}": value
            for c in commands.values()
            for name, value in c["settings"].items()
        },
        versions=run.log.newest().get("versions", {}),
        **model_tables(run),
        **draw_report_figures(run, ranking, progress=progress),
    )
    if missed is not None:
        missed |= {slide.slide_id: slide.absent for slide in data.gallery if slide.absent}
    path = run.report_path
    write_bytes(path, render_report(data).encode("utf-8"))
    return path


def _cautions(run: Run, summary: dict[str, Any]) -> list[str]:
    notes = [
        *summary.get("context", ()),
        *summary.get("notes", ()),
        *describe_quality(read_quality(run)),
    ]
    if summary and summary["measured"] != run.measured_key():
        notes.append(
            "Slides have been measured anew since this ranking was made; run `morphomil "
            "rank` again."
        )
    return notes


def _read(run: Run, name: str) -> pd.DataFrame | None:
    path = run.rank_folder / f"{name}.csv"
    return read_csv(path) if path.is_file() else None
