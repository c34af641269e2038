"""How much groups differ, as a ranking's table says it: of two groups, of several, of ordered
ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from morphomil.figures.labels import format_interval, format_ratio, shorten_all

if TYPE_CHECKING:
    import pandas as pd

_MEDIAN = "median_"


@dataclass(frozen=True)
class Effect:
    """An effect size of the ranking."""

    column: str
    """With its limits in `_low` and `_high`; in the scan's columns `scan_` is put before."""
    name: str
    test: str
    """Whose p values stand beside it."""

    @property
    def signed(self) -> bool:
        """Whether it has a direction."""
        return self.column != "epsilon_squared"

    @property
    def scanned(self) -> str:
        """How the tables of the scan call it."""
        return "delta" if self.column == "cliffs_delta" else self.column


EFFECTS = (
    Effect("epsilon_squared", "Epsilon squared", "Kruskal-Wallis"),
    Effect("somers_d", "Somers's D", "Jonckheere-Terpstra"),
    Effect("cliffs_delta", "Cliff's delta", "Mann-Whitney"),
)
"""The first of them that a table has is its effect size."""


def effect_of(ranking: pd.DataFrame) -> Effect:
    """The effect size of a ranking's table."""
    return next(effect for effect in EFFECTS if effect.column in ranking)


def groups_of(ranking: pd.DataFrame) -> list[str]:
    """The names of three or more groups in their order, from a ranking's table; of two none."""
    if effect_of(ranking).column == "cliffs_delta":
        return []
    return [str(name)[len(_MEDIAN) :] for name in ranking if str(name).startswith(_MEDIAN)]


def say_order(groups: list[str]) -> str:
    """Ordered groups, the lowest first."""
    return " < ".join(shorten_all(groups, 12))


def say_effect(row: Any, effect: Effect) -> str:
    """An effect with its interval."""
    low, high = row[f"{effect.column}_low"], row[f"{effect.column}_high"]
    return f"{effect.name} {format_ratio(row[effect.column])} {format_interval(low, high)}"
