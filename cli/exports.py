"""Commands that write a run's results for others: compare, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from morphomil.cli.messages import say
from morphomil.cli.options import QuietOption, RunArgument, SlideOption, command_group
from morphomil.cli.runs import FeaturesOption, open_measured, say_losses

commands = command_group()


@commands.command(epilog="Example: `morphomil compare run`")
def compare(
    path: RunArgument, features_from: FeaturesOption = None, quiet: QuietOption = False
) -> None:
    """Write the paper's tables: characteristics, performance, DeLong's tests, subgroups; methods
    and a checklist."""
    from morphomil.tables.attention import write_alongside
    from morphomil.tables.paper import compare as write_tables
    from morphomil.tables.predictions import read_predictions

    run = open_measured(path, features_from)
    say_losses(run, "featurize", quiet=quiet)
    written = write_tables(run)
    say(f"Tables: {written[0].parent} ({', '.join(file.name for file in written)})", quiet=quiet)
    beside = write_alongside(run, read_predictions(run))
    if beside:
        say(
            f"Models side by side: {beside[0].parent} ({', '.join(file.name for file in beside)})",
            quiet=quiet,
        )


@commands.command(epilog="Example: `morphomil export run --to qupath`")
def export(
    path: RunArgument,
    to: Annotated[
        Literal["qupath", "anndata", "spatialdata", "trident", "clam", "csv"],
        typer.Option(help="Whose files to write."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder; default: RUN/export/FORMAT.")
    ] = None,
    slide: SlideOption = None,
    features_from: FeaturesOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write the results for QuPath, scverse, TRIDENT, CLAM or a spreadsheet."""
    from morphomil.export import export_run

    folder = out or path / "export" / to
    run = open_measured(path, features_from)
    if not slide:
        say_losses(run, "featurize", quiet=quiet)
    slides: dict[str, list[Path]] = {}

    def hear(file: Path) -> None:
        """A line for each slide, once its last file is there: files of a slide share their stem."""
        if slides and file.stem not in slides:
            _say_files(slides.popitem(), quiet=quiet)
        slides.setdefault(file.stem, []).append(file)

    written = export_run(run, to, out=folder, slides=slide or (), on_file=hear)
    if slides:
        _say_files(slides.popitem(), quiet=quiet)
    say(f"{len(written)} files: {folder}")


def _say_files(files: tuple[str, list[Path]], *, quiet: bool) -> None:
    stem, paths = files
    folders = [f"{path.parent.name}/" if len(paths) > 1 else "" for path in paths]
    kinds = ", ".join(f"{into}{path.name}" for into, path in zip(folders, paths, strict=True))
    size = sum(
        part.stat().st_size
        for path in paths
        for part in (path.rglob("*") if path.is_dir() else [path])
        if part.is_file()
    )
    say(f"{stem}: {kinds} ({size:,} bytes)", quiet=quiet)
