from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphomil.figures.labels import (
    format_interval,
    format_number,
    format_p,
    format_ratio,
    p_phrase,
    shorten,
    shorten_all,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0002, "<0.001"),
        (0.001, "0.001"),
        (0.0124, "0.012"),
        (0.0994, "0.099"),
        (0.0996, "0.10"),
        (0.5, "0.50"),
        (1, "1.00"),
        (math.nan, "\N{EN DASH}"),
    ],
)
def test_p_values(value: float, text: str) -> None:
    assert format_p(value) == text


def test_p_in_sentences() -> None:
    assert [p_phrase(p) for p in (0.0001, 0.03, math.nan)] == [
        "p < 0.001",
        "p = 0.030",
        "p not available",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5123.4, "5,123"),
        (45.67, "45.7"),
        (0.0812, "0.0812"),
        (-0.5, "\N{MINUS SIGN}0.500"),
        (0, "0.00"),
        (999.9, "1,000"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert format_number(value) == text


def test_ratios_and_intervals() -> None:
    assert format_ratio(-0.31) == "\N{MINUS SIGN}0.31"
    assert format_ratio(-0.001) == "0.00"
    assert format_interval(-0.1, 0.25) == "[\N{MINUS SIGN}0.10, 0.25]"
    assert format_interval(math.nan, 0.2) == "\N{EN DASH}"


@given(st.text(alphabet="abcdefgh", max_size=40), st.integers(3, 30))
def test_short_texts_stay_and_long_ones_fit(text: str, length: int) -> None:
    short = shorten(text, length)
    assert short == text if len(text) <= length else len(short) == length
    assert short[:1] == text[:1] and short[-1:] == text[-1:]


def test_shortened_names_stay_different() -> None:
    names = [f"a long name {number} with an end" for number in range(10)]
    assert len(set(shorten_all(names, 8))) == 10
    assert shorten_all(["x" * 20, "\N{FULLWIDTH LATIN SMALL LETTER X}" * 20], 8)[0] == "x" * 20
    assert shorten_all(["N0", "N+(\N{FULLWIDTH GREATER-THAN SIGN}2)"], 8) == ["N0", "N+(>2)"]
