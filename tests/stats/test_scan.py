"""The scan's statistics against scipy and enumeration, its step-down p by definition, its level."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from scipy.stats import kruskal, mannwhitneyu, norm, permutation_test, somersd

from morphomil.stats import mann_whitney, van_elteren
from morphomil.stats.scan import delta_interval, draw_labelings, scan_columns, step_down
from morphomil.stats.several_groups import jonckheere_terpstra


@pytest.fixture
def columns():
    """Continuous, tied, with missing values, and constant."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(40, 4))
    values[:, 1] = values[:, 1].round()
    values[::7, 2] = np.nan
    values[:, 3] = 1.5
    return values


def groups_of(column, labels):
    known = ~np.isnan(column)
    return [column[known & (labels == k)] for k in range(labels.max() + 1)]


def test_two_groups_give_mann_whitneys_z_and_cliffs_delta(columns):
    labels = np.arange(40) % 3 // 2
    scan = scan_columns(columns, draw_labelings(labels, seed=0, permutations=99))
    for j in range(3):
        low, high = groups_of(columns[:, j], labels)
        witness = mannwhitneyu(high, low, method="asymptotic", use_continuity=False)
        assert 2 * norm.sf(abs(scan.statistic[j])) == pytest.approx(witness.pvalue, rel=1e-9)
        named = mann_whitney(high, low)
        limits = delta_interval(columns[:, j], labels == 1)
        assert scan.effect[j] == pytest.approx(named.cliffs_delta)
        assert limits == pytest.approx((named.cliffs_delta, named.low, named.high))
    assert (scan.statistic[3], scan.effect[3], scan.columns.p_value[3]) == (0, 0, 1)


def test_p_of_a_column_is_the_permutation_test_of_scipy(columns):
    labels = np.arange(40) % 2
    shifted = columns[:, :1] + 0.7 * labels[:, None]
    scan = scan_columns(shifted, draw_labelings(labels, seed=0))

    def u(x, y, axis):
        return np.abs(mannwhitneyu(x, y, axis=axis, method="asymptotic").statistic - 200)

    witness = permutation_test(
        (shifted[labels == 1, 0], shifted[labels == 0, 0]),
        u,
        vectorized=True,
        alternative="greater",
        n_resamples=9999,
        rng=np.random.default_rng(0),
    )
    assert scan.columns.p_value[0] == pytest.approx(witness.pvalue, abs=0.02)


def all_labelings(labels, strata):
    """Every labeling with as many positives in each stratum, the truth first."""
    choices = []
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        choices.append(list(combinations(members, int(labels[members].sum()))))
    rows = []
    for chosen in product(*choices):
        row = np.zeros(len(labels), np.int64)
        row[[i for part in chosen for i in part]] = 1
        rows.append(row)
    rest = [row for row in rows if not np.array_equal(row, labels)]
    return np.stack([labels, *rest])


def test_van_elterens_z_has_mean_0_and_variance_1_over_all_labelings():
    rng = np.random.default_rng(5)
    strata = np.repeat([0, 1], [5, 7])
    labels = np.array([1, 0, 0, 1, 0, 1, 1, 1, 0, 0, 0, 1])
    values = rng.normal(size=(12, 2))
    values[:, 1] = values[:, 1].round()
    labelings = all_labelings(labels, strata)
    sums = np.zeros((len(labelings), 2))
    for stratum in (0, 1):
        members = strata == stratum
        for j in range(2):
            own = values[members, j]
            ranks = [(own < x).sum() + (own == x).sum() / 2 + 0.5 for x in own]
            sums[:, j] += labelings[:, members] @ np.array(ranks) / (members.sum() + 1)
    scan = scan_columns(values, labelings, strata=strata)
    witness = (sums - sums.mean(axis=0)) / sums.std(axis=0)
    np.testing.assert_allclose(scan.statistic, witness[0], rtol=1e-9)
    np.testing.assert_allclose(
        scan.columns.p_value, (np.abs(witness) >= np.abs(witness[0]) - 1e-9).mean(axis=0)
    )


def test_step_down_follows_its_definition():
    """Westfall and Young's algorithm 4.1, worked through in loops over all 70 labelings."""
    rng = np.random.default_rng(1)
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    values = rng.normal(size=(8, 4)) + labels[:, None] * [2.0, 0.4, 1.0, 0.0]
    labelings = all_labelings(labels, np.zeros(8))
    assert len(labelings) == 70
    scan = scan_columns(values, labelings)
    u = np.array(
        [[mannwhitneyu(v[y == 1], v[y == 0]).statistic for v in values.T] for y in labelings]
    )
    size = np.abs(u - 8)
    order = sorted(range(4), key=lambda j: -size[0, j])
    least = 0.0
    for place, j in enumerate(order):
        behind = order[place:]
        beaten = sum(max(row[k] for k in behind) >= size[0, j] for row in size)
        least = max(least, beaten / 70)
        assert scan.columns.p_any[j] == pytest.approx(least)
        assert scan.columns.p_value[j] == pytest.approx((size[:, j] >= size[0, j]).mean())


def test_step_down_by_hand():
    statistics = np.array([[3.0, 1.0, 2.0], [1.0, 2.5, 0.0], [0.5, 0.2, 3.5], [0.0, 0.5, 1.0]])
    p = step_down(statistics)
    assert p.p_value.tolist() == [0.25, 0.5, 0.5]
    # First the 3.0 against all: 3.0, 2.5, 3.5, 1.0; then the 2.0 against the last two: 2.0, 2.5,
    # 3.5, 1.0; then the 1.0 against itself, which may not fall below.
    assert p.p_any.tolist() == [0.5, 0.75, 0.75]
    with pytest.raises(ValueError, match="at least 1 permutation"):
        step_down(statistics[:1])


def test_families_are_judged_by_their_largest_column(columns):
    labels = np.arange(40) % 2
    values = np.column_stack([columns[:, :3], columns[:, 0] + labels])
    scan = scan_columns(values, draw_labelings(labels, seed=0), families=[0, 0, 1, 1])
    assert scan.strongest.tolist() == [np.abs(scan.statistic[:2]).argmax(), 3]
    assert scan.families.p_any[1] == scan.columns.p_any[3]  # the largest of all columns
    assert scan.families.p_value[1] <= scan.families.p_any[1]


def test_three_groups_give_kruskal_wallis(columns):
    labels = np.arange(40) % 3
    scan = scan_columns(columns, draw_labelings(labels, seed=0, permutations=999))
    for j in range(3):
        parts = groups_of(columns[:, j], labels)
        witness = kruskal(*parts)
        assert scan.statistic[j] == pytest.approx(witness.statistic)
        assert scan.effect[j] == pytest.approx(witness.statistic / (sum(map(len, parts)) - 1))
        assert scan.columns.p_value[j] == pytest.approx(witness.pvalue, abs=0.05)


def test_stratified_groups_follow_the_covariance_over_all_labelings(columns):
    rng = np.random.default_rng(8)
    labels, strata = np.arange(40) % 3, np.repeat([0, 1], [25, 15])
    labelings = draw_labelings(labels, seed=0, strata=strata, permutations=40_000)
    for stratum in (0, 1):
        counts = [np.bincount(row[strata == stratum]) for row in labelings[:50]]
        assert (np.diff(counts, axis=0) == 0).all()
    values = rng.normal(size=(40, 1)) + strata[:, None] + 0.5 * labels[:, None]
    ranks = np.zeros(40)
    for stratum in (0, 1):
        members = strata == stratum
        ranks[members] = (values[members].ravel().argsort().argsort() + 1) / (members.sum() + 1)
    sums = np.stack([(labelings == k) @ ranks for k in (0, 1)])
    off = sums[:, 0] - sums.mean(axis=1)
    witness = off @ np.linalg.inv(np.cov(sums)) @ off
    scan = scan_columns(values, labelings, strata=strata)
    assert scan.statistic[0] == pytest.approx(witness, rel=0.02)
    one = scan_columns(values, labelings[:100], strata=np.zeros(40))
    two = scan_columns(values, labelings[:100])
    assert one.statistic == pytest.approx(two.statistic)


def test_ordered_groups_give_jonckheere_terpstra(columns):
    labels = np.arange(40) % 4
    labelings = draw_labelings(labels, seed=0, permutations=4000)
    scan = scan_columns(columns, labelings, ordered=True)
    for j in range(3):
        known = ~np.isnan(columns[:, j])
        witness = somersd(labels[known], columns[known, j]).statistic
        assert scan.effect[j] == pytest.approx(witness)
    # Its z by the closed form of the variance without ties (Hollander & Wolfe).
    parts = groups_of(columns[:, 0], labels)
    n, sizes = 40, np.array([len(part) for part in parts])
    more = sum(
        (parts[low][:, None] < parts[high]).sum() for low in range(4) for high in range(low + 1, 4)
    )
    mean = (n**2 - (sizes**2).sum()) / 4
    variance = (n**2 * (2 * n + 3) - (sizes**2 * (2 * sizes + 3)).sum()) / 72
    assert scan.statistic[0] == pytest.approx((more - mean) / np.sqrt(variance), rel=0.03)


def test_pairs_of_ordered_groups_are_those_counted_one_by_one():
    """With ties, missing values and strata; labelings that count alike are told to do so."""
    rng = np.random.default_rng(4)
    labels, strata = rng.permutation(np.arange(18) % 3), np.repeat([0, 1], [11, 7])
    values = np.round(rng.normal(size=(18, 4)) + 0.5 * labels[:, None], 1)
    values[2, 0] = values[5, 3] = np.nan
    labelings = draw_labelings(labels, seed=0, strata=strata, permutations=400)
    scan = scan_columns(values, labelings, strata=strata, ordered=True)
    for column, x in enumerate(values.T):
        size = np.array([(~np.isnan(x[strata == s])).sum() for s in (0, 1)])
        sums = np.array(
            [
                sum(
                    np.sign(np.nan_to_num(x[j] - x[i])) * np.sign(row[j] - row[i]) / (size[s] + 1)
                    for s in (0, 1)
                    for i, j in combinations(np.flatnonzero(strata == s), 2)
                )
                for row in labelings.astype(int)
            ]
        )
        assert scan.statistic[column] == pytest.approx(sums[0] / sums.std(), rel=1e-12)
        least = abs(sums[0]) * (1 - 1e-9)
        assert scan.columns.p_value[column] == (np.abs(sums) >= least).mean()


def test_two_ordered_groups_are_two_groups(columns):
    labels = np.arange(40) % 2
    labelings = draw_labelings(labels, seed=0, permutations=99)
    assert scan_columns(columns, labelings, ordered=True).statistic == pytest.approx(
        scan_columns(columns, labelings).statistic
    )


def test_the_scan_holds_its_level_without_an_effect():
    """1,000 tables of 20 columns, akin in fours, some tied, some with values missing."""
    found = 0
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        labels = rng.permutation(np.arange(40) % 5 < 2).astype(int)
        values = np.repeat(rng.normal(size=(40, 5)), 4, axis=1) + rng.normal(size=(40, 20))
        values[:, ::7] = values[:, ::7].round()
        values[:10, 5] = np.nan
        scan = scan_columns(values, draw_labelings(labels, seed=seed, permutations=199))
        found += scan.columns.p_any.min() <= 0.05
    assert 0.035 <= found / 1000 <= 0.065


def test_strata_take_away_what_they_explain():
    """A column that differs between sites only, where one site has more positives."""
    alone = within = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, 80)
        site = np.where(rng.random(80) < 0.8, labels, 1 - labels)
        values = rng.normal(size=(80, 1)) + site[:, None]
        for strata in (None, site):
            labelings = draw_labelings(labels, seed=seed, strata=strata, permutations=199)
            p = scan_columns(values, labelings, strata=strata).columns.p_value[0]
            if strata is None:
                alone += p <= 0.05
            else:
                within += p <= 0.05
    assert alone > 100
    assert within <= 20


def test_missing_values_that_depend_on_the_label_make_no_difference():
    """Absent in most positives and in no negative, without an effect."""
    found = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        labels = np.arange(60) % 2
        values = rng.normal(size=(60, 1))
        values[(labels == 1) & (rng.random(60) < 0.6)] = np.nan
        scan = scan_columns(values, draw_labelings(labels, seed=seed, permutations=199))
        found += scan.columns.p_value[0] <= 0.05
    assert 10 <= found <= 34


def test_a_column_without_values_in_a_group_is_not_tested():
    labels = np.arange(20) % 2
    values = np.random.default_rng(0).normal(size=(20, 2))
    values[labels == 1, 0] = np.nan
    scan = scan_columns(values, draw_labelings(labels, seed=0, permutations=99), families=[0, 1])
    assert np.isnan(scan.columns.p_any).tolist() == [True, False]
    assert np.isnan(scan.effect[0])
    assert scan.strongest.tolist() == [-1, 1]
    assert np.isnan(delta_interval(values[:, 0], labels)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": np.zeros(10)}, "patients, columns"),
        ({"families": [0, 2]}, "without gaps"),
        ({"labelings": np.zeros((5, 10), int)}, "two or more"),
        ({"strata": np.zeros(4)}, "each of 10 patients"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    labelings = draw_labelings(np.arange(10) % 2, seed=0, permutations=9)
    given = {"values": np.zeros((10, 2)), "labelings": labelings, "strata": None} | change
    with pytest.raises(ValueError, match=message):
        scan_columns(given.pop("values"), given.pop("labelings"), **given)


def test_within_strata_delta_has_the_tests_weights_and_sign():
    """One large stratum the one way, nine small ones the other."""
    rng = np.random.default_rng(3)
    strata = np.repeat(np.arange(10), [160] + [8] * 9)
    group = rng.integers(0, 2, len(strata))
    shift = np.where(strata == 0, -0.1, 2.0)
    x = rng.normal(size=len(strata)) + shift * group + strata
    witness = van_elteren(x, group == 1, strata)
    delta, low, high = delta_interval(x, group == 1, strata=strata)
    labelings = draw_labelings(group, seed=0, strata=strata, permutations=9)
    scan = scan_columns(x[:, None], labelings, strata=strata)
    assert delta == pytest.approx(witness.cliffs_delta) == pytest.approx(scan.effect[0])
    assert np.sign(delta) == np.sign(scan.statistic[0])
    assert (low, high) == pytest.approx((witness.low, witness.high), abs=0.05)
    trend = jonckheere_terpstra(x, group, strata=strata)
    assert trend.effect == pytest.approx(delta)
