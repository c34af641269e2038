"""The figures that the report shows, each in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from morphomil.figures.registry import FIGURES, draw_figure
from morphomil.figures.report.attention import read_attention_section
from morphomil.figures.report.data import Picture, Shape
from morphomil.figures.report.side_by_side import map_in_processes
from morphomil.figures.style import ONE_AND_A_HALF_COLUMNS_MM, TWO_COLUMNS_MM, render
from morphomil.pipeline.execution import Silence
from morphomil.run.directory import Run

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from morphomil.pipeline.execution import Progress

_SECTION_PICTURES = {
    "verdict": "verdict_picture",
    "ranking": "ranking_picture",
    "features_by_group": "groups_picture",
    "scan": "scan_picture",
    "roc": "roc_picture",
}
"""These figures stand in a section of the report with their table, the others under Figures."""
_ATTENTION_FIGURES = ("attention", "morphology_of_attention", "patches_of_attention")
"""These figures show what the image model looks at."""
_RASTER = ("plate", "nuclei", "matrices", "attention")
"""These figures hold pixels and are smaller as PNG than as SVG."""


def draw_report_figures(
    run: Run, ranking: pd.DataFrame | None, *, progress: Progress | None = None
) -> dict[str, Any]:
    """The figures of the registry, also saved for the paper, and why there is none of the
    others."""
    placed: dict[str, Any] = {}
    others: list[Picture] = []
    attention: list[Picture] = []
    absent: list[str] = []
    listener = progress or Silence()
    listener.start("figures", len(FIGURES))
    drawn = map_in_processes(_draw, [(run.path, name) for name in FIGURES])
    for name, (title, picture, why) in zip(FIGURES, drawn, strict=True):
        listener.end(name, "done" if picture else "skipped", title)
        if picture is None:
            absent.append(f"{title}: {why}.")
        elif name in _SECTION_PICTURES:
            placed[_SECTION_PICTURES[name]] = picture
        else:
            (attention if name in _ATTENTION_FIGURES else others).append(picture)
    section = read_attention_section(run, ranking, tuple(attention))
    pictures = tuple(others) if section else (*others, *attention)
    return placed | {"attention": section, "pictures": pictures, "absent": tuple(absent)}


def _draw(task: tuple[Path, str]) -> tuple[str, Picture | None, str]:
    """A figure's title, its picture for the page, or why there is none."""
    path, name = task
    outcome = draw_figure(Run(path), name)
    if outcome.drawing is None:
        return outcome.title, None, outcome.absent
    if name in _RASTER:
        data = render(outcome.drawing.figure, "png", dpi=160)
    else:
        data = next(file for file in outcome.paths if file.suffix == ".svg").read_bytes()
    width = round(outcome.drawing.figure.get_size_inches()[0] * 25.4)
    shape: Shape = (
        "wide"
        if width >= TWO_COLUMNS_MM
        else "medium"
        if width >= ONE_AND_A_HALF_COLUMNS_MM
        else "square"
    )
    title, caption = f"{outcome.title}.", outcome.drawing.caption
    picture = Picture(title, alt=outcome.title, data=data, caption=caption, shape=shape)
    return outcome.title, picture, ""
