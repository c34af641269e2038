"""Every figure of a run by name: what it needs, how it is drawn, and the table that goes beside
it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from morphomil.errors import InputError
from morphomil.figures.alongside import morphology_plot, patches_plot
from morphomil.figures.features import correlation_plot, feature_matrices, orientation_rose
from morphomil.figures.flow import flow_plot
from morphomil.figures.groups import feature_groups
from morphomil.figures.heatmap import ScoredPatch, attention_plate
from morphomil.figures.labels import feature_quantity, patient_quantity
from morphomil.figures.models import (
    MOST_LINES,
    calibration_plot,
    confusion_plot,
    decision_plot,
    forest_lines,
    model_name,
    roc_comparison,
    subgroup_forest,
)
from morphomil.figures.patch_examples import read_example
from morphomil.figures.plate import PatientPlate, patient_plate
from morphomil.figures.ranking import ranking_plot
from morphomil.figures.ranking_evidence import evidence_plot
from morphomil.figures.roc import roc_plot
from morphomil.figures.slides import contact_sheet
from morphomil.figures.style import save_figure, use_look
from morphomil.matrix import patch_values
from morphomil.store import write_table_csv
from morphomil.tables.attention import attended_patches, image_models
from morphomil.tables.correlation import correlation_tables
from morphomil.tables.flow import flow_table
from morphomil.tables.histograms import histograms_table
from morphomil.tables.models import (
    calibration_tables,
    compare_rocs,
    confusion_tables,
    decision_table,
)
from morphomil.tables.orientation import orientation_table
from morphomil.tables.predictions import (
    class_names,
    has_several_classes,
    of_test_patients,
    two_class_test_part,
)
from morphomil.tables.roc import roc_points
from morphomil.tables.slides import image_regions
from morphomil.tables.typical import typical_patches, typical_patient, typical_patients

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from morphomil.figures.slides import PatchExample
    from morphomil.figures.style import Format, Look
    from morphomil.run.directory import Run
    from morphomil.types import Slide

SHOWN_FEATURES = 3
"""Features at the foot of the plate of two patients."""
PATCHES_PER_PATIENT = 2
TOP_PATCHES = 5
"""With most attention, below the slide."""
MOST_PAIRS = 10
"""Brackets in a comparison of ROC curves; more couldn't be read."""


class AbsentError(Exception):
    """The run has no results for this figure; the message says in a sentence which command makes
    them."""


@dataclass(frozen=True)
class Drawing:
    """A figure, the table of its numbers, and what it shows; `further` tables by the suffix of
    their file's name."""

    figure: Figure
    table: pd.DataFrame
    caption: str
    further: Mapping[str, pd.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of a figure: its files, or why there is none."""

    name: str
    title: str
    paths: tuple[Path, ...] = ()
    absent: str = ""
    drawing: Drawing | None = None


def draw_figures(
    run: Run,
    *,
    only: Sequence[str] = (),
    look: Look = "plain",
    formats: Sequence[Format] = ("pdf", "svg", "png"),
) -> Iterator[Outcome]:
    """Draw the run's figures into `RUN/figures`, each with its table as CSV beside it.

    Raises:
        InputError: a name in `only` is unknown, or its results are absent.
        SlideError: a slide can no longer be read.
    """
    if unknown := [name for name in only if name not in FIGURES]:
        raise InputError(
            f"there is no figure {', '.join(unknown)}; the figures are {', '.join(FIGURES)}"
        )
    for name in only or FIGURES:
        title, draw = FIGURES[name]
        with use_look(look):
            try:
                drawing = draw(run)
            except AbsentError as error:
                if only:
                    raise InputError(f"figure {name}: {error}") from None
                yield Outcome(name, title, absent=str(error))
                continue
            stem = run.figures_folder / name
            paths = save_figure(drawing.figure, stem, formats=formats, table=drawing.table)
        for suffix, table in drawing.further.items():
            path = stem.with_name(f"{name}_{suffix}.csv")
            write_table_csv(path, table)
            paths += (path,)
        yield Outcome(name, title, paths, drawing=drawing)


def _flow(run: Run) -> Drawing:
    flow = flow_table(run)
    caption = (
        "Patients, slides, patches and nuclei at every step, with what each step left out and why."
    )
    return Drawing(flow_plot(flow), flow, caption)


def _ranked(run: Run) -> tuple[pd.DataFrame, dict[str, Any]]:
    about = run.ranking_about()
    if not about:
        raise AbsentError(f"nothing is ranked yet; run: morphomil rank {run.path}")
    return run.ranking, about


def _ranking(run: Run) -> Drawing:
    ranking, about = _ranked(run)
    figure = ranking_plot(
        ranking, positive=str(about["positive"]), reference=str(about["reference"])
    )
    caption = (
        "Attention relative to an even share and Cliff's delta, both with 95 % intervals, and "
        "Mann-Whitney p values, "
        "also adjusted (Holm; Benjamini and Hochberg). Attention is evidence of what the model "
        "weighted."
    )
    return Drawing(figure, ranking, caption)


def _ranking_evidence(run: Run) -> Drawing:
    ranking, _ = _ranked(run)
    path = run.rank_folder / "stability.csv"
    if not path.is_file() or "shapley_auc" not in ranking:
        raise AbsentError(
            f"Shapley values and stability are not computed; run: morphomil rank {run.path}"
        )
    stability = pd.read_csv(path)
    caption = (
        "Each feature's attention, its Shapley value of the AUC, what the AUC loses without it, "
        "all with 95 % "
        "intervals, and how stable its place is. Blue: the interval lies above that of a feature "
        "that does nothing."
    )
    return Drawing(evidence_plot(ranking, stability), ranking, caption, {"stability": stability})


def _groups(run: Run) -> list[str]:
    """Labels in the order of figures: as the models and the ranking count them, the positive one
    last."""
    labels = sorted({str(slide.label) for slide in run.cohort.slides})
    known = class_names(run)
    return [label for label in known if label in labels] + [
        label for label in labels if label not in known
    ]


def _patient_values(run: Run) -> tuple[pd.DataFrame, pd.Series[str]]:
    _ranked(run)
    values = pd.read_parquet(run.rank_folder / "patient_values.parquet").set_index("patient")
    labels = values.pop("label").astype(str)
    present = set(labels)
    groups = [group for group in _groups(run) if group in present]
    return values, pd.Series(pd.Categorical(labels, groups), values.index)


def _features_by_group(run: Run) -> Drawing:
    ranking, _ = _ranked(run)
    values, labels = _patient_values(run)
    figure = feature_groups(values[ranking["feature"].tolist()], labels, ranking)
    caption = (
        "Every patient is a point. Mann-Whitney p and its Holm adjustment above; effect sizes in "
        "the ranking."
    )
    tests = ranking[["feature", "n_reference", "n_positive", "p_value", "p_holm"]]
    return Drawing(figure, values.assign(label=labels).reset_index(), caption, {"tests": tests})


def _roc(run: Run) -> Drawing:
    _, about = _ranked(run)
    points = roc_points(pd.read_parquet(run.rank_folder / "predictions.parquet"))
    figure = roc_plot(points, auc=about["auc"], low=about["auc_low"], high=about["auc_high"])
    caption = "The morphometry model's out-of-fold ROC curves, AUC [95 % interval]."
    summary = pd.DataFrame([{name: about[name] for name in ("auc", "auc_low", "auc_high")}])
    return Drawing(figure, points, caption, {"summary": summary})


def _scored(run: Run) -> pd.DataFrame:
    """The models' predictions of test patients."""
    try:
        return of_test_patients(run)
    except InputError as error:
        raise AbsentError(str(error)) from None


def _tested(run: Run) -> pd.DataFrame:
    """The predictions of test patients by models that tell two classes apart."""
    try:
        return two_class_test_part(run)
    except InputError as error:
        raise AbsentError(str(error)) from None


def _roc_models(run: Run) -> Drawing:
    tested = _tested(run)
    if tested["model"].nunique() < 2:
        raise AbsentError(
            f"a comparison needs two models; train another with: morphomil train {run.path} "
            "--model MODEL"
        )
    points, aucs, pairs = compare_rocs(tested)
    figure = roc_comparison(
        points, aucs, pairs.sort_values("p_value", kind="stable").head(MOST_PAIRS).sort_index()
    )
    approximate = (
        " The scores are out of fold, so the tests are approximate."
        if pairs["approximate"].any()
        else ""
    )
    caption = (
        "ROC curves on test patients, AUCs [95 % interval], DeLong's test of each "
        f"pair.{approximate}"
    )
    return Drawing(figure, aucs, caption, {"points": points, "pairs": pairs})


def _confusion(run: Run) -> Drawing:
    tested = _scored(run)
    table = confusion_tables(tested)
    classes = class_names(run)
    names = table.assign(
        label=table["label"].map(dict(enumerate(classes))),
        call=table["call"].map(dict(enumerate(classes))),
    )
    called = (
        "the most probable class"
        if has_several_classes(tested)
        else "the call at each model's own cutoff"
    )
    caption = f"Test patients by label and by {called}; percentages are of the row."
    return Drawing(confusion_plot(table, classes=classes), names, caption)


def _calibration(run: Run) -> Drawing:
    try:
        found = calibration_tables(_tested(run))
    except ValueError as error:
        raise AbsentError(str(error)) from None
    caption = (
        "Observed share of positive patients against the predicted probability, in groups of like "
        "probability; a slope "
        "of 1 and an intercept of 0 are right."
    )
    return Drawing(
        calibration_plot(found.curve, found.summary),
        found.curve,
        caption,
        {"summary": found.summary},
    )


def _decision(run: Run) -> Drawing:
    try:
        table = decision_table(_tested(run))
    except ValueError as error:
        raise AbsentError(str(error)) from None
    caption = (
        "Net benefit of treating who has a probability of the threshold or more (Vickers and "
        "Elkin)."
    )
    return Drawing(decision_plot(table), table, caption)


def _subgroups(run: Run) -> Drawing:
    path = run.tables_folder / "subgroups.csv"
    if not path.is_file():
        raise AbsentError(f"there is no table of subgroups; run: morphomil compare {run.path}")
    table = pd.read_csv(path, dtype={"model": str, "variable": str, "subgroup": str})
    columns = [
        "model",
        "variable",
        "subgroup",
        "n",
        "positives",
        "auc",
        "low",
        "high",
        "p_value",
        "p_holm",
    ]
    table = table.reindex(columns=columns)
    # The CSV guards text that a spreadsheet would run as a formula.
    table["subgroup"] = table["subgroup"].str.removeprefix("'")
    models = table["model"].unique().tolist()
    while len(models) > 1 and len(forest_lines(table[table["model"].isin(models)])) > MOST_LINES:
        models.pop()
    left_out = table["model"].nunique() - len(models)
    table = table[table["model"].isin(models)]
    caption = (
        "AUC in subgroups of the test patients; p compares a subgroup with the variable's other "
        "patients (DeLong)."
        + (
            f" {left_out} more models, for which the page has no room: tables/subgroups.csv."
            if left_out
            else ""
        )
    )
    return Drawing(subgroup_forest(table), table, caption)


def _correlation(run: Run) -> Drawing:
    values, _ = _patient_values(run)
    try:
        correlation = correlation_tables(values)
    except ValueError as error:
        raise AbsentError(str(error)) from None
    figure = correlation_plot(correlation.rho, correlation.merges, patients=len(values))
    table = correlation.rho.rename_axis("feature").reset_index()
    caption = (
        "Spearman's correlation of patient values, ordered by average linkage of 1 minus its "
        "absolute value."
    )
    return Drawing(
        figure, table, caption, {"tree": correlation.merges, "patients": values.reset_index()}
    )


def _matrices(run: Run) -> Drawing:
    table = histograms_table(run)
    if table.empty:
        raise AbsentError(f"no slide is measured yet; run: morphomil featurize {run.path}")
    present = set(table["label"])
    figure = feature_matrices(table, [group for group in _groups(run) if group in present])
    caption = (
        "Each patient's mean histogram of each feature, one row per patient, and the groups' "
        "means above."
    )
    return Drawing(figure, table, caption)


def _orientation(run: Run) -> Drawing:
    table = orientation_table(run)
    if table.empty:
        raise AbsentError(f"no slide has oriented nuclei; run: morphomil featurize {run.path}")
    present = set(table["label"])
    figure = orientation_rose(table, [group for group in _groups(run) if group in present])
    caption = (
        "How nuclei turn from the mean axis of the other nuclei of their patch, mean over "
        "patients. Axes have no head: "
        "each bin stands at both ends. The dashed circle is no order; polarity is the median over "
        "patients."
    )
    return Drawing(figure, table, caption)


def _typical(run: Run) -> list[tuple[Slide, str]]:
    """A slide of the typical patient of each group, reference first, and the group's name."""
    _, about = _ranked(run)
    ranking_groups = [str(about["reference"]), str(about["positive"])]
    predictions = pd.read_parquet(run.rank_folder / "predictions.parquet")
    measured = run.figures("featurize").set_index("slide_id")
    chosen = []
    for patient, group in zip(typical_patients(predictions), ranking_groups, strict=True):
        own = measured[(measured["patient"] == patient) & (measured["state"] == "done")]
        if own.empty:
            raise AbsentError(
                f"no slide of patient {patient} is measured; run: morphomil featurize {run.path}"
            )
        chosen.append((run.slide(str(own["nuclei"].idxmax())), group))
    return chosen


def _nuclei(run: Run) -> Drawing:
    feature = str(_ranked(run)[0]["feature"].iloc[0])
    examples, rows, mpp = [], [], 0.5
    for slide, group in _typical(run):
        values = patch_values(run.nuclei(slide.slide_id), run.patches(slide.slide_id))
        patches = typical_patches(values, feature, count=PATCHES_PER_PATIENT)
        for patch in patches.to_dict("records"):
            example, mpp = _example(
                run,
                slide,
                patch,
                feature=feature,
                title=f"{group}: {slide.slide_id}, patch {patch['patch_id']}",
            )
            examples.append(example)
            about = {
                "slide_id": slide.slide_id,
                "patient": slide.patient,
                "label": group,
                "patch_id": patch["patch_id"],
            }
            rows += [
                about | {"nucleus": number, feature: value}
                for number, value in (example.values or {}).items()
            ]
    quantity = feature_quantity(feature)
    figure = contact_sheet(examples, mpp=mpp, label=quantity.name, unit=quantity.unit)
    caption = (
        "Outlines of nuclei, colored by the first feature of the ranking, in patches of typical "
        "value of the patient "
        "whose out-of-fold probability is its group's median; gray: no value."
    )
    return Drawing(figure, pd.DataFrame(rows), caption)


def _example(
    run: Run, slide: Slide, patch: Mapping[Any, Any], *, feature: str, title: str
) -> tuple[PatchExample, float]:
    """A segmented patch with its nuclei's values, and um per pixel."""
    masks = run.masks(slide.slide_id)[patch["region"]]
    values = run.nuclei(slide.slide_id).set_index("label")[feature]
    with run.open_image(slide.slide_id, patch["image"]) as image:
        example = read_example(image, masks, patch, title=title, values=values)
    return example, masks.frame.mpp


def _plate(run: Run) -> Drawing:
    ranking, _ = _ranked(run)
    values, labels = _patient_values(run)
    shown = ranking.sort_values("rank", kind="stable").head(SHOWN_FEATURES)
    feature = str(shown["feature"].iloc[0])
    plates, tables = [], []
    for slide, group in _typical(run):
        plate, table = _patient_plate(run, slide, group, feature)
        plates.append(plate)
        tables.append(table.assign(slide_id=slide.slide_id, patient=slide.patient, label=group))
    figure = patient_plate(
        plates,
        values,
        labels,
        shown,
        patch_quantity=patient_quantity(feature),
        nucleus_quantity=feature_quantity(feature),
    )
    caption = (
        "Two patients, each the one whose out-of-fold probability is the median of its group: the "
        "slide with the first "
        "feature of the ranking by patch, a patch (frame) with its nuclei, and the first features "
        "by group."
    )
    groups = values[shown["feature"].tolist()].assign(label=labels).reset_index()
    return Drawing(figure, shown, caption, {"patches": pd.concat(tables), "patients": groups})


def _patient_plate(
    run: Run, slide: Slide, group: str, feature: str
) -> tuple[PatientPlate, pd.DataFrame]:
    values = patch_values(run.nuclei(slide.slide_id), run.patches(slide.slide_id))
    patch = typical_patches(values, feature, count=1).to_dict("records")[0]
    title = f"patch {patch['patch_id']}"
    example, example_mpp = _example(run, slide, patch, feature=feature, title=title)
    own = values[values["image"] == patch["image"]]
    with run.open_image(slide.slide_id, patch["image"]) as image:
        thumbnail = image.thumbnail()
        plate = PatientPlate(
            title=f"{group}: {slide.patient}",
            thumbnail=thumbnail,
            level0_px_per_thumb_px=max(image.width, image.height) / max(thumbnail.shape[:2]),
            mpp=image.mpp,
            patches=own,
            values=own[feature].to_numpy(float),
            example=example,
            example_mpp=example_mpp,
            example_at=(patch["x_px"], patch["y_px"], patch["side_px"]),
        )
    return plate, own[["image", "patch_id", "x_px", "y_px", "side_px", "nuclei", feature]]


def _attention(run: Run) -> Drawing:
    models = image_models(run)
    if not models:
        raise AbsentError(
            f"no image model has said where it looks; run: morphomil train {run.path} --model "
            "dl-cnb, then morphomil "
            f"predict {run.path}"
        )
    tested, name = _scored(run), models[0]
    own = tested[(tested["model"] == name) & (tested["label"] == tested["label"].max())]
    patient = typical_patient(own.rename(columns={"score": "probability"}))
    table = attended_patches(run, name, patient)
    if table.empty:
        raise AbsentError(
            f"{name} has no attention stored for patient {patient}; run: morphomil "
            f"predict {run.path}"
        )
    slide = run.slide(str(table["slide_id"].iloc[0]))
    table = table[table["image"] == table["image"].iloc[0]].reset_index(drop=True)
    frame = run.masks(slide.slide_id)[int(table["region"].iloc[0])].frame
    with run.open_image(slide.slide_id, int(table["image"].iloc[0])) as image:
        thumbnail = image.thumbnail()
        top = [
            ScoredPatch(
                frame.read_patch(image, p.x_px, p.y_px),
                f"{number}  patch {p.patch_id}: {p.relative_attention:.2g} x",
            )
            for number, p in enumerate(table.head(TOP_PATCHES).itertuples(), start=1)
        ]
        figure = attention_plate(
            thumbnail,
            table,
            top,
            top_mpp=frame.mpp,
            level0_px_per_thumb_px=max(image.width, image.height) / max(thumbnail.shape[:2]),
            mpp=image.mpp,
            regions=image_regions(run, slide.slide_id, int(table["image"].iloc[0])),
            title=f"{slide.slide_id} ({slide.label}): {model_name(name)}",
        )
    columns = [
        "slide_id",
        "image",
        "patch_id",
        "fold",
        "x_px",
        "y_px",
        "side_px",
        "attention",
        "relative_attention",
    ]
    caption = (
        f"Attention of {model_name(name)} on the slide of the patient whose probability is the "
        "median of the group "
        f"{slide.label}, by the model that did not see the patient; framed and below: the patches "
        "with most of it. "
        "Attention is evidence of what the model weighted, no explanation."
    )
    return Drawing(figure, table[columns], caption)


def _alongside(run: Run, stem: str) -> pd.DataFrame:
    path = run.alongside_folder / f"{stem}.csv"
    if not path.is_file():
        raise AbsentError(
            "the image model's attention isn't set beside the nuclei yet; run: "
            f"morphomil predict {run.path} --model dl-cnb, then morphomil compare {run.path}"
        )
    return pd.read_csv(path, dtype={"slide_id": str, "patient": str})


def _morphology(run: Run) -> Drawing:
    table = _alongside(run, "morphology_of_attention")
    caption = (
        "What the image models look at, in terms of nuclei: Spearman correlation between patches "
        "inside each slide, of "
        "the model's evidence with the patch's nuclear features, pooled over test patients (95 % "
        "interval). Filled "
        "markers: p below 0.05 after Holm's adjustment over the features."
    )
    return Drawing(morphology_plot(table), table, caption)


def _patches(run: Run) -> Drawing:
    table = _alongside(run, "patches_of_attention")
    slide, _ = _typical(run)[-1]
    own = table[(table["slide_id"] == slide.slide_id) & (table["model"] == table["model"].iloc[0])]
    if own.empty:
        raise AbsentError(f"slide {slide.slide_id} has no patches scored by an image model")
    names = [name.removesuffix("_z") for name in own if str(name).endswith("_z")]
    title = f"{slide.slide_id}: {model_name(str(own['model'].iloc[0]))}"
    caption = (
        f"Patches of slide {slide.slide_id} with most and least attention, and how their nuclei "
        "differ from the "
        "slide's others, in robust standard deviations. All slides: "
        "alongside/patches_of_attention.csv."
    )
    return Drawing(patches_plot(own, names, title=title), own, caption)


FIGURES: dict[str, tuple[str, Callable[[Run], Drawing]]] = {
    "flow": ("Patient flow", _flow),
    "features_by_group": ("Features by group", _features_by_group),
    "ranking": ("Ranking of the features", _ranking),
    "ranking_evidence": ("Attention, Shapley values, ablation and stability", _ranking_evidence),
    "plate": ("Two typical patients and the first features", _plate),
    "nuclei": ("Nuclei colored by the first feature", _nuclei),
    "matrices": ("Histograms of the features by group", _matrices),
    "orientation": ("Orientation of nuclei by group", _orientation),
    "correlation": ("Correlation of the features", _correlation),
    "roc": ("ROC of the morphometry model", _roc),
    "roc_models": ("ROC of all models", _roc_models),
    "confusion": ("Confusion matrices", _confusion),
    "calibration": ("Calibration", _calibration),
    "decision": ("Decision curves", _decision),
    "subgroups": ("Subgroups", _subgroups),
    "attention": ("Where the image model looks", _attention),
    "morphology_of_attention": ("What the image model looks at, in terms of nuclei", _morphology),
    "patches_of_attention": ("Patches of most and least attention", _patches),
}
"""Figures by the name of their files: title, and how to draw it from a run."""
