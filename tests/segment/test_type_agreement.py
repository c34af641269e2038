"""Matching of centers, F1 of types, calibration; labels classified by a network."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import pytest

from morphomil.segment.classify import type_table
from morphomil.segment.model import Segmenter, TypeCalibration
from morphomil.segment.type_agreement import (
    PROBABILITIES,
    calibrate_types,
    calibration_table,
    confusion,
    match_centers,
    type_scores,
)
from morphomil.types import NUCLEUS_TYPES


def paired(rows: list[tuple[str, str, int]], image: str = "a") -> pd.DataFrame:
    """So many nuclei of each annotated and found type."""
    table = pd.DataFrame(
        [(a, f) for a, f, count in rows for _ in range(count)], columns=["annotated", "found"]
    )
    shares = np.full((len(table), 4), 0.1)
    for k, name in enumerate(NUCLEUS_TYPES):
        shares[table["found"] == name, k] = 0.7
    return table.assign(
        image=image, group="g", mpp=0.5, **dict(zip(PROBABILITIES, shares.T, strict=True))
    )


@pytest.mark.parametrize("seed", range(5))
def test_most_pairs_and_of_those_the_nearest(seed: int) -> None:
    """Witness: all assignments."""
    rng = np.random.default_rng(seed)
    one, other = rng.uniform(0, 8, (4, 2)), rng.uniform(0, 8, (5, 2))
    rows, columns = match_centers(one, other, reach=3.0)
    distance = np.linalg.norm(one[:, None] - other[None], axis=-1)
    best = min(
        (
            -(near := distance[range(4), choice] <= 3.0).sum(),
            distance[range(4), choice][near].sum(),
        )
        for choice in permutations(range(5), 4)
    )
    assert len(rows) == -best[0]
    np.testing.assert_allclose(distance[rows, columns].sum(), best[1])
    assert len(match_centers(one, other[:0], reach=3.0)[0]) == 0


def test_scores_of_a_known_table() -> None:
    table = paired(
        [
            ("epithelial", "epithelial", 50),
            ("epithelial", "stroma", 10),
            ("stroma", "stroma", 20),
            ("stroma", "epithelial", 5),
            ("epithelial", "", 8),
            ("", "stroma", 4),
        ]
    )
    scores = type_scores(table).set_index("type")
    assert list(scores.index) == ["detection", "epithelial", "stroma", "mean"]
    np.testing.assert_allclose(scores.loc["detection", "f1"], 2 * 85 / (93 + 89))
    np.testing.assert_allclose(scores.loc["epithelial", "f1"], 2 * 50 / (68 + 55))
    np.testing.assert_allclose(scores.loc["stroma", "f1"], 2 * 20 / (25 + 34))
    np.testing.assert_allclose(
        scores.loc["mean", "f1"], (2 * 50 / (68 + 55) + 2 * 20 / (25 + 34)) / 2
    )
    # the nuclei of a type alone: 2 TP / (2 TP + 2 FP + 2 FN + FP_d + FN_d), Graham et al. 2019
    expected = [2 * 50 / (2 * 50 + 2 * 5 + 2 * 10 + 8), 2 * 20 / (2 * 20 + 2 * 10 + 2 * 5 + 4)]
    np.testing.assert_allclose(scores.loc[["epithelial", "stroma"], "f_hovernet"], expected)
    counts = confusion(table).set_index("annotated")
    assert counts.loc["epithelial", "stroma"] == 10
    assert counts.loc["epithelial", ""] == 8
    assert counts.loc["", "stroma"] == 4


def test_intervals_are_over_images() -> None:
    alike = [paired([("stroma", "stroma", 9), ("stroma", "", 1)], image=str(k)) for k in range(6)]
    scores = type_scores(pd.concat(alike)).set_index("type")
    low, high = scores.loc["stroma", ["f1_low", "f1_high"]]
    np.testing.assert_allclose([low, high], scores.loc["stroma", "f1"])
    other = paired([("stroma", "", 9), ("stroma", "stroma", 1)], image="other")
    wider = type_scores(pd.concat([*alike, other])).set_index("type")
    assert wider.loc["stroma", "f1_low"] < wider.loc["stroma", "f1"] - 0.05


def test_calibration_finds_temperature_and_bias_again() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (20_000, 4))
    known = TypeCalibration(2.5, (0.4, -0.2, 0.1, -0.3))
    shares = known(logits).astype(float)
    truth = [rng.choice(4, p=p / p.sum()) for p in shares]
    said = TypeCalibration()(logits)
    table = pd.DataFrame(said, columns=list(PROBABILITIES)).assign(
        annotated=np.array(NUCLEUS_TYPES)[truth],
        found=np.array(NUCLEUS_TYPES)[said.argmax(axis=1)],
        group="g",
    )
    found = calibrate_types(table)
    np.testing.assert_allclose(found.temperature, 2.5, rtol=0.05)
    np.testing.assert_allclose(found.bias, known.bias, atol=0.07)
    after = table.assign(**dict(zip(PROBABILITIES, found(logits).T, strict=True)))
    after["found"] = np.array(NUCLEUS_TYPES)[found(logits).argmax(axis=1)]
    for column, worst in ((table, 1.0), (after, 0.05)):
        bins = calibration_table(column)
        bins = bins[bins["nuclei"] > 300]
        assert (bins["probability"] - bins["right"]).abs().max() < worst
    assert (calibration_table(table).query("nuclei > 300").eval("probability - right") > 0.1).any()


@pytest.mark.parametrize("shape", [(200, 300), (700, 900)])
def test_labels_are_classified_where_they_are(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    labels, kinds = np.zeros(shape, np.int32), {}
    image = np.full((*shape, 3), 200, np.uint8)
    for number, (row, column) in enumerate(
        (r, c) for r in range(20, shape[0] - 20, 40) for c in range(20, shape[1] - 20, 40)
    ):
        own = number * 3 + 5  # labels with gaps
        frame = np.s_[row - 8 : row + 8, column - 8 : column + 8]
        kinds[own] = int(rng.integers(4))
        labels[frame], image[frame] = own, kinds[own] * 10

    def network(block: np.ndarray, margin: int) -> tuple[np.ndarray, ...]:
        inner = slice(margin, -margin, 4)
        seen = np.round(block[0, inner, inner, 0] * 25.5).astype(int).clip(0, 3)
        half = np.zeros((1, 2 * seen.shape[0], 2 * seen.shape[1], 1), np.float32)
        return half, half, 9.0 * np.eye(4)[seen][None]

    plain = Segmenter("", network, 2, 16, 0.5, 0.4, (), "unit", types=TypeCalibration())
    table = type_table(image, labels, mpp=0.5, segmenter=plain)
    assert table["label"].tolist() == sorted(kinds)
    assert table["type"].tolist() == [NUCLEUS_TYPES[kinds[own]] for own in sorted(kinds)]
    coarse = replace(plain, resolutions_mpp=(1.0,))
    assert type_table(image, labels, mpp=0.5, segmenter=coarse)["type"].tolist() == (
        table["type"].tolist()
    )
    assert len(type_table(image, labels * 0, mpp=0.5, segmenter=plain)) == 0
