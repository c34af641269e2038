"""How models, numbers, p values, intervals and long names are written for people."""

from __future__ import annotations

import itertools
import math
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure
    from matplotlib.text import Text
MINUS = "\N{MINUS SIGN}"
RHO = "\N{GREEK SMALL LETTER RHO}"
MISSING = "\N{EN DASH}"


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


def group_name(label: object) -> str:
    """A group as a title names it: a label that is a bare number says that it is one, "label 1"."""
    text = str(label)
    return f"label {text}" if text.replace(".", "", 1).isdigit() else text


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
