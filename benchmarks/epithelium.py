"""How much of annotated tumor lies in the epithelium that is outlined from nuclei.

    python benchmarks/epithelium.py IMAGE... --mpp 0.5 [--model default]

Each image is a tumor region as a pathologist outlined it, white outside. Annotated tumor has stroma
and lymphocytes in it, so that the share is below 1 where the outline is right.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd
import shapely

from morphomil.pipeline.epithelium import survey_epithelium
from morphomil.segment.model import Segmenter, load_segmenter
from morphomil.slides.image import open_image
from morphomil.slides.regions import survey_regions
from morphomil.types import ImageSource, PatchSettings, SegmenterSettings


def compare(source: ImageSource, segmenter: Segmenter) -> dict[str, object]:
    """Areas of an image in mm2, and the share of the annotated one that is epithelium."""
    settings, place = PatchSettings(regions="epithelium"), {"image_index": 0, "first_index": 0}
    with open_image(source) as image:
        annotated = survey_regions(
            image, source, settings=replace(settings, regions="white"), **place
        ).regions
        found = survey_epithelium(
            image, source, settings=settings, segmenter=segmenter, **place
        ).regions
        mm2 = (image.mpp / 1000) ** 2
    whole, nests = (
        shapely.union_all([region.polygon for region in regions]) for regions in (annotated, found)
    )
    return {
        "image": source.path.stem,
        "annotated_mm2": whole.area * mm2,
        "epithelium_mm2": nests.area * mm2,
        "nests": len(found),
        "share": shapely.intersection(whole, nests).area / whole.area,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--mpp", type=float, required=True)
    parser.add_argument("--model", default="default")
    args = parser.parse_args()
    segmenter = load_segmenter(SegmenterSettings(args.model))
    rows = [compare(ImageSource(path, mpp=args.mpp), segmenter) for path in args.images]
    print(pd.DataFrame(rows).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
