"""The tables that the shipped models are trained with: labels in one frame, types by one name.

Pixel (i, j) of an image covers [i, i + 1) x [j, j + 1) of the tissue. The labels of MoNuSeg lie
half a pixel up and left of it: images whose exact outlines are known are drawn anew, the others
shifted, both at twice the resolution. CoNSeP's types get our names. Images of patients whom MoNuSeg
shows too leave BRCA-M2C in the table of the default model, which MoNuSeg tests.

    python benchmarks/training_tables.py ../shared/data/nuclei OUT [--model FOLDER]

BRCA-M2C has points and no outlines. With a model its training images get the outlines that the
model finds: those that hold a point if their probability passes `CONFIRMED`, others if it passes
`CERTAIN`.
"""

from __future__ import annotations

import argparse
import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from morphomil.nuclei.outlines import fill_polygons
from morphomil.segment import find_outlines, large_enough
from morphomil.segment.model import load_segmenter
from morphomil.segment.polygons import render_whole
from morphomil.types import SegmenterSettings

FINER = 2
TRAINED = Path(__file__).parent.parent / "morphomil/segment/weights/noncommercial/training.csv"
CONSEP_VALIDATION = (6, 7, 9, 10, 26)
CONSEP_TYPES = {"inflammatory": "lymphocyte", "spindle": "stroma"}
IN_MONUSEG = ("TCGA-A7-A13E", "TCGA-A7-A13F")
CONFIRMED, CERTAIN = 0.25, 0.7


def redraw(outlines: Path, shape: tuple[int, int]) -> np.ndarray:
    """Labels (2 H, 2 W) of annotated polygons; where two overlap, the smaller one is on top."""
    with gzip.open(outlines) as file:
        features = json.load(file)["features"]
    rings = [np.asarray(f["geometry"]["coordinates"][0], dtype=float) * FINER for f in features]
    areas = [abs(np.dot(r[:-1, 0], r[1:, 1]) - np.dot(r[1:, 0], r[:-1, 1])) / 2 for r in rings]
    canvas = np.zeros((FINER * shape[0], FINER * shape[1]), np.int32)
    order = np.argsort(areas, kind="stable")
    fill_polygons(canvas, [[rings[i]] for i in order], [int(i) + 1 for i in order])
    return canvas


def shift(labels: np.ndarray) -> np.ndarray:
    """Labels (2 H, 2 W), half a pixel of the image down and to the right."""
    fine = labels.repeat(FINER, 0).repeat(FINER, 1)
    return np.pad(fine, ((1, 0), (1, 0)), mode="edge")[:-1, :-1]


def found_labels(rgb: np.ndarray, points: np.ndarray, model: str) -> np.ndarray:
    """Labels (2 H, 2 W) of the nuclei that a model finds in an image of 0.5 um per pixel; `points`
    are x and y (n, 2) of nuclei."""
    segmenter = load_segmenter(SegmenterSettings(model, accurate=True))
    segmenter = replace(segmenter, prob_threshold=CONFIRMED, judges=False)
    found = find_outlines(rgb, mpp=0.5, segmenter=segmenter)
    fine = large_enough(found, mpp=0.5, segmenter=segmenter)[0].scaled(FINER)
    shape = (FINER * rgb.shape[0], FINER * rgb.shape[1])

    def drawn(nuclei: object) -> np.ndarray:
        return render_whole(nuclei, shape=shape, min_px=1)

    column, row = (points * FINER).astype(int).T
    confirmed = np.zeros(len(fine) + 1, bool)
    confirmed[drawn(fine)[row, column]] = True
    return drawn(fine[confirmed[1:] | (fine.prob > CERTAIN)])


def outlined(data: Path, out: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of MoNuSeg and TNBC, MoNuSeg's labels drawn anew."""
    table = table[table["group"].isin(["monuseg", "tnbc"])].copy()
    for number, row in table[table["group"] == "monuseg"].iterrows():
        name = Path(row["image"]).stem
        labels = np.asarray(Image.open(data / f"monuseg_train/labels/{name}.png")).astype(np.int32)
        outlines = data / "monuseg_train/outlines" / f"{name}.geojson.gz"
        fine = redraw(outlines, labels.shape) if outlines.exists() else shift(labels)
        Image.fromarray(fine.astype(np.uint16)).save(out / f"{name}.png")
        table.loc[number, "labels"] = str((out / f"{name}.png").resolve())
    return table


def consep(data: Path, out: Path) -> pd.DataFrame:
    """The rows of CoNSeP."""
    rows = []
    for number in range(1, 28):
        types = pd.read_csv(data / f"consep/types/train_{number}.csv")
        types["type"] = types["type"].replace(CONSEP_TYPES)
        path = out / f"consep_{number}.csv"
        types.to_csv(path, index=False)
        rows.append(
            {
                "image": f"consep/images/train_{number}.png",
                "labels": f"consep/labels/train_{number}.png",
                "types": str(path.resolve()),
                "mpp": 0.25,
                "group": "consep",
                "split": "val" if number in CONSEP_VALIDATION else "train",
            }
        )
    return pd.DataFrame(rows)


def brca(data: Path, out: Path, model: str | None) -> pd.DataFrame:
    """The rows of BRCA-M2C."""
    rows = []
    for name, patient, split in pd.read_csv(data / "brca_m2c/images.csv")[
        ["image", "patient", "split"]
    ].itertuples(index=False):
        row = {
            "image": f"brca_m2c/images/{name}.png",
            "points": f"brca_m2c/points/{name}.csv",
            "mpp": 0.5,
            "group": "brca_m2c",
            "split": split,
            "patient": patient,
        }
        if model is not None and split == "train":
            rgb = np.asarray(Image.open(data / row["image"]).convert("RGB"))
            points = pd.read_csv(data / row["points"])[["x_px", "y_px"]].to_numpy() + 0.5
            labels = found_labels(rgb, points, model)
            Image.fromarray(labels.astype(np.uint16)).save(out / f"{name}.png")
            row["labels"] = str((out / f"{name}.png").resolve())
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model")
    arguments = parser.parse_args()
    data, out = arguments.data.resolve(), arguments.out / "labels"
    out.mkdir(parents=True, exist_ok=True)
    parts = [
        outlined(data, out, pd.read_csv(TRAINED)),
        consep(data, out),
        brca(data, out, arguments.model),
    ]
    table = pd.concat(parts, ignore_index=True)
    table.to_csv(arguments.out / "noncommercial.csv", index=False)
    default = table[(table["group"] != "monuseg") & ~table["patient"].isin(IN_MONUSEG)]
    default.to_csv(arguments.out / "default.csv", index=False)


if __name__ == "__main__":
    main()
