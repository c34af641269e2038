"""Cohorts and rankings that many tests look at."""

from __future__ import annotations

import pytest
from trait_cohort import ONLY_MODELS, synthetic_cohort

from morphomil.rank.ranking import rank_nuclei


@pytest.fixture(scope="session")
def outline():
    nuclei, cohort = synthetic_cohort(1, trait="outline")
    return nuclei, cohort, rank_nuclei(nuclei, cohort, seed=0, **ONLY_MODELS)


@pytest.fixture(scope="session")
def small():
    return synthetic_cohort(5, trait="boxiness", patients=30, patches=4, per_patch=12)
