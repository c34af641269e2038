"""Letters of other scripts that look like Latin ones, and characters that aren't seen.

The pairs are those of Unicode's confusables (UTS 39, confusables.txt, version 16) whose one side is
a Latin letter and whose other is Cyrillic or Greek, without archaic letters; dashes and quotation
marks likewise. Width and other compatible forms are left to NFKC.
"""

from __future__ import annotations

import re
import unicodedata

_CYRILLIC = ("АВЕКМНОРСТУХІЈЅԚԜҺаеорсухіјѕԁһԛԝѵ", "ABEKMHOPCTYXIJSQWHaeopcyxijsdhqwv")
_GREEK = ("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧαγικνορτυχ", "ABEZHIKMNOPTYXayiKvoptux")
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
_QUOTES = "\u2018\u2019\u201a\u201b\u02bc\u2032`\u00b4"
LOOK_ALIKES = str.maketrans(
    _CYRILLIC[0] + _GREEK[0] + _DASHES + _QUOTES,
    _CYRILLIC[1] + _GREEK[1] + "-" * len(_DASHES) + "'" * len(_QUOTES),
)
"""For `str.translate`: each to the ASCII character that it looks like."""
DIGIT_LIKE = str.maketrans("OoIl|", "00111")
"""For `str.translate`: letters to the digits that they look like."""
_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\ufe00-\ufe0f\uffa0]")


def without_unseen(text: str) -> str:
    """The text without characters that aren't seen (categories Cc and Cf, fillers, variation
    selectors); every kind of space becomes a plain one."""
    if text.isascii() and text.isprintable():
        return text
    spaced = "".join(" " if char.isspace() else char for char in _UNSEEN.sub("", text))
    return "".join(char for char in spaced if unicodedata.category(char) not in ("Cc", "Cf"))


def name_look_alikes(text: str) -> str:
    """The text in quotes, with the names of its letters that look like Latin ones, as both print
    alike."""
    strange = dict.fromkeys(char for char in text if ord(char) in LOOK_ALIKES and char.isalpha())
    names = ", ".join(unicodedata.name(char, f"U+{ord(char):04X}") for char in strange)
    return f"{text!r} (with {names})" if names else repr(text)
