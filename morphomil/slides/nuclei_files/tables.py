"""Tables of outlines: a vertex a row, or well-known text; and Cellpose's `_cp_outlines.txt`.

Cellpose writes a nucleus a line, `x,y,x,y,...` in pixels (`cellpose.io.outlines_to_text`,
https://github.com/MouseLand/cellpose). HoverNeXt's `pred_CLASS.tsv` (`create_tsvs`) and QuPath's
tables of measurements have centers alone, and are refused.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely

from morphomil.cohort.numbers import parse_number
from morphomil.slides.nuclei_files.nuclei import OutlineList

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from morphomil.slides.image import SlideImage
    from morphomil.slides.nuclei_files.nuclei import Outlines

ROWS = 1_000_000
"""So many rows are read at a time."""
MAX_LINE_CHARS = 2**24
_X, _Y = ("x", "x_px", "px_x"), ("y", "y_px", "px_y")
_IDS = ("id", "nucleus_id", "nucleus", "label", "cell_id", "cell", "object_id", "object", "polygon")
_TYPES = ("type", "class", "classification", "cell_type", "class_name")
_PROBABILITIES = ("type_probability", "type_prob", "probability", "prob")
_TEXTS = ("wkt", "geometry", "polygon", "outline")
_WKT = ("POLYGON", "MULTIPOLYGON", "POINT", "MULTIPOINT", "LINESTRING", "GEOMETRYCOLLECTION")


def is_table(head: bytes) -> bool:
    """Whether a file that begins so is text with at least two cells in its first line."""
    try:
        line = head.decode("utf-8-sig", errors="strict" if len(head) < 4096 else "ignore")
    except UnicodeDecodeError:
        return False
    first = line.lstrip().splitlines()[:1]
    return bool(first) and "\0" not in line and any(mark in first[0] for mark in ",;\t")


def read_table(path: Path, image: SlideImage) -> Outlines:
    """The nuclei of a table of outlines in level-0 pixels.

    Raises:
        ValueError: it has no outlines, or nothing says which vertices belong together.
    """
    with path.open(encoding="utf-8-sig", newline="") as stream:
        first = stream.readline(MAX_LINE_CHARS)
        if _is_numbers(first):
            stream.seek(0)
            return _read_lines(stream, image)
    mark = max(",;\t", key=first.count)
    header = next(csv.reader([first], delimiter=mark))
    plain = [name.strip().casefold() for name in header]
    text, x, y, owner = (_find(plain, names) for names in (_TEXTS, _X, _Y, _IDS))
    said = {
        "type": _find(plain, _TYPES),
        "type_probability": _find(plain, _PROBABILITIES),
    }
    columns = {name: place for name, place in said.items() if place is not None}
    if x is not None and y is not None:
        if owner is None:
            raise ValueError(
                "it has a position (x, y) in each row and no column that says which of them "
                "outline the same nucleus (id, label, cell_id); centers can't be measured, so give "
                "outlines: a row for each vertex with an id, or a column wkt"
            )
        columns |= {"x": x, "y": y, "id": owner}
    elif text is not None:
        columns |= {"wkt": text}
    else:
        raise ValueError(
            f"it has the columns {', '.join(header[:12])}; a table of outlines has id, x and y "
            "(level-0 pixels, a row for each vertex) or wkt"
        )
    table = _columns(path, mark, columns)
    return _from_text(table, image) if "wkt" in table else _from_vertices(table, image)


def _find(header: list[str], names: tuple[str, ...]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _columns(path: Path, mark: str, columns: dict[str, int]) -> pd.DataFrame:
    """The wanted columns by their new names."""
    place_of = sorted((place, name) for name, place in columns.items())
    try:
        parts = pd.read_csv(
            path,
            sep=mark,
            header=0,
            usecols=[place for place, _ in place_of],
            chunksize=ROWS,
            encoding="utf-8-sig",
            on_bad_lines="error",
        )
        table = pd.concat(parts, ignore_index=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"it is no table: {error}") from error
    table.columns = pd.Index([name for _, name in place_of])
    for name in ("x", "y", "type_probability"):
        if name in table:
            table[name] = pd.to_numeric(table[name], errors="coerce")
    return table


def _said(row: dict[str, Any]) -> dict[str, Any]:
    kind, probability = row.get("type"), row.get("type_probability")
    return {
        "type": None if kind is None or pd.isna(kind) else str(kind),
        "type_probability": None if probability is None or pd.isna(probability) else probability,
    }


def _from_vertices(table: pd.DataFrame, image: SlideImage) -> Outlines:
    if table[["x", "y", "id"]].isna().any(axis=None):
        raise ValueError("it has rows without an id, x or y")
    owners, _ = pd.factorize(table["id"])
    order = np.argsort(owners, kind="stable")
    ordered, owners = table.iloc[order], owners[order]
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    if len(starts) and len(starts) > len(owners) / 2:
        raise ValueError(
            f"it has {len(owners):,} positions for {len(starts):,} nuclei: these are centers, and "
            "without an outline no shape can be measured"
        )
    points: NDArray[np.float64] = ordered[["x", "y"]].to_numpy(np.float64)
    firsts = ordered.iloc[starts]
    outlines = OutlineList()
    names = [name for name in ("type", "type_probability") if name in firsts]
    rows = firsts[names].to_dict("records") if names else [{}] * len(starts)
    for ring, row in zip(np.split(points, starts[1:]), rows, strict=True):
        outlines.add([ring], _said({str(name): value for name, value in row.items()}))
    return outlines.placed(image)


def _from_text(table: pd.DataFrame, image: SlideImage) -> Outlines:
    outlines = OutlineList()
    names = [name for name in ("type", "type_probability") if name in table]
    for first in range(0, len(table), 20_000):
        part = table.iloc[first : first + 20_000]
        texts = part["wkt"].astype(str)
        if not texts.str.lstrip().str.upper().str.startswith(_WKT).all():
            raise ValueError("its column of outlines holds something other than well-known text")
        try:
            shapes = shapely.from_wkt(texts.to_numpy(object))
        except shapely.errors.ShapelyError as error:
            raise ValueError(f"its well-known text can't be read: {error}") from error
        rows = part[names].to_dict("records") if names else [{}] * len(part)
        for shape, row in zip(shapes, rows, strict=True):
            add_shape(outlines, shape, _said({str(name): one for name, one in row.items()}))
    refuse_points(outlines)
    return outlines.placed(image)


def add_shape(outlines: OutlineList, shape: Any, said: dict[str, Any]) -> None:
    """Add every polygon of a shape as a nucleus; points and lines are counted."""
    for part in shapely.get_parts(shape):
        if part.geom_type == "Polygon":
            rings = [part.exterior, *part.interiors]
            outlines.add([shapely.get_coordinates(ring) for ring in rings], said)
        elif part.geom_type in ("MultiPolygon", "GeometryCollection"):
            add_shape(outlines, part, said)
        else:
            outlines.left_out["points without an outline"] += 1


def refuse_points(outlines: OutlineList) -> None:
    """Refuse centers.

    Raises:
        ValueError: there are points or lines, and no polygon.
    """
    if not len(outlines) and (points := outlines.left_out["points without an outline"]):
        raise ValueError(
            f"it has {points:,} points but no outlines, and without an outline no shape can be "
            "measured"
        )


def _is_numbers(line: str) -> bool:
    cells = line.strip().rstrip(",").split(",")
    try:
        return len(cells) >= 2 and len([parse_number(cell) for cell in cells]) > 0
    except ValueError:
        return False


def _read_lines(lines: Iterable[str], image: SlideImage) -> Outlines:
    """A nucleus a line."""
    outlines = OutlineList()
    for line in lines:
        cells = line.strip().rstrip(",")
        if not cells:
            continue
        numbers = np.array([parse_number(cell) for cell in cells.split(",")])
        if len(numbers) % 2 or len(numbers) < 6:
            raise ValueError(
                f"a line has {len(numbers)} numbers; an outline is x,y,x,y,... with three or more "
                "vertices, and a table needs a first line with names"
            )
        outlines.add([numbers.reshape(-1, 2)])
    return outlines.placed(image)
