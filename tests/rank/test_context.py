"""What else explains a ranking: known associations are named, held ones are not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from morphomil.rank.context import (
    context_of_patients,
    context_quantity,
    explain_by_context,
    say_context,
)


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    n = 80
    label = rng.integers(0, 2, n)
    site = np.where(rng.random(n) < 0.85, label, 1 - label)
    names = [f"p{i:02d}" for i in range(n)]
    of_patients = pd.DataFrame(
        {
            "patient": names,
            "label": label.astype(str),
            "density_per_mm2": rng.normal(size=n) + 2 * site,
            "area_um2": rng.normal(size=n),
        }
    )
    slides = pd.DataFrame(
        {
            "slide_id": names,
            "patient": names,
            "label": label,
            "site": np.array(["A", "B"])[site],
            "sharpness": rng.normal(size=n),
            "note": names,
            "scanner": "X",
        }
    )
    ranking = pd.DataFrame({"feature": ["density_per_mm2", "area_um2"], "rank": [1, 2]})
    return ranking, of_patients, context_of_patients(slides)


def test_what_goes_with_site_and_label_is_flagged_in_words(drawn):
    ranking, of_patients, context = drawn
    assert list(context) == ["site", "sharpness"]
    table = explain_by_context(ranking, of_patients, context)
    assert len(table) == 6
    flagged = table[table["flagged"]]
    assert flagged[["feature", "against"]].to_numpy().tolist() == [["density_per_mm2", "site"]]
    assert (table["low"].dropna() <= table["effect"].dropna()).all()
    (sentence,) = say_context(table, adjustable=["site"])
    assert sentence.startswith("Nuclear density (")
    assert "goes with site, which goes with the label (p < 0.001)" in sentence
    assert "rank with --adjust site" in sentence
    (sentence,) = say_context(table, adjustable=[])
    assert "give it as a column of the manifest" in sentence


def test_what_the_program_measures_is_named_in_words(drawn):
    ranking, of_patients, context = drawn
    known = context.rename(columns={"site": "tissue_mm2"})
    (sentence,) = say_context(explain_by_context(ranking, of_patients, known), adjustable=[])
    assert "goes with tissue area, which" in sentence
    assert str(context_quantity("tissue_mm2")) == "Tissue area (mm²)"
    assert str(context_quantity("thickness_um")) == "Thickness (µm)"


def test_what_is_held_constant_is_not_flagged(drawn):
    ranking, of_patients, context = drawn
    table = explain_by_context(ranking, of_patients, context, held=["site"])
    assert not table["flagged"].any()
    assert say_context(table, adjustable=["site"]) == ()


def test_slides_of_a_patient_count_as_one(drawn):
    slides = pd.DataFrame(
        {
            "patient": ["a", "a", "b", "c"],
            "sharpness": [1.0, 3.0, 5.0, np.nan],
            "scanner": ["X", "Y", "X", "Y"],
        }
    )
    context = context_of_patients(slides)
    assert context["sharpness"].tolist()[:2] == [2.0, 5.0]
    assert context["scanner"].isna().tolist() == [True, False, False]


def test_nothing_known_is_an_empty_table(drawn):
    ranking, of_patients, context = drawn
    table = explain_by_context(ranking, of_patients, context[[]])
    assert table.empty
    assert say_context(table, adjustable=[]) == ()
