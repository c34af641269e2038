"""Histogram counts of slides -> the morphometry model's bags, by patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from morphomil.bags import BAG_SIZE, draw_bags
from morphomil.errors import RefusedError
from morphomil.matrix import (
    FINE_BINS,
    has_enough_nuclei,
    mean_rows,
    rebin,
    relative_frequencies,
)
from morphomil.nuclei.registry import FEATURES
from morphomil.rank.instances import InstanceBags
from morphomil.rank.representation import patch_moments, read_patches

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from numpy.typing import NDArray

    from morphomil.matrix import Edges
    from morphomil.types import Reading
MAX_BAGS = 20
"""A slide has at most so many bags in training, 200 patches; more patches make no bag better."""
LEFT_OUT_WITHOUT = "a patch of enough measured nuclei"
"""Slides are left out that lack this."""
NOT_MEASURED = "measured nuclei"
"""Slides that aren't in the table of nuclei, or not measured, lack this."""


_Bag = tuple["NDArray[np.float32]", "NDArray[np.float64]"]


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
    totals: NDArray[np.int64]  # (patients, features, fine bins)

    @classmethod
    def collect(cls, load: Counts, cohort: pd.DataFrame, *, seed: int) -> PatientBags:
        """Read each slide once, in the order of patient and slide id."""
        slides, patients, owners = [], [], []
        rows: list[list[_Bag]] = []
        totals: dict[str, NDArray[np.int64]] = {}
        for row in cohort.sort_values(["patient", "slide_id"]).to_dict("records"):
            counts = load(row["slide_id"])
            counts = counts[:, has_enough_nuclei(counts)]
            if not counts.shape[1]:
                continue
            slides.append(str(row["slide_id"]))
            if row["patient"] not in totals:
                patients.append(row["patient"])
                totals[row["patient"]] = np.zeros((len(counts), FINE_BINS), np.int64)
            totals[row["patient"]] += counts.sum(axis=1, dtype=np.int64)
            drawn = draw_bags(counts.shape[1], bags=MAX_BAGS, seed_key=(seed, row["slide_id"]))
            frequencies, moments = relative_frequencies(counts), patch_moments(counts)
            chosen = [np.arange(counts.shape[1]), *drawn]
            rows.append(
                [(mean_rows(frequencies[:, bag]), read_patches(moments[:, bag])) for bag in chosen]
            )
            owners.append(len(patients) - 1)
        if not rows:
            raise RefusedError(
                f"no slide has a patch with enough nuclei; {BAG_SIZE} patches of 5 "
                "nuclei make a bag"
            )
        whole = _weigh([one[:1] for one in rows], owners)
        stacked = np.stack([totals[name] for name in patients])
        return cls(
            tuple(slides),
            tuple(patients),
            _weigh([one[1:] for one in rows], owners),
            whole,
            stacked,
        )

    def members(self, names: Iterable[str]) -> NDArray[np.bool_]:
        """Which patients are named."""
        return np.isin(np.array(self.patients, dtype=object), list(names))


def _weigh(rows: list[list[_Bag]], owners: list[int]) -> FineBags:
    """Bags of each slide, of which a patient's slides and a slide's bags weigh alike."""
    patient = np.repeat(owners, [len(bags) for bags in rows])
    weight = np.concatenate([np.full(len(bags), 1 / len(bags)) for bags in rows])
    weight /= np.bincount(patient, weight)[patient]
    fine, patches = zip(*(bag for bags in rows for bag in bags), strict=True)
    return FineBags(patient, weight, np.stack(fine, axis=1), np.stack(patches, axis=1))


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
