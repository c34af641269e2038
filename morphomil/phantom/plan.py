"""A slide before it is painted: its tissue laid out, its nuclei placed and their truth known."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from morphomil.phantom.chance import random_for
from morphomil.phantom.layout import Layout, lay_out
from morphomil.phantom.nuclei import (
    count_nuclei,
    draw_deviations,
    draw_outlines,
    place_nuclei,
    turn_outlines,
)
from morphomil.phantom.settings import (
    PLANTED_SD,
    TRAIT_SD,
    TRAIT_SDS,
    Effect,
    FloatArray,
    PhantomSettings,
)
from morphomil.phantom.truth import truth_table

if TYPE_CHECKING:
    import pandas as pd
    from shapely import Polygon


@dataclass(frozen=True, eq=False)
class Plan:
    """A slide before it is painted.

    `nuclei` holds, per nucleus, `label`, `nucleus_class`, `in_tumor`, the centroid in level-0
    pixels (a pixel's corners have integer coordinates) and the features of its exact outline;
    density is that among the tumor's nuclei, NaN outside. `outlines` (n, VERTICES, 2) are x, y in
    um about the centroid. `tumor` is in level-0 pixels.
    """

    settings: PhantomSettings
    seed: tuple[int, int]
    traits: dict[str, float]
    tumor: Polygon
    nuclei: pd.DataFrame
    outlines: FloatArray = field(repr=False)
    layout: Layout = field(repr=False)


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
        if name in PLANTED_SD:
            scores[name] = random(name).standard_normal()
        scores[name] += score
    traits = {name: float(score) * TRAIT_SDS[name] for name, score in scores.items()}
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
