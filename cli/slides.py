"""Commands that work slide by slide: segment, import-nuclei, featurize."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from morphomil.cli.cohorts import read_cohort
from morphomil.cli.messages import (
    describe_cost,
    end_if_failed,
    end_if_incomplete,
    note,
    say,
)
from morphomil.cli.options import (
    CovariatesOption,
    DistinctIdsOption,
    DropMissingOption,
    MppOption,
    OutOption,
    QuietOption,
    RunArgument,
    ShardOption,
    command_group,
    parse_families,
    parse_shard,
    with_settings,
)
from morphomil.cli.runs import FeaturesOption, say_losses
from morphomil.types import PatchSettings, SegmenterSettings, WhoseNuclei

if TYPE_CHECKING:
    from morphomil.pipeline.estimation import Estimate
    from morphomil.pipeline.execution import Shard, StageResult
    from morphomil.run.directory import Run
    from morphomil.types import Slide

commands = command_group()
ImportArgument = Annotated[
    Path,
    typer.Argument(
        help="Manifest as for segment; its column nuclei names files.", show_default=False
    ),
]
WAIT_S = 3600.0
"""So long one part of a run waits while another writes the cohort's tables."""
SHOWN_NAMES = 8
"""So many of the names that are unknown are listed."""
Origin = Literal["level0", "bounds"]
NucleiOption = Annotated[
    Path | None, typer.Option(help="Folder of files of nuclei, named like the slides' files.")
]
PlaneOption = Annotated[
    str | None,
    typer.Option(help="Of label images with several planes: nuclei, cells or a number from 0."),
]
CellsOption = Annotated[
    bool, typer.Option("--cells-as-nuclei", help="Take a cell's outline where it has no nucleus.")
]
OriginOption = Annotated[
    Origin | None,
    typer.Option(
        help="Where outlines begin: level0 (the canvas) or bounds (the scanned part); "
        "default: bounds for QuPath's detections, else level0."
    ),
]
TypeMapOption = Annotated[
    str,
    typer.Option(
        help="Types of nuclei by the files' classes: Tumor=epithelial,Immune cells=lymphocyte; "
        "usual names are known.",
        metavar="NAME=TYPE,...",
    ),
]
ClassifyOption = Annotated[
    bool,
    typer.Option("--classify", help="Tell the types that the files don't say from the pixels."),
]


@commands.command(epilog="Example: `morphomil segment cohort.csv --out run --mpp 0.5`")
@with_settings()
def segment(
    cohort: Annotated[
        Path,
        typer.Argument(help="Manifest (CSV or XLSX): slide, patient, label.", show_default=False),
    ],
    out: OutOption,
    mpp: MppOption = None,
    settings: PatchSettings = PatchSettings(),
    segmenter: SegmenterSettings = SegmenterSettings(),
    covariates: CovariatesOption = "",
    drop_missing: DropMissingOption = False,
    distinct_ids: DistinctIdsOption = False,
    shard: ShardOption = "1/1",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only estimate time and disk; write nothing.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Find the nuclei in the tumor patches of every slide."""
    from morphomil import pipeline
    from morphomil.cli.progress import Display
    from morphomil.pipeline.estimation import estimate_segment

    slides = read_cohort(
        cohort,
        covariates,
        run=out,
        mpp=mpp,
        drop_missing=drop_missing,
        distinct_ids=distinct_ids,
    )
    part = parse_shard(shard)
    if dry_run:
        estimate = estimate_segment(slides, out, settings=settings, mpp=mpp, segmenter=segmenter)
        _say_estimate(estimate, out)
        return
    missed: dict[str, str] = {}
    with Display(quiet=quiet) as display:
        run, result = pipeline.segment(
            slides,
            out,
            settings=settings,
            mpp=mpp,
            segmenter=segmenter,
            shard=part,
            progress=display,
            leave=partial(_leave, missed=missed),
        )
    _draw_overviews(run, part, missed, quiet=quiet)
    _say_left_out(run, quiet=quiet)
    _note_missed(missed)
    _finish(result)
    say(
        f"Masks of {len(slides)} slides: {out}/slides. Next: morphomil featurize {out}", quiet=quiet
    )


def _draw_overviews(run: Run, part: Shard, missed: dict[str, str], *, quiet: bool) -> None:
    """The pictures to look at first."""
    from morphomil.cli.progress import Display
    from morphomil.figures.report.overviews import draw_overviews

    with Display(quiet=quiet, terse=True) as display:
        draw_overviews(run, shard=part, missed=missed, progress=display)


def _note_missed(missed: dict[str, str]) -> None:
    """A line for each slide that there is no overview of."""
    for name, cause in missed.items():
        note(f"No overview of {name}: {cause}")


def _say_left_out(run: Run, *, quiet: bool) -> None:
    """A line for each class of annotated objects that no region holds, and one on the tissue of the
    regions that no kept patch holds."""
    from morphomil.pipeline.segmentation import left_out_of_annotations
    from morphomil.tables.flow import analyzed_tissue_mm2, say_share
    from morphomil.tables.methods import patch_settings

    for (name, reason), count in sorted(left_out_of_annotations(run).items()):
        say(f"Annotations, left out: {count:,} x {name or '(no class)'}, {reason}.", quiet=quiet)
    held, tissue = analyzed_tissue_mm2(run)
    if tissue > held:
        less = "" if patch_settings(run).grid == "fit" else " (--grid fit loses less)"
        say(
            f"Not analyzed: {say_share(tissue - held, tissue)} of the regions' tissue, in patches "
            f"that are dropped{less}.",
            quiet=quiet,
        )


def _say_estimate(estimate: Estimate, out: Path) -> None:
    say(
        f"{estimate.slides} slides, about {estimate.kept:,} patches with enough tissue and "
        f"{estimate.nuclei:,} nuclei (from the regions of {estimate.sampled} slides). Nothing was "
        "written."
    )
    for stage, cost in estimate.costs.items():
        say(f"{stage}: {describe_cost(cost)}.")
    say(f"{estimate.disk_bytes / 2**20:,.0f} MiB in {out}.")
    if estimate.disk_bytes > estimate.free_bytes:
        say(f"Only {estimate.free_bytes / 2**20:,.0f} MiB are free there.")
    end_if_failed(estimate.problems, "slides can't be read")


@commands.command(
    name="import-nuclei",
    epilog="Example: `morphomil import-nuclei cohort.csv --nuclei labels --out run`",
)
@with_settings(working_mpp="um per pixel to cut and measure patches at.")
def import_nuclei(
    cohort: ImportArgument,
    out: OutOption,
    nuclei: NucleiOption = None,
    plane: PlaneOption = None,
    cells_as_nuclei: CellsOption = False,
    origin: OriginOption = None,
    type_map: TypeMapOption = "",
    classify: ClassifyOption = False,
    mpp: MppOption = None,
    settings: PatchSettings = PatchSettings(),
    covariates: CovariatesOption = "",
    drop_missing: DropMissingOption = False,
    distinct_ids: DistinctIdsOption = False,
    shard: ShardOption = "1/1",
    quiet: QuietOption = False,
) -> None:
    """Take nuclei that another program found (QuPath, CellViT, HoVer-Net, Cellpose, ...) instead of
    segmenting."""
    from morphomil.cli.progress import Display
    from morphomil.cohort.manifest import read_paths
    from morphomil.pipeline import importing
    from morphomil.slides.nuclei_files import Reading
    from morphomil.slides.nuclei_files.type_map import parse_type_map

    types, part = parse_type_map(type_map), parse_shard(shard)
    slides = read_cohort(
        cohort,
        covariates,
        run=out,
        mpp=mpp,
        drop_missing=drop_missing,
        distinct_ids=distinct_ids,
        elsewhere=("nuclei",),
    )
    files = importing.find_files(slides, nuclei) if nuclei else read_paths(cohort, "nuclei")
    missed: dict[str, str] = {}
    with Display(quiet=quiet) as display:
        run, result = importing.import_nuclei(
            slides,
            files,
            out,
            settings=settings,
            mpp=mpp,
            reading=Reading(plane, cells_as_nuclei, origin),
            type_map=types,
            classify=SegmenterSettings() if classify else None,
            shard=part,
            progress=display,
            leave=partial(_leave, missed=missed),
        )
    _draw_overviews(run, part, missed, quiet=quiet)
    _say_left_out(run, quiet=quiet)
    _say_nuclei(run, quiet=quiet)
    _note_missed(missed)
    _finish(result)
    say(
        f"Masks of {len(slides)} slides: {out}/slides. Next: morphomil featurize {out}", quiet=quiet
    )


def _say_nuclei(run: Run, *, quiet: bool) -> None:
    """A line when nuclei were dropped because of their size, and when the files' classes stand for
    no type."""
    from morphomil.pipeline.importing import unmapped_types
    from morphomil.slides.masks import MIN_AREA_UM2

    table = run.figures("segment")
    small = int(table["nuclei_too_small"].sum()) if "nuclei_too_small" in table else 0
    if small:
        say(f"Dropped, as smaller than {MIN_AREA_UM2:g} um2: {small:,} nuclei.", quiet=quiet)
    if counts := unmapped_types(run):
        listed = ", ".join(f"{name} ({count:,})" for name, count in counts.most_common(SHOWN_NAMES))
        more = f" and {len(counts) - SHOWN_NAMES} others" if len(counts) > SHOWN_NAMES else ""
        note(
            f"{counts.total():,} nuclei are of no type, since their classes stand for none: "
            f"{listed}{more}; name them with --type-map, as in "
            f"--type-map '{next(iter(counts))}=epithelial'."
        )


@commands.command(epilog="Example: `morphomil featurize run --nuclei epithelial --features +type`")
def featurize(
    path: RunArgument,
    nuclei: Annotated[
        WhoseNuclei, typer.Option(help="Whose nuclei make the matrices; densities count all.")
    ] = "all",
    features: Annotated[
        str, typer.Option(help="Families of features to add: +type, of the types of nuclei.")
    ] = "",
    features_from: FeaturesOption = None,
    shard: ShardOption = "1/1",
    quiet: QuietOption = False,
) -> None:
    """Measure every nucleus and count the histograms of every patch."""
    from morphomil import pipeline
    from morphomil.cli.progress import Display
    from morphomil.nuclei.feature_files import load_features
    from morphomil.run.directory import Run

    part, families = parse_shard(shard), parse_families(features)
    if features_from is not None:
        load_features(features_from)
    with Display(quiet=quiet) as display:
        run = Run.open(path)
        result = pipeline.featurize(
            run,
            nuclei=nuclei,
            families=families,
            shard=part,
            progress=display,
            on_estimate=lambda cost: say(f"It will take {describe_cost(cost)}.", quiet=quiet),
        )
    say_losses(run, "segment", quiet=quiet)
    if part.plan is None:
        write_cohort_tables(run)
    _finish(result)
    say(f"Nuclei tables: {path}/slides/*/nuclei.parquet. Next: morphomil rank {path}", quiet=quiet)


def _leave(run: Run, slide: Slide, *, missed: dict[str, str]) -> None:
    """What later commands would need the pixels of a slide elsewhere for, while a copy is there."""
    from morphomil.figures.report.overviews import draw_slide
    from morphomil.tables.quality import keep_measures

    draw_slide(run, slide, missed=missed)
    keep_measures(run, slide)


def write_cohort_tables(run: Run) -> None:
    """What is plausible, and of which types: once every slide is measured, be it in parts, by who
    measured the last one; parts of a plan leave it to `morphomil cluster gather`."""
    from morphomil.run.claims import Part
    from morphomil.tables.quality import write_quality
    from morphomil.tables.types import write_types

    measured = run.figures("featurize").set_index("slide_id")["state"]
    if (measured[run.done("segment")] == "missing").any():
        return
    with run.lock(Part("tables"), wait=WAIT_S):
        for sentence in write_quality(run)[1]:
            note(sentence)
        write_types(run)


def _finish(result: StageResult) -> None:
    end_if_incomplete(result.failed, result.empty)
