from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from scipy.optimize import brentq

from morphomil.stats import (
    axial_deviation,
    axial_mean,
    axial_polarity,
    axial_resultant,
    grouped_polarity,
    leave_one_out_deviation,
    leave_one_out_turn,
    rayleigh_test,
    watson_williams_test,
)

laws = settings(deadline=None, max_examples=60)
angles = st.lists(st.floats(0, 179.99), min_size=2, max_size=30).map(np.array)


def fan(center, n, *, spread=20, seed=0):
    return (center + np.random.default_rng(seed).normal(0, spread, n)) % 180


def test_means_by_hand():
    assert axial_mean([170, 10]) == pytest.approx(0, abs=1e-12) or axial_mean(
        [170, 10]
    ) == pytest.approx(180)
    assert axial_mean([10, 50]) == pytest.approx(30)
    assert axial_mean([100, 140, np.nan]) == pytest.approx(120)
    assert axial_mean([20, 80], weights=[1, 0]) == pytest.approx(20)
    assert axial_mean([20, 20, 60], [0.5, 0.5, 1]) == pytest.approx(40)
    assert axial_mean([30, np.nan], weights=[1, 5]) == pytest.approx(30)
    assert axial_mean([-45]) == pytest.approx(135)


@pytest.mark.parametrize("cancelling", [[0, 90], [10, 70, 130], [], [np.nan], [33, 123, 0, 90]])
def test_angles_that_cancel_have_no_mean(cancelling):
    assert math.isnan(axial_mean(cancelling))


def test_weights_of_zero_leave_no_mean_and_bad_weights_are_rejected():
    assert math.isnan(axial_mean([10, 20], weights=[0, 0]))
    for weights in ([1], [1, -1], [1, np.nan], [1, np.inf]):
        with pytest.raises(ValueError, match="weights must be 2 finite numbers"):
            axial_mean([10, 20], weights)


@laws
@given(angles)
def test_mean_equals_scipys_circular_mean(degrees):
    if axial_resultant(degrees) > 1e-6:
        expected = stats.circmean(degrees, high=180, low=0)
        assert axial_deviation(axial_mean(degrees), expected) == pytest.approx(0, abs=1e-6)
        assert 0 <= axial_mean(degrees) < 180
    assert axial_resultant(degrees) == pytest.approx(
        1 - stats.circvar(degrees, high=180, low=0), abs=1e-9
    )


@laws
@given(angles)
def test_polarity_is_the_mean_over_pairs(degrees):
    n = len(degrees)
    pairs = np.cos(2 * np.radians(degrees[:, None] - degrees))[~np.eye(n, dtype=bool)]
    r = axial_resultant(degrees)
    assert axial_polarity(degrees) == pytest.approx(pairs.mean(), abs=1e-9)
    assert axial_polarity(degrees) == pytest.approx((n * r**2 - 1) / (n - 1), abs=1e-9)


@laws
@given(angles, st.floats(-720, 720))
def test_turning_the_slide_turns_the_mean_and_nothing_else(degrees, turn):
    turned = (degrees + turn) % 180
    group = np.arange(len(degrees)) % 2
    assert axial_resultant(turned) == pytest.approx(axial_resultant(degrees), abs=1e-9)
    assert axial_polarity(turned) == pytest.approx(axial_polarity(degrees), abs=1e-9)
    if axial_resultant(degrees) > 1e-4:
        assert axial_deviation(axial_mean(turned), axial_mean(degrees) + turn) == pytest.approx(
            0, abs=1e-6
        )
    before, after = leave_one_out_deviation(degrees, group), leave_one_out_deviation(turned, group)
    stable = [directed(degrees, group, i) for i in range(len(degrees))]
    np.testing.assert_allclose(after[stable], before[stable], atol=1e-6)


def directed(degrees, group, i):
    """Whether the others of a group have a mean direction, well away from rounding."""
    others = (group == group[i]) & (np.arange(len(degrees)) != i)
    return bool(others.any() and axial_resultant(degrees[others]) > 1e-4)


@pytest.mark.parametrize("n", [5, 80])
def test_polarity_of_uniform_angles_is_zero_at_every_n(n):
    samples = 20_000
    rng = np.random.default_rng(n)
    polarity = grouped_polarity(
        rng.uniform(0, 180, n * samples), np.repeat(np.arange(samples), n)
    ).polarity
    error = 1 / math.sqrt(
        n * (n - 1) * samples
    )  # variance of the mean of cos over pairs is 1 / (n (n - 1))
    assert polarity.std() == pytest.approx(error * math.sqrt(samples), rel=0.05)
    assert abs(polarity.mean()) < 3.5 * error
    r = np.sqrt((polarity * (n - 1) + 1) / n)
    assert r.mean() == pytest.approx({5: 0.40, 80: 0.10}[n], abs=0.01)


@pytest.mark.parametrize("n", [5, 80])
def test_polarity_of_aligned_angles_is_r_squared_at_every_n(n):
    rng = np.random.default_rng(n)
    kappa = 1.5
    doubled = np.degrees(rng.vonmises(0, kappa, n * 4000))
    polarity = grouped_polarity(doubled / 2 % 180, np.repeat(np.arange(4000), n)).polarity
    expected = (stats.vonmises(kappa).expect(np.cos, lb=-np.pi, ub=np.pi)) ** 2
    assert polarity.mean() == pytest.approx(expected, abs=4 * polarity.std() / math.sqrt(4000))


def test_polarity_and_resultant_at_the_ends():
    assert axial_polarity([40] * 7) == pytest.approx(1, abs=1e-12)
    assert axial_polarity([0, 90]) == pytest.approx(-1, abs=1e-12)
    assert axial_resultant([0, 45]) == pytest.approx(math.sqrt(0.5), abs=1e-12)
    assert axial_resultant([12, np.nan]) == pytest.approx(1, abs=1e-12)
    assert math.isnan(axial_resultant([np.nan]))
    for few in ([], [5], [5, np.nan]):
        assert math.isnan(axial_polarity(few))


def test_deviation_is_the_smaller_angle():
    found = axial_deviation([0, 0, 179, 90, 45, 10, np.nan], [0, 90, 1, 0, 135, 200, 3])
    np.testing.assert_allclose(found, [0, 90, 2, 90, 90, 10, np.nan], atol=1e-12)
    assert axial_deviation(30, [20, 50]).tolist() == [10, 20]


@laws
@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_deviation_laws(a, b):
    found = axial_deviation(a, b)
    assert 0 <= found <= 90
    assert found == pytest.approx(axial_deviation(b, a), abs=1e-9)
    assert found == pytest.approx(axial_deviation(a + 180, b - 360), abs=1e-9)
    assert found == pytest.approx(np.degrees(np.arcsin(abs(np.sin(np.radians(a - b))))), abs=1e-5)


def test_leave_one_out_equals_the_loop():
    rng = np.random.default_rng(1)
    degrees, groups = rng.uniform(0, 180, 300), rng.integers(0, 25, 300)
    degrees[rng.random(300) < 0.2] = np.nan
    expected = []
    for i in range(300):
        others = (groups == groups[i]) & (np.arange(300) != i)
        expected.append(float(axial_deviation(degrees[i], axial_mean(degrees[others]))))
    np.testing.assert_allclose(leave_one_out_deviation(degrees, groups), expected, atol=1e-9)


def test_leave_one_out_by_hand():
    degrees = [10, 30, 170, np.nan, 50, 20, 0, 90, 77]
    groups = ["a", "a", "b", "b", "c", "c", "d", "d", "d"]
    expected = [20, 20, np.nan, np.nan, 30, 30]
    found = leave_one_out_deviation(degrees, groups)
    np.testing.assert_allclose(found[:6], expected, atol=1e-9)
    assert math.isnan(found[8])  # 0 and 90, the others of its group, cancel


def test_turns_have_the_sense_of_deviations():
    degrees, groups = [10, 30, 170, 20, 5], ["a", "a", "b", "b", "c"]
    turns = leave_one_out_turn(degrees, groups)
    np.testing.assert_allclose(turns, [-20, 20, -30, 30, np.nan], atol=1e-9)
    np.testing.assert_array_equal(np.abs(turns), leave_one_out_deviation(degrees, groups))


def test_leave_one_out_of_uniform_angles_is_uniform():
    rng = np.random.default_rng(2)
    found = leave_one_out_deviation(rng.uniform(0, 180, 40_000), np.repeat(np.arange(8000), 5))
    assert stats.kstest(found[::5] / 90, "uniform").pvalue > 0.01


def test_grouped_polarity_equals_the_single_groups():
    parts = {
        "b": fan(20, 12),
        "a": fan(100, 30, spread=60),
        "d": np.array([np.nan, 4.0]),
        "c": np.array([np.nan]),
    }
    groups = np.repeat(list(parts), [len(part) for part in parts.values()])
    order = np.random.default_rng(3).permutation(len(groups))
    names, polarity, n = grouped_polarity(
        np.concatenate(list(parts.values()))[order], groups[order]
    )
    assert names.tolist() == ["a", "b", "c", "d"]
    assert n.tolist() == [30, 12, 0, 1]
    np.testing.assert_allclose(
        polarity, [axial_polarity(parts[name]) for name in names], atol=1e-12
    )
    assert polarity[1] > 0.5
    assert np.isnan(polarity[2:]).all()


def test_no_nuclei_give_no_rows():
    assert leave_one_out_deviation([], []).tolist() == []
    assert [part.tolist() for part in grouped_polarity([], [])] == [[], [], []]


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="finite numbers or NaN"):
        axial_mean([np.inf])
    with pytest.raises(ValueError, match=r"each of 2 angles, got shape \(1,\)"):
        leave_one_out_deviation([1, 2], [0])
    with pytest.raises(ValueError, match="1 missing of 2"):
        grouped_polarity([1, 2], ["a", None])


def test_rayleigh_by_its_definition() -> None:
    """Exact in simulation: uniform axes reject at the level, and the statistic is n R^2."""
    rng = np.random.default_rng(0)
    p_values = np.array([rayleigh_test(rng.uniform(0, 180, 20)).p_value for _ in range(4000)])
    assert (p_values < 0.05).mean() == pytest.approx(0.05, abs=0.011)
    angles = rng.normal(170, 20, 40) % 180
    assert rayleigh_test(angles).statistic == pytest.approx(40 * axial_resultant(angles) ** 2)
    assert rayleigh_test(angles).p_value < 1e-6
    assert rayleigh_test((angles + 77) % 180).p_value == pytest.approx(
        rayleigh_test(angles).p_value
    )


def test_watson_williams_holds_its_level_and_finds_a_turn() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat([0, 1, 2], 25)

    def axes(turn: float) -> np.ndarray:
        return (np.degrees(rng.vonmises(np.radians([0.0, 0, 2 * turn])[groups], 4)) / 2 + 175) % 180

    p_values = np.array([watson_williams_test(axes(0), groups).p_value for _ in range(2000)])
    assert (p_values < 0.05).mean() == pytest.approx(0.05, abs=0.015)
    assert watson_williams_test(axes(25), groups).p_value < 0.001
    with pytest.raises(ValueError, match=r"resultant length of 0\.45"):
        watson_williams_test(rng.uniform(0, 180, 75), groups)
    with pytest.raises(ValueError, match="two groups"):
        watson_williams_test([1.0, 2.0], [0, 0])


def test_rayleigh_and_watson_williams_equal_rs_circular() -> None:
    folder = Path(__file__).parents[1] / "reference"
    expected = pd.read_csv(folder / "groups.csv").set_index("quantity")["value"]
    cases = pd.read_csv(folder / "groups_cases.csv")
    assert axial_resultant(cases["axis"]) == pytest.approx(expected["rayleigh_r"], abs=1e-12)
    flat = (2 * cases["smooth"] * 1000 % 360)[:25] / 2
    assert axial_resultant(flat) == pytest.approx(expected["rayleigh_flat_r"], abs=1e-12)
    # two approximations of the same p
    assert rayleigh_test(flat).p_value == pytest.approx(expected["rayleigh_flat_p"], abs=1e-4)
    lengths = cases.groupby("group")["axis"].agg(axial_resultant)
    mean = np.average(lengths, weights=cases.groupby("group").size())
    kappa = brentq(lambda k: special.i1e(k) / special.i0e(k) - mean, 0.01, 100)
    found = watson_williams_test(cases["axis"], cases["group"])
    assert found.statistic / (1 + 3 / (8 * kappa)) == pytest.approx(
        expected["watson_williams_ratio"], rel=1e-8
    )
    assert found.p_value == pytest.approx(stats.f.sf(found.statistic, 1, 88), rel=1e-8)
