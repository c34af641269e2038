"""How the groups differ in the patients' values, in sentences: by which test, within and beside
what."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from morphomil.figures.effects import effect_of, groups_of, say_effect, tested_by
from morphomil.figures.labels import format_interval, format_ratio, p_phrase
from morphomil.nuclei.quantities import phrase
from morphomil.tables.methods import count_in_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
ALPHA = 0.05
"""A p value below it is called significant."""


@dataclass(frozen=True)
class Held:
    """What a ranking holds constant."""

    strata: tuple[str, ...] = ()
    """Groups are compared within the combinations of these."""
    covariates: tuple[str, ...] = ()
    """The model knows these, the strata among them."""

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> Held:
        """Of a ranking's summary."""
        return cls(tuple(summary.get("strata", ())), tuple(summary.get("adjusted", ())))

    @property
    def scope(self) -> str:
        """How tests of the patients' values take it: "within site", "without regard to age"."""
        if self.strata:
            return f"within {' and '.join(self.strata)}"
        return f"without regard to {self.beside}" if self.covariates else ""

    @property
    def beside(self) -> str:
        """The covariates' names."""
        return " and ".join(self.covariates)

    @property
    def left(self) -> str:
        """What the scan's summaries are of: ", less what age explains (least squares)"."""
        explain = "explain" if len(self.covariates) > 1 else "explains"
        return f", less what {self.beside} {explain} (least squares)" if self.covariates else ""


NOTHING_HELD = Held()


def say_differences(
    ranking: pd.DataFrame, *, positive: str, reference: str, held: Held = NOTHING_HELD
) -> str:
    """Which features differ between the groups after adjustment for their number, and which go with
    the outcome beside covariates."""
    beside = _say_beside(ranking, held)
    return f"{_say_tests(ranking, positive, reference, held)}{' ' if beside else ''}{beside}"


def _say_tests(ranking: pd.DataFrame, positive: str, reference: str, held: Held) -> str:
    column, test = tested_by(ranking)
    groups = groups_of(ranking)
    between = f"the {count_in_words(len(groups))} groups"
    if not groups:
        between = f"{positive} and {reference}"
    tested = ranking[ranking[column].notna()]
    found = tested[tested[column] < ALPHA].sort_values(column, kind="stable")
    if tested.empty:
        return "No feature could be tested for a difference between the groups."
    scope = f", {held.scope}" if held.scope else ""
    adjusted = (
        f"After adjustment for {count_in_words(len(tested))} {test} tests of the patients' values "
        f"(Holm){scope}, "
    )
    if found.empty:
        best = tested.sort_values(column, kind="stable").iloc[0]
        return (
            f"{adjusted}no feature differs significantly between the groups; the smallest p is "
            f"that of {phrase(best['feature'])} ({p_phrase(best[column])}). That is no proof that "
            "the groups are alike: a difference may be too small for this number of patients."
        )
    listed = ", ".join(
        f"{phrase(row['feature'])} {_direction_of(row, ranking, positive)} "
        f"({p_phrase(row[column])})"
        for row in found.to_dict("records")
    )
    verb = "differs" if len(found) == 1 else "differ"
    return (
        f"{adjusted}{count_in_words(len(found))} of {count_in_words(len(ranking))} features {verb} "
        f"significantly between {between}: {listed}."
    )


def _say_beside(ranking: pd.DataFrame, held: Held) -> str:
    """Which features go with the outcome beside the covariates."""
    if "adjusted_p_holm" not in ranking:
        return ""
    tested = ranking[ranking["adjusted_p_holm"].notna()].sort_values("adjusted_p", kind="stable")
    if tested.empty:
        return ""
    found = tested[tested["adjusted_p_holm"] < ALPHA]
    if found.empty:
        best = tested.iloc[0]
        return (
            f"Beside {held.beside} none goes with the outcome significantly (regressions of it, "
            f"Holm); the smallest p is that of {phrase(best['feature'])} "
            f"({p_phrase(best['adjusted_p_holm'])})."
        )
    listed = ", ".join(
        f"{phrase(row['feature'])} ({_say_odds(row)}{p_phrase(row['adjusted_p_holm'])})"
        for row in found.to_dict("records")
    )
    go = "these go" if len(found) > 1 else "one goes"
    return f"Beside {held.beside} {go} with the outcome (regressions of it, Holm): {listed}."


def _say_odds(row: Mapping[Any, Any]) -> str:
    """ "odds ratio per SD 2.1 [1.2, 3.6], " where there is one."""
    if not math.isfinite(row.get("adjusted_odds_ratio", math.nan)):
        return ""
    limits = format_interval(row["adjusted_odds_ratio_low"], row["adjusted_odds_ratio_high"])
    return f"odds ratio per SD {format_ratio(row['adjusted_odds_ratio'])} {limits}, "


def say_difference(
    row: pd.Series[Any],
    ranking: pd.DataFrame,
    *,
    positive: str,
    reference: str,
    held: Held = NOTHING_HELD,
) -> str:
    """How a feature (a row of the ranking) differs between the groups."""
    effect, groups = effect_of(ranking), groups_of(ranking)
    p_holm, scope = row[tested_by(ranking)[0]], held.scope
    start = f"{scope[:1].upper()}{scope[1:]}, the" if scope else "The"
    if not math.isfinite(row[effect.column]) or not math.isfinite(p_holm):
        return "Whether the patients' values differ between the groups could not be tested."
    said = say_effect(row, effect)
    numbers = f"{said if effect.signed else said.replace('Epsilon', 'epsilon')}, "
    numbers += f"{p_phrase(p_holm)} after Holm"
    than = "" if groups else f" than in {reference}"
    if p_holm < ALPHA:
        way = _direction_of(row, ranking, positive)
        return f"{start} patients' values are {way}{than} ({numbers})."
    between = "the groups" if groups else f"{positive} and {reference}"
    return f"{start} patients' values do not differ significantly between {between} ({numbers})."


def _direction_of(row: Any, ranking: pd.DataFrame, positive: str) -> str:
    """Which group has more, or which way a trend goes; of several groups which two differ by
    themselves."""
    effect, groups = effect_of(ranking), groups_of(ranking)
    if not groups:
        return f"{'higher' if row['cliffs_delta'] > 0 else 'lower'} in {positive}"
    if effect.signed:
        way = "rising" if row[effect.column] > 0 else "falling"
        return f"{way} from {groups[0]} to {groups[-1]}"
    if row.get("extremes_p", math.nan) < ALPHA:
        return f"highest in {row['highest']} and lowest in {row['lowest']}"
    return "different, no two groups for sure"
