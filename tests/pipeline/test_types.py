"""Types of nuclei in a run: whose nuclei are counted, the family `type`, and what lacks them."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from measured_run import add_types
from typer.testing import CliRunner

from morphomil import pipeline
from morphomil.cli.app import app
from morphomil.errors import InputError
from morphomil.export import Target, export_run
from morphomil.matrix import count_nuclei, patch_values, slide_values
from morphomil.models.morphometry import Morphometry
from morphomil.models.settings import TrainSettings
from morphomil.nuclei.registry import features_of
from morphomil.run.directory import Run
from morphomil.run.features import check_features
from morphomil.tables.types import types_of_patients
from morphomil.types import FEATURE_NAMES, NUCLEI, NUCLEUS_TYPES

TARGETS: tuple[Target, ...] = ("csv", "qupath", "anndata")


@pytest.fixture(scope="module")
def untyped(make_run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("untyped") / "run", ("a", "b", "c"))


@pytest.fixture(scope="module")
def typed(make_run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make_run(tmp_path_factory.mktemp("typed") / "run", ("a", "b", "c"))
    add_types(run, "a", [0.5, 0.3, 0.1, 0.1])
    add_types(run, "b", [0.7, 0.0, 0.2, 0.1])
    add_types(run, "c", [0.2, 0.5, 0.2, 0.1])
    return run


def test_types_change_nothing_where_all_are_counted(untyped: Run, typed: Run) -> None:
    assert len(pipeline.featurize(typed).done) == 3
    assert typed.whose == "all"
    composition = types_of_patients(typed)
    assert composition[[*NUCLEUS_TYPES]].sum(axis=1).to_numpy() == pytest.approx(1)
    assert composition["lymphocyte"].tolist() == pytest.approx([0.3, 0, 0.5], abs=0.1)
    assert types_of_patients(untyped).empty
    for name in ("a", "b", "c"):
        before, after = untyped.nuclei(name), typed.nuclei(name)
        assert before["type"].isna().all()
        assert after["type"].isin(NUCLEUS_TYPES).all()
        assert (after["type_probability"] == np.float32(0.7)).all()
        rest = [column for column in before if not column.startswith("type")]
        pd.testing.assert_frame_equal(before[rest], after[rest], check_exact=True)
        np.testing.assert_array_equal(untyped.counts(name).counts, typed.counts(name).counts)


def test_one_type_is_counted_and_all_are_kept(untyped: Run, typed: Run) -> None:
    result = pipeline.featurize(typed, nuclei="lymphocyte")
    assert result.done == ("a", "c")
    assert list(result.empty) == ["b"]
    assert "is of the type lymphocyte (0 of unknown type)" in result.empty["b"]
    assert typed.whose == "lymphocyte"
    nuclei, patches = typed.nuclei("a"), typed.patches("a")
    lymphocytes = nuclei[nuclei["type"] == "lymphocyte"]
    assert 0 < len(lymphocytes) < len(nuclei)
    stored = typed.counts("a")
    expected = count_nuclei(lymphocytes, stored.patch_id)
    np.testing.assert_array_equal(stored.counts, expected)
    counted = typed.counted_nuclei("a")
    values = slide_values(counted, patches)
    assert values["area_um2"] == lymphocytes["area_um2"].median()
    assert values["density_per_mm2"] == lymphocytes["density_per_mm2"].median()
    assert pipeline.featurize(typed, nuclei="lymphocyte").done == ()
    model = Morphometry(TrainSettings("morphometry"))
    assert model.differences(untyped, untyped) == []
    assert model.differences(typed, untyped) == ["nuclei lymphocyte"]
    check_features(typed)


def check_parts(run: Run, slide_id: str) -> None:
    """Lymphocytes in stroma and nests, by slide and by patch, against the stored table."""
    nuclei, patches = run.nuclei(slide_id), run.patches(slide_id)
    counted = run.counted_nuclei(slide_id)
    values = slide_values(counted, patches, features=run.features)
    np.testing.assert_allclose(
        patches["nest_mm2"] + patches["stroma_mm2"], patches["tissue_mm2"], rtol=1e-6
    )
    in_nest = nuclei["type_nest_share"] > 0.5
    own = nuclei[(nuclei["type"] == "lymphocyte") & ~in_nest]
    stroma = patches["stroma_mm2"].sum()
    assert values["type_stroma_lymphocyte_per_mm2_total"] == pytest.approx(len(own) / stroma)
    share = own["area_um2"].sum() / 1e6 / stroma
    assert values["type_stroma_cover_total"] == pytest.approx(share)
    assert 0 < share < 0.5
    of_patches = patch_values(counted, patches).set_index("patch_id")
    first = patches.iloc[0]
    expected = own.loc[own["patch_id"] == first["patch_id"], "area_um2"].sum() / 1e6
    found = of_patches.loc[first["patch_id"], "type_stroma_cover_total"]
    assert found == pytest.approx(expected / first["stroma_mm2"])


def test_the_family_is_measured_where_it_is_asked_for(typed: Run, tmp_path: Path) -> None:
    assert features_of() == FEATURE_NAMES
    pipeline.featurize(typed, nuclei="epithelial", families=["type"])
    assert typed.features == features_of(["type"]) == typed.counts("a").features
    nuclei = typed.nuclei("a")
    of_lymphocytes = nuclei["type_nest_share"].notna()
    assert (nuclei.loc[of_lymphocytes, "type"] == "lymphocyte").all()
    assert of_lymphocytes.sum() > 20
    counts = typed.counts("a")
    row = counts.features.index("type_nest_share")
    assert counts.counts[row].sum() == of_lymphocytes.sum()
    assert counts.counts[0].sum() == (nuclei["type"] == "epithelial").sum()
    values = slide_values(typed.counted_nuclei("a"), typed.patches("a"), features=typed.features)
    tissue = typed.patches("a")["tissue_mm2"].sum()
    number = (nuclei["type"] == "stroma").sum()
    assert values["type_stroma_per_mm2_total"] == pytest.approx(number / tissue)
    check_parts(typed, "c")
    assert (nuclei.loc[nuclei["type"] == "epithelial", "type_to_stroma_um"] < 60).all()
    assert (typed.nuclei("b")["type_to_lymphocyte_um"].dropna() == 200).all()
    check_features(typed)
    exported = {name: export_run(typed, name, out=tmp_path / name) for name in TARGETS}
    qupath = next(path for path in exported["qupath"] if path.name.startswith("a"))
    with gzip.open(qupath) as stream:
        found = [one["properties"] for one in json.load(stream)["features"]]
    classes = Counter(
        (one["classification"]["name"], *one["classification"]["color"])
        for one in found
        if one["objectType"] == "detection"
    )
    numbers = nuclei["type"].value_counts()
    assert classes[("lymphocyte", 213, 94, 0)] == numbers["lymphocyte"] > 0
    assert {name for name, *_ in classes} == set(NUCLEUS_TYPES)
    slides = next(path for path in exported["anndata"] if path.name == "slides.h5ad")
    with h5py.File(slides) as file:
        counts = file["obs"]["nuclei_lymphocyte"][:]
        assert counts.tolist() == [
            (typed.nuclei(name)["type"] == "lymphocyte").sum() for name in typed.done("featurize")
        ]
    of_a = next(path for path in exported["anndata"] if path.name == "a.h5ad")
    with h5py.File(of_a) as file:
        kinds = [name.decode() for name in file["obs/type/categories"][:]]
        told = [kinds[code] for code in file["obs/type/codes"][:]]
        assert told == nuclei["type"].tolist()
        shares = np.stack([file[f"obs/p_{name}"][:] for name in NUCLEUS_TYPES])
        np.testing.assert_allclose(shares.sum(axis=0), 1, rtol=1e-6)
        assert [NUCLEUS_TYPES[place] for place in shares.argmax(axis=0)] == told
    pipeline.featurize(typed)
    assert typed.features == FEATURE_NAMES
    assert "stroma_mm2" not in typed.patches("a")


def test_tables_of_before_types_are_read(untyped: Run) -> None:
    """Without the columns, or with what a file said where the type stands now."""
    table = untyped.nuclei("a")
    before = NUCLEI.check(table.drop(columns=["type", "type_probability"]))
    pd.testing.assert_frame_equal(before, table)
    said = NUCLEI.check(table.assign(type="Neoplastic").drop(columns="type_probability"))
    assert said["type"].isna().all()
    with pytest.raises(ValueError, match="nuclei table lacks area_um2"):
        NUCLEI.check(table.drop(columns="area_um2"))


def test_what_has_no_types_is_refused(untyped: Run, typed: Run) -> None:
    with pytest.raises(InputError, match="have no types, which --nuclei stroma needs; segment"):
        pipeline.featurize(untyped, nuclei="stroma")
    with pytest.raises(InputError, match="which the features of family type needs"):
        pipeline.featurize(untyped, families=["type"])
    with pytest.raises(InputError, match="no family of features is called kind; there is type"):
        pipeline.featurize(typed, families=["kind"])
    with pytest.raises(InputError, match="nuclei are all, epithelial, lymphocyte, stroma; got 'x'"):
        pipeline.featurize(typed, nuclei="x")
    for words, said in (
        (["--nuclei", "lymphocyte"], "have no types"),
        (["--features", "type"], "--features adds families, as in +type; got type"),
    ):
        done = CliRunner().invoke(app, ["featurize", str(untyped.path), *words])
        assert isinstance(done.exception, InputError)
        assert said in str(done.exception)
    assert untyped.whose == "all"


def test_a_slide_without_types_fails_beside_others(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", ("a", "b"))
    add_types(run, "a", [0.25] * 4)
    result = pipeline.featurize(run, nuclei="epithelial")
    assert result.done == ("a",)
    assert "the nuclei of slide b have no types; segment" in result.failed["b"]
    assert run.whose == "epithelial"


def test_slides_measured_for_different_types_are_not_ranked_together(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    shards = pipeline.Shard(1, 2), pipeline.Shard(2, 2)
    names = [next(filter(shard.holds, "abcdefgh")) for shard in shards]
    run = make_run(tmp_path / "run", tuple(names))
    for name in names:
        add_types(run, name, [0.25] * 4)
    pipeline.featurize(run)
    pipeline.featurize(run, nuclei="stroma", shard=shards[0])
    with pytest.raises(InputError, match=r"1 slides, such as .* other nuclei than --nuclei stroma"):
        check_features(run)
