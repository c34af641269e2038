"""A backbone that learns with the head, windows that overlap, and models that are applied to
another cohort."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from PIL import Image
from safetensors.numpy import load_file

from morphomil import pipeline
from morphomil.errors import InputError, RefusedError
from morphomil.figures.heatmap import draw_map
from morphomil.image_model.backbones import load_backbone
from morphomil.image_model.model import TUNED_AT_ONCE, ImageModel, build_head
from morphomil.image_model.recipe import settle_recipe
from morphomil.image_model.rows import ImageCohort, Rows
from morphomil.image_model.training import TrainedImageModel, train_image_model
from morphomil.image_model.windows import overlapping_windows, spread, windows_per_side
from morphomil.models.settings import TrainSettings
from morphomil.run.directory import Run
from morphomil.run.embeddings import Embeddings, embedded_backbones
from morphomil.slides.masks import DrawnNuclei, MaskFrame, store_region
from morphomil.store import write_json, write_parquet
from morphomil.tables.predictions import read_predictions
from morphomil.types import PATCHES, Cohort, EmbedSettings, ImageSource, Slide

PROGRAM = Path(sys.executable).with_name("morphomil")
SIDE = 64
"""Of a patch, level-0 and working pixels."""
TUNED = TrainSettings("dl-cnb", changes={"epochs": 2}, split="holdout", finetune=True)


def morphomil(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PROGRAM), *map(str, words)], capture_output=True, text=True, check=False
    )


def make_slides(path: Path, *, patients: int = 10, seed: int = 0, prefix: str = "p") -> Run:
    """A run as `segment` leaves it: noise in patches of 64 pixels, redder in positive patients; the
    last is dropped."""
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True)
    (path / ".lock").touch()
    run, slides = Run(path), []
    for number in range(patients):
        name, label = f"{prefix}{number}", number % 2
        rgb = rng.integers(100, 240, (2 * SIDE, 4 * SIDE, 3)).astype(np.uint8)
        rgb[..., 0] = 255 - (255 - rgb[..., 0]) // (1 + 2 * label)
        image = path.parent / f"{path.name}-slides" / f"{name}.png"
        image.parent.mkdir(exist_ok=True)
        Image.fromarray(rgb).save(image)
        slides.append(
            Slide(
                name,
                name,
                str(label),
                (ImageSource(image, None, 0.5),),
                covariates={"age": 50.0 + number},
            )
        )
    run.save_cohort(Cohort(tuple(slides)))
    for slide in slides:
        folder = run.slide_folder(slide.slide_id)
        grid = [(x, y) for y in (0, SIDE) for x in range(0, 4 * SIDE, SIDE)]
        table = pd.DataFrame(grid, columns=["x_px", "y_px"]).assign(
            slide_id=slide.slide_id,
            patch_id=range(len(grid)),
            image=0,
            region=0,
            side_px=float(SIDE),
        )
        table = table.assign(
            blank_fraction=0.0, tissue_mm2=1e-4, ink_fraction=0.0, sharpness=1.0, kept=True
        )
        table.loc[table.index[-1], "kept"] = False
        write_parquet(folder / "patches.parquet", PATCHES.check(table))
        square = [[0, 0], [4 * SIDE, 0], [4 * SIDE, 2 * SIDE], [0, 2 * SIDE], [0, 0]]
        region = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square]}}
        region["properties"] = {"region": 0, "image": 0, "name": "region 0"}
        write_json(folder / "regions.geojson", {"type": "FeatureCollection", "features": [region]})
        masks = zarr.open_group(folder / "masks.zarr", mode="w")
        frame = MaskFrame((8, 8), 0, 0, downsample=1.0, mpp=0.5, patch_px=SIDE, image=0)
        store_region(masks, 0, frame, DrawnNuclei(0, []), np.ones((1, 1), bool))
        run.ledger.mark_done(
            slide.slide_id, "segment", "k", outputs=["patches.parquet"], figures={}
        )
    run.record(
        "segment",
        {"mpp": None, "model": "default", "working_mpp": 0.5, "patch_px": SIDE},
        seconds=0,
    )
    return run


def predictions(run: Run, model: str = "dl-cnb") -> pd.DataFrame:
    return pd.read_parquet(run.path / "models" / model / "predictions.parquet")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Pictures this small are no work to share."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory) -> Run:
    """Slides with the features of the default backbone at 64 pixels."""
    run = make_slides(tmp_path_factory.mktemp("finetune") / "run")
    pipeline.embed(run, settings=EmbedSettings(size=SIDE))
    return run


@pytest.fixture(scope="module")
def tuned(embedded, tmp_path_factory) -> Run:
    """A copy of these with a model whose backbone has learned too, scored."""
    run = Run(shutil.copytree(embedded.path, tmp_path_factory.mktemp("tuned") / "run"))
    assert pipeline.train(run, TUNED).done == ("holdout",)
    pipeline.predict(run, "dl-cnb")
    return run


def test_the_backbone_learns_and_its_statistics_stay(tuned):
    about = load_file(tuned.path / "models" / "dl-cnb" / "holdout" / "weights.safetensors")
    start = load_backbone(EmbedSettings(size=SIDE))[0].state_dict()
    own = {
        name.removeprefix("backbone."): value
        for name, value in about.items()
        if name.startswith("backbone.")
    }
    assert own.keys() == start.keys()
    changed = {
        name for name, value in own.items() if not np.array_equal(value, start[name].numpy())
    }
    kept = {name for name in own if "running_" in name or name.endswith("num_batches_tracked")}
    assert changed
    assert not changed & kept
    assert own.keys() - changed == kept


def test_the_command_tunes_to_the_same_bytes(tuned, embedded, tmp_path):
    run = Run(shutil.copytree(embedded.path, tmp_path / "run"))
    done = morphomil(
        "train", run.path, "--model", "dl-cnb", "--finetune", "--split", "holdout", "--epochs", "2"
    )
    assert done.returncode == 0, done.stderr
    one, two = (
        path / "models" / "dl-cnb" / "holdout" / "weights.safetensors"
        for path in (run.path, tuned.path)
    )
    assert one.read_bytes() == two.read_bytes()
    assert embedded_backbones(run)["backbone"].tolist() == ["efficientnet-lite0", "pixels-64-white"]


def test_a_tuned_model_predicts_the_same_on_its_maps(tuned):
    slides = pd.read_parquet(
        tuned.path / "models" / "dl-cnb" / "holdout" / "slides.parquet"
    ).set_index("slide_id")
    assert {
        found.slide_id: found.probability for found in pipeline.heatmap(tuned, "dl-cnb")
    } == slides["score"].to_dict()
    assert predictions(tuned).query("part == 'test'")["score"].between(0, 1).all()
    assert pipeline.train(tuned, TUNED).skipped == ("holdout",)


def pixel_cohort() -> ImageCohort:
    rng = np.random.default_rng(0)
    rows = [
        rng.integers(0, 256, (6, 3 * SIDE**2)).astype(np.uint8) // (1 + number % 2)
        for number in range(4)
    ]
    return ImageCohort(tuple("abcd"), Rows(rows), np.arange(4), np.arange(4) % 2, 2)


def test_a_stopped_tuning_goes_on_to_the_same_weights(tmp_path):
    recipe, cohort = settle_recipe("default", epochs=4, bag_size=3, dropout=0.0), pixel_cohort()

    def tune(checkpoint: Path | None = None, stop: int = 0) -> TrainedImageModel:
        def said(done: int, total: int) -> None:
            if done == stop:
                raise KeyboardInterrupt

        backbone, _ = load_backbone(EmbedSettings(size=SIDE))
        return train_image_model(
            cohort,
            train=np.arange(4),
            val=np.arange(2),
            recipe=recipe,
            seed=3,
            backbone=backbone,
            checkpoint=checkpoint,
            checkpoint_seconds=0,
            on_epoch=said,
        )

    whole, state = tune(), tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        tune(state, stop=1)
    resumed = tune(state)
    pd.testing.assert_frame_equal(whole.log, resumed.log)
    one, two = whole.model.weights(), resumed.model.weights()
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert whole.log["loss_train"].iloc[-1] < whole.log["loss_train"].iloc[0]


def test_patches_seen_a_few_at_a_time_have_the_gradient_of_all_at_once():
    cohort = pixel_cohort()
    backbone, _ = load_backbone(EmbedSettings(size=SIDE))
    head = build_head(
        backbone.features, classes=2, clinical=0, recipe=settle_recipe("default", dropout=0.0)
    )
    model = ImageModel(head, np.zeros(1280, np.float32), np.ones(1280, np.float32), backbone)
    gradients = []
    rows = cohort.rows.read(np.arange(12))
    for seen in (model.see, backbone):
        model.zero_grad()
        logits, _ = head(seen(rows))
        logits[1].backward()
        gradients.append(next(backbone.parameters()).grad.clone())
    assert len(rows) > TUNED_AT_ONCE
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


@pytest.fixture(scope="module")
def frozen(embedded) -> Run:
    """Models on frozen features in two folds, and of covariates, scored."""
    for model in ("dl-cnb", "clinical"):
        changes = {"epochs": 3} if model == "dl-cnb" else {}
        pipeline.train(embedded, TrainSettings(model, changes=changes, folds=2))
        pipeline.predict(embedded, model)
    return embedded


def test_windows_lie_on_kept_patches():
    places = [(0, 0), (10, 0), (20, 0), (0, 10), (10, 10)]
    patches = pd.DataFrame(places, columns=["x_px", "y_px"]).assign(image=0, region=0, side_px=10.0)
    windows = overlapping_windows(patches, per_side=2)
    assert list(zip(windows["x_px"], windows["y_px"], strict=True)) == [
        *[(0, 0), (10, 0), (20, 0), (0, 10), (10, 10)],
        *[(5, 0), (15, 0), (5, 10)],
        *[(0, 5), (10, 5)],
        (5, 5),
    ]
    assert (~windows["shifted"]).sum() == 5
    values = windows["x_px"].to_numpy() + 0.0
    cells = spread(windows, values, per_side=2).set_index(["x_px", "y_px"])["value"]
    assert len(cells) == 20  # four for each patch
    assert cells[0, 0] == 0
    assert cells[5, 5] == np.mean([0, 5, 0, 5])
    assert cells[25, 5] == 20
    assert [windows_per_side(overlap) for overlap in (0, 0.5, 0.75)] == [1, 2, 4]
    with pytest.raises(InputError, match="windows overlap by 0"):
        windows_per_side(1.0)


@pytest.mark.parametrize("kind", ["frozen", "tuned"])
def test_overlapping_windows_refine_the_map_and_leave_the_prediction(kind, request):
    run = request.getfixturevalue(kind)
    (plain,) = pipeline.heatmap(run, "dl-cnb", ["p3"])
    (fine,) = pipeline.heatmap(run, "dl-cnb", ["p3"], overlap=0.5)
    assert plain.cells is None
    assert plain.probability == fine.probability
    pd.testing.assert_frame_equal(plain.patches, fine.patches)
    assert len(fine.cells) == 4 * len(plain.patches)
    assert (fine.cells["side_px"] == SIDE / 2).all()
    corner = fine.cells.set_index(["x_px", "y_px"])["relative_attention"][
        0, 0
    ]  # no window but the first patch
    assert corner == pytest.approx(
        plain.patches["attention"].iloc[0] * len(plain.patches), rel=2e-3
    )
    if kind == "frozen":
        paths = draw_map(run, "dl-cnb", fine)
        assert "attention-windows.csv" in {path.name for path in paths}


def test_a_model_scores_another_cohort(frozen, tuned, tmp_path):
    other = make_slides(tmp_path / "other", patients=4, seed=7, prefix="q")
    with pytest.raises(InputError, match="no deep features"):
        pipeline.predict(other, "dl-cnb", origin=frozen)
    pipeline.embed(other, settings=EmbedSettings(size=SIDE, pooling="max"))
    with pytest.raises(InputError, match="was made otherwise than"):
        pipeline.predict(other, "dl-cnb", origin=frozen)
    pipeline.embed(other, settings=EmbedSettings(size=SIDE))
    done = morphomil("predict", other.path, "--model-from", frozen.path)
    assert done.returncode == 0, done.stderr
    home, about = other.path / "models" / "dl-cnb", frozen.path / "models" / "dl-cnb"
    table = predictions(other)
    assert table[["patient", "label", "part", "fold"]].to_numpy().tolist() == [
        [f"q{number}", number % 2, "test", "external"] for number in range(4)
    ]
    cutoffs = [
        json.loads((about / f"fold{n}" / "settings.json").read_text())["cutoff"] for n in (0, 1)
    ]
    assert table["cutoff"].unique() == pytest.approx([np.mean(cutoffs)])
    assert len(pd.read_parquet(home / "external" / "attention.parquet")) == 4 * 7
    assert pd.read_csv(home / "test_log.csv")["scoring"].tolist() == [1]
    assert pipeline.predict(other, "dl-cnb", origin=frozen).skipped == ("external",)
    assert predictions(other, "clinical")["score"].between(0, 1).all()
    assert read_predictions(other)["model"].value_counts().to_dict() == {"clinical": 4, "dl-cnb": 4}

    pipeline.predict(other, "dl-cnb", origin=tuned)
    assert predictions(other)["score"].tolist() != table["score"].tolist()
    assert pd.read_csv(home / "test_log.csv")["scoring"].tolist() == [1, 2]
    with pytest.raises(RefusedError, match=r"was trained on \d+ patient"):
        pipeline.predict(
            Run(shutil.copytree(tuned.path, tmp_path / "same")), "clinical", origin=frozen
        )
    with pytest.raises(InputError, match="of its own"):
        pipeline.predict(tuned, "dl-cnb", origin=frozen)


def test_one_model_gives_another_run_the_prediction_it_gave_its_own(tuned, tmp_path):
    """The same slides under other names, scored from outside and as test patients."""
    run = Run(shutil.copytree(tuned.path, tmp_path / "run"))
    shutil.rmtree(run.path / "models")
    renamed = tuple(replace(slide, patient=f"other {slide.patient}") for slide in run.cohort.slides)
    run.save_cohort(Cohort(renamed))
    pipeline.predict(run, "dl-cnb", origin=tuned)
    own = predictions(tuned).set_index("patient")["score"]
    found = predictions(run).set_index("patient")["score"]
    assert {name.removeprefix("other "): score for name, score in found.items()} == own.to_dict()


def test_what_cannot_be_tuned_is_said(embedded, tmp_path):
    with pytest.raises(InputError, match="no backbone to fine-tune"):
        TrainSettings("clinical", finetune=True)
    run = Run(shutil.copytree(embedded.path, tmp_path / "run"))
    state = load_backbone(EmbedSettings(size=SIDE))[0].network.state_dict()
    first = next(iter(state))
    torch.save(state | {first: state[first] + 1}, tmp_path / "other.pth")
    other = TrainSettings(
        "dl-cnb", split="holdout", finetune=True, weights=str(tmp_path / "other.pth")
    )
    with pytest.raises(InputError, match="were made with other weights"):
        pipeline.train(run, other)
    assert not list((run.path / "embeddings").glob("pixels*"))
    made = Embeddings(run, "mine")
    shutil.copytree(Embeddings(run).folder, made.folder)
    run.record("embed", {"outside": "white", "name": "mine", "sha256": "0"}, seconds=0)
    with pytest.raises(InputError, match="come from a function"):
        pipeline.train(
            run, TrainSettings("dl-cnb", backbone="mine", split="holdout", finetune=True)
        )
