"""The estimate of the time that training takes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from trait_cohort import synthetic_cohort

from morphomil.rank import plan, ranking, training
from morphomil.rank.plan import STEP_COST
from morphomil.rank.ranking import rank_nuclei


@pytest.mark.parametrize("trait", [None, "density"])
def test_the_estimate_foretells_all_training_that_follows(trait, monkeypatch):
    """On a clock that is moved by training alone, by its steps, models and patients."""
    nuclei, cohort = synthetic_cohort(8, trait=trait, patients=40, patches=4, per_patch=12)
    clock, heard = [0.0], []
    train = training.train_morphometry

    def train_and_move_the_clock(bags, labels, **options):
        trained = train(bags, labels, **options)
        steps = trained.log.groupby("replicate")["step"].max()
        clock[0] += STEP_COST * steps.max() + steps.sum() * len(np.unique(bags.patient))
        return trained

    monkeypatch.setattr(training, "train_morphometry", train_and_move_the_clock)
    monkeypatch.setattr(ranking, "CORES", 1)  # one clock for one fold at a time
    monkeypatch.setattr(plan, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    rank_nuclei(
        nuclei,
        cohort,
        seed=0,
        folds=3,
        permutations=60,
        on_estimate=lambda left: heard.append((clock[0], left)),
    )
    ((when, left),) = heard
    assert left == pytest.approx(clock[0] - when, rel=0.3)
