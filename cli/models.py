"""Commands of the trained models: train, predict, heatmap."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from morphomil.cli.messages import describe_cost, end_if_failed, note, say
from morphomil.cli.options import (
    DeviceOption,
    PositiveOption,
    QuietOption,
    RunArgument,
    SlideOption,
    command_group,
    parse_names,
    parse_rate,
)
from morphomil.cli.runs import FeaturesOption, open_measured
from morphomil.errors import InputError

if TYPE_CHECKING:
    from morphomil.models.settings import TrainSettings

commands = command_group()
RateOption = Annotated[
    float | None,
    typer.Option(parser=parse_rate, metavar="NUMBER", help="Instead of the preset's."),
]
BackboneWeightsOption = Annotated[
    Path | None, typer.Option(help="Of the backbone, where `embed` was given some.")
]
FinetuneOption = Annotated[
    bool,
    typer.Option(
        "--finetune", help="Let the backbone of these features learn too: slow, best with a GPU."
    ),
]
SplitOption = Annotated[
    Literal["auto", "kfold", "holdout", "site"],
    typer.Option(
        help="auto: the manifest's split, else k-fold; holdout: 4:1, then 3:1; site: each site by "
        "the others."
    ),
]
BagsOption = Annotated[
    Literal["ten", "all"] | None,
    typer.Option(help="Bags of ten patches, or all of a slide's patches as one."),
]
BAG_SIZES = {"ten": 10, "all": 0}
RedrawOption = Annotated[
    bool | None,
    typer.Option("--redraw/--fixed", help="Draw the training bags anew in every epoch, or once."),
]
BalancedOption = Annotated[
    bool, typer.Option("--balanced", help="Give classes, instead of patients, the same weight.")
]


@commands.command(epilog="Example: `morphomil train run --model dl-cnb --positive N+`")
def train(
    path: RunArgument,
    model: Annotated[
        Literal["clinical", "dl-cnb", "dl-cnb+c", "morphometry", "morphometry+clinical"],
        typer.Option(help="What is trained."),
    ],
    preset: Annotated[
        Literal["default", "paper", "released-code"], typer.Option(help="Of the image model.")
    ] = "default",
    backbone: Annotated[
        str, typer.Option(help="Features to learn from; default: what `morphomil embed` made.")
    ] = "",
    finetune: FinetuneOption = False,
    weights: BackboneWeightsOption = None,
    device: DeviceOption = "auto",
    covariates: Annotated[
        str, typer.Option(help="Of the clinical models, comma-separated; default: all.")
    ] = "",
    allow_leakage: Annotated[
        str, typer.Option(help="Covariates that may say the label, comma-separated.")
    ] = "",
    positive: PositiveOption = None,
    split: SplitOption = "auto",
    folds: Annotated[int, typer.Option(help="Of the cross-validation.", min=2)] = 5,
    bags: BagsOption = None,
    redraw: RedrawOption = None,
    balanced: BalancedOption = False,
    pool: Annotated[Literal["mean", "max"] | None, typer.Option(help="Of a slide's bags.")] = None,
    epochs: Annotated[int | None, typer.Option(help="At most.", min=1)] = None,
    learning_rate: RateOption = None,
    seed: Annotated[int, typer.Option(help="Of folds, bags, weights.", min=0)] = 0,
    features_from: FeaturesOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train a model: of covariates, of the image, of morphometry, or of two of them together."""
    from morphomil.models.settings import TrainSettings

    changes = {
        "redraw": redraw,
        "pool": pool,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "bag_size": bags and BAG_SIZES[bags],
        "balanced": balanced or None,
    }
    settings = TrainSettings(
        model,
        preset=preset,
        changes={name: value for name, value in changes.items() if value is not None},
        backbone=backbone,
        finetune=finetune,
        weights=str(weights or ""),
        device=device,
        covariates=parse_names(covariates),
        allow_leakage=parse_names(allow_leakage),
        split=split,
        folds=folds,
        positive=positive,
        seed=seed,
    )
    _train(path, settings, features_from, quiet=quiet)


def _train(path: Path, settings: TrainSettings, features_from: Path | None, *, quiet: bool) -> None:
    from morphomil import pipeline
    from morphomil.cli.progress import Display

    with Display(quiet=quiet) as display:
        result = pipeline.train(
            open_measured(path, features_from),
            settings,
            progress=display,
            on_estimate=lambda cost: say(
                f"It will take {describe_cost(cost)}; folds may end sooner or later.", quiet=quiet
            ),
        )
    for text in result.notes:
        say(text, quiet=quiet)
    model = settings.model
    say(
        f"Model: {path}/models/{model}. Next: morphomil predict {path} --model {model}", quiet=quiet
    )
    end_if_failed(result.failed, "folds failed, the others are done")


@commands.command(epilog="Example: `morphomil predict run --model dl-cnb`")
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
    features_from: FeaturesOption = None,
    quiet: QuietOption = False,
) -> None:
    """Score the test patients of trained models, once, or an external cohort: every scoring is
    logged."""
    from morphomil import pipeline
    from morphomil.models.predict import describe_test
    from morphomil.models.trained import trained_models

    run = open_measured(path, features_from)
    origin = open_measured(model_from, features_from) if model_from else None
    names = [model] if model else trained_models(origin or run)
    if not names:
        trained = model_from or path
        raise InputError(
            f"{trained} has no trained models; run: morphomil train {trained} --model dl-cnb"
        )
    for name in names:
        scoring = pipeline.predict(run, name, origin=origin)
        for text in scoring.notes:
            note(text)
        say(f"{name}: {describe_test(run, name)}", quiet=quiet)
        say(f"Predictions: {path}/models/{name}/predictions.parquet", quiet=quiet)


@commands.command(epilog="Example: `morphomil heatmap run --model dl-cnb --slide P001`")
def heatmap(
    path: RunArgument,
    model: Annotated[str, typer.Option(help="dl-cnb or dl-cnb+c.")] = "dl-cnb",
    slide: SlideOption = None,
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
    from morphomil.figures.heatmap import draw_map
    from morphomil.run.directory import Run

    run = Run.open(path)
    for attention in pipeline.heatmap(run, model, slide or (), overlap=overlap, weights=weights):
        draw_map(run, model, attention)
        say(
            f"{attention.slide_id}: probability {attention.probability:.3f} ({attention.fold})",
            quiet=quiet,
        )
    say(f"Maps: {path}/figures/models/{model}; patch scores for QuPath: {path}/models/{model}/maps")
