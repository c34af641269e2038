"""Names in one spelling: what is one name, what looks like one, what stands for none."""

from __future__ import annotations

import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphomil.cohort.confusables import LOOK_ALIKES, name_look_alikes
from morphomil.cohort.frames import clean_cohort
from morphomil.cohort.names import (
    clean_name,
    missing_names,
    near_equal,
    say_near_equal,
    says_nothing,
    spelling_key,
)
from morphomil.cohort.numbers import read_numbers
from morphomil.errors import InputError


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (" a  b\t", "a b"),
        ("a\u00a0b\ufeff", "a b"),
        ("P\u200b1\u00ad", "P1"),
        ("Go\u0308", "G\u00f6"),
        (1.0, "1"),
        (np.float32(2), "2"),
        (np.int64(7), "7"),
        (1.5, "1.5"),
        (True, "True"),
        (None, ""),
        (float("nan"), ""),
        (pd.NA, ""),
        (pd.NaT, ""),
    ],
)
def test_a_cell_has_one_name(value: object, name: str) -> None:
    assert clean_name(value) == name


@given(st.text(max_size=12))
def test_cleaning_is_done_once_and_keys_do_not_depend_on_it(text: str) -> None:
    name = clean_name(text)
    assert clean_name(name) == name == unicodedata.normalize("NFC", name)
    assert spelling_key(name.casefold()) == spelling_key(name)
    assert near_equal([name, name]) == []


def test_look_alikes_are_letters_of_other_scripts() -> None:
    for char, plain in LOOK_ALIKES.items():  # str.maketrans keeps both as code points
        assert chr(plain).isascii()
        if chr(char).isalpha() and unicodedata.category(chr(char)) != "Lm":
            assert unicodedata.name(chr(char)).split()[0] in ("CYRILLIC", "GREEK")
    assert name_look_alikes("\u0420") == "'\u0420' (with CYRILLIC CAPITAL LETTER ER)"


@pytest.mark.parametrize(
    "names",
    [
        ["001", "1", "01"],
        ["P 1", "P-1", "P_1", "p1", "P001"],
        ["north", "North", "NORTH "],
        ["North East", "north-east"],
        ["N\uff0b", "N+"],
        ["A1", "\u04101"],
        ["P001", "P00l", "P002"],
        ["P-001", "PO1"],
        ["N0", "NO", "N1"],
        ["positive", "positive."],
    ],
)
def test_near_equal_names(names: list[str]) -> None:
    assert near_equal(names)


@pytest.mark.parametrize(
    "names",
    [
        ["1-12", "11-2", "112", "1-1-2"],
        ["N0", "N+", "N-", "N1"],
        ["N+(1-2)", "N+(>2)", "N0"],
        ["HER2+", "HER2-"],
        ["0", "1", "10", "100"],
        ["TCGA-E2-A1LI", "TCGA-E2-A1LL", "TCGA-E2-A1L1", "TCGA-E2-A1LB", "TCGA-E2-A1BC"],
        ["TCGA-BH-A0B0", "TCGA-BH-A0BO", "TCGA-BH-A0BC"],
        ["+", "-", "++"],
        [f"P{i}" for i in range(200)],
        ["I", "II", "III", "IV"],
        ["AB", "BA"],
    ],
)
def test_names_that_differ(names: list[str]) -> None:
    assert near_equal(names) == []


def test_the_pair_is_named_and_long_lists_are_cut() -> None:
    assert say_near_equal("patients", ["1", "01"])[0].startswith("patients '01' and '1' look like")
    many = [f"{i}" for i in range(9)] + [f"0{i}" for i in range(9)]
    assert say_near_equal("patients", many)[-1] == "4 more groups of patients are nearly equal"


@pytest.mark.parametrize(
    "name",
    ["", "NA", "n/a", "NaN", "NULL", "None", "?", "-", "--", "\u2013", "-9", "#N/A", "Unknown"],
)
def test_words_for_nothing(name: str) -> None:
    assert says_nothing(name)


@pytest.mark.parametrize(
    ("names", "kind", "lacking"),
    [
        (["+", "-"], "label", set()),
        (["0", "1+", "2+", "-"], "category", set()),
        (["N+", "N0", "-"], "label", {"-"}),
        (["none", "present"], "label", set()),
        (["none", "present", "absent"], "label", {"none"}),
        (["none", "chemo", "radio"], "category", set()),
        (["0", "1", "None"], "label", {"None"}),
        (["1", "2", "None"], "category", {"None"}),
        (["0", "1", "9"], "label", {"9"}),
        (["1", "9"], "label", set()),
        (["-1", "1"], "label", set()),
        ([str(i) for i in range(10)], "label", set()),
        (["9", "999", "-9"], "id", {"-9"}),
    ],
)
def test_what_stands_for_nothing_depends_on_the_others(names, kind, lacking) -> None:
    assert missing_names(names, kind) == lacking


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "2.5", "1e3"], [1, 2.5, 1000]),
        (["1", "2,5"], [1, 2.5]),
        (["0,125", "0,250"], [0.125, 0.25]),
        (["1,234", "5,6"], [1.234, 5.6]),
        (["1,234", "5,678"], "may be 1.234 or 1234"),
        (["1,2", "3.4"], "decimal points"),
        (["1", "2", "x"], "holds numbers, but 'x' in 2"),
        (["1,2", "x"], "holds numbers, but 'x' in 1"),
        (["a", "b", "1"], None),
        (["1_000", "b"], None),
    ],
)
def test_numbers_of_text(cells, values) -> None:
    read = read_numbers(dict(enumerate(cells)), str)
    if isinstance(values, str):
        assert values in read.problem
    else:
        assert read.problem == ""
        assert (None if read.values is None else list(read.values.values())) == values


def cohort(**columns: list[object]) -> pd.DataFrame:
    given = {"slide_id": ["a", "b", "c"], "patient": ["A", "B", "C"], "label": [0, 1, 1]}
    return pd.DataFrame(given | columns)


def test_a_table_is_read_as_a_manifest_is() -> None:
    clean = clean_cohort(
        cohort(
            slide_id=[1.0, 2.0, 30],
            patient=["A\u200b", "A ", "B"],
            label=[1.0, 1.0, 0.0],
            site=["N", "NA", None],
            age=["50,5", "61", None],
            grade=["low", "unknown", "high"],
        ),
        covariates=("age", "grade"),
    )
    table = clean.table
    assert table["slide_id"].tolist() == ["1", "2", "30"]
    assert table["patient"].tolist() == ["A", "A", "B"]
    assert table["label"].tolist() == ["1", "1", "0"]
    assert table["site"].tolist() == ["N", None, None]
    assert table["age"].tolist()[:2] == [50.5, 61.0]
    assert table["grade"].isna().tolist() == [False, True, False]
    assert clean.notes == (
        "site 'NA' stands for an unknown one (slides 2)",
        "covariate age is read with decimal commas ('50,5' in slide 1)",
    )


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"label": [0, None, 1]}, "slides without a label: b; give one or leave the slides out"),
        ({"label": ["0", "1", "unknown"]}, "slides without a label ('unknown' stands for"),
        ({"patient": ["A", float("nan"), "C"]}, "slides without a patient: b; name the patient"),
        ({"patient": ["A", "NA", "C"]}, "slides without a patient ('NA' stands for a missing one)"),
        ({"slide_id": ["a", "a", "c"]}, "slides in more than one row of the cohort: a; give each"),
        ({"slide_id": ["a", None, "c"]}, "the cohort's rows 1 have no slide_id"),
        ({"patient": ["1", "01", "C"]}, "patients '01' and '1' look like one"),
        ({"site": ["n", "N", "S"]}, "sites 'N' and 'n' look like one"),
        ({"label": ["n0", "N0", "N+"]}, "labels 'N0' and 'n0' look like one"),
    ],
)
def test_problems_of_a_table_are_sentences(columns, says) -> None:
    with pytest.raises(InputError) as error:
        clean_cohort(cohort(**columns))
    (problem,) = error.value.problems
    assert problem.startswith(says)


def test_near_equal_names_can_be_meant() -> None:
    table = clean_cohort(cohort(patient=["1", "01", "C"]), distinct_ids=True).table
    assert table["patient"].tolist() == ["1", "01", "C"]
    with pytest.raises(InputError, match="lacks the column patient"):
        clean_cohort(cohort().drop(columns="patient"))
