"""Run as a program: an analysis through a real SLURM, with kills, compared with one machine's.

    python tests/cluster/try_slurm.py FOLDER [--kills 10] [--slides 12] [--demo] [--slides-only]

Installs and starts SLURM here (root), makes a cohort of phantoms, one of whose slides can't be
read, does the whole analysis with `morphomil run`, and again by `snakemake --profile slurm`. Jobs
are killed, time and again the driver is too, and the first segmenting jobs are given too little
memory. Prints what became of it; exit status 1 unless both runs hold the same bytes.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import slurm

sys.path.append(str(Path(__file__).parents[1]))
from compare_runs import differences, files_of

from morphomil.phantom.files import write_cohort
from morphomil.phantom.settings import PhantomSettings

PROGRAM = str(Path(sys.executable).with_name("morphomil"))
SMALL = PhantomSettings(width_px=700, height_px=600)
PARTS = 3
FEW_MB = 400
"""Segmenting needs more."""


def prepare(folder: Path, slides: int, *, demo: bool) -> Path:
    """The cohort, one of whose slides is broken, and the settings of the analysis; the manifest."""
    settings = PhantomSettings() if demo else SMALL
    manifest = write_cohort(folder / "cohort", slides=slides, seed=1, shift=3.0, settings=settings)
    broken = sorted((folder / "cohort" / "slides").glob("*.tif"))[-1]
    broken.write_bytes(broken.read_bytes()[:5000])
    return manifest


def make_folder(folder: Path, manifest: Path) -> None:
    words = ["cluster", "init", manifest, "--out", folder / "run", "--folder", folder]
    subprocess.run([PROGRAM, *words, "--threads", "1"], check=True)
    settings = folder / "morphomil.yaml"
    text = settings.read_text().replace('  models: ""', '  models: "clinical"')
    text = text.replace('  covariates: ""', '  covariates: "age"', 1)
    settings.write_text(text.replace("  permutations: 199", "  permutations: 9"))
    plan = (folder / "plan.csv").read_text().splitlines()
    rows = [re.sub(r",\d+,", f",{n % PARTS + 1},", row) for n, row in enumerate(plan[1:])]
    (folder / "plan.csv").write_text("\n".join([plan[0], *rows]) + "\n")
    config = folder / "config.yaml"
    text = config.read_text().replace("program: morphomil", f"program: {PROGRAM}")
    text = re.sub(r"(segment: .*memory_mb: )\d+", rf"\g<1>{FEW_MB}", text)
    config.write_text(re.sub(r"(train: \{)", r"\1partition: gpu, ", text))


def drive(folder: Path, kills: int, targets: list[str]) -> dict[str, int]:
    """Let the driver work until it ends well, while jobs and drivers are killed; what was done."""
    chance, counts = random.Random(1), {"jobs killed": 0, "drivers killed": 0, "drivers": 0}
    words = [sys.executable, "-m", "snakemake", "--profile", "slurm", "--retries", "9"]
    words += ["--slurm-status-command", "squeue", *targets]
    while True:
        counts["drivers"] += 1
        with (folder / f"driver{counts['drivers']}.log").open("w") as log:
            driver = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log)
            while driver.poll() is None:
                time.sleep(chance.uniform(20, 60))
                killed = counts["jobs killed"] + counts["drivers killed"]
                if killed >= kills:
                    driver.wait()
                elif not (folder / "done" / "validate").exists():
                    continue  # the kills are meant for the work on slides and after it
                elif killed % 4 == 3:
                    driver.send_signal(signal.SIGKILL)
                    driver.wait()
                    counts["drivers killed"] += 1
                elif running := slurm.jobs():
                    job = chance.choice(running)
                    subprocess.run(["scancel", "--signal=KILL", "--full", job], check=False)
                    counts["jobs killed"] += 1
        if driver.returncode == 0:
            return counts
        if driver.returncode != -signal.SIGKILL:
            raise SystemExit(f"the driver ended with {driver.returncode}: {log.name}")


def work_alone(folder: Path, manifest: Path, *, slides_only: bool) -> None:
    """The same analysis by one machine.

    Raises:
        SystemExit: it ends otherwise than with status 3, which stands for the broken slide.
    """
    run = folder / "run"
    stages = [["run", folder]]
    if slides_only:
        settings = ["--settings", folder / "morphomil.yaml"]
        stages = [[*settings, "segment", manifest, "--out", run], [*settings, "featurize", run]]
    log = folder.with_suffix(".log")
    with log.open("w") as stream:
        ends = [
            subprocess.run([PROGRAM, *words], stdout=stream, stderr=stream, check=False).returncode
            for words in stages
        ]
    if ends not in ([3], [3, 0]):
        raise SystemExit(f"one machine's run ended with {ends}: {log}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--slides", type=int, default=12)
    parser.add_argument("--demo", action="store_true", help="Slides as large as the demo's.")
    parser.add_argument("--slides-only", action="store_true", help="End before the ranking.")
    arguments = parser.parse_args()
    if not slurm.may_run():
        raise SystemExit("only root can start SLURM, on a Debian")
    slurm.install()
    folder = arguments.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    manifest = prepare(folder, arguments.slides, demo=arguments.demo)
    one, many = folder / "one", folder / "many"
    for each in (one, many):
        make_folder(each, manifest)
    begun = time.monotonic()
    work_alone(one, manifest, slides_only=arguments.slides_only)
    print(f"one machine: {time.monotonic() - begun:.0f} s, status 3, as a slide is broken")
    begun = time.monotonic()
    with slurm.running(folder / "slurm", cpus=os.cpu_count() or 1):
        counts = drive(many, arguments.kills, ["done/gather"] if arguments.slides_only else [])
    told = ", ".join(f"{name} {count}" for name, count in counts.items())
    print(f"SLURM: {time.monotonic() - begun:.0f} s; {told}")
    lines = differences(one / "run", many / "run")
    print("\n".join(lines) or f"the same: {len(files_of(one / 'run'))} files")
    lost = (many / "lost_slides.csv").read_text().splitlines()
    print(f"left out: {lost[1:]}")
    sys.exit(bool(lines) or len(lost) != 2)


if __name__ == "__main__":
    main()
