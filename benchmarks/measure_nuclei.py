"""Times `measure_nuclei`, density included, against scikit-image's regionprops on a folder of label
images.

    python benchmarks/measure_nuclei.py FOLDER

Both run in turns on the same image, so the ratio holds on a busy machine too. The first call, which
compiles or loads the compiled code, is reported apart.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from skimage.io import imread
from skimage.measure import regionprops_table

from morphomil.nuclei.measure import measure_nuclei

if TYPE_CHECKING:
    from collections.abc import Callable

PROPERTIES = (
    "label",
    "area",
    "axis_major_length",
    "axis_minor_length",
    "orientation",
    "perimeter_crofton",
    "centroid",
    "area_convex",
)
REPEATS = 3


def seconds(call: Callable[[], object]) -> float:
    """Duration of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(path: Path, mpp: float) -> float:
    """Print and return how many times faster `measure_nuclei` measures one label image (shortest of
    calls in turns)."""
    labels = imread(path)
    pairs = [
        (
            seconds(lambda: regionprops_table(labels, properties=PROPERTIES)),
            seconds(lambda: measure_nuclei(labels, mpp=mpp)),
        )
        for _ in range(REPEATS)
    ]
    theirs, ours = (min(times) for times in zip(*pairs, strict=True))
    nuclei = len(np.unique(labels[labels > 0]))
    print(f"{path.stem:40} {nuclei:6} {1e3 * theirs:10.1f} {1e3 * ours:10.2f} {theirs / ours:8.1f}")
    return theirs / ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", type=Path, help="folder of label images (PNG or TIFF, 0 = background)"
    )
    parser.add_argument("--mpp", type=float, default=0.25, help="um per pixel (0.25)")
    arguments = parser.parse_args()
    paths = sorted(
        p for p in arguments.folder.iterdir() if p.suffix.lower() in {".png", ".tif", ".tiff"}
    )
    if not paths:
        parser.error(f"no PNG or TIFF label images in {arguments.folder}")
    first = seconds(lambda: measure_nuclei(imread(paths[0]), mpp=arguments.mpp))
    print(f"first call {first:.2f} s\n")
    print(f"{'image':40} {'nuclei':>6} {'skimage ms':>10} {'ours ms':>10} {'ratio':>8}")
    ratios = [compare(path, arguments.mpp) for path in paths]
    print(f"\nmedian ratio over {len(ratios)} images: {statistics.median(ratios):.1f}")


if __name__ == "__main__":
    main()
