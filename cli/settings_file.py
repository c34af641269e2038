"""The file of a project's settings: written, with every option of its commands, from the commands
themselves, and read."""

from __future__ import annotations

import difflib
import inspect
import json
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from morphomil.cli.options import GROUPS
from morphomil.errors import InputError

NAME = "morphomil.yaml"
COMMANDS = (
    *("segment", "import-nuclei", "featurize", "rank"),
    *("embed", "import-features", "train", "figures"),
)
"""Each has a section, with a key for every option."""
RUN = "run"
"""The section on the project itself, before the others."""
OF_A_CALL = {"out", "path", "cohort", "shard", "dry_run", "quiet", "features_from"}
"""Options that `morphomil run` gives itself, or that are of one call."""
HEAD = """\
Settings of this analysis. `morphomil run FOLDER` does every stage with them, and goes on where it
stopped; `morphomil --settings FILE COMMAND` does one. Every setting stands here with its default;
what the command line says comes before what this file says. Lists: [a, b]. Paths start from the
folder where the command runs, which for `morphomil run` is this one."""
WIDTH = 100
MAX_BYTES = 2**20
MAX_DEPTH = 20
"""Settings are no longer, and lie no deeper."""
SHOWN = 80
"""So many characters of a wrong value are repeated."""
Sections = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Setting:
    """An option, as the file has it."""

    name: str
    option: str
    kinds: tuple[Any, ...]
    """The types, and the choices if there are any."""
    default: Any
    info: typer.models.OptionInfo

    @property
    def choices(self) -> list[str]:
        """The values to choose from, where only some are possible."""
        literals = [kind for kind in self.kinds if get_origin(kind) is Literal]
        return [str(choice) for kind in literals for choice in get_args(kind)]


def settings_of(function: Callable[..., Any]) -> dict[str, Setting]:
    """The options of a command, or of any function with such annotations, by name."""
    found: dict[str, Setting] = {}
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        kind, *marks = get_args(parameter.annotation) or (parameter.annotation,)
        info = next((mark for mark in marks if isinstance(mark, typer.models.OptionInfo)), None)
        if info is None or name in OF_A_CALL or parameter.default is parameter.empty:
            continue
        words = [str(word) for word in info.param_decls or () if str(word).startswith("--")]
        option = (words or [f"--{name.replace('_', '-')}"])[0].split("/")[0]
        kinds = (kind,) if get_origin(kind) in (Literal, list) else get_args(kind) or (kind,)
        found[name] = Setting(name, option, kinds, parameter.default, info)
    return found


def known_settings(project: Callable[..., Any]) -> dict[str, dict[str, Setting]]:
    """Section -> its settings by name, of the commands that have been loaded; those of the project
    are the options of `project`."""
    commands = {
        (command.name or getattr(command.callback, "__name__", "")): command.callback
        for group in GROUPS
        for command in group.registered_commands
    }
    return {RUN: settings_of(project)} | {
        name: settings_of(callback) for name in COMMANDS if (callback := commands[name])
    }


def write_text(known: dict[str, dict[str, Setting]], values: Sections) -> str:
    """A file with every setting, its meaning above it; `values` are those that differ from the
    defaults."""
    lines = [f"# {line}" for line in HEAD.splitlines()]
    for section, settings in known.items():
        lines += ["", f"{section}:"]
        for name, setting in settings.items():
            meaning = setting.info.help or ""
            if setting.choices:
                meaning += f" One of {', '.join(setting.choices)}."
            lines += [
                f"  # {line}" for line in textwrap.wrap(meaning, WIDTH - 4, break_long_words=False)
            ]
            lines.append(f"  {name}: {_said(values.get(section, {}).get(name, setting.default))}")
    return "\n".join(lines) + "\n"


def _said(value: Any) -> str:
    """A value in YAML: text in quotes, since unquoted `no` and `001` aren't text there."""
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


def _read_text(path: Path) -> str:
    """The file's text.

    Raises:
        InputError: it can't be read, or is no text, or too long.
    """
    from morphomil.store import check_kind

    try:
        check_kind(path, streams=True)
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise InputError(f"settings {path} are longer than {MAX_BYTES:,} bytes")
        return content.decode("utf-8")
    except OSError as error:
        raise InputError(f"settings {path} can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"settings {path} aren't UTF-8 text") from error


def _parse(text: str, path: Path) -> Any:
    """What the YAML holds, of YAML's safe types; each value is looked at once.

    Raises:
        InputError: it is no YAML, a key stands twice, it has aliases, or lists in lists in lists.
    """
    import yaml

    line = 0
    try:
        _refuse_aliases(text, path)
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        nodes = [] if root is None else [root]
        for node in nodes:
            line = node.start_mark.line + 1
            if isinstance(node, yaml.MappingNode):
                keys = [key.value for key, _ in node.value]
                if twice := [str(key) for key in keys if keys.count(key) > 1]:
                    raise InputError(f"{path}: {twice[0]} stands twice")
                nodes += [part for pair in node.value for part in pair]
            elif isinstance(node, yaml.SequenceNode):
                nodes += node.value
            else:
                loader.construct_object(node)
        return root and loader.construct_document(root)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # the parser raises whatever Python does
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else line
        cause = getattr(error, "problem", None) or _say_short(error)
        raise InputError(f"{path}{f', line {line}' if line else ''}: no YAML: {cause}") from error


def _refuse_aliases(text: str, path: Path) -> None:
    """Aliases, which make a value endless in a few lines, and values deeper than settings are.

    Raises:
        InputError: there is one.
    """
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        where = f"{path}, line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise InputError(f"{where}: settings have no aliases (& and *); write the value itself")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise InputError(f"{where}: too many lists or sections within each other")


def _say_short(value: object) -> str:
    """A value or an error in a sentence, which stays one."""
    said = str(value) if isinstance(value, Exception) else repr(value)
    return said if len(said) <= SHOWN else f"{said[:SHOWN]} ..."


def read_settings(path: Path, known: dict[str, dict[str, Setting]]) -> Sections:
    """The values that differ from none, by section and name.

    Raises:
        InputError: it can't be read, or it has keys or values that aren't known; all of them.
    """
    tree = _parse(_read_text(path), path)
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputError(f"{path} holds no sections, such as segment: and rank:")
    problems: list[str] = []
    sections: Sections = {}
    for section, values in tree.items():
        if section not in known:
            problems.append(f"there is no section {section}; {_nearest_section(section, known)}")
        elif not isinstance(values or {}, dict):
            problems.append(f"section {section} holds no settings, such as name: value")
        else:
            sections[section] = _read_section(section, values or {}, known, problems)
    if problems:
        raise InputError([f"{path}: {problem}" for problem in problems])
    return sections


def _read_section(
    section: str,
    values: dict[Any, Any],
    known: dict[str, dict[str, Setting]],
    problems: list[str],
) -> dict[str, Any]:
    """The values of a section; what is wrong with it is added to the problems."""
    read: dict[str, Any] = {}
    for name, value in values.items():
        setting = known[section].get(name)
        if setting is None:
            problems.append(
                f"there is no setting {name} in {section}; {_nearest(str(name), section, known)}"
            )
        elif value is not None:
            try:
                read[setting.name] = _checked(setting, value)
            except InputError as error:
                problems.append(f"{section}: {name} {error}")
    return read


def _nearest_section(name: Any, known: dict[str, dict[str, Setting]]) -> str:
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"is it {near[0]}?" if near else f"the sections are {', '.join(known)}"


def _nearest(name: str, section: str, known: dict[str, dict[str, Setting]]) -> str:
    """The setting of the section that may be meant, else one of that name elsewhere."""
    written = {setting.option.strip("-"): setting.name for setting in known[section].values()}
    written |= {setting: setting for setting in known[section]}
    if near := difflib.get_close_matches(name.replace("-", "_"), written, n=1):
        return f"is it {written[near[0]]}?"
    if elsewhere := [other for other, settings in known.items() if name in settings]:
        return f"{name} is a setting of {' and '.join(elsewhere)}"
    return f"its settings are {', '.join(known[section])}"


def _checked(setting: Setting, value: Any) -> Any:
    """The value, as the command line would have it.

    Raises:
        InputError: it is of another kind; the sentence goes on after the setting's name.
    """
    if isinstance(value, list) and str in setting.kinds and not setting.choices:
        return ",".join(str(_checked(setting, one)) for one in value)
    if isinstance(value, list) and any(get_origin(kind) is list for kind in setting.kinds):
        return [str(one) for one in value]
    if isinstance(value, bool) != (bool in setting.kinds):
        raise InputError(
            f"is true or false, not {_say_short(value)}"
            if bool in setting.kinds
            else f"is one of {', '.join(setting.choices)}, not {str(value).lower()}"
            if setting.choices
            else f"is read as {str(value).lower()}: put text such as yes, no, on and off in quotes"
        )
    if not isinstance(value, str | int | float):
        raise InputError(f"takes one value, got {_say_short(value)}; put text in quotes")
    if setting.info.parser:
        setting.info.parser(str(value))
        return value
    if setting.choices and str(value) not in setting.choices:
        raise InputError(f"is one of {', '.join(setting.choices)}, not {_say_short(value)}")
    if isinstance(value, bool):
        return value
    if value == "" and Path in setting.kinds:
        raise InputError("is an empty path; name one, or leave it out")
    if {int, float}.isdisjoint(setting.kinds):
        return str(value)
    return _number(setting, value)


def _number(setting: Setting, value: Any) -> float:
    try:
        number = float(value)
    except ValueError:
        raise InputError(f"is a number, not {_say_short(value)}") from None
    except OverflowError:
        raise InputError(f"is larger than any number can be: {_say_short(value)}") from None
    if int in setting.kinds and not number.is_integer():
        raise InputError(f"is a whole number, not {_say_short(value)}")
    low = setting.info.min
    if low is not None and number < low:
        raise InputError(f"is at least {low:g}, not {_say_short(value)}")
    high = setting.info.max
    if high is not None and number > high:
        raise InputError(f"is at most {high:,}, not {_say_short(value)}")
    return int(number) if int in setting.kinds else number
