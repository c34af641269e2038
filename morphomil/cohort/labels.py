"""Labels of patients: one per patient, one order, and who is lost of each."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from morphomil.errors import InputError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd


def patient_labels(cohort: pd.DataFrame) -> pd.Series[Any]:
    """Label of each patient, sorted by patient id; `cohort` has one row per slide.

    Raises:
        InputError: a label is missing, or a patient has two.
    """
    if cohort["label"].isna().any():
        slides = cohort.loc[cohort["label"].isna(), "slide_id"].astype(str).tolist()
        raise InputError(
            f"slides without a label: {', '.join(slides[:5])}; give one or leave the slides out"
        )
    labels = cohort.groupby("patient", sort=True)["label"]
    if len(mixed := labels.nunique().loc[lambda count: count > 1]):
        raise InputError(
            [f"patient {name} has two labels; give every patient one" for name in mixed.index]
        )
    return labels.first()


def sort_labels(labels: Iterable[Any]) -> list[str]:
    """The names that occur, by their letters and numbers: N0 comes before N1, 2 before 10."""
    return sorted({str(label) for label in labels}, key=_letters_and_numbers)


def order_classes(labels: pd.Series[Any], positive: str | None) -> tuple[str, ...]:
    """The labels' names, the positive one last; scores are its probability.

    The others are sorted by their letters and numbers: N0 comes before N+(1-2), 2 before 10.

    Raises:
        RefusedError: there is one label only.
        InputError: which one is positive isn't known, or no patient has it.
    """
    names = sort_labels(labels)
    if len(names) < 2:
        raise RefusedError(
            f"nothing can be learned: every patient has the label {names[0] if names else '(none)'}"
        )
    if len(names) > 10:
        raise InputError(
            f"labels are classes, and there are {len(names)}: {', '.join(names[:5])}..."
        )
    if positive is None and len(names) == 2 and names != ["0", "1"]:
        raise InputError(
            f"which label is positive? Say --positive {names[0]} or --positive {names[1]}"
        )
    last = names[-1] if positive is None else str(positive)
    if last not in names:
        raise InputError(
            f"no patient has the positive label {last!r}; the labels are {', '.join(names)}"
        )
    return (*[name for name in names if name != last], last)


def describe_losses(before: pd.DataFrame, after: pd.DataFrame, lack: str) -> tuple[str, ...]:
    """A sentence on slides that a step leaves out, by label: a loss that differs between groups is
    a bias.

    Args:
        before: one row per slide: `slide_id, patient, label`.
        after: those that stay.
        lack: what the others are without.

    Returns:
        One sentence, or none if no slide is lost.
    """
    lost = before[~before["slide_id"].isin(after["slide_id"])]
    if lost.empty:
        return ()
    counts = lost["label"].astype(str).value_counts()
    slides = ", ".join(f"{counts[label]} with label {label}" for label in sort_labels(counts.index))
    patients = before["patient"].nunique() - after["patient"].nunique()
    return (
        f"{len(lost)} slides without {lack} are left out ({slides}), and with them "
        f"{patients} patients.",
    )


def _letters_and_numbers(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """To sort by: numbers by size and before letters; other signs count only where all else is the
    same."""
    parts = re.findall(r"\d+|[^\W\d]+", name)
    return [
        (0, int(part), "") if part.isdecimal() and len(part) < 300 else (1, 0, part)
        for part in parts
    ], name
