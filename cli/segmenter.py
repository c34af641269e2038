"""The segmenter itself: train-segmenter, evaluate-segmenter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from morphomil.cli.messages import say
from morphomil.cli.options import QuietOption, command_group, with_settings
from morphomil.errors import InputError
from morphomil.types import SegmenterSettings

if TYPE_CHECKING:
    import pandas as pd

    from morphomil.segment.evaluate import Evaluation

commands = command_group()
RootOption = Annotated[
    Path | None, typer.Option(help="Folder that the table's paths start from; default: its own.")
]


@commands.command(
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


@commands.command(
    name="evaluate-segmenter",
    epilog="Example: `morphomil evaluate-segmenter images.csv --root data --out evaluation`",
)
@with_settings()
def evaluate_segmenter(
    table: Annotated[
        Path, typer.Argument(help="CSV: image, labels, mpp, optional group and split.")
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
            help="Store the table of features as reliability.json beside the model.",
        ),
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Measure how well a segmenter agrees with annotated nuclei: detection, outlines, and how far
    differences of each feature can be trusted."""
    from morphomil.cli.progress import Display
    from morphomil.segment.annotated import read_annotated, read_table
    from morphomil.segment.evaluate import evaluate_segmenter
    from morphomil.segment.model import load_segmenter
    from morphomil.segment.reliability import reliability_path
    from morphomil.segment.reliability import write_reliability as store_reliability

    if write_reliability:
        reliability_path(settings.model)
    rows = read_table(table, columns={"image", "labels", "mpp"} | ({"split"} if split else set()))
    if split:
        rows = rows[rows["split"] == split]
    if rows.empty:
        raise InputError(f"table {table} names no images{f' with split {split}' if split else ''}")
    images = read_annotated(rows, root or table.parent)
    segmenter = load_segmenter(settings)
    with Display(quiet=quiet) as display:
        display.start("evaluate", len(images))
        result = evaluate_segmenter(
            images,
            segmenter,
            halve=halve,
            on_image=lambda name: display.end(name, "done", "compared"),
        )
    _write_evaluation(result, out)
    if write_reliability:
        say(f"Reliability: {store_reliability(result.reliability, segmenter)}", quiet=quiet)
    wide = result.summary.pivot_table(index=["group", "mpp"], columns="score", values="mean")
    shown = wide[["pq", "sq", "dq", "aji", "dice", "f1_0.7", "count_ratio"]].reset_index()
    say(shown.to_string(index=False, float_format="{:.3f}".format), quiet=quiet)
    say(_reliability_text(result.reliability), quiet=quiet)
    say(f"Tables and pictures: {out}", quiet=quiet)


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
