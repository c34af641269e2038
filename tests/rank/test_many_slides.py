"""Of many slides each has fewer bags; nobody is left out, and a patient counts once."""

from __future__ import annotations

import io
import tempfile

import numpy as np
import pandas as pd
import pytest

from morphomil import spool
from morphomil.matrix import FINE_BINS
from morphomil.rank import bags


@pytest.mark.parametrize(("most", "expected"), [(9, 3), (5, 1), (1, 1)])
def test_many_slides_have_fewer_bags_each(
    monkeypatch: pytest.MonkeyPatch, most: int, expected: int
) -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.05, (3, 2, 40, FINE_BINS)).astype(np.uint16)
    cohort = pd.DataFrame({"slide_id": ["a", "b", "c"], "patient": ["p", "p", "q"]})
    monkeypatch.setattr(bags, "MAX_DRAWN", most)
    found = bags.PatientBags.collect(lambda name: counts["abc".index(name)], cohort, seed=0)
    assert np.bincount(found.drawn.patient).tolist() == [2 * expected, expected]
    assert np.bincount(found.drawn.patient, found.drawn.weight) == pytest.approx([1, 1])
    assert np.bincount(found.whole.patient).tolist() == [2, 1]
    totals = np.concatenate(list(found.totals.blocks()))
    np.testing.assert_array_equal(totals[0], counts[:2].sum(axis=(0, 2)))
    np.testing.assert_array_equal(totals[1], counts[2].sum(axis=1))
    np.testing.assert_array_equal(found.nuclei, totals.sum(axis=-1))
    fine = np.concatenate(list(found.drawn.fine.blocks()))
    assert fine.sum(axis=-1) == pytest.approx(1)


@pytest.mark.parametrize("room", ["memory", "file", "no file", "full disk"])
def test_rows_come_back_from_wherever_they_were_put(
    monkeypatch: pytest.MonkeyPatch, room: str
) -> None:
    if room != "memory":
        monkeypatch.setattr(spool, "HELD_BYTES", 0)
    if room == "no file":
        monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    if room == "full disk":
        monkeypatch.setattr(spool, "TemporaryFile", lambda **_: io.FileIO("/dev/full", "r+"))
    monkeypatch.setattr(spool, "BLOCK_BYTES", 100)  # four rows of six float32
    rows = np.random.default_rng(0).random((23, 2, 3))
    kept = spool.Spool(np.float32)
    for part in np.split(rows, [1, 2, 13, 13]):
        kept.add(part)
    assert len(kept) == 23
    for _ in range(2):
        back = list(kept.blocks())
        np.testing.assert_array_equal(np.concatenate(back), rows.astype(np.float32))
    assert {len(block) for block in back[:-1]} == {4}
    assert (kept._file is not None) == (room in ("file", "full disk"))
