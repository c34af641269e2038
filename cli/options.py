"""Options and arguments that several commands share, and what their texts mean."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from copy import copy
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from morphomil.errors import InputError
from morphomil.numerals import read_digits
from morphomil.types import NATIVE, Device, PatchSettings, RankSettings, SegmenterSettings

if TYPE_CHECKING:
    from morphomil.pipeline.execution import Shard

Command = Callable[..., None]
OutOption = Annotated[
    Path, typer.Option("--out", "-o", help="Run directory, made or gone on with.")
]
RunArgument = Annotated[
    Path, typer.Argument(help="Run directory of `morphomil segment`.", show_default=False)
]
MppOption = Annotated[
    float | None, typer.Option(help="um per level-0 pixel where file and manifest don't say.")
]
CovariatesOption = Annotated[
    str,
    typer.Option(
        help="Further columns of the manifest to keep, comma-separated; default: those of the last "
        "time; none: none."
    ),
]
DropMissingOption = Annotated[
    bool, typer.Option(help="Leave out rows without a label instead of refusing.")
]
DistinctIdsOption = Annotated[
    bool,
    typer.Option(
        "--distinct-ids", help="Near-equal patients, labels and sites (001 and 1) are meant so."
    ),
]
POSITIVE_HELP = "The label that counts as positive (1 where labels are 0/1)."
PositiveOption = Annotated[str | None, typer.Option(help=POSITIVE_HELP)]
SlideOption = Annotated[
    list[str] | None, typer.Option(help="Only this slide; may be given several times.")
]
DeviceOption = Annotated[
    Device,
    typer.Option(help="Where the backbone computes; auto: on a CUDA GPU if there is one."),
]
ShardOption = Annotated[
    str,
    typer.Option(
        help="Work on part i of n, as in 2/8, for job arrays; or of a plan of `morphomil cluster`.",
        metavar="i/n|i/FILE",
    ),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only problems and where the results are.")
]


def parse_resolution(text: str | float) -> float:
    """um per pixel, or `NATIVE`.

    Raises:
        InputError: it is neither a number nor native.
    """
    from morphomil.cohort.numbers import parse_number

    if text == "native":
        return NATIVE
    try:
        return parse_number(str(text))
    except ValueError:
        raise InputError(
            f"--working-mpp is um per pixel, as in 0.5, or native; got {text!r}"
        ) from None


def parse_rate(text: str | float) -> float:
    """A positive number.

    Raises:
        InputError: it is none, or not finite.
    """
    from morphomil.cohort.numbers import parse_number

    try:
        rate = parse_number(str(text))
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise InputError(f"--learning-rate is a positive number, as in 0.001; got {text!r}")
    return rate


SETTINGS: dict[type, dict[str, Any]] = {
    PatchSettings: {
        "working_mpp": typer.Option(
            parser=parse_resolution,
            metavar="UM|native",
            help="um per pixel to cut and segment patches at, or native: the coarsest image's.",
        ),
        "patch_px": typer.Option("--patch", help="Side of a patch, working pixels."),
        "max_blank": typer.Option(help="Drop patches with this blank share or more."),
        "max_ink": typer.Option(help="Drop patches with this share of ink, or more."),
        "grid": typer.Option(
            help="Where a region's patches begin: paper (its corner), or fit (to lose least of it)."
        ),
        "icc": typer.Option(
            "--icc/--no-icc", help="Bring colors of slides with an ICC profile to sRGB."
        ),
        "regions": typer.Option(help="Where the tumor is."),
        "tumor_classes": typer.Option(
            help="Annotated classes that are tumor, comma-separated; default: Tumor, Carcinoma, ..."
        ),
    },
    SegmenterSettings: {
        "model": typer.Option(
            help="default, noncommercial (license CC BY-NC-SA), a model folder (of train-segmenter "
            "or StarDist), or a StarDist pretrained name."
        ),
        "normalize": typer.Option(help="Pixel values for the model; default: its own way."),
        "engine": typer.Option(help="openvino: fast on CPUs; tensorflow: the reference, GPUs."),
        "device": typer.Option(help="auto: a CUDA GPU where there is one, else cpu."),
        "precision": typer.Option(help="Of openvino; auto: int8 with the shipped weights."),
        "accurate": typer.Option(
            "--accurate", help="Average four mirrored predictions; 4 x the time."
        ),
        "normalize_stain": typer.Option(
            help="Bring hematoxylin and eosin to a reference first (Macenko); auto: where they are "
            "unusual and the network is surer then."
        ),
        "implausible": typer.Option(
            help="Objects that are no nuclei (fat, red cells, pigment, ink, ...): drop or keep."
        ),
    },
    RankSettings: {
        "positive": typer.Option(help=POSITIVE_HELP),
        "ordered": typer.Option(
            help="Three labels or more that have an order, lowest first: low,mid,high."
        ),
        "folds": typer.Option(
            help="Cross-validation folds, where the manifest gives no split.", min=2
        ),
        "seed": typer.Option(help="Seed of folds, bags and training."),
        "quick": typer.Option(
            "--quick", help="Three trainings per fold; tests by the plain scan alone."
        ),
        "permutations": typer.Option(
            help="Trainings with permuted labels, for p values.", min=0, max=10**6
        ),
        "strata": typer.Option(help="Compare within the groups of these columns: site,scanner."),
        "adjust": typer.Option(help="Rank what features add to these columns: age,site."),
        "folds_by": typer.Option(
            help="Predict each group of this column, such as site, by the others' models."
        ),
        "allow_missing": typer.Option(
            help="Rank these features though it tells labels apart who lacks them."
        ),
        "only_reviewed": typer.Option(
            "--only-reviewed",
            help="Only slides with reviewed nuclei (of view), without those that were rejected.",
        ),
    },
}
"""Each field of these settings is an option; its type and default are the field's."""


class _Command(TyperCommand):
    """An empty path, as of a variable that isn't set, is no path; Python takes it for the current
    folder. A number has the digits 0 to 9 with nothing between them; Python takes 0_5 for 5."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = self.make_parser(ctx).parse_args(args=list(args))[0]
        options: list[Any] = list(self.params)
        for option in options:
            value, kind = given.get(option.name), option.type_descriptor
            if kind.is_path and value == "":
                raise typer.BadParameter("it is empty; name a path", ctx=ctx, param=option)
            odd = isinstance(value, str) and ("_" in value or not value.isascii())
            if odd and kind.annotation in (int, float):
                raise typer.BadParameter(f"{value!r} is no number", ctx=ctx, param=option)
        return super().parse_args(ctx, args)


class _Group(typer.Typer):
    def command(self, *names: Any, **options: Any) -> Any:
        return super().command(*names, cls=_Command, **options)


GROUPS: list[typer.Typer] = []
"""The groups of commands that have been loaded."""


def command_group() -> typer.Typer:
    """A group of commands, to be added to the program."""
    GROUPS.append(_Group(no_args_is_help=True, rich_markup_mode="markdown"))
    return GROUPS[-1]


def with_settings(**helps: str) -> Callable[[Command], Command]:
    """Decorates a command that takes whole settings: they become an option for each field.

    A parameter whose type is in `SETTINGS` stands for the options of its fields, with the values of
    the parameter's default; `helps` are those help texts that differ in this command.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        grouped = {
            name: parameter.annotation
            for name, parameter in signature.parameters.items()
            if parameter.annotation in SETTINGS
        }

        @wraps(command)
        def parsed(**values: Any) -> None:
            settings = {
                name: kind(**{field: values.pop(field) for field in SETTINGS[kind]})
                for name, kind in grouped.items()
            }
            command(**values, **settings)

        options = [
            option.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in signature.parameters.items()
            for option in (
                _options_of(parameter.default, helps) if name in grouped else [parameter]
            )
        ]
        parsed.__signature__ = signature.replace(parameters=options)  # type: ignore[attr-defined]
        return parsed

    return decorate


def _options_of(defaults: Any, helps: dict[str, str]) -> list[inspect.Parameter]:
    """One option for each field of settings."""
    hints = get_type_hints(type(defaults))
    parameters = []
    for name, shared in SETTINGS[type(defaults)].items():
        option = copy(shared)
        option.help = helps.get(name, option.help)
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=getattr(defaults, name),
                annotation=Annotated[hints[name], option],
            )
        )
    return parameters


def parse_names(text: str) -> tuple[str, ...]:
    """The names of a list with commas between."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def parse_families(text: str) -> tuple[str, ...]:
    """The families of features that `+FAMILY,+FAMILY` adds.

    Raises:
        InputError: a name is without its plus.
    """
    names = parse_names(text)
    if bare := [name for name in names if not name.startswith("+")]:
        raise InputError(f"--features adds families, as in +type; got {', '.join(bare)}")
    return tuple(name.removeprefix("+") for name in names)


def parse_shard(text: str) -> Shard:
    """The part of a cohort that `i/n` names, or `i/FILE`, a plan.

    Raises:
        InputError: it isn't so written, or there is no such part or plan.
    """
    from morphomil.pipeline.execution import Shard
    from morphomil.pipeline.planning import read_plan

    index, _, rest = text.partition("/")
    part, count = read_digits(index), read_digits(rest)
    if part is None or not rest or (count is None and rest.isdecimal()):
        shown = text if len(text) <= 80 else f"{text[:80]} ..."
        raise InputError(f"--shard is i/n, as in 2/8, or i/plan.csv; got {shown!r}")
    if count is not None:
        return Shard(part, count)
    parts = read_plan(Path(rest))
    return Shard(part, max(parts.values(), default=1), parts)
