"""Histogram counts of slides -> the morphometry model's bags, by patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from morphomil.bags import BAG_SIZE, draw_bags
from morphomil.errors import RefusedError
from morphomil.matrix import (
    has_enough_nuclei,
    rebin,
)
from morphomil.nuclei.registry import FEATURES
from morphomil.rank.instances import InstanceBags
from morphomil.rank.patch_sums import mean_shares
from morphomil.rank.representation import patch_moments, read_patches

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from numpy.typing import NDArray

    from morphomil.matrix import Edges
    from morphomil.types import Reading
MAX_BAGS = 20
"""A slide has at most so many bags in training, 200 patches; more patches make no bag better."""
MAX_DRAWN = 10_000
"""All slides together have at most about so many, a slide at least one: of 501 slides and more
each has fewer, and memory doesn't grow with their patches."""
LEFT_OUT_WITHOUT = "a patch of enough measured nuclei"
"""Slides are left out that lack this."""
NOT_MEASURED = "measured nuclei"
"""Slides that aren't in the table of nuclei, or not measured, lack this."""


class Counts(Protocol):
    """Gives a slide's histogram counts (features, patches, fine bins) when asked, so that not all
    are held at once."""

    def __call__(self, slide_id: str) -> NDArray[Any]:
        """The counts of one slide."""


def reads_patches(edges: Edges) -> NDArray[np.bool_]:
    """Of which features patches are read, (features,): not of angles, which are deviations from
    their patch's direction, so that the number of nuclei moves all that patches have."""
    return np.array([not FEATURES[name].axial for name in edges.features])


@dataclass(frozen=True)
class FineBags:
    """Bags as mean histograms on the fine grid, with the views of their patches."""

    patient: NDArray[np.int64]  # (bags,), sorted
    weight: NDArray[np.float64]  # (bags,): a patient's sum to 1
    fine: NDArray[np.float32]  # (features, bags, fine bins)
    patches: NDArray[np.float64]  # (features, bags, views), `representation.read_patches`

    def instances(self, edges: Edges, reading: Reading) -> InstanceBags:
        """The bags on a fold's edges, as a model reads them."""
        patches = np.where(reads_patches(edges)[:, None, None], self.patches, np.nan)
        return InstanceBags.of(
            np.moveaxis(rebin(self.fine, edges), 0, 1),
            np.moveaxis(patches, 0, 1) if reading == "quantiles" else None,
            patient=self.patient,
            weight=self.weight,
        )


@dataclass(frozen=True)
class PatientBags:
    """Every slide's bags of ten patches to train on, its bag of all patches to predict, and the
    sums for edges."""

    slides: tuple[str, ...]
    patients: tuple[str, ...]
    drawn: FineBags
    whole: FineBags
    totals: NDArray[np.uint32]  # (patients, features, fine bins)

    @classmethod
    def collect(cls, load: Counts, cohort: pd.DataFrame, *, seed: int) -> PatientBags:
        """Read each slide once, in the order of patient and slide id."""
        most = min(MAX_BAGS, max(MAX_DRAWN // max(len(cohort), 1), 1))
        slides: list[str] = []
        patients: list[str] = []
        totals = _Rows(len(cohort), np.uint32)
        drawn, whole = _BagsToCome(most * len(cohort)), _BagsToCome(len(cohort))
        for row in cohort.sort_values(["patient", "slide_id"]).to_dict("records"):
            counts = load(row["slide_id"])
            counts = counts[:, has_enough_nuclei(counts)]
            if not counts.shape[1]:
                continue
            slides.append(str(row["slide_id"]))
            of_slide = counts.sum(axis=1, dtype=np.uint32)
            if patients[-1:] == [row["patient"]]:
                totals.filled[-1] += of_slide
            else:
                patients.append(row["patient"])
                totals.add(of_slide[None])
            chosen = draw_bags(counts.shape[1], bags=most, seed_key=(seed, row["slide_id"]))
            moments = patch_moments(counts)
            for kind, members in ((drawn, chosen), (whole, [np.arange(counts.shape[1])])):
                read = [read_patches(moments[:, bag]) for bag in members]
                kind.add(mean_shares(counts, members), read, owner=len(patients) - 1)
        if not slides:
            raise RefusedError(
                f"no slide has a patch with enough nuclei; {BAG_SIZE} patches of 5 "
                "nuclei make a bag"
            )
        return cls(tuple(slides), tuple(patients), drawn.weighed(), whole.weighed(), totals.filled)

    def members(self, names: Iterable[str]) -> NDArray[np.bool_]:
        """Which patients are named."""
        return np.isin(np.array(self.patients, dtype=object), list(names))


class _Rows:
    """Histograms (rows, features, fine bins), in memory that the system gives as they come."""

    def __init__(self, room: int, kind: type) -> None:
        self.room, self.kind, self.used = room, kind, 0
        self.values: NDArray[Any] = np.empty(0)

    @property
    def filled(self) -> NDArray[Any]:
        return self.values[: self.used]

    def add(self, rows: NDArray[Any]) -> None:
        if not self.used:
            self.values = np.empty((self.room, *rows.shape[1:]), self.kind)
        self.values[self.used : self.used + len(rows)] = rows
        self.used += len(rows)


class _BagsToCome:
    """Bags, slide by slide."""

    def __init__(self, room: int) -> None:
        self.fine = _Rows(room, np.float32)
        self.patches: list[NDArray[np.float64]] = []
        self.owners: list[int] = []
        self.sizes: list[int] = []

    def add(
        self, fine: NDArray[np.floating], patches: list[NDArray[np.float64]], *, owner: int
    ) -> None:
        """A slide's bags."""
        self.fine.add(fine)
        self.patches += patches
        self.owners.append(owner)
        self.sizes.append(len(patches))

    def weighed(self) -> FineBags:
        """A patient's slides and a slide's bags weigh alike."""
        patient = np.repeat(self.owners, self.sizes)
        weight = np.repeat(1 / np.array(self.sizes), self.sizes)
        weight /= np.bincount(patient, weight)[patient]
        fine = np.moveaxis(self.fine.filled, 1, 0)
        return FineBags(patient, weight, fine, np.stack(self.patches, axis=1))


def by_patient(values: NDArray[np.float64], bags: InstanceBags) -> NDArray[np.float64]:
    """Weighted mean over each patient's bags: (seeds, bags, n) -> (seeds, patients, n)."""
    _, place = np.unique(bags.patient, return_inverse=True)
    starts = np.flatnonzero(np.diff(place, prepend=-1))  # bags are sorted by patient
    return np.asarray(np.add.reduceat(values * bags.weight[:, None], starts, axis=1))


def class_means(probability: NDArray[np.float64], bags: InstanceBags) -> NDArray[np.float64]:
    """Weighted mean over each patient's bags, (..., bags, classes) -> (..., patients, classes);
    class 0 is what the others leave."""
    stacked = probability.reshape(-1, *probability.shape[-2:])
    means = [by_patient(stacked[..., [label]], bags) for label in range(1, stacked.shape[-1])]
    others = np.concatenate(means, axis=-1)
    both = np.concatenate([1 - others.sum(axis=-1, keepdims=True), others], axis=-1)
    return np.asarray(both.reshape(*probability.shape[:-2], *both.shape[-2:]))
