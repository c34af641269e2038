"""`morphomil`: one command per stage. Every heavy import waits until its command runs."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from morphomil.errors import ExitStatus, InputError, MorphomilError
from morphomil.types import PatchSettings, SegmenterSettings

if TYPE_CHECKING:
    from morphomil.pipeline.execution import Shard, StageResult
    from morphomil.types import Cohort

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Which nuclear morphology goes with an outcome, how sure are we, and is that what the "
    "image model sees?",
    epilog="Exit status: 0 done; 1 internal error; 2 unusable input; 3 some slides or folds "
    "failed; "
    "4 refused (leakage, or statistics that can't be had); 5 run directory busy; 130 interrupted.",
)

OutOption = Annotated[
    Path, typer.Option("--out", "-o", help="Run directory, made or gone on with.")
]
RunArgument = Annotated[
    Path, typer.Argument(help="Run directory of `morphomil segment`.", show_default=False)
]
ModelOption = Annotated[
    str,
    typer.Option(
        help="default, a model folder (of train-segmenter or StarDist), or a "
        "StarDist pretrained name."
    ),
]
NormalizeOption = Annotated[
    Literal["unit", "percentile"] | None,
    typer.Option(help="Pixel values for the model; default: its own way."),
]
EngineOption = Annotated[
    Literal["openvino", "tensorflow"],
    typer.Option(help="openvino: fast on CPUs; tensorflow: the reference, GPUs."),
]
PrecisionOption = Annotated[
    Literal["auto", "float32", "bfloat16", "int8"],
    typer.Option(help="Of openvino; auto: int8 with the shipped weights."),
]
AccurateOption = Annotated[
    bool, typer.Option("--accurate", help="Average four mirrored predictions; 4 x the time.")
]
StainOption = Annotated[
    bool,
    typer.Option(
        "--normalize-stain", help="Bring hematoxylin and eosin to a reference first (Macenko)."
    ),
]
RootOption = Annotated[
    Path | None, typer.Option(help="Folder that the table's paths start from; default: its own.")
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only problems and where the results are.")
]
ShardOption = Annotated[
    str, typer.Option(help="Work on part i of n, as in 2/8, for job arrays.", metavar="i/n")
]


def run() -> NoReturn:
    """The entry point: errors become one sentence and the documented exit status."""
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        app()
    except MorphomilError as error:
        if debug:
            raise
        fail(str(error), error.exit_status)
    except OSError as error:
        if debug:
            raise
        fail(
            f"{error}; what is finished is kept, and the same command goes on from there",
            ExitStatus.INTERNAL_ERROR,
        )
    except Interrupted:
        fail("interrupted; the same command goes on where it stopped", ExitStatus.INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        fail(
            f"internal error, please report it: {type(error).__name__}: {error} (--debug shows "
            "where)",
            ExitStatus.INTERNAL_ERROR,
        )
    sys.exit(0)


class Interrupted(BaseException):
    """The user or the machine wants an end; no KeyboardInterrupt, which Typer ends the program on
    without a word."""


def _interrupt(_signal: int, _frame: Any) -> NoReturn:
    raise Interrupted


def fail(message: str, status: ExitStatus) -> NoReturn:
    """Print a problem and leave."""
    from rich.console import Console
    from rich.markup import escape

    Console(stderr=True, highlight=False).print(
        f"[bold red]morphomil:[/] {escape(message)}", soft_wrap=True
    )
    sys.exit(status)


def say(message: str, *, quiet: bool = False) -> None:
    """Print a line of results."""
    if not quiet:
        typer.echo(message)


@app.command(epilog="Example: `morphomil segment cohort.csv --out run --mpp 0.5`")
def segment(
    cohort: Annotated[
        Path,
        typer.Argument(help="Manifest (CSV or XLSX): slide, patient, label.", show_default=False),
    ],
    out: OutOption,
    mpp: Annotated[
        float | None, typer.Option(help="um per level-0 pixel where file and manifest don't say.")
    ] = None,
    working_mpp: Annotated[
        float, typer.Option(help="um per pixel to cut and segment patches at.")
    ] = 0.5,
    patch: Annotated[int, typer.Option(help="Side of a patch, working pixels.")] = 256,
    max_blank: Annotated[
        float, typer.Option(help="Drop patches with this blank share or more.")
    ] = 0.3,
    max_ink: Annotated[
        float, typer.Option(help="Drop patches with this share of ink, or more.")
    ] = 0.1,
    regions: Annotated[
        Literal["auto", "annotation", "white", "tissue", "whole"],
        typer.Option(help="Where the tumor is."),
    ] = "auto",
    model: ModelOption = "default",
    normalize: NormalizeOption = None,
    engine: EngineOption = "openvino",
    precision: PrecisionOption = "auto",
    accurate: AccurateOption = False,
    normalize_stain: StainOption = False,
    covariates: Annotated[
        str, typer.Option(help="Further columns of the manifest to keep, comma-separated.")
    ] = "",
    drop_missing: Annotated[
        bool, typer.Option(help="Leave out rows without a label instead of refusing.")
    ] = False,
    shard: ShardOption = "1/1",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only estimate time and disk; write nothing.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Find the nuclei in the tumor patches of every slide."""
    settings = PatchSettings(
        working_mpp=working_mpp,
        patch_px=patch,
        max_blank=max_blank,
        max_ink=max_ink,
        regions=regions,
    )
    slides = _read_cohort(cohort, covariates, mpp=mpp, drop_missing=drop_missing)
    segmenter = SegmenterSettings(model, normalize, engine, precision, accurate, normalize_stain)
    if dry_run:
        _estimate(slides, out, settings=settings, mpp=mpp, segmenter=segmenter)
        return
    _finish(
        _segment(
            slides,
            out,
            settings=settings,
            mpp=mpp,
            segmenter=segmenter,
            shard=_shard(shard),
            quiet=quiet,
        )
    )
    say(
        f"Masks of {len(slides)} slides: {out}/slides. Next: morphomil featurize {out}", quiet=quiet
    )


def _estimate(cohort: Cohort, out: Path, **options: Any) -> None:
    from morphomil.doctor import estimate_segment

    found = estimate_segment(cohort, out, **options)
    minutes = found.seconds / 60
    span = (
        f"{found.seconds:.0f} s"
        if minutes < 2
        else f"{minutes:.0f} min"
        if minutes < 100
        else f"{minutes / 60:.1f} h"
    )
    say(
        f"{found.slides} slides, about {found.patches:,} patches (from the regions of "
        f"{found.sampled} slides)."
    )
    say(
        f"About {span} on this machine alone, {found.disk_bytes / 2**20:,.0f} MiB in {out}; "
        "nothing was written."
    )
    if found.disk_bytes > found.free_bytes:
        say(f"Only {found.free_bytes / 2**20:,.0f} MiB are free there.")
    _finish_failed(found.problems, "can't be read")


def _segment(cohort: Cohort, out: Path, *, quiet: bool, **options: Any) -> StageResult:
    from morphomil import pipeline
    from morphomil.cli.progress import Display
    from morphomil.figures.run import draw_overviews

    with Display(quiet=quiet) as display:
        run_directory, result = pipeline.segment(cohort, out, progress=display, **options)
        draw_overviews(run_directory)
    return result


@app.command(
    name="import-nuclei",
    epilog="Example: `morphomil import-nuclei cohort.csv --nuclei labels --out run`",
)
def import_nuclei(
    cohort: Annotated[
        Path,
        typer.Argument(
            help="Manifest as for segment; its column nuclei names files.", show_default=False
        ),
    ],
    out: OutOption,
    nuclei: Annotated[
        Path | None,
        typer.Option(help="Folder of label images or GeoJSON named like the slides' files."),
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="um per level-0 pixel where file and manifest don't say.")
    ] = None,
    working_mpp: Annotated[
        float, typer.Option(help="um per pixel to cut and measure patches at.")
    ] = 0.5,
    patch: Annotated[int, typer.Option(help="Side of a patch, working pixels.")] = 256,
    max_blank: Annotated[
        float, typer.Option(help="Drop patches with this blank share or more.")
    ] = 0.3,
    max_ink: Annotated[
        float, typer.Option(help="Drop patches with this share of ink, or more.")
    ] = 0.1,
    regions: Annotated[
        Literal["auto", "annotation", "white", "tissue", "whole"],
        typer.Option(help="Where the tumor is."),
    ] = "auto",
    covariates: Annotated[
        str, typer.Option(help="Further columns of the manifest to keep, comma-separated.")
    ] = "",
    drop_missing: Annotated[
        bool, typer.Option(help="Leave out rows without a label instead of refusing.")
    ] = False,
    shard: ShardOption = "1/1",
    quiet: QuietOption = False,
) -> None:
    """Take nuclei that another program found (label images, QuPath GeoJSON) instead of
    segmenting."""
    from morphomil.cli.progress import Display
    from morphomil.cohort.manifest import read_paths
    from morphomil.figures.run import draw_overviews
    from morphomil.pipeline.importing import find_files
    from morphomil.pipeline.importing import import_nuclei as work

    settings = PatchSettings(
        working_mpp=working_mpp,
        patch_px=patch,
        max_blank=max_blank,
        max_ink=max_ink,
        regions=regions,
    )
    slides = _read_cohort(
        cohort, covariates, mpp=mpp, drop_missing=drop_missing, elsewhere=("nuclei",)
    )
    files = find_files(slides, nuclei) if nuclei else read_paths(cohort, "nuclei")
    with Display(quiet=quiet) as display:
        run_directory, result = work(
            slides, files, out, settings=settings, mpp=mpp, shard=_shard(shard), progress=display
        )
        draw_overviews(run_directory)
    _finish(result)
    say(
        f"Masks of {len(slides)} slides: {out}/slides. Next: morphomil featurize {out}", quiet=quiet
    )


@app.command(epilog="Example: `morphomil featurize run`")
def featurize(path: RunArgument, shard: ShardOption = "1/1", quiet: QuietOption = False) -> None:
    """Measure every nucleus and count the histograms of every patch."""
    _finish(_featurize(path, shard=_shard(shard), quiet=quiet))
    say(f"Nuclei tables: {path}/slides/*/nuclei.parquet. Next: morphomil rank {path}", quiet=quiet)


def _featurize(path: Path, *, shard: Shard, quiet: bool) -> StageResult:
    from morphomil import pipeline
    from morphomil.cli.progress import Display
    from morphomil.run.directory import Run

    with Display(quiet=quiet) as display:
        return pipeline.featurize(Run.open(path), shard=shard, progress=display)


@app.command(
    epilog="Example: `morphomil embed run --backbone vgg16_bn --weights vgg16_bn.pth --pool max`"
)
def embed(
    path: RunArgument,
    backbone: Annotated[
        str,
        typer.Option(
            help="efficientnet-lite0 (no download), alexnet, vgg16_bn, resnet50, "
            "densenet121, inception_v3."
        ),
    ] = "efficientnet-lite0",
    weights: Annotated[
        Path | None,
        typer.Option(
            help="The backbone's weights (.pth or .safetensors), where there is no network."
        ),
    ] = None,
    pool: Annotated[
        Literal["own", "max", "mean"],
        typer.Option(help="Of the last maps; own: flattened or averaged, as trained."),
    ] = "own",
    size: Annotated[int, typer.Option(help="Patches are resized to this side: 256 or 224.")] = 256,
    keep_outside: Annotated[
        bool,
        typer.Option(
            "--keep-outside", help="Don't paint white what lies outside the tumor region."
        ),
    ] = False,
    encoder: Annotated[
        str | None,
        typer.Option(help="Your own: FILE.py:FUNCTION, (n, side, side, 3) uint8 to (n, F)."),
    ] = None,
    shard: ShardOption = "1/1",
    quiet: QuietOption = False,
) -> None:
    """Turn every kept patch into the deep features that the image model learns from."""
    from morphomil import pipeline
    from morphomil.cli.progress import Display
    from morphomil.image_model.backbones import load_function
    from morphomil.run.directory import Run
    from morphomil.run.embeddings import embedded_backbones
    from morphomil.types import EmbedSettings

    settings = EmbedSettings(backbone, size, pool, "keep" if keep_outside else "white")
    run = Run.open(path)
    with Display(quiet=quiet) as display:
        made, result = pipeline.embed(
            run,
            settings=settings,
            weights=weights,
            encoder=load_function(encoder) if encoder else None,
            shard=_shard(shard),
            progress=display,
        )
    _finish(result)
    row = embedded_backbones(run).set_index("backbone").loc[made.backbone]
    say(
        f"{row['features']:,} features and {row['bytes_per_patch'] / 1024:.1f} KiB a patch.",
        quiet=quiet,
    )
    say(
        f"Features: {path}/embeddings/{made.backbone}. Next: morphomil train {path} --model dl-cnb",
        quiet=quiet,
    )


SPLIT_HELP = (
    "auto: the manifest's split, else k-fold; holdout: 4:1, then 3:1; site: each site by the "
    "others."
)


@app.command(epilog="Example: `morphomil train run --model dl-cnb --positive N+`")
def train(
    path: RunArgument,
    model: Annotated[
        Literal["clinical", "dl-cnb", "dl-cnb+c", "morphometry+clinical"],
        typer.Option(help="What is trained."),
    ],
    preset: Annotated[
        Literal["default", "paper", "released-code"], typer.Option(help="Of the image model.")
    ] = "default",
    backbone: Annotated[
        str, typer.Option(help="Features to learn from; default: what `morphomil embed` made.")
    ] = "",
    finetune: Annotated[
        bool,
        typer.Option(
            "--finetune",
            help="Let the backbone of these features learn too: slow, best with a GPU.",
        ),
    ] = False,
    weights: Annotated[
        Path | None, typer.Option(help="Of the backbone, where `embed` was given some.")
    ] = None,
    covariates: Annotated[
        str, typer.Option(help="Of the clinical models, comma-separated; default: all.")
    ] = "",
    positive: Annotated[
        str | None, typer.Option(help="The label that counts as positive (1 where labels are 0/1).")
    ] = None,
    split: Annotated[
        Literal["auto", "kfold", "holdout", "site"], typer.Option(help=SPLIT_HELP)
    ] = "auto",
    folds: Annotated[int, typer.Option(help="Of the cross-validation.", min=2)] = 5,
    bags: Annotated[
        Literal["ten", "all"] | None,
        typer.Option(help="Bags of ten patches, or all of a slide's patches as one."),
    ] = None,
    redraw: Annotated[
        bool | None,
        typer.Option(
            "--redraw/--fixed", help="Draw the training bags anew in every epoch, or once."
        ),
    ] = None,
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Give classes, instead of patients, the same weight.")
    ] = False,
    pool: Annotated[Literal["mean", "max"] | None, typer.Option(help="Of a slide's bags.")] = None,
    epochs: Annotated[int | None, typer.Option(help="At most.", min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Instead of the preset's.")] = None,
    seed: Annotated[int, typer.Option(help="Of folds, bags, weights.", min=0)] = 0,
    quiet: QuietOption = False,
) -> None:
    """Train the clinical model or the image model, with or without clinical covariates."""
    from morphomil import pipeline
    from morphomil.cli.progress import Display
    from morphomil.models.fits import FitSettings
    from morphomil.run.directory import Run

    changes: dict[str, Any] = {
        "redraw": redraw,
        "pool": pool,
        "epochs": epochs,
        "learning_rate": learning_rate,
    }
    changes |= {
        "bag_size": None if bags is None else {"ten": 10, "all": 0}[bags],
        "balanced": balanced or None,
    }
    settings = FitSettings(
        model,
        preset=preset,
        changes={name: value for name, value in changes.items() if value is not None},
        backbone=backbone,
        finetune=finetune,
        weights=str(weights or ""),
        covariates=tuple(name.strip() for name in covariates.split(",") if name.strip()),
        split=split,
        folds=folds,
        positive=positive,
        seed=seed,
    )
    with Display(quiet=quiet) as display:
        result = pipeline.train(Run.open(path), settings, progress=display)
    for note in result.notes:
        say(note, quiet=quiet)
    say(
        f"Model: {path}/models/{model}. Next: morphomil predict {path} --model {model}", quiet=quiet
    )
    if result.failed:
        causes = "".join(f"\n- {fold}: {cause}" for fold, cause in result.failed.items())
        fail(
            f"{len(result.failed)} folds failed, the others are done:{causes}",
            ExitStatus.SOME_FAILED,
        )


@app.command(epilog="Example: `morphomil predict run --model dl-cnb`")
def predict(
    path: RunArgument,
    model: Annotated[
        str | None,
        typer.Option(help="As `morphomil train` names it; default: all that are trained."),
    ] = None,
    model_from: Annotated[
        Path | None,
        typer.Option(help="Another run, whose trained model scores all patients of this one."),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Score the test patients of trained models, once, or an external cohort: every scoring is
    logged."""
    from morphomil import pipeline
    from morphomil.models.fits import describe_test, trained_models
    from morphomil.run.directory import Run

    run = Run.open(path)
    origin = Run.open(model_from) if model_from else None
    names = [model] if model else trained_models(origin or run)
    if not names:
        trained = model_from or path
        raise InputError(
            f"{trained} has no trained models; run: morphomil train {trained} --model dl-cnb"
        )
    for name in names:
        scoring = pipeline.predict(run, name, origin=origin)
        for note in scoring.notes:
            typer.echo(note, err=True)
        say(f"{name}: {describe_test(run, name)}", quiet=quiet)
        say(f"Predictions: {path}/models/{name}/predictions.parquet", quiet=quiet)


@app.command(epilog="Example: `morphomil heatmap run --model dl-cnb --slide P001`")
def heatmap(
    path: RunArgument,
    model: Annotated[str, typer.Option(help="dl-cnb or dl-cnb+c.")] = "dl-cnb",
    slide: Annotated[
        list[str] | None, typer.Option(help="Only this slide; may be given several times.")
    ] = None,
    overlap: Annotated[
        float,
        typer.Option(
            help="Attention on a finer grid: windows that share this part of "
            "their side (0.5, 0.75)."
        ),
    ] = 0.0,
    weights: Annotated[
        Path | None, typer.Option(help="Of the backbone, for --overlap, if `embed` had some.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Draw where the image model looks on every slide, and what its prediction rests on."""
    from morphomil import pipeline
    from morphomil.figures.maps import draw_map
    from morphomil.run.directory import Run

    run = Run.open(path)
    for found in pipeline.heatmap(run, model, slide or (), overlap=overlap, weights=weights):
        draw_map(run, model, found)
        say(f"{found.slide_id}: probability {found.probability:.3f} ({found.fold})", quiet=quiet)
    say(f"Maps: {path}/figures/models/{model}; patch scores for QuPath: {path}/models/{model}/maps")


@app.command(epilog="Example: `morphomil rank run --positive N+`")
def rank(
    path: RunArgument,
    positive: Annotated[
        str | None, typer.Option(help="The label that counts as positive (1 where labels are 0/1).")
    ] = None,
    folds: Annotated[
        int, typer.Option(help="Cross-validation folds, where the manifest gives no split.", min=2)
    ] = 5,
    seed: Annotated[int, typer.Option(help="Seed of folds, bags and training.")] = 0,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Attention and Shapley values only: one training per fold."),
    ] = False,
    permutations: Annotated[
        int, typer.Option(help="Trainings with permuted labels, for p values.", min=0)
    ] = 199,
    quiet: QuietOption = False,
) -> None:
    """Rank the features by attention and Shapley value in a model that sees only them, with effect
    sizes and tests."""
    _rank(
        path,
        positive=positive,
        folds=folds,
        seed=seed,
        quick=quick,
        permutations=permutations,
        quiet=quiet,
    )
    say(f"Ranking: {path}/rank/ranking.csv. Next: morphomil report {path}", quiet=quiet)


def _rank(path: Path, *, quiet: bool, **options: Any) -> None:
    from morphomil import pipeline
    from morphomil.cli.progress import Display
    from morphomil.run.directory import Run

    with Display(quiet=quiet) as display:
        ranking = pipeline.rank(
            Run.open(path),
            progress=display,
            on_estimate=lambda seconds: say(
                f"Training will take about {_say_duration(seconds)}.", quiet=quiet
            ),
            **options,
        )
    for note in ranking.notes:
        say(note, quiet=quiet)
    say(ranking.statement, quiet=quiet)
    columns = [
        "rank",
        "feature",
        "attention",
        "shapley_auc",
        "shapley_p_any",
        "ablation_auc",
        "direction",
    ]
    columns += ["cliffs_delta", "p_value", "p_holm", "p_bh"]
    shown = ranking.table[[name for name in columns if name in ranking.table]]
    say(shown.to_string(index=False, float_format=lambda value: f"{value:.3g}"), quiet=quiet)
    if ranking.failed:
        causes = "".join(f"\n- {fold}: {cause}" for fold, cause in ranking.failed.items())
        fail(
            f"{len(ranking.failed)} folds failed, the ranking rests on the others:{causes}",
            ExitStatus.SOME_FAILED,
        )


def _say_duration(seconds: float) -> str:
    return f"{max(seconds, 1):.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


@app.command(epilog="Example: `morphomil figures run --style nature --format pdf`")
def figures(
    path: RunArgument,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Name of a figure, as its file is called; repeat for more."),
    ] = None,
    style: Annotated[
        Literal["plain", "nature", "frontiers"],
        typer.Option(help="Fonts and sizes that a journal asks for."),
    ] = "plain",
    formats: Annotated[
        str, typer.Option("--format", help="Of pdf, svg, png; commas between.")
    ] = "pdf,svg,png",
    quiet: QuietOption = False,
) -> None:
    """Draw the publication figures, each with a CSV of its numbers, into RUN/figures."""
    from morphomil.figures.registry import draw_figures
    from morphomil.figures.style import describe_font, parse_formats
    from morphomil.run.directory import Run

    run = Run.open(path)
    for outcome in draw_figures(run, only=only or (), look=style, formats=parse_formats(formats)):
        files = ", ".join(file.name for file in outcome.paths)
        say(f"{outcome.name}: {files or f'left out, {outcome.absent}'}", quiet=quiet)
    if note := describe_font(style):
        typer.echo(note, err=True)
    say(f"Figures: {run.figures_folder}", quiet=quiet)


@app.command(epilog="Example: `morphomil view run`")
def view(
    path: RunArgument,
    port: Annotated[int, typer.Option(help="0: any free one.", min=0, max=65535)] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in the web browser.")
    ] = True,
) -> None:
    """Browse the slides with deep zoom, heatmaps, patches and nuclear outlines; served to this
    machine only."""
    import webbrowser

    from morphomil.figures.viewer import LOOPBACK, make_server
    from morphomil.run.directory import Run

    with make_server(Run.open(path), port=port) as server:
        address = f"http://{LOOPBACK}:{server.server_port}/"
        say(f"Slides: {address} (this machine only; end with Ctrl-C)")
        if browser:
            webbrowser.open(address)
        try:
            server.serve_forever()
        except Interrupted:
            say("Ended.")


@app.command(epilog="Example: `morphomil report run`")
def report(path: RunArgument, quiet: QuietOption = False) -> None:
    """Draw the figures and write the report, one HTML file that opens offline."""
    from morphomil.figures.run import write_report
    from morphomil.run.directory import Run

    say(f"Report: {write_report(Run.open(path))}", quiet=quiet)


@app.command(epilog="Example: `morphomil compare run`")
def compare(path: RunArgument, quiet: QuietOption = False) -> None:
    """Write the paper's tables: characteristics, performance, DeLong's tests, subgroups; methods
    and a checklist."""
    from morphomil.run.directory import Run
    from morphomil.tables.attention import set_alongside
    from morphomil.tables.paper import compare as write_tables
    from morphomil.tables.paper import read_predictions

    run = Run.open(path)
    written = write_tables(run)
    say(f"Tables: {written[0].parent} ({', '.join(file.name for file in written)})", quiet=quiet)
    beside = set_alongside(run, read_predictions(run))
    if beside:
        say(
            f"Models side by side: {beside[0].parent} ({', '.join(file.name for file in beside)})",
            quiet=quiet,
        )


@app.command(epilog="Example: `morphomil export run --to qupath`")
def export(
    path: RunArgument,
    to: Annotated[
        Literal["qupath", "anndata", "trident", "clam", "csv"],
        typer.Option(help="Whose files to write."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder; default: RUN/export/FORMAT.")
    ] = None,
    slide: Annotated[
        list[str] | None, typer.Option(help="Only this slide; may be given several times.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Write the results for QuPath, scverse, TRIDENT, CLAM or a spreadsheet."""
    from morphomil.export import export_run
    from morphomil.run.directory import Run

    folder = out or path / "export" / to
    written = export_run(
        Run.open(path),
        to,
        out=folder,
        slides=slide or (),
        on_file=lambda file: say(
            f"{file.relative_to(folder)} ({file.stat().st_size:,} bytes)", quiet=quiet
        ),
    )
    say(f"{len(written)} files: {folder}")


@app.command(epilog="Example: `morphomil demo --out demo`")
def demo(
    out: OutOption = Path("demo"),
    slides: Annotated[int, typer.Option(min=10)] = 24,
    quiet: QuietOption = False,
) -> None:
    """Run the whole method on synthetic slides of which one feature differs by group."""
    manifest = _phantom(
        out / "cohort", slides=slides, effect="density_per_mm2", shift=2.5, seed=0, quiet=quiet
    )
    directory = out / "run"
    for words in (
        ["segment", manifest, "--out", directory],
        ["featurize", directory],
        ["rank", directory],
        ["report", directory],
    ):
        _run_command([str(word) for word in words], quiet=quiet)


def _run_command(words: list[str], *, quiet: bool) -> None:
    """Run a command in a process of its own: TensorFlow and torch don't share one."""
    import subprocess

    say(f"\n$ morphomil {' '.join(words)}", quiet=quiet)
    program = [sys.executable, "-c", "from morphomil.cli.main import run; run()"]
    done = subprocess.run([*program, *words, *(["--quiet"] if quiet else [])], check=False)
    if done.returncode:
        sys.exit(done.returncode)


@app.command(
    epilog="Example: `morphomil phantom --out phantoms --slides 24 --effect density_per_mm2`"
)
def phantom(
    out: OutOption,
    slides: Annotated[int, typer.Option(min=2)] = 24,
    effect: Annotated[
        str, typer.Option(help="The feature that differs by group; none for a null cohort.")
    ] = "density_per_mm2",
    shift: Annotated[
        float, typer.Option(help="Difference of the groups, in SDs between patients.")
    ] = 2.0,
    seed: int = 0,
    quiet: QuietOption = False,
) -> None:
    """Render synthetic H&E slides whose nuclei and group effect are known."""
    say(
        "Manifest: "
        f"{_phantom(out, slides=slides, effect=effect, shift=shift, seed=seed, quiet=quiet)}",
        quiet=quiet,
    )


def _phantom(out: Path, *, slides: int, effect: str, shift: float, seed: int, quiet: bool) -> Path:
    from morphomil.cli.progress import Display
    from morphomil.phantom.files import write_cohort

    with Display(quiet=quiet) as display:
        display.start("phantom", slides)
        return write_cohort(
            out,
            slides=slides,
            effect=effect,
            shift=shift,
            seed=seed,
            on_slide=lambda done, total: display.end(
                f"slide {done}", "done", f"rendered of {total}"
            ),
        )


@app.command(epilog="Example: `morphomil doctor --manifest cohort.csv`")
def doctor(
    manifest: Annotated[Path | None, typer.Option(help="Manifest to check too.")] = None,
    mpp: Annotated[
        float | None, typer.Option(help="um per level-0 pixel where file and manifest don't say.")
    ] = None,
    out: OutOption = Path("run"),
) -> None:
    """Check the installation: packages, weights, engines, GPUs, disk, and a manifest if one is
    given."""
    from morphomil.doctor import examine

    problems = 0
    for found in examine(out):
        problems += found.state == "problem"
        say(f"{found.state:<8} {found.topic:<12} {found.text}")
    if manifest:
        from morphomil.pipeline.segmentation import check_pixel_sizes

        cohort = _read_cohort(manifest, mpp=mpp)
        check_pixel_sizes(cohort, mpp)
        patients = len({slide.patient for slide in cohort.slides})
        say(f"{'ok':<8} {'manifest':<12} {len(cohort)} slides of {patients} patients")
    if problems:
        fail(f"{problems} problems were found", ExitStatus.INTERNAL_ERROR)
    say("No problems were found.")


@app.command(epilog="Example: `morphomil init project`")
def init(
    path: Annotated[
        Path, typer.Argument(help="Folder to make, or a single manifest (.csv) to write.")
    ] = Path("cohort.csv"),
) -> None:
    """Write an example manifest to fill in; in a folder also the settings and commands of an
    analysis."""
    from morphomil.cohort.example import EXAMPLE_COMMANDS, EXAMPLE_MANIFEST
    from morphomil.store import write_bytes

    single = path.suffix.lower() == ".csv"
    texts = {path: EXAMPLE_MANIFEST} if single else {}
    texts = texts or {path / "cohort.csv": EXAMPLE_MANIFEST, path / "analysis.sh": EXAMPLE_COMMANDS}
    if there := [str(file) for file in texts if file.exists()]:
        verb = "exists" if len(there) == 1 else "exist"
        raise InputError(
            f"{' and '.join(there)} {verb}; name another {'file' if single else 'folder'}"
        )
    for file, text in texts.items():
        write_bytes(file, text.encode())
    manifest = next(iter(texts))
    say(f"Example manifest: {manifest}. Replace its rows by your slides, then:")
    say(
        f"morphomil segment {path} --out run"
        if single
        else f"cd {path} && bash analysis.sh (settings at its head)"
    )


cohort_app = typer.Typer(
    no_args_is_help=True, help="Manifests from the folders of public data sets."
)
app.add_typer(cohort_app, name="cohort")


@cohort_app.command(
    epilog="Example: `morphomil cohort bcnb BCNB --task 0 --mpp 0.5 --out n0_vs_nplus.csv`"
)
def bcnb(
    folder: Annotated[
        Path, typer.Argument(help="Of the data set: slides and patient table, or patches and bags.")
    ],
    task: Annotated[
        int,
        typer.Option(
            help="0 N0/N+, 1 N+(1-2)/N+(>2), 2 three classes, 3 N0/N+(1-2), 4 N0/N+(>2).",
            min=0,
            max=4,
        ),
    ],
    mpp: Annotated[
        float, typer.Option(help="um per pixel, recorded nowhere; 0.5 is suggested: nominally 20x.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Manifest to write.")] = Path("bcnb.csv"),
    table: Annotated[
        Path | None, typer.Option(help="Patient table, where the folder holds several.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Turn the folders of the paper's public data set into a manifest."""
    from morphomil.cohort.bcnb import bcnb_manifest, write_bcnb_manifest

    made = bcnb_manifest(folder, task=task, mpp=mpp, table=table)
    for note in made.notes:
        typer.echo(note, err=True)
    path = write_bcnb_manifest(made, out)
    counts = made.table.drop_duplicates("patient")["label"].value_counts().sort_index()
    say(
        f"{path}: {', '.join(f'{count} {label}' for label, count in counts.items())} patients",
        quiet=quiet,
    )
    names = ",".join(made.covariates)
    say(
        f"Next: morphomil segment {path} --out run{f' --covariates {names}' if names else ''}",
        quiet=quiet,
    )
    say(
        f"Then --positive '{made.positive}' where a command asks which label is positive.",
        quiet=quiet,
    )


@app.command(
    name="train-segmenter",
    epilog="Example: `morphomil train-segmenter training.csv --root data --out model`",
)
def train_segmenter(
    table: Annotated[
        Path, typer.Argument(help="CSV: image, labels, mpp, split (train|val), optional group.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model folder.")],
    root: RootOption = None,
    start: Annotated[
        str,
        typer.Option(
            help="First weights: imagenet (encoder), default (the shipped model), "
            "random, or a folder."
        ),
    ] = "imagenet",
    epochs: Annotated[int, typer.Option(min=1)] = 48,
    steps: Annotated[int, typer.Option(help="Steps in an epoch.", min=1)] = 100,
    batch: Annotated[int, typer.Option(help="Patches in a step.", min=1)] = 8,
    learning_rate: Annotated[
        float, typer.Option(help="Of the decoder; the encoder learns at 0.3 of it.")
    ] = 1e-3,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted training in the folder.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Train the nucleus segmenter on annotated images and tune its thresholds."""
    from morphomil.cli.progress import Display
    from morphomil.segment.train import TrainSettings, train_from_table

    settings = TrainSettings(
        start=start,
        epochs=epochs,
        steps_per_epoch=steps,
        batch=batch,
        learning_rate=learning_rate,
        seed=seed,
    )
    with Display(quiet=quiet) as display:
        display.start("train", epochs)
        train_from_table(
            table,
            out,
            root=root,
            settings=settings,
            resume=resume,
            on_epoch=lambda epoch, figures: display.end(
                f"epoch {epoch + 1}",
                "done",
                f"loss {figures['loss']:.4f}, validation {figures['val_loss']:.4f}",
            ),
        )
    say(f"Model: {out}. Use it with: morphomil segment COHORT --out RUN --model {out}", quiet=quiet)


@app.command(
    name="evaluate-segmenter",
    epilog="Example: `morphomil evaluate-segmenter images.csv --root data --out evaluation`",
)
def evaluate_segmenter(
    table: Annotated[
        Path, typer.Argument(help="CSV: image, labels, mpp, optional group and split.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for tables and pictures.")],
    root: RootOption = None,
    split: Annotated[str, typer.Option(help="Only rows with this value of the column split.")] = "",
    model: ModelOption = "default",
    normalize: NormalizeOption = None,
    engine: EngineOption = "openvino",
    precision: PrecisionOption = "auto",
    accurate: AccurateOption = False,
    normalize_stain: StainOption = False,
    halve: Annotated[
        bool, typer.Option(help="Evaluate images finer than 0.35 um/px at half resolution too.")
    ] = True,
    quiet: QuietOption = False,
) -> None:
    """Measure how well a segmenter agrees with annotated nuclei: detection, outlines, and each
    feature's bias."""
    from morphomil.cli.progress import Display
    from morphomil.figures.segmentation import agreement_sheet, feature_bias_plot
    from morphomil.figures.style import save_figure
    from morphomil.segment.annotated import read_annotated, read_table
    from morphomil.segment.evaluate import evaluate_segmenter
    from morphomil.segment.model import load_segmenter
    from morphomil.store import write_table_csv

    rows = read_table(table, columns={"image", "labels", "mpp"} | ({"split"} if split else set()))
    if split:
        rows = rows[rows["split"] == split]
    if rows.empty:
        raise InputError(f"table {table} names no images{f' with split {split}' if split else ''}")
    images = read_annotated(rows, root or table.parent)
    choice = SegmenterSettings(model, normalize, engine, precision, accurate, normalize_stain)
    segmenter = load_segmenter(choice)
    with Display(quiet=quiet) as display:
        display.start("evaluate", len(images))
        result = evaluate_segmenter(
            images,
            segmenter,
            halve=halve,
            on_image=lambda name: display.end(name, "done", "compared"),
        )
    for name in ("images", "summary", "features"):
        write_table_csv(out / f"{name}.csv", getattr(result, name))
    if result.worst:
        save_figure(agreement_sheet([*result.worst, *result.best]), out / "tiles", formats=("png",))
    if result.features["relative_bias"].notna().any():
        save_figure(feature_bias_plot(result.features), out / "features", formats=("png", "pdf"))
    wide = result.summary.pivot_table(index=["group", "mpp"], columns="score", values="mean")
    shown = wide[["pq", "sq", "dq", "aji", "dice", "f1_0.7", "count_ratio"]].reset_index()
    say(shown.to_string(index=False, float_format="{:.3f}".format), quiet=quiet)
    say(f"Tables and pictures: {out}", quiet=quiet)


def _read_cohort(path: Path, covariates: str = "", **options: Any) -> Cohort:
    from morphomil.cohort.manifest import read_manifest

    names = tuple(name.strip() for name in covariates.split(",") if name.strip())
    manifest = read_manifest(path, covariates=names, **options)
    for note in manifest.notes:
        typer.echo(note, err=True)
    return manifest.cohort


def _shard(text: str) -> Shard:
    from morphomil.pipeline.execution import Shard

    try:
        index, count = map(int, text.split("/"))
    except ValueError:
        raise InputError(f"--shard is i/n, as in 2/8; got {text!r}") from None
    return Shard(index, count)


def _finish(*results: StageResult) -> None:
    failed = {slide: cause for result in results for slide, cause in result.failed.items()}
    _finish_failed(failed, "failed, the others are done")


def _finish_failed(failed: dict[str, str], how: str) -> None:
    if failed:
        causes = "".join(f"\n- {slide}: {cause}" for slide, cause in failed.items())
        fail(f"{len(failed)} slides {how}:{causes}", ExitStatus.SOME_FAILED)
