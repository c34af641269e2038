"""Models + bags -> ranking: what the morphometry model relies on, how groups differ."""

from morphomil.rank.ranking import Ranking, rank_counts, rank_nuclei
from morphomil.rank.settings import PERMUTATIONS, SEEDS, RankSettings

__all__ = ["PERMUTATIONS", "SEEDS", "RankSettings", "Ranking", "rank_counts", "rank_nuclei"]
