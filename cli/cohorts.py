"""Manifests: read for the other commands; `morphomil cohort` makes them from public data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from morphomil.cli.messages import note, say
from morphomil.cli.options import QuietOption, command_group, parse_names

if TYPE_CHECKING:
    from morphomil.types import Cohort

commands = command_group()


@commands.command(
    epilog="Example: `morphomil cohort bcnb BCNB --task 0 --mpp 0.5 --out n0_vs_nplus.csv`"
)
def bcnb(
    folder: Annotated[
        Path, typer.Argument(help="Of the data set: slides and patient table, or patches and bags.")
    ],
    task: Annotated[
        int,
        typer.Option(
            help="0 N0/N+, 1 N+(1-2)/N+(>2), 2 three classes, 3 N0/N+(1-2), 4 N0/N+(>2).",
            min=0,
            max=4,
        ),
    ],
    mpp: Annotated[
        float, typer.Option(help="um per pixel, recorded nowhere; 0.5 is suggested: nominally 20x.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Manifest to write.")] = Path("bcnb.csv"),
    table: Annotated[
        Path | None, typer.Option(help="Patient table, where the folder holds several.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Turn the folders of the paper's public data set into a manifest."""
    from morphomil.cohort.bcnb import bcnb_manifest, write_bcnb_manifest

    manifest = bcnb_manifest(folder, task=task, mpp=mpp, table=table)
    for text in manifest.notes:
        note(text)
    path = write_bcnb_manifest(manifest, out)
    counts = manifest.table.drop_duplicates("patient")["label"].value_counts().sort_index()
    say(
        f"{path}: {', '.join(f'{count} {label}' for label, count in counts.items())} patients",
        quiet=quiet,
    )
    names = ",".join(manifest.covariates)
    say(
        f"Next: morphomil segment {path} --out run{f' --covariates {names}' if names else ''}",
        quiet=quiet,
    )
    say(
        f"Then --positive '{manifest.positive}' where a command asks which label is positive.",
        quiet=quiet,
    )


def _covariates_of(run: Path) -> tuple[str, ...]:
    """The covariates that a run's cohort has; none where there is no run yet."""
    from morphomil.run.directory import Run

    if not (run / "cohort.parquet").is_file():
        return ()
    slides = Run(run).cohort.slides
    return tuple(dict.fromkeys(name for slide in slides for name in slide.covariates))


def read_cohort(
    path: Path, covariates: str = "", *, run: Path | None = None, **options: Any
) -> Cohort:
    """The slides of a manifest; what is to be known of it is printed.

    Where no covariates are named, those that the cohort of `run` has are kept.
    """
    from morphomil.cohort.manifest import read_manifest

    names = parse_names(covariates)
    if names == ("none",):
        names = ()
    elif not names and run is not None and (names := _covariates_of(run)):
        note(f"covariates kept as before: {', '.join(names)} (--covariates none drops them)")
    manifest = read_manifest(path, covariates=names, **options)
    for text in manifest.notes:
        note(text)
    return manifest.cohort
