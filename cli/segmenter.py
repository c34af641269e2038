"""The segmenter itself: train-segmenter, evaluate-segmenter."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from morphomil.cli.messages import say
from morphomil.cli.options import QuietOption, command_group, parse_rate, with_settings
from morphomil.errors import InputError
from morphomil.types import SegmenterSettings

if TYPE_CHECKING:
    import pandas as pd

    from morphomil.cli.progress import Display
    from morphomil.segment.annotated import AnnotatedImage
    from morphomil.segment.evaluate import Evaluation
    from morphomil.segment.model import Segmenter

commands = command_group()
RootOption = Annotated[
    Path | None, typer.Option(help="Folder that the table's paths start from; default: its own.")
]

HeadsOption = Annotated[
    bool,
    typer.Option(
        "--heads-only",
        help="Train the heads of outlines and types alone: the nuclei that the first weights find "
        "stay the same.",
    ),
]


@commands.command(
    name="train-segmenter",
    epilog="Example: `morphomil train-segmenter training.csv --root data --out model`",
)
def train_segmenter(
    table: Annotated[
        Path,
        typer.Argument(
            help="CSV: image, labels or points, mpp, split (train|val), optional types and group."
        ),
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
        float,
        typer.Option(
            parser=parse_rate,
            metavar="NUMBER",
            help="Of the decoder; the encoder learns at 0.3 of it.",
        ),
    ] = 1e-3,
    heads_only: HeadsOption = False,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted training in the folder.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Train the nucleus segmenter on annotated images and tune its thresholds."""
    from morphomil.cli.progress import Display
    from morphomil.segment.samples import TrainSettings
    from morphomil.segment.train import train_from_table

    settings = TrainSettings(
        start=start,
        epochs=epochs,
        steps_per_epoch=steps,
        batch=batch,
        learning_rate=learning_rate,
        heads_only=heads_only,
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
            on_epoch=partial(_say_epoch, display),
        )
    say(f"Model: {out}. Use it with: morphomil segment COHORT --out RUN --model {out}", quiet=quiet)


def _say_epoch(display: Display, epoch: int, figures: dict[str, float]) -> None:
    losses = f"loss {figures['loss']:.4f}, validation {figures['val_loss']:.4f}"
    display.end(f"epoch {epoch + 1}", "done", losses)


@commands.command(
    name="evaluate-segmenter",
    epilog="Example: `morphomil evaluate-segmenter images.csv --root data --out evaluation`",
)
@with_settings()
def evaluate_segmenter(
    table: Annotated[
        Path,
        typer.Argument(help="CSV: image, labels or points, mpp, optional types, group and split."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for tables and pictures.")],
    root: RootOption = None,
    split: Annotated[str, typer.Option(help="Only rows with this value of the column split.")] = "",
    settings: SegmenterSettings = SegmenterSettings(),
    halve: Annotated[
        bool, typer.Option(help="Evaluate images finer than 0.35 um/px at half resolution too.")
    ] = True,
    write_reliability: Annotated[
        bool,
        typer.Option(
            "--write-reliability",
            help="Store accuracy and the table of features as reliability.json beside the model.",
        ),
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Measure how well a segmenter agrees with annotated nuclei: detection, outlines, types, and
    how far differences of each feature can be trusted."""
    from morphomil.segment.annotated import read_annotated, read_table
    from morphomil.segment.model import load_segmenter
    from morphomil.segment.reliability import reliability_path
    from morphomil.segment.reliability import write_reliability as store_reliability

    if write_reliability:
        reliability_path(settings.model)
    rows = read_table(table, columns={"image", "mpp"} | ({"split"} if split else set()))
    if split:
        rows = rows[rows["split"] == split]
    if rows.empty:
        raise InputError(f"table {table} names no images{f' with split {split}' if split else ''}")
    images = read_annotated(rows, root or table.parent)
    segmenter = load_segmenter(settings)
    outlined = [image for image in images if image.outlined]
    typed = segmenter.types is not None and any(image.typed for image in images)
    if not outlined and not typed:
        raise InputError(f"{table} has no labels, and model {settings.model!r} knows no types")
    if outlined:
        result = _evaluate_outlines(outlined, segmenter, out, halve=halve, quiet=quiet)
        if write_reliability:
            stored = store_reliability(result.reliability, result.summary, segmenter)
            say(f"Reliability: {stored}", quiet=quiet)
    if typed:
        _evaluate_types(images, segmenter, out, quiet=quiet)
    say(f"Tables and pictures: {out}", quiet=quiet)


def _evaluate_outlines(
    images: list[AnnotatedImage], segmenter: Segmenter, out: Path, *, halve: bool, quiet: bool
) -> Evaluation:
    """Compare detection and outlines: tables and pictures, and the scores as printed."""
    from morphomil.cli.progress import Display
    from morphomil.segment.evaluate import evaluate_segmenter

    with Display(quiet=quiet) as display:
        display.start("evaluate", len(images))
        result = evaluate_segmenter(
            images,
            segmenter,
            halve=halve,
            on_image=lambda name: display.end(name, "done", "compared"),
        )
    _write_evaluation(result, out)
    wide = result.summary.pivot_table(index=["group", "mpp"], columns="score", values="mean")
    shown = wide[["pq", "sq", "dq", "aji", "dice", "f1_0.7", "count_ratio"]].reset_index()
    say(shown.to_string(index=False, float_format="{:.3f}".format), quiet=quiet)
    say(_reliability_text(result.reliability), quiet=quiet)
    return result


def _evaluate_types(
    images: list[AnnotatedImage], segmenter: Segmenter, out: Path, *, quiet: bool
) -> None:
    """Compare the types: tables and a picture, and the scores as printed."""
    from morphomil.figures.segmentation import types_plot
    from morphomil.figures.style import save_figure
    from morphomil.segment.type_agreement import (
        calibration_table,
        confusion,
        type_scores,
        typed_pairs,
    )
    from morphomil.store import write_table_csv

    pairs = typed_pairs(images, segmenter)
    scores, confused, calibrated = type_scores(pairs), confusion(pairs), calibration_table(pairs)
    write_table_csv(out / "types.csv", scores)
    write_table_csv(out / "confusion.csv", confused)
    write_table_csv(out / "calibration.csv", calibrated)
    figure = types_plot(confused, calibrated)
    save_figure(figure, out / "types", formats=("png", "pdf"))
    say(scores.to_string(index=False, float_format="{:.3f}".format), quiet=quiet)


def _reliability_text(table: pd.DataFrame) -> str:
    """The table as printed: what is found against what is annotated, with 95 % intervals over
    images."""
    shown = table[["group", "mpp", "feature", "images"]].copy()
    for name, heading, factor, digits in (
        ("bias", "bias %", 100, 1),
        ("bias_sd", "SD of bias %", 100, 1),
        ("slope", "slope", 1, 2),
        ("correlation", "correlation", 1, 2),
        ("spearman", "rank corr.", 1, 2),
    ):
        parts = table[[name, f"{name}_low", f"{name}_high"]].to_numpy(dtype=float) * factor
        shown[heading] = [
            f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
            for value, low, high in parts
        ]
    return shown.to_string(index=False)


def _write_evaluation(result: Evaluation, out: Path) -> None:
    """The tables as CSV, and the pictures."""
    from morphomil.figures.segmentation import agreement_sheet, feature_bias_plot, reliability_plot
    from morphomil.figures.style import save_figure
    from morphomil.store import write_table_csv

    for name in ("images", "summary", "features", "means", "reliability"):
        write_table_csv(out / f"{name}.csv", getattr(result, name))
    if result.worst:
        save_figure(agreement_sheet([*result.worst, *result.best]), out / "tiles", formats=("png",))
    if result.features["relative_bias"].notna().any():
        save_figure(feature_bias_plot(result.features), out / "features", formats=("png", "pdf"))
    if len(result.means):
        figure = reliability_plot(result.means, result.reliability)
        save_figure(figure, out / "reliability", formats=("png", "pdf"))
