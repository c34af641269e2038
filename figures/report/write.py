"""The report of a run: its results are gathered, drawn and written as one page."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pandas as pd

from morphomil.figures.report.data import ReportData
from morphomil.figures.report.figures import draw_report_figures
from morphomil.figures.report.gallery import choose_slides, draw_gallery, note_on_slides
from morphomil.figures.report.page import render_report
from morphomil.figures.report.tables import cohort_table, model_tables, slides_table
from morphomil.figures.sentences import Auc, describe_methods, say_statement
from morphomil.store import write_bytes
from morphomil.tables.flow import flow_table
from morphomil.types import FEATURE_NAMES, PatchSettings

if TYPE_CHECKING:
    from pathlib import Path

    from morphomil.run.directory import Run


def write_report(run: Run) -> Path:
    """Draw every figure that the run has results for and write `report.html`; returns its path.

    Raises:
        InputError: nothing is measured yet.
        SlideError: a slide can no longer be read.
    """
    slides = slides_table(run)
    ranking = _read(run, "ranking")
    summary = run.ranking_about()
    top = str(ranking["feature"].iloc[0]) if ranking is not None else "area_um2"
    patches, commands = _patch_settings(run), run.commands()
    shown = choose_slides(run)
    data = ReportData(
        title=f"Nuclear morphology of {len(slides)} slides",
        positive=str(summary.get("positive", "positive")),
        reference=str(summary.get("reference", "reference")),
        flow=flow_table(run).astype({"patches": "Int64", "nuclei": "Int64"}),
        cohort=cohort_table(run),
        slides=slides,
        ranking=ranking,
        statement=say_statement(summary, ranking),
        auc=Auc(summary["auc"], summary["auc_low"], summary["auc_high"])
        if "auc" in summary
        else None,
        gallery=tuple(
            draw_gallery(run, shown, top, positive=str(summary.get("positive", "positive")))
        ),
        gallery_note=note_on_slides(run, shown),
        cautions=tuple(_cautions(run, summary)),
        methods=(_methods(run, patches, summary),) if ranking is not None else (),
        settings={
            f"{c['command']}: {name}": value
            for c in commands.values()
            for name, value in c["settings"].items()
        },
        versions=max(commands.values(), key=lambda c: c["finished"])["versions"]
        if commands
        else {},
        **model_tables(run),
        **draw_report_figures(run, ranking),
    )
    path = run.report_path
    write_bytes(path, render_report(data).encode("utf-8"))
    return path


def _cautions(run: Run, summary: dict[str, Any]) -> list[str]:
    notes = list(summary.get("notes", ()))
    if summary and summary["measured"] != run.measured_key():
        notes.append(
            "Slides have been measured anew since this ranking was made; run `morphomil "
            "rank` again."
        )
    return notes


def _read(run: Run, name: str) -> pd.DataFrame | None:
    path = run.rank_folder / f"{name}.csv"
    return pd.read_csv(path) if path.is_file() else None


def _patch_settings(run: Run) -> PatchSettings:
    settings = run.segmented_with()
    return PatchSettings(
        **{f.name: settings[f.name] for f in fields(PatchSettings) if f.name in settings}
    )


def _methods(run: Run, patches: PatchSettings, summary: dict[str, Any]) -> str:
    ranking = _read(run, "ranking")
    return describe_methods(
        patches,
        segmenter=_describe_segmenter(run.segmented_with()),
        folds=summary["folds"],
        seeds=summary["seeds"],
        bag_patches=summary["bag_patches"],
        features=FEATURE_NAMES if ranking is None else ranking["feature"].tolist(),
        permutations=summary.get("permutations", 0),
    )


def _describe_segmenter(settings: dict[str, Any]) -> str | None:
    """The segmenter by its settings; None where nuclei were imported."""
    if settings["model"] == "imported":
        return None
    name = (
        "the weights of morphomil"
        if settings["model"] == "default"
        else f"the model {settings['model']}"
    )
    engine = {"openvino": "OpenVINO", "tensorflow": "TensorFlow"}[
        settings.get("engine", "tensorflow")
    ]
    segmenter = f"StarDist ({name}; {engine}, {settings.get('precision', 'float32')})"
    return (
        f"{segmenter} after normalization of the stains (Macenko)"
        if settings.get("normalize_stain")
        else segmenter
    )
