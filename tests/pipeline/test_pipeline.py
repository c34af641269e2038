"""The stages on phantoms and on real tissue: resume, kill, faults, shards, and what the tables
say."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from morphomil import pipeline
from morphomil.errors import InputError
from morphomil.nuclei.measure import measure_nuclei
from morphomil.nuclei.polygons import measure_outlines
from morphomil.pipeline import measurement
from morphomil.run.directory import Run
from morphomil.segment import segment_image
from morphomil.store import digest
from morphomil.types import FEATURE_NAMES, Cohort, ImageSource, PatchSettings, Slide

RESULTS = (
    "patches.parquet",
    "regions.geojson",
    "masks.zarr",
    "nuclei.parquet",
    "counts.zarr",
    "status.json",
)


class Recorder(pipeline.Silence):
    def __init__(self) -> None:
        self.ends: list[tuple[str, str]] = []

    def end(self, slide_id: str, state: str, message: str) -> None:
        self.ends.append((slide_id, state))


def contents(run: Run) -> dict[str, str]:
    return {
        f"{slide.slide_id}/{name}": digest(run.slide_folder(slide.slide_id) / name)
        for slide in run.cohort.slides
        for name in RESULTS
    }


@pytest.fixture(scope="module")
def few(demo: Path) -> Cohort:
    """Three slides of the demo cohort."""
    return Cohort(Run.open(demo / "run").cohort.slides[:3])


@pytest.fixture(scope="module")
def clean(few: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The three slides, segmented and measured in one go."""
    run, result = pipeline.segment(few, tmp_path_factory.mktemp("clean") / "run")
    assert len(result.done) == 3
    assert len(pipeline.featurize(run).done) == 3
    return run


def test_a_second_run_has_nothing_to_do(few: Cohort, clean: Run) -> None:
    before = contents(clean)
    heard = Recorder()
    _, result = pipeline.segment(few, clean.path, progress=heard)
    assert result.skipped == tuple(slide.slide_id for slide in few.slides)
    assert {state for _, state in heard.ends} == {"skipped"}
    assert len(pipeline.featurize(clean).skipped) == 3
    assert contents(clean) == before


def test_harmed_or_missing_results_are_made_anew(few: Cohort, clean: Run, tmp_path: Path) -> None:
    run = Run(shutil.copytree(clean.path, tmp_path / "run"))
    before = contents(run)
    first, second, _ = (run.slide_folder(slide.slide_id) for slide in few.slides)
    (first / "patches.parquet").write_bytes((first / "patches.parquet").read_bytes()[:-9])
    (second / "status.json").write_text("{")
    _, result = pipeline.segment(few, run.path)
    assert result.done == (few.slides[0].slide_id, few.slides[1].slide_id)
    assert pipeline.featurize(run).done == result.done
    assert contents(run) == before


def test_changed_settings_make_results_stale(few: Cohort, clean: Run, tmp_path: Path) -> None:
    run = Run(shutil.copytree(clean.path, tmp_path / "run"))
    one = Cohort(few.slides[:1])
    _, result = pipeline.segment(one, run.path, settings=PatchSettings(max_blank=0.1))
    assert result.done == (one.slides[0].slide_id,)
    assert run.patches(one.slides[0].slide_id)["blank_fraction"].loc[lambda b: b < 0.1].size == int(
        run.patches(one.slides[0].slide_id)["kept"].sum()
    )
    assert pipeline.featurize(Run.open(run.path)).done == (one.slides[0].slide_id,)


def morphomil(*words: str | Path) -> list[str]:
    return [str(Path(sys.executable).with_name("morphomil")), *map(str, words)]


@pytest.fixture(scope="module")
def few_manifest(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of the three slides."""
    manifest = pd.read_csv(demo / "cohort" / "cohort.csv", dtype=str).head(3)
    for name in ("slide", "annotation"):
        manifest[name] = [str((demo / "cohort" / value).resolve()) for value in manifest[name]]
    path = tmp_path_factory.mktemp("few") / "few.csv"
    manifest.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def undisturbed(few_manifest: Path) -> tuple[Run, float]:
    """The three slides as the commands make them, each command in a process of its own; the seconds
    of `segment`."""
    out = few_manifest.parent / "run"
    begun = time.monotonic()
    subprocess.run(
        morphomil("segment", few_manifest, "--out", out), check=True, capture_output=True
    )
    seconds = time.monotonic() - begun
    subprocess.run(morphomil("featurize", out), check=True, capture_output=True)
    return Run.open(out), seconds


def test_killed_runs_resume_to_the_same_bytes(
    few_manifest: Path, undisturbed: tuple[Run, float], tmp_path: Path
) -> None:
    """SIGKILL at random moments, again and again, then one run to the end."""
    clean, seconds = undisturbed
    words = morphomil("segment", few_manifest, "--out", tmp_path / "run")
    chance = random.Random(7)
    kills = 0
    for _ in range(6):
        with subprocess.Popen(
            words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as process:
            try:
                process.wait(timeout=chance.uniform(0.3, 0.9) * seconds)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                kills += 1
    assert kills
    subprocess.run(words, check=True, capture_output=True)
    subprocess.run(morphomil("featurize", tmp_path / "run"), check=True, capture_output=True)
    run = Run.open(tmp_path / "run")
    assert contents(run) == contents(clean)
    assert not list(run.path.rglob("*.tmp"))


def test_an_interrupted_command_says_how_to_go_on(few_manifest: Path, tmp_path: Path) -> None:
    words = morphomil("segment", few_manifest, "--out", tmp_path / "run")
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        while not (tmp_path / "run" / "slides").is_dir():  # the first slide is begun
            time.sleep(0.01)
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on where it stopped" in said
    assert not list((tmp_path / "run").rglob("masks.zarr.*"))


def test_a_corrupt_slide_does_not_stop_the_others(few: Cohort, tmp_path: Path) -> None:
    torn = tmp_path / "torn.tif"
    content = few.slides[0].images[0].path.read_bytes()
    torn.write_bytes(content[: len(content) // 2])
    broken = Slide("broken", "p", "1", (ImageSource(torn, mpp=0.5),))
    run, result = pipeline.segment(Cohort((broken, few.slides[0])), tmp_path / "run")
    assert list(result.failed) == ["broken"]
    assert "torn.tif" in result.failed["broken"]
    assert result.done == (few.slides[0].slide_id,)
    assert pipeline.featurize(run).done == (few.slides[0].slide_id,)
    assert run.figures("segment")["state"].tolist() == ["failed", "done"]


def test_unknown_pixel_sizes_are_refused_before_any_work(tmp_path: Path) -> None:
    from PIL import Image

    slides = []
    for number in range(2):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(path)
        slides.append(Slide(f"s{number}", f"p{number}", str(number), (ImageSource(path),)))
    with pytest.raises(InputError) as refused:
        pipeline.segment(Cohort(tuple(slides)), tmp_path / "run")
    assert len(refused.value.problems) == 2
    assert "--mpp" in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_shards_share_the_work_and_give_the_same_bytes(
    few: Cohort, clean: Run, tmp_path: Path
) -> None:
    parts = [
        pipeline.segment(few, tmp_path / "run", shard=pipeline.Shard(i, 3))[1].done
        for i in (1, 2, 3)
    ]
    assert sorted(sum(parts, ())) == sorted(slide.slide_id for slide in few.slides)
    run = Run.open(tmp_path / "run")
    pipeline.featurize(run)
    assert contents(run) == contents(clean)


def test_phantom_nuclei_are_found(demo: Path, clean: Run) -> None:
    """In kept patches: as many as there are, of the size that they have."""
    for slide in clean.cohort.slides:
        truth = pd.read_parquet(demo / "cohort" / "truth" / f"{slide.slide_id}.parquet")
        found, patches = clean.nuclei(slide.slide_id), clean.patches(slide.slide_id).query("kept")
        here = np.zeros(len(truth), bool)
        for patch in patches.itertuples():
            x, y = truth["x_px"] - patch.x_px, truth["y_px"] - patch.y_px
            here |= ((x >= 0) & (x < patch.side_px) & (y >= 0) & (y < patch.side_px)).to_numpy()
        inside = here & truth["in_tumor"].to_numpy() if "in_tumor" in truth else here
        assert len(found) == pytest.approx(inside.sum(), rel=0.2)
        assert found["area_um2"].median() == pytest.approx(
            truth.loc[inside, "area_um2"].median(), rel=0.2
        )


def test_every_nucleus_lies_in_its_patch(clean: Run) -> None:
    for slide in clean.cohort.slides:
        nuclei, patches = (
            clean.nuclei(slide.slide_id),
            clean.patches(slide.slide_id).set_index("patch_id"),
        )
        own = patches.loc[nuclei["patch_id"]]
        assert own["kept"].all()
        for axis in "xy":
            offset = nuclei[f"{axis}_px"].to_numpy() - own[f"{axis}_px"].to_numpy()
            assert ((offset >= 0) & (offset <= own["side_px"].to_numpy())).all()
        assert not nuclei["label"].duplicated().any()


def test_bands_and_stages_measure_what_the_mask_shows(
    clean: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slide_id = clean.cohort.slides[0].slide_id
    masks = clean.masks(slide_id)[0]
    outlines = masks.outlines
    assert outlines is not None
    exact = measure_outlines(outlines.vertices[:] - 0.5, outlines.ends, mpp=0.5)
    exact.index = exact["label"] + outlines.first_label - 1
    _assert_same_shapes(clean.nuclei(slide_id), exact)
    run = Run(shutil.copytree(clean.path, tmp_path / "run"))
    for module in ("pipeline.segmentation", "slides.masks"):
        monkeypatch.setattr(f"morphomil.{module}.BAND_PX", 300)
    (run.slide_folder(slide_id) / "nuclei.parquet").unlink()
    pipeline.featurize(run)
    pd.testing.assert_frame_equal(run.nuclei(slide_id), clean.nuclei(slide_id), rtol=1e-9)
    patches = clean.patches(slide_id).query("region == 0")
    by_pixels, _ = measurement._measure_region(replace(masks, outlines=None), patches, ())
    drawn = measure_nuclei(masks.labels[:], mpp=0.5).set_index("label")
    _assert_same_shapes(by_pixels, drawn)


def _assert_same_shapes(nuclei: pd.DataFrame, expected: pd.DataFrame) -> None:
    """A slide's table against what is measured at once of its first region, by label."""
    table = nuclei.set_index("label")
    common = table.index.intersection(expected.index)
    assert len(common) > 100
    shapes = [name for name in FEATURE_NAMES if name != "density_per_mm2"]
    pd.testing.assert_frame_equal(
        table.loc[common, shapes],
        expected.loc[common, shapes],
        check_names=False,
        check_index_type=False,
        rtol=1e-9,
    )


def test_real_biopsy_regions(shared_data: Path, tmp_path: Path) -> None:
    """What a pathologist would expect of breast cancer; and whole and in patches give the same
    nuclei."""
    from PIL import Image

    from morphomil.segment.agreement import agreement

    path = shared_data / "bcnb" / "regions" / "469387_3.jpg"
    cohort = Cohort((Slide("469387", "469387", "1", (ImageSource(path, mpp=0.5),)),))
    begun = time.monotonic()
    run, result = pipeline.segment(cohort, tmp_path / "run")
    assert result.done == ("469387",)
    pipeline.featurize(run)
    figures = run.figures("featurize").iloc[0]
    assert 2500 < figures["nuclei_per_mm2"] < 8000
    assert 25 < figures["median_area_um2"] < 70
    assert time.monotonic() - begun < 300
    pixels = np.asarray(Image.open(path).convert("RGB"))
    whole = segment_image(pixels, mpp=0.5)
    masks = run.masks("469387")[0]
    patches = run.patches("469387").query("kept")
    matched = total = 0
    for patch in patches.itertuples():
        x, y = round(patch.x_px), round(patch.y_px)
        stored = masks.patch_labels(x, y)
        same = whole[y : y + 256, x : x + 256]
        height, width = same.shape
        score = agreement(same, stored[:height, :width])
        matched += score.dq * (score.annotated + score.found)
        total += score.annotated + score.found
    assert matched / total > 0.98


def test_environment_leaves_no_trace(undisturbed: tuple[Run, float], tmp_path: Path) -> None:
    """Another locale and time zone give the same bytes."""
    clean, _ = undisturbed
    code = (
        "from pathlib import Path\n"
        "from morphomil import pipeline\n"
        "from morphomil.run.directory import Run\n"
        "from morphomil.types import Cohort\n"
        f"cohort = Cohort(Run.open(Path({str(clean.path)!r})).cohort.slides[:1])\n"
        f"run, _ = pipeline.segment(cohort, Path({str(tmp_path / 'run')!r}))\n"
        "pipeline.featurize(run)\n"
    )
    environment = os.environ | {"LANG": "C", "LC_ALL": "C", "TZ": "Pacific/Kiritimati"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)
    other = contents(Run.open(tmp_path / "run"))
    assert other.items() <= contents(clean).items()
