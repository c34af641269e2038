"""Logistic regression with odds ratios and intervals; separation is noticed and met with Firth's
penalty."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.optimize import brentq, linprog
from scipy.special import expit
from scipy.stats import chi2, norm

from morphomil.stats.intervals import check_level

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MAX_STEPS = 200
MAX_REACH = 200
"""Standard errors from the estimate within which a profile limit is looked for; beyond, it is
infinite."""
MAX_CONDITION = 1e10
"""Columns whose standardized cross products have a larger condition number are taken as
dependent."""


@dataclass(frozen=True)
class LogisticModel:
    """A fitted logistic regression.

    `summary` has one row per term, `intercept` first: `coefficient`, `odds_ratio` (per unit of the
    column), `low`, `high` (of the odds ratio), `z`, `p_value`. `separated`: a plane through the
    columns parts the classes, so maximum likelihood has no finite answer; estimates are then
    Firth's, intervals and p from the profile of his penalized likelihood, and z is NaN.
    """

    summary: pd.DataFrame
    separated: bool
    n: int
    events: int
    log_likelihood: float
    """Penalized where `separated`."""
    covariance: NDArray[np.float64] = field(repr=False)  # (terms, terms)

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803 - the field's name
        """Probability of class 1 for each row; columns as in the fit (a DataFrame's are taken by
        name).

        Raises:
            ValueError: columns are missing or of another number, or a value is missing.
        """
        names = self.summary.index[1:].tolist()
        if isinstance(X, pd.DataFrame) and (absent := [name for name in names if name not in X]):
            raise ValueError(f"columns {', '.join(absent)} are missing")
        values, _ = _matrix(X[names] if isinstance(X, pd.DataFrame) else X)
        if values.shape[1] != len(names):
            raise ValueError(f"the model has {len(names)} columns, got {values.shape[1]}")
        coefficients = self.summary["coefficient"].to_numpy()
        return np.asarray(expit(coefficients[0] + values @ coefficients[1:]))


def logistic_model(X: ArrayLike, y: ArrayLike, *, level: float = 0.95) -> LogisticModel:  # noqa: N803
    """Logistic regression by maximum likelihood, with an intercept; Wald intervals and tests.

    Args:
        X: (n, columns), numbers; a DataFrame's column names name the terms, else x1, x2, ...
        y: (n,), 0/1 or boolean.
        level: of the intervals.

    Separation (Albert & Anderson 1984) is found by a linear program (Konis 2007). Then the
    penalized likelihood of Firth (1993; Heinze & Schemper 2002) is maximized.

    Raises:
        ValueError: a value is missing, y has one class, columns are constant or depend on each
            other linearly, or there are fewer cases than terms.
    """
    values, names = _matrix(X)
    outcome = _outcome(y, len(values))
    check_level(level)
    if len(values) <= values.shape[1] + 1:
        raise ValueError(
            f"{values.shape[1] + 1} terms need more cases than that, got {len(values)}"
        )
    spread = values.std(axis=0)
    if (constant := [name for name, s in zip(names, spread, strict=True) if s <= 1e-12]) and names:
        raise ValueError(f"columns {', '.join(constant)} are constant")
    if len(names) > 1:
        scaled = (values - values.mean(axis=0)) / spread
        if np.linalg.cond(scaled.T @ scaled) > MAX_CONDITION:
            raise ValueError("columns depend on each other linearly; leave one out")
    # Fitted on standardized columns, where Newton's steps are sound whatever the units, and brought
    # back.
    center = values.mean(axis=0)
    design = np.column_stack([np.ones(len(values)), (values - center) / spread])
    back = np.diag(np.r_[1.0, 1 / spread])
    back[0, 1:] = -center / spread
    fit = fit_logistic(design, outcome)
    coefficients = back @ fit.coefficients
    covariance = back @ fit.covariance @ back.T
    z_value = norm.ppf((1 + level) / 2)
    if fit.separated:
        terms = [_profile(design, outcome, fit, direction, level) for direction in back]
        low, high, p_value = (np.array(column) for column in zip(*terms, strict=True))
        z = np.full(len(coefficients), np.nan)
    else:
        error = np.sqrt(np.diag(covariance))
        z = coefficients / error
        low, high, p_value = (
            coefficients - z_value * error,
            coefficients + z_value * error,
            2 * norm.sf(np.abs(z)),
        )
    with np.errstate(over="ignore"):
        ratios = {"odds_ratio": np.exp(coefficients), "low": np.exp(low), "high": np.exp(high)}
    summary = pd.DataFrame(
        {"coefficient": coefficients} | ratios | {"z": z, "p_value": p_value},
        index=pd.Index(["intercept", *names], name="term"),
    )
    return LogisticModel(
        summary, fit.separated, len(outcome), int(outcome.sum()), fit.log_likelihood, covariance
    )


@dataclass(frozen=True)
class LikelihoodRatio:
    """What columns add to a model: `statistic` is twice the difference of log-likelihoods,
    chi-square distributed."""

    statistic: float
    degrees: int
    p_value: float


def likelihood_ratio_test(base: ArrayLike, full: ArrayLike, y: ArrayLike) -> LikelihoodRatio:
    """Test of the columns that `full` (n, more columns) has beyond `base` (n, columns; may have
    none).

    Raises:
        ValueError: as `logistic_model`; `full` has no more columns than `base`; or a model is
            separated.
    """
    small, _ = _matrix(base) if np.size(base) else (np.empty((len(np.asarray(full)), 0)), [])
    large, _ = _matrix(full)
    if large.shape[1] <= small.shape[1]:
        raise ValueError(
            f"the full model needs more columns than the base, got {large.shape[1]} "
            f"and {small.shape[1]}"
        )
    if len(small) != len(large):
        raise ValueError(f"both models need the same cases, got {len(small)} and {len(large)}")
    models = [
        logistic_model(columns, y) if columns.shape[1] else _intercept_only(y)
        for columns in (small, large)
    ]
    if any(model.separated for model in models):
        raise ValueError(
            "a model separates the classes; likelihoods of penalized fits are not compared"
        )
    statistic = max(0.0, 2 * (models[1].log_likelihood - models[0].log_likelihood))
    degrees = large.shape[1] - small.shape[1]
    return LikelihoodRatio(statistic, degrees, float(chi2.sf(statistic, degrees)))


def interaction_test(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike) -> LikelihoodRatio:
    """Does a score's odds ratio differ between groups of cases? label ~ score * group against label
    ~ score + group.

    Both are logistic models, groups being indicators; the likelihood ratio has groups - 1 degrees
    of freedom. Unlike a difference of AUCs, the answer depends on the score's scale, here as it is
    given.

    Args:
        labels: (n,), 0/1 or boolean.
        scores: (n,).
        groups: (n,), a label per case.

    Raises:
        ValueError: as `likelihood_ratio_test`, which a group that the score separates brings about;
            a group is missing or there is just one.
    """
    codes, names = pd.factorize(np.asarray(groups), sort=True)
    values, _ = _matrix(scores)
    if codes.shape != values.shape[:1] or values.shape[1] != 1:
        raise ValueError(
            f"scores and groups must be vectors of one length, got {values.shape} and {codes.shape}"
        )
    if len(names) < 2 or (codes < 0).any():
        raise ValueError(f"each case needs one of two or more groups, got {names.tolist()}")
    spread = values.std()
    score = (values - values.mean()) / (spread if spread > 0 else 1)
    member = (codes[:, None] == np.arange(1, len(names))).astype(np.float64)
    base = np.column_stack([score, member])
    return likelihood_ratio_test(base, np.column_stack([base, score * member]), labels)


def adjusted_associations(
    table: pd.DataFrame,
    y: ArrayLike,
    *,
    covariates: pd.DataFrame | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Each column's association with y, given the covariates: one logistic regression per column.

    Returns:
        `feature, n, missing, odds_ratio` (per SD of the column), `low, high, p_value` (Wald;
        Firth's profile where `separated`), `p_holm, p_bh` (of `p_value`, the columns being the
        family), `lrt_p` (likelihood ratio against the covariates alone, NaN where separated),
        `separated`, `problem`. Patients with a missing value are left out of their column's model
        and counted. A column that can't be fitted (constant, infinite, a combination of the
        covariates, known in one class only, ...) has NaN, doesn't count in the family, and
        `problem` says why.

    Raises:
        ValueError: lengths or indices differ, y isn't 0/1, or the covariates alone can't be fitted.
    """
    from morphomil.stats.adjustment import benjamini_hochberg, holm

    given = pd.DataFrame(index=table.index) if covariates is None else covariates
    if not given.index.equals(table.index):
        raise ValueError("covariates must have the table's index")
    outcome = _outcome(y, len(table))
    complete = given.notna().all(axis=1).to_numpy()
    if given.shape[1]:
        logistic_model(
            given[complete], outcome[complete]
        )  # raises what is wrong with the covariates
    rows = []
    for name, values in table.items():
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
        known = ~np.isnan(numbers) & complete
        about = {"feature": name, "n": int(known.sum()), "missing": int((~known).sum())}
        try:
            found = _association(numbers[known], outcome[known], given[known], level=level)
        except ValueError as error:
            nothing = dict.fromkeys(("odds_ratio", "low", "high", "p_value", "lrt_p"), math.nan)
            found = nothing | {"separated": False, "problem": str(error)}
        rows.append(about | found)
    names = [
        "feature",
        "n",
        "missing",
        "odds_ratio",
        "low",
        "high",
        "p_value",
        "lrt_p",
        "separated",
        "problem",
    ]
    result = pd.DataFrame(rows, columns=names)
    result.insert(7, "p_holm", holm(result["p_value"]))
    result.insert(8, "p_bh", benjamini_hochberg(result["p_value"]))
    return result


def _association(
    values: NDArray[np.float64], outcome: NDArray[np.float64], given: pd.DataFrame, *, level: float
) -> dict[str, Any]:
    """Odds ratio per SD beside the covariates, Wald and likelihood ratio p."""
    if len(values) < 2 or not np.isfinite(values).all() or np.ptp(values) == 0:
        raise ValueError("the column is constant, infinite or missing")
    columns = given.assign(**{"@": values / values.std(ddof=1)})
    model = logistic_model(columns, outcome, level=level)
    alone = not model.separated and not (
        given.shape[1] and logistic_model(given, outcome).separated
    )
    found = {
        name: float(model.summary[name]["@"]) for name in ("odds_ratio", "low", "high", "p_value")
    }
    ratio = likelihood_ratio_test(given.to_numpy(), columns, outcome).p_value if alone else math.nan
    return found | {"lrt_p": ratio, "separated": model.separated, "problem": ""}


def _intercept_only(y: ArrayLike) -> LogisticModel:
    outcome = _outcome(y, len(np.asarray(y)))
    fit = fit_logistic(np.ones((len(outcome), 1)), outcome)
    return LogisticModel(
        pd.DataFrame({"coefficient": fit.coefficients}, index=["intercept"]),
        False,
        len(outcome),
        int(outcome.sum()),
        fit.log_likelihood,
        fit.covariance,
    )


@dataclass(frozen=True)
class LogisticFit:
    """Coefficients of a design matrix with their covariance."""

    coefficients: NDArray[np.float64]
    covariance: NDArray[np.float64]
    log_likelihood: float
    separated: bool

    @property
    def errors(self) -> NDArray[np.float64]:
        """Standard errors."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))


def fit_logistic(
    design: NDArray[np.float64],
    outcome: NDArray[np.float64],
    *,
    offset: NDArray[np.float64] | None = None,
) -> LogisticFit:
    """Maximum likelihood, or Firth's where the classes are separated; `design` (n, terms) holds its
    own intercept."""
    shift = np.zeros(len(design)) if offset is None else offset
    separated = is_separated(design, outcome)
    start = np.zeros(design.shape[1])
    beta, value = _newton(
        design, outcome, shift, start, free=np.ones(len(start), bool), penalized=separated
    )
    return LogisticFit(
        beta, np.asarray(np.linalg.inv(_information(design, beta, shift))), value, separated
    )


def is_separated(design: NDArray[np.float64], outcome: NDArray[np.float64]) -> bool:
    """Whether some combination of the columns parts the classes, completely or but for ties.

    True if max sum(s x b) over -1 <= b <= 1 with s x b >= 0 in every row is positive, s being +1
    for class 1 and -1 for class 0 (Konis 2007).
    """
    signed = design * (2 * outcome - 1)[:, None]
    scale = np.abs(signed).max(axis=0)
    signed = signed / np.where(scale > 0, scale, 1)
    found = linprog(
        -signed.sum(axis=0),
        A_ub=-signed,
        b_ub=np.zeros(len(signed)),
        bounds=(-1, 1),
        method="highs",
    )
    return bool(found.status == 0 and found.fun is not None and found.fun < -1e-6)


def _information(
    design: NDArray[np.float64], beta: NDArray[np.float64], shift: NDArray[np.float64]
) -> NDArray[np.float64]:
    p = expit(design @ beta + shift)
    return np.asarray(design.T @ (design * (p * (1 - p))[:, None]))


def _newton(
    design: NDArray[np.float64],
    outcome: NDArray[np.float64],
    shift: NDArray[np.float64],
    start: NDArray[np.float64],
    *,
    free: NDArray[np.bool_],
    penalized: bool,
) -> tuple[NDArray[np.float64], float]:
    """The maximum over the free coefficients, and the (penalized) log-likelihood there; steps are
    halved as needed."""

    def objective(beta: NDArray[np.float64]) -> float:
        eta = design @ beta + shift
        value = float((outcome * eta - np.logaddexp(0, eta)).sum())
        return value + (
            0.5 * float(np.linalg.slogdet(_information(design, beta, shift))[1])
            if penalized
            else 0.0
        )

    beta = start.copy()
    value = objective(beta)
    for _ in range(MAX_STEPS):
        p = expit(design @ beta + shift)
        weight = p * (1 - p)
        information = design.T @ (design * weight[:, None])
        residual = outcome - p
        if penalized:
            orthonormal, _ = np.linalg.qr(design * np.sqrt(weight)[:, None])
            residual = residual + (orthonormal**2).sum(axis=1) * (0.5 - p)
        score = (design.T @ residual)[free]
        step = np.zeros(len(beta))
        step[free] = np.linalg.lstsq(information[np.ix_(free, free)], score, rcond=None)[0]
        for _ in range(40):
            if (reached := objective(beta + step)) >= value - 1e-13 * abs(value):
                break
            step /= 2
        beta, gain, value = beta + step, reached - value, reached
        if np.abs(step).max() < 1e-9 and abs(gain) < 1e-9:
            break
    return beta, value


def _profile(
    design: NDArray[np.float64],
    outcome: NDArray[np.float64],
    fit: LogisticFit,
    direction: NDArray[np.float64],
    level: float,
) -> tuple[float, float, float]:
    """Limits and p value of the coefficient `direction @ coefficients` from the penalized
    likelihood's profile."""
    # Rotate the columns so that the wanted coefficient is the first: design @ c = (design T) @
    # (T^-1 c).
    inverse = np.eye(len(direction))
    pivot = int(np.abs(direction).argmax())
    inverse[[0, pivot]] = inverse[[pivot, 0]]
    inverse[0] = direction
    turned = design @ np.linalg.inv(inverse)
    best = inverse @ fit.coefficients
    free = np.ones(len(best), bool)
    free[0] = False
    none = np.zeros(len(design))

    width = max(float(np.sqrt(direction @ fit.covariance @ direction)), 1e-3)
    solved = {0.0: best}  # by the coefficient's distance from its estimate

    def drop(offset: float) -> float:
        """Twice the fall of the log-likelihood where the coefficient is held so far from its
        estimate.

        Reached in steps of a standard error from the nearest solution: from farther off, all
        probabilities may be 0 or 1, where the likelihood is flat.
        """
        near = min(solved, key=lambda known: abs(known - offset))
        value = fit.log_likelihood
        for reached in np.linspace(near, offset, 1 + max(1, math.ceil(abs(offset - near) / width)))[
            1:
        ].tolist():
            start = solved[near].copy()
            start[0] = best[0] + reached
            solved[reached], value = _newton(
                turned, outcome, none, start, free=free, penalized=True
            )
            near = reached
        return 2 * (fit.log_likelihood - value)

    wanted = float(chi2.ppf(level, 1))
    limits = []
    for sign in (-1, 1):
        reach = width
        while drop(sign * reach) < wanted and reach < MAX_REACH * width:
            reach *= 2
        closed = drop(sign * reach) >= wanted
        try:
            edge = brentq(lambda r, s=sign: drop(s * r) - wanted, 0, reach) if closed else math.inf
        except ValueError as error:
            raise ValueError(
                "its odds ratio has no limits, as a covariate all but tells the groups apart; "
                "leave that one out, or put its rare categories together"
            ) from error
        limits.append(float(best[0] + sign * edge))
    return limits[0], limits[1], float(chi2.sf(max(drop(-best[0]), 0.0), 1))


def _matrix(table: ArrayLike) -> tuple[NDArray[np.float64], list[str]]:
    values = np.asarray(table, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or not values.size:
        raise ValueError(f"X must be a table of numbers (n, columns), got shape {values.shape}")
    if isinstance(table, pd.DataFrame):
        names = [str(name) for name in table.columns]
    else:
        names = [f"x{i + 1}" for i in range(values.shape[1])]
    if not np.isfinite(values).all():
        columns = ", ".join(
            name
            for name, column in zip(names, values.T, strict=True)
            if not np.isfinite(column).all()
        )
        raise ValueError(
            f"values are missing or infinite in {columns}; impute them or leave the cases out"
        )
    return values, names


def _outcome(y: ArrayLike, n: int) -> NDArray[np.float64]:
    marks = np.asarray(y)
    if marks.shape != (n,):
        raise ValueError(f"y must be a vector of {n} outcomes, got shape {marks.shape}")
    if pd.isna(marks).any() or not ((marks == 0) | (marks == 1)).all():
        raise ValueError("y must be booleans or 0/1")
    outcome: NDArray[np.float64] = np.asarray(marks == 1, dtype=np.float64)
    if len(np.unique(outcome)) < 2:
        raise ValueError(f"y must have both classes, got {int(outcome.sum())} of class 1 among {n}")
    return outcome
