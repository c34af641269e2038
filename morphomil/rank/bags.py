"""Histogram counts of slides -> the morphometry model's bags, by patient."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from morphomil.bags import BAG_SIZE, draw_bags
from morphomil.errors import RefusedError
from morphomil.matrix import BINS, rebin
from morphomil.nuclei.registry import FEATURES
from morphomil.rank.instances import InstanceBags
from morphomil.rank.patch_sums import SlideSums
from morphomil.rank.representation import moments_of_sums, read_patches
from morphomil.spool import Spool
from morphomil.types import CORES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from morphomil.matrix import Edges
    from morphomil.rank.summaries import PatientSummaries
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
    fine: Spool  # of (features, fine bins), float32
    patches: NDArray[np.float64]  # (features, bags, views), `representation.read_patches`

    def instances(self, edges: Edges, reading: Reading) -> InstanceBags:
        """The bags on a fold's edges, as a model reads them."""
        patches = np.where(reads_patches(edges)[:, None, None], self.patches, np.nan)
        binned = np.empty((len(patches), len(self.fine), BINS), np.float32)
        start = 0
        for block in self.fine.blocks():
            binned[:, start : start + len(block)] = rebin(np.moveaxis(block, 1, 0), edges)
            start += len(block)
        return InstanceBags.of(
            np.moveaxis(binned, 0, 1),
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
    totals: Spool  # by patient (features, fine bins), uint32
    nuclei: NDArray[np.int64]  # (patients, features): how many have a value

    @classmethod
    def collect(
        cls,
        load: Counts,
        cohort: pd.DataFrame,
        *,
        seed: int,
        summaries: PatientSummaries | None = None,
    ) -> PatientBags:
        """Read each slide once, in the order of patient and slide id; the summaries hear of it."""
        most = min(MAX_BAGS, max(MAX_DRAWN // max(len(cohort), 1), 1))
        slides: list[str] = []
        patients: list[str] = []
        totals, drawn, whole = _TotalsToCome(), _BagsToCome(), _BagsToCome()
        table = cohort.sort_values(["patient", "slide_id"])
        for row, read in zip(
            table.to_dict("records"), _read_ahead(load, list(table["slide_id"])), strict=True
        ):
            if summaries is not None:
                summaries.add(row["slide_id"], read)
            if not read.patches:
                continue
            slides.append(str(row["slide_id"]))
            if new := patients[-1:] != [row["patient"]]:
                patients.append(row["patient"])
            totals.add(read.counts.sum(axis=1, dtype=np.uint32), new=new)
            chosen = draw_bags(read.patches, bags=most, seed_key=(seed, row["slide_id"]))
            moments = moments_of_sums(read.sums)
            for kind, members, shares in (
                (drawn, chosen, read.mean_shares(chosen)),
                (whole, [slice(None)], read.pooled[None]),
            ):
                views = [read_patches(moments[:, bag]) for bag in members]
                kind.add(shares, views, owner=len(patients) - 1)
        if not slides:
            raise RefusedError(
                f"no slide has a patch with enough nuclei; {BAG_SIZE} patches of 5 "
                "nuclei make a bag"
            )
        bags = drawn.weighed(), whole.weighed()
        return cls(tuple(slides), tuple(patients), *bags, *totals.finished())

    def members(self, names: Iterable[str]) -> NDArray[np.bool_]:
        """Which patients are named."""
        return np.isin(np.array(self.patients, dtype=object), list(names))


def _read_ahead(load: Counts, slides: Sequence[str]) -> Iterator[SlideSums]:
    """The slides in order; as many are read side by side as there are cores."""
    with ThreadPoolExecutor(CORES) as pool:
        coming: deque[Future[SlideSums]] = deque()
        for slide_id in slides:
            coming.append(pool.submit(lambda name: SlideSums.of(load(name)), slide_id))
            if len(coming) > CORES:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


class _TotalsToCome:
    """Counts of patients, slide by slide."""

    def __init__(self) -> None:
        self.rows = Spool(np.uint32)
        self.nuclei: list[NDArray[np.int64]] = []
        self.own: NDArray[np.uint32] | None = None  # of the patient whose slides come

    def add(self, of_slide: NDArray[np.uint32], *, new: bool) -> None:
        """A slide's counts (features, fine bins), of a new patient or the last one."""
        if new:
            self._close()
        self.own = of_slide if self.own is None else self.own + of_slide

    def _close(self) -> None:
        if self.own is not None:
            self.rows.add(self.own[None])
            self.nuclei.append(self.own.sum(axis=-1, dtype=np.int64))
        self.own = None

    def finished(self) -> tuple[Spool, NDArray[np.int64]]:
        """All patients."""
        self._close()
        return self.rows, np.stack(self.nuclei)


class _BagsToCome:
    """Bags, slide by slide."""

    def __init__(self) -> None:
        self.fine = Spool(np.float32)
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
        return FineBags(patient, weight, self.fine, np.stack(self.patches, axis=1))


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
