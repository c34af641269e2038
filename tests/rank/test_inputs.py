"""Tables from Python: ids that match, units that can be, numbers that are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from trait_cohort import synthetic_cohort

from morphomil.errors import InputError
from morphomil.rank.inputs import check_inputs


@pytest.fixture(scope="module")
def tables():
    return synthetic_cohort(1, patients=8, patches=2, per_patch=10)


def problem(nuclei, cohort, **options):
    with pytest.raises(InputError) as error:
        check_inputs(nuclei, cohort, **options)
    (text,) = error.value.problems
    return text


def test_good_tables_pass_as_they_are(tables):
    given = check_inputs(*tables)
    assert given.notes == ()
    pd.testing.assert_frame_equal(given.nuclei, tables[0], check_dtype=False)
    assert len(given.features) == 8


def test_slides_of_one_table_only(tables):
    nuclei, cohort = tables
    given = check_inputs(nuclei, cohort[cohort["slide_id"] != "s3"])
    (note,) = given.notes
    assert note == "1 slides of the nuclei table are not in the cohort and are left out: s3."
    assert "s3" not in set(given.nuclei["slide_id"])


@pytest.mark.parametrize(
    ("rename", "says"),
    [
        (lambda s: s.str.replace("s", "x"), "they have nothing in common"),
        (lambda s: s.str.replace("s", "s00"), "near-equal are 's000' and 's0'"),
        (lambda s: s.replace("s1", "S1"), "don't match: 'S1' and 's1'"),
        (lambda s: s.replace("s1", "\u04551"), "CYRILLIC SMALL LETTER DZE"),
    ],
)
def test_ids_that_do_not_match(tables, rename, says):
    nuclei, cohort = tables
    assert says in problem(nuclei, cohort.assign(slide_id=rename(cohort["slide_id"])))


def test_invisible_differences_match(tables):
    nuclei, cohort = tables
    given = check_inputs(nuclei, cohort.assign(slide_id=cohort["slide_id"] + "\u200b "))
    assert given.cohort["slide_id"].tolist() == cohort["slide_id"].tolist()


@pytest.mark.parametrize(
    ("column", "change", "says"),
    [
        ("area_um2", lambda x: x * 1000, "beyond the range of 0 to 400 um2"),
        ("area_um2", lambda x: x / 1e6, "too close to tell nuclei apart"),
        ("circularity", lambda x: x * 100, "beyond the range of 0 to 1.2; is it in another unit"),
        ("orientation_deg", np.radians, "these are radians"),
        ("area_um2", lambda x: x.where(x.index % 20 != 0, 5000), "far beyond the range"),
        ("area_um2", lambda x: x.where(x.index % 20 != 0, np.inf), "infinite"),
        ("area_um2", lambda x: x.where(x.index != 7, -5), "is negative in 1 nuclei, such as -5"),
        ("area_um2", lambda x: x.map(lambda v: f"{v:.0f}a"), "holds text, such as"),
        ("area_um2", lambda x: x.map(lambda v: f"1,{v:03.0f}"), "may be 1."),
    ],
)
def test_values_that_cannot_be_in_the_unit(tables, column, change, says):
    nuclei, cohort = tables
    assert says in problem(nuclei.assign(**{column: change(nuclei[column])}), cohort)


def test_a_slide_in_pixels_is_named(tables):
    nuclei, cohort = tables
    area = nuclei["area_um2"].where(nuclei["slide_id"] != "s5", nuclei["area_um2"] * 16)
    assert "in slide s5, beyond" in problem(nuclei.assign(area_um2=area), cohort)


def test_areas_and_axes_in_different_units_are_noted(tables):
    nuclei, cohort = tables
    given = check_inputs(nuclei.assign(area_um2=nuclei["area_um2"] * 4), cohort)
    usual, ellipse = given.notes
    assert "15 to 120 are usual" in usual
    assert "area_um2 is 4 times the area of ellipses" in ellipse


def test_decimal_commas_are_numbers(tables):
    nuclei, cohort = tables
    text = nuclei["area_um2"].map(lambda value: f"{value:.2f}".replace(".", ","))
    given = check_inputs(nuclei.assign(area_um2=text), cohort)
    np.testing.assert_allclose(given.nuclei["area_um2"], nuclei["area_um2"].round(2))


def test_missing_ids_of_nuclei_and_columns(tables):
    nuclei, cohort = tables
    assert "3 nuclei have no slide_id" in problem(
        nuclei.assign(slide_id=nuclei["slide_id"].where(nuclei.index > 2)), cohort
    )
    assert problem(nuclei.drop(columns="patch_id"), cohort) == "nuclei lack the column patch_id"
