"""Features that patients lack: who lacks them, and what stands in for them.

A feature is absent from a bag when none of its nuclei has a value. If a fixed value stood in, a
model could learn who lacks the feature; so another's instance does, which the model can't tell from
one that was measured (hot-deck imputation, Andridge & Little 2010; donors near in what the present
features predict, Little 1988).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from morphomil.errors import InputError, RefusedError
from morphomil.seeds import generator
from morphomil.stats.adjustment import holm
from morphomil.stats.categories import exact_test_of_shares
from morphomil.stats.mann_whitney import mann_whitney
from morphomil.stats.printing import print_p
from morphomil.stats.several_groups import kruskal_wallis

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from morphomil.rank.classes import Classes
    from morphomil.rank.instances import InstanceBags

NEAREST = 10
"""A donor is drawn among so many patients."""
TELLING_P, TELLING_DIFFERENCE = 0.01, 0.2
"""Absence tells labels apart where Holm's p over the features is below the first and the shares of
patients who lack the feature differ by the second."""
TELLING_NUCLEI = 0.5
"""So it does where Holm's p of the shares of nuclei without a value is below 0.01 and their means
differ by this: of a few values a feature's location is known less surely, which a model sees."""
NOTED_DIFFERENCE = 0.1
"""From this difference on, and with such a p, the shares of nuclei are said."""
_RIDGE = 1.0  # in patients: keeps the regression steady where features go together


def compare_missingness(
    count: NDArray[np.int64],
    labels: pd.Series[Any],
    *,
    features: Sequence[str],
    classes: Classes,
) -> pd.DataFrame:
    """How many patients of each group lack a feature.

    Args:
        count: nuclei with a value by patient (patients, features), in the order of `labels`.
        labels: by patient.
        features: names.
        classes: the labels.

    Returns:
        One row per feature: `feature, n_positive, n_reference, absent_positive, absent_reference`
        (patients of whom no nucleus has a value), `p_value` (`exact_test_of_shares`, 1 where nobody
        lacks it), `lacking_positive, lacking_reference` (mean share of a patient's nuclei without a
        value), `lacking_p_value` (Mann-Whitney or Kruskal-Wallis of these shares), `p_holm`,
        `lacking_p_holm`. Of three and more groups the columns end in the labels.
    """
    absent, lacking = count == 0, 1 - count / np.maximum(count.max(axis=1, keepdims=True), 1)
    groups = {
        suffix: (labels == name).to_numpy() for name, suffix in _suffixes(classes.names).items()
    }
    codes = classes.codes(labels)
    rows = []
    for number, name in enumerate(features):
        gone = {key: int(absent[of, number].sum()) for key, of in groups.items()}
        size = {key: int(of.sum()) for key, of in groups.items()}
        table = [[gone[key], size[key] - gone[key]] for key in groups]
        rows.append(
            {"feature": name}
            | {f"n_{key}": size[key] for key in groups}
            | {f"absent_{key}": gone[key] for key in groups}
            | {"p_value": exact_test_of_shares(table)}
            | {f"lacking_{key}": float(lacking[of, number].mean()) for key, of in groups.items()}
        )
        shares = [lacking[of, number] for of in groups.values()]
        rows[-1]["lacking_p_value"] = (
            kruskal_wallis(lacking[:, number], codes).p_value
            if classes.several
            else mann_whitney(*shares).p_value
        )
    return pd.DataFrame(rows).assign(
        p_holm=lambda table: holm(table["p_value"]),
        lacking_p_holm=lambda table: holm(table["lacking_p_value"]),
    )


def refuse_telling_absence(
    missing: pd.DataFrame, names: Sequence[str], *, allowed: Sequence[str]
) -> tuple[str, ...]:
    """A sentence for each feature that patients lack, or that far more nuclei of one group lack.

    Args:
        missing: `compare_missingness`.
        names: the labels (`Classes.names`).
        allowed: features to rank though their absence tells the labels apart.

    Raises:
        RefusedError: the absence of another feature does, or nobody has a feature.
        InputError: an allowed one is none of the features.
    """
    if unknown := [name for name in allowed if name not in set(missing["feature"])]:
        raise InputError(
            f"--allow-missing {', '.join(unknown)}: the features are "
            f"{', '.join(missing['feature'])}"
        )
    notes, refused = [], []
    for row in missing.to_dict("records"):
        said = (*_say_patients(row, names), *_say_nuclei(row, names))
        notes += [one.text + one.remark for one in said]
        suffixes = _suffixes(names).values()
        if all(row[f"absent_{suffix}"] == row[f"n_{suffix}"] for suffix in suffixes):
            refused.append(
                f"{row['feature']} has no value in any patient: leave it out (--features)"
            )
        elif row["feature"] not in allowed and (
            telling := [one.text for one in said if one.telling]
        ):
            refused.append(
                f"{'; '.join(telling)}: who lacks it is enough to tell the labels apart, whatever "
                f"its values; measure it alike in all patients, or insist with --allow-missing "
                f"{row['feature']}"
            )
    if refused:
        raise RefusedError("; ".join(refused))
    return tuple(notes)


class _Said(NamedTuple):
    """What is said of a feature's absence."""

    text: str
    remark: str
    telling: bool


def _suffixes(names: Sequence[str]) -> dict[str, str]:
    """What the columns of each label end in; of two labels the positive one is first."""
    if len(names) > 2:
        return {name: name for name in names}
    return {names[1]: "positive", names[0]: "reference"}


def _say_patients(row: dict[Any, Any], names: Sequence[str]) -> Iterator[_Said]:
    """Of patients who lack the feature."""
    suffixes = _suffixes(names)
    gone = {name: row[f"absent_{suffix}"] for name, suffix in suffixes.items()}
    size = {name: row[f"n_{suffix}"] for name, suffix in suffixes.items()}
    if any(gone.values()):
        shares = [gone[name] / size[name] for name in names if size[name]]
        difference = max(shares) - min(shares)
        said = [f"{gone[name]} of {size[name]} with label {name}" for name in suffixes]
        said[0] = said[0].replace(" with", " patients with", 1)
        yield _Said(
            f"{row['feature']} is missing in {', in '.join(said[:-1])} and in {said[-1]} (Fisher's "
            f"exact test, Holm's {_equals(row['p_holm'])})",
            "; values of training patients stand in.",
            row["p_holm"] < TELLING_P and difference >= TELLING_DIFFERENCE,
        )


def _say_nuclei(row: dict[Any, Any], names: Sequence[str]) -> Iterator[_Said]:
    """Of nuclei without a value, where their share differs."""
    shares = {name: row[f"lacking_{suffix}"] for name, suffix in _suffixes(names).items()}
    difference = max(shares.values()) - min(shares.values())
    if difference >= NOTED_DIFFERENCE and row["lacking_p_holm"] < TELLING_P:
        said = [f"{share:.0%} with label {name}" for name, share in shares.items()]
        said[0] = said[0].replace(" with", " of a patient's nuclei with", 1)
        test = "Kruskal-Wallis" if len(names) > 2 else "Mann-Whitney"
        yield _Said(
            f"{row['feature']} has no value in {', in '.join(said[:-1])} and in {said[-1]} (means; "
            f"{test}, Holm's {_equals(row['lacking_p_holm'])})",
            "; groups may differ in which nuclei have one, and in how surely they are known.",
            difference >= TELLING_NUCLEI,
        )


def _equals(p_value: float) -> str:
    text = print_p(p_value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def fill_absent(
    bags: InstanceBags, donors: InstanceBags, *, seed_key: tuple[Any, ...]
) -> InstanceBags:
    """The bags with another bag's instance for every absent one; labels have no say.

    A patient's own bags are asked first, if the feature is present in one. Else a donor's: a linear
    regression over the donor patients tells the feature's place from those of the present ones, and
    one of the 10 patients nearest in it is drawn, and then one of its bags. What no donor has stays
    absent. Numbers of patches that are too few are those of any donor.

    Args:
        bags: to be filled.
        donors: bags of training patients.
        seed_key: decides the draws.
    """
    rng = generator("missing", *seed_key)
    absent = ~bags.present
    if not absent.any():
        return _fill_views(bags, donors, rng)
    filled = {name: array.copy() for name, array in _instances(bags).items()}
    known, own = donors.present, bags.present
    place, place_of_donors = _standard_places(bags, donors)
    for feature in np.flatnonzero(absent.any(axis=0)):
        rows = np.flatnonzero(absent[:, feature])
        mine = {
            p: np.flatnonzero((bags.patient == p) & own[:, feature]) for p in bags.patient[rows]
        }
        others = np.flatnonzero(known[:, feature])
        near = _NearPatients.of(int(feature), place_of_donors[others], donors.patient[others])
        for row in rows:
            if len(of_patient := mine[bags.patient[row]]):
                source, chosen = bags, int(rng.choice(of_patient))
            elif len(others):
                source, chosen = donors, int(others[near.draw(place[row], rng)])
            else:
                continue
            for name, array in filled.items():
                array[row, feature] = _instances(source)[name][chosen, feature]
    return _fill_views(replace(bags, **filled), donors, rng)


def _fill_views(bags: InstanceBags, donors: InstanceBags, rng: np.random.Generator) -> InstanceBags:
    """The bags with a donor's numbers where those of a present instance can't be told, as of
    patches that are too few; columns that are missing together come from one donor."""
    values = bags.values.copy()
    for feature in range(values.shape[1]):
        known = ~np.isnan(donors.values[:, feature])
        gone = np.isnan(values[:, feature]) & bags.present[:, feature, None] & known.any(axis=0)
        for pattern in np.unique(gone[gone.any(axis=1)], axis=0):
            rows = np.flatnonzero((gone == pattern).all(axis=1))
            able = np.flatnonzero(known[:, pattern].all(axis=1))
            if len(able):
                chosen = rng.choice(able, size=len(rows))
                columns = np.flatnonzero(pattern)
                known_values = donors.values[chosen[:, None], feature, columns]
                values[rows[:, None], feature, columns] = known_values
    return replace(bags, values=values)


def fill_rows(
    training: NDArray[np.float64], others: NDArray[np.float64], *, seed_key: tuple[Any, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both tables (rows, columns) with missing cells drawn from training rows.

    Columns that are missing together, as the summaries of a feature, come from one row. What is
    missing in all training rows stays so.
    """
    gone = np.isnan(np.concatenate([training, others]))
    if not gone.any():
        return training, others
    rng = generator("missing rows", *seed_key)
    filled = np.concatenate([training, others])
    patterns, member = np.unique(gone, axis=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        columns = np.flatnonzero(member.ravel() == number)
        lacking = np.flatnonzero(patterns[:, number])
        donors = np.flatnonzero(~patterns[: len(training), number])
        if len(lacking) and len(donors):
            chosen = rng.choice(donors, size=len(lacking))
            filled[np.ix_(lacking, columns)] = training[np.ix_(chosen, columns)]
    return filled[: len(training)], filled[len(training) :]


def _instances(bags: InstanceBags) -> dict[str, NDArray[Any]]:
    """The bags' arrays of (bags, features, ...), by name."""
    arrays = {field.name: np.asarray(getattr(bags, field.name)) for field in fields(bags)}
    return {name: array for name, array in arrays.items() if array.ndim > 1}


def _standard_places(
    bags: InstanceBags, donors: InstanceBags
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean bin of each instance, (bags, features), standardized over the donors; 0 where it is
    absent."""
    both = []
    for one in (bags, donors):
        place = one.histograms @ np.arange(one.histograms.shape[-1], dtype=np.float64)
        both.append(np.where(one.present, place, np.nan))
    known = ~np.isnan(both[1])
    size = np.maximum(known.sum(axis=0), 1)
    mean = np.nansum(both[1], axis=0) / size
    sd = np.sqrt(np.nansum((both[1] - mean) ** 2, axis=0) / size)
    scaled = [np.nan_to_num((place - mean) / np.where(sd > 0, sd, 1)) for place in both]
    return scaled[0], scaled[1]


@dataclass(frozen=True)
class _NearPatients:
    """Patients who have a feature, by what their other features predict of it."""

    weights: NDArray[np.float64]  # (features,)
    predicted: NDArray[np.float64]  # (patients,)
    bags: list[NDArray[np.intp]]
    """Of each patient, the numbers of the bags."""

    @classmethod
    def of(
        cls, feature: int, place: NDArray[np.float64], patient: NDArray[np.int64]
    ) -> _NearPatients:
        """From the places (bags, features) of bags that have the feature."""
        names = np.unique(patient)
        bags = [np.flatnonzero(patient == name) for name in names]
        means = np.array([place[own].mean(axis=0) for own in bags]).reshape(-1, place.shape[1])
        rest = means.copy()
        rest[:, feature] = 0
        weights = np.linalg.solve(
            rest.T @ rest + _RIDGE * np.eye(rest.shape[1]), rest.T @ means[:, feature]
        )
        weights[feature] = 0
        return cls(weights, means @ weights, bags)

    def draw(self, place: NDArray[np.float64], rng: np.random.Generator) -> int:
        """One of the bags of a patient near in what the present features (features,) predict."""
        near = np.argsort(np.abs(self.predicted - place @ self.weights), kind="stable")[:NEAREST]
        return int(rng.choice(self.bags[int(rng.choice(near))]))
