"""The figures and the report of a run directory: reads its tables, hands them to the drawing
functions."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.figures.labels import (
    feature_quantity,
    format_interval,
    format_ratio,
    patient_quantity,
)
from morphomil.figures.models import model_name
from morphomil.figures.patch_examples import read_example
from morphomil.figures.prose import Auc, describe_methods, say_looks, say_plainly
from morphomil.figures.ranking_nuclei import nuclei_gallery, patch_contributions, read_contributions
from morphomil.figures.registry import draw_figures
from morphomil.figures.report import Looks, Picture, ReportData, SlidePictures, render_report
from morphomil.figures.slides import contact_sheet, overview, slide_heatmap
from morphomil.figures.style import ONE_AND_A_HALF_COLUMNS_MM, TWO_COLUMNS_MM, render
from morphomil.matrix import patch_values
from morphomil.store import write_bytes
from morphomil.tables.flow import flow_table
from morphomil.tables.models import print_models
from morphomil.tables.slides import empty_patches, image_regions
from morphomil.types import FEATURE_NAMES, PatchSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from matplotlib.figure import Figure

    from morphomil.figures.report import Shape
    from morphomil.run.directory import Run
    from morphomil.slides.image import SlideImage
    from morphomil.types import Slide

EXAMPLES = 4
"""Patches shown with contours per slide."""
MOST_SLIDES = 48
"""Shown in the report; of larger cohorts as many are, evenly over the groups."""


def draw_overviews(run: Run) -> list[Path]:
    """An `overview.png` in the folder of every segmented slide that lacks one or whose patches are
    newer."""
    drawn = []
    done = set(run.done("segment"))
    for slide in run.cohort.slides:
        if slide.slide_id not in done:
            continue
        folder = run.slide_folder(slide.slide_id)
        for number in range(len(slide.images)):
            path = folder / _numbered("overview", number)
            if (
                path.exists()
                and path.stat().st_mtime >= (folder / "patches.parquet").stat().st_mtime
            ):
                continue
            with run.open_image(slide.slide_id, number) as image:
                write_bytes(path, render(_draw_overview(run, slide, image, number), "png", dpi=200))
            drawn.append(path)
    return drawn


def _numbered(stem: str, number: int) -> str:
    return f"{stem}.png" if number == 0 else f"{stem}-{number}.png"


def _draw_overview(run: Run, slide: Slide, image: SlideImage, number: int) -> Figure:
    patches = run.patches(slide.slide_id)
    thumbnail = image.thumbnail()
    return overview(
        thumbnail,
        patches[patches["image"] == number],
        level0_px_per_thumb_px=max(image.width, image.height) / max(thumbnail.shape[:2]),
        mpp=image.mpp,
        regions=image_regions(run, slide.slide_id, number),
        title=slide.slide_id,
    )


def write_report(run: Run) -> Path:
    """Draw every figure that the run has results for and write `report.html`; returns its path.

    Raises:
        InputError: nothing is measured yet.
        SlideError: a slide can no longer be read.
    """
    slides = _slides_table(run)
    ranking = _read(run, "ranking")
    about = run.ranking_about()
    top = str(ranking["feature"].iloc[0]) if ranking is not None else "area_um2"
    patches, commands = _patch_settings(run), run.commands()
    shown = _shown_slides(run)
    data = ReportData(
        title=f"Nuclear morphology of {len(slides)} slides",
        positive=str(about.get("positive", "positive")),
        reference=str(about.get("reference", "reference")),
        flow=flow_table(run).astype({"patches": "Int64", "nuclei": "Int64"}),
        cohort=_cohort_table(run),
        slides=slides,
        ranking=ranking,
        statement=_statement(about, ranking),
        auc=Auc(about["auc"], about["auc_low"], about["auc_high"]) if "auc" in about else None,
        gallery=tuple(
            _draw_gallery(run, shown, top, positive=str(about.get("positive", "positive")))
        ),
        gallery_note=_note_slides(run, shown),
        cautions=tuple(_cautions(run, about)),
        methods=(_methods(run, patches, about),) if ranking is not None else (),
        settings={
            f"{c['command']}: {name}": value
            for c in commands.values()
            for name, value in c["settings"].items()
        },
        versions=max(commands.values(), key=lambda c: c["finished"])["versions"]
        if commands
        else {},
        **_model_tables(run),
        **_draw_statistics(run, ranking),
    )
    path = run.report_path
    write_bytes(path, render_report(data).encode("utf-8"))
    return path


def _statement(about: dict[str, Any], ranking: pd.DataFrame | None) -> str:
    return (
        ""
        if ranking is None
        else say_plainly(str(about.get("statement", "")), ranking["feature"].tolist())
    )


def _cautions(run: Run, about: dict[str, Any]) -> list[str]:
    notes = list(about.get("notes", ()))
    if about and about["measured"] != run.measured_key():
        notes.append(
            "Slides have been measured anew since this ranking was made; run `morphomil "
            "rank` again."
        )
    return notes


_OWN_PLACE = {
    "ranking": "ranking_picture",
    "features_by_group": "groups_picture",
    "roc": "roc_picture",
}
"""Figures that stand in a section of the report with their table; the others stand under
Figures."""


_LOOKS = ("attention", "morphology_of_attention", "patches_of_attention")
"""Figures of what the image model looks at."""


def _draw_statistics(run: Run, ranking: pd.DataFrame | None) -> dict[str, Any]:
    """The figures of the registry, also saved for the paper, and why there is none of the
    others."""
    placed: dict[str, Any] = {}
    others: list[Picture] = []
    looks: list[Picture] = []
    absent: list[str] = []
    for outcome in draw_figures(run):
        if outcome.drawing is None:
            absent.append(f"{outcome.title}: {outcome.absent}.")
            continue
        raster = outcome.name in _RASTER
        data = (
            render(outcome.drawing.figure, "png", dpi=160)
            if raster
            else render(outcome.drawing.figure, "svg")
        )
        width = round(outcome.drawing.figure.get_size_inches()[0] * 25.4)
        shape: Shape = (
            "wide"
            if width >= TWO_COLUMNS_MM
            else "medium"
            if width >= ONE_AND_A_HALF_COLUMNS_MM
            else "square"
        )
        shown = Picture(
            f"{outcome.title}.",
            alt=outcome.title,
            data=data,
            caption=outcome.drawing.caption,
            shape=shape,
        )
        if outcome.name in _OWN_PLACE:
            placed[_OWN_PLACE[outcome.name]] = shown
        else:
            (looks if outcome.name in _LOOKS else others).append(shown)
    said = _read_looks(run, ranking, tuple(looks))
    pictures = tuple(others) if said else (*others, *looks)
    return placed | {"looks": said, "pictures": pictures, "absent": tuple(absent)}


def _read_looks(
    run: Run, ranking: pd.DataFrame | None, pictures: tuple[Picture, ...]
) -> Looks | None:
    """What `compare` has set side by side; None where it has not, or there is no image model."""
    path = run.alongside_folder / "morphology_of_attention.csv"
    if not path.is_file():
        return None
    associations = pd.read_csv(path)
    sentences = [] if ranking is None else [_statement(run.ranking_about(), ranking)]
    for model, own in associations.groupby("model", sort=False):
        first = None if ranking is None else str(ranking["feature"].iloc[0])
        sentences.append(" ".join(say_looks(model_name(str(model)), own, first=first)))
    scores = path.with_name("scores.csv")
    return Looks(
        tuple(sentence for sentence in sentences if sentence),
        _morphology_table(associations),
        _scores_table(pd.read_csv(scores)) if scores.is_file() else pd.DataFrame(),
        pictures,
    )


def _morphology_table(associations: pd.DataFrame) -> pd.DataFrame:
    """One row per model and feature; attention beside what the probability loses without the
    patch."""
    rows = []
    for (model, feature), own in associations.groupby(["model", "feature"], sort=False):
        row: dict[str, Any] = {
            "model": model_name(str(model)),
            "feature": patient_quantity(str(feature)).name,
        }
        row["patients"] = int(own["patients"].max())
        for evidence, head in (
            ("attention", "attention"),
            ("occlusion", "probability lost without it"),
        ):
            said = own[own["evidence"] == evidence]
            if len(said):
                row[f"{head}: \N{GREEK SMALL LETTER RHO} [95 %]"] = _correlation(
                    said.to_dict("records")[0], "rho"
                )
                row[f"{evidence}_p_holm"] = float(said["p_holm"].iloc[0])
        rows.append(row)
    return pd.DataFrame(rows)


def _scores_table(scores: pd.DataFrame) -> pd.DataFrame:
    rows = [
        {
            "model a": model_name(str(row["model_a"])),
            "model b": model_name(str(row["model_b"])),
            "patients": row["patients"],
            "rank correlation [95 %]": _correlation(row, "rho"),
            "within the label [95 %]": _correlation(row, "rho_within_label"),
        }
        for row in scores.to_dict("records")
    ]
    return pd.DataFrame(rows)


def _correlation(row: Mapping[Any, Any], name: str) -> str:
    return f"{format_ratio(row[name])} {format_interval(row[f'{name}_low'], row[f'{name}_high'])}"


_RASTER = ("plate", "nuclei", "matrices", "attention")
"""Pictures of pixels, which are smaller so than as SVG."""


def _model_tables(run: Run) -> dict[str, Any]:
    """Performance of the models and DeLong's tests, as printed; empty without predictions of two
    classes or more."""
    printed = print_models(run)
    if printed is None:
        return {}
    performance, pairs = printed
    if performance is not None:
        performance = performance.assign(model=performance["model"].map(model_name))
    tables: dict[str, Any] = {"performance": performance}
    if len(pairs):
        pairs = pairs.assign(
            **{name: pairs[name].map(model_name) for name in ("model_a", "model_b")}
        )
        pairs["difference"] = [
            f"{format_ratio(row['difference'])} {format_interval(row['low'], row['high'])}"
            for row in pairs.to_dict("records")
        ]
        columns = [
            "part",
            "model_a",
            "model_b",
            "n",
            "auc_a",
            "auc_b",
            "difference",
            "p_value",
            "p_holm",
        ]
        heads = {
            "n": "patients",
            "auc_a": "AUC of a",
            "auc_b": "AUC of b",
            "difference": "difference of AUC [95 %]",
        }
        tables["comparison"] = pairs[columns].rename(columns=heads)
    return tables


def _shown_slides(run: Run) -> list[Slide]:
    """The measured slides, or so many of them, as evenly over the labels as these are, that a page
    can hold them."""
    done = set(run.done("featurize"))
    slides = [slide for slide in run.cohort.slides if slide.slide_id in done]
    by_label = sorted(range(len(slides)), key=lambda number: (str(slides[number].label), number))
    chosen = np.linspace(0, len(slides) - 1, min(len(slides), MOST_SLIDES)).round().astype(int)
    return [slides[number] for number in sorted(by_label[at] for at in chosen)]


def _note_slides(run: Run, shown: list[Slide]) -> str:
    measured = len(run.done("featurize"))
    if len(shown) == measured:
        return ""
    return (
        f"{len(shown):,} of {measured:,} slides, evenly over the groups. All of them: morphomil "
        f"view {run.path}."
    )


def _draw_gallery(
    run: Run, slides: list[Slide], top: str, *, positive: str
) -> Iterator[SlidePictures]:
    """Overview, heatmaps of nuclear density and of the top feature, and example patches of each
    slide."""
    values = {
        slide.slide_id: patch_values(run.nuclei(slide.slide_id), run.patches(slide.slide_id))
        for slide in slides
    }
    names = list(dict.fromkeys(["density_per_mm2", top]))
    limits = {name: _limits([table[name] for table in values.values()]) for name in names}
    for slide in slides:
        folder = run.slide_figures_folder(slide.slide_id)
        pictures = []
        for number in range(len(slide.images)):
            own = values[slide.slide_id].query("image == @number")
            with run.open_image(slide.slide_id, number) as image:
                figures = {"overview": _draw_overview(run, slide, image, number)}
                figures |= {
                    name: _draw_heatmap(run, slide, image, number, own, name, limits[name])
                    for name in names
                }
                if (sheet := _draw_examples(run, slide, image, own, top)) is not None:
                    figures["nuclei"] = sheet
                figures |= _draw_contributions(run, slide, image, number, own, positive=positive)
            for name, figure in figures.items():
                picture = render(figure, "png", dpi=150)
                write_bytes(folder / _numbered(name, number), picture)
                width, height = figure.get_size_inches()
                title = _TITLES.get(name) or f"{patient_quantity(name).name} by patch"
                pictures.append(
                    Picture(
                        title,
                        alt=f"{title}, slide {slide.slide_id}",
                        data=render(figure, "jpg", dpi=110),
                        shape="strip" if width > 2 * height else "slide",
                    )
                )
        pictures.sort(key=lambda picture: picture.shape == "strip")
        yield SlidePictures(slide.slide_id, slide.label, tuple(pictures))


def _draw_contributions(
    run: Run, slide: Slide, image: SlideImage, number: int, patches: pd.DataFrame, *, positive: str
) -> dict[str, Figure]:
    """What patches and nuclei contribute to the probability, where the ranking has stored it."""
    nuclei = read_contributions(run, slide.slide_id)
    if nuclei is None:
        return {}
    values = patches.assign(contribution=patch_contributions(nuclei, patches))
    figures = {
        "contribution": _draw_heatmap(run, slide, image, number, values, "contribution", None)
    }
    if (
        gallery := nuclei_gallery(run, slide, image, number, nuclei, positive=positive)
    ) is not None:
        figures["speaking_nuclei"] = gallery
    return figures


_TITLES = {
    "overview": "Regions and patches",
    "nuclei": "Nuclei of the patches with most of them",
    "contribution": "Contribution of each patch to the probability (percentage points)",
    "speaking_nuclei": "Nuclei that speak most for and against the label (percentage points of "
    "the probability)",
}


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
    run: Run,
    slide: Slide,
    image: SlideImage,
    number: int,
    values: pd.DataFrame,
    name: str,
    limits: tuple[float, float] | None,
) -> Figure:
    thumbnail = image.thumbnail()
    quantity = patient_quantity(name)
    return slide_heatmap(
        thumbnail,
        values,
        values[name],
        level0_px_per_thumb_px=max(image.width, image.height) / max(thumbnail.shape[:2]),
        mpp=image.mpp,
        label=quantity.name,
        unit=quantity.unit,
        limits=limits,
        regions=image_regions(run, slide.slide_id, number),
        title=slide.slide_id,
    )


def _draw_examples(
    run: Run, slide: Slide, image: SlideImage, values: pd.DataFrame, name: str
) -> Figure | None:
    """The patches with most nuclei, outlines colored by a feature."""
    shown = values[values["nuclei"] > 0].nlargest(EXAMPLES, "nuclei").sort_values("patch_id")
    if shown.empty:
        return None
    masks = run.masks(slide.slide_id)
    nuclei = run.nuclei(slide.slide_id).set_index("label")[name]
    examples = [
        read_example(
            image,
            masks[patch["region"]],
            patch,
            title=f"patch {patch['patch_id']}",
            values=nuclei,
        )
        for patch in shown.to_dict("records")
    ]
    mpp = masks[int(shown["region"].iloc[-1])].frame.mpp
    quantity = feature_quantity(name)
    return contact_sheet(examples, mpp=mpp, label=quantity.name, unit=quantity.unit)


def _slides_table(run: Run) -> pd.DataFrame:
    """Segmentation and measurement of every slide, and why a slide has none."""
    measured, segmented = run.figures("featurize"), run.figures("segment").set_index("slide_id")
    failed = measured["slide_id"].map(segmented["cause"])
    measured["cause"] = measured["cause"].where(measured["cause"] != "", failed)
    measured["state"] = measured["state"].where(failed == "", "failed")
    empty = (measured["state"] == "done") & (measured.get("nuclei", 0) == 0)
    measured.loc[empty, ["state", "cause"]] = ["empty", "no nuclei in any kept patch"]
    for name in ("patches_with_ink", "patches_blurred"):
        measured[name] = measured["slide_id"].map(segmented[name]) if name in segmented else np.nan
    done = measured["state"].isin(["done", "empty"])
    names = zip(measured["slide_id"], done, strict=True)
    empty_counts = [empty_patches(run, name) if known else None for name, known in names]
    measured["patches_empty"] = pd.array(empty_counts, dtype="Int64")
    columns = [
        "patches_kept",
        "patches_dropped",
        "patches_empty",
        "patches_with_ink",
        "patches_blurred",
        "nuclei",
        "nuclei_per_mm2",
        "median_area_um2",
    ]
    return measured.reindex(columns=["slide_id", "patient", "label", "state", *columns, "cause"])


def _cohort_table(run: Run) -> pd.DataFrame:
    slides = run.cohort.table()
    grouped = slides.groupby("label", sort=True)
    return pd.DataFrame(
        {
            "label": list(grouped.groups),
            "patients": grouped["patient"].nunique().tolist(),
            "slides": grouped.size().tolist(),
        }
    )


def _read(run: Run, name: str) -> pd.DataFrame | None:
    path = run.rank_folder / f"{name}.csv"
    return pd.read_csv(path) if path.is_file() else None


def _patch_settings(run: Run) -> PatchSettings:
    stated = run.segmented_with()
    return PatchSettings(
        **{f.name: stated[f.name] for f in fields(PatchSettings) if f.name in stated}
    )


def _methods(run: Run, patches: PatchSettings, about: dict[str, Any]) -> str:
    ranking = _read(run, "ranking")
    return describe_methods(
        patches,
        segmenter=_describe_segmenter(run.segmented_with()),
        folds=about["folds"],
        seeds=about["seeds"],
        bag_patches=about["bag_patches"],
        features=FEATURE_NAMES if ranking is None else ranking["feature"].tolist(),
        permutations=about.get("permutations", 0),
    )


def _describe_segmenter(stated: dict[str, Any]) -> str | None:
    """The segmenter by its settings; None where nuclei were imported."""
    if stated["model"] == "imported":
        return None
    name = (
        "the weights of morphomil"
        if stated["model"] == "default"
        else f"the model {stated['model']}"
    )
    engine = {"openvino": "OpenVINO", "tensorflow": "TensorFlow"}[
        stated.get("engine", "tensorflow")
    ]
    segmenter = f"StarDist ({name}; {engine}, {stated.get('precision', 'float32')})"
    return (
        f"{segmenter} after normalization of the stains (Macenko)"
        if stated.get("normalize_stain")
        else segmenter
    )
