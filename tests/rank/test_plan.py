"""The estimate of the time that training takes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from trait_cohort import synthetic_cohort

from morphomil.rank import plan, ranking, training
from morphomil.rank.folds import NullResult
from morphomil.rank.plan import STEP_COST
from morphomil.rank.ranking import rank_nuclei
from morphomil.types import FEATURE_NAMES, RankSettings


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
    monkeypatch.setattr(ranking, "time", SimpleNamespace(monotonic=lambda: clock[0]))
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


@pytest.mark.parametrize(("patients", "batches"), [(80, 4), (2000, 20)])
def test_pieces_are_all_that_is_trained(patients, batches):
    """Each set of the ablation and each labeling once, in batches as large as `models_at_once`."""
    training = plan.TrainingPlan.of(FEATURE_NAMES, RankSettings(0))
    pieces = training.pieces(patients, 200)
    for kind, count in (("ablation", len(training.kept)), ("null", 200)):
        rows = [piece.rows for piece in pieces if piece.kind == kind]
        assert np.concatenate(rows).tolist() == list(range(count))
    assert sum(piece.kind == "null" for piece in pieces) == batches
    assert len({piece.name for piece in pieces}) == len(pieces)
    assert not plan.TrainingPlan.of(FEATURE_NAMES, RankSettings(0, quick=True)).pieces(80, 5)


def test_results_of_further_labelings_are_joined():
    rng = np.random.default_rng(0)
    parts = [
        NullResult(rng.random((n, 8)), rng.random((n, 4)), rng.random((n, 4, 1))) for n in (2, 3)
    ]
    whole = NullResult.joined(parts)
    assert whole.wins.shape == (5, 4, 1)
    np.testing.assert_array_equal(whole.attention[2:], parts[1].attention)
    assert NullResult.joined([NullResult(rng.random((2, 8)))]).likelihood is None
    assert NullResult.joined([]) is None
