"""An analysis on a cluster: a folder that Snakemake works on, for the stages of `morphomil run`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import morphomil
from morphomil.cli.messages import end_if_failed, note, say
from morphomil.cli.options import (
    SETTINGS,
    MppOption,
    OutOption,
    QuietOption,
    command_group,
)
from morphomil.cli.project import list_stages, validate
from morphomil.cli.settings_file import NAME, Sections, known_settings, read_settings, write_text
from morphomil.errors import InputError
from morphomil.types import CORES, PatchSettings, RankSettings, SegmenterSettings

if TYPE_CHECKING:
    import pandas as pd

    from morphomil.pipeline.estimation import Estimate
    from morphomil.types import Cohort

commands = command_group()
WORKFLOW = Path(morphomil.__file__).with_name("workflow")
SCHEMA = WORKFLOW / "config.schema.yaml"
PLAN = "plan.csv"
LOST = "lost_slides.csv"
BY_SLIDE = ("segment", "featurize", "embed")
"""Stages that work slide by slide, and so in parts."""
FolderArgument = Annotated[Path, typer.Argument(help="Folder that `morphomil cluster init` made.")]
CONFIG = """\
# The cluster: what each kind of job asks for. A job that fails is tried again with twice the memory
# and time. minutes: what is expected; a job may take twice that, and at least 10 (least_minutes).
# Of segment, featurize and embed the minutes are those of {plan}, times what is said here (a GPU
# embeds in a fraction of it). Each stage may have a partition and gres of its own, such as
# gres: "gpu:1" for embed.
program: morphomil
# As SLURM calls them; empty: its defaults.
partition: ""
account: ""
# About {memory} MB for one slide after the other; each thread holds another slide.
segment: {{threads: {threads}, memory_mb: {segment_mb}}}
featurize: {{threads: {threads}, memory_mb: {segment_mb}}}
embed: {{threads: {threads}, memory_mb: {segment_mb}, times: {embed}, partition: "", gres: ""}}
gather: {{memory_mb: 4000, minutes: {gather}}}
# {slides} slides, about {patches} patches. rank trains in so many jobs (parts) before the last one.
rank: {{threads: {threads}, memory_mb: {rank_mb}, minutes: {rank}, parts: 5}}
train: {{threads: {threads}, memory_mb: {later_mb}, minutes: {train}}}
predict: {{memory_mb: {later_mb}, minutes: 60}}
compare: {{memory_mb: {later_mb}, minutes: 30}}
figures: {{memory_mb: {later_mb}, minutes: 60}}
report: {{memory_mb: {later_mb}, minutes: 60}}
"""
SEGMENT_MB, THREAD_MB = 2000, 600
"""The network with its image, and what every further slide at a time takes."""
LATER_MB, PATCH_KB = 3000, 10
"""The stages after the slides: the program, and what every patch of the cohort takes."""
LEAST_MINUTES = 10
"""Of a job that works on all slides at once."""


@dataclass(frozen=True)
class Workflow:
    """What the jobs of a folder do."""

    run: Path
    slides: dict[str, list[str]]
    """Stages that work in parts: name -> words of the command."""
    minutes: dict[int, float]
    """Part -> how long it takes to segment."""
    after: list[tuple[str, list[str]]]
    """Stages that work on all at once, one after the other."""


def read_workflow(folder: Path) -> Workflow:
    """What the jobs of a folder of `cluster init` do: the stages of `morphomil run`.

    Raises:
        InputError: it is no such folder, or its settings can't be used.
    """
    from morphomil.pipeline.planning import part_minutes

    sections = read_settings(folder / NAME, known_settings(list_stages))
    stages = list_stages(**sections.get("run", {}))
    run = folder / stages[0][stages[0].index("--out") + 1]
    return Workflow(
        run,
        {words[0]: words for words in stages if words[0] in BY_SLIDE},
        part_minutes(folder / PLAN),
        [(_name(words), words) for words in stages if words[0] not in BY_SLIDE],
    )


def _name(words: list[str]) -> str:
    """`train-dl-cnb`, else the command."""
    model = words[words.index("--model") + 1 :][:1] if "--model" in words else []
    return "-".join([words[0], *model])


@commands.command(epilog="Example: `morphomil cluster init cohort.csv --out run`")
def init(
    manifest: Annotated[Path, typer.Argument(help="Manifest (CSV or XLSX).", show_default=False)],
    out: OutOption,
    folder: Annotated[
        Path, typer.Option(help="Folder to make; one of `morphomil init` keeps its settings.")
    ] = Path("cluster"),
    mpp: MppOption = None,
    minutes: Annotated[
        float, typer.Option(help="A job segments for about so long, or one slide.", min=1)
    ] = 20,
    threads: Annotated[int, typer.Option(help="Of a job.", min=1)] = 4,
    force: Annotated[
        bool, typer.Option("--force", help="Replace plan and configuration that exist.")
    ] = False,
) -> None:
    """Make a folder for Snakemake: which slides make a job, what jobs ask for, profiles; cd there
    and: snakemake --profile slurm."""
    from morphomil.pipeline.planning import plan_parts, write_plan

    names = ("Snakefile", "config.yaml", PLAN, "local/config.yaml", "slurm/config.yaml")
    if (there := [name for name in names if (folder / name).exists()]) and not force:
        raise InputError(
            f"{folder} has {', '.join(there)}; name another --folder, or replace with --force"
        )
    run, manifest = out.absolute(), manifest.absolute()
    if not manifest.is_file():
        raise InputError(f"manifest {manifest} can't be read: there is no such file")
    sections = _settings(folder, manifest, run, mpp)
    cohort = validate(manifest, sections, quiet=True)
    estimate = _estimate(cohort, run, sections)
    plan = plan_parts(cohort, seconds=estimate.seconds * CORES / threads, minutes=minutes)
    write_plan(folder / PLAN, plan)
    _write_files(folder, estimate, threads)
    for name, cause in estimate.problems.items():
        note(f"slide {name}: {cause}")
    jobs = plan.groupby("part")["seconds"].sum() / 60
    cores = f"{threads} threads" if threads > 1 else "1 thread"
    say(
        f"{len(cohort)} slides; jobs: {len(jobs)}, of {jobs.min():.0f} to {jobs.max():.0f} minutes "
        f"(with {cores} like these). Settings: {folder / NAME}, {folder / 'config.yaml'}."
    )
    say(f"Next: cd {folder} && snakemake --profile slurm   (here: --profile local)")


def _settings(folder: Path, manifest: Path, run: Path, mpp: float | None) -> Sections:
    """The settings of the analysis, which are written where there are none.

    Raises:
        InputError: those that there are mean another manifest or run.
    """
    from morphomil.store import write_bytes

    known, path = known_settings(list_stages), folder / NAME
    wanted = {"manifest": str(manifest), "run": str(run)}
    if not path.exists():
        sections: Sections = {"run": wanted, "segment": {"mpp": mpp}}
        write_bytes(path, write_text(known, sections).encode())
    sections = read_settings(path, known)
    said = sections.get("run", {})
    for name, default in (("manifest", "cohort.csv"), ("run", "run")):
        if (folder / said.get(name, default)).absolute() != Path(wanted[name]):
            raise InputError(
                f"{path} says run: {name}: {said.get(name, default)}, which isn't {wanted[name]}"
            )
    if mpp is not None and sections.get("segment", {}).get("mpp") != mpp:
        raise InputError(f"{path} doesn't say segment: mpp: {mpp:g}; change it there")
    return sections


def _estimate(cohort: Cohort, run: Path, sections: Sections) -> Estimate:
    from morphomil.pipeline.estimation import estimate_segment

    segment = sections.get("segment", {})

    def chosen(kind: type) -> dict[str, Any]:
        parsers = {name: option.parser for name, option in SETTINGS[kind].items()}
        return {
            name: parsers[name](value) if parsers[name] else value
            for name, value in segment.items()
            if name in parsers
        }

    return estimate_segment(
        cohort,
        run,
        settings=PatchSettings(**chosen(PatchSettings)),
        mpp=segment.get("mpp"),
        segmenter=SegmenterSettings(**chosen(SegmenterSettings)),
    )


def _write_files(folder: Path, estimate: Estimate, threads: int) -> None:
    from morphomil.pace import machine_pace
    from morphomil.pipeline.costs import EPOCHS, MOST_EPOCHS
    from morphomil.rank.costs import foretell_ranking
    from morphomil.store import write_bytes

    costs = estimate.costs
    ranking = foretell_ranking(
        estimate.slides, RankSettings(seed=0), pace=machine_pace(), cores=threads
    )
    later = LATER_MB + estimate.patches * PATCH_KB // 1024
    config = CONFIG.format(
        plan=PLAN,
        threads=threads,
        memory=SEGMENT_MB,
        segment_mb=SEGMENT_MB + THREAD_MB * threads,
        gather=10 + estimate.slides // 60,
        slides=f"{estimate.slides:,}",
        patches=f"{estimate.patches:,}",
        later_mb=later,
        rank_mb=1000 + int(ranking.memory_bytes / 2**20),
        rank=LEAST_MINUTES + math.ceil(ranking.seconds / 60),
        train=LEAST_MINUTES + math.ceil(costs["train"].seconds * MOST_EPOCHS / EPOCHS / 60),
        embed=max(1, math.ceil(costs["embed"].seconds / max(costs["segment"].seconds, 1))),
    )
    write_bytes(folder / "config.yaml", config.encode())
    for source, name in (
        ("start.smk", "Snakefile"),
        ("local.yaml", "local/config.yaml"),
        ("slurm.yaml", "slurm/config.yaml"),
    ):
        write_bytes(folder / name, (WORKFLOW / source).read_bytes())


@commands.command(epilog="Example: `morphomil cluster check`")
def check(folder: FolderArgument = Path(), quiet: QuietOption = False) -> None:
    """Refuse, before any work, a manifest or labels that a later job would refuse, and a plan of
    other slides."""
    from morphomil.pipeline.planning import read_plan

    sections = read_settings(folder / NAME, known_settings(list_stages))
    manifest = folder / list_stages(**sections.get("run", {}))[0][1]
    cohort = validate(manifest, sections, quiet=quiet)
    slides = {slide.slide_id for slide in cohort.slides}
    if unplanned := sorted(slides - read_plan(folder / PLAN).keys()):
        raise InputError(
            f"{folder / PLAN} lacks {len(unplanned)} slides of {manifest}, such as "
            f"{unplanned[0]}; run morphomil cluster init again, with --force"
        )


@commands.command(epilog="Example: `morphomil cluster gather`")
def gather(folder: FolderArgument = Path(), quiet: QuietOption = False) -> None:
    """After the slides: write the cohort's tables, and list the slides that are left out."""
    from morphomil.cli.slides import write_cohort_tables
    from morphomil.run.directory import Run
    from morphomil.store import write_table_csv

    run = Run.open(read_workflow(folder).run)
    write_cohort_tables(run)
    lost, path = _lost_slides(run), folder / LOST
    path.unlink(missing_ok=True)
    if len(lost):
        write_table_csv(path, lost)
    say(f"{len(run.done('featurize'))} of {len(run.cohort)} slides are measured.", quiet=quiet)
    causes = dict(zip(lost["slide_id"], lost["cause"], strict=True))
    end_if_failed(causes, "slides are left out, the others are done")


def _lost_slides(run: Any) -> pd.DataFrame:
    """Which slides failed, are empty or weren't tried, at which stage: `slide_id`, `patient`,
    `label`, `stage`, `state`, `cause`."""
    import pandas as pd

    from morphomil.run.embeddings import Embeddings

    ledgers = {"segment": run.ledger, "featurize": run.ledger}
    ledgers |= {
        f"embed {folder.name}": Embeddings(run, folder.name).ledger
        for folder in run.backbone_folders
    }
    rows = []
    for slide in run.cohort.slides:
        for stage, ledger in ledgers.items():
            name = stage.split()[0]
            if (state := ledger.state(slide.slide_id, name)) != "done":
                cause = ledger.cause(slide.slide_id, name)
                rows.append((slide.slide_id, slide.patient, slide.label, stage, state, cause))
                break
    columns = ["slide_id", "patient", "label", "stage", "state", "cause"]
    return pd.DataFrame(rows, columns=columns)
