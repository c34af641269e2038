"""What the commands say: lines of results, problems, the end of a command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

import typer

from morphomil.errors import ExitStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from morphomil.pace import Cost


def say(message: str, *, quiet: bool = False) -> None:
    """Print a line of results."""
    if not quiet:
        typer.echo(message)


def note(message: str) -> None:
    """Print what is to be known beside the results, on standard error."""
    typer.echo(message, err=True)


def describe_cost(cost: Cost) -> str:
    """`about 3 min on this machine alone, 1.2 GiB of memory`."""
    memory = cost.memory_bytes / 2**30
    return f"about {describe_span(cost.seconds)} on this machine alone, {memory:.1f} GiB of memory"


def describe_span(seconds: float) -> str:
    """`90 s`, `45 min` or `3.2 h`."""
    minutes = seconds / 60
    if minutes < 2:
        return f"{max(seconds, 1):.0f} s"
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


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
