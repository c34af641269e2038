"""Numbers in cells: what counts as one, wherever a user's table has them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from written_nuclei import cause

from morphomil.cohort.manifest import read_manifest
from morphomil.cohort.numbers import parse_number
from morphomil.errors import InputError
from morphomil.segment.annotated import read_annotated
from morphomil.slides.annotations import read_annotation

NO_NUMBERS = ["0_5", "1_0.5", "\u0663", "\u0967.5", "\uff15", "0x10", "1e", "", "."]
"""`float` reads the first five."""


@pytest.mark.parametrize(
    ("text", "number"),
    [("0.25", 0.25), (" +3. ", 3), ("-.5e-3", -0.0005), ("1E3", 1000), ("-Infinity", -math.inf)],
)
def test_numbers(text: str, number: float) -> None:
    assert parse_number(text) == number
    assert math.isnan(parse_number("NaN"))


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="is no number"):
        parse_number(text)


@pytest.mark.parametrize("text", NO_NUMBERS[:5])
def test_no_table_has_a_number_of_other_signs(text: str, tmp_path: Path) -> None:
    """Underscores and digits of other scripts in a pixel size, a covariate, a vertex of an outline,
    an annotation's, and a point to train on."""
    for light, name in ((240, "a"), (250, "b")):
        Image.fromarray(np.full((64, 64, 3), light, np.uint8)).save(tmp_path / f"{name}.png")
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"slide,patient,label,mpp\na.png,p,0,{text}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"line 2: mpp .* is no number"):
        read_manifest(manifest)
    rows = f"a.png,p,0,61,0.5\nb.png,q,1,{text},0.5\n"
    manifest.write_text(f"slide,patient,label,age,mpp\n{rows}", encoding="utf-8")
    (one, two) = read_manifest(manifest, covariates=("age",)).cohort.slides
    assert (one.covariates["age"], two.covariates["age"]) == ("61", text)
    outlines = tmp_path / "a_cp_outlines.txt"
    outlines.write_text(f"1,1,9,1,9,9\n1,1,9,1,9,{text}\n", encoding="utf-8")
    assert "is no number" in cause(outlines)
    places = "".join(f'<Coordinate X="{x}" Y="7"/>' for x in (1, 50, text))
    annotation = tmp_path / "a.xml"
    annotation.write_text(
        '<ASAP_Annotations><Annotations><Annotation Type="Polygon" PartOfGroup="Tumor">'
        f"<Coordinates>{places}</Coordinates></Annotation></Annotations></ASAP_Annotations>",
        encoding="utf-8",
    )
    with pytest.raises(InputError, match="is no number"):
        read_annotation(annotation)
    points = tmp_path / "points.csv"
    points.write_text(f"x_px,y_px,type\n1,2,stroma\n{text},2,stroma\n", encoding="utf-8")
    for mpp, says in ((0.5, "line 3: its position is no two numbers"), (text, "is no number")):
        row = {"image": "a.png", "points": "points.csv", "mpp": mpp}
        with pytest.raises(InputError, match=says):
            read_annotated(pd.DataFrame([row]), tmp_path)
