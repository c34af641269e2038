"""What the commands say: lines of results, problems, the end of a command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

import typer

from morphomil.errors import ExitStatus

if TYPE_CHECKING:
    from collections.abc import Mapping


class Interrupted(BaseException):
    """The user or the machine wants an end; no KeyboardInterrupt, which Typer ends the program on
    without a word."""


def say(message: str, *, quiet: bool = False) -> None:
    """Print a line of results."""
    if not quiet:
        typer.echo(message)


def note(message: str) -> None:
    """Print what is to be known beside the results, on standard error."""
    typer.echo(message, err=True)


def fail(message: str, status: ExitStatus) -> NoReturn:
    """Print a problem and leave."""
    from rich.console import Console
    from rich.markup import escape

    Console(stderr=True, highlight=False).print(
        f"[bold red]morphomil:[/] {escape(message)}", soft_wrap=True
    )
    sys.exit(status)


def end_if_failed(causes: Mapping[str, str], what: str) -> None:
    """Leave with a line for each slide or fold that failed, if any did.

    Args:
        causes: name of the slide or fold -> what went wrong.
        what: "slides failed, the others are done" or the like; their number comes before it.
    """
    if causes:
        lines = "".join(f"\n- {name}: {cause}" for name, cause in causes.items())
        fail(f"{len(causes)} {what}:{lines}", ExitStatus.SOME_FAILED)
