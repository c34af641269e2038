"""What confidence intervals share: the share of each tail, and exact limits of a proportion."""

from __future__ import annotations

from scipy.special import betaincinv


def check_level(level: float) -> None:
    """Refuse a level of confidence that lies not between 0 and 1 with a ValueError."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")


def tail_share(level: float) -> float:
    """The share of each tail beyond a two-sided interval: 0.025 of level 0.95.

    Raises:
        ValueError: the level is not in (0, 1).
    """
    check_level(level)
    return (1 - level) / 2


def clopper_pearson_limits(successes: float, n: float, *, level: float) -> tuple[float, float]:
    """Exact limits of a proportion (Clopper & Pearson 1934) as beta quantiles; neither number need
    be whole.

    Raises:
        ValueError: the level is not in (0, 1).
    """
    tail = tail_share(level)
    low = float(betaincinv(successes, n - successes + 1, tail)) if successes > 0 else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return low, high
