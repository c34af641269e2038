"""What a figure of a run is: a picture, the table of its numbers, a caption; or why there is
none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from matplotlib.figure import Figure


class AbsentError(Exception):
    """The run has no results for this figure; the message says in a sentence which command makes
    them."""


@dataclass(frozen=True)
class Drawing:
    """A figure, the table of its numbers, and what it shows; `further` tables by the suffix of
    their file's name."""

    figure: Figure
    table: pd.DataFrame
    caption: str
    further: Mapping[str, pd.DataFrame] = field(default_factory=dict)
