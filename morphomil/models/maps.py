"""Slides as an image model reads them: attention and occlusion of every patch, also for QuPath."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from morphomil.errors import InputError
from morphomil.image_model.windows import attend_windows, windows_per_side
from morphomil.models.image import Image, ImageClinical, embeddings_of, patch_scorer
from morphomil.models.trained import open_fold, settings_of, trained_folds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import pandas as pd

    from morphomil.models.trained import OpenFold
    from morphomil.run.directory import Run


_SCORES = ("bag", "bag_attention", "attention", "occlusion")


@dataclass(frozen=True)
class SlideMap:
    """A slide as its model reads it.

    `patches` are the kept ones (schema PATCHES), or the tiles of another program (`Image.places`),
    with `bag`, `bag_attention`, `attention` (sums to 1) and `occlusion`
    (`image_model.model.SlideReading`).
    """

    slide_id: str
    patient: str
    fold: str
    probability: float
    patches: pd.DataFrame = field(repr=False)
    cells: pd.DataFrame | None = field(default=None, repr=False)
    """Attention on a finer grid, where windows overlap (`windows.attend_windows`)."""


def read_maps(
    run: Run,
    model: str,
    slides: Sequence[str] = (),
    *,
    overlap: float = 0.0,
    weights: Path | None = None,
) -> Iterator[SlideMap]:
    """Slides as a model reads them, by the fold that predicts them (the only one, else where they
    are test).

    Args:
        run: with a trained model.
        model: its name.
        slides: only these; none: all.
        overlap: of the windows of `SlideMap.cells`, a share of their side; 0: none are read.
            Nothing else changes.
        weights: of a frozen backbone, where `embed` had a file and windows overlap.

    Raises:
        InputError: nothing is trained, the model sees no patches, or there is no such slide.
    """
    folds = trained_folds(run, model)
    if folds[0].facts.image is None:
        raise InputError(
            f"{model} sees no patches, so there is nothing to show on a slide; "
            "choose dl-cnb or dl-cnb+c"
        )
    for name in slides:
        run.slide(name)
    per_side = windows_per_side(overlap)
    for record in folds:
        opened = open_fold(run, record)
        refine = _finer_grid(run, opened, per_side, weights) if per_side > 1 else None
        yield from _maps_of_fold(run, opened, slides, only_test=len(folds) > 1, refine=refine)


def _maps_of_fold(
    run: Run,
    opened: OpenFold,
    slides: Sequence[str],
    *,
    only_test: bool,
    refine: Callable[[str], pd.DataFrame] | None,
) -> Iterator[SlideMap]:
    record, model = opened.record, opened.model
    if not isinstance(model, Image | ImageClinical):
        raise InputError(f"{record.model} sees no patches")
    wanted = record.patients("test") if only_test else record.patients()
    readings = model.read_slides(opened.fold, opened.inputs, wanted, slides)
    for slide_id, patient, reading in readings:
        scores = model.patch_table(run, slide_id, reading)[[*_SCORES]]
        patches = model.places(run, slide_id).reset_index(drop=True)
        yield SlideMap(
            slide_id,
            patient,
            record.fold,
            float(reading.probability[-1]),
            patches.join(scores),
            None if refine is None else refine(slide_id),
        )


def _finer_grid(
    run: Run, opened: OpenFold, per_side: int, weights: Path | None
) -> Callable[[str], pd.DataFrame]:
    """A function from a slide to the attention of windows between its patches."""
    settings = settings_of(opened.record)
    outside = embeddings_of(run, settings).settings().outside
    score = patch_scorer(opened.fold, run, settings, weights)

    def refine(slide_id: str) -> pd.DataFrame:
        slide = run.slide(slide_id)
        return attend_windows(run, slide, per_side=per_side, outside=outside, score=score)

    return refine


def map_geojson(patches: pd.DataFrame, *, model: str) -> dict[str, Any]:
    """Patches of one image with their scores as QuPath tiles; `relative attention` is 1 for an even
    share."""
    features = []
    relative = patches["attention"].to_numpy() * len(patches)
    for patch, share in zip(patches.to_dict("records"), relative, strict=True):
        x, y, side = (float(patch[name]) for name in ("x_px", "y_px", "side_px"))
        corners = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
        scores = {
            f"{model} attention": float(patch["attention"]),
            f"{model} relative attention": float(share),
        }
        if np.isfinite(patch["occlusion"]):
            scores[f"{model} occlusion"] = float(patch["occlusion"])
        properties = {
            "objectType": "tile",
            "name": f"patch {patch['patch_id']}",
            "measurements": scores,
        }
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [corners]},
                "properties": properties,
            }
        )
    return {"type": "FeatureCollection", "features": features}
