"""Features from a file: registered once, replaced when the file changes, never half."""

from __future__ import annotations

from pathlib import Path

import pytest

from morphomil.errors import InputError
from morphomil.nuclei.feature_files import feature_files, load_features
from morphomil.nuclei.registry import Feature

FILE = """
from morphomil.nuclei import feature

@feature("%s", of=("area_um2",), unit="um2", low=0, high=%d, meaning="twice the area")
def doubled(area):
    return 2 * area
"""


def write(path: Path, *, name: str = "doubled", high: int = 800) -> Path:
    path.write_text(FILE % (name, high), encoding="utf-8")
    return path


def test_features_of_a_file_come_after_the_others(
    registry: dict[str, Feature], tmp_path: Path
) -> None:
    before = list(registry)
    assert feature_files() == ()
    file = load_features(write(tmp_path / "mine.py"))
    assert list(registry) == [*before, "doubled"]
    assert registry["doubled"].formula(3) == 6
    assert feature_files() == (file,)
    assert load_features(file.path) == file
    assert list(registry) == [*before, "doubled"]


def test_a_changed_file_replaces_its_features(registry: dict[str, Feature], tmp_path: Path) -> None:
    first = load_features(write(tmp_path / "mine.py"))
    before = list(registry)
    second = load_features(write(tmp_path / "mine.py", name="larger", high=900))
    assert list(registry) == [*before[:-1], "larger"]
    assert first.sha256 != second.sha256
    assert feature_files() == (second,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FILE % ("area_um2", 1), "mine.py can't be used: the name area_um2 is taken"),
        (FILE % ("half", 1) + "\nraise RuntimeError('late')", "mine.py can't be used: RuntimeErr"),
        ("x = 1", "features file .*mine.py adds no feature"),
    ],
)
def test_a_bad_file_leaves_the_registry_alone(
    text: str, message: str, registry: dict[str, Feature], tmp_path: Path
) -> None:
    load_features(write(tmp_path / "mine.py"))
    before = dict(registry)
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_features(tmp_path / "mine.py")
    assert registry == before
