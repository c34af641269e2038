"""The report's pictures of each slide: overview, heatmaps, patches with the outlines of nuclei."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from morphomil.errors import DamagedError, InputError, SlideError
from morphomil.figures.contours import contact_sheet
from morphomil.figures.contributions import (
    contribution_limits,
    nuclei_gallery,
    patch_contributions,
    read_contributions,
)
from morphomil.figures.labels import group_name
from morphomil.figures.patch_examples import read_example
from morphomil.figures.report.data import Picture, SlidePictures
from morphomil.figures.report.overviews import draw_overview, numbered_name
from morphomil.figures.report.side_by_side import map_in_processes
from morphomil.figures.slide_image import OpenedImage, open_image_of, thumbnail_scale
from morphomil.figures.slides import slide_heatmap, type_map
from morphomil.figures.style import render
from morphomil.matrix import by_feature, patch_values
from morphomil.nuclei.quantities import feature_quantity, patient_quantity
from morphomil.pipeline.execution import Silence
from morphomil.places import stamp
from morphomil.run.directory import Run
from morphomil.run.log import versions
from morphomil.store import digest, read_json, write_bytes, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd
    from matplotlib.figure import Figure

    from morphomil.pipeline.execution import Progress
    from morphomil.types import Slide

EXAMPLES = 4
"""So many patches of each slide are shown with the outlines of their nuclei."""
MOST_SLIDES = 48
"""The report shows so many slides at most, of larger cohorts evenly over the groups."""
_TITLES = {
    "overview": "Regions and patches",
    "nuclei": "Nuclei of the patches with most of them",
    "types": "Nuclei by type",
    "typed_nuclei": "The same patches by type",
    "contribution": "Contribution of each patch to the probability (percentage points)",
    "speaking_nuclei": "Nuclei that speak most for and against the label (percentage points of "
    "the probability)",
}


def choose_slides(run: Run) -> list[Slide]:
    """The measured slides, or so many of them, as evenly over the labels as these are, that a page
    can hold them."""
    done = set(run.done("featurize"))
    slides = [slide for slide in run.cohort.slides if slide.slide_id in done]
    by_label = sorted(range(len(slides)), key=lambda number: (str(slides[number].label), number))
    chosen = np.linspace(0, len(slides) - 1, min(len(slides), MOST_SLIDES)).round().astype(int)
    return [slides[number] for number in sorted(by_label[at] for at in chosen)]


def note_on_slides(run: Run, shown: list[Slide]) -> str:
    """How many slides are shown where not all are, else nothing."""
    measured = len(run.done("featurize"))
    if len(shown) == measured:
        return ""
    return (
        f"{len(shown):,} of {measured:,} slides, evenly over the groups. All of them: morphomil "
        f"view {run.path}."
    )


@dataclass(frozen=True)
class _Task:
    """What a slide's pictures are drawn from."""

    path: Path
    """Of the run."""
    slide_id: str
    names: tuple[str, ...]
    """Density and the top feature."""
    limits: dict[str, tuple[float, float] | None]
    """Of colors, by feature and of the contributions."""
    positive: str | None


def draw_gallery(
    run: Run,
    slides: list[Slide],
    top: str,
    *,
    positive: str | None,
    progress: Progress | None = None,
) -> Iterator[SlidePictures]:
    """Overview, heatmaps of nuclear density and of the top feature, and example patches of each
    slide; contributions are to the positive label, of three and more labels (None) to the
    slide's.

    Slides are drawn side by side by processes, and only where something that they are drawn from
    has changed since the last time.
    """
    values = {
        slide.slide_id: by_feature(
            patch_values(run.counted_nuclei(slide.slide_id), run.patches(slide.slide_id))
        )
        for slide in slides
    }
    names = list(dict.fromkeys(["density_per_mm2", top]))
    limits = {name: _limits([table[name] for table in values.values()]) for name in names}
    limits["contribution"] = contribution_limits(_all_contributions(run, slides, values))
    tasks = [_Task(run.path, slide.slide_id, tuple(names), limits, positive) for slide in slides]
    listener = progress or Silence()
    listener.start("slides", len(slides))
    for slide, drawn in zip(slides, map_in_processes(_try_slide, tasks), strict=True):
        if drawn.absent:
            listener.end(slide.slide_id, "failed", drawn.absent)
            yield SlidePictures(slide.slide_id, group_name(slide.label), (), drawn.absent)
            continue
        listener.end(slide.slide_id, "done", f"{len(drawn.files)} pictures")
        yield _read_pictures(run, slide, drawn.files)


class _Drawn(NamedTuple):
    """The files of a slide's pictures, or why there are none."""

    files: list[str]
    absent: str = ""


def _try_slide(task: _Task) -> _Drawn:
    """A slide that can't be read stops no other."""
    try:
        return _Drawn(_draw_slide(task))
    except (SlideError, InputError) as error:
        return _Drawn([], str(error))


def _draw_slide(task: _Task) -> list[str]:
    """Draw a slide's pictures into its folder, unless they are there and what they are drawn from
    is the same; the names of their files."""
    run = Run(task.path)
    slide = run.slide(task.slide_id)
    folder = run.slide_figures_folder(slide.slide_id)
    key, listed = _key_of(run, slide, task), folder / "drawn.json"
    if known := _read_drawn(listed, key):
        return known
    table = patch_values(run.counted_nuclei(slide.slide_id), run.patches(slide.slide_id))
    values, files = by_feature(table), []
    for number in range(len(slide.images)):
        patches = values[values["image"] == number]
        with open_image_of(run, slide, number) as opened:
            figures = {"overview": draw_overview(opened)}
            figures |= {
                name: _draw_heatmap(opened, patches, name, limits=task.limits[name])
                for name in task.names
            }
            if (sheet := _draw_examples(opened, patches, task.names[-1])) is not None:
                figures["nuclei"] = sheet
            figures |= _draw_types(opened, patches)
            figures |= _draw_contributions(
                opened,
                patches,
                positive=slide.label if task.positive is None else task.positive,
                limits=task.limits["contribution"],
            )
        for name, figure in figures.items():
            files.append(numbered_name(name, number))
            write_bytes(folder / files[-1], render(figure, "png", dpi=150))
    sums = {name: digest(folder / name) for name in files}
    write_json(listed, {"key": key, "files": sums}, seal=True)
    return files


def _read_drawn(listed: Path, key: str) -> list[str]:
    """The names of what was drawn from the same; none where one of them is damaged or gone."""
    try:
        known = read_json(listed)
        files = known["files"].items() if known["key"] == key else ()
        whole = all(digest(listed.with_name(name)) == sha for name, sha in files)
    except (DamagedError, OSError, LookupError, TypeError, AttributeError):
        return []
    return [name for name, _ in files] if whole else []


def _key_of(run: Run, slide: Slide, task: _Task) -> str:
    """Changes with everything that a slide's pictures are drawn from, and not with where the run
    stands or when it was made."""
    folder = run.slide_folder(slide.slide_id)
    inputs = [folder / "nuclei.parquet", folder / "patches.parquet", folder / "regions.geojson"]
    inputs += [run.contributions_path(slide.slide_id)]
    results = [digest(path) if path.is_file() else None for path in inputs]
    images = [stamp(image.path) for image in slide.images]
    wanted = (task.names, task.limits, task.positive)
    said = repr((versions(), str(slide.label), run.whose, wanted, results, images))
    return hashlib.sha256(said.encode()).hexdigest()


def _read_pictures(run: Run, slide: Slide, files: list[str]) -> SlidePictures:
    """The slide's pictures as the page shows them, smaller than they lie in the folder."""
    pictures = []
    for name in files:
        stem = re.sub(r"-\d+$", "", Path(name).stem)
        title = _TITLES.get(stem) or f"{patient_quantity(stem).name} by patch"
        with Image.open(run.slide_figures_folder(slide.slide_id) / name) as image:
            width, height = image.size
            small = image.convert("RGB").resize((round(width * 0.75), round(height * 0.75)))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=88)
        pictures.append(
            Picture(
                title,
                alt=f"{title}, slide {slide.slide_id}",
                data=buffer.getvalue(),
                shape="strip" if width > 2 * height else "slide",
            )
        )
    pictures.sort(key=lambda picture: picture.shape == "strip")
    return SlidePictures(slide.slide_id, group_name(slide.label), tuple(pictures))


def _all_contributions(
    run: Run, slides: list[Slide], values: Mapping[str, pd.DataFrame]
) -> Iterator[pd.Series[float]]:
    """What the patches of each slide contribute, where the ranking has stored it."""
    for slide in slides:
        if (nuclei := read_contributions(run, slide.slide_id)) is not None:
            yield patch_contributions(nuclei, values[slide.slide_id])


def _draw_contributions(
    opened: OpenedImage,
    patches: pd.DataFrame,
    *,
    positive: str,
    limits: tuple[float, float] | None,
) -> dict[str, Figure]:
    """What patches and nuclei contribute to the probability, where the ranking has stored it."""
    nuclei = read_contributions(opened.run, opened.slide.slide_id)
    if nuclei is None:
        return {}
    values = patches.assign(contribution=patch_contributions(nuclei, patches))
    figures = {"contribution": _draw_heatmap(opened, values, "contribution", limits=limits)}
    if (gallery := nuclei_gallery(opened, nuclei, positive=positive)) is not None:
        figures["speaking_nuclei"] = gallery
    return figures


def _limits(columns: list[pd.Series[float]]) -> tuple[float, float] | None:
    """The same colors for all slides: 2nd to 98th percentile of all patches."""
    values = (
        np.concatenate([column.to_numpy(dtype=float) for column in columns])
        if columns
        else np.empty(0)
    )
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, (2, 98)) if len(values) else (0.0, 0.0)
    return (float(low), float(high)) if high > low else None


def _draw_heatmap(
    opened: OpenedImage, values: pd.DataFrame, name: str, *, limits: tuple[float, float] | None
) -> Figure:
    thumbnail = opened.image.thumbnail()
    quantity, signed = patient_quantity(name), name == "contribution"
    return slide_heatmap(
        thumbnail,
        values,
        values[name],
        level0_px_per_thumb_px=thumbnail_scale(opened.image, thumbnail),
        mpp=opened.image.mpp,
        label=quantity.name,
        unit="percentage points" if signed else quantity.unit,
        limits=limits,
        diverging=signed,
        regions=opened.regions,
        title=opened.slide.slide_id,
    )


def _draw_examples(opened: OpenedImage, values: pd.DataFrame, name: str) -> Figure | None:
    """The patches with most nuclei, outlines colored by a feature."""
    shown = values[values["nuclei"] > 0].nlargest(EXAMPLES, "nuclei").sort_values("patch_id")
    if shown.empty:
        return None
    nuclei = opened.run.counted_nuclei(opened.slide.slide_id).set_index("label")
    return _draw_patches(opened, shown, name, values=nuclei[name])


def _draw_types(opened: OpenedImage, values: pd.DataFrame) -> dict[str, Figure]:
    """Where nuclei of which type lie, and the patches with most nuclei, outlines colored by type;
    nothing where nobody knows types."""
    nuclei = opened.run.nuclei(opened.slide.slide_id)
    shown = values[values["nuclei"] > 0].nlargest(EXAMPLES, "nuclei").sort_values("patch_id")
    own = nuclei[nuclei["image"] == opened.number]
    if shown.empty or own["type"].isna().all():
        return {}
    thumbnail = opened.image.thumbnail()
    places = type_map(
        thumbnail,
        own,
        level0_px_per_thumb_px=thumbnail_scale(opened.image, thumbnail),
        mpp=opened.image.mpp,
        regions=opened.regions,
        title=opened.slide.slide_id,
    )
    types = nuclei.set_index("label")["type"].astype("object")
    return {"types": places, "typed_nuclei": _draw_patches(opened, shown, "", types=types)}


def _draw_patches(
    opened: OpenedImage, shown: pd.DataFrame, name: str, **columns: pd.Series[Any]
) -> Figure:
    """Patches with the outlines of their nuclei, colored by a feature or, without a name, by
    type."""
    masks = opened.run.masks(opened.slide.slide_id)
    examples = [
        read_example(
            opened.image,
            masks[patch["region"]],
            patch,
            title=f"patch {patch['patch_id']}",
            **columns,
        )
        for patch in shown.to_dict("records")
    ]
    mpp = masks[int(shown["region"].iloc[-1])].frame.mpp
    if not name:
        return contact_sheet(examples, mpp=mpp)
    quantity = feature_quantity(name)
    return contact_sheet(examples, mpp=mpp, label=quantity.name, unit=quantity.unit)
