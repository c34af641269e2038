from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from skimage.measure import regionprops_table

from morphomil.errors import InputError
from morphomil.nuclei.density import local_density
from morphomil.phantom.files import write_cohort
from morphomil.phantom.nuclei import GAP_UM
from morphomil.phantom.paint import Phantom, render_slide
from morphomil.phantom.plan import plan_slide
from morphomil.phantom.settings import (
    NO_EFFECT,
    NUCLEUS_CLASSES,
    PLANTED_TRAIT,
    TRAIT_SD,
    Effect,
    PhantomSettings,
)
from morphomil.slides.annotations import read_annotation
from morphomil.store import digest
from morphomil.types import FEATURE_NAMES

if TYPE_CHECKING:
    from pathlib import Path

SMALL = PhantomSettings(width_px=700, height_px=530)
COHORT = PhantomSettings(width_px=900, height_px=900)
PATIENTS = 24
PLANTABLE = ("area_um2", "orientation_deg", "density_per_mm2", "circularity", "rectangularity")


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return render_slide(SMALL, seed=3)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"), seed=1, slides=4, settings=SMALL)


def outlines_px(phantom: Phantom) -> np.ndarray:
    """Polygons of the true outlines, level-0 pixels."""
    centers = phantom.plan.nuclei[["x_px", "y_px"]].to_numpy()
    return shapely.polygons(phantom.plan.outlines / SMALL.mpp + centers[:, None, :])


def test_slide_repeats_and_differs_by_number_and_seed(phantom: Phantom) -> None:
    again = render_slide(SMALL, seed=3)
    np.testing.assert_array_equal(again.rgb, phantom.rgb)
    np.testing.assert_array_equal(again.labels, phantom.labels)
    pd.testing.assert_frame_equal(again.plan.nuclei, phantom.plan.nuclei)
    for other in (plan_slide(SMALL, seed=3, number=1), plan_slide(SMALL, seed=4)):
        assert other.traits != phantom.plan.traits
        assert not other.tumor.equals(phantom.plan.tumor)


def test_slide_is_the_same_in_a_cohort_of_any_length_and_size_of_cohort_is_told(
    cohort: Path, tmp_path: Path
) -> None:
    calls = []
    write_cohort(
        tmp_path, seed=1, slides=2, settings=SMALL, on_slide=lambda *done: calls.append(done)
    )
    assert calls == [(1, 2), (2, 2)]
    names = [
        "slides/P00?.tif",
        "annotations/P00?.geojson",
        "truth/P00?.parquet",
        "truth/P00?_labels.tif",
    ]
    for name in (name.replace("?", number) for name in names for number in "12"):
        assert digest(tmp_path / name) == digest(cohort.parent / name), name


def test_labels_agree_with_truth(phantom: Phantom) -> None:
    nuclei, mpp = phantom.plan.nuclei, SMALL.mpp
    columns = ("label", "area", "centroid", "axis_major_length", "axis_minor_length", "orientation")
    seen = pd.DataFrame(regionprops_table(phantom.labels, properties=columns))
    assert phantom.labels.dtype == np.int32
    assert seen["label"].tolist() == nuclei["label"].tolist()
    ratio = seen["area"] * mpp**2 / nuclei["area_um2"]
    assert ratio.between(0.9, 1.1).all()
    assert ratio.mean() == pytest.approx(1, abs=0.006)
    np.testing.assert_allclose(
        seen[["centroid-1", "centroid-0"]] + 0.5, nuclei[["x_px", "y_px"]], atol=0.35
    )
    assert (seen["axis_major_length"] * mpp / nuclei["major_axis_um"]).median() == pytest.approx(
        1, abs=0.01
    )
    assert (seen["axis_minor_length"] * mpp / nuclei["minor_axis_um"]).median() == pytest.approx(
        1, abs=0.01
    )
    long = nuclei["major_axis_um"] > 1.5 * nuclei["minor_axis_um"]
    turn = (90 - np.degrees(seen["orientation"]) - nuclei["orientation_deg"] + 90) % 180 - 90
    assert turn[long].abs().max() < 6


def test_truth_measures_the_outlines(phantom: Phantom) -> None:
    nuclei, outlines = phantom.plan.nuclei, outlines_px(phantom)
    area = shapely.area(outlines) * SMALL.mpp**2
    length = shapely.length(outlines) * SMALL.mpp
    rectangle = shapely.area(shapely.minimum_rotated_rectangle(outlines)) * SMALL.mpp**2
    center = shapely.centroid(outlines)
    np.testing.assert_allclose(nuclei["area_um2"], area)
    np.testing.assert_allclose(nuclei["circumference_um"], length)
    np.testing.assert_allclose(nuclei["circularity"], 4 * np.pi * area / length**2)
    np.testing.assert_allclose(nuclei["rectangularity"], area / rectangle, rtol=5e-3)
    np.testing.assert_allclose(
        nuclei[["x_px", "y_px"]], np.stack([shapely.get_x(center), shapely.get_y(center)], 1)
    )


def test_truth_of_density_is_that_of_the_tumors_nuclei(phantom: Phantom) -> None:
    tumor, nuclei = phantom.plan.tumor, phantom.plan.nuclei
    x, y = nuclei["x_px"].to_numpy(), nuclei["y_px"].to_numpy()
    inside = shapely.contains_xy(tumor, x, y)
    np.testing.assert_array_equal(nuclei["in_tumor"], inside)
    rows, columns = np.indices((SMALL.height_px, SMALL.width_px)) + 0.5
    tissue = shapely.contains_xy(tumor, columns, rows)
    expected = local_density(
        x[inside] * SMALL.mpp, y[inside] * SMALL.mpp, tissue=tissue, tissue_mpp=SMALL.mpp
    )
    np.testing.assert_allclose(nuclei.loc[inside, "density_per_mm2"], expected, rtol=0.02)
    assert nuclei.loc[~inside, "density_per_mm2"].isna().all()


@examples(deadline=None, max_examples=6)
@given(
    seed=st.integers(0, 2**31),
    mpp=st.sampled_from([0.25, 0.5, 1.0]),
    shift=st.sampled_from([-5.0, 5.0]),
)
def test_nuclei_keep_apart_and_lie_in_the_image(seed: int, mpp: float, shift: float) -> None:
    settings = PhantomSettings(mpp=mpp, width_px=round(300 / mpp), height_px=round(260 / mpp))
    plan = plan_slide(settings, seed=seed, effect=Effect("density_per_mm2", shift), label=1)
    centers = plan.nuclei[["x_px", "y_px"]].to_numpy() * mpp
    outlines = shapely.polygons(plan.outlines + centers[:, None, :])
    assert shapely.is_valid(outlines).all()
    first, second = shapely.STRtree(outlines).query(
        outlines, predicate="dwithin", distance=GAP_UM * 0.999
    )
    assert (first == second).all()
    left, top, right, bottom = shapely.total_bounds(outlines)
    assert min(left, top) > 0
    assert right < settings.width_px * mpp
    assert bottom < settings.height_px * mpp


def test_planned_number_and_classes_are_reached() -> None:
    plan = plan_slide(COHORT, seed=8)
    nuclei, factor = plan.nuclei, np.exp(plan.traits["density"])
    nest_mm2 = (plan.layout.nest > 0).sum() * 16e-6
    counts = nuclei["nucleus_class"].value_counts()
    assert counts["tumor"] / nest_mm2 == pytest.approx(COHORT.tumor_per_mm2 * factor, rel=0.05)
    assert counts["lymphocyte"] / (counts["lymphocyte"] + counts["stroma"]) == pytest.approx(
        0.25, abs=0.02
    )
    assert set(counts.index) == set(NUCLEUS_CLASSES)
    tumor = nuclei[nuclei["nucleus_class"] == "tumor"]
    assert tumor["area_um2"].median() == pytest.approx(
        COHORT.area_um2 * np.exp(plan.traits["size"]), rel=0.06
    )
    ratio = (tumor["major_axis_um"] / tumor["minor_axis_um"]).median()
    assert ratio == pytest.approx(COHORT.axis_ratio, rel=0.08)


def test_stroma_follows_the_fibers_and_tumor_its_polarity() -> None:
    def alignment(polarity: float, name: str) -> float:
        plan = plan_slide(PhantomSettings(width_px=900, height_px=900, polarity=polarity), seed=2)
        layout, nuclei = plan.layout, plan.nuclei[plan.nuclei["nucleus_class"] == name]
        down, right = np.gradient(layout.fiber_um)
        column, row = (nuclei[["x_px", "y_px"]].to_numpy() * 0.5 // 4).astype(int).T
        direction = np.arctan2(-right, down) if name == "stroma" else layout.axis
        return float(
            np.cos(2 * (np.radians(nuclei["orientation_deg"]) - direction[row, column])).mean()
        )

    assert alignment(1, "stroma") > 0.85
    assert abs(alignment(0, "tumor")) < 0.1
    assert alignment(6, "tumor") > 0.7


@cache
def patient_values(effect: Effect) -> pd.DataFrame:
    """One row per patient, groups 0 and 1 in turn: the design's patient values, from truth."""
    rows = []
    for number in range(PATIENTS):
        plan = plan_slide(COHORT, seed=20, number=number, effect=effect, label=number % 2)
        nuclei = plan.nuclei[plan.nuclei["in_tumor"]]
        row = nuclei[list(FEATURE_NAMES)].median()
        row["density_per_mm2"] = len(nuclei) / plan.tumor.area
        row["orientation_deg"] = polarity(nuclei.dropna(subset="orientation_deg"))
        rows.append(row)
    return pd.DataFrame(rows)


def polarity(nuclei: pd.DataFrame) -> float:
    values = []
    for _, patch in nuclei.groupby([nuclei["x_px"] // 256, nuclei["y_px"] // 256]):
        n, angles = len(patch), np.radians(patch["orientation_deg"])
        if n >= 5:
            values.append((abs(np.exp(2j * angles).sum()) ** 2 / n - 1) / (n - 1))
    return float(np.mean(values))


def cliffs_delta(effect: Effect) -> pd.Series:
    """Group 1 against group 0, per feature."""
    table = patient_values(effect)
    high, low = table.iloc[1::2], table.iloc[::2]
    return pd.Series(
        {
            f: 2 * mannwhitneyu(high[f], low[f]).statistic / (PATIENTS / 2) ** 2 - 1
            for f in FEATURE_NAMES
        }
    )


@pytest.mark.parametrize("feature", PLANTABLE)
def test_planted_feature_differs_and_the_others_stay(feature: str) -> None:
    planted, null = cliffs_delta(Effect(feature, 4.0)), cliffs_delta(Effect())
    assert planted[feature] > 0.7
    assert planted[feature] - null[feature] > 0.4
    size_family = {"area_um2", "major_axis_um", "minor_axis_um", "circumference_um"}
    bound = (
        size_family if feature in ("area_um2", "circularity") else set()
    )  # a rounder nucleus has less circumference
    others = [name for name in FEATURE_NAMES if name != feature and name not in bound]
    assert (planted[others] - null[others]).abs().max() < 0.5


def test_null_cohort_has_no_effect_but_patients_differ() -> None:
    assert cliffs_delta(Effect()).abs().max() < 0.5
    spread = patient_values(Effect()).std() / patient_values(Effect()).mean()
    assert spread["area_um2"] == pytest.approx(TRAIT_SD["size"], rel=0.5)
    assert spread["density_per_mm2"] == pytest.approx(TRAIT_SD["density"], rel=0.5)
    assert (spread > 0.005).all()


def test_shift_of_zero_ignores_the_group() -> None:
    one, other = (
        plan_slide(SMALL, seed=6, effect=Effect("circularity", 0.0), label=label)
        for label in (0, 1)
    )
    pd.testing.assert_frame_equal(one.nuclei, other.nuclei)
    assert one.traits == plan_slide(SMALL, seed=6, effect=Effect(NO_EFFECT, 3.0), label=1).traits


def test_every_feature_can_be_planted_in_standard_units() -> None:
    assert set(PLANTED_TRAIT) == {*FEATURE_NAMES, "type_lymphocyte_per_mm2"}
    assert Effect("circularity", 3.0).scores(1) == {"lobulation": -1.5}
    assert Effect("density_per_mm2", 2.0).scores(0) == {"density": -1.0}
    assert Effect("area_um2", -2.0).scores(1) == {"size": -1.0}


def test_picture_has_glass_stroma_and_dark_nuclei(phantom: Phantom) -> None:
    rgb, nuclei = phantom.rgb.astype(float), phantom.plan.nuclei
    glass = np.concatenate([rgb[:10, :10].reshape(-1, 3), rgb[-10:, -10:].reshape(-1, 3)])
    assert ((glass.mean(0) > 235) & (glass.mean(0) < 248)).all()
    dark = rgb[
        np.isin(phantom.labels, nuclei.loc[nuclei["nucleus_class"] == "lymphocyte", "label"])
    ].mean(0)
    pale = rgb[
        np.isin(phantom.labels, nuclei.loc[nuclei["nucleus_class"] == "tumor", "label"])
    ].mean(0)
    around = rgb[
        SMALL.height_px // 4 : -SMALL.height_px // 4, SMALL.width_px // 4 : -SMALL.width_px // 4
    ]
    around = around[
        phantom.labels[
            SMALL.height_px // 4 : -SMALL.height_px // 4, SMALL.width_px // 4 : -SMALL.width_px // 4
        ]
        == 0
    ]
    assert dark[0] < pale[0] < around.mean(0)[0] - 30
    assert pale[2] > pale[0]
    assert around.mean(0)[0] > around.mean(0)[1]


def test_openslide_reads_levels_size_pixel_size_and_picture(cohort: Path) -> None:
    openslide = pytest.importorskip("openslide")
    phantom = render_slide(SMALL, seed=1, number=0, effect=Effect("density_per_mm2", 2.0), label=0)
    with openslide.OpenSlide(cohort.parent / "slides" / "P001.tif") as slide:
        assert slide.level_dimensions == ((700, 530), (350, 265), (175, 133))
        for axis in "xy":
            assert float(slide.properties[f"openslide.mpp-{axis}"]) == pytest.approx(0.5, rel=1e-6)
        read = np.asarray(slide.read_region((0, 0), 0, (700, 530)))
        half = np.asarray(slide.read_region((0, 0), 1, (350, 265)))
    assert (read[..., 3] == 255).all()
    assert np.abs(read[..., :3] - phantom.rgb.astype(float)).mean() < 5
    assert np.abs(half[..., :3] - phantom.rgb.reshape(265, 2, 350, 2, 3).mean((1, 3))).mean() < 5


def test_slide_is_a_sound_tiff(cohort: Path) -> None:
    with tifffile.TiffFile(cohort.parent / "slides" / "P002.tif") as tiff:
        assert [page.shape for page in tiff.pages] == [(530, 700, 3), (265, 350, 3), (133, 175, 3)]
        assert [page.is_tiled and page.is_reduced == bool(page.index) for page in tiff.pages] == [
            True
        ] * 3
        first, second = (page.tags["XResolution"].value for page in tiff.pages[:2])
        assert first[0] / first[1] == 2 * second[0] / second[1] == 20_000


def test_cohort_holds_manifest_annotations_and_truth(cohort: Path) -> None:
    folder, manifest = cohort.parent, pd.read_csv(cohort)
    assert manifest.columns.tolist() == ["slide", "patient", "label", "annotation", "site", "age"]
    assert manifest["label"].tolist() == [0, 1, 0, 1]
    assert manifest["site"].tolist() == ["A", "A", "B", "B"]
    assert manifest["age"].between(25, 90).all()
    truth = pd.read_csv(folder / "truth" / "patients.csv").set_index("patient")
    for number, row in enumerate(manifest.itertuples()):
        plan = plan_slide(
            SMALL,
            seed=1,
            number=number,
            effect=Effect("density_per_mm2", 2.0),
            label=int(row.label),
        )
        (area,) = read_annotation(folder / str(row.annotation)).areas
        assert area.kind == "tumor"
        assert area.polygon.equals(plan.tumor)
        assert shapely.box(0, 0, SMALL.width_px, SMALL.height_px).contains(area.polygon)
        assert (folder / str(row.slide)).is_file()
        nuclei = pd.read_parquet(folder / "truth" / f"{row.patient}.parquet")
        pd.testing.assert_frame_equal(nuclei, plan.nuclei, check_dtype=False)
        labels = tifffile.imread(folder / "truth" / f"{row.patient}_labels.tif")
        assert labels.shape == (SMALL.height_px, SMALL.width_px)
        assert np.unique(labels).tolist() == [0, *nuclei["label"]]
        assert truth.loc[row.patient, "size"] == pytest.approx(
            plan.traits["size"] / TRAIT_SD["size"]
        )
    about = json.loads((folder / "truth" / "phantom.json").read_text())
    assert (about["seed"], about["effect"], about["shift"]) == (1, "density_per_mm2", 2.0)
    assert PhantomSettings(**about["settings"]) == SMALL


def test_refuses_bad_settings_naming_all_of_them() -> None:
    with pytest.raises(InputError) as caught:
        PhantomSettings(mpp=0.0, jpeg_quality=5, noise=float("nan"))
    assert [problem.split()[2] for problem in caught.value.problems[:3]] == [
        "mpp",
        "noise",
        "jpeg_quality",
    ]
    with pytest.raises(InputError, match="at most 25% of the nests, got 48%"):
        PhantomSettings(tumor_per_mm2=6000, area_um2=80)
    with pytest.raises(
        InputError,
        match=r"sides must be at least 150 um, got 256 x 2000 px of "
        r"0\.25 um",
    ):
        PhantomSettings(width_px=256, height_px=2000, mpp=0.25)
    with pytest.raises(InputError, match="painted in memory"):
        PhantomSettings(width_px=20_000, height_px=20_000)


def test_refuses_effects_and_cohorts_that_cant_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'roundness' to plant; choose none, area_um2"):
        Effect("roundness", 1.0)
    for shift in (7.0, float("nan")):
        with pytest.raises(InputError, match="-6 to 6 SDs"):
            Effect("area_um2", shift)
    with pytest.raises(
        InputError, match="at least 2 slides and a seed from 0, got 1 slides and seed 0"
    ):
        write_cohort(tmp_path, seed=0, slides=1)
    with pytest.raises(InputError, match="seed -1"):
        write_cohort(tmp_path, seed=-1)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="can't be made"):
        write_cohort(tmp_path / "file", seed=0)


@pytest.mark.filterwarnings("ignore")
def test_segmenter_trained_on_real_slides_finds_the_nuclei(
    shared_data: Path, phantom: Phantom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    from stardist.matching import matching
    from stardist.models import StarDist2D

    model = StarDist2D(None, name="trial_segmenter", basedir=str(shared_data))
    found, _ = model.predict_instances(phantom.rgb[:, :400].astype(np.float32) / 255)
    true = phantom.labels[:, :400]
    assert matching(true, found, thresh=0.5).f1 > 0.9
    assert len(np.unique(found)) == pytest.approx(len(np.unique(true)), rel=0.1)
    true_area, found_area = (
        np.median(np.unique(labels[labels > 0], return_counts=True)[1]) for labels in (true, found)
    )
    assert found_area == pytest.approx(true_area, rel=0.15)
