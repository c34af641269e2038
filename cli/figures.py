"""Commands that draw a run: figures, view, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from morphomil.cli import interruption
from morphomil.cli.messages import note, say
from morphomil.cli.options import QuietOption, RunArgument, command_group
from morphomil.cli.runs import FeaturesOption, open_measured, say_losses

commands = command_group()
_REDIRECT = (
    '<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
    '<meta http-equiv="refresh" content="0; url={address}"><title>morphomil</title>'
)


@commands.command(epilog="Example: `morphomil figures run --style nature --format pdf`")
def figures(
    path: RunArgument,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Name of a figure, as its file is called; repeat for more."),
    ] = None,
    style: Annotated[
        Literal["plain", "nature", "frontiers"],
        typer.Option(help="Fonts and sizes that a journal asks for."),
    ] = "plain",
    formats: Annotated[
        str, typer.Option("--format", help="Of pdf, svg, png; commas between.")
    ] = "pdf,svg,png",
    features_from: FeaturesOption = None,
    quiet: QuietOption = False,
) -> None:
    """Draw the publication figures, each with a CSV of its numbers, into RUN/figures."""
    from morphomil.figures.registry import draw_figures
    from morphomil.figures.style import describe_font, parse_formats

    run = open_measured(path, features_from)
    say_losses(run, "featurize", quiet=quiet)
    for outcome in draw_figures(run, only=only or (), look=style, formats=parse_formats(formats)):
        files = ", ".join(file.name for file in outcome.paths)
        said = f"{outcome.name}: {files or f'left out, {outcome.absent}'}"
        if outcome.damaged:
            note(said)
        else:
            say(said, quiet=quiet)
    if font := describe_font(style):
        note(font)
    say(f"Figures: {run.figures_folder}", quiet=quiet)


@commands.command(epilog="Example: `morphomil view run`")
def view(
    path: RunArgument,
    port: Annotated[int, typer.Option(help="0: any free one.", min=0, max=65535)] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in the web browser.")
    ] = True,
    reviewer: Annotated[
        str | None,
        typer.Option(help="Whose reviews of nuclei are stored; default: the name of your account."),
    ] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Hide the labels of the slides from the reviewer.")
    ] = False,
    at: Annotated[
        str, typer.Option(help="Where to open: a link to a view, or what follows its #.")
    ] = "",
    features_from: FeaturesOption = None,
) -> None:
    """Browse the slides with deep zoom, outlines of nuclei, heatmaps; review nuclei one by one;
    served to this machine only."""
    import webbrowser
    from tempfile import TemporaryDirectory

    from morphomil.store import write_bytes
    from morphomil.viewer import Reviewer
    from morphomil.viewer.links import read_view
    from morphomil.viewer.serving import make_server

    run, who = open_measured(path, features_from), Reviewer(reviewer or _account(), blind)
    slides = [slide.slide_id for slide in run.cohort.slides]
    link = f"#{read_view(at, slides)}" if at else ""
    with (
        make_server(run, port=port, reviewer=who) as server,
        TemporaryDirectory(prefix="morphomil-") as private,
    ):
        address = server.address + link
        say(f"Slides: {address} (this machine only; end with Ctrl-C)")
        if browser:  # through a file: others see the words that a program was started with
            page = Path(private) / "view.html"
            write_bytes(page, _REDIRECT.format(address=address).encode())
            webbrowser.open(page.as_uri())
        try:
            server.serve_forever()
        except interruption.Interrupted:
            interruption.forget()
            say("Ended.")


def _account() -> str:
    """The name of the account that the program runs in; "" where the system knows none."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""


@commands.command(epilog="Example: `morphomil report run`")
def report(
    path: RunArgument, features_from: FeaturesOption = None, quiet: QuietOption = False
) -> None:
    """Draw the figures and write the report, one HTML file that opens offline."""
    from morphomil.cli.progress import Display
    from morphomil.figures.report.write import write_report

    missed: dict[str, str] = {}
    run = open_measured(path, features_from)
    with Display(quiet=quiet, terse=True) as display:
        report = write_report(run, progress=display, missed=missed)
    for name, cause in missed.items():
        note(f"No pictures of {name}: {cause}")
    say(f"Report: {report}", quiet=quiet)
