"""Classes beside covariates: against statsmodels, and the likelihood itself."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import chi2

from morphomil.stats.multinomial import class_association


@pytest.fixture
def drawn():
    rng = np.random.default_rng(4)
    labels, covariates = rng.integers(0, 3, 120), rng.normal(size=(120, 2))
    return rng.normal(size=120) + 0.4 * labels + 0.5 * covariates[:, 0], labels, covariates


def test_nominal_classes_are_statsmodels_multinomial_logit(drawn):
    values, labels, covariates = drawn
    found = class_association(values, labels, covariates)
    alone = sm.add_constant(covariates)
    without = sm.MNLogit(labels, alone).fit(disp=0, tol=1e-12).llf
    whole = sm.MNLogit(labels, np.column_stack([alone, values])).fit(disp=0, tol=1e-12).llf
    assert found.chi_square == pytest.approx(2 * (whole - without), rel=1e-5)
    assert found.degrees == 2
    assert found.p_value == pytest.approx(chi2.sf(2 * (whole - without), 2), rel=1e-4)
    assert found.explained == pytest.approx(1 - np.exp(2 * (without - whole) / 120), rel=1e-4)
    assert np.isnan(found.odds_ratio)


def test_two_classes_are_the_logistic_regression(drawn):
    values, labels, covariates = drawn
    two = (labels == 2).astype(int)
    found = class_association(values, two, covariates, ordered=True)
    columns = sm.add_constant(np.column_stack([covariates, values / values.std(ddof=1)]))
    witness = sm.Logit(two, columns).fit(disp=0)
    assert found.odds_ratio == pytest.approx(np.exp(witness.params[-1]), rel=1e-4)
    limits = np.exp(witness.conf_int()[-1])
    assert [found.low, found.high] == pytest.approx(limits, rel=1e-4)
    plain = class_association(values, two, covariates)
    assert plain.p_value == pytest.approx(found.p_value)


def test_ordered_classes_have_one_slope_of_adjacent_categories(drawn):
    values, labels, covariates = drawn
    found = class_association(values, labels, covariates, ordered=True)
    scaled = (values - values.mean()) / values.std(ddof=1)
    free = np.column_stack([np.ones(120), covariates])

    def loss(theta, slope):
        logits = np.column_stack([np.zeros(120), free @ theta[:3], free @ theta[3:6]])
        logits += slope * scaled[:, None] * np.arange(3)
        return -(logits[np.arange(120), labels] - logsumexp(logits, axis=1)).sum()

    without = minimize(lambda t: loss(t, 0.0), np.zeros(6), tol=1e-10)
    whole = minimize(lambda t: loss(t[:6], t[6]), np.zeros(7), tol=1e-10)
    assert found.chi_square == pytest.approx(2 * (without.fun - whole.fun), abs=1e-4)
    assert found.degrees == 1
    assert found.odds_ratio == pytest.approx(np.exp(whole.x[6]), rel=1e-4)
    assert found.low < found.odds_ratio < found.high


def test_a_covariate_that_explains_the_column_takes_its_place():
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(200):
        labels = rng.integers(0, 3, 90)
        site = np.where(rng.random(90) < 0.7, labels, rng.integers(0, 3, 90))
        values = rng.normal(size=90) + site
        dummies = np.eye(3)[site][:, 1:]
        p_values.append(class_association(values, labels, dummies).p_value)
    assert 0.02 < np.mean(np.array(p_values) <= 0.05) < 0.09


def test_separated_classes_have_a_small_p_and_what_cannot_be_fitted_is_said(drawn):
    _, labels, covariates = drawn
    apart = class_association(labels * 10.0 + np.linspace(0, 1, 120), labels, covariates[:, :0])
    assert apart.p_value < 1e-20
    with pytest.raises(ValueError, match="combination of the covariates"):
        class_association(2 * covariates[:, 0] + 1, labels, covariates)
    with pytest.raises(ValueError, match="constant"):
        class_association(np.ones(120), labels, covariates)
    with pytest.raises(ValueError, match="one class only"):
        class_association(covariates[:, 0], np.zeros(120, int), covariates[:, :0])
