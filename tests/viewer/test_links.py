"""Links to a view of the slide browser."""

from __future__ import annotations

from urllib.parse import parse_qs

import pytest

from morphomil.errors import InputError
from morphomil.viewer.links import read_view

SLIDES = ("P1", "a&b = c")


@pytest.mark.parametrize("before", ["", "#", "http://127.0.0.1:8000/?token=x#"])
def test_an_address_or_its_end(before: str) -> None:
    view = "slide=P1&image=0&x=900&y=-7.5&mpp=0.5&nucleus=3"
    assert read_view(before + view, SLIDES) == view


def test_names_stay_whole() -> None:
    assert parse_qs(read_view("slide=a%26b+%3D+c", SLIDES)) == {"slide": ["a&b = c"]}


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("zzz", "'zzz' is no link to a view"),
        ("x=1&y=2", "names no slide"),
        ("slide=P1&x=nan", "no x=nan"),
        ("slide=P1&zoom=2", "no zoom=2"),
        ("slide=P9&x=1", "no slide 'P9'"),
    ],
)
def test_what_is_none_is_told(link: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_view(link, SLIDES)
