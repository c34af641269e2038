"""Verdicts: the combination of routes holds its level, and words follow p values and intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from morphomil.rank.classes import Classes
from morphomil.rank.verdict import (
    INCONCLUSIVE,
    NOT_SUPPORTED,
    SUPPORTED,
    by_surety,
    combine_routes,
    explain_verdict,
    judge,
    say_verdict,
)


def routes_of(rng, labelings=100, features=4):
    """Two routes that go together, and a whole."""
    shared = rng.normal(size=(labelings, features))
    routes = {name: shared + rng.normal(size=shared.shape) for name in ("attention", "scan")}
    return routes, {"auc": shared.mean(axis=1) + rng.normal(size=labelings)}


def test_combined_p_by_hand():
    """One route: p_any of max-T. Two: the smallest rank, ties by the other."""
    one = {"scan": np.array([[3.0, 1.0], [2.0, 2.5], [0.0, 1.0], [4.0, 0.0]])}
    p, each, routes = combine_routes(one, {})
    assert p == routes["scan"] == 2 / 4
    np.testing.assert_allclose(each, [2 / 4, 4 / 4])
    # Highest: 3, 2.5, 1, 4 and the whole's 9, 1, 2, 3: the truth is second, and first.
    p, each, routes = combine_routes(one, {"auc": np.array([9.0, 1.0, 2.0, 3.0])})
    assert routes == {"scan": 2 / 4, "auc": 1 / 4}
    # Keys: truth (1, 2), the others (3, 4), (3, 4), (1, 2): the last is a tie.
    assert p == 2 / 4
    np.testing.assert_allclose(each, [2 / 4, 4 / 4])
    with pytest.raises(ValueError, match="at least 1 permutation"):
        combine_routes({"scan": np.ones((1, 2))}, {})


def test_combined_p_holds_its_level_and_that_of_features():
    rng = np.random.default_rng(0)
    whole, smallest = [], []
    for _ in range(2000):
        p, each, routes = combine_routes(*routes_of(rng))
        assert p <= each.min() + 1e-12
        assert p >= min(routes.values()) - 1e-12
        whole.append(p)
        smallest.append(each.min())
    for alpha in (0.05, 0.2):
        noise = 3.5 * np.sqrt(alpha * (1 - alpha) / 2000)
        assert np.mean(np.array(whole) <= alpha) == pytest.approx(alpha, abs=noise)
        assert np.mean(np.array(smallest) <= alpha) <= alpha + noise


def test_one_feature_that_stands_out_is_supported_alone():
    rng = np.random.default_rng(1)
    routes, whole = routes_of(rng, labelings=200)
    routes["scan"][0, 2] = 20
    p, each, _ = combine_routes(routes, whole)
    assert p == each[2] < 0.05
    assert (np.delete(each, 2) > 0.05).all()


def test_words():
    assert judge(0.05, excluded=True) == SUPPORTED
    assert judge(0.051, excluded=True) == NOT_SUPPORTED
    assert judge(0.051, excluded=False) == INCONCLUSIVE
    assert judge(np.nan, excluded=True) == INCONCLUSIVE


def test_sentences():
    routes = {"attention": 0.01, "shapley": 0.02, "scan": 0.005, "auc": 0.3}
    features = pd.DataFrame(
        {
            "feature": ["area_um2", "circularity"],
            "verdict_p": [0.2, 0.01],
            "verdict": [INCONCLUSIVE, SUPPORTED],
        }
    )
    said = say_verdict(SUPPORTED, features, p=0.01, routes=routes, permutations=199)
    assert said == (
        "Supported: the outcome goes with nuclear morphology beyond chance (p = 0.010 for all "
        "features together, by attention, Shapley values, the plain scan and the out-of-fold AUC, "
        "against 199 permutations of the labels). By itself supported: circularity (p = 0.010)."
    )
    none = features.assign(verdict=INCONCLUSIVE)
    assert "No single feature" in say_verdict(
        SUPPORTED, none, p=0.01, routes=routes, permutations=199
    )
    quick = say_verdict(INCONCLUSIVE, none, p=0.3, routes={"scan": 0.3}, permutations=9999)
    assert quick.startswith("Inconclusive at this number of patients: nothing beyond chance")
    assert "by the plain scan, against 9,999 permutations" in quick
    assert "the model, and with it" in quick.lower()
    no = say_verdict(NOT_SUPPORTED, none, p=0.3, routes=routes, permutations=199)
    assert "the intervals exclude effects of size" in no
    assert "untested" not in no
    assert "not tested" in say_verdict(INCONCLUSIVE, none, p=np.nan, routes={}, permutations=0)


def test_the_verdict_for_pathologists():
    """The groups, the direction, the share of pairs of patients; chance as so many of 1,000."""
    features = pd.DataFrame(
        {
            "feature": ["area_um2", "circularity"],
            "scan_summary": ["median", "sd_between"],
            "scan_delta": [-0.5, 0.1],
            "scan_p_any": [0.001, 0.9],
            "verdict_p": [0.005, 0.4],
            "verdict": [SUPPORTED, INCONCLUSIVE],
        }
    )
    said = {"classes": Classes(("N0", "N+")), "patients": 40}
    assert explain_verdict(SUPPORTED, features, p=0.0045, **said) == (
        "Nuclear morphology goes with the outcome in these 40 patients: nuclear area is smaller in "
        "the typical nucleus in N+ than in N0 (true of 75 % of pairs of one patient of each). For "
        "comparison: of studies in which it had nothing to do with the outcome, about 5 of 1,000 "
        "would show as much."
    )
    both = explain_verdict(SUPPORTED, features.assign(verdict=SUPPORTED), p=0.0001, **said)
    assert "1 more of 2 features is supported too" in both
    assert "fewer than 1 of 1,000" in both
    none = explain_verdict(SUPPORTED, features.assign(verdict=INCONCLUSIVE), p=0.01, **said)
    assert "several together do" in none
    unclear = explain_verdict(INCONCLUSIVE, features, p=0.306, **said)
    assert unclear.startswith("These 40 patients can't tell whether")
    assert "about 31 of 100" in unclear and "It takes more patients." in unclear
    no = explain_verdict(NOT_SUPPORTED, features, p=0.3, **said)
    assert "was not shown to go with the outcome" in no
    assert "in more than 66 % of pairs" in no and "tell only together" not in no
    quick = explain_verdict(NOT_SUPPORTED, features, p=0.3, trained=False, **said)
    assert "and what features tell only together, may be there" in quick
    assert "not tested" in explain_verdict(INCONCLUSIVE, features, p=np.nan, **said)
    alone = explain_verdict(SUPPORTED, features.assign(scan_p_any=0.3), p=0.01, **said)
    assert "the model tells the groups apart by area_um2, though no difference in it" in alone
    assert "smaller" not in alone and "pairs" not in alone
    held = explain_verdict(SUPPORTED, features, p=0.01, held=("age", "site"), **said)
    assert "in N+ than in N0 in patients alike in age and site." in held
    three = features.assign(
        scan_epsilon_squared=0.4, scan_highest="c", scan_lowest="a", scan_extremes_p=0.01
    )
    several = {"classes": Classes(("a", "b", "c")), "patients": 40}
    assert "larger in the typical nucleus in c than in a" in explain_verdict(
        SUPPORTED, three, p=0.01, **several
    )
    unsure = explain_verdict(SUPPORTED, three.assign(scan_extremes_p=0.06), p=0.01, **several)
    assert "differs between the 3 groups (Median), no two of them for sure" in unsure


def test_the_surest_feature_is_one_for_words_and_picture():
    """Ties by p of all routes are the rule under few permutations."""
    features = pd.DataFrame(
        {
            "feature": ["area_um2", "minor_axis_um", "circularity"],
            "scan_delta": [0.5, -0.6, 0.7],
            "scan_p_any": [0.0001, 0.0001, 0.02],
            "verdict_p": [0.005, 0.005, 0.005],
        }
    )
    order = by_surety(features, "delta")["feature"].tolist()
    assert order == ["minor_axis_um", "area_um2", "circularity"]
