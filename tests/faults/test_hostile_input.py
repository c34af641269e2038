"""Files that someone made to break their reader: each is read, or refused in a sentence (faults 57
to 62)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from morphomil.cohort.manifest import read_manifest
from morphomil.errors import DamagedError, InputError, MorphomilError
from morphomil.run import CommandLog, Ledger
from morphomil.segment.folders import WEIGHTS, design_of, read_model_folder
from morphomil.slides.annotations import read_annotation

EXAMPLES = 20_000 if os.environ.get("MORPHOMIL_FAULTS") == "full" else 60
bounded = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
NAMES = st.sampled_from(
    ["type", "features", "geometry", "coordinates", "properties", "Polygon", "positive", "vertices",
     "commands", "settings", "segment", "key", "outputs", "figures", "error", "empty",
     "rays", "widths", "outline", "types", "backbone", "prob", "nms", "edge_logit",
     "resolutions_mpp", "normalize", "temperature", "bias"],
)  # fmt: skip
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | NAMES
    | st.text(max_size=8)
)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(NAMES | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=12,
)
OBJECTS = st.dictionaries(NAMES, TREES, max_size=8)


@bounded
@given(tree=TREES | OBJECTS)
def test_any_ledger_and_log(tree: Any, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "{slide}/status.json", ("segment", "featurize"))
    path = ledger.entries_path("s")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(tree))
    assert ledger.state("s", "segment") in ("done", "empty", "failed", "missing")
    assert isinstance(ledger.cause("s", "featurize"), str)
    assert not ledger.is_done("s", "segment", "another key")
    (tmp_path / "run.json").write_text(json.dumps(tree))
    try:
        assert isinstance(CommandLog(tmp_path / "run.json").latest(), dict)
    except DamagedError as error:
        assert "run.json" in str(error)


@bounded
@given(name=st.sampled_from(["config", "morphomil", "ranges", "thresholds", "types"]), tree=OBJECTS)
def test_any_model_folder(name: str, tree: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(WEIGHTS / "default", folder, dirs_exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(tree))
    try:
        files = read_model_folder(folder)
        if files.config["backbone"] == "efficientnet-lite0":
            design_of(files)
    except InputError as error:
        assert str(folder) in str(error)
    shutil.rmtree(folder)


@bounded
@given(tree=TREES | OBJECTS)
def test_any_annotation_as_json(tree: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(tree))
    with pytest.raises(InputError, match="annotation"):
        read_annotation(path)


TAGS = st.sampled_from(["Annotations", "Annotation", "Coordinates", "Coordinate", "ASAP", "Region"])
ATTRIBUTES = st.dictionaries(
    st.sampled_from(["X", "Y", "Order", "Name", "PartOfGroup", "Type"]),
    st.sampled_from(["1", "-1e999", "nan", "", "Tumor", "1,5", "&#65;"]),
    max_size=4,
)


@st.composite
def elements(draw: st.DrawFn, depth: int = 3) -> str:
    tag = draw(TAGS)
    words = "".join(f' {name}="{value}"' for name, value in draw(ATTRIBUTES).items())
    inner = draw(st.lists(elements(depth - 1), max_size=3)) if depth else []
    return f"<{tag}{words}>{''.join(inner)}</{tag}>"


@bounded
@given(text=elements(), cut=st.integers(0, 400))
def test_any_annotation_as_xml(text: str, cut: int, tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    for content in (text, text[:cut], f'<!DOCTYPE a [<!ENTITY b "c">]>{text}'):
        path.write_text(content)
        with pytest.raises(InputError, match="annotation"):
            read_annotation(path)


@bounded
@given(content=st.binary(max_size=80) | st.text(alphabet="slide,patient;\n\t\"'01é=", max_size=80))
def test_any_manifest(content: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(b"slide,patient,label\n" + raw)
    try:
        read_manifest(path)
    except MorphomilError as error:
        assert "m.csv" in str(error)
