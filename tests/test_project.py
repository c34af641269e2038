"""A folder of slides and a table become a project; every stage of it runs, once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from morphomil.cli.app import app
from morphomil.cli.project import list_stages
from morphomil.cli.settings_file import known_settings, read_settings, write_text
from morphomil.errors import InputError
from morphomil.phantom.files import write_cohort
from morphomil.phantom.settings import PhantomSettings


def morphomil(*words: str | Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("morphomil")
    return subprocess.run(
        [str(program), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def known():
    """Of all commands, which are known once the program is loaded."""
    assert app.registered_groups
    return known_settings(list_stages)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """Slides, annotations and a workbook of ten patients."""
    folder = tmp_path_factory.mktemp("lab")
    settings = PhantomSettings(width_px=600, height_px=600)
    manifest = write_cohort(folder, seed=1, slides=10, shift=5, settings=settings)
    table = pd.read_csv(manifest)
    labels = table["label"].map({0: "N0", 1: "N+"})
    pd.DataFrame(
        {"Case ID": table["patient"], "nodes": labels, "grade": [1, 1, 2, 2, 3] * 2}
    ).to_csv(folder / "patients.csv", index=False)
    return folder


def test_the_file_holds_every_setting_with_its_default(known, tmp_path):
    text = write_text(known, {"rank": {"positive": "no"}})
    file = tmp_path / "morphomil.yaml"
    file.write_text(text)
    tree = yaml.safe_load(text)
    assert {name: list(section) for name, section in tree.items()} == {
        name: list(section) for name, section in known.items()
    }
    assert tree["segment"]["patch_px"] == 256
    assert tree["rank"]["permutations"] == 199
    read = read_settings(file, known)
    assert read["rank"]["positive"] == "no"
    for section, settings in known.items():
        for name, setting in settings.items():
            if (section, name) != ("rank", "positive") and setting.default is not None:
                assert str(read[section][name]) == str(setting.default)


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{last}'] * 9)}]\n"
    for last, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rank:\n  fold: 3", "there is no setting fold in rank; is it folds?"),
        ("segment:\n  patch: 128", "there is no setting patch in segment; is it patch_px?"),
        ("segment:\n  permutations: 9", "permutations is a setting of rank"),
        ("ranks:\n  folds: 3", "there is no section ranks; is it rank?"),
        ("rank:\n  positive: no", "positive is read as false: put text such as yes"),
        ("rank:\n  quick: 3", "quick is true or false, not 3"),
        ("rank:\n  folds: five", "folds is a number, not 'five'"),
        ("rank:\n  folds: 2.5", "folds is a whole number"),
        ("rank:\n  folds: 1", "folds is at least 2"),
        ("segment:\n  grid: papr", "grid is one of paper, fit, not 'papr'"),
        ("segment:\n  working_mpp: fine", "um per pixel, as in 0.5, or native"),
        ("rank:\n  folds: 3\n  folds: 4", "folds stands twice"),
        ("rank: 3", "section rank holds no settings"),
        ("- rank", "holds no sections"),
        ("rank: [", "line 1: no YAML"),
        ("rank: &a\n  x: *a\n", "line 1: settings have no aliases"),
        (LAUGHS, "line 1: settings have no aliases"),
        ("rank:\n  x: *a\n", "line 2: settings have no aliases"),
        ("rank:\n  positive: 2024-13-45\n", "line 2: no YAML: month must be in 1..12"),
        (f"rank:\n  folds: {'9' * 400}\n", "folds is larger than any number can be: 999"),
        (f"rank:\n  folds: {'9' * 5000}\n", "line 2: no YAML: Exceeds the limit"),
        (f"rank:\n  folds: '{'9' * 5000}'\n", "folds is a whole number, not '999"),
        ("rank:\n  permutations: 1.0e+30\n", "permutations is at most 1,000,000"),
        (f"rank: {'[' * 3000}", "line 1: too many lists or sections"),
        (f"rank: {'{a: ' * 3000}", "line 1: too many lists or sections"),
        *(
            (f"rank:\n\n  positive: !!{kind} abc", "line 3: no YAML: ")
            for kind in ("int", "float", "bool", "timestamp")
        ),
        ("rank:\n  positive: !!int ''", "line 2: no YAML: "),
        ("? !!bool abc\n: 1", "line 1: no YAML: "),
        ('rank:\n  positive: "\\UFFFFFFFF"', "no YAML: "),
        ("rank:\n  positive: !!python/name:os.system", "line 2: no YAML: "),
        ("rank:\n  ? [a]\n  : 1", "line 2: no YAML: found unhashable key"),
        ("#" * 2**20 + "\n", "longer than 1,048,576 bytes"),
        ("\x07", "no YAML"),
        ('run:\n  nuclei: ""', "nuclei is an empty path"),
    ],
)
def test_what_is_wrong_with_the_file_is_said_and_what_may_be_meant(known, tmp_path, text, message):
    file = tmp_path / "morphomil.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"morphomil\.yaml") as caught:
        read_settings(file, known)
    assert message in str(caught.value)
    assert len(str(caught.value)) < len(str(file)) + 400


def test_values_are_what_the_command_line_would_have(known, tmp_path):
    file = tmp_path / "morphomil.yaml"
    file.write_text(
        "rank: {positive: 1, strata: [site, scanner], folds: 3, seed: }\n"
        "segment: {working_mpp: native, mpp: 0.25}\nfigures: {only: [roc, ranking]}\nembed:\n"
    )
    assert read_settings(file, known) == {
        "rank": {"positive": "1", "strata": "site,scanner", "folds": 3},
        "segment": {"working_mpp": "native", "mpp": 0.25},
        "figures": {"only": ["roc", "ranking"]},
        "embed": {},
    }


def test_the_stages_of_models_stand_between_ranking_and_tables():
    names = [words[0] for words in list_stages()]
    assert names == ["segment", "featurize", "rank", "compare", "figures", "report"]
    clinical = [words[0] for words in list_stages(models="clinical")]
    assert clinical == [*names[:3], "train", "predict", *names[3:]]
    both = list_stages(models="dl-cnb, clinical")
    assert [words[0] for words in both[3:6]] == ["embed", "train", "train"]
    with pytest.raises(InputError, match="no model named 'dlcnb'"):
        list_stages(models="dlcnb")
    imported = list_stages(models="dl-cnb", nuclei=Path("labels"), deep_features=Path("uni"))
    assert imported[0] == ["import-nuclei", "cohort.csv", "--out", "run", "--nuclei", "labels"]
    assert imported[3][:1] + imported[3][-2:] == ["import-features", "--features", "uni"]


def test_a_column_that_nobody_names_is_asked_for(cohort, tmp_path):
    words = ["init", tmp_path / "p", "--slides", cohort / "slides"]
    words += ["--outcomes", cohort / "patients.csv"]
    asked = morphomil(*words)
    assert asked.returncode == 2
    assert "is the outcome? Say --outcome and one of: nodes, grade" in asked.stderr
    wrong = morphomil(*words, "--outcome", "node")
    assert wrong.returncode == 2
    assert "no column node; is it nodes?" in wrong.stderr
    assert not (tmp_path / "p").exists()


def test_a_folder_or_what_is_no_project_is_told_what_to_do(cohort, tmp_path):
    for words, message in (
        (
            ["segment", cohort / "slides", "--out", tmp_path / "r"],
            "morphomil init project --slides",
        ),
        (["run", cohort], "has no morphomil.yaml; make one with: morphomil init"),
        (["init", tmp_path / "p", "--outcomes", cohort / "patients.csv"], "--slides"),
    ):
        result = morphomil(*words)
        assert result.returncode == 2
        assert message in " ".join(result.stderr.split())


def test_a_project_runs_to_its_report_and_not_twice(cohort, tmp_path):
    project = tmp_path / "project"
    words = ["init", project, "--slides", cohort / "slides"]
    words += ["--outcomes", cohort / "patients.csv", "--annotations", cohort / "annotations"]
    words += ["--outcome", "nodes", "--positive", "N+"]
    made = morphomil(*words)
    assert made.returncode == 0, made.stderr
    assert "P010.tif" in made.stdout
    assert "exist; name another path, or replace with --force" in morphomil(*words).stderr
    file = project / "morphomil.yaml"
    settings = file.read_text().replace("quick: false", "quick: true")
    settings = settings.replace("folds: 5", "folds: 2").replace("only: null", "only: [ranking]")
    file.write_text(settings.replace('formats: "pdf,svg,png"', "formats: png"))
    first = morphomil("run", project)
    assert first.returncode == 0, first.stdout + first.stderr
    assert (project / "run" / "report.html").is_file()
    about = pd.read_json(project / "run" / "rank" / "about.json", typ="series")
    assert about["positive"] == "N+"
    ranked = (project / "run" / "rank" / "ranking.csv").stat().st_mtime_ns
    (project / "run" / "report.html").unlink()
    second = morphomil("run", project)
    assert second.returncode == 0, second.stderr
    assert "skipped" in second.stderr
    assert "rank run: done already" in second.stdout
    assert (project / "run" / "rank" / "ranking.csv").stat().st_mtime_ns == ranked
    assert (project / "run" / "report.html").is_file()


def test_labels_that_a_later_stage_would_refuse_are_refused_before_any_work(cohort, tmp_path):
    project = tmp_path / "project"
    words = ["init", project, "--slides", cohort / "slides", "--outcome", "nodes"]
    made = morphomil(*words, "--outcomes", cohort / "patients.csv")
    assert made.returncode == 0
    assert "which label is positive, N+ or N0?" in made.stderr
    refused = morphomil("run", project)
    assert refused.returncode == 2
    assert "--positive N+ or --positive N0" in refused.stderr
    assert not (project / "run").exists()
