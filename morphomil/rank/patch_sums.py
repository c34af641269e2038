"""A slide's histogram counts, read once: the sums that bags, summaries and patches rest on.

Counts are whole numbers, so sums of them are exact, whatever their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from morphomil.compiled import compiled
from morphomil.matrix import FINE_BINS, MIN_NUCLEI

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class PatchSums(NamedTuple):
    """Of each patch's values x, in fine bins from the first one's start, (features, patches)."""

    n: NDArray[np.float64]
    total: NDArray[np.float64]
    """Sum of x, the middle of its bin."""
    squares: NDArray[np.float64]
    """Sum of the squares of x."""
    differences: NDArray[np.float64]
    """Sum of |x - y| over all pairs."""

    @classmethod
    def of(cls, counts: NDArray[Any]) -> PatchSums:
        """From counts (features, patches, fine bins)."""
        count, total, squares, differences = np.moveaxis(_sums(counts), -1, 0)
        # of whole numbers of bins b, x = b + 1/2
        return cls(count, total + count / 2, squares + total + count / 4, differences)


class SlideSums(NamedTuple):
    """What a ranking takes from the patches of a slide that have nuclei enough."""

    counts: NDArray[Any]  # (features, patches, fine bins)
    sums: PatchSums
    pooled: NDArray[np.float64]
    """(features, fine bins): mean of the patches' shares, 0 where no patch has a value."""

    @classmethod
    def of(cls, counts: NDArray[Any]) -> SlideSums:
        """From the counts of all patches (features, patches, fine bins)."""
        sums = PatchSums.of(counts)
        enough = sums.n.max(axis=0, initial=0) >= MIN_NUCLEI
        if not enough.all():
            counts, sums = counts[:, enough], PatchSums(*(part[:, enough] for part in sums))
        (pooled,) = mean_shares(counts, [np.arange(counts.shape[1])], n=sums.n)
        return cls(counts, sums, pooled)

    @property
    def patches(self) -> int:
        """How many there are."""
        return int(self.counts.shape[1])

    def mean_shares(self, bags: Sequence[NDArray[np.integer]]) -> NDArray[np.float64]:
        """The mean histogram of each bag, numbers of these patches: (bags, features, fine bins)."""
        return mean_shares(self.counts, bags, n=self.sums.n)


def mean_shares(
    counts: NDArray[Any], bags: Sequence[NDArray[np.integer]], *, n: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The mean histogram of each bag: (bags, features, fine bins), rows sum to 1, or are 0 where a
    bag has no value.

    Args:
        counts: (features, patches, fine bins).
        bags: numbers of patches; those without a value of a feature are left out there.
        n: (features, patches), `PatchSums.n` of the counts.
    """
    ends = np.cumsum([len(bag) for bag in bags])
    return np.asarray(_mean_shares(counts, n, np.concatenate(bags).astype(np.int64), ends))


@compiled(nogil=True)
def _sums(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Number, sum and sum of squares of the bins' numbers, and sum of their differences."""
    features, patches, bins = counts.shape
    sums = np.empty((features, patches, 4))
    for f in range(features):
        for p in range(patches):
            count = total = squares = between = np.int64(0)
            differences = np.int64(0)
            last = 0
            for b in range(bins):
                here = np.int64(counts[f, p, b])
                if here:
                    # `between`: sum of the distances from bin `last` to all before it
                    between += count * (b - last)
                    last = b
                    differences += here * between
                    count += here
                    total += here * b
                    squares += here * b * b
            sums[f, p, 0], sums[f, p, 1] = count, total
            sums[f, p, 2], sums[f, p, 3] = squares, differences
    return sums


@compiled(nogil=True)
def _mean_shares(
    counts: NDArray[Any],
    n: NDArray[np.float64],
    members: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> NDArray[np.float64]:
    features, _, bins = counts.shape
    shares = np.zeros((len(ends), features, bins))
    for f in range(features):
        start = 0
        for k in range(len(ends)):
            present = 0
            for place in range(start, ends[k]):
                p = members[place]
                total = n[f, p]
                if total == 0:
                    continue
                present += 1
                for b in range(bins):
                    if counts[f, p, b]:
                        shares[k, f, b] += counts[f, p, b] / total
            start = ends[k]
            shares[k, f] /= max(present, 1)
    return shares


assert FINE_BINS**3 * 2**31 < 2**63  # of two thousand million nuclei the sums are exact
