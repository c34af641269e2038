"""`morphomil cluster` without a cluster: the folder it makes, its parts, and Snakemake here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from compare_runs import differences
from typer.testing import CliRunner

from morphomil.cli.app import app
from morphomil.cli.cluster import read_workflow
from morphomil.phantom.files import write_cohort
from morphomil.phantom.settings import PhantomSettings

SMALL = PhantomSettings(width_px=700, height_px=600)


def morphomil(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve slides, the last of which can't be read."""
    folder = tmp_path_factory.mktemp("cohort")
    path = write_cohort(folder, slides=12, seed=1, shift=3.0, settings=SMALL)
    broken = folder / "slides" / "P012.tif"
    broken.write_bytes(broken.read_bytes()[:5000])
    return path


@pytest.fixture(scope="module")
def made(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `cluster init`, planned for three parts."""
    folder = tmp_path_factory.mktemp("cluster")
    options = ["--out", folder / "run", "--folder", folder, "--threads", 1]
    status, said = morphomil("cluster", "init", manifest, *options)
    assert status == 0, said
    rows = (folder / "plan.csv").read_text().splitlines()
    planned = [f"{row.split(',')[0]},{n % 3 + 1},60" for n, row in enumerate(rows[1:])]
    (folder / "plan.csv").write_text("\n".join([rows[0], *planned]) + "\n")
    settings = (folder / "morphomil.yaml").read_text()
    few = settings.replace("permutations: 199", "permutations: 9")
    (folder / "morphomil.yaml").write_text(few)
    return folder


def test_the_folder_is_a_project_with_jobs(made: Path, manifest: Path) -> None:
    work = read_workflow(made)
    assert work.run == made / "run"
    assert work.minutes == {1: 4.0, 2: 4.0, 3: 4.0}
    assert work.slides == {
        "segment": ["segment", str(manifest), "--out", str(made / "run")],
        "featurize": ["featurize", str(made / "run")],
    }
    assert [name for name, _ in work.after] == ["rank", "compare", "figures", "report"]
    assert morphomil("cluster", "check", made)[0] == 0
    options = ["--out", made / "run", "--folder", made]
    with pytest.raises(Exception, match=r"config\.yaml, plan\.csv.*--force"):
        morphomil("cluster", "init", manifest, *options)
    with pytest.raises(Exception, match="which isn't"):
        morphomil("cluster", "init", manifest, "--out", "other", *options[2:], "--force")


def test_models_of_the_image_embed_first(made: Path, tmp_path: Path) -> None:
    text = (made / "morphomil.yaml").read_text()
    (tmp_path / "morphomil.yaml").write_text(
        text.replace('models: ""', 'models: "clinical,dl-cnb"')
    )
    (tmp_path / "plan.csv").write_bytes((made / "plan.csv").read_bytes())
    work = read_workflow(tmp_path)
    assert list(work.slides) == ["segment", "featurize", "embed"]
    names = [name for name, _ in work.after]
    assert names[:4] == ["rank", "train-clinical", "train-dl-cnb", "predict"]


def test_a_plan_of_other_slides_is_refused(made: Path, tmp_path: Path) -> None:
    (tmp_path / "morphomil.yaml").write_bytes((made / "morphomil.yaml").read_bytes())
    rows = (made / "plan.csv").read_text().splitlines()
    (tmp_path / "plan.csv").write_text("\n".join(rows[:-1]))
    with pytest.raises(Exception, match=r"lacks 1 slides .* such as P012"):
        morphomil("cluster", "check", tmp_path)


def test_planned_parts_in_any_order_give_the_bytes_of_one_machine(
    made: Path, manifest: Path, tmp_path: Path
) -> None:
    assert morphomil("segment", manifest, "--out", tmp_path / "run")[0] == 3
    assert morphomil("featurize", tmp_path / "run")[0] == 0
    for part in (3, 1, 2):
        shard = ["--shard", f"{part}/{made / 'plan.csv'}"]
        status, said = morphomil("segment", manifest, "--out", made / "run", *shard)
        assert status == (3 if part == 3 else 0), said
        assert morphomil("featurize", made / "run", *shard)[0] == 0
        assert not (made / "run" / "tables").exists()
    status, said = morphomil("cluster", "gather", made)
    assert status == 3
    assert "11 of 12 slides are measured" in said
    assert (made / "lost_slides.csv").read_text().splitlines()[1].startswith("P012,P012,1,segment")
    assert differences(tmp_path / "run", made / "run") == []


def test_snakemake_goes_on_from_there(made: Path) -> None:
    config = made / "config.yaml"
    program = Path(sys.executable).with_name("morphomil")
    text = config.read_text().replace("program: morphomil", f"program: {program}")
    config.write_text(text.replace("parts: 5", "parts: 2"))
    words = [sys.executable, "-m", "snakemake", "--profile", "local"]
    done = subprocess.run(words, cwd=made, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (made / "run" / "report.html").is_file()
    assert [path.name for path in sorted((made / "logs" / "rank-part").iterdir())] == [
        "1.log",
        "2.log",
    ]
    assert "Part 2/2 is trained" in (made / "logs" / "rank-part" / "2.log").read_text()
    assert "1 slides are left out" in done.stdout + done.stderr
    again = subprocess.run(words, cwd=made, capture_output=True, text=True, check=True)
    assert "Nothing to be done" in again.stdout + again.stderr
