"""The ranking of features: rank."""

from __future__ import annotations

from typing import Annotated

import typer

from morphomil.cli.messages import end_if_failed, say
from morphomil.cli.options import PositiveOption, QuietOption, RunArgument, command_group
from morphomil.cli.runs import FeaturesOption, open_measured

commands = command_group()
COLUMNS = (
    "rank",
    "feature",
    "attention",
    "shapley_auc",
    "shapley_p_any",
    "ablation_auc",
    "direction",
    "cliffs_delta",
    "p_value",
    "p_holm",
    "p_bh",
)
"""These columns of the ranking are printed, of those that it has."""


@commands.command(epilog="Example: `morphomil rank run --positive N+`")
def rank(
    path: RunArgument,
    positive: PositiveOption = None,
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
    features_from: FeaturesOption = None,
    quiet: QuietOption = False,
) -> None:
    """Rank the features by attention and Shapley value in a model that sees only them, with effect
    sizes and tests."""
    from morphomil import pipeline
    from morphomil.cli.progress import Display

    with Display(quiet=quiet) as display:
        ranking = pipeline.rank(
            open_measured(path, features_from),
            progress=display,
            on_estimate=lambda seconds: say(
                f"Training will take about {_say_duration(seconds)}.", quiet=quiet
            ),
            positive=positive,
            folds=folds,
            seed=seed,
            quick=quick,
            permutations=permutations,
        )
    for text in ranking.notes:
        say(text, quiet=quiet)
    say(ranking.statement, quiet=quiet)
    shown = ranking.table[[name for name in COLUMNS if name in ranking.table]]
    say(shown.to_string(index=False, float_format=lambda value: f"{value:.3g}"), quiet=quiet)
    end_if_failed(ranking.failed, "folds failed, the ranking rests on the others")
    say(f"Ranking: {path}/rank/ranking.csv. Next: morphomil report {path}", quiet=quiet)


def _say_duration(seconds: float) -> str:
    return f"{max(seconds, 1):.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
