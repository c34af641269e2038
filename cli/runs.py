"""Runs that were measured with features of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from morphomil.cli.messages import say

if TYPE_CHECKING:
    from morphomil.run.directory import Run

FeaturesOption = Annotated[
    Path | None,
    typer.Option(
        "--features-from",
        metavar="FILE.py",
        help="File that adds features of one's own (How to: Add a feature).",
    ),
]


def open_measured(path: Path, features_from: Path | None) -> Run:
    """A run whose features are registered, those of the file too.

    Raises:
        InputError: there is no run, the file can't be used, or the run has other features.
    """
    from morphomil.nuclei.feature_files import load_features
    from morphomil.run.directory import Run
    from morphomil.run.features import check_features

    if features_from is not None:
        load_features(features_from)
    run = Run.open(path)
    check_features(run)
    return run


def say_losses(run: Run, stage: str, *, quiet: bool) -> None:
    """Print how many slides are left out because they failed or are empty in a stage, by label."""
    from morphomil.tables.slides import describe_lost_slides

    for sentence in describe_lost_slides(run, stage):
        say(sentence, quiet=quiet)
