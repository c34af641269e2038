"""A run directory in a notebook: readers, pictures, and what Jupyter shows."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import morphomil
from morphomil.errors import InputError
from morphomil.notebook import LoadedRun
from morphomil.run.directory import Run
from morphomil.types import FEATURE_NAMES, NUCLEI, Cohort, ImageSource, Slide


@pytest.fixture(scope="module")
def run(demo: Path) -> LoadedRun:
    return morphomil.load_run(str(demo / "run"))


def test_tables_of_one_slide_and_of_all(run: LoadedRun) -> None:
    every = run.nuclei()
    assert every["slide_id"].nunique() == len(run.cohort)
    pd.testing.assert_frame_equal(
        every[every["slide_id"] == "P007"].reset_index(drop=True),
        run.nuclei("P007"),
        check_like=False,
    )
    assert list(every)[: len(NUCLEI.names)] == NUCLEI.names
    assert len(run.patches()) == sum(
        len(run.patches(slide.slide_id)) for slide in run.cohort.slides
    )


def test_the_ranking_and_a_slides_attention(run: LoadedRun) -> None:
    assert run.ranking["rank"].tolist() == list(range(1, 9))
    attention = run.attention("P003")
    assert sorted(attention["feature"]) == sorted(FEATURE_NAMES)
    assert attention["attention"].sum() == pytest.approx(1, abs=1e-5)
    stored = pd.read_parquet(run.path / "rank" / "attention.parquet").set_index("patient")
    shown = attention.set_index("feature")["attention"]
    assert shown["circularity"] == pytest.approx(float(stored.loc["P003", "circularity"]))


def test_attention_of_an_image_model_is_by_patch(run: LoadedRun, tmp_path: Path) -> None:
    copy = morphomil.load_run(shutil.copytree(run.path, tmp_path / "run"))
    folder = copy.path / "models" / "dl-cnb" / "fold0"
    folder.mkdir(parents=True)
    table = pd.DataFrame(
        {
            "slide_id": ["P003", "P003", "P004"],
            "patch_id": [3, 5, 1],
            "attention": [0.25, 0.75, 1.0],
        }
    )
    table.to_parquet(folder / "attention.parquet")
    found = copy.attention("P003").query("model == 'dl-cnb'")
    assert found[["patch_id", "attention", "fold"]].to_numpy().tolist() == [
        [3, 0.25, "fold0"],
        [5, 0.75, "fold0"],
    ]


def test_a_thumbnail_is_the_slide(run: LoadedRun) -> None:
    picture = run.thumbnail("P001", max_px=300)
    assert picture.dtype == np.uint8
    assert max(picture.shape) == 300
    assert picture.std() > 5
    with pytest.raises(InputError, match="no image 1"):
        run.thumbnail("P001", image=1)


def test_nuclei_are_drawn_in_the_color_of_a_feature(run: LoadedRun) -> None:
    from PIL import Image

    from morphomil.figures.style import render

    figure = run.show_nuclei("P001", "area_um2")
    assert "Area" in " ".join(axes.get_ylabel() for axes in figure.axes)
    plain = run.show_nuclei("P001", patch_id=int(run.nuclei("P001")["patch_id"].iloc[0]))
    pixels = [
        np.asarray(Image.open(io.BytesIO(render(drawn, "png", dpi=80))))
        for drawn in (figure, plain)
    ]
    assert all(shown.std() > 10 for shown in pixels)
    assert len(plain.axes) == 1
    most = run.nuclei("P001")["patch_id"].value_counts().head(4)
    shown = [int(axes.get_title(loc="left").removeprefix("patch ")) for axes in figure.axes[:4]]
    nuclei = run.nuclei("P001")["patch_id"].value_counts()
    assert shown == sorted(shown)
    assert sorted(nuclei[shown]) == sorted(most)


def test_outlines_lie_where_the_nuclei_are(run: LoadedRun) -> None:
    patches, nuclei = run.patches("P001").set_index("patch_id"), run.nuclei("P001")
    name = int(nuclei["patch_id"].mode()[0])
    own = nuclei[nuclei["patch_id"] == name]
    (axes,) = run.show_nuclei("P001", patch_id=name).axes
    middles = np.array([ring.mean(axis=0) for c in axes.collections for ring in c.get_segments()])
    places = own[["x_px", "y_px"]].to_numpy() - patches.loc[name, ["x_px", "y_px"]].to_numpy(float)
    nearest = [np.hypot(*(middles - place).T).min() for place in places]
    assert len(middles) >= len(own)
    assert np.quantile(nearest, 0.9) < 3  # a nucleus cut by the border has its middle elsewhere


def test_what_is_not_there_is_told(run: LoadedRun, tmp_path: Path) -> None:
    for call, message in (
        (lambda: run.nuclei("P0011"), "P001"),
        (lambda: run.show_nuclei("P001", "areas"), "area_um2"),
        (lambda: run.show_nuclei("P001", patch_id=999), "no patch 999"),
        (lambda: morphomil.load_run(tmp_path), "no run directory"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    empty = Run.create(tmp_path / "run")
    empty.save_cohort(Cohort((Slide("a", "p", "1", (ImageSource(tmp_path / "a.png"),)),)))
    loaded = morphomil.load_run(empty.path)
    with pytest.raises(InputError, match="morphomil featurize"):
        loaded.nuclei("a")
    with pytest.raises(InputError, match="morphomil rank"):
        _ = loaded.ranking
    assert loaded.nuclei().empty
    assert loaded.attention("a").empty


def test_the_page_that_jupyter_shows_is_escaped(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    run = Run.create(tmp_path / "run")
    run.save_cohort(Cohort((Slide(hostile, hostile, hostile, (ImageSource(tmp_path / "a.png"),)),)))
    page = morphomil.load_run(run.path)._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_run_says_how_far_it_is(run: LoadedRun) -> None:
    assert "24 slides; segmented 24, measured 24; ranked, density_per_mm2 first, AUC" in repr(run)
    assert "P001" in run._repr_html_()


def test_loading_a_run_loads_nothing_heavy(demo: Path) -> None:
    code = (
        f"import sys, morphomil; morphomil.load_run({str(demo / 'run')!r}).nuclei('P001'); "
        "print(*[name for name in ('tensorflow', 'torch', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
