"""Tables as they stand in a paper: rounded, with intervals, as HTML and LaTeX."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from morphomil.stats.predictions import MEASURES, PARTS
from morphomil.stats.subgroups import REFITTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd


def print_performance(table: pd.DataFrame) -> pd.DataFrame:
    """`performance_table` as journals print it: one row per model and part, AUC with three digits,
    percent with two, or as many as the patients allow."""
    names = ["measure", "estimate", "low", "high", "n"]
    cells = zip(*(table[name] for name in names), strict=True)
    text = table.assign(text=[_cell(*cell) for cell in cells], part=table["part"].map(PARTS))
    columns = list(dict.fromkeys(text["measure"]))
    wide = text.pivot_table(
        index=["model", "part"], columns="measure", values="text", aggfunc="first", sort=False
    )
    return wide[columns].reset_index().rename_axis(columns=None)


def digits_of(n: float) -> int:
    """Decimals that a share in percent of n cases can have: one case moves it by 100 / n."""
    return 0 if n < 100 else 1 if n < 1000 else 2


def _cell(measure: str, estimate: float, low: float, high: float, n: float) -> str:
    """AUCs with three digits (two of fewer than 100 patients), shares in percent as `digits_of`
    says; no brackets without limits."""
    factor, digits = 100, digits_of(n)
    if measure.startswith("AUC"):
        factor, digits = 1, 2 if n < 100 else 3
    if math.isnan(estimate):
        return "-"
    limits = "" if math.isnan(low) else f" [{factor * low:.{digits}f}, {factor * high:.{digits}f}]"
    return f"{factor * estimate:.{digits}f}{limits}"


def print_multiclass(table: pd.DataFrame) -> pd.DataFrame:
    """`multiclass_table` as journals print it: one row per model, part and class, as
    `print_performance`."""
    names = table["class"].map(lambda name: name if name == "all" else f"class {name}")
    printed = print_performance(table.assign(model=table["model"].astype(str) + "\t" + names))
    parted = printed["model"].str.split("\t", expand=True)
    return printed.assign(model=parted[0]).assign(**{"class": parted[1]}).fillna("")


def print_subgroups(table: pd.DataFrame) -> pd.DataFrame:
    """`subgroup_table` as journals print it, digits as `print_performance`; what is optimistic says
    so."""
    printed = table[["model", "variable", "subgroup", "n", "positives"]].copy()
    for name in ("AUC", *MEASURES):
        columns = ["auc", "low", "high"] if name == "AUC" else [name, f"{name}_low", f"{name}_high"]
        cells = table[[*columns, "n"]].to_numpy(np.float64)
        printed[name] = [_cell(name, *cell) for cell in cells]
    for name, head in (("", "p"), ("_interaction", "p interaction")):
        source = "p_value" if not name else f"p{name}"
        printed[head] = [print_p(x) for x in table[source].astype(float)]
        printed[f"{head} (Holm)"] = [print_p(x) for x in table[f"p{name}_holm"].astype(float)]
    for name in REFITTED[1:]:
        values = table[f"refitted_{name}_optimistic"].astype(float)
        printed[f"{name}, cutoff refitted (optimistic)"] = [
            _cell(name, x, math.nan, math.nan, n) for x, n in zip(values, table["n"], strict=True)
        ]
    return printed


def print_p(value: float) -> str:
    """A p value as journals print it."""
    if math.isnan(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.995 else "1.00"


def to_html(table: pd.DataFrame, *, caption: str, notes: Sequence[str] = ()) -> str:
    """A page with one table that word processors open as such; everything is escaped."""
    body = table.to_html(index=False, escape=True, border=0, na_rep="")
    foot = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    style = (
        "body{font:10pt Arial,sans-serif}"
        "table{border-collapse:collapse;border-top:1.5pt solid;border-bottom:1.5pt solid}"
        "th{border-bottom:1pt solid;text-align:left}td,th{padding:2pt 6pt}"
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta '
        f'charset="utf-8"><title>{html.escape(caption)}</title>'
        f"<style>{style}</style></head><body><p><b>{html.escape(caption)}</b></p>{body}{foot}</body></html>\n"
    )


def to_latex(table: pd.DataFrame, *, caption: str) -> str:
    """A booktabs table; special characters are escaped."""
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    signs |= {sign: f"\\{sign}" for sign in "&%$#_{}"}

    def escape(value: Any) -> str:
        text = (
            "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)
        )
        return "".join(signs.get(sign, sign) for sign in text)

    lines = [" & ".join(map(escape, row)) + r" \\" for row in table.itertuples(index=False)]
    head = " & ".join(map(escape, table.columns)) + r" \\"
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{escape(caption)}}}",
            rf"\begin{{tabular}}{{{'l' * table.shape[1]}}}",
            r"\toprule",
            head,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )
