"""One spelling of each name: ids of patients and slides, labels, sites, categories.

Manifests and tables of the Python interface are read by the same rules
(`docs/decisions/0034-who-is-a-patient.md`).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

from morphomil.cohort.confusables import (
    DIGIT_LIKE,
    LOOK_ALIKES,
    name_look_alikes,
    without_unseen,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Kind = Literal["id", "label", "category"]
"""What a column's names are for: patients, slides and sites; labels; categorical covariates."""
_WORDS = """na n/a n.a. n.a nan nat null none <na> missing unknown unk unbekannt
#n/a #na #null! #value! #ref! #div/0! #name? #num!"""
MISSING = frozenset(_WORDS.split()) | {"", "not known", "not available", "not applicable"}
"""Words, in lower case, that stand for a value that isn't there, as do the signs `?`, `-` and `.`
alone."""
CODES = frozenset({"-9", "-99", "-999", "-9999"})
"""These numbers stand for a missing value in SPSS, SAS and registries."""
LABEL_CODES = frozenset({"9", "99", "999", "9999"})
"""Beside two or more classes numbered 0 to 5 these stand for a missing label."""
INSIST = "--distinct-ids, in Python distinct_ids=True, keeps them apart"
"""How to have near-equal names taken as they are."""
_MOST_LISTED = 5
_SEPARATORS = re.compile(r"(?<=[^\W_])[\s\-_.,/:;'#\\|]+(?=[^\W_])")
_TOKENS = re.compile(r"\d+|[^\W\d_]+|\S")


def clean_name(value: Any) -> str:
    """The name that a cell holds, empty where there is none.

    Composed (NFC), without characters that aren't seen, each run of spaces of any kind as one
    space, none at the ends. Numbers without a fraction are whole: 1.0 is "1".
    """
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return ""
    if isinstance(value, Real) and not isinstance(value, Integral):
        number = float(value)
        if math.isnan(number):
            return ""
        return str(int(number)) if number.is_integer() else str(value)
    return " ".join(without_unseen(unicodedata.normalize("NFC", str(value))).split())


def whole_number(name: str) -> str:
    """The name; a whole number that a spreadsheet wrote as 1.0 is 1."""
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", name)


def missing_names(names: Iterable[str], kind: Kind = "id") -> frozenset[str]:
    """Which of a column's names stand for a missing value.

    "-" beside "+" is a value, and so is "none" as a category, or as the other of two labels.
    """
    distinct = set(names)
    lacking = {name for name in distinct if says_nothing(name)}
    rest = distinct - lacking
    if kind == "id":
        return frozenset(lacking)
    if any("+" in name for name in rest) and all(re.fullmatch(r"[\d+/()±-]+", n) for n in rest):
        lacking -= {
            name for name in lacking if len(name) == 1 and name.translate(LOOK_ALIKES) == "-"
        }
    words = not any(re.fullmatch(r"[-+]?[\d.,]+", name) for name in rest)
    if rest and words and (kind == "category" or len(rest) == 1):
        lacking -= {name for name in lacking if name.casefold() == "none"}
    classes = rest - LABEL_CODES
    if kind == "label" and len(classes) > 1 and all(re.fullmatch("[0-5]", n) for n in classes):
        lacking |= rest & LABEL_CODES
    return frozenset(lacking)


def says_nothing(name: str) -> bool:
    """Whether a name by itself stands for a missing value."""
    plain = unicodedata.normalize("NFKC", name).translate(LOOK_ALIKES).casefold()
    return plain in MISSING | CODES or not plain.strip("?-. ")


def spelling_key(name: str) -> str:
    """Equal for names that differ only in case, width, separators, zeros before a number, or in
    letters that look alike in Latin, Greek and Cyrillic.

    "P 1", "p-01" and "P001" have one key; "1-12" and "11-2" differ, and so do "N+" and "N-".
    """
    plain = unicodedata.normalize("NFKC", name).translate(LOOK_ALIKES).casefold()
    tokens = _TOKENS.findall(_SEPARATORS.sub(" ", plain).strip(" ._,;:'\"#"))
    key, number = "", False
    for token in tokens:
        was, number = number, token.isdecimal()
        key += (" " if was and number else "") + (token.lstrip("0") or "0" if number else token)
    return key


def near_equal(names: Iterable[str]) -> list[list[str]]:
    """Groups of two or more names that look like one thing spelled in different ways, sorted.

    They have one `spelling_key`, or differ in a letter for a digit (O and 0, I or l and 1) where no
    other name of that length has a letter: in ids of mixed letters and digits both may be meant.
    """
    distinct = sorted(set(names))
    groups = defaultdict(list)
    for name in distinct:
        groups[spelling_key(name)].append(name)
    found = [group for group in groups.values() if len(group) > 1]
    alike = defaultdict(list)
    for key, (first, *_) in groups.items():
        alike[spelling_key(first.translate(LOOK_ALIKES).translate(DIGIT_LIKE))].append((key, first))
    for members in alike.values():
        group = [name for _, name in members]
        if len(group) > 1 and not _letters_are_usual(group, distinct):
            found.append(group)
    return sorted(found)


def _letters_are_usual(group: list[str], names: list[str]) -> bool:
    """Whether, at a place where the group's names differ, another name of their length has a
    letter that is like no digit."""
    size = len(group[0])
    places = [i for i in range(size) if len({name[i : i + 1] for name in group}) > 1]
    return {len(name) for name in group} == {size} and all(
        any(
            len(name) == size and name[i].isalpha() and name[i] == name[i].translate(DIGIT_LIKE)
            for name in names
        )
        for i in places
    )


def say_near_equal(
    what: str, names: Iterable[str], *, where: Callable[[str], str] = lambda name: ""
) -> list[str]:
    """A sentence for each group of near-equal names.

    Args:
        what: the names are, in the plural, as in "patients".
        names: may repeat.
        where: says where a name stands, as in " (line 2)".
    """
    groups = near_equal(names)
    sentences = []
    for group in groups[:_MOST_LISTED]:
        *first, last = [name_look_alikes(name) + where(name) for name in group]
        sentences.append(
            f"{what} {', '.join(first)} and {last} look like one spelled in different ways; give "
            f"them one name ({INSIST})"
        )
    if len(groups) > _MOST_LISTED:
        sentences.append(f"{len(groups) - _MOST_LISTED} more groups of {what} are nearly equal")
    return sentences
