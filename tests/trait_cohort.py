"""Nuclei of synthetic patients who differ in one trait."""

from __future__ import annotations

import numpy as np
import pandas as pd

SIZE_FAMILY = {"area_um2", "major_axis_um", "minor_axis_um", "circumference_um"}
SHIFT = 1.35
"""Of the planted trait, in SDs between patients: Cliff's delta 0.66."""
ONLY_MODELS = {"permutations": 0, "ablation": False}
"""Neither permutations nor ablation, which have tests of their own."""
TRAITS = {
    "density": {"density_per_mm2"},
    "outline": {"circularity"},
    "boxiness": {"rectangularity"},
    "polarity": {"orientation_deg"},
    "size": SIZE_FAMILY,
}
"""Each trait of a synthetic patient, and the features of which one must rank first when groups
differ in it."""


def synthetic_cohort(seed, *, trait=None, patients=90, patches=12, per_patch=30, shift=SHIFT):
    """Nuclei and cohort; every patient has a random level of each trait, positives more of
    `trait`."""
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.arange(patients) % 5 < 2).astype(int)
    level = {name: rng.normal(size=patients) + shift * (name == trait) * label for name in TRAITS}
    per_patient = patches * per_patch
    owner = np.repeat(np.arange(patients), per_patient)
    patch = np.tile(np.repeat(np.arange(patches), per_patch), patients)
    n = len(owner)

    def noise(sd):
        return sd * rng.normal(size=n)

    local = rng.normal(size=(patients, patches))[owner, patch]
    area = np.exp(3.7 + 0.12 * level["size"][owner] + noise(0.4))
    ratio = 1.05 + np.exp(-0.9 + noise(0.5))
    minor = np.sqrt(4 * area / np.pi / ratio)
    major = minor * ratio
    roughness = np.exp(-2.9 + 0.25 * level["outline"][owner] + noise(0.5))
    circumference = np.pi * (1.5 * (major + minor) - np.sqrt(major * minor)) * (1 + roughness)
    mean_angle = rng.uniform(0, 180, (patients, patches))[owner, patch]
    kappa = np.exp(-0.6 + 0.5 * level["polarity"][owner])
    nuclei = pd.DataFrame(
        {
            "slide_id": np.char.add("s", owner.astype(str)),
            "patch_id": patch,
            "area_um2": area,
            "major_axis_um": major,
            "minor_axis_um": minor,
            "orientation_deg": (mean_angle + np.degrees(rng.vonmises(0, kappa)) / 2) % 180,
            "circumference_um": circumference,
            "density_per_mm2": 4000
            * np.exp(0.2 * level["density"][owner] + 0.15 * local + noise(0.2)),
            "circularity": 4 * np.pi * area / circumference**2,
            "rectangularity": 0.78 + 0.012 * level["boxiness"][owner] + noise(0.03),
        }
    )
    cohort = pd.DataFrame({"slide_id": [f"s{i}" for i in range(patients)], "label": label})
    return nuclei, cohort.assign(patient=[f"p{i:03d}" for i in range(patients)])
