"""Every block of the pages is run: commands on a copy of ten slides of the demo, Python beside it.

A block that isn't run here has a comment above it, which only the source shows:
<!-- Not run in the tests: reason. -->
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from typer.main import get_command

from morphomil.cli.app import app
from morphomil.export import export_run
from morphomil.run.directory import Run
from morphomil.slides.image import open_image

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ORDER = (
    "README",
    "install",
    "tour",
    "howto",
    "formats",
    "features",
    "segmenter",
    "image_model",
    "ranking",
)
BLOCK = re.compile(
    r"(?:^<!-- Not run in the tests: "
    r"([^\n]+)\. -->\n\n)?^```(\S*)\n(.*?)^```",
    re.MULTILINE | re.DOTALL,
)
SHOWN = ("text", "json")
"""Languages of blocks that are only to be read."""


def blocks(page: Path) -> list[tuple[str, str]]:
    return [match.groups()[1:] for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    """Those that aren't run too."""
    for language, text in blocks(page):
        for line in text.replace("\\\n", "").splitlines():
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


def steps(*languages: str) -> list[list[str]]:
    """Where, language and text of every block that is run, from the README to the last page."""
    places = {name: number for number, name in enumerate(ORDER)}
    found = []
    for page in sorted(PAGES, key=lambda page: (places.get(page.stem, len(places)), page.stem)):
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            reason, language, block = match.groups()
            where = f"{page.name}:{text.count(chr(10), 0, match.start(2)) + 1}"
            if not reason and language in languages:
                found.append([where, language, block])
    return found


def test_every_block_is_of_a_known_kind_and_few_are_not_run() -> None:
    kinds = [
        (page.name, *match.groups()[:2])
        for page in PAGES
        for match in BLOCK.finditer(page.read_text("utf-8"))
    ]
    assert {kind for _, _, kind in kinds} <= {"", "python", *SHOWN, "{toctree}", "{eval-rst}"}
    assert sum(kind == "" and not reason for _, reason, kind in kinds) >= 15
    assert [kind for _, reason, kind in kinds if reason is not None] == 15 * [""]


@pytest.fixture(scope="module")
def folder(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages speak of: `cohort.csv`, `run`, `labels`, `data`, `region.jpg`, `nuclei.csv`;
    groups N0 and N+."""
    folder = tmp_path_factory.mktemp("pages")
    cohort = pd.read_csv(demo / "cohort" / "cohort.csv").head(10)
    for column in ("slide", "annotation"):
        cohort[column] = [str(demo / "cohort" / path) for path in cohort[column]]
    rng = np.random.default_rng(0)
    receptors = dict.fromkeys(
        ("er", "pr", "her2"), 1
    )  # the same for all, so that models of so few patients end soon
    cohort = cohort.assign(
        slide_id=cohort["patient"], label=np.where(cohort["label"] == 1, "N+", "N0")
    )
    cohort.assign(tumor_size=rng.normal(2, 1, len(cohort)).round(1), **receptors).to_csv(
        folder / "cohort.csv", index=False
    )
    run = Run.open(demo / "run")
    shutil.copytree(
        run.path,
        folder / "run",
        ignore=shutil.ignore_patterns("figures", "nuclei", "P01[1-9]", "P02*"),
    )
    nuclei = pd.concat([run.nuclei(name) for name in cohort["slide_id"]])
    nuclei.to_csv(folder / "nuclei.csv", index=False)
    export_run(run, "qupath", out=folder / "labels", slides=cohort["slide_id"].tolist())
    (folder / "data").mkdir()
    box = np.s_[500:884, 700:1084]
    for number, name in enumerate(cohort["slide_id"][:2]):
        with open_image(run.slide(name).images[0]) as slide:
            Image.fromarray(slide.read(700, 500, 384, 384, downsample=1)).save(
                folder / "data" / f"{number}.png"
            )
        truth = tifffile.imread(demo / "cohort" / "truth" / f"{name}_labels.tif")[box]
        tifffile.imwrite(folder / "data" / f"{number}_labels.tif", truth)
    pd.DataFrame(
        {"image": ["0.png", "1.png"], "labels": ["0_labels.tif", "1_labels.tif"], "mpp": 0.5}
    ).to_csv(folder / "images.csv", index=False)
    Image.open(folder / "data" / "0.png").save(folder / "region.jpg")
    return folder


# Python first: commands use a file that a block writes.
@pytest.mark.parametrize("language", ["python", ""], ids=["python", "commands"])
def test_every_block_runs(language: str, folder: Path) -> None:
    script = Path(__file__).with_name("run_pages.py")
    given = json.dumps(steps(language))
    done = subprocess.run(
        [sys.executable, str(script)], input=given, cwd=folder, text=True, check=False
    )
    assert done.returncode == 0
