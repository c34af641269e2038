"""The patients, slides and patches that stand for their group in pictures, so that nobody picks
them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def typical_patients(predictions: pd.DataFrame) -> list[str]:
    """The patient of each group whose out-of-fold probability is its group's median: of two groups
    the probability of the positive one, of more that of the group.

    `predictions`: `patient, label` (from 0), `probability`, of more than two groups also
    `probability_0, probability_1, ...`. Ties and even numbers: the lower one; so nobody picks them.
    """
    chosen = []
    for label, own in predictions.groupby("label", sort=True):
        name = f"probability_{label}"
        chosen.append(typical_patient(own.assign(probability=own[name]) if name in own else own))
    return chosen


def typical_patient(predictions: pd.DataFrame) -> str:
    """The patient whose `probability` is the median; of two in the middle the lower one."""
    own = predictions.sort_values(["probability", "patient"], kind="stable")
    return str(own["patient"].iloc[(len(own) - 1) // 2])


def typical_patches(values: pd.DataFrame, feature: str, *, count: int) -> pd.DataFrame:
    """The patches whose value of a feature is nearest to the median over patches, of those with at
    least half of the median number of nuclei; `values` as `matrix.patch_values` gives them."""
    own = values[(values["nuclei"] > 0) & values[feature].notna()]
    own = own[own["nuclei"] >= own["nuclei"].median() / 2]
    distance = (own[feature] - own[feature].median()).abs()
    return own.loc[distance.sort_values(kind="stable").index[:count]].sort_values("patch_id")
