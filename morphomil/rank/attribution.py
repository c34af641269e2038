"""Down to the nucleus: what each nucleus of a slide adds to the probability that a fold's model
gives it.

The model reads numbers (`instances.InstanceBags`), and integrated gradients from those of a typical
training patient (Sundararajan et al. 2017) say what a change of each is worth. A nucleus moves each
number by a known amount:

- *Histogram.* Let every nucleus move from a random nucleus of the typical patient to its own bin.
  With g the mean derivative of the number by the share of a bin on that path, a nucleus in bin b
  moves it by (g_b - mean of g over the typical patient's nuclei) / nuclei, exactly
  (`representation.histogram_gain`).
- *Patches.* An L-moment over patches, minus its training mean, is divided among patches by their
  influence on it, and a patch's part among its nuclei: evenly, and by how far each moves the
  patch's own mean or spread.

The shares of all nuclei sum to the probability of the slide minus that of the typical patient.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.matrix import (
    BINS,
    MIN_NUCLEI,
    count_nuclei,
    fine_bin,
    mean_rows,
    rebin,
    relative_frequencies,
)
from morphomil.rank.bags import reads_patches
from morphomil.rank.instances import read_instances
from morphomil.rank.representation import (
    POOLED,
    histogram_gain,
    patch_influence,
    patch_moments,
    read_patches,
    spread_influence,
)
from morphomil.seeds import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from morphomil.rank.folds import FoldModel
    from morphomil.rank.instances import Scaler
    from morphomil.rank.model import TrainedMorphometry
STEPS = 64
"""The path has so many points at first; they are doubled until the shares are complete."""
MOST_STEPS = 4096
"""The path has at most so many points."""
CUTS, ORDERS = 10, 10
"""Curves of patches have so many steps, and are compared with so many random orders."""
COMPLETE = 1e-3
"""The shares' sum may miss the difference of probabilities by this much."""


@dataclass(frozen=True)
class NucleusShares:
    """What the nuclei of a slide add to its probability of the positive label, or of another
    class."""

    nuclei: pd.DataFrame = field(repr=False)
    """As the table given, same index: `contribution`, then `contribution_` and each feature's name.
    NaN in patches of fewer than 5 nuclei, which no bag has; 0 where a nucleus has no value of the
    feature."""
    bins: pd.DataFrame = field(repr=False)
    """`feature, bin, low, high, nuclei, contribution`: what the bin's nuclei add together."""
    probability: float
    """Of this class, for the bag of all patches."""
    baseline: float
    """The same for a typical training patient (`instances.Scaler.baseline`)."""
    gap: float
    """Sum of shares minus (probability - baseline)."""
    steps: int


def attribute_nuclei(
    nuclei: pd.DataFrame,
    model: FoldModel,
    *,
    target: int = -1,
    covariates: pd.DataFrame | None = None,
) -> NucleusShares:
    """Share out a slide's probability among its nuclei, by a model that should not have been
    trained on its patient.

    Args:
        nuclei: one slide's, with `patch_id` and the model's features.
        model: a fold's, as `Ranking.models` or a run holds them.
        target: the class whose probability is shared out, by default the last (of two the positive
            one).
        covariates: the patient's, one row, where the model adds to them (`FoldModel.covariates`);
            they are what they are all along the path.

    Raises:
        ValueError: no patch has 5 nuclei, or the shares are not complete to 1e-3 after 4,096 steps.
    """
    from morphomil.rank.model import restore_morphometry

    edges = model.edges
    patch, place = np.unique(nuclei["patch_id"].to_numpy(), return_inverse=True)
    fine = np.stack(
        [fine_bin(nuclei, name, orientation=edges.orientation) for name in edges.features]
    )  # (features, nuclei)
    binned = np.stack(
        [edges.bin_of(name, row) for name, row in zip(edges.features, fine, strict=True)]
    )
    values = np.zeros((len(binned), len(patch)), np.int64)  # with a value, per feature and patch
    for row, bins in zip(values, binned, strict=True):
        row += np.bincount(place[bins >= 0], minlength=len(patch))
    used = values.max(axis=0) >= MIN_NUCLEI
    if not used.any():
        raise ValueError(f"nuclei can't be weighed: no patch has {MIN_NUCLEI} nuclei")
    weight = _weigh(binned, values, place, used)
    histograms = np.zeros((len(binned), BINS))
    for histogram, bins, counts in zip(histograms, binned, weight, strict=True):
        histogram += np.bincount(bins[bins >= 0], counts[bins >= 0], BINS)
    trained = restore_morphometry(model.weights)
    scaler = trained.scaler
    moments = None
    if scaler.reading == "quantiles":
        counted = count_nuclei(
            nuclei, patch[used], features=edges.features, orientation=edges.orientation
        )
        moments = np.full((len(binned), len(patch), 3), np.nan)
        moments[:, used] = patch_moments(counted)
        moments[~reads_patches(edges)] = np.nan
    bag = read_instances(histograms, None if moments is None else read_patches(moments))
    gradient, before, after, gap, steps = _integrate(
        trained, bag, target=target, offset=_offset(model, covariates)
    )
    gain = _gain_of_bins(scaler, gradient, histograms)
    shares = weight * np.take_along_axis(gain, binned.clip(0), axis=1)  # (features, nuclei)
    if moments is not None:
        excess = np.nan_to_num(bag - scaler.mean)[:, POOLED:]
        known = gradient[:, POOLED:] * ~np.isnan(bag[:, POOLED:])
        for number, row in enumerate(shares):
            row += _share_patches(
                fine[number], place, moments[number], gradient=known[number], excess=excess[number]
            )
    shares[:, ~used[place]] = np.nan
    table = pd.DataFrame(
        shares.T, columns=[f"contribution_{name}" for name in edges.features], index=nuclei.index
    )
    table.insert(0, "contribution", shares.sum(axis=0))
    bins = _tabulate(model, binned, used[place], shares)
    return NucleusShares(table, bins, after, before, gap, steps)


def _integrate(
    trained: TrainedMorphometry,
    bag: NDArray[np.float64],
    *,
    target: int,
    offset: NDArray[np.float64] | None,
) -> tuple[NDArray[np.float64], float, float, float, int]:
    """Integrated gradients (features, columns), both ends' probability, what the shares miss of
    their difference, and how many points it took."""
    excess, steps = np.nan_to_num(bag - trained.scaler.baseline), STEPS
    while True:
        gradient, before, after = trained.integrate_gradients(
            bag, steps=steps, target=target, offset=offset
        )
        gap = float((gradient * excess).sum() - (after - before))
        if abs(gap) <= COMPLETE:
            return gradient, before, after, gap, steps
        if steps >= MOST_STEPS:
            raise ValueError(
                f"shares of nuclei miss the probability by {gap:g} after {steps} steps"
            )
        steps *= 2


def _gain_of_bins(
    scaler: Scaler, gradient: NDArray[np.float64], histograms: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What a nucleus in a bin adds by the histogram over a random one of the typical patient,
    (features, bins)."""
    typical = scaler.typical.astype(np.float64)
    if scaler.reading == "quantiles":
        slopes = histogram_gain(typical, histograms)
        gain = np.einsum("fc,fcb->fb", gradient[:, :POOLED], slopes)
    else:  # a share in a bin adds to the cumulative shares from it on
        gain = np.pad(np.cumsum(gradient[:, ::-1], axis=1)[:, ::-1], ((0, 0), (0, 1)))
    return np.asarray(gain - (gain * typical).sum(axis=1, keepdims=True))


def _share_patches(
    fine: NDArray[np.intp],
    place: NDArray[np.intp],
    moments: NDArray[np.float64],
    *,
    gradient: NDArray[np.float64],
    excess: NDArray[np.float64],
) -> NDArray[np.float64]:
    """What nuclei add by the views of a feature's patches, (nuclei,).

    Args:
        fine: (nuclei,), fine bins.
        place: (nuclei,), numbers of their patches.
        moments: (patches, 3), `representation.patch_moments`.
        gradient: (views,), what a unit of each is worth.
        excess: (views,), over the training mean.
    """
    kept = np.flatnonzero(~np.isnan(moments[:, 0]))
    if not len(kept):
        return np.zeros(len(fine))
    number = np.full(len(moments), -1)
    number[kept] = np.arange(len(kept))
    inside = (fine >= 0) & (number[place] >= 0)
    owner = number[place[inside]]
    size = np.bincount(owner, minlength=len(kept))[owner]
    nuclei = fine[inside].astype(np.float64) + 0.5
    moves = nuclei - moments[kept[owner], 0], spread_influence(nuclei, owner)
    influence, derivative = patch_influence(moments[kept])
    of_patches = (influence + excess) @ gradient / len(kept)
    by_mean, by_spread = (derivative @ gradient).T
    shares = np.zeros(len(fine))
    shares[inside] = of_patches[owner] + by_mean[owner] * moves[0] + by_spread[owner] * moves[1]
    shares[inside] /= size
    return shares


def _offset(model: FoldModel, covariates: pd.DataFrame | None) -> NDArray[np.float64] | None:
    """What the covariates alone say, (classes,); None where the model has none.

    Raises:
        ValueError: the model has some, and they aren't given.
    """
    if model.covariates is None:
        return None
    if covariates is None:
        raise ValueError("the model adds to covariates; give the patient's")
    return np.asarray(model.covariates.log_probability(covariates)[0])


def _weigh(
    binned: NDArray[np.intp],
    values: NDArray[np.int64],
    place: NDArray[np.intp],
    used: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """What a nucleus counts in its slide's mean histogram, (features, nuclei): patches weigh alike,
    sums are 1."""
    present = (values > 0) & used
    of_patch = present / np.maximum(values, 1) / np.maximum(present.sum(axis=1, keepdims=True), 1)
    return np.where(binned >= 0, of_patch[:, place], 0.0)


def _tabulate(
    model: FoldModel,
    binned: NDArray[np.intp],
    used: NDArray[np.bool_],
    shares: NDArray[np.float64],
) -> pd.DataFrame:
    parts = []
    for name, bins, row in zip(model.edges.features, binned, shares, strict=True):
        edges = model.edges.values(name)
        counted = (bins >= 0) & used
        count = np.bincount(bins[counted], minlength=BINS)
        columns = {
            "bin": range(BINS),
            "low": edges[:-1],
            "high": edges[1:],
            "nuclei": count,
            "contribution": np.bincount(bins[counted], row[counted], BINS),
        }
        parts.append(pd.DataFrame({"feature": name} | columns))
    return pd.concat(parts, ignore_index=True)


def curves_of_patches(
    nuclei: pd.DataFrame,
    model: FoldModel,
    shares: NucleusShares,
    *,
    seed_key: tuple[Any, ...],
    target: int = -1,
    covariates: pd.DataFrame | None = None,
) -> NDArray[np.float64]:
    """Probability of a slide while its patches leave, those that contribute most first, and while
    they come.

    Args:
        nuclei: as `attribute_nuclei` took them.
        model: likewise.
        shares: what it gave.
        seed_key: decides the random orders, such as seed and slide id.
        target: as `attribute_nuclei`.
        covariates: likewise.

    Returns:
        (4, 11): deletion, deletion in random order (mean of 10 orders), insertion, insertion in
        random order, after 0, 10, ... 100 % of the patches; without patches it is the probability
        of a typical training patient. For `robustness.measure_faithfulness`.
    """
    from morphomil.rank.model import restore_morphometry

    total = shares.nuclei["contribution"].groupby(nuclei["patch_id"]).sum(min_count=1).dropna()
    edges = model.edges
    counts = count_nuclei(
        nuclei, total.index, features=edges.features, orientation=edges.orientation
    )
    rows = relative_frequencies(rebin(counts, edges))  # (features, patches, bins)
    trained = restore_morphometry(model.weights)
    plain = trained.scaler.reading == "histograms"
    moments = patch_moments(counts)
    moments[~reads_patches(edges)] = np.nan

    def read(part: NDArray[np.intp]) -> NDArray[np.float64]:
        if not len(part):
            return trained.scaler.baseline
        return read_instances(
            mean_rows(rows[:, part]), None if plain else read_patches(moments[:, part])
        )

    rng = generator("patches", *seed_key)
    orders = [
        np.argsort(-total.to_numpy(), kind="stable"),
        *(rng.permutation(len(total)) for _ in range(ORDERS)),
    ]
    cuts = np.round(np.linspace(0, len(total), CUTS + 1)).astype(int)
    bags = [read(part) for order in orders for cut in cuts for part in (order[cut:], order[:cut])]
    offset = _offset(model, covariates)
    shift = None if offset is None else np.tile(offset, (1, len(bags), 1))
    prediction = trained.predict(np.stack(bags).astype(np.float32), offset=shift)
    probability = prediction.probability[..., target].mean(axis=0)
    curves = probability.reshape(len(orders), CUTS + 1, 2)
    ranked, random = curves[0], curves[1:].mean(axis=0)
    return np.stack([ranked[:, 0], random[:, 0], ranked[:, 1], random[:, 1]])
