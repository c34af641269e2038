"""The ranking of features: rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from morphomil.cli.messages import describe_cost, describe_span, end_if_failed, say
from morphomil.cli.options import (
    QuietOption,
    RunArgument,
    command_group,
    parse_shard,
    with_settings,
)
from morphomil.cli.runs import FeaturesOption, open_measured
from morphomil.types import RankSettings

if TYPE_CHECKING:
    from morphomil.run.directory import Run

commands = command_group()
COLUMNS = (
    "rank",
    "feature",
    "verdict",
    "rank_score",
    "attention_z",
    "attention",
    "shapley_auc",
    "shapley_p_any",
    "ablation_auc",
    "scan_summary",
    "scan_delta",
    "scan_somers_d",
    "scan_epsilon_squared",
    "scan_p_any",
    "direction",
    "highest",
    "lowest",
    "epsilon_squared",
    "somers_d",
    "cliffs_delta",
    "p_value",
    "p_holm",
    "p_bh",
)
"""These columns of the ranking are printed, of those that it has."""


@commands.command(epilog="Example: `morphomil rank run --positive N+`")
@with_settings()
def rank(
    path: RunArgument,
    settings: RankSettings = RankSettings(seed=0),
    features_from: FeaturesOption = None,
    shard: Annotated[
        str,
        typer.Option(
            help="Train part i of n only, as in 2/8, for job arrays; then rank without --shard.",
            metavar="i/n",
        ),
    ] = "1/1",
    quiet: QuietOption = False,
) -> None:
    """Rank the features by attention and Shapley value in a model that sees only them, with effect
    sizes and tests."""
    from morphomil import pipeline
    from morphomil.cli.progress import Display

    run, part = open_measured(path, features_from), parse_shard(shard)
    if part.is_part:
        with Display(quiet=quiet) as display:
            pipeline.rank_part(run, part, settings=settings, progress=display)
        say(f"Part {shard} is trained. Next: morphomil rank {path}, without --shard", quiet=quiet)
        return
    _say_cost(run, settings, quiet=quiet)
    with Display(quiet=quiet) as display:
        ranking = pipeline.rank(
            run,
            progress=display,
            on_estimate=lambda seconds: say(
                f"It will take about {describe_span(seconds)} more.", quiet=quiet
            ),
            settings=settings,
        )
    for text in (
        *ranking.notes,
        ranking.verdict.plain,
        ranking.verdict.sentence,
        ranking.statement,
        ranking.interactions.statement,
        *ranking.scan.findings,
        ranking.baselines.statement,
        *run.ranking_about()["context"],
    ):
        say(text, quiet=quiet)
    shown = ranking.table[[name for name in COLUMNS if name in ranking.table]]
    say(shown.to_string(index=False, float_format=lambda value: f"{value:.3g}"), quiet=quiet)
    end_if_failed(ranking.failed, "folds failed, the ranking rests on the others")
    say(f"Ranking: {path}/rank/ranking.csv. Next: morphomil report {path}", quiet=quiet)


def _say_cost(run: Run, settings: RankSettings, *, quiet: bool) -> None:
    from morphomil.pace import machine_pace
    from morphomil.rank.costs import foretell_ranking

    done = set(run.done("featurize"))
    slides, patients = len(done), {s.patient for s in run.cohort.slides if s.slide_id in done}
    cost = foretell_ranking(slides, settings, pace=machine_pace(), patients=len(patients))
    say(f"{slides} slides: {describe_cost(cost)}.", quiet=quiet)
