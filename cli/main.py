"""`morphomil`: one command per stage. Every heavy import waits until its command runs."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from morphomil.cli import (
    checks,
    cohorts,
    exports,
    figures,
    models,
    project,
    ranking,
    segmenter,
    slides,
    synthetic,
)
from morphomil.cli.messages import Interrupted, fail
from morphomil.cli.settings_file import NAME, known_settings, read_settings
from morphomil.errors import ExitStatus, MorphomilError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Exit status: 0 done; 1 internal error; 2 unusable input; 3 some slides or folds "
    "failed; "
    "4 refused (leakage, or statistics that can't be had); 5 run directory busy; 130 interrupted.",
)

for group in (project, slides, models, ranking, figures, exports, synthetic, checks, segmenter):
    app.add_typer(group.commands)
app.add_typer(
    cohorts.commands, name="cohort", help="Manifests from the folders of public data sets."
)


def _say_version(asked: bool) -> None:
    """Print the version and leave, if it was asked for."""
    if asked:
        from importlib.metadata import version

        typer.echo(f"morphomil {version('morphomil')}")
        raise typer.Exit


@app.callback()
def about(
    context: typer.Context,
    settings: Annotated[
        Path | None,
        typer.Option(help=f"File of settings ({NAME}): what it says of the command is default."),
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_say_version, is_eager=True),
    ] = False,
) -> None:
    """Which nuclear morphology goes with an outcome, how sure are we, and is that what the image
    model sees?"""
    if settings is not None:
        context.default_map = read_settings(settings, known_settings(project.list_stages))


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


def _interrupt(_signal: int, _frame: Any) -> NoReturn:
    raise Interrupted
