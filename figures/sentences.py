"""What the tables say, in sentences: the report's summary."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from morphomil.figures.differences import NOTHING_HELD, Held, say_difference
from morphomil.figures.effects import tested_by
from morphomil.figures.labels import MINUS, format_interval, format_ratio, p_phrase
from morphomil.nuclei.quantities import patient_quantity, phrase, say_nuclei
from morphomil.nuclei.registry import FEATURES
from morphomil.tables.methods import count_in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
ALPHA = 0.05
"""A p value below it is called significant."""


@dataclass(frozen=True)
class Auc:
    """An out-of-fold AUC with its 95 % interval."""

    value: float
    low: float
    high: float
    p_value: float = math.nan
    """Under labels permuted through the whole training; NaN where these were not trained."""
    alone: str = ""
    """What was adjusted for and the AUC that it has without features; empty of a plain ranking."""

    def __str__(self) -> str:
        """The AUC with its interval in brackets."""
        return f"{format_ratio(self.value)} {format_interval(self.low, self.high)}"


def say_extent(slides: pd.DataFrame) -> list[str]:
    """What was analyzed and what was lost, from the report's table of slides."""
    done = slides[slides["state"] == "done"]
    by_label = done.drop_duplicates("patient")["label"].value_counts(sort=False).sort_index()
    groups = ", ".join(f"{count:,} with {label}" for label, count in by_label.items())
    sentences = [
        f"{_many(by_label.sum(), 'patient')} ({groups}) with {_many(len(done), 'slide')}, "
        f"{done['patches_kept'].sum():,.0f} patches and {done['nuclei'].sum():,.0f} nuclei were "
        "analyzed."
    ]
    if lost := len(slides) - len(done):
        labels = (
            slides.loc[slides["state"] != "done", "label"].value_counts(sort=False).sort_index()
        )
        groups = ", ".join(f"{count:,} with {label}" for label, count in labels.items())
        are = "is" if lost == 1 else "are"
        sentences.append(
            f"{lost:,} of {len(slides):,} slides gave no result and {are} left out ({groups}); "
            "see the causes."
        )
    return sentences


def say_whose(whose: str, types: pd.DataFrame, *, meaningless: bool = False) -> str:
    """Whose nuclei the features are, with their composition where types are known (`types`:
    `tables.types.types_of_patients`); nothing where nobody knows types. `meaningless`: the types
    are the network's, of nuclei that are painted (`tables.types.types_mean_nothing`)."""
    if types.empty:
        return ""
    named = {"epithelial": "epithelial", "lymphocyte": "lymphocytes", "stroma": "stroma"}
    means = {name: types[name].mean() for name in (*named, "other")}
    listed = ", ".join(
        f"{means[name]:.0%} {words}" for name, words in (named | {"other": "other"}).items()
    )
    mixed = f"by patient on average {listed}"
    if untyped := int(types["untyped"].sum()):
        mixed += f"; {untyped:,} of {int(types['nuclei'].sum()):,} nuclei have no known type"
    said = f"The features are those of all nuclei, whatever their type ({mixed})."
    if whose != "all":
        said = (
            f"The features are those of {say_nuclei(whose)} alone, out of all nuclei ({mixed}); "
            "density counts all nuclei around them, and features of the types those in their names."
        )
    if meaningless:
        said += (
            " The slides are synthetic and the network learned types from real tissue: its types "
            "of these nuclei mean nothing."
        )
    return said


def say_auc(auc: Auc) -> str:
    """How well the model separates the groups, and whether that is more than permuted labels
    give."""
    number = str(auc) if math.isfinite(auc.low) and math.isfinite(auc.high) else ""
    number = number or f"{format_ratio(auc.value)}, without an interval"
    if auc.alone:
        tested = "" if math.isnan(auc.p_value) else f" ({p_phrase(auc.p_value)}, labels permuted)"
        return f"With the features, the out-of-fold AUC is {number}{tested}; {auc.alone}."
    if auc.high < 0.5:
        return (
            f"The model's out-of-fold AUC of {number} lies below chance (0.50): what it learned in "
            "training patients does not hold in the others. Its attention should not be "
            "interpreted."
        )
    if math.isnan(auc.p_value):
        return (
            f"The out-of-fold AUC of the morphometry model is {number} (chance: 0.50). It was not "
            "tested against permuted labels, and the interval is no test."
        )
    tested = f"{p_phrase(auc.p_value)} under permuted labels"
    if auc.p_value <= ALPHA:
        return (
            "From these features alone, the model separates the groups better than chance: "
            f"out-of-fold AUC {number}, {tested}."
        )
    return (
        "That the model separates the groups better than chance is not shown: its out-of-fold AUC "
        f"is {number}, {tested}. Its attention should not be interpreted."
    )


def say_first(
    ranking: pd.DataFrame, *, positive: str, reference: str, held: Held = NOTHING_HELD
) -> str:
    """Which feature ranks first, what the tests say of it, and its direction."""
    first = ranking.sort_values("rank", kind="stable").iloc[0]
    interval = format_interval(first["attention_low"], first["attention_high"])
    sentence = (
        f"Of {count_in_words(len(ranking))} features, {phrase(first['feature'])} ranks first; its "
        f"attention is {format_ratio(first['attention'])} times the average {interval}. "
        f"{_say_verdict(first)}"
    )
    names = {"positive": positive, "reference": reference}
    return f"{sentence} {say_difference(first, ranking, held=held, **names)}"


def _say_verdict(row: pd.Series[Any]) -> str:
    """The verdict of a feature, with the p values of any feature that it rests on."""
    parts = {
        "attention": "attention_p_any",
        "Shapley value": "shapley_p_any",
        "plain scan": "scan_p_any",
    }
    known = {name: row[column] for name, column in parts.items() if column in row}
    listed = ", ".join(f"{name} {p_phrase(p)}" for name, p in known.items() if math.isfinite(p))
    if not listed or "verdict" not in row:
        return "Whether it does so by chance was not tested."
    said = f"Verdict: {row['verdict']} ({p_phrase(row['verdict_p'])} over all features"
    return f"{said}; for any feature: {listed})."


def say_plainly(text: str, features: Sequence[str]) -> str:
    """The text with the features' names as people write them in place of those of the columns, and
    minus signs."""
    for feature in sorted(features, key=len, reverse=True):
        text = text.replace(feature, phrase(feature))
    return re.sub(r"(?<![\w)])-(?=\d)", MINUS, text)


def say_statement(
    summary: dict[str, Any],
    ranking: pd.DataFrame | None,
    name: Literal["verdict", "statement", "interaction", "baselines"] = "statement",
    *,
    plain: bool = False,
) -> str:
    """A ranking's own sentences in plain words: how the ways of ranking agree, its verdict, or
    which pair of features tells more together; nothing before a ranking. `plain`: the verdict for
    those who don't read p values."""
    if ranking is None:
        return ""
    said = summary.get(name, "")
    text = said.get("plain" if plain else "sentence", "") if isinstance(said, dict) else str(said)
    words = say_plainly(text, ranking["feature"].tolist())
    return f"{words[:1].upper()}{words[1:]}"


def read_auc(summary: dict[str, Any]) -> Auc | None:
    """The out-of-fold AUC of a ranking's summary, with its p value."""
    if "auc" not in summary:
        return None
    p = summary.get("verdict", {}).get("routes", {}).get("auc", math.nan)
    alone = ""
    if names := summary.get("adjusted"):
        known = Auc(*(summary[f"auc_covariates{end}"] for end in ("", "_low", "_high")))
        alone = f"without them, from {' and '.join(names)}, it is {known}"
    return Auc(summary["auc"], summary["auc_low"], summary["auc_high"], p, alone)


def say_attention(model: str, associations: pd.DataFrame, *, first: str | None = None) -> list[str]:
    """What an image model looks at in terms of nuclei, and whether the feature that ranks first is
    part of it.

    `associations`: of one model, `evidence, feature, rho, rho_low, rho_high, p_holm`
    (`tables.attention.pool_associations`).
    """
    attended = _surely(associations[associations["evidence"] == "attention"])
    rests = _surely(associations[associations["evidence"] == "occlusion"])
    sentences = [
        f"Within a slide, {model} attends more to patches with {_list_directions(attended)}."
        if len(attended)
        else f"Within a slide, the attention of {model} goes with no feature significantly."
    ]
    sentences.append(
        f"Its probability falls most without patches with {_list_directions(rests)}."
        if len(rests)
        else "What its probability loses without a patch goes with no feature significantly."
    )
    if first is not None:
        value = FEATURES[first].value if first in FEATURES else first
        seen = value in set(attended["feature"]) | set(rests["feature"])
        sentences.append(
            f"The feature that ranks first, {phrase(first)}, is {'' if seen else 'not '}among them."
        )
    return sentences


def _surely(associations: pd.DataFrame) -> pd.DataFrame:
    found = associations[associations["p_holm"] < ALPHA]
    return found.loc[found["rho"].abs().sort_values(ascending=False, kind="stable").index]


def _list_directions(associations: pd.DataFrame) -> str:
    return ", ".join(
        f"{_more_or_less(row['feature'], row['rho'])} {phrase(row['feature'])} "
        f"(\N{GREEK SMALL LETTER RHO} {format_ratio(row['rho'])} "
        f"{format_interval(row['rho_low'], row['rho_high'])})"
        for row in associations.to_dict("records")
    )


def _more_or_less(feature: str, rho: float) -> str:
    words = (
        ("smaller", "larger")
        if patient_quantity(feature).unit in ("µm", "µm²")
        else ("lower", "higher")
    )
    return words[rho > 0]


def say_caveats(ranking: pd.DataFrame, *, nucleus_classes: bool) -> list[str]:
    """What the ranking must not be taken for."""
    caveats = [
        "Attention shows which features the model weighted. It is evidence to be read beside the "
        "group differences, not an explanation of the outcome, and none of this shows a cause."
    ]
    density = ranking[ranking["feature"] == "density_per_mm2"]
    high = (density["rank"] <= 3) | (density[tested_by(ranking)[0]] < ALPHA)
    if high.any() and not nucleus_classes:
        caveats.append(
            "Density counts every nucleus. Without classes of nuclei, a high rank of density may "
            "come from lymphocytes or stroma instead of tumor cells."
        )
    return caveats


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
