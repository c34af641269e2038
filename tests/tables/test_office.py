"""Workbooks and documents: read by other readers, hostile text, equal bytes."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pandas as pd
from defusedxml.ElementTree import fromstring

from morphomil.tables.office import to_docx, to_xlsx

HOSTILE = '=1+1 <b>&"\x07'
WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {"model": ["a", HOSTILE], "auc": [0.123456789012, np.nan], "n": [24, 3], "ok": [True, None]}
    )


def test_a_workbook_holds_the_tables_with_all_digits() -> None:
    content = to_xlsx({"performance": table(), "a name/with: more than thirty-one signs": table()})
    sheets = pd.read_excel(io.BytesIO(content), engine="calamine", sheet_name=None)
    assert list(sheets) == ["performance", "a name with  more than thir 2"]
    read = sheets["performance"]
    assert list(read) == ["model", "auc", "n", "ok"]
    assert read["auc"][0] == 0.123456789012
    assert np.isnan(read["auc"][1])
    assert read["n"].tolist() == [24, 3]
    assert read["model"][1] == '=1+1 <b>&"'
    assert content == to_xlsx(
        {"performance": table(), "a name/with: more than thirty-one signs": table()}
    )


def test_columns_beyond_z_have_two_letters() -> None:
    wide = pd.DataFrame([range(60)], columns=[f"c{n}" for n in range(60)])
    read = pd.read_excel(io.BytesIO(to_xlsx({"wide": wide})), engine="calamine")
    assert read.iloc[0].tolist() == list(range(60))


def test_a_document_holds_the_printed_tables_and_the_notes() -> None:
    content = to_docx({"Performance": table(), "Other": table()}, notes=["A note."])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        for name in archive.namelist():
            fromstring(archive.read(name))
        document = fromstring(archive.read("word/document.xml"))
    tables = list(document.iter(f"{WORD}tbl"))
    assert len(tables) == 2
    cells = [
        "".join(text.text or "" for text in cell.iter(f"{WORD}t"))
        for cell in tables[0].iter(f"{WORD}tc")
    ]
    assert cells[:4] == ["model", "auc", "n", "ok"]
    assert cells[4:8] == ["a", "0.123456789012", "24", "True"]
    assert cells[8:] == ['=1+1 <b>&"', "", "3", ""]
    texts = [text.text for text in document.iter(f"{WORD}t")]
    assert texts[0] == "Performance" and texts[-1] == "A note."
