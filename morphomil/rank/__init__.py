"""Models + bags -> ranking: what the morphometry model relies on, how groups differ."""

from morphomil.rank.ranking import PERMUTATIONS, SEEDS, Ranking, rank_counts, rank_nuclei

__all__ = ["PERMUTATIONS", "SEEDS", "Ranking", "rank_counts", "rank_nuclei"]
