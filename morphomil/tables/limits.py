"""What a run can't say: how many patients, what was left out, how well nuclei and features are
measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from morphomil.nuclei.quantities import feature_quantity
from morphomil.segment.reliability import read_accuracy, read_reliability, tuned_with
from morphomil.store import read_parquet
from morphomil.tables.flow import analyzed_tissue_mm2, say_share
from morphomil.tables.methods import describe_segmenter, normalized_slides, patch_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from morphomil.run.directory import Run

SCALED_BELOW = 0.8
"""Below this slope a feature's differences between groups are said to come out smaller."""


@dataclass(frozen=True)
class Limits:
    """What to know before a run's results are believed."""

    sentences: tuple[str, ...]
    reliability: pd.DataFrame
    """`segment.reliability.reliability_table` of the run's model, of the resolution nearest to the
    run's; no rows where it isn't known."""


def describe_limits(run: Run) -> Limits:
    """Patients per group, exclusions, tissue that was never analyzed, the segmenter's accuracy and
    each feature's reliability, as far as the run and its model know."""
    made = run.segmented_with()
    imported = made.get("model") == "imported"
    reliability = pd.DataFrame() if imported or not made else _reliability_of(run)
    said = [*_say_patients(run), *_say_tissue(run)]
    if imported:
        said.append(
            "Nuclei were found by another program; how well isn't known here. Compare some of them "
            "with annotated ones: morphomil evaluate-segmenter."
        )
    elif made:
        said += [*_say_stains(run, made), _say_accuracy(run, made), _say_reliability(reliability)]
    return Limits(tuple(said), reliability)


def _say_patients(run: Run) -> Iterator[str]:
    """Patients by group who were ranked (else measured), and who was left out."""
    slides = run.cohort.table().astype({"patient": str, "label": str})
    path = run.rank_folder / "predictions.parquet"
    if path.is_file():
        known = set(read_parquet(path)["patient"].astype(str))
    else:
        done = slides["slide_id"].isin(run.done("featurize"))
        known = set(slides.loc[done, "patient"])
    patients = slides.drop_duplicates("patient")
    kept = patients[patients["patient"].isin(known)]["label"].value_counts().sort_index()
    groups = ", ".join(f"{count:,} with {label}" for label, count in kept.items())
    smallest = int(kept.min()) if len(kept) else 0
    few = " Intervals of so few are wide." if 0 < smallest < 30 else ""
    yield f"Patients: {groups or 'none'}.{few}"
    lost = run.losses("featurize")
    gone = patients[~patients["patient"].isin(known)]["label"].value_counts().sort_index()
    if not lost and gone.empty:
        yield "Left out: no slide and no patient of the manifest."
        return
    listed = ", ".join(f"{count:,} with {label}" for label, count in gone.items())
    yield (
        f"Left out: {len(lost):,} of {len(slides):,} slides, {gone.sum():,} of {len(patients):,} "
        f"patients{f' ({listed})' if listed else ''}."
    )


def _say_tissue(run: Run) -> Iterator[str]:
    held, tissue = analyzed_tissue_mm2(run)
    if tissue <= 0:
        return
    settings = patch_settings(run)
    other = "" if settings.grid == "fit" else "; --grid fit loses less"
    yield (
        f"Never analyzed: {say_share(tissue - held, tissue)} of the tissue in the regions "
        f"({tissue - held:,.1f} of {tissue:,.1f} mm²). It lies in patches with "
        f"{100 * settings.max_blank:g} % or more blank area or {100 * settings.max_ink:g} % or "
        f"more ink{other}."
    )


def _say_stains(run: Run, made: dict[str, Any]) -> Iterator[str]:
    """Of how many slides of each group stains were normalized, where that was decided slide by
    slide."""
    slides = normalized_slides(run)
    if made.get("normalize_stain") != "auto" or not slides["normalized"].any():
        return
    groups = slides.groupby("label")["normalized"].agg(["sum", "size"])
    by_group = ", ".join(
        f"{some:,} of {many:,} with {label}" for label, some, many in groups.itertuples()
    )
    yield (
        f"Stains: unusual ones were normalized where the network was surer then: {by_group}. "
        "Groups that differ in this may differ in what it changes; --normalize-stain always treats "
        "all slides alike."
    )


def _say_accuracy(run: Run, made: dict[str, Any]) -> str:
    """Of the segmenter, on annotated images."""
    name = describe_segmenter(made, normalized=int(normalized_slides(run)["normalized"].sum()))
    table, evaluated = read_accuracy(str(made["model"]))
    if table.empty:
        return f"Segmenter: {name}. How accurate it is isn't stored with it."
    found = ", ".join(
        f"{row['group']} at {row['mpp']:g} µm per pixel PQ {row['pq']:.2f}, AJI {row['aji']:.2f}"
        for row in table.to_dict("records")
    )
    which = "annotated images" if evaluated else "the images that its thresholds were chosen with"
    known = sorted(set(tuned_with(str(made["model"]))) & set(table["group"])) if evaluated else []
    chosen = f" Of {', '.join(known)} they may be those that chose its thresholds." if known else ""
    return (
        f"Segmenter: {name}. On {which}: {found}.{chosen} On other tissues, stains and scanners it "
        "may do worse."
    )


def _reliability_of(run: Run) -> pd.DataFrame:
    """Rows of the resolution nearest to that of the run."""
    model = str(run.segmented_with()["model"])
    table = read_reliability(model)
    if table.empty:
        return table
    working = patch_settings(run).working_mpp
    nearest = min(table["mpp"].unique(), key=lambda mpp: abs(mpp - working))
    near: pd.DataFrame = table[table["mpp"] == nearest]
    return near.reset_index(drop=True)


def _say_reliability(table: pd.DataFrame) -> str:
    """On which images features were compared, and those whose differences come out smaller."""
    if table.empty:
        return (
            "How reliably each feature is measured isn't stored with the segmenter; annotated "
            "images tell: morphomil evaluate-segmenter --write-reliability."
        )
    sets = ", ".join(
        f"{group} ({own['images'].max():,} images)" for group, own in table.groupby("group")
    )
    slopes = table.groupby("feature", sort=False)["slope"].min()
    shrunk = slopes[slopes < SCALED_BELOW]
    listed = ", ".join(
        f"{feature_quantity(str(name)).name.lower()} (slope {slope:.2f})"
        for name, slope in shrunk.items()
    )
    said = f"Features were compared with annotated nuclei on {sets}, by the images' means."
    if shrunk.empty:
        return f"{said} No slope is below {SCALED_BELOW:g}."
    return f"{said} Differences come out smaller than they are in {listed}."
