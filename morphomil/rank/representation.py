"""How the morphometry model reads a feature's distribution: L-moments of nuclei and of patches.

The r-th L-moment (Hosking 1990) is the integral of a distribution's quantile function times the
shifted Legendre polynomial of degree r - 1: location, spread, skewness and weight of the tails come
apart. Integrated by parts it needs no quantile: with F the distribution function of a histogram
whose nuclei spread evenly within bins, it is minus the integral of R_r(F(x)) over x, where R_r is
the integral of the polynomial. R_r(F) is a polynomial within a bin, so that Gauss-Legendre
quadrature gives it exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.polynomial.legendre import Legendre, leggauss
from numpy.polynomial.polynomial import polyint, polyval
from scipy.special import comb

from morphomil.matrix import MIN_NUCLEI
from morphomil.rank.patch_sums import PatchSums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from morphomil.types import Reading
ORDERS = (1, 2, 3, 4)
"""These L-moments are read of all nuclei, by their pooled histogram."""
SOFT = 0.05
"""Near no spread between patches its root is smoothed, by this share of the patch means' own."""
VIEWS = (
    "location of nuclei",
    "spread of nuclei",
    "skewness of nuclei",
    "tails of nuclei",
    "spread between patches",
    "skewness between patches",
    "spread within patches",
)
"""A feature is read as these numbers, in this order: four L-moments of the nuclei's histogram, then
three of the patches (`read_patches`)."""
POOLED = len(ORDERS)
"""The first so many views are of the nuclei's histogram, the others of patches."""

_POLYNOMIALS = [
    Legendre.basis(order - 1, domain=[0, 1]).convert(kind=np.polynomial.Polynomial, domain=[-1, 1])
    for order in ORDERS
]
_COEFFICIENTS = [np.asarray(polynomial.coef, np.float64) for polynomial in _POLYNOMIALS]
_INTEGRALS = [polyint(coefficients) for coefficients in _COEFFICIENTS]
_PLACES, _SHARES = leggauss(3)
_PLACES, _SHARES = (_PLACES + 1) / 2, _SHARES / 2


def reading_of(columns: int) -> Reading:
    """How a model reads whose scaler has so many columns."""
    return "quantiles" if columns == len(VIEWS) else "histograms"


def histogram_l_moments(histograms: NDArray[Any]) -> NDArray[np.float64]:
    """L-moments 1 to 4 of histograms (..., bins) whose rows sum to 1: (..., 4), in bins from the
    first one's start; NaN where a row is all 0."""
    upper = np.cumsum(histograms, axis=-1, dtype=np.float64)
    lower = upper - histograms
    share = lower[..., None] + (upper - lower)[..., None] * _PLACES  # (..., bins, nodes)
    moments = -np.stack(
        [np.einsum("...bn,n->...", polyval(share, c), _SHARES) for c in _INTEGRALS], axis=-1
    )
    moments[..., 0] += histograms.shape[-1]
    moments[~np.asarray(histograms).any(axis=-1)] = np.nan
    return np.asarray(moments)


def histogram_gain(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean derivative of L-moments 1 to 4 by a histogram's shares, on the line between two
    histograms.

    Args:
        start: (features, bins), rows sum to 1.
        end: likewise.

    Returns:
        (features, 4, bins). Times the difference of the histograms it sums exactly to that of the
        L-moments: with nuclei spread evenly within bins, a nucleus adds to F a ramp over its bin
        and 1 above it.
    """
    bins = start.shape[-1]
    gains = np.zeros((len(start), len(ORDERS), bins))
    for time, weight in zip(_PLACES, _SHARES, strict=True):
        mixed = (1 - time) * start + time * end
        lower = np.cumsum(mixed, axis=-1) - mixed
        share = lower[..., None] + mixed[..., None] * _PLACES  # (features, bins, nodes)
        for number, coefficients in enumerate(_COEFFICIENTS):
            slope = polyval(share, coefficients) * _SHARES
            whole = slope.sum(axis=-1)
            above = np.cumsum(whole[:, ::-1], axis=1)[:, ::-1] - whole
            gains[:, number] -= weight * (above + slope @ _PLACES)
    return gains


def sample_l_moments(values: NDArray[np.float64], *, orders: int) -> NDArray[np.float64]:
    """The first L-moments of samples (..., n), NaN left out: (..., orders), unbiased at every size.

    Hosking 1990, from probability-weighted moments; the r-th is NaN for fewer than r values.
    """
    ordered, count = np.sort(values, axis=-1), (~np.isnan(values)).sum(axis=-1, keepdims=True)
    known, place = np.nan_to_num(ordered), np.arange(values.shape[-1])
    weight = np.ones(np.broadcast_shapes(known.shape, count.shape))
    weighted = []
    for order in range(orders):
        if order:
            weight = weight * (place + 1 - order) / np.maximum(count - order, 1)
        weighted.append((weight * known).sum(axis=-1) / np.maximum(count[..., 0], 1))
    coefficients = [_COEFFICIENTS[order] for order in range(orders)]
    moments = [sum(c * w for c, w in zip(of, weighted, strict=False)) for of in coefficients]
    enough = count >= np.arange(1, orders + 1)
    return np.where(enough, np.stack(moments, axis=-1), np.nan)


def sample_influence(values: NDArray[np.float64], *, orders: int) -> NDArray[np.float64]:
    """How far each value of a sample (n,) moves its L-moments: (n, orders), 0 for moments that have
    too few values.

    The r-th L-moment is a U-statistic of r values. With h the mean of its kernel over all samples
    that hold a value, the influence is r (h - mean of h): n times the derivative by the value's
    weight, and (n - r) times what leaving the value out takes away. It sums to 0.
    """
    count, order = len(values), np.argsort(values, kind="stable")
    ordered, place = values[order], np.arange(1, len(values) + 1)
    # Mean of the maximum of a value and k others: how often it is the largest, or one above it is.
    largest = np.zeros((count, orders))
    for others in range(min(orders, count)):
        sets = comb(count - 1, others)
        largest[:, others] = comb(place - 1, others) * ordered / sets
        if others:
            above = comb(place - 2, others - 1) * ordered / sets
            above[0] = 0
            largest[:, others] += np.cumsum(above[::-1])[::-1] - above
    largest -= largest.mean(axis=0)
    influence = np.zeros((count, orders))
    for number in range(min(orders, count)):
        # A maximum of fewer values than the moment's kernel holds moves less when one is left out.
        left = np.full(number + 1, float(count - number - 1))
        left[:-1] /= count - 1 - np.arange(number)
        left[-1] = 1
        influence[order, number] = largest[:, : number + 1] @ np.asarray(
            _COEFFICIENTS[number] * left, float
        )
    return influence


def sample_slopes(values: NDArray[np.float64], *, orders: int) -> NDArray[np.float64]:
    """Derivative of the L-moments of a sample (n,) by each value: (n, orders); 0 for moments that
    have too few values."""
    count, order = len(values), np.argsort(values, kind="stable")
    slopes, weights = np.zeros((count, orders)), np.zeros((count, orders))
    for others in range(min(orders, count)):
        weights[:, others] = comb(np.arange(count), others) / comb(count - 1, others) / count
        coefficients = _COEFFICIENTS[others]
        slopes[order, others] = weights[:, : len(coefficients)] @ coefficients
    return slopes


def spread_influence(values: NDArray[np.float64], group: NDArray[np.intp]) -> NDArray[np.float64]:
    """How far each value moves its group's second L-moment, (n,): as `sample_influence`, for all
    groups at once; 0 for a group of one."""
    order = np.lexsort((values, group))
    ordered, owner = values[order], group[order]
    size = np.bincount(group)[owner]
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    begin = np.repeat(first, np.diff(np.append(first, len(owner))))
    place = np.arange(len(owner)) - begin + 1
    running = np.cumsum(ordered)
    below = running - (running - ordered)[begin]  # sum up to and with each value, in its group
    total = np.bincount(owner, ordered)[owner]
    apart = ((2 * place - size) * ordered - 2 * below + total) / np.maximum(size - 1, 1)
    influence = np.empty(len(values))
    influence[order] = apart - (np.bincount(owner, apart)[owner] / size)
    return influence


def patch_moments(counts: NDArray[Any]) -> NDArray[np.float64]:
    """`moments_of_sums` of counts (features, patches, fine bins)."""
    return moments_of_sums(PatchSums.of(counts))


def moments_of_sums(sums: PatchSums) -> NDArray[np.float64]:
    """Mean and spread (second L-moment) of each patch's nuclei, in fine bins, and their number.

    Returns:
        (features, patches, 3); NaN where a patch has fewer than 5 values of the feature, which
        would say little about either.
    """
    size = np.maximum(sums.n, 1)
    spread = sums.differences / (size * np.maximum(sums.n - 1, 1))
    moments = np.stack([sums.total / size, spread, sums.n], axis=-1)
    moments[sums.n < MIN_NUCLEI] = np.nan
    return moments


def read_patches(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Views of patches from `patch_moments`: (features, patches, 3) -> (features, 3), NaN where
    patches are too few.

    The spread between patches is that of their means less what the number of nuclei explains
    (`SpreadBetween`), so that crowded patches don't look alike; the others are the third L-moment
    of the patches' means and the mean of their spreads.
    """
    of_means = sample_l_moments(moments[..., 0], orders=3)
    between = SpreadBetween.of(of_means[..., 1], _mean_known(_noise(moments)))
    within = _mean_known(moments[..., 1])
    return np.stack([between.value, of_means[..., 2], within], axis=-1)


class SpreadBetween(NamedTuple):
    """The spread of patches' levels, and its derivatives.

    Of normal values, the square of the second L-moment is the variance over pi, so that the squares
    of the patch means' and of their sampling noise (spread^2 / nuclei, averaged) subtract. The
    root of the difference d is d / sqrt(|d| + `SOFT` l^2), l the second L-moment of the means.
    """

    value: NDArray[np.float64]
    by_means: NDArray[np.float64]
    """By the second L-moment of the patches' means."""
    by_noise: NDArray[np.float64]
    """By the noise."""

    @classmethod
    def of(cls, l_scale: NDArray[np.float64], noise: NDArray[np.float64]) -> SpreadBetween:
        """From the second L-moment of the patches' means and the mean of their noise."""
        excess = l_scale**2 - noise
        inside = np.abs(excess) + SOFT * l_scale**2
        root = np.sqrt(np.where(inside > 0, inside, 1))
        by_excess = 1 / root - np.abs(excess) / (2 * root**3)
        by_soft = -excess * SOFT * l_scale / root**3
        return cls(excess / root, by_excess * 2 * l_scale + by_soft, -by_excess)


def patch_influence(
    moments: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far patches of a feature move its views.

    Args:
        moments: (patches, 3), `patch_moments` without NaN.

    Returns:
        The influence of each patch (`sample_influence`), (patches, views), and the derivative by
        its mean and spread, (patches, 2, views).
    """
    means, spreads, count = moments.T
    noise, patches = _noise(moments), len(moments)
    of_means = sample_influence(means, orders=3)
    slopes = sample_slopes(means, orders=3)
    l_scale = sample_l_moments(means, orders=2)[1]
    between = SpreadBetween.of(np.nan_to_num(l_scale), noise.mean())
    influence = np.stack(
        [
            between.by_means * of_means[:, 1] + between.by_noise * (noise - noise.mean()),
            of_means[:, 2],
            spreads - spreads.mean(),
        ],
        axis=1,
    )
    derivative = np.zeros((patches, 2, 3))
    derivative[:, 0, 0] = between.by_means * slopes[:, 1]
    derivative[:, 1, 0] = between.by_noise * 2 * spreads / count / patches
    derivative[:, 0, 1] = slopes[:, 2]
    derivative[:, 1, 2] = 1 / patches
    return influence, derivative


def _noise(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Square of the spread that a patch's mean has by chance."""
    return np.asarray(moments[..., 1] ** 2 / moments[..., 2])


def _mean_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis without NaN; NaN where nothing is known."""
    count = (~np.isnan(values)).sum(axis=-1)
    total = np.nansum(values, axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def barycenter(histograms: NDArray[Any], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """The histogram whose quantile function is the weighted mean of the rows': a typical patient's.

    Args:
        histograms: (n, bins), rows sum to 1 or are all 0 (left out).
        weight: (n,).

    Returns:
        (bins,), sums to 1; even where no row is left.
    """
    bins, present = histograms.shape[1], np.asarray(histograms).any(axis=1)
    if not present.any():
        return np.full(bins, 1 / bins)
    levels = (np.arange(_LEVELS) + 0.5) / _LEVELS
    edges, quantiles = np.arange(bins + 1), np.zeros(_LEVELS)
    shares = np.concatenate([np.zeros((len(histograms), 1)), np.cumsum(histograms, axis=1)], axis=1)
    for row, one in zip(shares[present], weight[present], strict=True):
        quantiles += one * np.interp(levels, row / row[-1], edges)
    quantiles /= weight[present].sum()
    # Each level's mass lies evenly between the means of its neighbors, not at a point.
    ends = np.concatenate([quantiles[:1], (quantiles[1:] + quantiles[:-1]) / 2, quantiles[-1:]])
    below = np.interp(edges, ends, np.linspace(0, 1, _LEVELS + 1))
    below[0], below[-1] = 0, 1
    return np.diff(below)


_LEVELS = 512
