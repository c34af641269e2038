"""The figures that the report shows, each in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from morphomil.figures.registry import draw_figures
from morphomil.figures.report.attention import read_attention_section
from morphomil.figures.report.data import Picture, Shape
from morphomil.figures.style import ONE_AND_A_HALF_COLUMNS_MM, TWO_COLUMNS_MM, render

if TYPE_CHECKING:
    import pandas as pd

    from morphomil.run.directory import Run

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


def draw_report_figures(run: Run, ranking: pd.DataFrame | None) -> dict[str, Any]:
    """The figures of the registry, also saved for the paper, and why there is none of the
    others."""
    placed: dict[str, Any] = {}
    others: list[Picture] = []
    attention: list[Picture] = []
    absent: list[str] = []
    for outcome in draw_figures(run):
        if outcome.drawing is None:
            absent.append(f"{outcome.title}: {outcome.absent}.")
            continue
        raster = outcome.name in _RASTER
        data = (
            render(outcome.drawing.figure, "png", dpi=160)
            if raster
            else render(outcome.drawing.figure, "svg")
        )
        width = round(outcome.drawing.figure.get_size_inches()[0] * 25.4)
        shape: Shape = (
            "wide"
            if width >= TWO_COLUMNS_MM
            else "medium"
            if width >= ONE_AND_A_HALF_COLUMNS_MM
            else "square"
        )
        picture = Picture(
            f"{outcome.title}.",
            alt=outcome.title,
            data=data,
            caption=outcome.drawing.caption,
            shape=shape,
        )
        if outcome.name in _SECTION_PICTURES:
            placed[_SECTION_PICTURES[outcome.name]] = picture
        else:
            (attention if outcome.name in _ATTENTION_FIGURES else others).append(picture)
    section = read_attention_section(run, ranking, tuple(attention))
    pictures = tuple(others) if section else (*others, *attention)
    return placed | {"attention": section, "pictures": pictures, "absent": tuple(absent)}
