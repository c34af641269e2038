"""How features, units, p values and intervals are written for people."""

from __future__ import annotations

import itertools
import math
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from morphomil.nuclei.registry import FEATURES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure
    from matplotlib.text import Text
MINUS = "\N{MINUS SIGN}"
RHO = "\N{GREEK SMALL LETTER RHO}"
MISSING = "\N{EN DASH}"


@dataclass(frozen=True)
class Quantity:
    """What is measured, and its unit ("" for a pure number)."""

    name: str
    unit: str

    def __str__(self) -> str:
        """As on an axis: "Area (µm²)"."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


_UNITS = {"1": "", "um": "µm", "um2": "µm²", "mm2": "mm²", "1/mm2": "1/mm²", "deg": "°", "px": "px"}

_DENSITY = Quantity("Density", "nuclei/mm²")
_POLARITY = Quantity("Orientation polarity", "")


def feature_quantity(column: str) -> Quantity:
    """Display name and unit of a nucleus-level column: "area_um2" is Area (µm²).

    The name is the column's without its unit; the unit is the registry's, else the one in the
    column's name.
    """
    if column == "density_per_mm2":
        return _DENSITY
    name, _, last = column.rpartition("_")
    if not name or last not in _UNITS:
        name, last = column, "1"
    unit = FEATURES[column].unit if column in FEATURES else last
    return Quantity(sentence_case(name), _UNITS.get(unit, unit))


_MODELS = {
    "clinical": "Clinical",
    "dl-cnb": "DL-CNB",
    "dl-cnb+c": "DL-CNB+C",
    "morphometry": "Morphometry",
    "morphometry+clinical": "Morphometry + clinical",
}


def model_name(model: str) -> str:
    """A model as papers write it."""
    return _MODELS.get(model, model)


def sentence_case(name: str) -> str:
    """A column's name as words: "median_positive" is Median positive."""
    return f"{name[:1].upper()}{name[1:]}".replace("_", " ")


def patient_quantity(column: str) -> Quantity:
    """Display name and unit of a feature's patient value, which for orientation is the polarity, a
    pure number."""
    return _POLARITY if column == "orientation_deg" else feature_quantity(column)


def format_number(value: float) -> str:
    """Three significant digits, thousands set apart by a comma, a dash for a missing number."""
    if not math.isfinite(value):
        return MISSING
    digits = 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 4)}f}".replace("-", MINUS)


def format_ratio(value: float) -> str:
    """Two decimals with a true minus sign, a dash for a missing number: attention, AUC, Cliff's
    delta."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", MINUS) if math.isfinite(value) else MISSING


def format_interval(low: float, high: float) -> str:
    """An interval in brackets, a dash where there is none."""
    return (
        f"[{format_ratio(low)}, {format_ratio(high)}]"
        if math.isfinite(low) and math.isfinite(high)
        else MISSING
    )


def format_estimate(value: float, low: float, high: float) -> str:
    """A number with its interval, or one dash where there is none."""
    return (
        f"{format_ratio(value)} {format_interval(low, high)}" if math.isfinite(value) else MISSING
    )


def format_p(value: float) -> str:
    """A p value as papers print it: two significant digits, "<0.001" below, a dash where no test
    was possible."""
    if not math.isfinite(value):
        return MISSING
    if value < 0.001:
        return "<0.001"
    return f"{value:.3f}" if value < 0.0995 else f"{value:.2f}"


def p_phrase(value: float) -> str:
    """A p value within a sentence: "p = 0.012", "p < 0.001", "p not available"."""
    text = format_p(value)
    if text == MISSING:
        return "p not available"
    return f"p < {text[1:]}" if text.startswith("<") else f"p = {text}"


def shorten(text: str, length: int) -> str:
    """The text with its middle replaced by an ellipsis where it is longer than `length` characters.

    Wide and other compatibility forms become plain ones (NFKC), which every font has.
    """
    text = unicodedata.normalize("NFKC", text)
    if len(text) <= length:
        return text
    head = length // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def shorten_all(texts: Sequence[str], length: int) -> list[str]:
    """The texts shortened to `length` characters, or to as many more as keep different texts
    different."""
    short = [shorten(text, length) for text in texts]
    whole = max(map(len, short), default=0) < length
    return short if whole or len(set(short)) == len(set(texts)) else shorten_all(texts, length + 1)


def overlap(texts: list[Text]) -> bool:
    """Whether two neighbors of these drawn texts touch or overlap."""
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    return any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


def turn_crowded_labels(figure: Figure) -> None:
    """Names below the axes stand upright in all panels if they would touch in one."""
    figure.draw_without_rendering()
    if any(overlap(axes.get_xticklabels()) for axes in figure.axes):
        for axes in figure.axes:
            axes.tick_params(axis="x", labelrotation=90)
        figure.draw_without_rendering()
