"""Patches per second, pixels to stored masks: StarDist patch by patch against `morphomil segment`,
in one run.

The patches are those that `segment` keeps of the images given (JPEG, PNG or slides). StarDist's
side is what a script would do: read a patch, divide by 255, `predict_instances`, store the mask.
Both sides write Zarr.

    python benchmarks/segment.py IMAGE... --mpp 0.5 [--baseline FOLDER] [--beside FOLDER]
        [--repeats 3] [--quick]

`--baseline` is another StarDist folder, timed patch by patch too; `--beside` another model of the
shipped architecture, such as one without the outlines' head, segmented in the same run to see what
the head costs. What telling nuclei from other objects costs is the difference to `keep`.

With `--memory N` the images are segmented over and over until N patches are done, and the memory of
the process is printed on the way.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from morphomil.pipeline import segmentation
from morphomil.segment import detect, model, polygons
from morphomil.segment.agreement import overlaps
from morphomil.slides.image import SlideImage, open_image
from morphomil.types import CORES, Cohort, ImageSource, SegmenterSettings, Slide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd
    from numpy.typing import NDArray

    from morphomil.run.directory import Run

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


def seconds_now() -> NDArray[np.float64]:
    """Seconds by the wall clock, and processor seconds of this process."""
    spent = os.times()
    return np.array([time.perf_counter(), spent.user + spent.system])


def segment(
    cohort: Cohort, folder: Path, settings: SegmenterSettings
) -> tuple[Run, NDArray[np.float64]]:
    """A run of the stage with the segmenter loaded, and what `seconds_now` tells of it."""
    model.load_segmenter(settings)
    begun = seconds_now()
    run, result = segmentation.segment(cohort, folder, segmenter=settings)
    if result.failed:
        raise SystemExit(str(result.failed))
    return run, seconds_now() - begun


def stardist_patches(
    cohort: Cohort, tables: dict[str, pd.DataFrame], reference: Any, folder: Path, *, limit: int
) -> Iterator[NDArray[np.float64]]:
    """What `seconds_now` tells of each patch."""
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
                begun = seconds_now()
                rgb = image.read(x, y, side, side, downsample=downsample).astype(np.float32) / 255
                stored[number] = reference.predict_instances(rgb)[0]
                yield seconds_now() - begun


def matched_share(one: NDArray[np.integer], other: NDArray[np.integer], iou: float = 0.9) -> float:
    """Share of the nuclei of two label images that have a partner."""
    pairs = overlaps(one, other)
    return float(
        2
        * (pairs.iou > iou).sum()
        / ((pairs.areas_annotated > 0).sum() + (pairs.areas_found > 0).sum())
    )


def read_arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--model", default="default")
    parser.add_argument("--baseline", help="another StarDist folder, timed patch by patch too")
    parser.add_argument("--beside", help="another model folder, segmented in the same run")
    parser.add_argument(
        "--patches", type=int, default=40, help="patches for StarDist's side, per image"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="the default engine only")
    parser.add_argument("--memory", type=int, default=0, metavar="N")
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    args = read_arguments()
    # the library keeps four segmenters; a fifth would be compiled anew in every timed run
    model.load_segmenter = cache(model.load_segmenter.__wrapped__)
    cohort = Cohort(
        tuple(Slide(p.stem, p.stem, "0", (ImageSource(p, mpp=args.mpp),)) for p in args.images)
    )
    engines = {
        "openvino": SegmenterSettings(args.model),
        "openvino, implausible keep": SegmenterSettings(args.model, implausible="keep"),
        "openvino bfloat16": SegmenterSettings(args.model, precision="bfloat16"),
        "openvino float32": SegmenterSettings(args.model, precision="float32"),
        "tensorflow": SegmenterSettings(args.model, engine="tensorflow"),
    }
    if args.quick:
        engines = {"openvino": engines["openvino"]}
    if args.beside:
        engines[f"openvino, {args.beside}"] = SegmenterSettings(args.beside)
    if args.memory:
        watch_memory(cohort, engines["openvino"], args.memory)
        return
    names = [args.model, *([args.baseline] if args.baseline else [])]
    references = {f"predict_instances, {name}": model.load_stardist(name) for name in names}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = {
            key: segment(cohort, folder / key / "warm", settings)[0]
            for key, settings in engines.items()
        }
        tables = {s.slide_id: runs["openvino"].patches(s.slide_id) for s in cohort.slides}
        count = sum(int(table["kept"].sum()) for table in tables.values())
        seconds: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
        for reference in references.values():
            reference.predict_instances(np.zeros((256, 256, 3), np.float32))
        for repeat in range(args.repeats):
            for key, reference in references.items():
                place = folder / "stardist"
                each = list(stardist_patches(cohort, tables, reference, place, limit=args.patches))
                seconds[key].append(np.mean(each, axis=0))
            for key, settings in engines.items():
                spent = segment(cohort, folder / key / str(repeat), settings)[1]
                seconds[key].append(spent / count)
        print(f"{count} patches of {len(cohort)} images, {CORES} cores; best of {args.repeats}")
        print_speeds(seconds, list(references))
        if "tensorflow" in runs:
            print_agreement(cohort, runs)
        profile(cohort, folder / "profile", engines["openvino"], count)


def print_speeds(seconds: dict[str, list[NDArray[np.float64]]], references: list[str]) -> None:
    """The best time of each way, by the wall clock and of the processor, and how much faster that
    is than each reference."""
    best = {key: np.min(values, axis=0) for key, values in seconds.items()}
    for key, value in best.items():
        parts = [f"{key:40} {1000 * value[0]:7.1f} ms per patch, processor {1000 * value[1]:.1f}"]
        for reference in references:
            wall, processor = best[reference] / value
            parts.append(f"{wall:.2f} x {reference} (processor {processor:.2f} x)")
        print("; ".join(parts))


def print_agreement(cohort: Cohort, runs: dict[str, Run]) -> None:
    """The share of the tensorflow engine's nuclei that the other engines find."""
    print("nuclei matched at IoU 0.9 with the tensorflow engine:")
    for key in (key for key in runs if key != "tensorflow"):
        shares = [
            matched_share(masks.labels[:], runs[key].masks(slide.slide_id)[region].labels[:])
            for slide in cohort.slides
            for region, masks in runs["tensorflow"].masks(slide.slide_id).items()
        ]
        print(f"  {key}: {np.mean(shares):.4f}")


def watch_memory(cohort: Cohort, settings: SegmenterSettings, patches: int) -> None:
    """Segment until so many patches are done."""
    done = number = 0
    while done < patches:
        with tempfile.TemporaryDirectory() as name:
            run, _ = segment(cohort, Path(name), settings)
            done += int(run.figures("segment")["patches_kept"].sum())
        number += 1
        if number % 5 == 1 or done >= patches:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            print(f"{done:6} patches: {pages * os.sysconf('SC_PAGE_SIZE') / 2**30:.2f} GiB")


def profile(cohort: Cohort, folder: Path, settings: SegmenterSettings, count: int) -> None:
    """Where processor time goes, the network's from what is left."""
    for owner, name in (
        (SlideImage, "read"),
        (segmentation, "cut_patches"),
        (segmentation, "survey_regions"),
        (detect, "suppress"),
        (detect, "_trace_block"),
        (detect, "_block_evidence"),
        (polygons, "draw"),
        (polygons, "keep_largest_parts"),
    ):
        setattr(owner, name, clocked(name, getattr(owner, name)))
    before = os.times()
    segment(cohort, folder, settings)
    after = os.times()
    total = after.user + after.system - before.user - before.system
    print("processor ms per patch:", f"total {1000 * total / count:.1f};", end=" ")
    print(", ".join(f"{name} {1000 * value / count:.1f}" for name, value in sorted(SPENT.items())))


if __name__ == "__main__":
    main()
