"""The commands as a user types them: what they leave, what they say of bad input, and their exit
status."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image

from morphomil.cli.app import app
from morphomil.cli.cohorts import read_cohort
from morphomil.cli.synthetic import _stages
from morphomil.run.directory import Run
from morphomil.segment.train import TrainSettings
from morphomil.types import PatchSettings, RankSettings, SegmenterSettings


def morphomil(*words: str | Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("morphomil")
    return subprocess.run(
        [str(program), *map(str, words)], capture_output=True, text=True, check=False
    )


def write_image(path: Path) -> Path:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(120, 250, (300, 300, 3)).astype(np.uint8)).save(path)
    return path


def write_manifest(folder: Path, **columns: list[str]) -> Path:
    pd.DataFrame(columns).to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv"


def test_the_demo_finds_the_planted_feature(demo: Path) -> None:
    ranking = pd.read_csv(demo / "run" / "rank" / "ranking.csv")
    assert ranking["feature"].iloc[0] == "density_per_mm2"
    assert ranking["p_holm"].iloc[0] < 0.05
    assert ranking["direction"].iloc[0] == "higher"
    assert (ranking["attention_low"] <= ranking["attention"]).all()
    about = json.loads((demo / "run" / "rank" / "about.json").read_text())
    assert about["auc"] > 0.7
    predictions = pd.read_parquet(demo / "run" / "rank" / "predictions.parquet")
    assert len(predictions) == predictions["patient"].nunique() == 24


def test_the_demo_ends_with_the_image_model_and_its_comparison() -> None:
    """Its stages are those of the tour, whose blocks are run."""
    stages = _stages(Path("cohort.csv"), Path("run"), image_model=True)
    names = [words[0] for words in stages]
    assert names[3:] == ["embed", "train", "predict", "compare", "report"]
    tour = (Path(__file__).parents[1] / "docs" / "tour.md").read_text(encoding="utf-8")
    block = next(part for part in tour.split("```") if "morphomil segment cohort.csv" in part)
    assert [line.split()[1] for line in block.strip().splitlines()] == names
    assert len(_stages(Path("cohort.csv"), Path("run"), image_model=False)) == 4


def test_the_demo_leaves_figures_and_a_report(demo: Path) -> None:
    run = demo / "run"
    for stem in ("ranking", "features_by_group", "roc"):
        assert all(
            (run / "figures" / f"{stem}.{kind}").stat().st_size > 500
            for kind in ("png", "pdf", "svg", "csv")
        )
    for slide in Run.open(run).cohort.slides:
        assert (run / "slides" / slide.slide_id / "overview.png").is_file()
        for name in ("overview", "density_per_mm2", "nuclei"):
            assert (run / "figures" / "slides" / slide.slide_id / f"{name}.png").is_file()
    page = (run / "report.html").read_text(encoding="utf-8")
    HTMLParser().feed(page)
    assert not re.search(r"""(src|href)=["']https?:""", page)
    assert "P024" in page


def test_run_json_tells_what_was_done(demo: Path) -> None:
    commands = Run.open(demo / "run").commands()
    assert list(commands) == ["segment", "featurize", "rank"]
    assert re.fullmatch("[0-9a-f]{64}", commands["segment"]["settings"]["model_sha256"])
    assert commands["rank"]["versions"]["morphomil"]


def test_every_command_has_help_with_an_example() -> None:
    overview = morphomil("--help")
    assert overview.returncode == 0
    commands = re.findall(r"^│ ([a-z-]+) ", overview.stdout, flags=re.MULTILINE)
    assert {
        "segment",
        "featurize",
        "rank",
        "report",
        "demo",
        "phantom",
        "init",
        "train-segmenter",
    } <= set(commands)
    for name in ("segment", "rank", "train-segmenter"):
        assert f"Example: morphomil {name}" in " ".join(
            morphomil(name, "--help").stdout.replace("│", "").split()
        )


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["segment", "nowhere.csv", "--out", "run"], 2, "nowhere.csv"),
        (["featurize", "nowhere"], 2, "no run directory"),
        (["rank", "nowhere"], 2, "no run directory"),
        (["report", "nowhere"], 2, "no run directory"),
        (["segment"], 2, "cohort"),
        (["conquer"], 2, "conquer"),
        (["featurize", "run", "--nuclei", "some"], 2, "'--nuclei': 'some' is not one of"),
    ],
)
def test_bad_calls_are_told_in_a_sentence(words: list[str], status: int, message: str) -> None:
    result = morphomil(*words)
    assert result.returncode == status
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["export", "run", "--to", "csv", "--out", ""],
        ["featurize", "run", "--features-from="],
        ["featurize", ""],
        ["init", ""],
        ["cluster", "init", "cohort.csv", "--out="],
        ["cohort", "bcnb", ""],
    ],
)
def test_an_empty_path_is_refused(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = morphomil(*words)
    assert result.returncode == 2
    assert "it is empty; name a path" in result.stderr


@pytest.mark.parametrize(
    "option", [["--mpp", "0_5"], ["--mpp", "\u0660.\u0665"], ["--mpp=1e-1_0"], ["--patch", "2_56"]]
)
def test_numbers_have_plain_digits(option: list[str], tmp_path: Path) -> None:
    """Python reads 0_5 as 5, and the digits of other scripts as ours."""
    result = morphomil("segment", str(tmp_path / "cohort.csv"), "--out", str(tmp_path), *option)
    assert result.returncode == 2
    assert "is no number" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_bad_manifest_is_refused_with_all_its_problems(tmp_path: Path) -> None:
    image = str(write_image(tmp_path / "a.png"))
    path = write_manifest(
        tmp_path,
        slide=[image, "gone.png", ""],
        patient=["1", "2", ""],
        label=["0", "1", "1"],
        mpp=["0.5", "352.8", "0.5"],
    )
    result = morphomil("segment", path, "--out", tmp_path / "run")
    assert result.returncode == 2
    for part in ("gone.png", "352.8", "patient"):
        assert part in result.stderr
    assert not (tmp_path / "run").exists()


def test_leakage_is_refused(tmp_path: Path) -> None:
    images = []
    for number in range(2):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.full((300, 300, 3), 100 + number, np.uint8)).save(path)
        images.append(str(path))
    path = write_manifest(
        tmp_path,
        slide=images,
        patient=["1", "1"],
        label=["0", "0"],
        mpp=["0.5", "0.5"],
        split=["train", "test"],
    )
    result = morphomil("segment", path, "--out", tmp_path / "run")
    assert result.returncode == 4
    assert "train" in result.stderr


def test_a_failing_slide_gives_status_3_and_its_cause(demo: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.jpg"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (400, 400, 3)).astype(np.uint8)).save(
        torn
    )
    torn.write_bytes(torn.read_bytes()[:20000])
    good = demo / "cohort" / "slides" / "P001.tif"
    path = write_manifest(
        tmp_path,
        slide=[str(torn), str(good)],
        patient=["1", "2"],
        label=["0", "1"],
        mpp=["0.5", "0.5"],
    )
    result = morphomil("segment", path, "--out", tmp_path / "run")
    assert result.returncode == 3
    assert "torn" in result.stderr
    assert Run.open(tmp_path / "run").done("segment") == ["P001"]


def test_an_empty_slide_gives_status_3_and_why_also_in_quiet(demo: Path, tmp_path: Path) -> None:
    glass = tmp_path / "glass.png"
    Image.fromarray(np.full((600, 600, 3), 241, np.uint8)).save(glass)
    good = demo / "cohort" / "slides" / "P001.tif"
    path = write_manifest(
        tmp_path,
        slide=[str(glass), str(good)],
        patient=["1", "2"],
        label=["0", "1"],
        mpp=["0.5", "0.5"],
    )
    for _ in range(2):
        result = morphomil("segment", path, "--out", tmp_path / "run", "--quiet")
        assert result.returncode == 3
        assert "1 slide is empty and left out from here on:\n- glass: no region" in result.stderr
        assert result.stdout == ""
    assert Run.open(tmp_path / "run").done("segment") == ["P001"]
    result = morphomil("featurize", tmp_path / "run")
    assert result.returncode == 0
    assert "1 slides without masks of nuclei are left out (1 with label 0)" in result.stdout


def test_featurize_says_that_a_pixel_size_is_probably_wrong(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.normal(0, 12, (512, 512, 1)) + np.array([200, 130, 180])
    Image.fromarray(np.clip(pixels, 0, 250).astype(np.uint8)).save(tmp_path / "s.png")
    labels = np.zeros((512, 512), np.uint16)
    for number, (row, column) in enumerate(np.ndindex(20, 20), start=1):
        labels[24 * row + 10 : 24 * row + 18, 24 * column + 10 : 24 * column + 18] = number
    (tmp_path / "labels").mkdir()
    Image.fromarray(labels).save(tmp_path / "labels" / "s.png")
    path = write_manifest(tmp_path, slide=[str(tmp_path / "s.png")], patient=["1"], label=["0"])
    options = ["--nuclei", tmp_path / "labels", "--out", tmp_path / "run", "--mpp", "0.4"]
    made = morphomil("import-nuclei", path, *options, "--regions", "whole", "--working-mpp", "0.4")
    assert made.returncode == 0, made.stderr
    result = morphomil("featurize", tmp_path / "run", "--quiet")
    assert result.returncode == 0
    assert "s (10.2 um2) lies outside 15 to 120 um2" in result.stderr
    assert "(of s it came from --mpp)" in result.stderr
    assert (tmp_path / "run" / "tables" / "quality.csv").is_file()


def test_a_busy_run_directory_gives_status_5(demo: Path) -> None:
    with Run.open(demo / "run").lock():
        result = morphomil("featurize", demo / "run")
    assert result.returncode == 5
    assert "another morphomil process" in result.stderr


def test_one_class_is_refused(demo: Path, tmp_path: Path) -> None:
    import shutil

    from morphomil.types import Cohort

    run = Run(shutil.copytree(demo / "run", tmp_path / "run"))
    run.save_cohort(Cohort(tuple(slide for slide in run.cohort.slides if slide.label == "1")))
    result = morphomil("rank", run.path)
    assert result.returncode == 4
    assert "label 1" in result.stderr


def test_a_model_that_is_none_is_refused(demo: Path, tmp_path: Path) -> None:
    result = morphomil(
        "segment", demo / "cohort" / "cohort.csv", "--out", tmp_path / "run", "--model", tmp_path
    )
    assert result.returncode == 2
    assert "no folder with a config.json" in result.stderr
    assert "\nmorphomil: model " in result.stderr


def test_init_writes_a_manifest_that_can_be_filled_in(tmp_path: Path) -> None:
    assert morphomil("init", tmp_path / "cohort.csv").returncode == 0
    assert {"slide", "patient", "label"} <= set(pd.read_csv(tmp_path / "cohort.csv").columns)
    assert morphomil("init", tmp_path / "cohort.csv").returncode == 2


def test_options_of_settings_start_from_their_fields() -> None:
    """What a command offers for settings is what they are without it, field by field."""
    program = typer.main.get_command(app)
    for name, kinds in {
        "segment": (PatchSettings, SegmenterSettings),
        "import-nuclei": (PatchSettings,),
        "evaluate-segmenter": (SegmenterSettings,),
    }.items():
        defaults = {option.name: option.default for option in program.commands[name].params}
        for kind in kinds:
            assert {field.name for field in fields(kind)} <= set(defaults)
            assert vars(kind()).items() <= defaults.items()


@pytest.mark.parametrize(
    ("command", "settings"),
    [("rank", RankSettings(seed=0)), ("train-segmenter", TrainSettings())],
)
def test_options_that_repeat_a_setting_start_from_its_value(command: str, settings: object) -> None:
    """Of settings that the command line can't import at once: `--help` would wait for them."""
    program = typer.main.get_command(app)
    repeated = {
        option.name: option.default
        for option in program.commands[command].params
        if option.name in vars(settings)
    }
    assert len(repeated) >= 5
    assert repeated.items() <= vars(settings).items()


def test_the_version_is_said() -> None:
    done = morphomil("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"morphomil \d+\.\S+\n", done.stdout)


def test_a_later_segment_keeps_the_covariates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "a.png")
    columns = {"slide": ["a.png"], "patient": ["1"], "label": ["0"], "mpp": ["0.5"]}
    manifest = write_manifest(tmp_path, **columns, age=["50"], er=["yes"])
    run = Run.create(tmp_path / "run")
    assert read_cohort(manifest, run=run.path).slides[0].covariates == {}
    run.save_cohort(read_cohort(manifest, "age,er"))
    capsys.readouterr()
    (slide,) = read_cohort(manifest, run=run.path).slides
    assert set(slide.covariates) == {"age", "er"}
    assert "covariates kept as before: age, er" in capsys.readouterr().err
    assert set(read_cohort(manifest, "er", run=run.path).slides[0].covariates) == {"er"}
    assert read_cohort(manifest, "none", run=run.path).slides[0].covariates == {}
