"""Every command of the pages parses, every Python block compiles and imports what there is."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from morphomil.cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_imports_exist(page: Path) -> None:
    for language, text in blocks(page):
        if language == "python":
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("morphomil"):
                    module = importlib.import_module(node.module)
                    assert all(hasattr(module, one.name) for one in node.names), ast.unparse(node)
        for line in text.splitlines():
            if not language and line.startswith("morphomil "):
                parse(shlex.split(line, comments=True)[1:])


def parse(words: list[str]) -> None:
    command = get_command(app)
    context = command.make_context("morphomil", [], resilient_parsing=True)
    while words and hasattr(command, "commands"):
        name, *words = words
        command = command.get_command(context, name)
        assert command is not None, f"no command {name}"
    assert command.make_context(command.name, words).params


def test_a_wrong_option_is_noticed() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse(["rank", "run", "--positiv", "1"])


def test_pictures_of_the_pages_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / name).is_file(), f"{page.name}: {name}"
