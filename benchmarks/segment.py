"""Patches per second, pixels to stored masks: StarDist patch by patch against `morphomil segment`,
in one run.

The patches are those that `segment` keeps of the images given (JPEG, PNG or slides). StarDist's
side is what a script would do: read a patch, divide by 255, `predict_instances`, store the mask.
Both sides write Zarr.

    python benchmarks/segment.py IMAGE... --mpp 0.5 [--baseline FOLDER] [--repeats 3]

With `--memory N` the images are segmented over and over until N patches are done, and the memory of
the process is printed on the way.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from morphomil import pipeline
from morphomil.segment import detect
from morphomil.segment.agreement import overlaps
from morphomil.segment.model import load_segmenter, load_stardist
from morphomil.slides.image import SlideImage, open_image
from morphomil.types import CORES, Cohort, ImageSource, SegmenterSettings, Slide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd
    from numpy.typing import NDArray

SPENT: dict[str, float] = defaultdict(float)


def clocked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its processor time added to SPENT."""

    def timed(*args: Any, **kwargs: Any) -> Any:
        begun = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            SPENT[name] += time.thread_time() - begun

    return timed


def segment(
    cohort: Cohort, folder: Path, settings: SegmenterSettings
) -> tuple[pipeline.Run, float]:
    """A run of the stage with the segmenter at hand, and its seconds."""
    load_segmenter(settings)
    begun = time.perf_counter()
    run, result = pipeline.segment(cohort, folder, segmenter=settings)
    if result.failed:
        raise SystemExit(str(result.failed))
    return run, time.perf_counter() - begun


def stardist_patches(
    cohort: Cohort, tables: dict[str, pd.DataFrame], model: Any, folder: Path, *, limit: int
) -> Iterator[float]:
    """Seconds for each patch."""
    group = zarr.open_group(folder, mode="w")
    for slide in cohort.slides:
        with open_image(slide.images[0]) as image:
            patches = tables[slide.slide_id].query("kept")
            side = 256
            stored = group.create_array(
                slide.slide_id,
                shape=(len(patches), side, side),
                dtype="int32",
                chunks=(1, side, side),
            )
            downsample = 0.5 / image.mpp
            image.read(0, 0, 8, 8, downsample=1)  # flat images are decoded at the first read
            for number, (x, y) in enumerate(patches[["x_px", "y_px"]].to_numpy()[:limit]):
                begun = time.perf_counter()
                rgb = image.read(x, y, side, side, downsample=downsample).astype(np.float32) / 255
                stored[number] = model.predict_instances(rgb)[0]
                yield time.perf_counter() - begun


def matched_share(one: NDArray[np.integer], other: NDArray[np.integer], iou: float = 0.9) -> float:
    """Share of the nuclei of two label images that have a partner."""
    pairs = overlaps(one, other)
    return float(
        2
        * (pairs.iou > iou).sum()
        / ((pairs.areas_annotated > 0).sum() + (pairs.areas_found > 0).sum())
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--model", default="default")
    parser.add_argument("--baseline", help="another StarDist folder, timed patch by patch beside")
    parser.add_argument(
        "--patches", type=int, default=40, help="patches for StarDist's side, per image"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=int, default=0, metavar="N")
    args = parser.parse_args()
    cohort = Cohort(
        tuple(Slide(p.stem, p.stem, "0", (ImageSource(p, mpp=args.mpp),)) for p in args.images)
    )
    engines = {
        "openvino": SegmenterSettings(args.model),
        "openvino bfloat16": SegmenterSettings(args.model, precision="bfloat16"),
        "openvino float32": SegmenterSettings(args.model, precision="float32"),
        "tensorflow": SegmenterSettings(args.model, engine="tensorflow"),
    }
    if args.memory:
        watch_memory(cohort, engines["openvino"], args.memory)
        return
    seconds: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = {
            key: segment(cohort, folder / key / "warm", choice)[0]
            for key, choice in engines.items()
        }
        tables = {
            slide.slide_id: runs["openvino"].patches(slide.slide_id) for slide in cohort.slides
        }
        count = sum(int(table["kept"].sum()) for table in tables.values())
        references = {f"predict_instances, {args.model}": load_stardist(args.model)}
        if args.baseline:
            references[f"predict_instances, {args.baseline}"] = load_stardist(args.baseline)
        for model in references.values():
            model.predict_instances(np.zeros((256, 256, 3), np.float32))
        for repeat in range(args.repeats):
            for key, model in references.items():
                each = list(
                    stardist_patches(cohort, tables, model, folder / "stardist", limit=args.patches)
                )
                seconds[key].append(float(np.mean(each)))
            for key, choice in engines.items():
                seconds[key].append(segment(cohort, folder / key / str(repeat), choice)[1] / count)
        reference = min(seconds[f"predict_instances, {args.model}"])
        print(
            f"{count} patches of {len(args.images)} images, {CORES} cores; best of {args.repeats}"
        )
        for key, values in seconds.items():
            line = (
                f"{key:40} {1000 * min(values):7.1f} ms per patch, {reference / min(values):5.2f} x"
            )
            if args.baseline:
                line += (
                    f", {min(seconds[f'predict_instances, {args.baseline}']) / min(values):5.2f} "
                    "x baseline"
                )
            print(line)
        print("nuclei matched at IoU 0.9 with the tensorflow engine:")
        for key in (key for key in engines if key != "tensorflow"):
            shares = [
                matched_share(masks.labels[:], runs[key].masks(slide.slide_id)[region].labels[:])
                for slide in cohort.slides
                for region, masks in runs["tensorflow"].masks(slide.slide_id).items()
            ]
            print(f"  {key}: {np.mean(shares):.4f}")
        profile(cohort, folder / "profile", count)


def watch_memory(cohort: Cohort, choice: SegmenterSettings, patches: int) -> None:
    """Segment until so many patches are done."""
    done = number = 0
    while done < patches:
        with tempfile.TemporaryDirectory() as name:
            run, _ = segment(cohort, Path(name), choice)
            done += int(run.figures("segment")["patches_kept"].sum())
        number += 1
        if number % 5 == 1 or done >= patches:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            print(f"{done:6} patches: {pages * os.sysconf('SC_PAGE_SIZE') / 2**30:.2f} GiB")


def profile(cohort: Cohort, folder: Path, count: int) -> None:
    """Where processor time goes, the network's from what is left."""
    for owner, name in (
        (SlideImage, "read"),
        (pipeline, "cut_patches"),
        (pipeline, "find_regions"),
        (detect, "suppress"),
        (detect, "_draw"),
        (detect, "keep_largest_parts"),
    ):
        setattr(owner, name, clocked(name, getattr(owner, name)))
    before = os.times()
    segment(cohort, folder, SegmenterSettings())
    after = os.times()
    total = after.user + after.system - before.user - before.system
    print("processor ms per patch:", f"total {1000 * total / count:.1f};", end=" ")
    print(", ".join(f"{name} {1000 * value / count:.1f}" for name, value in sorted(SPENT.items())))


if __name__ == "__main__":
    main()
