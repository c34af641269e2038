"""Memory, time and busy cores of one big slide: `segment` on synthetic ones of growing size.

    python benchmarks/big_slide.py [--sizes 20480x16384 40960x32768 100000x80000] [--tissue 0.5]

Each slide is a pyramid at 0.25 um per pixel, 4 and 16 times reduced, whose tissue is a pattern of
4,096 pixels that is repeated in an ellipse; the file holds each tile once. Each is segmented at 0.5
um per pixel in a process of its own, of which the highest resident memory is printed, and where in
the run it grew: the highest of each tenth.
"""

from __future__ import annotations

import argparse
import itertools
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from morphomil import pipeline
from morphomil.phantom import PhantomSettings
from morphomil.phantom.files import TILE_PX, _append_directory, _jpeg_tiles, _level_tags
from morphomil.phantom.paint import GLASS, render_slide
from morphomil.store import write_bytes
from morphomil.types import CORES, Cohort, ImageSource, SegmenterSettings, Slide

if TYPE_CHECKING:
    from numpy.typing import NDArray

MPP = 0.25
PATTERN_PX = 4096
FACTORS = (1, 4, 16)


def tissue_pattern() -> NDArray[np.uint8]:
    """RGB (`PATTERN_PX`, `PATTERN_PX`, 3) of tissue without glass."""
    settings = PhantomSettings(mpp=MPP, width_px=4096, height_px=4096)
    rgb, quarter = render_slide(settings, seed=(7, 0)).rgb, PATTERN_PX // 4
    return np.tile(rgb[quarter:-quarter, quarter:-quarter], (2, 2, 1))


def write_slide(path: Path, pattern: NDArray[np.uint8], size: tuple[int, int], share: float) -> int:
    """A slide of about this width and height with so much tissue; the number of pattern's copies in
    it."""
    columns, rows = (-(-side // PATTERN_PX) for side in size)
    y, x = np.mgrid[:rows, :columns] + 0.5
    away = ((x / columns - 0.5) ** 2 + (y / rows - 0.5) ** 2).ravel()
    tissue = np.zeros(rows * columns, bool)
    tissue[np.argsort(away, kind="stable")[: round(share * rows * columns)]] = True
    tissue = tissue.reshape(rows, columns)
    content = bytearray(struct.pack("<2sHI", b"II", 42, 0))
    image, link = Image.fromarray(pattern), 4
    glass = Image.new("RGB", (TILE_PX, TILE_PX), tuple(GLASS.astype(int).tolist()))
    for factor in FACTORS:
        stored = [*_jpeg_tiles(image.reduce(factor), 85), *_jpeg_tiles(glass, 85)]
        starts = list(itertools.accumulate(map(len, stored), initial=len(content)))
        content += b"".join(stored)
        side = PATTERN_PX // factor // TILE_PX
        own = np.arange(side * side).reshape(side, side)
        numbers = np.where(
            np.kron(tissue, np.ones((side, side), bool)), np.tile(own, (rows, columns)), side * side
        ).ravel()
        extent = columns * PATTERN_PX // factor, rows * PATTERN_PX // factor
        tags = _level_tags(extent, reduced=factor > 1, per_cm=1e4 / (MPP * factor))
        tags[324] = ("I", [starts[number] for number in numbers])
        tags[325] = ("I", [len(stored[number]) for number in numbers])
        link = _append_directory(content, tags, link=link)
    write_bytes(path, bytes(content))
    return int(tissue.sum())


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(path: Path) -> None:
    """Segment the slide and print what it took."""
    seen: list[int] = []
    done = Event()

    def watch() -> None:
        while not done.wait(0.05):
            seen.append(resident())

    cohort = Cohort((Slide(path.stem, path.stem, "0", (ImageSource(path, mpp=MPP),)),))
    Thread(target=watch, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        begun, before = time.perf_counter(), os.times()
        run, result = pipeline.segment(cohort, Path(folder), segmenter=SegmenterSettings())
        seconds, after = time.perf_counter() - begun, os.times()
        if result.failed:
            raise SystemExit(str(result.failed))
        figures = run.figures("segment").iloc[0]
    done.set()
    spent = after.user + after.system - before.user - before.system
    tenths = [max(part) / 2**30 for part in np.array_split(seen, 10) if len(part)]
    print(
        f"{path.stem}: {figures['patches_kept']} patches, {figures['nuclei_found']} nuclei, "
        f"{figures['tissue_mm2']:.0f} mm2; {seconds:.0f} s, "
        f"{1000 * seconds / figures['patches_kept']:.1f} ms per patch, "
        f"{spent / seconds / CORES:.0%} of {CORES} cores; highest {max(seen) / 2**30:.2f} GiB, by "
        f"tenths {' '.join(f'{value:.2f}' for value in tenths)}",
        flush=True,
    )


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["20480x16384", "40960x32768"])
    parser.add_argument("--tissue", type=float, default=0.5)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return
    pattern = tissue_pattern()
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            width, height = map(int, size.split("x"))
            path = Path(folder) / f"{size}.tif"
            write_slide(path, pattern, (width, height), args.tissue)
            command = [sys.executable, __file__, "--measure", str(path)]
            subprocess.run(command, check=True)
            path.unlink()


if __name__ == "__main__":
    main()
