"""Whether two run directories hold the same results: `python tests/compare_runs.py ONE OTHER`.

Files are compared byte by byte. Left out is only what no two runs share: times, versions, how often
a command ran, and the folder that a run stands in. Prints every file that differs, or that one of
the two lacks; exit status 1 if there is any.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

LEFT_OUT = {"seconds", "finished", "versions", "at"}
"""Keys of JSON files and columns of `test_log.csv` that tell when and by what a result was made."""
LOCKS = re.compile(r"^\.lock|\.tmp$")


def files_of(run: Path) -> dict[str, Path]:
    """Every file of a run by its path from there, without locks and leftovers."""
    found = (path for path in sorted(run.rglob("*")) if path.is_file())
    return {p.relative_to(run).as_posix(): p for p in found if not LOCKS.search(p.name)}


def content(path: Path, run: Path) -> bytes:
    """What counts of a file."""
    if path.suffix == ".json":
        told = _without_times(json.loads(path.read_text(encoding="utf-8")))
        if path == run / "run.json":
            told = _commands(told)
        return _elsewhere(json.dumps(told, sort_keys=True).encode(), run)
    if path.name == "test_log.csv":
        lines = path.read_text(encoding="utf-8").splitlines()
        place = lines[0].split(",").index("at")
        return "\n".join(_without_cell(line, place) for line in lines).encode()
    raw = path.read_bytes()
    return _elsewhere(raw, run) if path.suffix in {".html", ".csv", ".tex", ".txt", ".md"} else raw


def _commands(log: Any) -> object:
    """What the last of each command was; parts of a stage log it each, in the order of their
    ends."""
    return {entry["command"]: entry for entry in log["commands"]}


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_times(v) for name, v in value.items() if name not in LEFT_OUT}
    return [_without_times(v) for v in value] if isinstance(value, list) else value


def _without_cell(line: str, place: int) -> str:
    cells = line.split(",")
    return ",".join(cells[:place] + cells[place + 1 :])


def _elsewhere(raw: bytes, run: Path) -> bytes:
    return raw.replace(str(run.absolute()).encode(), b"RUN").replace(str(run).encode(), b"RUN")


def differences(one: Path, other: Path) -> list[str]:
    """A line for each file that isn't the same in both."""
    here, there = files_of(one), files_of(other)
    lines = [f"only in {one}: {name}" for name in here.keys() - there.keys()]
    lines += [f"only in {other}: {name}" for name in there.keys() - here.keys()]
    for name in here.keys() & there.keys():
        if content(here[name], one) != content(there[name], other):
            lines.append(f"differs: {name}")
    return sorted(lines)


def main() -> None:
    """Compare the two folders that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("one", type=Path)
    parser.add_argument("other", type=Path)
    arguments = parser.parse_args()
    lines = differences(arguments.one, arguments.other)
    print("\n".join(lines) or f"the same: {len(files_of(arguments.one))} files")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
