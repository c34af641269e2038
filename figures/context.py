"""What else goes with the features and with the label: site, scanner, sharpness, ..."""

from __future__ import annotations

from typing import TYPE_CHECKING

from morphomil.figures.cells import draw_cells
from morphomil.figures.drawing import AbsentError, Drawing
from morphomil.figures.labels import shorten_all
from morphomil.figures.style import TWO_COLUMNS_MM, new_figure, style
from morphomil.nuclei.quantities import Quantity, feature_quantity
from morphomil.rank.context import ALPHA, LABEL, context_quantity
from morphomil.store import read_csv

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from morphomil.run.directory import Run


def draw_context(run: Run) -> Drawing:
    """Draw `rank/context.csv`.

    Raises:
        AbsentError: nothing is ranked yet, or nothing else is known of the patients.
    """
    path = run.rank_folder / "context.csv"
    if not path.is_file():
        raise AbsentError(f"the features are not ranked yet; run: morphomil rank {run.path}")
    table = read_csv(path)
    if table.empty:
        raise AbsentError("nothing that differs is known of patients and slides beside the nuclei")
    caption = " ".join(
        [
            "Share of the ranks' variance that a feature, or the label, has in common with what is "
            "known of patients and slides beside the nuclei: rho squared, epsilon squared, or "
            f"Cramer's V squared. Framed: p at most {ALPHA:g} (of features adjusted over the "
            "table, Holm). What is held constant in the ranking is marked with a star.",
            *run.ranking_about().get("context", ()),
        ]
    )
    return Drawing(context_plot(table), table, caption)


def context_plot(table: pd.DataFrame, *, width_mm: float = TWO_COLUMNS_MM) -> Figure:
    """A cell for each feature and the label (rows), and each thing known beside (columns).

    `table` has `feature, rank, against, share, p_value, p_holm, held`.
    """
    columns = list(dict.fromkeys(table["against"]))
    ranked = table[table["feature"] != LABEL].sort_values("rank", kind="stable")["feature"]
    names = [LABEL, *dict.fromkeys(ranked)]
    p_value = table["p_holm"].where(table["feature"] != LABEL, table["p_value"])
    shares, p_values = (
        table.assign(p=p_value).pivot(index="feature", columns="against", values=name)
        for name in ("share", "p")
    )
    share = shares.loc[names, columns].to_numpy(float)
    found = p_values.loc[names, columns].to_numpy(float) <= ALPHA
    held = set(table.loc[table["held"].astype(bool), "against"])
    known = [context_quantity(name) for name in columns]
    short = shorten_all([one.name for one in known], 18)
    titles = [
        f"{Quantity(text, one.unit)}{'*' * (name in held)}"
        for text, one, name in zip(short, known, columns, strict=True)
    ]
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=40 + 6.5 * len(names))
        axes = figure.add_subplot()
        image = draw_cells(axes, share, signed=False, framed=found)
        axes.set_xticks(range(len(columns)), titles, rotation=30, ha="right")
        axes.set_yticks(range(len(names)), [_title(name) for name in names])
        figure.colorbar(image, ax=axes, label="Share of the ranks' variance")
    return figure


def _title(name: str) -> str:
    return "Label" if name == LABEL else feature_quantity(name).name
