"""A folder is enough: init makes a project of slides and outcomes, run does every stage of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from morphomil.cli.messages import fail, note, say
from morphomil.cli.options import (
    POSITIVE_HELP,
    SETTINGS,
    QuietOption,
    command_group,
    parse_names,
)
from morphomil.cli.settings_file import NAME, Sections, known_settings, read_settings, write_text
from morphomil.errors import ExitStatus, InputError
from morphomil.types import RankSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from morphomil.cohort.matching import Matched, Outcomes
    from morphomil.types import Cohort

commands = command_group()
SHOWN_ROWS = 50
"""So many rows of a new manifest are printed."""
ProjectArgument = Annotated[
    Path, typer.Argument(help="Folder that `morphomil init` made.", show_default=False)
]


def list_stages(
    manifest: Annotated[Path, typer.Option(help="Manifest (CSV or XLSX).")] = Path("cohort.csv"),
    run: Annotated[Path, typer.Option(help="Run directory.")] = Path("run"),
    models: Annotated[
        str,
        typer.Option(
            help="To train beside the ranking: clinical, dl-cnb, dl-cnb+c, morphometry, "
            "morphometry+clinical."
        ),
    ] = "",
    nuclei: Annotated[
        Path | None,
        typer.Option(help="Folder of another program's nuclei, to import instead of segmenting."),
    ] = None,
    deep_features: Annotated[
        Path | None,
        typer.Option(
            help="Folder of another program's deep features, to import instead of embedding."
        ),
    ] = None,
    features_file: Annotated[
        Path | None, typer.Option(help="File.py that adds features of one's own.")
    ] = None,
) -> list[list[str]]:
    """The commands of a whole analysis, in order; its options are the project's own settings."""
    from morphomil.models.settings import IMAGE_MODELS, check_model

    names, path = parse_names(models), str(run)
    for name in names:
        check_model(name)
    own = ["--features-from", str(features_file)] if features_file else []
    slides = [str(manifest), "--out", path]
    first = ["import-nuclei", *slides, "--nuclei", str(nuclei)] if nuclei else ["segment", *slides]
    stages = [first, ["featurize", path, *own], ["rank", path, *own]]
    if any(name in IMAGE_MODELS for name in names):
        elsewhere = ["import-features", *slides, "--features", str(deep_features)]
        stages.append(elsewhere if deep_features else ["embed", path])
    stages += [["train", path, "--model", name, *own] for name in names]
    if names:
        stages.append(["predict", path, *own])
    return [*stages, *([stage, path, *own] for stage in ("compare", "figures", "report"))]


@commands.command(
    epilog="Example: `morphomil init project --slides slides --outcomes patients.xlsx`"
)
def init(
    path: Annotated[
        Path, typer.Argument(help="Folder to make, or a single example manifest (.csv) to write.")
    ] = Path("cohort.csv"),
    slides: Annotated[
        Path | None, typer.Option(help="Folder of slides; without it an example is written.")
    ] = None,
    outcomes: Annotated[
        Path | None, typer.Option(help="Table of patients or slides (CSV or XLSX).")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="Folder of annotations, named like the slides.")
    ] = None,
    outcome: Annotated[str | None, typer.Option(help="Column of the table: the label.")] = None,
    patient: Annotated[
        str | None, typer.Option(help="Column of the table: the patient, as in names of files.")
    ] = None,
    positive: Annotated[str | None, typer.Option(help=POSITIVE_HELP)] = None,
    mpp: Annotated[
        float | None, typer.Option(help="um per level-0 pixel where files don't say.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace manifest and settings that exist.")
    ] = False,
) -> None:
    """Make a project: a manifest, with slides matched to patients by their names, and a file with
    every setting."""
    from morphomil.cohort.example import EXAMPLE_MANIFEST
    from morphomil.cohort.matching import find_annotations, find_slides, match_cohort

    single = path.suffix.lower() == ".csv"
    manifest = path if single else path / "cohort.csv"
    _refuse_replacing([manifest] if single else [manifest, path / NAME], force=force)
    values: Sections = {"segment": {"mpp": mpp}, "rank": {}, "train": {}}
    if slides is None:
        if given := [name for name in (outcomes, annotations) if name]:
            raise InputError(f"{given[0]} says nothing without slides: name their folder, --slides")
        _write(manifest, EXAMPLE_MANIFEST)
        say(f"Example manifest: {manifest}. Replace its rows by your slides.")
    else:
        if single:
            raise InputError("with --slides, name the project's folder: morphomil init project ...")
        found, notes = find_slides(slides)
        table = _read_outcomes(outcomes, found, outcome, patient) if outcomes else None
        drawn = find_annotations(annotations) if annotations else []
        matched = match_cohort(found, table, annotations=drawn)
        _write_manifest(manifest, matched)
        _show(matched)
        for text in (*notes, *matched.notes):
            note(text)
        chosen = _ask_positive(matched, positive)
        values |= {"rank": {"positive": chosen}, "train": {"positive": chosen}}
        say(f"Manifest: {manifest}, {len(matched.rows)} slides. Look it through; it can be edited.")
    if single:
        say(f"Next: morphomil segment {manifest} --out run")
        return
    _write(path / NAME, write_text(known_settings(list_stages), values))
    say(f"Settings: {path / NAME}. Next: morphomil run {path}")


def _refuse_replacing(files: Sequence[Path], *, force: bool) -> None:
    there = [str(file) for file in files if file.exists()]
    if there and not force:
        verb = "exists" if len(there) == 1 else "exist"
        raise InputError(
            f"{' and '.join(there)} {verb}; name another path, or replace with --force"
        )


def _write(path: Path, text: str) -> None:
    from morphomil.store import write_bytes

    write_bytes(path, text.encode())


def _read_outcomes(
    path: Path, slides: Sequence[Path], outcome: str | None, patient: str | None
) -> Outcomes:
    """The table of outcomes; its columns are those that are named, or have known names, or that
    the user chooses."""
    from morphomil.cohort.matching import Outcomes, guess_columns
    from morphomil.cohort.spreadsheet import read_cells

    header, rows, notes = read_cells(path)
    for text in notes:
        note(text)
    guess = guess_columns(header, rows, slides)
    who = _choose("patient", path, header, patient, guess.patient)
    what = _choose(
        "outcome", path, [name for name in header if name != who], outcome, guess.outcome
    )
    return Outcomes(rows, who if patient or not guess.slide else guess.slide, who, what)


def _choose(
    what: str, path: Path, header: Sequence[str], given: str | None, candidates: Sequence[str]
) -> str:
    """The column that is given, else the only candidate, else what the user says.

    Raises:
        InputError: there is no such column, or nobody to ask.
    """
    import difflib

    if given is not None:
        if given in header:
            return given
        near = difflib.get_close_matches(given, header, n=1)
        hint = f"is it {near[0]}?" if near else f"the columns are {', '.join(header)}"
        raise InputError(f"{path} has no column {given}; {hint}")
    if len(candidates) == 1:
        return candidates[0]
    listed = ", ".join(candidates or header)
    if not sys.stdin.isatty():
        raise InputError(f"which column of {path} is the {what}? Say --{what} and one of: {listed}")
    answer = ""
    while answer not in header:
        answer = typer.prompt(f"Which column is the {what} ({listed})").strip()
    return answer


def _write_manifest(path: Path, matched: Matched) -> None:
    """Write the rows as CSV; paths within the folder start from it, the others are absolute."""
    import pandas as pd

    def place(text: str) -> str:
        file, folder = Path(text).absolute(), path.parent.absolute()
        inside = text and file.is_relative_to(folder)
        return (file.relative_to(folder) if inside else file).as_posix() if text else ""

    table = pd.DataFrame(matched.rows)
    for column in {"slide", "annotation"} & set(table):
        table[column] = table[column].map(place)
    _write(path, table.to_csv(index=False, lineterminator="\n"))


def _show(matched: Matched) -> None:
    """Print who is whose."""
    import pandas as pd

    table = pd.DataFrame(matched.rows)
    for column in {"slide", "annotation"} & set(table):
        table[column] = table[column].map(lambda text: Path(text).name)
    shown = [name for name in ("slide", "patient", "label", "annotation") if name in table]
    say(table[shown].head(SHOWN_ROWS).to_string(index=False))
    if len(table) > SHOWN_ROWS:
        say(f"... and {len(table) - SHOWN_ROWS} more")


def _ask_positive(matched: Matched, given: str | None) -> str | None:
    """The positive label: the one that is given, else what the user says, where that is needed."""
    from morphomil.cohort.labels import sort_labels

    names = sort_labels(row["label"] for row in matched.rows if row["label"])
    if given is not None and given not in names:
        raise InputError(f"no slide has the label {given}; the labels are {', '.join(names)}")
    if given is not None or len(names) != 2 or names == ["0", "1"]:
        return given
    if not sys.stdin.isatty():
        note(f"which label is positive, {' or '.join(names)}? Say so in {NAME}: rank and train")
        return None
    answer = ""
    while answer not in names:
        answer = typer.prompt(f"Which label is positive ({', '.join(names)})").strip()
    return answer


@commands.command(epilog="Example: `morphomil run project`")
def run(project: ProjectArgument, quiet: QuietOption = False) -> None:
    """Do every stage of a project, from the manifest to the report; what is done already is
    skipped."""
    folder = project.parent if project.name == NAME else project
    if not (folder / NAME).is_file():
        raise InputError(
            f"{folder} is no project, as it has no {NAME}; make one with: "
            f"morphomil init {folder} --slides FOLDER"
        )
    sections = read_settings(folder / NAME, known_settings(list_stages))
    stages = list_stages(**sections.get("run", {}))
    validate(folder / stages[0][1], sections, first=stages[0][0], quiet=quiet)
    incomplete = False
    for words in stages:
        if words[0] == "rank" and _is_ranked(folder / words[1], sections.get("rank", {})):
            say(f"\nmorphomil {' '.join(words)}: done already", quiet=quiet)
            continue
        status = run_command(words, folder=folder, settings=Path(NAME), quiet=quiet)
        if status not in (ExitStatus.DONE, ExitStatus.SOME_FAILED):
            sys.exit(status)
        incomplete |= status == ExitStatus.SOME_FAILED
    if incomplete:
        fail(
            "some slides or folds failed, as said above; the others are done",
            ExitStatus.SOME_FAILED,
        )
    say(f"Project {folder} is done.", quiet=quiet)


def run_command(
    words: Sequence[str], *, folder: Path, settings: Path | None = None, quiet: bool = False
) -> int:
    """Run a command in a process of its own (TensorFlow and torch don't share one), in a folder;
    its exit status."""
    say(f"\n$ morphomil {' '.join(words)}", quiet=quiet)
    program = [sys.executable, "-c", "from morphomil.cli.main import run; run()"]
    before = ["--settings", str(settings)] if settings else []
    done = subprocess.run(
        [*program, *before, *words, *(["--quiet"] if quiet else [])],
        check=False,
        cwd=folder,
    )
    return done.returncode


def validate(manifest: Path, sections: Sections, *, first: str = "segment", quiet: bool) -> Cohort:
    """The cohort; before any work a manifest or labels are refused that a later stage would
    refuse. `first` is the stage that reads the manifest."""
    from morphomil.cohort.labels import order_classes, patient_labels
    from morphomil.cohort.manifest import read_manifest
    from morphomil.pipeline.resolution import check_pixel_sizes
    from morphomil.rank.classes import Classes

    given = sections.get(first, {})
    options: dict[str, Any] = {
        name: given[name] for name in ("mpp", "drop_missing", "distinct_ids") if name in given
    }
    covariates = parse_names(given.get("covariates", ""))
    elsewhere = ("nuclei",) if first == "import-nuclei" else ()
    cohort = read_manifest(manifest, covariates=covariates, elsewhere=elsewhere, **options).cohort
    check_pixel_sizes(cohort, given.get("mpp"))
    labels = patient_labels(cohort.table())
    Classes.of(labels, _rank_settings(sections.get("rank", {})))
    if sections.get("run", {}).get("models"):
        order_classes(labels, sections.get("train", {}).get("positive"))
    counts = labels.value_counts().sort_index()
    listed = ", ".join(f"{count} {label}" for label, count in counts.items())
    say(f"{manifest}: {len(cohort)} slides of {len(labels)} patients ({listed})", quiet=quiet)
    return cohort


def _rank_settings(section: dict[str, Any]) -> RankSettings:
    known = SETTINGS[RankSettings]
    return RankSettings(**({"seed": 0} | {k: v for k, v in section.items() if k in known}))


def _is_ranked(path: Path, section: dict[str, Any]) -> bool:
    from morphomil.pipeline.ranking import is_ranked
    from morphomil.run.directory import Run

    return is_ranked(Run.open(path), _rank_settings(section))
