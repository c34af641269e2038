"""Synthetic H&E-like slides and cohorts whose nuclei and group effects are known.

A patient is six traits (`TRAIT_SD`), drawn once and shifted by group; `plan_slide` lays out tissue
and places nuclei with these traits without touching a pixel; `render` paints the plan;
`write_cohort` writes slides, annotations, manifest and truth. Slide `number` of a `seed` is the
same in a cohort of any length.
"""

from __future__ import annotations

from functools import partial

from morphomil.phantom.chance import random_for
from morphomil.phantom.layout import lay_out
from morphomil.phantom.nuclei import (
    count_nuclei,
    draw_deviations,
    draw_outlines,
    place_nuclei,
    turn_outlines,
)
from morphomil.phantom.settings import TRAIT_SD, Effect, PhantomSettings, Plan
from morphomil.phantom.truth import truth_table


def plan_slide(
    settings: PhantomSettings,
    *,
    seed: int,
    number: int = 0,
    effect: Effect | None = None,
    label: int = 0,
) -> Plan:
    """Lay out the tissue of slide `number` and place its nuclei; `label` is the patient's group, 0
    or 1.

    Each purpose draws from its own stream, so a planted effect leaves tissue, stain and the other
    traits as they are.
    """
    random = partial(random_for, (seed, number))
    scores = dict(zip(TRAIT_SD, random("traits").standard_normal(len(TRAIT_SD)), strict=True))
    for name, score in (effect or Effect()).scores(label).items():
        scores[name] += score
    traits = {name: float(scores[name]) * sd for name, sd in TRAIT_SD.items()}
    layout, tumor = lay_out(settings, random)
    classes = count_nuclei(layout, settings, traits, random("counts"))
    outlines = draw_outlines(classes, settings, traits, random)
    turn = draw_deviations(classes, settings, traits, random("deviations"))
    points, angles, placed = place_nuclei(
        classes, outlines, turn, layout=layout, settings=settings, rng=random("places")
    )
    outlines = turn_outlines(outlines[placed], angles[placed])
    nuclei = truth_table(
        points[placed], outlines, classes=classes[placed], tumor=tumor, mpp=settings.mpp
    )
    return Plan(settings, (seed, number), traits, tumor, nuclei, outlines, layout)
