"""Whole numbers in texts that anybody may have written."""

from __future__ import annotations


def read_digits(text: str) -> int | None:
    """The whole number that a text of decimal digits is; None: it is another text, or a number
    that counts nothing here (over 18 digits)."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None
