"""How segment, featurize, embed and train compare with what is foretold of them: time and memory.

python benchmarks/costs.py [--slides 20 200 1000] [--side 1024]

Each cohort is of squares of phantom tissue with so many working pixels a side, segmented in one
run, their nuclei imported in another, which the later stages go on with. Each stage works in a
process of its own, on a machine that nobody else uses.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from morphomil import pipeline
from morphomil.figures.report.overviews import draw_overviews
from morphomil.models.settings import TrainSettings
from morphomil.pace import Cost
from morphomil.phantom import PhantomSettings
from morphomil.phantom.paint import render_slide
from morphomil.pipeline import costs
from morphomil.pipeline.estimation import estimate_segment
from morphomil.pipeline.importing import import_nuclei
from morphomil.run import Run
from morphomil.types import Cohort, ImageSource, PatchSettings, Slide

DIFFERENT = 4
"""So many squares are painted; further slides are copies."""
TRAINING = TrainSettings("dl-cnb", folds=5)
WHOLE = PatchSettings(regions="whole")


def squares(folder: Path) -> Cohort:
    """The slides of `make_run`."""
    places = sorted(folder.glob("s?????.png"))
    slides = [
        Slide(place.stem, place.stem, str(number // 2 % 2), (ImageSource(place, mpp=0.5),))
        for number, place in enumerate(places)
    ]
    return Cohort(tuple(slides))


def make_run(folder: Path, slides: int, side: int) -> None:
    """Slides, and a run in which they have masks."""
    settings = PhantomSettings(width_px=2 * side, height_px=2 * side)
    cut = np.s_[side // 2 : side // 2 + side, side // 2 : side // 2 + side]
    for number in range(DIFFERENT):
        phantom = render_slide(settings, seed=1, number=number)
        Image.fromarray(phantom.rgb[cut]).save(folder / f"square{number}.png")
        labels = phantom.labels[cut].astype(np.uint16)
        Image.fromarray(labels).save(folder / f"labels{number}.png")
    nuclei = {}
    for number in range(slides):
        place = folder / f"s{number:05d}.png"
        place.symlink_to(folder / f"square{number % DIFFERENT}.png")
        nuclei[place] = folder / f"labels{number % DIFFERENT}.png"
    _, result = import_nuclei(squares(folder), nuclei, folder / "run", settings=WHOLE)
    assert not result.failed


def ask(*words: str | Path) -> dict[str, float]:
    """What a process of its own says of one step: `--here`."""
    command = [sys.executable, __file__, "--here", *words]
    made = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(made.stdout.splitlines()[-1]))


def foretell(folder: Path) -> dict[str, float]:
    """What is foretold of segmenting."""
    told = estimate_segment(squares(folder), folder / "segmented", settings=WHOLE)
    return told.costs["segment"]._asdict()


def work(stage: str, folder: Path) -> dict[str, float]:
    """What was foretold, and what it took."""
    cohort, told = squares(folder), []
    if stage == "segment":
        told.append(Cost(**ask("foretell", folder)))
    run = Run.open(folder / "run")
    load = costs.Work.of(run)
    begun, used = time.perf_counter(), time.process_time()
    if stage == "segment":
        segmented, _ = pipeline.segment(cohort, folder / "segmented", settings=WHOLE)
        draw_overviews(segmented)
    elif stage == "featurize":
        pipeline.featurize(run, on_estimate=told.append)
    elif stage == "embed":
        pipeline.embed(run, on_estimate=told.append)
    else:
        pipeline.train(run, TRAINING, on_estimate=told.append)
    seconds, used = time.perf_counter() - begun, time.process_time() - used
    (cost,) = told
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "patches": load.patches,
        "nuclei": load.nuclei,
        "seconds": seconds,
        "processor": used,
        "gib": memory,
        "seconds_foretold": cost.seconds / seconds,
        "gib_foretold": cost.memory_bytes / 2**30 / memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slides", type=int, nargs="+", default=[20, 200, 1000])
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--here", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        stage, folder = given.here[0], Path(given.here[1])
        print(json.dumps(foretell(folder) if stage == "foretell" else work(stage, folder)))
        return
    for slides in given.slides:
        with tempfile.TemporaryDirectory() as folder:
            make_run(Path(folder), slides, given.side)
            for stage in ("segment", "featurize", "embed", "train"):
                row = ask(stage, folder)
                numbers = "  ".join(f"{name} {value:.5g}" for name, value in row.items())
                print(f"{slides:6d} {stage:10s} {numbers}", flush=True)


if __name__ == "__main__":
    main()
