"""Publication figures and the report: they draw the tables they are given and compute nothing but
the layout."""

from morphomil.figures.contours import contact_sheet, contours
from morphomil.figures.features_by_group import feature_groups
from morphomil.figures.patch_examples import PatchExample
from morphomil.figures.ranking import ranking_plot
from morphomil.figures.report.data import Picture, ReportData, SlidePictures
from morphomil.figures.report.page import render_report, summarize
from morphomil.figures.roc import roc_plot
from morphomil.figures.sentences import Auc
from morphomil.figures.slides import overview, slide_heatmap
from morphomil.figures.style import (
    ONE_AND_A_HALF_COLUMNS_MM,
    ONE_COLUMN_MM,
    TWO_COLUMNS_MM,
    render,
    save_figure,
    style,
)
from morphomil.tables.methods import describe_methods
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
