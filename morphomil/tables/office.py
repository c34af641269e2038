"""Tables for word processors and spreadsheets: DOCX and XLSX by their specification (ECMA-376), so
that no package is needed to write them."""

from __future__ import annotations

import io
import math
import re
import zipfile
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_TYPES = "application/vnd.openxmlformats-officedocument"
_UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""XML has no such characters."""
SHEET_NAME = 31
"""A sheet's name has so many characters at most."""


def to_xlsx(tables: Mapping[str, pd.DataFrame]) -> bytes:
    """A workbook with a sheet for each table, in order: numbers are numbers with all digits, all
    else is text that is never run as a formula; missing values are empty cells."""
    names = [_sheet_name(name, number) for number, name in enumerate(tables, start=1)]
    sheets = "".join(
        f'<sheet name="{_text(name)}" sheetId="{number}" r:id="rId{number}"/>'
        for number, name in enumerate(names, start=1)
    )
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    parts = {
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{_OFFICE}"><sheets>{sheets}</sheets>'
        "</workbook>",
        "xl/_rels/workbook.xml.rels": _relations(
            [
                (f"rId{number}", "worksheet", f"worksheets/sheet{number}.xml")
                for number in range(1, len(names) + 1)
            ]
        ),
    }
    kinds = {"xl/workbook.xml": f"{_TYPES}.spreadsheetml.sheet.main+xml"}
    for number, table in enumerate(tables.values(), start=1):
        path = f"xl/worksheets/sheet{number}.xml"
        rows = [list(map(str, table.columns)), *table.to_numpy(object).tolist()]
        cells = "".join(
            f'<row r="{at}">{"".join(_cell(value, at, place) for place, value in enumerate(row))}'
            "</row>"
            for at, row in enumerate(rows, start=1)
        )
        parts[path] = f'<worksheet xmlns="{main}"><sheetData>{cells}</sheetData></worksheet>'
        kinds[path] = f"{_TYPES}.spreadsheetml.worksheet+xml"
    return _pack(parts, kinds, main="xl/workbook.xml")


def to_docx(tables: Mapping[str, pd.DataFrame], *, notes: Sequence[str] = ()) -> bytes:
    """A document with each table, as it is printed, under its caption, lines above and below as
    journals set them, and the notes after the last."""
    body = "".join(
        f"{_paragraph(caption, bold=True)}{_word_table(table)}{_paragraph('')}"
        for caption, table in tables.items()
    )
    body += "".join(map(_paragraph, notes))
    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    document = f'<w:document xmlns:w="{word}"><w:body>{body}</w:body></w:document>'
    kinds = {"word/document.xml": f"{_TYPES}.wordprocessingml.document.main+xml"}
    return _pack({"word/document.xml": document}, kinds, main="word/document.xml")


def _word_table(table: pd.DataFrame) -> str:
    lines = "".join(f'<w:{side} w:val="single" w:sz="8"/>' for side in ("top", "bottom"))
    head = "".join(_word_cell(name, bold=True) for name in table.columns)
    rows = "".join(
        f"<w:tr>{''.join(_word_cell(value) for value in row)}</w:tr>"
        for row in table.to_numpy(object).tolist()
    )
    grid = "<w:gridCol/>" * table.shape[1]
    return (
        f"<w:tbl><w:tblPr><w:tblBorders>{lines}</w:tblBorders></w:tblPr><w:tblGrid>{grid}"
        f"</w:tblGrid><w:tr><w:trPr><w:tblHeader/></w:trPr>{head}</w:tr>{rows}</w:tbl>"
    )


def _word_cell(value: Any, *, bold: bool = False) -> str:
    return f"<w:tc><w:tcPr/>{_paragraph(value, bold=bold)}</w:tc>"


def _paragraph(value: Any, *, bold: bool = False) -> str:
    weight = "<w:b/>" if bold else ""
    run = f"<w:rPr>{weight}<w:sz w:val='18'/></w:rPr>"
    return f'<w:p><w:r>{run}<w:t xml:space="preserve">{_text(value)}</w:t></w:r></w:p>'


def _cell(value: Any, row: int, column: int) -> str:
    place = f"{_letters(column)}{row}"
    if _is_missing(value):
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = f'<is><t xml:space="preserve">{_text(value)}</t></is>'
        return f'<c r="{place}" t="inlineStr">{text}</c>'
    return f'<c r="{place}"><v>{value!r}</v></c>' if math.isfinite(value) else ""


def _is_missing(value: Any) -> bool:
    return value is None or value != value


def _text(value: Any) -> str:
    """Escaped; nothing of a missing value."""
    text = "" if _is_missing(value) else str(value)
    return escape(_UNWRITABLE.sub("", text), {'"': "&quot;"})


def _letters(column: int) -> str:
    """The name of a column, from 0: A, ..., Z, AA."""
    first, last = divmod(column, 26)
    return (_letters(first - 1) if first else "") + chr(ord("A") + last)


def _sheet_name(name: str, number: int) -> str:
    """Without the characters that sheets' names can't have; numbered where it had to be cut."""
    text = re.sub(r"[\[\]:*?/\\']", " ", name).strip() or f"Sheet{number}"
    return text if len(text) <= SHEET_NAME else f"{text[: SHEET_NAME - 4]} {number}"


def _relations(rows: Sequence[tuple[str, str, str]]) -> str:
    entries = "".join(
        f'<Relationship Id="{name}" Type="{_OFFICE}/{kind}" Target="{target}"/>'
        for name, kind, target in rows
    )
    return f'<Relationships xmlns="{_PACKAGE}/relationships">{entries}</Relationships>'


def _pack(parts: Mapping[str, str], kinds: Mapping[str, str], *, main: str) -> bytes:
    """A package of the parts; equal parts give equal bytes."""
    overrides = "".join(
        f'<Override PartName="/{path}" ContentType="{kind}"/>' for path, kind in kinds.items()
    )
    rels = (
        '<Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    )
    types = f'<Types xmlns="{_PACKAGE}/content-types">{rels}{overrides}</Types>'
    root = _relations([("rId1", "officeDocument", main)])
    files = {"[Content_Types].xml": types, "_rels/.rels": root} | dict(parts)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in files.items():
            entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, f"{_HEAD}{text}")
    return buffer.getvalue()
