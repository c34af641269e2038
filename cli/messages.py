"""What the commands say: lines of results, problems, the end of a command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

import typer

from morphomil.errors import ExitStatus

if TYPE_CHECKING:
    from collections.abc import Mapping


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
        fail(_listed(causes, what), ExitStatus.SOME_FAILED)


def end_if_incomplete(failed: Mapping[str, str], empty: Mapping[str, str]) -> None:
    """Leave with a line for each slide that failed or is empty, if any did or is.

    Args:
        failed: slide -> what went wrong.
        empty: slide -> why there is nothing in its result.
    """
    if empty:
        verb = "slide is empty" if len(empty) == 1 else "slides are empty"
        listed = _listed(empty, f"{verb} and left out from here on")
        if failed:
            listed = f"{_listed(failed, 'slides failed')}\n{listed}"
        fail(f"{listed}\nAll others are done.", ExitStatus.SOME_FAILED)
    end_if_failed(failed, "slides failed, the others are done")


def _listed(causes: Mapping[str, str], what: str) -> str:
    lines = "".join(f"\n- {name}: {cause}" for name, cause in causes.items())
    return f"{len(causes)} {what}:{lines}"
