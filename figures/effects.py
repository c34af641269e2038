"""How much groups differ, as a ranking's table says it: of two groups, of several, of ordered
ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from morphomil.figures.labels import MINUS, format_interval, format_ratio, shorten_all

if TYPE_CHECKING:
    import pandas as pd

_MEDIAN = "median_"
WITHIN_STRATA = "van Elteren"
"""The test of two groups within strata."""


@dataclass(frozen=True)
class Effect:
    """An effect size of the ranking."""

    column: str
    """With its limits in `_low` and `_high`; in the scan's columns `scan_` is put before."""
    name: str
    test: str
    """Whose p values stand beside it."""
    range: str
    """What its numbers mean."""

    @property
    def signed(self) -> bool:
        """Whether it has a direction."""
        return self.column != "epsilon_squared"

    @property
    def scanned(self) -> str:
        """How the tables of the scan call it."""
        return "delta" if self.column == "cliffs_delta" else self.column


EFFECTS = (
    Effect(
        "epsilon_squared", "Epsilon squared", "Kruskal-Wallis", "runs from 0, no difference, to 1."
    ),
    Effect(
        "somers_d",
        "Somers's D",
        "Jonckheere-Terpstra",
        f"runs from {MINUS}1 to 1; 0 means no trend.",
    ),
    Effect(
        "cliffs_delta",
        "Cliff's delta",
        "Mann-Whitney",
        f"runs from {MINUS}1 to 1; 0 means no difference.",
    ),
)
"""The first of them that a table has is its effect size."""


def effect_of(ranking: pd.DataFrame) -> Effect:
    """The effect size of a ranking's table, and the test that it was made with."""
    found = next(effect for effect in EFFECTS if effect.column in ranking)
    if found.column == "cliffs_delta":
        return replace(found, test=WITHIN_STRATA) if "strata" in ranking else found
    return replace(found, test=str(ranking["test"].iloc[0])) if "test" in ranking else found


def tested_by(ranking: pd.DataFrame) -> tuple[str, str]:
    """The column of adjusted p values by which a difference between the groups is called
    significant, and its test: of two groups Brunner and Munzel's, which tests the Cliff's delta
    that stands beside it and holds where the groups' spreads differ (docs/decisions/0037), or
    within strata van Elteren's."""
    effect = effect_of(ranking)
    if effect.column == "cliffs_delta" and "strata" not in ranking:
        return "brunner_munzel_holm", "Brunner-Munzel"
    return "p_holm", effect.test


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
