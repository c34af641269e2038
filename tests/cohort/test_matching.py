"""Files of slides and rows of a table: who is whose by the names."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from morphomil.cohort.matching import (
    Outcomes,
    file_name,
    find_annotations,
    find_slides,
    guess_columns,
    match_cohort,
    names_in,
)
from morphomil.cohort.spreadsheet import read_cells
from morphomil.errors import InputError


def touch(folder: Path, *names: str) -> list[Path]:
    files = [folder / name for name in names]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return files


def outcomes(folder: Path, key: str = "case", **columns: list[str]) -> Outcomes:
    path = folder / "patients.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    _, rows, _ = read_cells(path)
    return Outcomes(rows, key, "case", "status")


@pytest.mark.parametrize(
    ("stem", "names", "found"),
    [
        ("P1", ["P1", "P12"], ["P1"]),
        ("P12", ["P1", "P2"], []),  # no delimiter
        ("P1_HE", ["P1", "P12"], ["P1"]),
        ("scan (P1) 2020", ["P1"], ["P1"]),
        ("TCGA-AA-3872-01Z", ["TCGA-AA-3872", "TCGA-AA-387"], ["TCGA-AA-3872"]),
        ("007", ["7", "8"], ["7"]),  # a spreadsheet took the zeros
        ("slide_007_HE", ["7", "8"], ["7"]),
        ("p-01", ["P1"], ["P1"]),
        ("P1", ["P1", "P01"], ["P1"]),  # the name itself before another spelling
        ("1_P7", ["P7", "1"], ["1", "P7"]),
        ("P1-P2", ["P1", "P2"], ["P1", "P2"]),
        ("P1-P2", ["P1", "P2", "P1-P2"], ["P1-P2"]),
        ("é1", ["e\u0301 1", "é1"], ["é1"]),
        ("", ["P1"], []),
    ],
)
def test_the_strictest_rule_that_finds_a_name_decides(stem, names, found):
    assert names_in(stem, names) == found


def test_a_cell_may_hold_the_path_of_a_file():
    assert file_name("slides/P1.svs") == file_name("C:\\scans\\P1.SVS") == file_name("P1") == "P1"
    assert file_name("1.0") == "1"
    assert file_name("v1.2") == "v1.2"


def test_whole_slides_are_found_and_their_thumbnails_left_out(tmp_path):
    touch(tmp_path, "a/P1.svs", "b/P2.ndpi", "b/P2.png", ".hidden/P3.svs", "c/scan/1.dcm")
    touch(tmp_path, "c/scan/2.dcm", "notes.txt")
    found, notes = find_slides(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "a/P1.svs",
        "b/P2.ndpi",
        "c/scan",
    ]
    assert notes == ["1 JPEG and PNG files beside the slides are left out"]


def test_regions_count_where_there_are_no_whole_slides(tmp_path):
    touch(tmp_path, "1.png", "2.JPG")
    assert find_slides(tmp_path) == ([tmp_path / "1.png", tmp_path / "2.JPG"], [])


def test_folders_without_what_is_looked_for_are_refused(tmp_path):
    for find in (find_slides, find_annotations):
        with pytest.raises(InputError, match="has no"):
            find(tmp_path)
        with pytest.raises(InputError, match="there is no folder"):
            find(tmp_path / "nowhere")


def test_every_file_gets_its_row_and_the_rest_is_named(tmp_path):
    slides = touch(tmp_path, "P1.svs", "P2_a.svs", "P2_b.svs", "P3-P4.svs", "X9.svs")
    table = outcomes(
        tmp_path,
        case=["P1", "P2", "P3", "P4", "P5"],
        status=["0", "1", "1", "0", "1"],
        age=["40", "50", "", "60", "70"],
    )
    drawn = touch(tmp_path, "d/P1.svs.geojson", "d/P2_a.geojson", "d/P2_a.xml", "d/zz.json")
    matched = match_cohort(slides, table, annotations=drawn)
    assert [(Path(row["slide"]).name, row["patient"], row["label"]) for row in matched.rows] == [
        ("P1.svs", "P1", "0"),
        ("P2_a.svs", "P2", "1"),
        ("P2_b.svs", "P2", "1"),
        ("P3-P4.svs", "", ""),
    ]
    assert [row["age"] for row in matched.rows] == ["40", "50", "50", ""]
    assert [Path(row["annotation"]).name for row in matched.rows] == ["P1.svs.geojson", "", "", ""]
    said = "\n".join(matched.notes)
    for part in (
        "P3-P4.svs may be P3 or P4",
        "of no row of the table: X9.svs",
        "without a slide, so not in the manifest: P5",
        "several slides: P2 (2)",
        "P2_a.svs has several annotations",
        "annotations of no slide: zz.json",
    ):
        assert part in said


def test_equal_stems_get_ids_of_their_own(tmp_path):
    slides = touch(tmp_path, "a/P1.svs", "b/P1.svs", "b/P2.svs")
    matched = match_cohort(slides, None)
    assert [row["slide_id"] for row in matched.rows] == ["a-P1", "b-P1", "P2"]
    assert [row["patient"] for row in matched.rows] == ["P1", "P1", "P2"]


def test_tables_that_fit_no_file_or_contradict_themselves_are_refused(tmp_path):
    slides = touch(tmp_path, "P1.svs")
    with pytest.raises(InputError, match=r"P1\.svs, values Q1"):
        match_cohort(slides, outcomes(tmp_path, case=["Q1"], status=["0"]))
    with pytest.raises(InputError, match="'P1' in two rows"):
        match_cohort(slides, outcomes(tmp_path, case=["P1", "P1"], status=["0", "1"]))


@pytest.mark.parametrize(
    ("header", "patient", "outcome", "slide"),
    [
        ("Case ID,N status,age", ["Case ID"], ["N status"], None),
        ("who,label,grade", ["who"], ["label"], None),
        ("filename,patient,label", ["patient"], ["label"], "filename"),
    ],
)
def test_columns_are_guessed_by_their_names_and_what_is_in_them(
    tmp_path, header, patient, outcome, slide
):
    slides = touch(tmp_path, *(f"P{number}.svs" for number in range(8)))
    lines = [header]
    for number in range(8):
        second = f"pat{number // 2}" if slide else f"N{number % 2}"
        lines.append(f"P{number},{second},{40 + number if not slide else number % 2}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    names, rows, _ = read_cells(tmp_path / "t.csv")
    guess = guess_columns(names, rows, slides)
    assert [list(guess.patient), list(guess.outcome), guess.slide] == [patient, outcome, slide]
