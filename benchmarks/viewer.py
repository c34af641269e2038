"""Times the slide browser on a synthetic slide with a million nuclei, in headless Chromium.

    python benchmarks/viewer.py FOLDER [--nuclei 1000000]

FOLDER keeps the slide and its run for the next time. Printed are: seconds until `morphomil view`
has its address, until the page shows nuclei, until all of about 100,000 outlines in view are drawn;
frames per second while they are moved about, with the page's own work per frame; seconds from a
click to a nucleus; memory of the server. Seconds of processor time stand beside, which a busy
machine leaves alone (the server's; of a frame, those of the page's thread). Without a GPU frames
are painted by the CPU: what the page does per frame is then the better measure.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import tifffile
import zarr
from PIL import Image

from morphomil.nuclei.polygons import measure_outlines
from morphomil.run import Run
from morphomil.slides.masks import PAD_PX, DrawnNuclei, MaskFrame, RegionOutlines, store_region
from morphomil.store import write_json, write_parquet
from morphomil.types import NUCLEI, NUCLEUS_TYPES, PATCHES, Cohort, ImageSource, Slide

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import chromium

MPP, PATCH_PX, TILE_PX, VERTICES = 0.5, 256, 512, 32
PER_MM2 = 5000.0
IN_VIEW = 100_000
WIDTH, HEIGHT = 1280, 900
ASIDE_PX = 280
"""The page's column of controls, beside the slide."""
SECONDS = 5


def draw_nuclei(count: int, side_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (m, 2), mask pixels, and ends of tilted, uneven ellipses on a shaken grid."""
    rng = np.random.default_rng(0)
    columns = int(np.ceil(np.sqrt(count)))
    step = side_px / columns
    at = np.stack(np.meshgrid(*[np.arange(columns)] * 2), -1).reshape(-1, 2)[:count]
    centers = (at + 0.5 + rng.uniform(-0.2, 0.2, at.shape)) * step + PAD_PX
    angle = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    long, short = rng.uniform(7, 10, (count, 1)), rng.uniform(4, 7, (count, 1))
    turn = rng.uniform(0, np.pi, (count, 1))
    uneven = 1 + 0.05 * rng.standard_normal((count, VERTICES))
    x, y = long * np.cos(angle) * uneven, short * np.sin(angle) * uneven
    shapes = np.stack(
        [x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], -1
    )
    vertices = (centers[:, None] + shapes).astype(np.float32).reshape(-1, 2)
    return vertices, np.arange(1, len(at) + 1, dtype=np.int64) * VERTICES


def write_slide(path: Path, side: int) -> None:
    """A tiled pyramid of JPEG, each level of one tile repeated."""
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 12, (TILE_PX, TILE_PX, 1)) + np.array([225, 170, 205])
    buffer = io.BytesIO()
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=80)

    def tiles(count: int) -> Iterator[bytes]:
        for _ in range(count):
            yield buffer.getvalue()

    with tifffile.TiffWriter(path, bigtiff=True) as file:
        level = side
        while level >= TILE_PX:
            file.write(
                tiles((-(-level // TILE_PX)) ** 2),
                shape=(level, level, 3),
                dtype="uint8",
                tile=(TILE_PX, TILE_PX),
                compression="jpeg",
                photometric="ycbcr",
                subsampling=(2, 2),
                subfiletype=int(level != side),
                resolution=(1e4 / MPP, 1e4 / MPP),
                resolutionunit="CENTIMETER",
            )
            level //= 2


def make_run(folder: Path, count: int) -> Run:
    """A measured run of one slide."""
    patches_wide = round(np.sqrt(count / PER_MM2) * 1000 / MPP / PATCH_PX)
    side = patches_wide * PATCH_PX
    folder.mkdir(parents=True, exist_ok=True)
    run = Run.create(folder / "run")
    source = ImageSource(folder / "slide.tif", mpp=MPP)
    write_slide(source.path, side)
    run.save_cohort(Cohort((Slide("million", "P1", "1", (source,)),)))
    home = run.slide_folder("million")
    vertices, ends = draw_nuclei(count, side)
    frame = MaskFrame(
        shape=(side + 2 * PAD_PX,) * 2, x_px=-PAD_PX, y_px=-PAD_PX, downsample=1.0, mpp=MPP,
        patch_px=PATCH_PX, image=0,
    )  # fmt: skip
    drawn = DrawnNuclei(count, [], RegionOutlines(1, vertices, ends))  # nothing reads the pixels
    group = zarr.open_group(home / "masks.zarr", mode="w")
    blocks = (patches_wide * PATCH_PX // 4,) * 2
    store_region(group, 0, frame, drawn, np.ones(blocks, bool))
    row, column = np.divmod(np.arange(patches_wide**2), patches_wide)
    patches = pd.DataFrame({"patch_id": np.arange(patches_wide**2), "image": 0, "region": 0})
    patches = patches.assign(
        slide_id="million", x_px=column * 256.0, y_px=row * 256.0, side_px=256.0, kept=True,
        blank_fraction=0.0, tissue_mm2=(PATCH_PX * MPP / 1000) ** 2, ink_fraction=0.0,
        sharpness=0.1,
    )  # fmt: skip
    write_parquet(home / "patches.parquet", PATCHES.check(patches))
    edge = [[0, 0], [side, 0], [side, side], [0, side], [0, 0]]
    properties = {"objectType": "annotation", "name": "r", "image": 0, "region": 0}
    geometry = {"type": "Polygon", "coordinates": [edge]}
    feature = {"type": "Feature", "geometry": geometry, "properties": properties}
    write_json(home / "regions.geojson", {"type": "FeatureCollection", "features": [feature]})
    outputs = ["patches.parquet", "regions.geojson", "masks.zarr"]
    run.ledger.mark_done("million", "segment", "made", outputs=outputs, figures={})
    write_nuclei(run, vertices, ends, patches_wide)
    return run


def write_nuclei(run: Run, vertices: np.ndarray, ends: np.ndarray, patches_wide: int) -> None:
    """The table of nuclei: shapes as measured, density and types at random."""
    rng = np.random.default_rng(2)
    table = measure_outlines(vertices - 0.5, ends, mpp=MPP)
    table[["x_px", "y_px"]] += 0.5 - PAD_PX
    place = (table[["x_px", "y_px"]] // PATCH_PX).astype(int).clip(0, patches_wide - 1)
    kinds = pd.Categorical.from_codes(rng.integers(0, 4, len(table)), list(NUCLEUS_TYPES))
    table = table.assign(
        slide_id="million", image=0, patch_id=place["y_px"] * patches_wide + place["x_px"],
        density_per_mm2=rng.normal(PER_MM2, 500, len(table)), type=kinds, type_probability=0.8,
    )  # fmt: skip
    write_parquet(run.slide_folder("million") / "nuclei.parquet", NUCLEI.check(table))
    run.ledger.mark_done("million", "featurize", "made", outputs=["nuclei.parquet"], figures={})


def memory_mib(pid: int) -> float:
    """Resident memory of a process; NaN where the system doesn't say."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((float(line.split()[1]) / 1024 for line in lines if "VmRSS" in line), float("nan"))


def processor_seconds(pid: int) -> float:
    """What a process has used; NaN where the system doesn't say."""
    status = Path(f"/proc/{pid}/stat")
    if not status.is_file():
        return float("nan")
    user, system = status.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def wait_for(browser: chromium.Browser, script: str, begun: float) -> float:
    """Seconds from `begun` until an expression is true."""
    browser.wait(script, seconds=600)
    return time.perf_counter() - begun


MOVE = """new Promise((done) => {
  const times = [], begun = performance.now();
  const step = (now) => {
    times.push(now);
    const turn = (now - begun) / 600;
    const by = new OpenSeadragon.Point(0.0016 * Math.cos(turn), 0.0016 * Math.sin(turn));
    viewer.viewport.panBy(by, true);
    if (now - begun < SECONDS * 1000) requestAnimationFrame(step); else done(times);
  };
  requestAnimationFrame(step);
})""".replace("SECONDS", str(SECONDS))


def script_seconds(browser: chromium.Browser) -> float:
    """How long the page's scripts have run on a processor."""
    metrics: list[dict[str, Any]] = browser.call("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in metrics if one["name"] == "ScriptDuration"))


def measure(run: Run) -> None:
    program = [sys.executable, "-c", "from morphomil.cli.main import run; run()"]
    begun = time.perf_counter()
    words = ["view", str(run.path), "--no-browser", "--reviewer", "benchmark"]
    with subprocess.Popen([*program, *words], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[1]
        used = processor_seconds(server.pid)
        print(f"address after {time.perf_counter() - begun:.1f} s (processor {used:.1f} s)")
        try:
            look(server.pid, address)
        finally:
            server.terminate()


def look(server: int, address: str) -> None:
    """Open the page and print how long everything takes."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        used = processor_seconds(server)
        layers = "document.querySelector('canvas.layers')?.dataset"
        with chromium.Browser(Path(profile)) as browser:
            browser.call("Performance.enable", timeDomain="threadTicks")
            begun = time.perf_counter()
            browser.open(address, width=WIDTH, height=HEIGHT)
            some = f"Number({layers}?.nuclei) + Number({layers}?.cells) > 0"
            seconds, used = wait_for(browser, some, begun), processor_seconds(server) - used
            print(f"whole slide, nuclei shown after {seconds:.1f} s (processor {used:.1f} s)")
            print(f"server {memory_mib(server):.0f} MiB")
            area = (WIDTH - ASIDE_PX) * HEIGHT
            mpp = np.sqrt(1.04 * IN_VIEW / PER_MM2 * 1e6 / area)
            middle = browser.ask("viewer.world.getItemAt(0).getContentSize().x / 2")
            begun, used = time.perf_counter(), processor_seconds(server)
            browser.ask(f"location.hash = '#slide=million&image=0&x={middle}&y={middle}&mpp={mpp}'")
            full = f"Number({layers}.missing) === 0 && Number({layers}.nuclei) > {0.9 * IN_VIEW}"
            seconds = wait_for(browser, full, begun)
            used = processor_seconds(server) - used
            count = browser.ask(f"Number({layers}.nuclei)")
            print(
                f"{count:,} outlines in the tiles in view, {IN_VIEW:,} or more in view, after "
                f"{seconds:.1f} s (processor {used:.1f} s)"
            )
            for name in ("first", "again"):
                worked = script_seconds(browser)
                times = browser.ask(MOVE)
                frames = np.diff(times)
                worked = (script_seconds(browser) - worked) / len(frames)
                print(
                    f"moving, {name}: {1000 * len(frames) / sum(frames):.0f} frames per second, "
                    f"median {statistics.median(frames):.1f} ms, 95 % within "
                    f"{np.percentile(frames, 95):.0f} ms; scripts {1000 * worked:.2f} ms per frame"
                )
            begun = time.perf_counter()
            browser.ask("document.getElementById('next').click()")
            chosen = "!document.getElementById('nucleus').hidden"
            print(f"a nucleus after {wait_for(browser, chosen, begun):.2f} s")
            print(f"server {memory_mib(server):.0f} MiB; problems: {browser.problems or 'none'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the slide lies, or is made")
    parser.add_argument("--nuclei", type=int, default=1_000_000)
    arguments = parser.parse_args()
    folder = arguments.folder / str(arguments.nuclei)
    done = folder / "run" / "slides" / "million" / "nuclei.parquet"
    measure(Run.open(folder / "run") if done.is_file() else make_run(folder, arguments.nuclei))


if __name__ == "__main__":
    main()
