"""Before an analysis: doctor, init."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from morphomil.cli.cohorts import read_cohort
from morphomil.cli.messages import fail, say
from morphomil.cli.options import DistinctIdsOption, MppOption, OutOption, command_group
from morphomil.errors import ExitStatus, InputError

commands = command_group()


@commands.command(epilog="Example: `morphomil doctor --manifest cohort.csv`")
def doctor(
    manifest: Annotated[Path | None, typer.Option(help="Manifest to check too.")] = None,
    mpp: MppOption = None,
    distinct_ids: DistinctIdsOption = False,
    out: OutOption = Path("run"),
) -> None:
    """Check the installation: packages, weights, engines, GPUs, disk, and a manifest if one is
    given."""
    from morphomil.doctor import examine

    problems = 0
    for finding in examine(out):
        problems += finding.state == "problem"
        say(f"{finding.state:<8} {finding.topic:<12} {finding.text}")
    if manifest:
        from morphomil.pipeline.resolution import check_pixel_sizes

        cohort = read_cohort(manifest, mpp=mpp, distinct_ids=distinct_ids)
        check_pixel_sizes(cohort, mpp)
        patients = len({slide.patient for slide in cohort.slides})
        say(f"{'ok':<8} {'manifest':<12} {len(cohort)} slides of {patients} patients")
    if problems:
        fail(f"{problems} problems were found", ExitStatus.INTERNAL_ERROR)
    say("No problems were found.")


@commands.command(epilog="Example: `morphomil init project`")
def init(
    path: Annotated[
        Path, typer.Argument(help="Folder to make, or a single manifest (.csv) to write.")
    ] = Path("cohort.csv"),
) -> None:
    """Write an example manifest to fill in; in a folder also the settings and commands of an
    analysis."""
    from morphomil.cohort.example import EXAMPLE_COMMANDS, EXAMPLE_MANIFEST
    from morphomil.store import write_bytes

    single = path.suffix.lower() == ".csv"
    texts = {path: EXAMPLE_MANIFEST} if single else {}
    texts = texts or {path / "cohort.csv": EXAMPLE_MANIFEST, path / "analysis.sh": EXAMPLE_COMMANDS}
    if there := [str(file) for file in texts if file.exists()]:
        verb = "exists" if len(there) == 1 else "exist"
        raise InputError(
            f"{' and '.join(there)} {verb}; name another {'file' if single else 'folder'}"
        )
    for file, text in texts.items():
        write_bytes(file, text.encode())
    manifest = next(iter(texts))
    say(f"Example manifest: {manifest}. Replace its rows by your slides, then:")
    say(
        f"morphomil segment {path} --out run"
        if single
        else f"cd {path} && bash analysis.sh (settings at its head)"
    )
