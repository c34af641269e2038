"""Synthetic H&E-like slides and cohorts whose nuclei and group effects are known.

A patient is six traits (`TRAIT_SD`), drawn once and shifted by group; `plan_slide` lays out tissue
and places nuclei with these traits without touching a pixel; `render` paints the plan;
`write_cohort` writes slides, annotations, manifest and truth. Slide `number` of a `seed` is the
same in a cohort of any length.
"""

from morphomil.phantom.files import write_cohort
from morphomil.phantom.paint import Phantom, render, render_slide
from morphomil.phantom.plan import Plan, plan_slide
from morphomil.phantom.settings import TRAIT_SD, Effect, PhantomSettings

__all__ = [
    "TRAIT_SD",
    "Effect",
    "Phantom",
    "PhantomSettings",
    "Plan",
    "plan_slide",
    "render",
    "render_slide",
    "write_cohort",
]
