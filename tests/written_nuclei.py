"""Files of nuclei as other programs write them, and what is read from them.

They follow the programs' own writers: CellViT (`cell_detection.py`), HoVer-Net (`infer/`), QuPath
(`PathObjectTypeAdapters`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from morphomil.errors import SlideError
from morphomil.slides.nuclei_files import Nuclei, Reading, read_nuclei

MPP = 0.5


TYPES = {1: "Neoplastic", 2: "Inflammatory", 3: "Connective", 4: "Dead", 5: "Epithelial"}


@dataclass
class Image:
    """As much of a slide as a reader asks for."""

    width: int = 512
    height: int = 384
    mpp: float = MPP
    properties: dict[str, str] = field(default_factory=dict)


def contour(labels: np.ndarray, number: int) -> np.ndarray:
    """As HoVer-Net and CellViT trace a nucleus."""
    mask = (labels == number).astype(np.uint8)
    return np.squeeze(cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0][0])


def cells(labels: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "bbox": [[0, 0], [1, 1]],
            "centroid": contour(labels, number).mean(axis=0).tolist(),
            "contour": contour(labels, number).tolist(),
            "type_prob": 0.5 + number / 1000,
            "type": 1 + number % 5,
            "patch_coordinates": [0, 0],
            "cell_status": 0,
            "offset_global": [0, 0],
        }
        for number in range(1, labels.max() + 1)
    ]


def cellvit_geojson(labels: np.ndarray) -> list[dict[str, Any]]:
    of_type: dict[int, list[Any]] = {}
    for cell in cells(labels):
        ring = cell["contour"]
        of_type.setdefault(cell["type"], []).append([[*ring, ring[0]]])
    return [
        {
            "type": "Feature",
            "id": f"{kind}",
            "geometry": {"type": "MultiPolygon", "coordinates": polygons},
            "properties": {
                "objectType": "annotation",
                "classification": {"name": TYPES[kind], "color": [255, 0, 0]},
            },
        }
        for kind, polygons in sorted(of_type.items())
    ]


def hovernet(labels: np.ndarray, magnification: float | None) -> dict[str, Any]:
    entries = {
        str(number): {
            "bbox": cell["bbox"],
            "centroid": cell["centroid"],
            "contour": cell["contour"],
            "type_prob": cell["type_prob"],
            "type": cell["type"],
        }
        for number, cell in enumerate(cells(labels), start=1)
    }
    return {"mag": magnification, "nuc": entries}


def square(x: float, y: float, side: float = 20) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def feature(ring: list[list[float]], kind: str | None, **further: Any) -> dict[str, Any]:
    properties = {"objectType": kind} if kind else {}
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": properties | further}


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def read(path: Path, image: Image | None = None, **reading: Any) -> Nuclei:
    return read_nuclei(path, image or Image(), Reading(**reading))  # type: ignore[arg-type]


def drawn(nuclei: Nuclei, shape: tuple[int, int] = (384, 512)) -> np.ndarray:
    canvas = np.zeros(shape, np.int32)
    nuclei.draw(canvas, np.arange(len(nuclei.centers)), 1, x_px=0, y_px=0, downsample=1)
    return canvas


def cause(path: Path, image: Image | None = None, **reading: Any) -> str:
    with pytest.raises(SlideError) as caught:
        read(path, image, **reading)
    assert str(path.name) in str(caught.value)
    return str(caught.value)
