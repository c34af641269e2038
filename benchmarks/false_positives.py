"""How many nuclei are found where none are: in the tissue of annotated images that is far from any
annotated nucleus, and on objects that look like some.

    python benchmarks/false_positives.py images.csv --root DIR [--split val] [--model default]

Nucleus-free tissue is what isn't blank and lies more than `REACH_UM` from every annotated nucleus
(annotators miss some: an upper bound). The objects, painted into that tissue with blurred edges,
are fat vacuoles, red cells, pigment, dust and ink; a whole image is also blurred.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from morphomil.nuclei.measure import measure_nuclei
from morphomil.segment import find_labels
from morphomil.segment.annotated import AnnotatedImage, read_annotated, read_table
from morphomil.segment.model import Segmenter, load_segmenter
from morphomil.types import SegmenterSettings

REACH_UM = 3.0
BLANK_ABOVE = 220
OBJECTS = {
    "fat vacuole": ((238, 236, 239), 12.0),
    "red cell": ((206, 72, 84), 3.5),
    "melanin": ((120, 78, 40), 3.0),
    "carbon": ((30, 28, 30), 2.5),
    "dust": ((150, 149, 146), 4.0),
    "ink": ((35, 60, 150), 7.0),
}
"""Color and radius in um."""
EACH = 12
"""So many of an object are painted into an image."""


def free_tissue(image: AnnotatedImage) -> np.ndarray:
    """Where there is tissue and no nucleus near (H, W)."""
    away = ndimage.distance_transform_edt(image.labels == 0) * image.mpp
    return (away > REACH_UM) & (image.rgb.min(axis=2) < BLANK_ABOVE)


def centers(labels: np.ndarray, mpp: float) -> np.ndarray:
    """Rows and columns (n, 2) of the middles of nuclei."""
    table = measure_nuclei(labels, mpp=mpp)
    return table[["y_px", "x_px"]].to_numpy().round().astype(int)


def painted(
    image: AnnotatedImage, color: tuple[int, int, int], radius: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The image with objects in its nucleus-free tissue, and where they are (H, W)."""
    size = radius / image.mpp
    room = ndimage.distance_transform_edt(free_tissue(image))
    cover = np.zeros(room.shape)
    rows, columns = np.indices(room.shape)
    for _ in range(EACH):
        places = np.argwhere((room > size * 0.6) & (cover == 0))
        if not len(places):
            break
        row, column = places[rng.integers(len(places))]
        away = np.hypot(rows - row, columns - column)
        cover = np.maximum(cover, np.clip(size - away + 0.5, 0, 1))
        room[away < 2 * size + 4] = 0
    share = ndimage.gaussian_filter(cover, 0.25 / image.mpp)[..., None]
    rgb = image.rgb * (1 - share) + np.array(color) * share
    return (rgb + rng.normal(0, 2, rgb.shape)).clip(0, 255).astype(np.uint8), cover > 0.5


def on_objects(
    image: AnnotatedImage, segmenter: Segmenter, rng: np.random.Generator
) -> list[dict[str, object]]:
    """How many objects of each kind are taken for a nucleus."""
    rows: list[dict[str, object]] = []
    for name, (color, radius) in OBJECTS.items():
        rgb, where = painted(image, color, radius, rng)
        objects, count = ndimage.label(where)
        found = centers(find_labels(rgb, mpp=image.mpp, segmenter=segmenter), image.mpp)
        hit = np.unique(objects[tuple(found.T)])
        rows.append({"object": name, "painted": count, "found": int((hit > 0).sum())})
    return rows


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--model", default="default")
    args = parser.parse_args()
    table = read_table(args.table, columns={"image", "labels", "mpp", "split"})
    own = table[(table["split"] == args.split) & table["labels"].notna()]
    segmenter = load_segmenter(SegmenterSettings(args.model))
    rng = np.random.default_rng(0)
    free, objects = [], []
    for whole in read_annotated(own, args.root):
        for image in whole.levels():
            where = free_tissue(image)
            found = centers(find_labels(image.rgb, mpp=image.mpp, segmenter=segmenter), image.mpp)
            free.append(
                {
                    "group": image.group,
                    "mpp": image.mpp,
                    "free_mm2": where.sum() * (image.mpp / 1000) ** 2,
                    "found": int(where[tuple(found.T)].sum()),
                }
            )
        objects += on_objects(whole.levels()[-1], segmenter, rng)
    sums = pd.DataFrame(free).groupby(["group", "mpp"]).sum()
    sums["per_mm2"] = sums["found"] / sums["free_mm2"]
    print(sums.round(3).to_string())
    print(pd.DataFrame(objects).groupby("object").sum().to_string())


if __name__ == "__main__":
    main()
