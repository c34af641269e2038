"""The items of two reporting checklists in short words of our own, and which of a run's facts
answers each.

TRIPOD+AI: Collins et al. 2024, doi 10.1136/bmj-2023-078378 (27 items, some in parts). CLAIM: Mongan
et al. 2020, doi 10.1148/ryai.2020200029 (42 items). The originals say more; this is where to start
from.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import NamedTuple

AUTHOR = "AUTHOR TO FILL"
"""This stands where a run can't know what a paper has to say."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a run knows of the checklists' items, each in words; "" where it knows nothing.

    Items name these fields.
    """

    annotations: str = ""
    building: str = ""
    by_split: str = ""
    characteristics: str = ""
    choice: str = ""
    classes: str = ""
    explanation: str = ""
    failures: str = ""
    flow: str = ""
    handling: str = ""
    initialization: str = ""
    level: str = ""
    measures: str = ""
    misclassified: str = ""
    missing: str = ""
    model: str = ""
    numbers: str = ""
    outcome: str = ""
    output: str = ""
    partitions: str = ""
    performance: str = ""
    predictors: str = ""
    preparation: str = ""
    regions: str = ""
    robustness: str = ""
    scoring: str = ""
    sites: str = ""
    software: str = ""
    subgroups: str = ""
    uncertainty: str = ""


class Item(NamedTuple):
    """An item of a checklist; `fact` names the field of `Facts` that answers it, if a run can know
    any."""

    number: str
    words: str
    fact: str = ""


@cache
def read_items() -> dict[str, tuple[Item, ...]]:
    """The items of each checklist, in order, from `checklist.csv`."""
    text = files("morphomil.tables").joinpath("checklist.csv").read_text(encoding="utf-8")
    items: dict[str, tuple[Item, ...]] = {}
    for row in csv.DictReader(text.splitlines()):
        title = row.pop("checklist")
        items[title] = (*items.get(title, ()), Item(**row))
    return items


def checklist_page(facts: Facts) -> str:
    """Both checklists as Markdown tables, each item with its fact; where there is none the author
    fills it in."""
    answers: dict[str, str] = vars(facts)
    lines = ["# Reporting checklists: what this run knows", ""]
    for title, items in read_items().items():
        lines += [f"## {title}", "", "| | item | |", "|---|---|---|"]
        for number, words, fact in items:
            answer = ((answers[fact] if fact else "") or AUTHOR).replace("|", r"\|")
            lines.append(f"| {number} | {words} | {answer} |".replace("\n", " "))
        lines.append("")
    return "\n".join(lines)
