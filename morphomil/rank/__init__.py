"""Models + bags -> ranking: what the morphometry model relies on, how groups differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from morphomil.rank.ranking import Ranking, rank_counts, rank_nuclei

__all__ = ["Ranking", "rank_counts", "rank_nuclei"]


def __getattr__(name: str) -> Any:
    """The public names, read when they are first asked for: the ranking's modules take a second."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from morphomil.rank import ranking

    return getattr(ranking, name)
