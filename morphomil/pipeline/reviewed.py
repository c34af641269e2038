"""The nuclei that a ranking is about: as they were measured, or as their reviewers say."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from morphomil.errors import InputError
from morphomil.matrix import count_nuclei, slide_values
from morphomil.nuclei.totals import has_ratios
from morphomil.nuclei.types import of_type
from morphomil.pipeline.measurement import measure_slide
from morphomil.run.directory import SlideCounts
from morphomil.run.reviews import agree_on, read_reviews, reviewed_slides
from morphomil.store import read_parquet, safe_name, write_parquet
from morphomil.types import NUCLEI

if TYPE_CHECKING:
    from pathlib import Path

    from morphomil.run.directory import Run
    from morphomil.run.reviews import Corrections


@dataclass(frozen=True)
class RankedNuclei:
    """The nuclei of a run's measured slides."""

    run: Run
    slides: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What to say of them in the report."""

    @cached_property
    def features(self) -> tuple[str, ...]:
        """As `Run.features`."""
        return self.run.features

    @cached_property
    def whose(self) -> str:
        """As `Run.whose`."""
        return self.run.whose

    def nuclei(self, slide_id: str) -> pd.DataFrame:
        """As `Run.counted_nuclei`."""
        return of_type(self.run.nuclei(slide_id), self.whose)

    def counts(self, slide_id: str) -> SlideCounts:
        """As `Run.counts`."""
        return self.run.counts(slide_id)

    def patches(self, slide_id: str) -> pd.DataFrame:
        """As `Run.patches`."""
        return self.run.patches(slide_id)

    def values(self, slide_id: str) -> dict[str, object]:
        """`slide_id` and the slide's value of each feature (`matrix.slide_values`)."""
        patches = self.patches(slide_id) if has_ratios(self.features) else None
        values = slide_values(self.nuclei(slide_id), patches, features=self.features)
        return {"slide_id": slide_id} | dict(values)


class ReviewedNuclei(RankedNuclei):
    """Those of the slides with reviews, corrected; they lie in `rank/reviewed`."""

    def path(self, slide_id: str, what: str = "nuclei") -> Path:
        """Where a slide's lie, or its `tissue_parts`."""
        return self.run.rank_folder / "reviewed" / safe_name(slide_id) / f"{what}.parquet"

    def measure(self, slide_id: str, corrections: Corrections) -> None:
        """Store a slide's, corrected."""
        nuclei, parts = measure_slide(self.run, slide_id, corrections)
        write_parquet(self.path(slide_id), nuclei)
        if parts is not None:
            write_parquet(self.path(slide_id, "tissue_parts"), parts)

    def patches(self, slide_id: str) -> pd.DataFrame:
        """As `Run.patches`, of the corrected nuclei."""
        patches = self.run.cut_patches(slide_id)
        path = self.path(slide_id, "tissue_parts")
        return patches.merge(read_parquet(path), on="patch_id") if path.is_file() else patches

    def nuclei(self, slide_id: str) -> pd.DataFrame:
        """As `Run.counted_nuclei`, of the corrected ones."""
        return of_type(NUCLEI.check(read_parquet(self.path(slide_id))), self.whose)

    def counts(self, slide_id: str) -> SlideCounts:
        """As `Run.counts`, of the corrected ones."""
        patches = self.run.cut_patches(slide_id)
        kept = patches.loc[patches["kept"], "patch_id"].to_numpy(np.int64)
        features = self.features
        return SlideCounts(
            features, kept, count_nuclei(self.nuclei(slide_id), kept, features=features)
        )


def ranked_nuclei(run: Run, *, only_reviewed: bool) -> RankedNuclei:
    """The nuclei to rank; reviewed ones are measured anew and stored.

    Raises:
        InputError: there is none.
    """
    shutil.rmtree(run.rank_folder / "reviewed", ignore_errors=True)  # of an earlier ranking
    measured = run.done("featurize")
    if not measured:
        raise InputError(f"{run.path} has no measured slides; run: morphomil featurize {run.path}")
    if not only_reviewed:
        return RankedNuclei(run, tuple(measured))
    slides = reviewed_slides(run)
    if not slides:
        raise InputError(
            f"no nucleus of {run.path} is reviewed; review some with: morphomil view {run.path}"
        )
    reviews = {name: read_reviews(run, name) for name in slides}
    found = ReviewedNuclei(run, tuple(slides), _describe(run, reviews, len(measured)))
    for name, own in reviews.items():
        found.measure(name, agree_on(own))
    return found


def _describe(run: Run, reviews: dict[str, pd.DataFrame], measured: int) -> tuple[str, ...]:
    """How many slides, nuclei and reviewers, and what their decisions may rest on."""
    corrections = [agree_on(own) for own in reviews.values()]
    together = pd.concat(reviews.values())
    nuclei = sum(len(run.nuclei(name)) for name in reviews)
    decided = sum(own["label"].nunique() for own in reviews.values())
    rejected = sum(len(own.rejected) for own in corrections)
    retyped = sum(len(own.types) for own in corrections)
    reviewers = sorted(map(str, together["reviewer"].unique()))
    notes = [
        f"Only reviewed slides are ranked: {len(reviews):,} of {measured:,}. Of their {nuclei:,} "
        f"nuclei {decided:,} were reviewed (by {', '.join(reviewers)}): "
        f"{rejected:,} rejected ones are left out, {retyped:,} have the type that reviewers say; "
        "the others are as they were found."
    ]
    seen = sum(not own["blind"].all() for own in reviews.values())
    if seen:
        notes.append(
            f"In {seen:,} of these slides a reviewer saw the label (morphomil view --blind hides "
            "it): decisions that follow the label make the groups differ."
        )
    return tuple(notes)
