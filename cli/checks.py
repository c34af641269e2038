"""Before an analysis: doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from morphomil.cli.cohorts import read_cohort
from morphomil.cli.messages import fail, say
from morphomil.cli.options import DistinctIdsOption, MppOption, OutOption, command_group
from morphomil.errors import ExitStatus

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
