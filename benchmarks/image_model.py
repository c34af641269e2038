"""How long an epoch of the image model takes on a cohort of the paper's size, beside a loop of one
bag per step.

python benchmarks/image_model.py [--patients 630] [--bags 4500] [--features 512] [--epochs 3]
[--loop]

Features are random and lie in files, as `morphomil embed` leaves them. `--loop` also times the
reference: one bag per step of torch's Adam on the same head, as in the paper's released code.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from morphomil.image_model.model import build_head
from morphomil.image_model.recipe import PRESETS
from morphomil.image_model.rows import ImageCohort, Rows
from morphomil.image_model.training import train_image_model
from morphomil.types import CORES


def write_features(folder: Path, *, patients: int, bags: int, features: int) -> list[Path]:
    """One file per patient, the bags spread as unevenly as in the paper: most have a few, some
    dozens."""
    rng = np.random.default_rng(0)
    share = rng.lognormal(0, 1, patients)
    count = np.maximum(1, np.floor(share / share.sum() * (bags - patients) + 1)).astype(int)
    count[count.argmax()] += bags - count.sum()
    paths = []
    for number, own in enumerate(count):
        paths.append(folder / f"{number}.npy")
        np.save(paths[-1], rng.standard_normal((10 * own, features), np.float32).astype(np.float16))
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patients", type=int, default=630)
    parser.add_argument("--bags", type=int, default=4500)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--loop", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = write_features(
            Path(folder), patients=given.patients, bags=given.bags, features=given.features
        )
        cohort = ImageCohort(
            tuple(path.stem for path in paths),
            Rows(paths=paths),
            np.arange(given.patients),
            np.arange(given.patients) % 2,
            2,
        )
        everyone = np.arange(given.patients)
        times = [time.perf_counter()]
        train_image_model(
            cohort,
            train=everyone,
            val=everyone[:20],
            recipe=replace(PRESETS["default"], epochs=given.epochs),
            seed=0,
            on_epoch=lambda done, total: times.append(time.perf_counter()),
        )
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        epochs = " ".join(f"{second:.1f}" for second in np.diff(times))
        shape = f"{given.patients} patients, {given.bags} bags of 10 x {given.features}"
        print(f"{shape}: epochs of {epochs} s, {CORES} cores, {memory:.2f} GiB")
        if given.loop:
            print(f"the reference loop: {time_loop(cohort):.1f} s an epoch")


def time_loop(cohort: ImageCohort, *, timed: int = 600) -> float:
    """Seconds of an epoch with one bag per step, from the first so many bags; one thread, the
    quickest."""
    torch.set_num_threads(1)
    head = build_head(cohort.rows.width, classes=2, clinical=0, recipe=PRESETS["paper"]).train()
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-4, weight_decay=1e-3)
    owners = [
        (bag, p)
        for slide, p in enumerate(cohort.patient)
        for bag in cohort.bags(slide, size=10, key=(0,))
    ]
    begun = time.perf_counter()
    for bag, patient in owners[:timed]:
        logits, _ = head(cohort.rows.read(bag))
        loss = torch.nn.functional.cross_entropy(
            logits[None], torch.from_numpy(cohort.labels[[patient]])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - begun) * len(owners) / timed


if __name__ == "__main__":
    main()
