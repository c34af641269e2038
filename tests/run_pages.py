"""Runs blocks of the pages, as `test_docs` lists them, in the folder that it is started in: one
process for them all.

python run_pages.py < steps.json    # [[where, language, text], ...]; the first problem ends it
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

# So that each ends in seconds; what the page says comes after and counts more.
SHORTER = {
    "rank": ["--quick"],
    "train": ["--epochs", "2"],
    "figures": ["--format", "png"],
    "heatmap": ["--slide", "P001"],
}
# These aren't run again, because they take long: the demo that all works on was made by `report`
# too, and a test of its own runs `doctor`.
RUN_ELSEWHERE = {"report", "doctor"}


def main() -> None:
    """Work through the steps; each page has Python names of its own."""
    names: dict[str, dict[str, Any]] = {}
    given: list[list[str]] = []
    for where, language, text in json.load(sys.stdin):
        print(where, file=sys.stderr)
        if language == "python":
            run_python(where, text, names.setdefault(where.split(":")[0], {}))
        else:
            for line in text.replace("\\\n", "").splitlines():
                run_command(shlex.split(line, comments=True), given)


def run_python(where: str, text: str, names: dict[str, Any]) -> None:
    """A block in the names of the blocks before it; one that begins with a file's name is written
    there too."""
    first = text.splitlines()[0]
    if first.startswith("# ") and first.endswith(".py"):
        Path(first[2:]).write_text(text, encoding="utf-8")
    exec(compile(text, where, "exec"), names)


def run_command(words: list[str], given: list[list[str]]) -> None:
    """A line of a shell block; all figures are drawn once only."""
    from morphomil.cli.app import app

    program, *words = words
    if program != "morphomil":
        raise ValueError(f"{program} is no command of ours; say why it isn't run here")
    if words[0] in RUN_ELSEWHERE or (words == ["figures", "run"] and words in given):
        return
    given.append(words)
    app([words[0], *SHORTER.get(words[0], []), *words[1:]], standalone_mode=False)


if __name__ == "__main__":
    main()
