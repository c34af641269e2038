"""The commands, one per stage. Every heavy import waits until its command runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from morphomil.cli import (
    checks,
    cluster,
    cohorts,
    embedding,
    exports,
    figures,
    interruption,
    models,
    project,
    ranking,
    segmenter,
    slides,
    synthetic,
)
from morphomil.cli.messages import fail
from morphomil.cli.settings_file import NAME, known_settings, read_settings
from morphomil.errors import (
    MAY_PASS,
    NO_ROOM,
    ExitStatus,
    MorphomilError,
    name_problem,
    tells_of_memory,
    tells_of_names,
)

GOES_ON = "what is finished is kept, and the same command goes on from there"


class _EndedError(Exception):
    """Carries an error past Typer, which takes it for the end of the user's terminal and leaves
    without a word."""


class _Commands(TyperGroup):
    """What is said of an unusable value is a sentence for users, without its class in Python."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (BrokenPipeError, EOFError) as error:
            raise _EndedError from error
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Exit status: 0 done; 1 internal error; 2 unusable input, disk or memory; 3 some slides "
    "or folds failed; "
    "4 refused (leakage, or statistics that can't be had); 5 run directory busy; 130 interrupted.",
)

for group in (
    project,
    slides,
    embedding,
    models,
    ranking,
    figures,
    exports,
    synthetic,
    checks,
    segmenter,
):
    app.add_typer(group.commands)
app.add_typer(
    cluster.commands, name="cluster", help="An analysis on a cluster, by Snakemake (docs/cluster)."
)
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


def start() -> NoReturn:
    """Run the command of `sys.argv`: errors become one sentence and the documented exit status."""
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    for word in sys.argv[1:]:
        if problem := name_problem(word):
            fail(problem, ExitStatus.BAD_INPUT)
    try:
        app()
    except interruption.Interrupted:
        pass
    except SystemExit:
        if not interruption.is_due():
            raise
    except Exception as error:
        if debug:
            raise
        if not interruption.is_due():
            ended = error.__cause__ if isinstance(error, _EndedError) else None
            fail(*_describe(ended or error))
    fail(interruption.SENTENCE, ExitStatus.INTERRUPTED)


def _describe(error: BaseException) -> tuple[str, ExitStatus]:
    """A sentence on what ended a command, and the exit status that stands for it."""
    if isinstance(error, MorphomilError):
        return str(error), error.exit_status
    if tells_of_memory(error):
        return f"the memory is full ({error or 'no size given'}); {GOES_ON}", ExitStatus.BAD_INPUT
    if isinstance(error, OSError):
        place = ""
        if error.filename is None and error.errno in NO_ROOM:
            place = f" (below {os.environ.get('TMPDIR', '/tmp')} or where the results lie)"
        passes = error.errno is None or error.errno in MAY_PASS
        end = GOES_ON if passes else "name another path, or change what lies there"
        return f"{error}{place}; {end}", ExitStatus.BAD_INPUT
    if problem := tells_of_names(error):
        return problem, ExitStatus.BAD_INPUT
    return (
        f"internal error, please report it: {type(error).__name__}: {error} (--debug shows where)",
        ExitStatus.INTERNAL_ERROR,
    )
