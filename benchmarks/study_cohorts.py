"""Cohorts with known effects, for the studies of the ranking: who differs, in what, and how.

Nuclei tables, not images. Features are independent of each other: each is the sum of a patient's
level, a patch's and a nucleus's, as standard normal shares of the variance, brought to the
feature's usual location and spread. Only the planted ones depend on the label:

- `mean`: the patient's level is shifted, to a Cliff's delta of 0.4 between patients' levels;
- `spread`: nuclei of positive patients scatter more about the same level;
- `rare`: in one patch in ten of positive patients the nuclei are shifted;
- `xor`: positive patients have one of two features high and the other low, neither tells alone;
- `site`: as `mean`, and a second feature differs between two sites of which one has more positive
  patients;
- `null`: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy.stats import norm

Kind = Literal["mean", "spread", "rare", "xor", "site", "null"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SCALES = {
    "area_um2": (45.0, 12.0),
    "major_axis_um": (9.0, 1.5),
    "minor_axis_um": (6.5, 1.1),
    "orientation_deg": (45.0, 25.0),
    "circumference_um": (25.0, 4.0),
    "density_per_mm2": (3000.0, 900.0),
    "circularity": (0.82, 0.06),
    "rectangularity": (0.76, 0.04),
}
"""Location and standard deviation of each feature. Angles are drawn uniformly."""
OF_PATIENT, OF_PATCH = 0.15, 0.15
"""Patients' and patches' levels have these shares of a feature's variance."""
DELTA = 0.4
"""Cliff's delta of a shifted mean, between patients' levels, unless another is asked for."""
SPREAD, SPREAD_OF_PATIENTS = 0.16, 0.18
"""The logarithm of the nuclei's scatter is larger by the first, and varies between patients by the
second."""
RARE_SHARE, RARE_SHIFT = 0.1, 1.1
"""This share of the patches is shifted by so many SD of the nuclei."""
XOR_FLIPPED = 0.05
"""This share of the patients has the other label than the two levels tell."""
SITE_ODDS, SITE_SHIFT = 0.8, 1.2
"""This share of a site's patients have its more frequent label; the second site's levels of the
artefact are shifted by so many SD of patients."""


@dataclass(frozen=True)
class StudyCohort:
    """Nuclei and patients, and what was planted."""

    nuclei: pd.DataFrame
    """One row per nucleus: `slide_id, patch_id` and the features."""
    cohort: pd.DataFrame
    """One row per patient: `slide_id, patient, label` (0 or 1), `site`."""
    planted: tuple[str, ...]
    """Features that the label depends on."""
    artefact: str | None
    """The feature that only the site moves."""


def draw_cohort(
    kind: Kind,
    seed: int,
    *,
    patients: int = 100,
    patches: int = 20,
    nuclei: int = 20,
    delta: float = DELTA,
) -> StudyCohort:
    """A cohort, half of the patients positive; the planted features differ from seed to seed.

    Orientation is never planted: its values are angles, of which only the arrangement counts.
    """
    rng = np.random.default_rng([KINDS.index(kind), seed])
    label = rng.permutation(np.arange(patients) % 2)
    names = list(SCALES)
    first, second = rng.permutation([n for n in names if n != "orientation_deg"])[:2]
    level = rng.normal(size=(len(names), patients))
    log_sd = np.zeros((len(names), patients))
    log_sd += SPREAD_OF_PATIENTS * rng.normal(size=log_sd.shape)
    moved = np.zeros((len(names), patients, patches))
    site = rng.integers(0, 2, patients)
    at, beside = names.index(first), names.index(second)
    shift = np.sqrt(2) * norm.ppf((1 + delta) / 2)
    if kind in ("mean", "site"):
        level[at] += shift * label
    if kind == "site":
        site = np.where(rng.random(patients) < SITE_ODDS, label, 1 - label)
        level[beside] += SITE_SHIFT * site
    if kind == "spread":
        log_sd[at] += SPREAD * label
    if kind == "rare":
        moved[at] = RARE_SHIFT * label[:, None] * _few(rng, patients, patches)
    if kind == "xor":
        high = rng.integers(0, 2, (2, patients))
        level[[at, beside]] = 2 * high - 1 + 0.4 * level[[at, beside]]
        label = high.sum(axis=0) % 2 ^ (rng.random(patients) < XOR_FLIPPED)
    values = _compose(rng, level, log_sd, moved, nuclei=nuclei)
    owner = np.repeat(np.arange(patients), patches * nuclei)
    ids = np.char.add("s", np.char.zfill(np.arange(patients).astype(str), 3))
    table = pd.DataFrame(
        {
            "slide_id": ids[owner],
            "patch_id": np.tile(np.repeat(np.arange(patches), nuclei), patients),
        }
        | {name: _scale(name, x) for name, x in zip(names, values, strict=True)}
    )
    table["orientation_deg"] = rng.uniform(0, 180, len(table))
    cohort = pd.DataFrame(
        {"slide_id": ids, "patient": ids, "label": label, "site": np.array(["A", "B"])[site]}
    )
    planted = {"xor": (first, second), "null": ()}.get(kind, (first,))
    return StudyCohort(
        table, cohort, tuple(map(str, planted)), str(second) if kind == "site" else None
    )


def _few(rng: np.random.Generator, patients: int, patches: int) -> np.ndarray:
    """Which patches are shifted, (patients, patches): the same number in each patient."""
    count = max(1, round(RARE_SHARE * patches))
    return rng.random((patients, patches)).argsort(axis=1) < count


def _compose(
    rng: np.random.Generator,
    level: np.ndarray,
    log_sd: np.ndarray,
    moved: np.ndarray,
    *,
    nuclei: int,
) -> np.ndarray:
    """Standard values (features, patients x patches x nuclei)."""
    shape = (*moved.shape, nuclei)
    between = np.sqrt(OF_PATCH) * rng.normal(size=moved.shape)
    within = np.sqrt(1 - OF_PATIENT - OF_PATCH) * np.exp(log_sd)[..., None, None]
    centers = np.sqrt(OF_PATIENT) * level[..., None] + between + moved
    return (centers[..., None] + within * rng.normal(size=shape)).reshape(len(level), -1)


def _scale(name: str, standard: np.ndarray) -> np.ndarray:
    location, sd = SCALES[name]
    values = location + sd * standard
    if name in ("circularity", "rectangularity"):
        return values.clip(0.05, 1.0)
    return values.clip(location / 20)
