"""What other programs call types of nuclei."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from morphomil.errors import InputError
from morphomil.slides.nuclei_files.type_map import DEFAULT_MAP, map_types, parse_type_map
from morphomil.types import NUCLEUS_TYPES


def test_names_become_types_and_unknown_ones_are_counted() -> None:
    names = pd.Series(["TUMOR", " immune cells", "Tumor: Positive", "x", None, "x", "Stroma: b"])
    types = parse_type_map("Stroma: b=other, TUMOR=stroma")
    rows, unmapped = map_types(names.astype("object"), types)
    known = ~np.isnan(rows).any(axis=1)
    assert known.tolist() == [True, True, True, False, False, False, True]
    found = [NUCLEUS_TYPES[n] for n in rows[known].argmax(axis=1)]
    assert found == ["stroma", "lymphocyte", "stroma", "other"]
    assert (rows[known].sum(axis=1) == 1).all()
    assert unmapped == {"x": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Tumor", "NAME=TYPE,NAME=TYPE; got 'Tumor'"),
        ("=stroma", "got '=stroma'"),
        ("Tumor=tumor", "a type is epithelial, lymphocyte, stroma, other; got 'Tumor=tumor'"),
        ("A=stroma,a=other", "gives 'a' two types: stroma and other"),
    ],
)
def test_a_wrong_map_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        parse_type_map(text)
    assert said in str(error.value)
    assert error.value.exit_status == 2


def test_maps_are_read_as_written() -> None:
    assert parse_type_map(" Class=1=epithelial ,") == {"class=1": "epithelial"}
    assert parse_type_map("") == {}
    assert set(DEFAULT_MAP.values()) == set(NUCLEUS_TYPES)
    assert all(name == name.strip().casefold() and name for name in DEFAULT_MAP)
