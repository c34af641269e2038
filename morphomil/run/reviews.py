"""What people say of nuclei that were found: a table by slide, to which every decision is added."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import pandas as pd

from morphomil.errors import InputError
from morphomil.run.claims import Part, working_in
from morphomil.run.ledger import key_of
from morphomil.seeds import generator
from morphomil.store import digest, read_parquet, write_parquet
from morphomil.types import NUCLEUS_TYPES, Column, Schema

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from morphomil.run.directory import Run

WAIT_S = 10.0
"""So long another process that adds a review is waited for."""
Decision = Literal["accept", "reject", "retype", "withdraw"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)
"""It is a nucleus of the stated type; it is none, or badly outlined; it is one of another type; the
reviewer has no opinion after all."""
REVIEWS = Schema(
    "reviews",
    (
        Column("slide_id", "str", "slide"),
        Column("label", "int32", "number of the nucleus in the slide's masks"),
        Column("reviewer", "str", "who decided"),
        Column("time", "str", "when, UTC, ISO 8601"),
        Column("decision", "category", "what was decided", categories=DECISIONS),
        Column("type", "category", "the type that the reviewer says", True, False, NUCLEUS_TYPES),
        Column("found_type", "category", "the type before", True, False, NUCLEUS_TYPES),
        Column("random_rank", "Int32", "place in the slide's random order, if shown by it", True),
        Column("blind", "bool", "the label of the slide was hidden"),
        Column("masks", "str", "changes with the slide's masks, whose numbers labels are"),
    ),
)
"""Stored as `slides/ID/reviews.parquet`: one row per decision, in order of time."""


class Review(NamedTuple):
    """A decision on a nucleus."""

    label: int
    decision: Decision
    type: str | None = None
    """With `retype`."""
    random_rank: int | None = None
    """The nucleus was the one of this place in `random_order`, and shown for that."""


def reviews_path(run: Run, slide_id: str) -> Path:
    """Where the decisions on a slide's nuclei lie."""
    return run.slide_folder(slide_id) / "reviews.parquet"


def masks_key(run: Run, slide_id: str) -> str:
    """Changes with the slide's masks."""
    return key_of(run.ledger.outputs(slide_id, "segment").get("masks.zarr", ""))


def random_order(run: Run, slide_id: str, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The labels, sorted ones, in the order in which a sample of them is reviewed: random, and the
    same for everybody."""
    return generator("review", slide_id, masks_key(run, slide_id)).permutation(labels)


def read_decisions(run: Run, slide_id: str) -> pd.DataFrame:
    """All decisions on a slide's nuclei (schema `REVIEWS`), of earlier masks too.

    Raises:
        DamagedError: the table is damaged.
    """
    path = reviews_path(run, slide_id)
    return REVIEWS.check(read_parquet(path, mend="")) if path.is_file() else REVIEWS.empty()


def read_reviews(run: Run, slide_id: str) -> pd.DataFrame:
    """What holds now: of each reviewer the last decision on each nucleus of the present masks,
    none that was withdrawn.

    Raises:
        DamagedError: the table is damaged.
    """
    table = read_decisions(run, slide_id)
    if table.empty:
        return table
    table = table[table["masks"] == masks_key(run, slide_id)]
    last = table.drop_duplicates(["label", "reviewer"], keep="last")
    return last[last["decision"] != "withdraw"].reset_index(drop=True)


class Corrections(NamedTuple):
    """What the reviewers of a slide say together, where it differs from what was found."""

    rejected: list[int]
    """The nuclei that more than half of their reviewers reject."""
    types: dict[int, str]
    """The types of others of which more than half of those who don't reject say another one than
    was found."""

    def retyped(self, labels: pd.Series[Any], types: pd.DataFrame) -> pd.DataFrame:
        """`type` and `type_probability` of these labels (same index) with the reviewers' types,
        whose probability isn't known."""
        said = labels.map(self.types)
        known = said.notna().to_numpy()
        return types.assign(
            type=types["type"].where(~known, said.to_numpy()),
            type_probability=types["type_probability"].where(~known),
        )


def agree_on(reviews: pd.DataFrame) -> Corrections:
    """The corrections of one slide's reviews (`read_reviews`), by majority."""
    rejected, types = [], {}
    for label, own in reviews.groupby("label", sort=True):
        kept = own[own["decision"] != "reject"]
        if 2 * len(kept) < len(own):
            rejected.append(int(str(label)))
            continue
        said = kept["type"].astype(object).where(kept["type"].notna(), kept["found_type"])
        votes = said.dropna().value_counts()
        if len(votes) and 2 * votes.iloc[0] > len(kept) and votes.index[0] in set(kept["type"]):
            types[int(str(label))] = str(votes.index[0])
    return Corrections(rejected, types)


def reviewed_slides(run: Run) -> list[str]:
    """The measured slides with nuclei that somebody has reviewed."""
    return [name for name in run.done("featurize") if len(read_reviews(run, name))]


def reviews_key(run: Run) -> str:
    """Changes with every decision."""
    paths = {name: reviews_path(run, name) for name in run.done("featurize")}
    return key_of({name: digest(path) for name, path in paths.items() if path.is_file()})


def add_review(
    run: Run, slide_id: str, review: Review, *, reviewer: str, found_type: str | None, blind: bool
) -> None:
    """Add a decision, of now; the table is replaced whole.

    Raises:
        InputError: no reviewer is named, the type isn't known or missing, or the run can't be
            written.
        BusyError: another process adds one all the time.
    """
    if not reviewer.strip():
        raise InputError("reviews need the reviewer's name: morphomil view RUN --reviewer NAME")
    if review.decision not in DECISIONS:
        raise InputError(f"a decision is {', '.join(DECISIONS)}, got {review.decision!r}")
    if (review.decision == "retype") != (review.type in NUCLEUS_TYPES):
        raise InputError(
            f"retype, and nothing else, names a type: {', '.join(NUCLEUS_TYPES)}; "
            f"got {review.decision} {review.type}"
        )
    row = {
        "slide_id": slide_id,
        "reviewer": reviewer.strip(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "found_type": found_type,
        "blind": blind,
        "masks": masks_key(run, slide_id),
        **review._asdict(),
    }
    with working_in(run.slide_folder(slide_id), Part("reviews"), wait=WAIT_S):
        before = read_decisions(run, slide_id)
        table = pd.concat([before, REVIEWS.check(pd.DataFrame([row]))], ignore_index=True)
        write_parquet(reviews_path(run, slide_id), REVIEWS.check(table))
