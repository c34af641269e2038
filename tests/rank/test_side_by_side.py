"""Folds trained side by side: the same results, and an end when one fails."""

from __future__ import annotations

import threading

import pandas as pd
import pytest

from morphomil.errors import TrainingError
from morphomil.rank import bags, plan, ranking
from morphomil.rank.model import side_by_side
from morphomil.rank.ranking import rank_nuclei


def rank_on(cores: int, monkeypatch, small, **changes):
    monkeypatch.setattr(ranking, "CORES", cores)
    monkeypatch.setattr(bags, "CORES", cores)
    heard = []
    nuclei, cohort = small
    found = rank_nuclei(
        nuclei, cohort, seed=0, folds=3, on_fold=lambda *done: heard.append(done), **changes
    )
    assert heard == [(1, 3), (2, 3), (3, 3)]
    return found


def test_a_ranking_is_the_same_on_one_core_and_on_three(monkeypatch, small):
    one, three = (rank_on(cores, monkeypatch, small, permutations=60) for cores in (1, 3))
    for name in ("table", "predictions", "attention", "shapley", "stability"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(three, name), check_exact=True)


def test_a_fold_that_fails_is_left_out_beside_the_others(monkeypatch, small):
    begin, permute = plan.TrainingPlan.begin, ranking.FoldTask.permute

    def fail(task, fold):
        if task.fold.name == fold:
            raise TrainingError("the loss is not a number")

    def begin_but_first(self, task, labelings):
        fail(task, "fold1")
        return begin(self, task, labelings)

    def permute_but_second(task, *given):
        fail(task, "fold2")
        return permute(task, *given)

    for owner, name, replaced, fold in (
        (plan.TrainingPlan, "begin", begin_but_first, "fold1"),
        (ranking.FoldTask, "permute", permute_but_second, "fold2"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, replaced)
            found = rank_on(2, patch, small, permutations=4, ablation=False)
        assert found.failed == {fold: "the loss is not a number"}
        assert len(found.models) == 2


def test_parts_end_when_another_fails():
    begun, ended = threading.Event(), threading.Event()

    def work(part, check):
        if part == 0:
            begun.wait(60)
            raise OSError("no room")
        begun.set()
        try:
            while True:
                check()
        finally:
            ended.set()

    with pytest.raises(OSError, match="no room"):
        list(side_by_side(work, [0, 1], workers=2))
    assert ended.is_set()
