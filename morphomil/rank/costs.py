"""What a ranking will take, time and memory, from the size of the cohort.

Times were measured in seconds of one processor on the machine of `pace`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from morphomil.pace import Cost
from morphomil.rank.bags import MAX_BAGS, MAX_DRAWN
from morphomil.rank.folds import models_at_once
from morphomil.rank.instances import STEP_PATIENTS
from morphomil.rank.plan import MOST_STEPS, STEP_COST, STEPS, TrainingPlan
from morphomil.types import CORES, FEATURE_NAMES

if TYPE_CHECKING:
    from morphomil.types import RankSettings
MODEL_STEP = 4.3e-6
"""Seconds of a training step of one model, by patient."""
FOLD, FOLD_MODEL_PATIENT, FOLD_PATIENT, LABELING = 0.2, 0.0007, 0.0009, 0.01
"""Seconds of a fold: at least, by patient of a step and model, by patient of the cohort, and by
labeling that is trained and asked by itself."""
READ, READ_BAG, TABLES, CONTRIBUTIONS = 0.003, 0.0002, 0.025, 0.05
"""Seconds by slide: its counts, each bag that is drawn from it, its tables, which are read one
after the other, and of a full ranking what its nuclei contribute."""
AFTER, AFTER_PATIENT = 1.0, 0.0035
"""Seconds of scan, baselines and tables: at least, and by patient."""
LIBRARIES = 3.0
"""Seconds until they are loaded."""
HELD_GIB, BAG_GIB, PATIENT_GIB = 0.85, 18e-6, 15e-6
"""Libraries with histograms before they go to a file; a bag in a training step; a patient."""


def foretell_ranking(
    slides: int,
    settings: RankSettings,
    *,
    pace: float,
    patients: int | None = None,
    stored: bool = True,
    cores: int = CORES,
) -> Cost:
    """What a ranking will take.

    Args:
        slides: measured ones.
        settings: how.
        pace: `pace.machine_pace`.
        patients: as many as slides, unless given.
        stored: slides' tables and counts are read from a run.
        cores: so many processors.
    """
    people = slides if patients is None else patients
    folds = settings.folds
    learning = people * (folds - 1) // folds
    step = min(learning, STEP_PATIENTS)
    plan = TrainingPlan.of(FEATURE_NAMES, settings)
    first = settings.models_per_fold + (settings.labelings if settings.quick else 0)
    further = 0 if settings.quick else settings.labelings + 1
    further += 0 if plan.kept is None else settings.models_per_fold * len(plan.kept)
    fold = FOLD + first * FOLD_MODEL_PATIENT * step + FOLD_PATIENT * people
    workers = min(cores, folds)
    bags = min(MAX_BAGS, max(MAX_DRAWN // max(slides, 1), 1))
    reading = slides * ((READ + READ_BAG * bags) / cores + TABLES * stored)
    reading += slides * CONTRIBUTIONS * (stored and not settings.quick)
    at_once = first if settings.quick else min(further, models_at_once(learning))
    batches = -(-further // max(at_once, 1))
    steps = further * step * STEPS + batches * STEP_COST * MOST_STEPS
    pieces = steps * MODEL_STEP + LABELING * settings.labelings * (not settings.quick)
    training = -(-folds // workers) * fold + folds * pieces / cores
    memory = HELD_GIB + BAG_GIB * workers * at_once * step + PATIENT_GIB * people
    return Cost(
        pace * (LIBRARIES + reading + training + AFTER + AFTER_PATIENT * people),
        int(memory * 2**30),
    )
