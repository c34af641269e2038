"""Publication figures and the report: they draw the tables they are given and compute nothing but
the layout."""

from morphomil.figures.groups import feature_groups
from morphomil.figures.prose import Auc, describe_methods
from morphomil.figures.ranking import ranking_plot
from morphomil.figures.report import Picture, ReportData, SlidePictures, render_report, summarize
from morphomil.figures.roc import roc_plot
from morphomil.figures.slides import PatchExample, contact_sheet, contours, overview, slide_heatmap
from morphomil.figures.style import (
    ONE_AND_A_HALF_COLUMNS_MM,
    ONE_COLUMN_MM,
    TWO_COLUMNS_MM,
    render,
    save_figure,
    style,
)
from morphomil.tables.roc import roc_points

__all__ = [
    "ONE_AND_A_HALF_COLUMNS_MM",
    "ONE_COLUMN_MM",
    "TWO_COLUMNS_MM",
    "Auc",
    "PatchExample",
    "Picture",
    "ReportData",
    "SlidePictures",
    "contact_sheet",
    "contours",
    "describe_methods",
    "feature_groups",
    "overview",
    "ranking_plot",
    "render",
    "render_report",
    "roc_plot",
    "roc_points",
    "save_figure",
    "slide_heatmap",
    "style",
    "summarize",
]
