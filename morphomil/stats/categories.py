"""Categories by group: Fisher, chi-square, Cramer's V."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.errors import RefusedError
from morphomil.seeds import generator
from morphomil.stats.adjustment import with_adjusted

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
SMALL_EXPECTED = 5.0
"""A fourfold table with an expected count below this is tested by Fisher."""


def compare_categories(
    table: pd.DataFrame, groups: ArrayLike, *, level: float = 0.95
) -> pd.DataFrame:
    """Each column of categories compared between groups of the rows, one row of the result per
    column.

    Rows are patients. Pearson's chi-square test without Yates's correction; Fisher's exact test for
    fourfold tables with an expected count below 5. Larger tables with such counts keep the
    chi-square and say so in `test`. Missing values are left out and counted.

    Returns:
        `feature, n, missing, test, statistic, degrees, p_value, p_holm, p_bh, cramers_v,
        cramers_v_low,
        cramers_v_high`: V with the interval that inverts the noncentral chi-square distribution
        (Smithson 2003); its upper limit is never below that at the statistic's mean without
        association, since an unusually small statistic would else give an interval without width. A
        column with one category or known in one group only has NaN.

    Raises:
        RefusedError: there is just one group.
        ValueError: lengths or indices differ, or a label is missing.
    """
    labels = check_labels(table, groups)
    if len(pd.unique(labels)) < 2:
        raise RefusedError("groups can't be compared: all patients have one label")
    result = pd.DataFrame(
        [
            {"feature": name} | category_row(values, labels, level=level)
            for name, values in table.items()
        ]
    )
    return with_adjusted(result)


def category_row(values: pd.Series[Any], labels: NDArray[Any], *, level: float) -> dict[str, Any]:
    """The test of one categorical column."""
    from scipy.stats import chi2_contingency, fisher_exact

    known = values.notna().to_numpy()
    counts = pd.crosstab(values.to_numpy()[known], labels[known]).to_numpy()
    n = int(known.sum())
    row: dict[str, Any] = {"n": n, "missing": int((~known).sum())}
    if min(counts.shape, default=0) < 2:
        nothing = dict.fromkeys(
            ("statistic", "degrees", "p_value", "cramers_v", "cramers_v_low", "cramers_v_high"),
            np.nan,
        )
        return row | {"test": "none"} | nothing
    chi = chi2_contingency(counts, correction=False)
    small = bool((chi.expected_freq < SMALL_EXPECTED).any())
    if small and counts.shape == (2, 2):
        test, p_value = "Fisher", float(fisher_exact(counts)[1])
    else:
        test, p_value = (
            "chi-square, expected counts below 5" if small else "chi-square",
            float(chi.pvalue),
        )
    dimension = n * (min(counts.shape) - 1)
    low, high = _noncentrality_limits(float(chi.statistic), int(chi.dof), level=level)
    return row | {
        "test": test,
        "statistic": float(chi.statistic),
        "degrees": int(chi.dof),
        "p_value": p_value,
        "cramers_v": float(np.sqrt(chi.statistic / dimension)),
        "cramers_v_low": float(np.sqrt(low / dimension)),
        "cramers_v_high": float(min(1.0, np.sqrt(high / dimension))),
    }


def exact_test_of_shares(counts: ArrayLike, *, tables: int = 9999) -> float:
    """p of counts (groups, 2): Fisher's exact test, and of three and more groups its generalization
    by Freeman and Halton (1951) with random tables of the same margins, (b + 1) / (B + 1)."""
    from scipy.special import gammaln
    from scipy.stats import fisher_exact

    cells = np.asarray(counts, dtype=np.int64)
    if len(cells) == 2:
        return float(fisher_exact(cells)[1])
    size, marked = cells.sum(axis=1), int(cells[:, 0].sum())
    if marked in (0, int(size.sum())):
        return 1.0
    rng = generator("random tables", *cells.ravel().tolist())
    drawn = rng.multivariate_hypergeometric(size, marked, size=tables)
    both = np.concatenate([cells[None, :, 0], drawn])
    surprise = (gammaln(both + 1) + gammaln(size - both + 1)).sum(axis=1)
    return float((surprise >= surprise[0] - 1e-9).sum() / len(both))


def _noncentrality_limits(statistic: float, degrees: int, *, level: float) -> tuple[float, float]:
    """Limits of the noncentrality of a chi-square statistic; see `compare_categories`."""
    from scipy.optimize import brentq
    from scipy.special import chndtr

    def limit(observed: float, share: float) -> float:
        if chndtr(observed, degrees, 0) <= share:
            return 0.0
        return float(
            brentq(lambda nc: chndtr(observed, degrees, nc) - share, 0, 4 * observed + 100)
        )

    return limit(statistic, (1 + level) / 2), limit(max(statistic, float(degrees)), (1 - level) / 2)


def sorted_labels(labels: ArrayLike) -> list[Any]:
    """The groups' names in order, those of one type together."""
    names: list[Any] = pd.unique(np.asarray(labels)).tolist()
    return sorted(names, key=lambda name: (str(type(name)), name))


def check_labels(table: pd.DataFrame, groups: ArrayLike) -> NDArray[Any]:
    """The groups as an array, one label a row of the table."""
    if (
        isinstance(groups, pd.Series)
        and len(groups) == len(table)
        and not groups.index.equals(table.index)
    ):
        raise ValueError("groups must have the table's index, got another one of the same length")
    labels = np.asarray(groups)
    if labels.shape != (len(table),):
        raise ValueError(
            f"groups must be one label for each of {len(table)} rows, got shape {labels.shape}"
        )
    if missing := int(pd.isna(labels).sum()):
        raise ValueError(f"groups must not be missing, got {missing} of {len(labels)}")
    if table.columns.empty:
        raise ValueError("table must have a column to compare, got none")
    return labels
