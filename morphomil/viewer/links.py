"""Links to a view of the slide browser: what follows # in its address."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

from morphomil.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection

NUMBERS = ("image", "x", "y", "mpp", "nucleus")
"""Image of the slide, middle (level-0 pixels), um per pixel of the screen, label of a nucleus."""


def read_view(link: str, slides: Collection[str]) -> str:
    """What follows # in a link to a view, checked and escaped.

    Args:
        link: a whole address, or its end alone: `slide=P1&image=0&x=900&y=700&mpp=0.5`.
        slides: the slides that there are.

    Raises:
        InputError: it is no such link, or of no slide that there is.
    """
    parts = dict(parse_qsl(link.rpartition("#")[2], keep_blank_values=True))
    if "slide" not in parts:
        raise InputError(f"{link!r} is no link to a view: it names no slide; {_SO}")
    for name, value in parts.items():
        if name != "slide" and (name not in NUMBERS or not _is_number(value)):
            raise InputError(f"a link to a view has no {name}={value}; {_SO}")
    if parts["slide"] not in slides:
        raise InputError(f"the run has no slide {parts['slide']!r}, which the link is to")
    return urlencode(parts)


_SO = "one looks like slide=P1&image=0&x=900&y=700&mpp=0.5 (Copy link in the browser gives it)"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
