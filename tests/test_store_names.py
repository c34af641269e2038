"""Slide ids as names of folders: safe on every system, and never two alike."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morphomil.store import safe_name


@pytest.mark.parametrize("name", ["TCGA-A7-A13E-01Z", "007", "slide_1.ome", "Gödel 3", "a+b"])
def test_safe_ids_keep_their_name(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a/b",
        "..",
        ".",
        "../../etc/passwd",
        "a\0b",
        "CON",
        "con.txt",
        "LPT1",
        "x" * 300,
        "\uff1e" * 90,
        ".tmp",
        "a ",
        "a:b",
    ],
)
def test_unsafe_ids_get_a_safe_name_of_their_own(name: str) -> None:
    safe = safe_name(name)
    assert safe == safe_name(name) != name
    assert re.search(r"-[0-9a-f]{8}$", safe)


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=150), st.text(max_size=150))
def test_safe_names_are_folder_names(one: str, two: str) -> None:
    safe = safe_name(one)
    assert 0 < len(safe.encode()) <= 100
    assert not set(safe) & set('/\\\0<>:"|?*\n\r\t')
    assert not safe.startswith(".")
    assert not safe.endswith((" ", "."))
    assert safe.split(".")[0].upper() not in {"CON", "NUL", "AUX", "PRN", "COM1", "LPT9"}
    assert (safe_name(two) == safe) == (one == two)
