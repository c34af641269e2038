"""Synthetic slides: phantom, and demo, the whole method on them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from morphomil.cli.messages import say
from morphomil.cli.options import QuietOption, command_group
from morphomil.cli.project import run_command

commands = command_group()
FolderOption = Annotated[
    Path, typer.Option("--out", "-o", help="Folder for the slides, made; files there are replaced.")
]


@commands.command(epilog="Example: `morphomil demo --out demo`")
def demo(
    out: FolderOption = Path("demo"),
    slides: Annotated[int, typer.Option(min=10)] = 24,
    image_model: Annotated[
        bool, typer.Option(help="Train the image model too, a third of the time.")
    ] = True,
    quiet: QuietOption = False,
) -> None:
    """Run the whole method, ranking and image model, on synthetic slides of which one feature
    differs by group; the slides come into OUT/cohort, the results into OUT/run."""
    manifest = _phantom(
        out / "cohort", slides=slides, effect="density_per_mm2", shift=2.5, seed=0, quiet=quiet
    )
    for words in _stages(manifest, out / "run", image_model=image_model):
        if status := run_command([str(word) for word in words], folder=Path(), quiet=quiet):
            sys.exit(status)


def _stages(manifest: Path, run: Path, *, image_model: bool) -> list[list[str | Path]]:
    """The commands of the demo, in order."""
    beside: list[list[str | Path]] = [
        ["embed", run],
        ["train", run, "--model", "dl-cnb"],
        ["predict", run, "--model", "dl-cnb"],
        ["compare", run],
    ]
    return [
        ["segment", manifest, "--out", run],
        ["featurize", run],
        ["rank", run],
        *(beside if image_model else []),
        ["report", run],
    ]


@commands.command(
    epilog="Example: `morphomil phantom --out phantoms --slides 24 --effect density_per_mm2`"
)
def phantom(
    out: FolderOption,
    slides: Annotated[int, typer.Option(min=2)] = 24,
    effect: Annotated[
        str, typer.Option(help="The feature that differs by group; none for a null cohort.")
    ] = "density_per_mm2",
    shift: Annotated[
        float, typer.Option(help="Difference of the groups, in SDs between patients.")
    ] = 2.0,
    seed: int = 0,
    quiet: QuietOption = False,
) -> None:
    """Render synthetic H&E slides whose nuclei and group effect are known."""
    say(
        "Manifest: "
        f"{_phantom(out, slides=slides, effect=effect, shift=shift, seed=seed, quiet=quiet)}",
        quiet=quiet,
    )


def _phantom(out: Path, *, slides: int, effect: str, shift: float, seed: int, quiet: bool) -> Path:
    from morphomil.cli.progress import Display
    from morphomil.phantom.files import write_cohort

    with Display(quiet=quiet) as display:
        display.start("phantom", slides)
        return write_cohort(
            out,
            slides=slides,
            effect=effect,
            shift=shift,
            seed=seed,
            on_slide=lambda done, total: display.end(
                f"slide {done}", "done", f"rendered of {total}"
            ),
        )
