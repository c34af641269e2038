"""Reviews: what is stored, what holds, agreement by hand, and a ranking of reviewed slides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from morphomil.errors import InputError
from morphomil.pipeline.reviewed import ranked_nuclei
from morphomil.run import Run
from morphomil.run.reviews import (
    REVIEWS,
    Review,
    add_review,
    agree_on,
    random_order,
    read_decisions,
    read_reviews,
)
from morphomil.tables.reviews import agreement, agreement_of_reviewers, write_agreement


@pytest.fixture
def run(tmp_path: Path, make_run: Callable[..., Run]) -> Run:
    return make_run(tmp_path / "run", ("a", "b"), typed=True)


def say(run: Run, label: int, decision: str, *rest: object, by: str = "A") -> None:
    types = run.nuclei("a").set_index("label")["type"]
    review = Review(label, decision, *rest)  # type: ignore[arg-type]
    add_review(run, "a", review, reviewer=by, found_type=str(types[label]), blind=False)


def test_the_last_decision_of_each_reviewer_holds(run: Run) -> None:
    first, second, third = run.nuclei("a")["label"].iloc[:3]
    say(run, first, "accept")
    say(run, first, "reject")
    say(run, first, "accept", by="B")
    say(run, second, "retype", "other")
    say(run, third, "accept")
    say(run, third, "withdraw")
    found = read_reviews(run, "a")[["label", "reviewer", "decision", "type"]].astype(object)
    rows = found.where(found.notna(), None).to_numpy().tolist()
    assert rows == [
        [first, "A", "reject", None], [first, "B", "accept", None], [second, "A", "retype", "other"]
    ]  # fmt: skip
    assert len(read_decisions(run, "a")) == 6
    assert read_decisions(run, "a")["time"].is_monotonic_increasing
    assert read_reviews(run, "b").empty


def test_reviews_of_other_masks_do_not_hold(run: Run) -> None:
    say(run, int(run.nuclei("a")["label"].iloc[0]), "accept")
    outputs = ["patches.parquet", "regions.geojson", "masks.zarr"]
    (run.slide_folder("a") / "masks.zarr" / "more").write_bytes(b"another segmentation")
    run.ledger.mark_done("a", "segment", "new", outputs=outputs, figures={})
    assert read_reviews(run, "a").empty
    assert len(read_decisions(run, "a")) == 1


def test_the_random_order_is_one_for_all_and_of_all(run: Run) -> None:
    labels = run.nuclei("a")["label"].to_numpy()
    order = random_order(run, "a", labels)
    assert (order == random_order(run, "a", labels)).all()
    assert sorted(order) == labels.tolist() and order.tolist() != labels.tolist()


def reviews_of(rows: list[tuple[str, str | None, str | None, int | None]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["decision", "type", "found_type", "random_rank"])
    table = table.assign(slide_id="a", label=range(len(rows)), reviewer="A", time="", masks="")
    return REVIEWS.check(table.assign(blind=False))


def test_agreement_counts_the_random_sample_alone() -> None:
    rows: list[tuple[str, str | None, str | None, int | None]] = [
        *[("accept", None, "stroma", rank) for rank in range(14)],
        *[("retype", "other", "stroma", rank) for rank in (14, 15)],
        ("retype", "other", None, 16),
        *[("reject", None, "stroma", rank) for rank in (17, 19, 22)],
        *[("reject", None, "stroma", None)] * 5,
        ("accept", None, "stroma", None),
    ]
    found = agreement(reviews_of(rows))
    assert (found["sampled"], found["skipped"], found["nuclei"]) == (20, 3, 17)
    assert (found["typed"], found["types"]) == (16, 14)
    assert (found["chosen"], found["chosen_rejected"]) == (6, 5)
    for name, count, n in (("nuclei", 17, 20), ("types", 14, 16)):
        exact = binomtest(count, n).proportion_ci(method="exact")
        assert found[f"{name}_share"] == count / n
        limits = (found[f"{name}_low"], found[f"{name}_high"])
        assert limits == pytest.approx((exact.low, exact.high), abs=1e-9)
    nothing = agreement(reviews_of(rows[-3:]))
    assert nothing["sampled"] == 0 and np.isnan(nothing["nuclei_share"])


def test_reviewers_correct_by_majority() -> None:
    decisions = [
        (1, "reject", None), (1, "reject", None), (1, "accept", None),  # out
        (2, "reject", None), (2, "accept", None),  # as many on either side: stays
        (3, "retype", "other"), (3, "retype", "other"), (3, "accept", None),  # other
        (4, "retype", "other"), (4, "retype", "epithelial"),  # they differ: as found
        (5, "retype", "lymphocyte"), (5, "reject", None),  # of those who don't reject
    ]  # fmt: skip
    table = pd.DataFrame(decisions, columns=["label", "decision", "type"])
    table = table.assign(slide_id="a", reviewer="A", time="", masks="", random_rank=None)
    found = agree_on(REVIEWS.check(table.assign(blind=False, found_type="stroma")))
    assert found.rejected == [1]
    assert found.types == {3: "other", 5: "lymphocyte"}


def test_reviewed_nuclei_are_measured_without_the_rejected_ones(run: Run) -> None:
    with pytest.raises(InputError, match=r"no nucleus of .* is reviewed"):
        ranked_nuclei(run, only_reviewed=True)
    before = run.nuclei("a").set_index("label")
    center = np.hypot(before["x_px"] - 356, before["y_px"] - 316).sort_values().index
    gone, near = int(center[0]), int(center[1])
    say(run, gone, "reject")
    kind = "other" if before.loc[near, "type"] != "other" else "stroma"
    say(run, near, "retype", kind)
    found = ranked_nuclei(run, only_reviewed=True)
    assert found.slides == ("a",)
    after = found.nuclei("a").set_index("label")
    assert gone not in after.index and len(after) == len(before) - 1
    assert after.loc[near, "type"] == kind and np.isnan(after.loc[near, "type_probability"])
    others = after.index.drop(near)
    assert (after.loc[others, "type"] == before.loc[others, "type"]).all()
    pd.testing.assert_series_equal(after["area_um2"], before.loc[after.index, "area_um2"])
    assert after.loc[near, "density_per_mm2"] < before.loc[near, "density_per_mm2"]
    assert found.counts("a").counts[0].sum() == len(after)
    assert found.counts("a").counts.shape == run.counts("a").counts.shape
    assert "1 of 2" in found.notes[0] and "1 rejected" in found.notes[0]
    assert "saw the label" in found.notes[1]
    whole = ranked_nuclei(run, only_reviewed=False)
    assert whole.slides == ("a", "b") and whole.notes == ()


def test_agreement_is_written_and_printed(run: Run) -> None:
    from morphomil.figures.report.tables import reviews_table

    assert write_agreement(run) is None
    order = random_order(run, "a", run.nuclei("a")["label"].to_numpy())
    for rank in range(10):
        say(run, int(order[rank]), "reject" if rank == 3 else "accept", None, rank)
    path = write_agreement(run)
    assert path is not None and pd.read_csv(path)["nuclei"].tolist() == [9]
    printed = reviews_table(agreement_of_reviewers(run))
    assert printed["random sample: nuclei [95 %]"].tolist() == ["9 of 10: 90% [55%, 100%]"]


@pytest.mark.parametrize("reviewer", ["", "  "])
def test_reviews_have_a_name(run: Run, reviewer: str) -> None:
    with pytest.raises(InputError, match="--reviewer NAME"):
        add_review(run, "a", Review(40, "accept"), reviewer=reviewer, found_type=None, blind=False)
