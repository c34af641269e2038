"""Down to the nucleus: what each nucleus of a slide adds to the probability that a fold's model
gives it.

A slide's histogram is a mean over its nuclei. Let every nucleus move from a random nucleus of the
training patients (the training-mean histogram) to its own bin; integrated gradients on that path
(Sundararajan et al. 2017) give a nucleus in bin b the share (g_b - mean of g over training nuclei)
/ nuclei, where g is the mean gradient on the path. So a bin's contribution is divided evenly among
its nuclei, bins without nuclei need no share, and the shares of all nuclei sum to the probability
of the slide minus that of the training mean.
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
from morphomil.seeds import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from morphomil.rank.folds import FoldModel
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
    """What the nuclei of a slide add to its probability of the positive label."""

    nuclei: pd.DataFrame = field(repr=False)
    """As the table given, same index: `contribution`, then `contribution_` and each feature's name.
    NaN in patches of fewer than 5 nuclei, which no bag has; 0 where a nucleus has no value of the
    feature."""
    bins: pd.DataFrame = field(repr=False)
    """`feature, bin, low, high, nuclei, contribution`: what the bin's nuclei add together."""
    probability: float
    """Of the positive label, for the bag of all patches."""
    baseline: float
    """The same for the training-mean histograms."""
    gap: float
    """Sum of shares minus (probability - baseline)."""
    steps: int


def attribute_nuclei(
    nuclei: pd.DataFrame, model: FoldModel, *, covariates: pd.DataFrame | None = None
) -> NucleusShares:
    """Share out a slide's probability among its nuclei, by a model that should not have been
    trained on its patient.

    Args:
        nuclei: one slide's, with `patch_id` and the model's features.
        model: a fold's, as `Ranking.models` or a run holds them.
        covariates: the patient's, one row, where the model adds to them (`FoldModel.covariates`);
            they are what they are all along the path.

    Raises:
        ValueError: no patch has 5 nuclei, or the shares are not complete to 1e-3 after 4,096 steps.
    """
    from morphomil.rank.model import restore_morphometry

    edges = model.edges
    patch, place = np.unique(nuclei["patch_id"].to_numpy(), return_inverse=True)
    binned = np.stack(
        [
            edges.bin_of(name, fine_bin(nuclei, name, orientation=edges.orientation))
            for name in edges.features
        ]
    )  # (features, nuclei)
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
    offset = _offset(model, covariates)
    baseline = trained.scaler.baseline
    steps = STEPS
    while True:
        gradient, before, after = trained.integrate_gradients(
            histograms, steps=steps, offset=offset
        )
        gain = gradient - (gradient * baseline).sum(
            axis=1, keepdims=True
        )  # of a nucleus over a random one
        gap = float((gain * histograms).sum() - (after - before))
        if abs(gap) <= COMPLETE:
            break
        if steps >= MOST_STEPS:
            raise ValueError(
                f"shares of nuclei miss the probability by {gap:g} after {steps} steps"
            )
        steps *= 2
    shares = weight * np.take_along_axis(gain, binned.clip(0), axis=1)  # (features, nuclei)
    shares[:, ~used[place]] = np.nan
    table = pd.DataFrame(
        shares.T, columns=[f"contribution_{name}" for name in edges.features], index=nuclei.index
    )
    table.insert(0, "contribution", shares.sum(axis=0))
    return NucleusShares(
        table, _tabulate(model, binned, used[place], gain * histograms), after, before, gap, steps
    )


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
    contribution: NDArray[np.float64],
) -> pd.DataFrame:
    parts = []
    for name, bins, of_bins in zip(model.edges.features, binned, contribution, strict=True):
        edges = model.edges.values(name)
        count = np.bincount(bins[(bins >= 0) & used], minlength=BINS)
        columns = {
            "bin": range(BINS),
            "low": edges[:-1],
            "high": edges[1:],
            "nuclei": count,
            "contribution": of_bins,
        }
        parts.append(pd.DataFrame({"feature": name} | columns))
    return pd.concat(parts, ignore_index=True)


def curves_of_patches(
    nuclei: pd.DataFrame,
    model: FoldModel,
    shares: NucleusShares,
    *,
    seed_key: tuple[Any, ...],
    covariates: pd.DataFrame | None = None,
) -> NDArray[np.float64]:
    """Probability of a slide while its patches leave, those that contribute most first, and while
    they come.

    Args:
        nuclei: as `attribute_nuclei` took them.
        model: likewise.
        shares: what it gave.
        seed_key: decides the random orders, such as seed and slide id.
        covariates: as `attribute_nuclei`.

    Returns:
        (4, 11): deletion, deletion in random order (mean of 10 orders), insertion, insertion in
        random order, after 0, 10, ... 100 % of the patches; without patches it is the probability
        of the training mean. For `robustness.measure_faithfulness`.
    """
    from morphomil.rank.model import restore_morphometry

    total = shares.nuclei["contribution"].groupby(nuclei["patch_id"]).sum(min_count=1).dropna()
    edges = model.edges
    counts = count_nuclei(
        nuclei, total.index, features=edges.features, orientation=edges.orientation
    )
    rows = relative_frequencies(rebin(counts, edges))  # (features, patches, bins)
    rng = generator("patches", *seed_key)
    orders = [
        np.argsort(-total.to_numpy(), kind="stable"),
        *(rng.permutation(len(total)) for _ in range(ORDERS)),
    ]
    cuts = np.round(np.linspace(0, len(total), CUTS + 1)).astype(int)
    bags = [
        mean_rows(rows[:, part])
        for order in orders
        for cut in cuts
        for part in (order[cut:], order[:cut])
    ]
    offset = _offset(model, covariates)
    shift = None if offset is None else np.tile(offset, (1, len(bags), 1))
    prediction = restore_morphometry(model.weights).predict(np.stack(bags), offset=shift)
    probability = prediction.probability[..., 1].mean(axis=0)
    curves = probability.reshape(len(orders), CUTS + 1, 2)
    ranked, random = curves[0], curves[1:].mean(axis=0)
    return np.stack([ranked[:, 0], random[:, 0], ranked[:, 1], random[:, 1]])
