"""Slides of drawn features, for tests of the image model."""

from __future__ import annotations

import numpy as np

from morphomil.image_model.rows import ImageCohort, Rows


def cohort_of(
    seed=0, *, patients=60, patches=(4, 60), width=16, shift=0.0, classes=2, clinical=None, slides=1
):
    """Patients of so many patches; a third of the patches of each is moved along one direction by
    its class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(patients) % classes
    direction = rng.normal(size=width) / np.sqrt(width)
    arrays, owner = [], []
    for patient in range(patients):
        for _ in range(slides):
            rows = rng.normal(size=(int(rng.integers(*patches)), width))
            rows[: len(rows) // 3 + 1] += shift * labels[patient] * direction * np.sqrt(width)
            arrays.append(rng.permutation(rows).astype(np.float16))
            owner.append(patient)
    names = tuple(f"slide {number}" for number in range(len(arrays)))
    return ImageCohort(names, Rows(arrays), np.array(owner), labels, classes, clinical)
