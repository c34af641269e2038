"""What is foretold of measuring, embedding and training: how it grows, and who hears it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from morphomil import pipeline
from morphomil.pace import Cost
from morphomil.pipeline import measurement
from morphomil.pipeline.costs import (
    Work,
    foretell_embed,
    foretell_featurize,
    foretell_training,
    time_encoder,
)
from morphomil.run.directory import Run

SMALL, LARGE = Work(20, 200, 10_000, 600), Work(2000, 20_000, 1_000_000, 600)


def test_times_grow_with_the_work_and_a_slower_machine() -> None:
    for foretell in (
        foretell_featurize,
        lambda work, pace: foretell_embed(work, 0.01 * pace, pace=pace),
        lambda work, pace: foretell_training(work.slides, work.patches, 1280, folds=5, pace=pace),
    ):
        small, large = foretell(SMALL, pace=1.0), foretell(LARGE, pace=1.0)
        assert 10 * small.seconds < large.seconds <= 100 * small.seconds
        assert foretell(SMALL, pace=3.0).seconds == pytest.approx(3 * small.seconds)
        assert small.memory_bytes <= large.memory_bytes < 2 * 2**30


def test_memory_is_that_of_the_slides_that_are_worked_on() -> None:
    memory = [
        foretell_featurize(Work(100, 10_000, 10**7, nuclei), pace=1.0).memory_bytes
        for nuclei in (10**4, 10**6)
    ]
    assert memory[0] < memory[1]
    one = foretell_featurize(Work(1, 10_000, 10**6, 10**6), pace=1.0, cores=8)
    assert (
        one.memory_bytes
        < foretell_featurize(Work(8, 80_000, 8 * 10**6, 10**6), pace=1.0, cores=8).memory_bytes
    )


def test_an_encoder_is_timed_after_it_is_warm() -> None:
    calls = []

    def encode(patches: np.ndarray) -> np.ndarray:
        calls.append(patches.shape)
        return np.zeros((len(patches), 3), np.float32)

    assert 0 < time_encoder(encode, side=64) < 0.1
    assert calls == [(32, 64, 64, 3)] * 2


def test_what_is_foretold_is_of_the_slides_still_to_do(
    make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", ("a", "b"))
    for number, name in enumerate(("a", "b"), start=1):
        outputs = ["patches.parquet", "regions.geojson", "masks.zarr"]
        figures = {"patches_kept": 4, "nuclei_found": 90 * number}
        run.ledger.mark_done(name, "segment", "known", outputs=outputs, figures=figures)
    told: list[Cost] = []
    assert Work.of(run) == Work(2, 8, 270, 180)

    monkeypatch.setattr(measurement, "machine_pace", lambda: 1.0)
    pipeline.featurize(run)
    pipeline.featurize(run, on_estimate=told.append)
    assert told == []
    key = run.ledger.status("b")["featurize"]["key"]
    run.ledger.mark_failed("b", "featurize", key, "the disk is full")
    pipeline.featurize(run, on_estimate=told.append)
    assert told == [foretell_featurize(Work(1, 4, 180, 180), pace=1.0)]
