"""A cohort whose files lie on an S3 server and a web server: the results are those of files on the
disk, each file is copied once, and what changes or is gone is noticed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import shapely
from PIL import Image
from slide_images import annotate, pyramid

from morphomil import pipeline
from morphomil.cohort import read_manifest
from morphomil.cohort.manifest import read_paths
from morphomil.errors import InputError, SlideError
from morphomil.figures.report.overviews import draw_overviews
from morphomil.image_model.embed import patch_pixels
from morphomil.pipeline.execution import StageResult
from morphomil.pipeline.importing import import_nuclei
from morphomil.pipeline.planning import plan_parts
from morphomil.pipeline.resolution import settle_resolution
from morphomil.places import Address
from morphomil.run import Run
from morphomil.slides import open_image
from morphomil.tables.quality import write_quality
from morphomil.types import NATIVE, Cohort, ImageSource, PatchSettings

if TYPE_CHECKING:
    from conftest import Bucket
    from stores import Web

SETTINGS = PatchSettings(patch_px=128, regions="auto")


@dataclass(frozen=True)
class Two:
    """The same cohort on the disk and elsewhere."""

    folder: Path
    bucket: Bucket
    web: Web

    def manifest(self, name: str) -> Path:
        return self.folder / f"{name}.csv"

    def make(self, name: str, out: str = "") -> StageResult:
        """Import the nuclei of one of the two cohorts and measure them."""
        path, out = self.manifest(name), out or f"run-{name}"
        cohort = read_manifest(path, elsewhere=["nuclei"]).cohort
        files = read_paths(path, "nuclei")
        run, result = import_nuclei(cohort, files, self.folder / out, settings=SETTINGS)
        pipeline.featurize(run)
        return result


@pytest.fixture
def two(tmp_path: Path, s3: Bucket, web: Web, draw_nuclei: Callable[..., np.ndarray]) -> Two:
    rows: dict[str, list[dict[str, str]]] = {"here": [], "there": []}
    for number in range(3):
        rng = np.random.default_rng(number)
        noise = rng.normal(0, 12, (384, 512, 1)) + np.array([200, 130, 180])
        pixels = np.clip(noise, 0, 250).astype(np.uint8)
        slide, nuclei = web.folder / f"s{number}.tif", web.folder / f"labels{number}.png"
        pyramid(slide, pixels, factors=(1, 2), mpp=0.5)
        labels = draw_nuclei((384, 512), seed=number)
        Image.fromarray(labels.astype(np.uint16)).save(nuclei)
        drawn = annotate(web.folder / f"a{number}.json", [shapely.box(20, 20, 480, 360)])
        about = {"slide_id": f"s{number}", "patient": f"p{number}", "label": f"L{number % 2}"}
        files = {"slide": slide, "annotation": drawn, "nuclei": nuclei}
        rows["here"].append(about | {name: str(file) for name, file in files.items()})
        put = s3.put if number == 0 else lambda file: f"{web.url}/{file.name}"
        rows["there"].append(about | {name: put(file) for name, file in files.items()})
    for name, table in rows.items():
        pd.DataFrame(table).to_csv(tmp_path / f"{name}.csv", index=False)
    return Two(tmp_path, s3, web)


def results(run: Path) -> dict[str, bytes]:
    """What a run holds of its slides, without who made it when and from which files."""
    found = {p.relative_to(run).as_posix(): p for p in sorted((run / "slides").rglob("*"))}
    return {
        name: path.read_bytes()
        for name, path in found.items()
        if path.is_file() and path.name != "status.json"
    }


def copies(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.suffix in (".tif", ".png"))


def test_results_are_those_of_files_on_the_disk(two: Two, cache: Path) -> None:
    assert two.make("here").done == two.make("there").done == ("s0", "s1", "s2")
    here, there = (results(two.folder / f"run-{name}") for name in ("here", "there"))
    assert len(here) > 3 * 5
    assert here == there
    assert two.web.sent == {f"/{file}{n}.{end}": 1 for n in (1, 2) for file, end in ENDS.items()}
    assert copies(cache) == []  # they go with their slide
    runs = [Run(two.folder / f"run-{name}") for name in ("here", "there")]
    for name in ("s0", "s1"):
        pixels = [np.stack([*patch_pixels(run, run.slide(name), outside="white")]) for run in runs]
        np.testing.assert_array_equal(*pixels)


ENDS = {"s": "tif", "labels": "png", "a": "json"}


def test_what_is_done_is_not_copied_again(two: Two) -> None:
    two.make("there")
    two.web.sent.clear()
    assert two.make("there").skipped == ("s0", "s1", "s2")
    assert not two.web.sent


def test_a_changed_slide_is_noticed(two: Two) -> None:
    two.make("there")
    run = Run(two.folder / "run-there")
    pixels = np.full((384, 512, 3), (200, 130, 180), np.uint8)
    changed = [pyramid(two.web.folder / f"s{n}.tif", pixels - n, mpp=0.5) for n in range(2)]
    two.bucket.put(changed[0])
    for name in ("s0", "s1"):
        with pytest.raises(SlideError, match=rf"://.*/{name}.tif has changed since"):
            run.open_image(name)
    with run.open_image("s2"):
        pass
    assert two.make("there").done == ("s0", "s1")
    changed[1].unlink()
    with pytest.raises(SlideError, match=r"/s1.tif doesn't exist"):
        run.open_image("s1")
    assert len(draw_overviews(run, missed=(missed := {}))) == 2
    assert list(missed) == ["s1"]


def test_a_slide_that_cant_be_had_stops_no_other(two: Two) -> None:
    path = two.manifest("there")
    cohort, files = read_manifest(path).cohort, read_paths(path, "nuclei")
    (two.web.folder / "s1.tif").unlink()
    (two.web.folder / "s2.tif").write_bytes(b"II*\0 but no image")
    _run, result = import_nuclei(cohort, files, two.folder / "run", settings=SETTINGS)
    assert result.done == ("s0",)
    assert result.failed["s1"] == f"{two.web.url}/s1.tif doesn't exist"
    assert f"slide {two.web.url}/s2.tif can't be read" in result.failed["s2"]
    assert "cache" not in result.failed["s2"]  # the copy isn't what the user has


def test_what_needs_a_file_before_the_work(two: Two) -> None:
    """Sizes are asked for; pixel sizes aren't, and a part of a slide is none."""
    cohort = read_manifest(two.manifest("there")).cohort
    plans = [
        plan_parts(read_manifest(two.manifest(name)).cohort, seconds=60, minutes=0.4)
        for name in ("here", "there")
    ]
    pd.testing.assert_frame_equal(*plans)
    native = replace(SETTINGS, working_mpp=NATIVE)
    with pytest.raises(InputError, match=r"s3://slides/s0.tif isn't copied .* column mpp"):
        settle_resolution(cohort, native, 0.5)
    stated = [
        replace(slide, images=(replace(slide.images[0], mpp=0.5),)) for slide in cohort.slides
    ]
    assert settle_resolution(Cohort(tuple(stated)), native, None).working_mpp == 0.5
    (two.web.folder / "part").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(SlideError, match="a DICOM slide is several files"):
        open_image(ImageSource(Address(f"{two.web.url}/part"), mpp=0.5))


def test_a_command_resumes_after_a_kill_and_leaves_no_copy(two: Two, cache: Path) -> None:
    two.make("here")
    words = ["import-nuclei", two.manifest("there"), "--out", two.folder / "killed"]
    words += ["--patch", "128"]
    program = [str(Path(sys.executable).with_name("morphomil")), *map(str, words)]
    child = subprocess.Popen(program, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not copies(cache):
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert copies(cache)
    two.web.sent.clear()
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(two.web.sent.values()) == {1}  # for the overviews too
    pipeline.featurize(Run(two.folder / "killed"))
    made, here = results(two.folder / "killed"), results(two.folder / "run-here")
    assert [made.pop(f"slides/s{n}/overview.png")[1:4] for n in range(3)] == [b"PNG"] * 3
    assert all(made.pop(f"slides/s{n}/quality.json") for n in range(3))
    assert made == here
    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["lock"]
    two.web.sent.clear()
    tables = [write_quality(Run(two.folder / name))[0] for name in ("killed", "run-here")]
    assert tables[0].read_bytes() == tables[1].read_bytes()
    assert not two.web.sent
    for path in (two.folder / "killed").rglob("*"):
        assert not path.is_file() or b"testing-secret" not in path.read_bytes()
