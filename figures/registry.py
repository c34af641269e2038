"""Every figure of a run by name: its title, and how it is drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from morphomil.errors import DamagedError, InputError, SlideError
from morphomil.figures.attention import draw_attention
from morphomil.figures.calibration import draw_calibration
from morphomil.figures.composition import draw_composition
from morphomil.figures.confusion import draw_confusion
from morphomil.figures.context import draw_context
from morphomil.figures.correlation import draw_correlation
from morphomil.figures.decision import draw_decision
from morphomil.figures.drawing import AbsentError, Drawing
from morphomil.figures.features_by_group import draw_features_by_group
from morphomil.figures.flow import draw_flow
from morphomil.figures.interactions import draw_interactions
from morphomil.figures.labels import group_name
from morphomil.figures.matrices import draw_matrices
from morphomil.figures.morphology_of_attention import draw_morphology_of_attention
from morphomil.figures.nuclei import draw_nuclei
from morphomil.figures.orientation import draw_orientation
from morphomil.figures.patches_of_attention import draw_patches_of_attention
from morphomil.figures.plate import draw_plate
from morphomil.figures.quality import draw_quality
from morphomil.figures.ranking import draw_ranking
from morphomil.figures.ranking_evidence import draw_ranking_evidence
from morphomil.figures.results import read_patient_values
from morphomil.figures.roc import draw_roc
from morphomil.figures.roc_models import draw_roc_models
from morphomil.figures.scan import draw_scan
from morphomil.figures.style import Format, Look, save_figure, use_look
from morphomil.figures.subgroups import draw_subgroups
from morphomil.figures.verdict import draw_verdict
from morphomil.store import write_bytes, write_table_csv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from morphomil.run.directory import Run


@dataclass(frozen=True)
class Outcome:
    """What became of a figure: its files, or why there is none."""

    name: str
    title: str
    paths: tuple[Path, ...] = ()
    absent: str = ""
    damaged: bool = False
    """There is none as a slide or a result can't be read."""
    drawing: Drawing | None = None


def draw_figures(
    run: Run,
    *,
    only: Sequence[str] = (),
    look: Look = "plain",
    formats: Sequence[Format] = ("pdf", "svg", "png"),
) -> Iterator[Outcome]:
    """Draw the run's figures into `RUN/figures`, each with its table as CSV and its caption as text
    beside it.

    Raises:
        InputError: a name in `only` is unknown, or its results are absent or can't be read.
        BusyError: another process works in the run directory.
    """
    if unknown := [name for name in only if name not in FIGURES]:
        raise InputError(
            f"there is no figure {', '.join(unknown)}; the figures are {', '.join(FIGURES)}"
        )
    with run.lock():
        for name in only or FIGURES:
            outcome = draw_figure(run, name, look=look, formats=formats)
            if only and outcome.absent:
                raise InputError(f"figure {name}: {outcome.absent}")
            yield outcome


def draw_figure(
    run: Run,
    name: str,
    *,
    look: Look = "plain",
    formats: Sequence[Format] = ("pdf", "svg", "png"),
) -> Outcome:
    """Draw one of `FIGURES` into `RUN/figures`; its outcome says why there is none, be it that a
    slide or a result can no longer be read."""
    title, draw = FIGURES[name]
    with use_look(look):
        try:
            drawing = draw(run)
            drawing = replace(drawing, caption=_say_more(run, name, drawing.caption))
        except AbsentError as error:
            return Outcome(name, title, absent=str(error))
        except (SlideError, DamagedError) as error:
            return Outcome(name, title, absent=str(error), damaged=True)
        stem = run.figures_folder / name
        paths = save_figure(drawing.figure, stem, formats=formats, table=drawing.table)
    write_bytes(stem.with_name(f"{name}.txt"), f"{title}. {drawing.caption}\n".encode())
    paths += (stem.with_name(f"{name}.txt"),)
    for suffix, table in drawing.further.items():
        path = stem.with_name(f"{name}_{suffix}.csv")
        write_table_csv(path, table)
        paths += (path,)
    return Outcome(name, title, paths, drawing=drawing)


_OF_RANKED_PATIENTS = (
    "verdict",
    "features_by_group",
    "ranking",
    "scan",
    "ranking_evidence",
    "interactions",
    "context",
    "plate",
    "correlation",
)
"""These figures are of the patients that were ranked."""


def _say_more(run: Run, name: str, caption: str) -> str:
    """The caption with the number of patients by group."""
    if name not in _OF_RANKED_PATIENTS or not run.ranking_about():
        return caption
    _, labels = read_patient_values(run)
    counts = labels.value_counts(sort=False)
    groups = ", ".join(f"{count:,} with {group_name(group)}" for group, count in counts.items())
    return f"{caption} {len(labels):,} patients ({groups})."


FIGURES: dict[str, tuple[str, Callable[[Run], Drawing]]] = {
    "verdict": ("The verdict", draw_verdict),
    "flow": ("Patient flow", draw_flow),
    "quality": ("Plausibility of the slides", draw_quality),
    "composition": ("Types of nuclei by group", draw_composition),
    "features_by_group": ("Features by group", draw_features_by_group),
    "ranking": ("Ranking of the features", draw_ranking),
    "scan": ("Ten summaries of each feature by group", draw_scan),
    "ranking_evidence": (
        "Attention, Shapley values, ablation and stability",
        draw_ranking_evidence,
    ),
    "interactions": ("Pairs of features that tell more, or less, together", draw_interactions),
    "context": ("What else goes with the features", draw_context),
    "plate": ("Two typical patients and the first features", draw_plate),
    "nuclei": ("Nuclei colored by the first feature", draw_nuclei),
    "matrices": ("Histograms of the features by group", draw_matrices),
    "orientation": ("Orientation of nuclei by group", draw_orientation),
    "correlation": ("Correlation of the features", draw_correlation),
    "roc": ("ROC of the morphometry model", draw_roc),
    "roc_models": ("ROC of all models", draw_roc_models),
    "confusion": ("Confusion matrices", draw_confusion),
    "calibration": ("Calibration", draw_calibration),
    "decision": ("Decision curves", draw_decision),
    "subgroups": ("Subgroups", draw_subgroups),
    "attention": ("Where the image model looks", draw_attention),
    "morphology_of_attention": (
        "What the image model looks at, in terms of nuclei",
        draw_morphology_of_attention,
    ),
    "patches_of_attention": ("Patches of most and least attention", draw_patches_of_attention),
}
"""Figures by the name of their files: title, and how to draw it from a run."""
