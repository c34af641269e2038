from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hypothesis import strategies as st

from morphomil.cohort.example import EXAMPLE_MANIFEST
from morphomil.cohort.manifest import read_manifest
from morphomil.cohort.table import cohort_table
from morphomil.errors import ExitStatus, InputError, RefusedError
from morphomil.types import Cohort, ImageSource, Slide


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Slides a.svs to f.svs of different content, two of them again in sub/, and an annotation."""
    (tmp_path / "sub").mkdir()
    for number, name in enumerate(["a", "b", "c", "d", "e", "f", "sub/a", "sub/b"]):
        (tmp_path / f"{name}.svs").write_bytes(bytes([number]) * 10)
    (tmp_path / "a.geojson").write_text("{}")
    return tmp_path


def manifest(folder: Path, text: str, *, encoding: str = "utf-8") -> Path:
    path = folder / "cohort.csv"
    path.write_bytes(text.encode(encoding))
    return path


def problems(path: Path, **options: object) -> list[str]:
    with pytest.raises(InputError) as error:
        read_manifest(path, **options)  # type: ignore[arg-type]
    return [problem.removeprefix(f"{path}: ") for problem in error.value.problems]


def test_every_column_is_read(folder: Path) -> None:
    path = manifest(
        folder,
        "slide,slide_id,patient,label,split,annotation,mpp,site,age,grade,note\n"
        "a.svs,S1,007,1,train,a.geojson,0.25,North,52,G2,x\n"
        f"{folder}/b.svs, S2 ,008,0,test,,,,NA,,y\n",
    )
    read = read_manifest(path, covariates=("age", "grade"))
    assert read.cohort == Cohort(
        (
            Slide(
                "S1",
                "007",
                "1",
                (ImageSource(folder / "a.svs", folder / "a.geojson", 0.25),),
                split="train",
                site="North",
                covariates={"age": 52.0, "grade": "G2"},
            ),
            Slide(
                "S2",
                "008",
                "0",
                (ImageSource(folder / "b.svs"),),
                split="test",
                covariates={"age": None, "grade": None},
            ),
        )
    )
    assert read.notes == ("columns not read: note (name covariates with --covariates)",)


def test_the_id_is_the_stem_and_order_is_kept(folder: Path) -> None:
    read = read_manifest(manifest(folder, "slide,patient,label\nb.svs,2,0\na.svs,1,1\n"))
    assert [(s.slide_id, s.patient, s.label) for s in read.cohort.slides] == [
        ("b", "2", "0"),
        ("a", "1", "1"),
    ]
    assert read.notes == ()


def test_rows_of_one_slide_id_are_images_of_one_slide(folder: Path) -> None:
    text = (
        "slide,slide_id,patient,label,mpp\na.svs,S1,1,x,0.5\nb.svs,S2,2,y,\nsub/a.svs,S1,1,x,0.25\n"
    )
    one, two = read_manifest(manifest(folder, text)).cohort.slides
    assert one.images == (
        ImageSource(folder / "a.svs", mpp=0.5),
        ImageSource(folder / "sub/a.svs", mpp=0.25),
    )
    assert two.images == (ImageSource(folder / "b.svs"),)


def test_rows_of_one_slide_id_must_agree(folder: Path) -> None:
    text = "slide,slide_id,patient,label,split,site\na.svs,S1,1,x,train,N\nb.svs,S1,2,y,val,S\n"
    assert problems(manifest(folder, text)) == [
        "slide S1 (lines 2, 3) has more than one patient: '1', '2'",
        "slide S1 (lines 2, 3) has more than one label: 'x', 'y'",
        "slide S1 (lines 2, 3) has more than one split: 'train', 'val'",
        "slide S1 (lines 2, 3) has more than one site: 'N', 'S'",
    ]


@pytest.mark.parametrize(
    ("separator", "encoding", "line_end", "note"),
    [
        (",", "utf-8-sig", "\r\n", None),
        (";", "utf-8", "\n", "cohort.csv is read with semicolons between cells"),
        ("\t", "utf-8", "\r\n", "cohort.csv is read with tabs between cells"),
        (
            ",",
            "cp1252",
            "\n",
            "cohort.csv isn't UTF-8; it is read as Windows-1252, so check accented letters",
        ),
        (",", "utf-16", "\n", "cohort.csv is read as UTF-16"),
    ],
)
def test_separators_and_encodings(
    folder: Path, separator: str, encoding: str, line_end: str, note: str | None
) -> None:
    text = 'slide,patient,label\na.svs,Gödel,"x, y"\n'.replace("\n", line_end)
    if separator != ",":
        text = text.replace('"x, y"', "x, y").replace(
            "slide,patient,label", separator.join(["slide", "patient", "label"])
        )
        text = text.replace("a.svs,Gödel,", f"a.svs{separator}Gödel{separator}")
    read = read_manifest(manifest(folder, text, encoding=encoding))
    assert [(s.patient, s.label) for s in read.cohort.slides] == [("Gödel", "x, y")]
    assert read.notes == (() if note is None else (note,))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('a.svs,"1,x\na.svs,2,y\na.svs,3,z\n', 2),
        ('a.svs,1,x\na.svs,"2,y', 3),
        ('a.svs,1,x\na.svs,2,"y\na.svs,3,"z"\n', 3),
        ('a.svs,"1\n2",x\na.svs,2,"y\n', 4),
    ],
)
def test_an_open_quote_is_told_where_it_opens(folder: Path, text: str, line: int) -> None:
    with pytest.raises(InputError, match=rf"csv, line {line}: a cell that opens with a quote"):
        read_manifest(manifest(folder, f"slide,patient,label\n{text}"))


@pytest.mark.parametrize("cut", [1, 3])
def test_text_of_utf_16_that_is_cut_short_is_refused(folder: Path, cut: int) -> None:
    path = manifest(folder, "slide,patient,label\na.svs,1,\U0001f52c", encoding="utf-16")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match="begins as UTF-16 text and isn't all of it"):
        read_manifest(path)


def test_ids_are_normalized_text(folder: Path) -> None:
    (folder / "N+(\uff1e2).svs").write_bytes(b"x")
    read = read_manifest(
        manifest(folder, "slide,patient,label\nN+(\uff1e2).svs,Go\u0308del , 1.0\n")
    )
    (slide,) = read.cohort.slides
    assert (slide.slide_id, slide.patient, slide.label) == ("N+(\uff1e2)", "G\u00f6del", "1")


def test_all_problems_come_at_once_with_their_lines(folder: Path) -> None:
    text = """\
slide,slide_id,patient,label,split,annotation,mpp
a.svs,A,1,0,train,,0.25
a.svs,A2,2,0,train,,0.25
absent.svs,B,3,,training,nowhere.xml,"0,5"
sub,C,,1,train,,350
b.svs,D,1,1,train,,inf

c.svs,E,5,1,,,
"""
    path = manifest(folder, text)
    assert problems(path) == [
        "line 4: label is missing (--drop-missing leaves such rows out)",
        "line 4: split is train, val or test, not 'training'",
        f"line 4: slide 'absent.svs' doesn't exist; looked in {folder}",
        f"line 4: annotation 'nowhere.xml' doesn't exist; looked in {folder}",
        "line 4: mpp '0,5' is no number (write it with a point, as in 0.25)",
        "line 5: patient is empty",
        f"line 5: slide 'sub' is a folder; looked in {folder}",
        "line 5: mpp is 350 um per pixel; pixel sizes are 0.05 to 5",
        "line 6: mpp is inf um per pixel; pixel sizes are 0.05 to 5",
        "lines 2, 3 name the same file a.svs",
        "patient 1 (lines 2, 6) has more than one label: '0', '1'",
        "split is empty in lines 8; give it in every row, or in none",
    ]


def test_files_of_one_stem_need_a_slide_id(folder: Path) -> None:
    path = manifest(folder, "slide,patient,label\na.svs,1,0\nsub/a.svs,2,1\n")
    assert problems(path) == [
        "lines 2, 3 have files of the same name a; tell them apart with a column slide_id"
    ]


def test_ids_that_differ_by_case_would_share_a_folder(folder: Path) -> None:
    path = manifest(folder, "slide,slide_id,patient,label\na.svs,s1,1,0\nb.svs,S1,2,1\n")
    assert problems(path) == [
        "slide ids 'S1', 's1' would share a folder where case doesn't count; rename all but one"
    ]


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (
            "case_id,slide_id,label",
            [
                "column slide is missing; slide_id names",
                "column patient is missing; rename case_id",
            ],
        ),
        (
            "PATIENT,FILENAME,label",
            ["missing; rename FILENAME to slide", "missing; rename PATIENT to patient"],
        ),
        (
            "wsi,patient_id,class",
            ["rename wsi to slide", "rename patient_id to patient", "rename class to label"],
        ),
        ("slide,pateint,label", ["column patient is missing; rename pateint to patient"]),
        ("slide,patient,x1", ["column label is missing; the columns are slide, patient, x1"]),
        ("slide,patient,label,Split", ["column Split isn't read; rename it to split"]),
        ("slide,patient,label,label", ["column label stands twice"]),
        ("slide,patient,,label", ["column 3 has cells but no name"]),
    ],
)
def test_near_misses_of_column_names(folder: Path, header: str, says: list[str]) -> None:
    found = problems(
        manifest(folder, f"{header}\n" + ",".join("abcd"[: header.count(",") + 1]) + "\n")
    )
    assert len(found) == len(says)
    assert all(part in problem for part, problem in zip(says, found, strict=True)), found


def test_columns_with_another_name_for_an_option_are_noted(folder: Path) -> None:
    read = read_manifest(manifest(folder, "slide,patient,label,dataset,\na.svs,1,0,train,\n"))
    assert read.notes == (
        "columns not read: dataset (name covariates with --covariates)",
        "column dataset isn't read; if it holds what split means, rename it to split",
    )


def test_rows_without_label_are_dropped_on_request_and_counted(folder: Path) -> None:
    path = manifest(folder, "slide,patient,label\na.svs,1,NA\nb.svs,2,1\nabsent.svs,3,\n")
    assert len(problems(path)) == 3
    read = read_manifest(path, drop_missing=True)
    assert [s.slide_id for s in read.cohort.slides] == ["b"]
    assert read.notes == ("2 of 3 rows have no label and are left out",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("slide,patient,label\n", "there are no rows"),
        ("slide,patient,label\n,,\n", "there are no rows"),
        (
            "slide,patient,label\na.svs,1,0,9,9\n",
            "more cells than the header has columns in line 2",
        ),
        ('slide,patient,label\n"a.svs,1,0\n', "line"),
        ("slide,patient,label\na\0.svs,1,0\n", "no usable path|doesn't exist|NUL"),
        (f"slide,patient,label\n{'x' * 5000},1,0\n", "no usable path"),
    ],
)
def test_faulty_files(folder: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_manifest(manifest(folder, text))


def test_bytes_of_no_known_encoding_and_missing_file(folder: Path) -> None:
    (folder / "cohort.csv").write_bytes(b"slide,patient,label\n\x81\xff,1,0\n")
    with pytest.raises(InputError, match="neither UTF-8 nor Windows-1252"):
        read_manifest(folder / "cohort.csv")
    with pytest.raises(InputError, match=r"absent\.csv can't be read: No such file"):
        read_manifest(folder / "absent.csv")


def test_images_without_a_pixel_size_are_told_before_any_work(folder: Path) -> None:
    (folder / "r.JPG").write_bytes(b"x")
    path = manifest(folder, "slide,patient,label\nr.JPG,1,0\n")
    assert problems(path) == [
        "line 2: r.JPG can't state its pixel size; fill the column mpp, or give --mpp, um per pixel"
    ]
    assert read_manifest(path, mpp=0.5).cohort.slides[0].images == (ImageSource(folder / "r.JPG"),)
    assert problems(path, mpp=50.0) == ["mpp is 50.0 um per pixel; pixel sizes are 0.05 to 5"]


def test_mrxs_needs_its_folder(folder: Path) -> None:
    (folder / "m.mrxs").write_bytes(b"x")
    path = manifest(folder, "slide,patient,label\nm.mrxs,1,0\n")
    assert problems(path) == [
        "line 2: slide m.mrxs lacks the folder m that belongs to an MRXS file"
    ]
    (folder / "m").mkdir()
    assert len(read_manifest(path).cohort) == 1


def test_a_patient_in_two_splits_is_refused(folder: Path) -> None:
    text = "slide,patient,label,split\na.svs,1,0,train\nb.svs,1,0,test\nc.svs,2,1,val\n"
    with pytest.raises(
        RefusedError,
        match=r"patient 1 \(lines 2, 3\) stands in test and "
        r"train",
    ) as error:
        read_manifest(manifest(folder, text))
    assert error.value.exit_status == ExitStatus.REFUSED


def test_copies_of_a_file_are_refused_across_splits_and_patients(folder: Path) -> None:
    (folder / "copy.svs").write_bytes((folder / "a.svs").read_bytes())
    header = "slide,patient,label,split\n"
    with pytest.raises(RefusedError, match="files of lines 2, 3 are copies"):
        read_manifest(manifest(folder, header + "a.svs,1,0,train\ncopy.svs,2,0,test\n"))
    with pytest.raises(RefusedError, match="copies"):
        read_manifest(manifest(folder, "slide,patient,label\na.svs,1,0\ncopy.svs,2,0\n"))
    read = read_manifest(
        manifest(folder, header + "a.svs,1,0,train\ncopy.svs,2,0,train\nb.svs,3,1,test\n")
    )
    assert read.notes == ("the files of lines 2, 3 are copies of one another",)


@pytest.mark.parametrize(
    ("one", "other"), [("P 1", "p1"), ("001", "1"), ("1", "01"), ("P-1", "P_1"), ("P1", "\u04201")]
)
def test_near_equal_patients_are_refused_unless_meant(folder: Path, one: str, other: str) -> None:
    path = manifest(folder, f"slide,patient,label\na.svs,{one},0\nb.svs,{other},1\n")
    (problem,) = problems(path)
    assert "look like one spelled in different ways" in problem
    assert all(text in problem for text in (repr(one), repr(other), "line 2", "line 3"))
    cohort = read_manifest(path, distinct_ids=True).cohort
    assert [slide.patient for slide in cohort.slides] == [one, other]


def test_near_equal_labels_sites_and_categories_are_refused(folder: Path) -> None:
    header = "slide,patient,label,site,her2\n"
    path = manifest(folder, f"{header}a.svs,A,N0,north,low\nb.svs,B,n0,North,Low \n")
    found = problems(path, covariates=("her2",))
    assert [text.split(" (line")[0] for text in found] == [
        "labels 'N0'",
        "sites 'North'",
        "values of her2 'Low'",
    ]


def test_names_that_differ_in_what_is_not_seen_are_one(folder: Path) -> None:
    cells = ["Go\u0308del", "G\u00f6del\u200b", " G\u00f6del\u00a0"]
    rows = "".join(f"{s}.svs,{cell},0\n" for s, cell in zip("abc", cells, strict=True))
    cohort = read_manifest(manifest(folder, "slide,patient,label\n" + rows)).cohort
    assert {slide.patient for slide in cohort.slides} == {"G\u00f6del"}


@pytest.mark.parametrize("said", ["unknown", "-", "#N/A", "-9", "None", "?", "99"])
def test_labels_that_stand_for_nothing_are_no_classes(folder: Path, said: str) -> None:
    text = f"slide,patient,label\na.svs,A,0\nb.svs,B,1\nc.svs,C,{said}\n"
    (problem,) = problems(manifest(folder, text))
    assert problem.startswith(f"line 4: label {said!r} stands for a missing one")
    cohort = read_manifest(manifest(folder, text), drop_missing=True).cohort
    assert [slide.label for slide in cohort.slides] == ["0", "1"]


def test_an_unknown_patient_is_refused_and_an_unknown_site_is_missing(folder: Path) -> None:
    header = "slide,patient,label,site\n"
    assert problems(manifest(folder, header + "a.svs,NA,0,N\nb.svs,B,1,S\n")) == [
        "line 2: patient 'NA' stands for an unknown one; name it, or remove the row"
    ]
    read = read_manifest(manifest(folder, header + "a.svs,A,0,NA\nb.svs,B,1,S\n"))
    assert [slide.site for slide in read.cohort.slides] == [None, "S"]
    assert read.notes == ("site 'NA' in line 2 stands for an unknown one",)


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        (["52", "old", "61"], "covariate age holds numbers, but 'old' in line 3"),
        (["5,2", "4.1", "6,0"], "covariate age has decimal points ('4.1' in line 3) and commas"),
        (["5,200", "4,100", "6"], "covariate age has '5,200' in line 2, which may be 5.200 or"),
    ],
)
def test_covariates_of_doubtful_type_are_refused(folder: Path, cells: list[str], says: str) -> None:
    rows = "".join(f'{s}.svs,{s},0,"{cell}"\n' for s, cell in zip("abc", cells, strict=True))
    (problem,) = problems(manifest(folder, "slide,patient,label,age\n" + rows), covariates=("age",))
    assert problem.startswith(says)


def test_decimal_commas_are_read_where_nothing_else_can_be_meant(folder: Path) -> None:
    rows = "".join(f"{s};{s};0;{x}\n" for s, x in zip("abc", ["5,2", "unknown", "61"], strict=True))
    path = manifest(folder, "slide;patient;label;age\n" + rows.replace(";", ".svs;", 1))
    for name in "abc":
        (folder / name).write_bytes(name.encode())
    read = read_manifest(path, covariates=("age",))
    assert [slide.covariates["age"] for slide in read.cohort.slides] == [5.2, None, 61.0]
    assert read.notes[-1] == "covariate age is read with decimal commas ('5,2' in line 2)"


def test_unknown_and_clashing_covariates(folder: Path) -> None:
    path = manifest(folder, "slide,patient,label,site,tumor_size\na.svs,1,0,N,3\n")
    assert problems(path, covariates=("tumour_size", "split", "site")) == [
        "covariate tumour_size is no column; is it tumor_size?",
        "covariate split has the name of a column with another task; copy it under a new name",
    ]


def test_site_may_be_named_as_a_covariate(folder: Path) -> None:
    path = manifest(folder, "slide,patient,label,site,tumor_size\na.svs,1,0,N,3\n")
    (slide,) = read_manifest(path, covariates=("tumor_size", "site")).cohort.slides
    assert (slide.site, slide.covariates) == ("N", {"tumor_size": 3.0})
    without = manifest(folder, "slide,patient,label\na.svs,1,0\n")
    (problem,) = problems(without, covariates=("site",))
    assert problem.startswith("covariate site is no column;")


def test_the_example_manifest_is_valid(tmp_path: Path) -> None:
    for name in (
        "slides/001.svs",
        "slides/002.ndpi",
        "annotations/002.geojson",
        "regions/003_0.jpg",
        "regions/003_1.jpg",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    read = read_manifest(manifest(tmp_path, EXAMPLE_MANIFEST), covariates=("age",))
    assert [(s.slide_id, s.patient, len(s.images)) for s in read.cohort.slides] == [
        ("001", "001", 1),
        ("002", "002", 1),
        ("003", "003", 2),
    ]
    assert read.notes == ()


def workbook(path: Path, rows: list[list[str | float]]) -> Path:
    """A minimal XLSX: numbers as numbers, text as inline strings."""

    def cell(value: str | float) -> str:
        if isinstance(value, str):
            return f'<c t="inlineStr"><is><t>{value}</t></is></c>' if value else "<c/>"
        return f"<c><v>{value}</v></c>"

    body = "".join(
        f'<row r="{i}">{"".join(map(cell, row))}</row>' for i, row in enumerate(rows, start=1)
    )
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(
            "[Content_Types].xml",
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            '<Default Extension="xml" ContentType="application/xml"/></Types>',
        )
        file.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{package}"><Relationship Id="r1" '
            f'Type="{office}/officeDocument" '
            'Target="xl/workbook.xml"/></Relationships>',
        )
        file.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets><sheet name="cohort" '
            'sheetId="1" r:id="r1"/></sheets>'
            "</workbook>",
        )
        file.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{package}"><Relationship Id="r1" Type="{office}/worksheet" '
            'Target="worksheets/sheet1.xml"/></Relationships>',
        )
        file.writestr(
            "xl/worksheets/sheet1.xml",
            f'<worksheet xmlns="{main}"><sheetData>{body}</sheetData></worksheet>',
        )
    return path


def test_workbook(folder: Path) -> None:
    path = workbook(
        folder / "cohort.xlsx",
        [
            ["slide", "patient", "label", "mpp", "age"],
            ["a.svs", "007", 1, 0.25, 52],
            ["b.svs", 8, 0, "", 61.5],
            ["", "", "", "", ""],
            ["absent.svs", 9.5, 0, "", 1],
        ],
    )
    assert problems(path) == [f"line 5: slide 'absent.svs' doesn't exist; looked in {folder}"]
    (folder / "absent.svs").write_bytes(b"xyz")
    one, two, three = read_manifest(path, covariates=("age",)).cohort.slides
    assert (one.patient, one.label, one.images[0].mpp, one.covariates) == (
        "007",
        "1",
        0.25,
        {"age": 52.0},
    )
    assert (two.patient, two.label, two.images[0].mpp, two.covariates) == (
        "8",
        "0",
        None,
        {"age": 61.5},
    )
    assert three.patient == "9.5"


def test_a_damaged_workbook_is_an_input_error(folder: Path) -> None:
    path = workbook(folder / "cohort.xlsx", [["slide", "patient", "label"]])
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"cohort\.xlsx can't be read as a workbook"):
        read_manifest(path)


text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)


def test_where_an_annotation_begins(folder: Path) -> None:
    text = "slide,patient,label,annotation,annotation_origin\na.svs,1,0,a.geojson,{}\n"
    for said, origin in (("bounds", "bounds"), ("level0", "level0"), ("", None)):
        cohort = read_manifest(manifest(folder, text.format(said))).cohort
        assert cohort.slides[0].images[0].annotation_origin == origin
        assert ("annotation_origin" in cohort_table(cohort)) == bool(said)
    assert problems(manifest(folder, text.format("Bounds"))) == [
        "line 2: annotation_origin is level0 or bounds, not 'Bounds'"
    ]
