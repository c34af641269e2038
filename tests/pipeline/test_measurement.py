"""Features of one's own in a run: what builds on density too, from a file, and what a change
costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from morphomil import pipeline
from morphomil.errors import InputError
from morphomil.nuclei.feature_files import load_features
from morphomil.nuclei.registry import Feature, feature, features_of
from morphomil.run.directory import Run

CROWDING = """
from morphomil.nuclei import feature

@feature(
    "crowding", of=("density_per_mm2", "pixels"), unit="1", low=0, high=%s, meaning="covered share"
)
def crowding(density, pixels):
    return density * pixels * 0.25e-6

@feature("crowding_squared", of=("crowding",), unit="1", low=0, high=1, meaning="its square")
def squared(crowding):
    return crowding**2
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Features that build on density, one by way of the other."""
    path = tmp_path / "crowding.py"
    path.write_text(CROWDING % 1, encoding="utf-8")
    return path


def test_a_feature_that_builds_on_density_is_measured_in_a_run(
    registry: dict[str, Feature], make_run: Callable[..., Run], tmp_path: Path
) -> None:
    @feature(
        "crowding",
        of=("density_per_mm2", "area_um2"),
        unit="1",
        low=0,
        high=1,
        meaning="covered share",
    )
    def crowding(density: np.ndarray, area: np.ndarray) -> np.ndarray:
        return density * area / 1e6

    run = make_run(tmp_path / "run", ("a", "b"))
    nuclei = run.nuclei("a")
    assert list(nuclei)[-1] == "crowding"
    assert nuclei["crowding"].notna().mean() > 0.5
    expected = nuclei["density_per_mm2"] * nuclei["area_um2"] / 1e6
    np.testing.assert_array_equal(nuclei["crowding"], expected)
    counts = run.counts("a")
    assert counts.features == features_of()
    assert counts.counts[-1].sum() == nuclei["crowding"].notna().sum()


def test_the_registry_knows_what_needs_neighbors(registry: dict[str, Feature], file: Path) -> None:
    load_features(file)
    needing = [name for name in features_of() if registry[name].needs_neighbors]
    assert needing == ["density_per_mm2", "crowding", "crowding_squared"]


def test_a_run_depends_on_the_file_of_its_features(
    registry: dict[str, Feature], make_run: Callable[..., Run], file: Path, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", ("a", "b"))
    assert "features_from" not in run.commands()["featurize"]["settings"]
    with_file = load_features(file)
    with pytest.raises(InputError, match="was measured without crowding, crowding_squared; run: "):
        pipeline.rank(run, positive="1")
    assert pipeline.featurize(run).done == ("a", "b")
    assert pipeline.featurize(run).skipped == ("a", "b")
    settings = run.commands()["featurize"]["settings"]
    assert settings["features_from"] == {str(file): with_file.sha256}
    file.write_text(CROWDING % 2, encoding="utf-8")
    load_features(file)
    with pytest.raises(InputError, match=r"another version of .*crowding\.py; run: morphomil feat"):
        pipeline.rank(run, positive="1")
    assert pipeline.featurize(run).done == ("a", "b")
    for name in ("crowding_squared", "crowding"):
        del registry[name]
    message = r"measured with crowding, crowding_squared; give the file .* --features-from .*ng\.py"
    with pytest.raises(InputError, match=message):
        pipeline.rank(run, positive="1")
    assert pipeline.featurize(run).done == ("a", "b")
    assert "crowding" not in run.nuclei("a")


def test_commands_take_the_file(make_run: Callable[..., Run], file: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tuple("abcdefgh"))
    program = str(Path(sys.executable).with_name("morphomil"))

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [program, words[0], str(run.path), *words[1:], "--quiet"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    given = ["--features-from", str(file)]
    assert call("featurize", *given).returncode == 0
    without = call("rank", "--quick", "--folds", "2")
    assert without.returncode == 2
    assert f"crowding_squared; give the file that adds such features: {' '.join(given)}" in (
        without.stderr.replace("\n", " ")
    )
    ranked = call("rank", "--quick", "--folds", "2", *given)
    assert ranked.returncode == 0, ranked.stderr
    assert {"crowding", "crowding_squared"} <= set(run.ranking["feature"])
    assert call("export", "--to", "csv", *given).returncode == 0
    file.write_text("1 / 0", encoding="utf-8")
    assert call("featurize", *given).returncode == 2
