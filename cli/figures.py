"""Commands that draw a run: figures, view, report."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from morphomil.cli.messages import Interrupted, note, say
from morphomil.cli.options import QuietOption, RunArgument, command_group
from morphomil.cli.runs import FeaturesOption, open_measured, say_losses

commands = command_group()


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
        say(f"{outcome.name}: {files or f'left out, {outcome.absent}'}", quiet=quiet)
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
    features_from: FeaturesOption = None,
) -> None:
    """Browse the slides with deep zoom, heatmaps, patches and nuclear outlines; served to this
    machine only."""
    import webbrowser

    from morphomil.figures.viewer import LOOPBACK, make_server

    with make_server(open_measured(path, features_from), port=port) as server:
        address = f"http://{LOOPBACK}:{server.server_port}/"
        say(f"Slides: {address} (this machine only; end with Ctrl-C)")
        if browser:
            webbrowser.open(address)
        try:
            server.serve_forever()
        except Interrupted:
            say("Ended.")


@commands.command(epilog="Example: `morphomil report run`")
def report(
    path: RunArgument, features_from: FeaturesOption = None, quiet: QuietOption = False
) -> None:
    """Draw the figures and write the report, one HTML file that opens offline."""
    from morphomil.cli.progress import Display
    from morphomil.figures.report.write import write_report

    run = open_measured(path, features_from)
    with Display(quiet=quiet, terse=True) as display:
        report = write_report(run, progress=display)
    say(f"Report: {report}", quiet=quiet)
