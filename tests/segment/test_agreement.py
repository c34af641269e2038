"""Agreement metrics against StarDist's matching and a plain transcription of the AJI's
definition."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.draw import disk
from sklearn.metrics import f1_score

from morphomil.segment.agreement import IOU_LEVELS, agreement


def shifted_discs(shift: int) -> tuple[np.ndarray, np.ndarray]:
    truth, found = np.zeros((2, 120, 160), np.int32)
    for number, center in enumerate([(20, 20), (20, 60), (60, 40), (90, 120)], start=1):
        truth[disk(center, 11)] = number
        if number != 3:
            found[disk((center[0] + shift, center[1]), 11)] = number + 10
    found[disk((60, 100), 8)] = 40
    return truth, found


def plain_aji(truth: np.ndarray, found: np.ndarray) -> float:
    """Kumar et al. 2017, algorithm 1."""
    used, shared, united = set(), 0, 0
    for i in np.unique(truth[truth > 0]):
        best = max(
            np.unique(found[found > 0]),
            key=lambda j: np.sum((truth == i) & (found == j)) / np.sum((truth == i) | (found == j)),
        )
        both = np.sum((truth == i) & (found == best))
        if both:
            shared, united = shared + both, united + np.sum((truth == i) | (found == best))
            used.add(best)
        else:
            united += np.sum(truth == i)
    return shared / (
        united + sum(np.sum(found == j) for j in np.unique(found[found > 0]) if j not in used)
    )


@pytest.mark.parametrize("shift", [0, 2, 5, 9])
def test_equals_stardist_and_the_definition(shift: int) -> None:
    from stardist.matching import matching

    truth, found = shifted_discs(shift)
    score = agreement(truth, found)
    witness = matching(truth, found, thresh=0.5)
    assert score.pq == pytest.approx(witness.panoptic_quality)
    assert score.pq == pytest.approx(score.dq * score.sq, nan_ok=True) or score.pq == 0
    assert score.sq == pytest.approx(witness.mean_matched_score) or np.isnan(score.sq)
    for level, f1, ap in zip(IOU_LEVELS, score.f1, score.ap, strict=True):
        witness = matching(truth, found, thresh=level)
        assert f1 == pytest.approx(witness.f1)
        assert ap == pytest.approx(witness.accuracy)
    assert score.dice == pytest.approx(f1_score((truth > 0).ravel(), (found > 0).ravel()))
    assert score.aji == pytest.approx(plain_aji(truth, found))
    assert (score.annotated, score.found) == (4, 4)


def test_limits() -> None:
    truth, _ = shifted_discs(0)
    empty = np.zeros_like(truth)
    assert agreement(truth, truth).pq == agreement(truth, truth).aji == 1
    assert agreement(truth, empty).pq == agreement(empty, truth).aji == 0
    assert np.isnan(agreement(empty, empty).pq)
    with pytest.raises(ValueError, match="one shape"):
        agreement(truth, truth[1:])
