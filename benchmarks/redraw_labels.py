"""Labels twice as fine as the images, in the frame that training and measurement use.

Pixel (i, j) of an image covers [i, i + 1) x [j, j + 1) of the tissue. The labels of MoNuSeg lie
half a pixel up and left of it: images whose exact outlines are known are drawn anew, the others
shifted, both at twice the resolution. Writes the labels and the training table of both models.

    python benchmarks/redraw_labels.py ../shared/data/nuclei OUT
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from morphomil.nuclei.outlines import fill_polygons

FINER = 2
SHIPPED = Path(__file__).parent.parent / "morphomil/segment/weights/default/training.csv"
CONSEP_VALIDATION = (6, 7, 9, 10, 26)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    data, out = arguments.data.resolve(), arguments.out
    (out / "labels").mkdir(parents=True, exist_ok=True)
    table = pd.read_csv(SHIPPED)
    for number, row in table[table["group"] == "monuseg"].iterrows():
        name = Path(row["image"]).stem
        labels = np.asarray(Image.open(data / row["labels"])).astype(np.int32)
        outlines = data / "monuseg_train/outlines" / f"{name}.geojson.gz"
        fine = redraw(outlines, labels.shape) if outlines.exists() else shift(labels)
        Image.fromarray(fine.astype(np.uint16)).save(out / "labels" / f"{name}.png")
        table.loc[number, "labels"] = str((out / "labels" / f"{name}.png").resolve())
    consep = [
        {
            "image": f"consep/images/train_{number}.png",
            "labels": f"consep/labels/train_{number}.png",
            "mpp": 0.25,
            "group": "consep",
            "split": "val" if number in CONSEP_VALIDATION else "train",
        }
        for number in range(1, 28)
    ]
    table = pd.concat([table, pd.DataFrame(consep)], ignore_index=True)
    table[table["group"] != "monuseg"].to_csv(out / "default.csv", index=False)
    table.to_csv(out / "noncommercial.csv", index=False)


if __name__ == "__main__":
    main()
