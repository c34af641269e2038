"""A cohort as a stored table gives the cohort back."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morphomil.cohort.table import cohort_from_table, cohort_table
from morphomil.types import Cohort, ImageSource, Slide

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.builds(
            Slide,
            slide_id=text,
            patient=text,
            label=text,
            images=st.lists(
                st.builds(
                    ImageSource,
                    path=text.map(lambda name: Path("/x") / name.replace("/", "_")),
                    annotation=st.none() | st.just(Path("/y/a.xml")),
                    mpp=st.none() | st.floats(0.05, 5),
                    annotation_origin=st.none() | st.sampled_from(["level0", "bounds"]),
                ),
                min_size=1,
                max_size=3,
            ).map(tuple),
            split=st.none() | st.sampled_from(["train", "val", "test"]),
            site=st.none() | text,
            covariates=st.fixed_dictionaries(
                {"age": st.none() | st.floats(-1e6, 1e6), "grade": st.none() | text}
            ),
        ),
        min_size=1,
        max_size=5,
        unique_by=lambda slide: slide.slide_id,
    )
)
def test_the_stored_table_gives_the_cohort_back(
    tmp_path_factory: pytest.TempPathFactory, slides: list[Slide]
) -> None:
    cohort = Cohort(tuple(slides))
    table = cohort_table(cohort)
    assert len(table) == sum(len(slide.images) for slide in slides)
    path = tmp_path_factory.mktemp("cohort") / "cohort.parquet"
    table.to_parquet(path)
    assert cohort_from_table(pd.read_parquet(path)) == cohort
    assert cohort_from_table(table) == cohort
