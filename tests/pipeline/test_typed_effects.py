"""Effects on nuclei of one type, from phantoms whose own nuclei are imported with their types."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from morphomil import pipeline
from morphomil.figures.report.gallery import draw_gallery
from morphomil.matrix import slide_values
from morphomil.phantom.plan import Plan, plan_slide
from morphomil.phantom.settings import Effect, PhantomSettings
from morphomil.run.directory import Run
from morphomil.stats.mann_whitney import mann_whitney
from morphomil.types import Cohort, ImageSource, PatchSettings, Slide
from morphomil.viewer import SlideBrowser

PATIENTS = 16
SMALL = PhantomSettings(
    width_px=520, height_px=520, nest_share=0.5, stroma_per_mm2=3000, lymphocyte_share=0.4
)


def write_nuclei(plan: Plan, path: Path) -> None:
    """The plan's outlines with their classes, as QuPath writes detections."""
    features = []
    for row, outline in zip(plan.nuclei.to_dict("records"), plan.outlines, strict=True):
        ring = outline / plan.settings.mpp + [row["x_px"], row["y_px"]]
        geometry = {"type": "Polygon", "coordinates": [[*ring.tolist(), ring[0].tolist()]]}
        properties = {
            "objectType": "detection",
            "classification": {"name": row["nucleus_class"].title()},
        }
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def imported(folder: Path, effect: Effect) -> Run:
    folder.mkdir()
    slides, files = [], {}
    for number in range(PATIENTS):
        plan = plan_slide(SMALL, seed=5, number=number, effect=effect, label=number % 2)
        image, nuclei = folder / f"{number}.png", folder / f"{number}.geojson"
        pink = np.full((SMALL.height_px, SMALL.width_px, 3), (225, 170, 200), np.uint8)
        Image.fromarray(pink).save(image)
        write_nuclei(plan, nuclei)
        name = f"P{number:02d}"
        slides.append(Slide(name, name, str(number % 2), (ImageSource(image, mpp=SMALL.mpp),)))
        files[image] = nuclei
    settings = PatchSettings(regions="whole")
    run, result = pipeline.import_nuclei(
        Cohort(tuple(slides)), files, folder / "run", settings=settings
    )
    assert len(result.done) == PATIENTS
    return run


def effect_on(run: Run, feature: str) -> float:
    """Cliff's delta of the slides' values."""
    values = [
        slide_values(run.counted_nuclei(name), run.patches(name), features=[feature]).iloc[0]
        for name in run.done("featurize")
    ]
    table = pd.Series(values)
    return mann_whitney(table[1::2], table[::2]).cliffs_delta


def test_the_area_of_epithelial_nuclei(tmp_path: Path) -> None:
    """Clearer in them than in all nuclei, and not there in lymphocytes."""
    run = imported(tmp_path / "area", Effect("area_um2", 2.0))
    found = {}
    for whose in ("all", "epithelial", "lymphocyte"):
        pipeline.featurize(run, nuclei=whose)
        found[whose] = effect_on(run, "area_um2")
    assert found["epithelial"] > found["all"] + 0.1
    assert found["epithelial"] > 0.8
    assert abs(found["lymphocyte"]) < 0.4
    browser = SlideBrowser(run)
    about, nuclei = browser.describe(0, 0), run.nuclei("P00")
    counts = nuclei["type"].value_counts()
    names = [one["name"] for one in browser.describe_run()["types"]]
    assert about["types"] == [int(counts.get(name, 0)) for name in names]


def test_the_density_of_lymphocytes_ranks_above_that_of_all(tmp_path: Path) -> None:
    run = imported(tmp_path / "density", Effect("type_lymphocyte_per_mm2", 4.0))
    pipeline.featurize(run, families=["type"])
    assert effect_on(run, "type_lymphocyte_per_mm2") > 0.8
    assert abs(effect_on(run, "type_epithelial_per_mm2")) < 0.4
    ranking = pipeline.rank(run, seed=0, positive="1", quick=True).table.set_index("feature")
    assert effect_on(run, "type_stroma_cover") > 0.8
    typed = [  # attention goes to one of them
        "type_lymphocyte_share",
        "type_lymphocyte_per_mm2",
        "type_stroma_lymphocyte_per_mm2",
        "type_stroma_cover",
    ]
    assert ranking.loc[typed, "rank"].min() < ranking.loc["density_per_mm2", "rank"]
    order = ranking["shapley_rank"]
    assert order["type_lymphocyte_per_mm2"] < order["density_per_mm2"]
    assert run.ranking_about()["nuclei"] == "all"
    (pictures,) = draw_gallery(run, list(run.cohort.slides[:1]), "area_um2", positive="1")
    titles = [picture.title for picture in pictures.pictures]
    assert {"Nuclei by type", "The same patches by type"} <= set(titles)
    assert len(ranking) == 21
