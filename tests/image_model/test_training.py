"""The image model: parity with the released architecture, planted signals, weights of patients,
kill and resume."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from morphomil.errors import InputError, TrainingError
from morphomil.image_model.model import ImageModel, build_head, predict_patients, read_slide
from morphomil.image_model.recipe import PRESETS, ImageRecipe, settle_recipe
from morphomil.image_model.rows import ImageCohort, Rows
from morphomil.image_model.training import (
    bag_weights,
    cosine_rate,
    fit_scale,
    macro_auc,
    train_image_model,
)
from morphomil.mil import AttentionMIL
from morphomil.stats import auc_interval


class ReleasedHead(nn.Module):
    """The released architecture as the paper's code has it, written down from its description.

    Linear(F, 256), Dropout, ReLU; attention Linear(256, 1), Dropout, Tanh, Linear(1, 1), Dropout,
    softmax over the N instances; the weighted sum of the 256-vectors; covariates repeated ten times
    and concatenated; classifier Linear(256 [+ 50], 64), ReLU, Linear(64, classes).
    """

    def __init__(self, features: int, *, classes: int, clinical: int, inner: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(features, 256), nn.Dropout(), nn.ReLU())
        self.attention = nn.Sequential(
            nn.Linear(256, inner), nn.Dropout(), nn.Tanh(), nn.Linear(inner, 1), nn.Dropout()
        )
        self.classifier = nn.Sequential(
            nn.Linear(256 + 10 * clinical, 64), nn.ReLU(), nn.Linear(64, classes)
        )

    def forward(self, bag, clinical=None):
        instances = self.fc(bag)  # (N, 256)
        weights = torch.transpose(self.attention(instances), 1, 0)  # (1, N)
        weights = nn.functional.softmax(weights, dim=1)
        pooled = torch.mm(weights, instances)  # (1, 256)
        if clinical is not None:
            pooled = torch.cat([pooled, clinical.view(1, -1).repeat(1, 10)], dim=1)
        return self.classifier(pooled), weights


def same_weights(head: AttentionMIL, released: ReleasedHead) -> None:
    pairs = [("embed.0", "fc.0"), ("attend.0", "attention.0"), ("attend.2", "attention.3")]
    pairs += [("classify.0", "classifier.0"), ("classify.2", "classifier.2")]
    state = released.state_dict()
    head.load_state_dict(
        {f"{own}.{k}": state[f"{theirs}.{k}"] for own, theirs in pairs for k in ("weight", "bias")}
    )


def cohort_of(
    seed=0, *, patients=60, patches=(4, 60), width=16, shift=0.0, classes=2, clinical=None, slides=1
):
    """Patients of so many patches; a third of the patches of each is moved along one direction by
    its class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(patients) % classes
    direction = rng.normal(size=width) / np.sqrt(width)
    arrays, owner = [], []
    for patient in range(patients):
        for _ in range(slides):
            rows = rng.normal(size=(int(rng.integers(*patches)), width))
            rows[: len(rows) // 3 + 1] += shift * labels[patient] * direction * np.sqrt(width)
            arrays.append(rng.permutation(rows).astype(np.float16))
            owner.append(patient)
    names = tuple(f"slide {number}" for number in range(len(arrays)))
    return ImageCohort(names, Rows(arrays), np.array(owner), labels, classes, clinical)


@pytest.mark.parametrize("preset", ["paper", "released-code"])
@pytest.mark.parametrize("clinical", [0, 5])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_forward_pass_is_the_released_one(preset, clinical, classes):
    torch.manual_seed(classes + clinical)
    recipe = PRESETS[preset]
    released = ReleasedHead(512, classes=classes, clinical=clinical, inner=recipe.inner).eval()
    head = build_head(512, classes=classes, clinical=clinical, recipe=recipe).eval()
    same_weights(head, released)
    rng = np.random.default_rng(7)
    covariates = rng.normal(size=(3, clinical)).astype(np.float32) if clinical else None
    rows = [rng.normal(size=(n, 512)).astype(np.float32) for n in (10, 47, 3)]
    cohort = ImageCohort(
        ("a", "b", "c"),
        Rows(rows),
        np.arange(3),
        np.array([0, 1, classes - 1]),
        classes,
        covariates,
    )
    model = ImageModel(head, np.zeros(512, np.float32), np.ones(512, np.float32))
    for slide, own in enumerate(rows):
        given = None if covariates is None else torch.from_numpy(covariates[slide])
        reading = read_slide(model, cohort, slide, recipe=recipe, seed=3)
        with torch.no_grad():
            logits, attention = released(torch.from_numpy(own), given)
            own_logits, own_attention = head(torch.from_numpy(own), given)
        np.testing.assert_allclose(own_logits, logits[0], atol=1e-6)
        np.testing.assert_allclose(own_attention, attention[0], atol=1e-6)
        np.testing.assert_allclose(
            reading.attention, attention[0], atol=1e-6
        )  # all instances as one bag
        for number, probability in enumerate(reading.bag_probability):
            members = np.flatnonzero(reading.bag == number)
            with torch.no_grad():
                logits, attention = released(torch.from_numpy(own[members]), given)
            np.testing.assert_allclose(probability, torch.softmax(logits[0], 0), atol=1e-6)
            np.testing.assert_allclose(reading.bag_attention[members], attention[0], atol=1e-6)
        assert np.bincount(reading.bag[reading.bag >= 0]).tolist() == [min(10, len(own))] * max(
            1, len(own) // 10
        )
        np.testing.assert_allclose(reading.probability, reading.bag_probability.mean(axis=0))
        largest = read_slide(model, cohort, slide, recipe=replace(recipe, pool="max"), seed=3)
        assert largest.probability[-1] == reading.bag_probability[:, -1].max()


def test_training_sees_bags_of_any_size_as_the_head_does():
    torch.manual_seed(0)
    head = build_head(8, classes=2, clinical=3, recipe=PRESETS["default"]).eval()
    model = ImageModel(head, np.full(8, 0.5, np.float32), np.full(8, 2, np.float32))
    sizes = [10, 4, 7]
    rows, clinical = torch.randn(21, 8), torch.randn(3, 3)
    with torch.no_grad():
        together = model(rows, sizes, clinical)
        for number, part in enumerate(torch.split(rows, sizes)):
            alone, _ = head((part - 0.5) / 2, clinical[number])
            torch.testing.assert_close(together[number], alone, atol=1e-6, rtol=0)


def test_dropout_stands_where_the_released_code_has_it():
    """The mean over many dropout draws and its spread agree; attention's own dropout shows in inner
    width 1."""
    torch.manual_seed(0)
    recipe = PRESETS["released-code"]
    released = ReleasedHead(6, classes=2, clinical=0, inner=1).train()
    head = build_head(6, classes=2, clinical=0, recipe=recipe).train()
    same_weights(head, released)
    bag = torch.randn(10, 6)
    with torch.no_grad():
        torch.manual_seed(1)
        ours = torch.stack([head(bag)[1] for _ in range(4000)])
        theirs = torch.stack([released(bag)[1][0] for _ in range(4000)])
    torch.testing.assert_close(ours.mean(0), theirs.mean(0), atol=4e-3, rtol=0)
    torch.testing.assert_close(ours.std(0), theirs.std(0), atol=4e-3, rtol=0)


def test_occlusion_is_the_prediction_without_the_patch():
    cohort = cohort_of(patients=2, patches=(12, 13))
    torch.manual_seed(0)
    head = build_head(16, classes=2, clinical=0, recipe=PRESETS["default"])
    model = ImageModel(head, np.zeros(16, np.float32), np.ones(16, np.float32)).eval()
    reading = read_slide(model, cohort, 0, recipe=PRESETS["default"], seed=0)
    rows = cohort.rows.read(np.arange(12))
    with torch.no_grad():
        whole = torch.softmax(head(rows)[0], -1)[1]
        without = [torch.softmax(head(rows[np.arange(12) != i])[0], -1)[1] for i in range(12)]
    np.testing.assert_allclose(reading.occlusion, [float(whole - p) for p in without], atol=1e-6)


def test_a_planted_signal_is_found_and_shuffled_labels_are_not():
    recipe = replace(PRESETS["default"], epochs=40)
    cohort = cohort_of(1, patients=200, shift=2.0)
    train, val, test = np.arange(120), np.arange(120, 160), np.arange(160, 200)
    trained = train_image_model(cohort, train=train, val=val, recipe=recipe, seed=0)
    score = predict_patients(trained.model, cohort, test, recipe=recipe, seed=0)
    assert macro_auc(cohort.labels[test], score) > 0.9
    shuffled = replace(cohort, labels=np.random.default_rng(0).permutation(cohort.labels))
    trained = train_image_model(shuffled, train=train, val=val, recipe=recipe, seed=0)
    score = predict_patients(trained.model, cohort, test, recipe=recipe, seed=0)[:, 1]
    found = auc_interval(shuffled.labels[test], score)
    assert found.low < 0.5 < found.high


def test_attention_falls_on_the_patches_that_carry_the_signal():
    recipe = replace(PRESETS["default"], epochs=40)
    rng = np.random.default_rng(0)
    arrays, marked = [], []
    for patient in range(120):
        rows = rng.normal(size=(30, 8)).astype(np.float32)
        special = rng.permutation(30)[:6]
        rows[special, 0] += 4 * (2 * (patient % 2) - 1)
        arrays.append(rows)
        marked.append(special)
    names = tuple(map(str, range(120)))
    cohort = ImageCohort(names, Rows(arrays), np.arange(120), np.arange(120) % 2, 2)
    trained = train_image_model(
        cohort, train=np.arange(80), val=np.arange(80, 100), recipe=recipe, seed=0
    )
    share, drop = [], []
    for slide in range(101, 120, 2):
        reading = read_slide(trained.model, cohort, slide, recipe=recipe, seed=0)
        share.append(reading.attention[marked[slide]].sum())
        others = np.setdiff1d(np.arange(30), marked[slide])
        drop.append(reading.occlusion[marked[slide]].mean() - reading.occlusion[others].mean())
    assert np.mean(share) > 0.3  # 6 of 30 patches would be 0.2
    assert np.mean(drop) > 0


def test_clinical_covariates_reach_the_prediction():
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 2
    covariates = np.column_stack(
        [rng.normal(size=160) + 2.5 * labels, rng.normal(size=160)]
    ).astype(np.float32)
    cohort = cohort_of(2, patients=160, patches=(10, 30), clinical=covariates)
    recipe = replace(PRESETS["default"], epochs=40)
    trained = train_image_model(
        cohort, train=np.arange(100), val=np.arange(100, 130), recipe=recipe, seed=0
    )
    test = np.arange(130, 160)
    assert (
        macro_auc(
            labels[test], predict_patients(trained.model, cohort, test, recipe=recipe, seed=0)
        )
        > 0.9
    )


def test_three_classes():
    cohort = cohort_of(3, patients=180, shift=2.5, classes=3)
    recipe = replace(PRESETS["default"], epochs=40)
    trained = train_image_model(
        cohort, train=np.arange(120), val=np.arange(120, 150), recipe=recipe, seed=0
    )
    test = np.arange(150, 180)
    score = predict_patients(trained.model, cohort, test, recipe=recipe, seed=0)
    assert score.shape == (30, 3)
    np.testing.assert_allclose(score.sum(axis=1), 1)
    assert macro_auc(cohort.labels[test], score) > 0.8


@pytest.mark.parametrize("bag_size", [0, 10])
def test_bags_all_or_ten(bag_size):
    cohort = cohort_of(patients=20)
    recipe = replace(PRESETS["default"], epochs=1, bag_size=bag_size)
    trained = train_image_model(
        cohort, train=np.arange(14), val=np.arange(14, 20), recipe=recipe, seed=0
    )
    for slide in range(20):
        count = int(np.diff(cohort.rows.starts)[slide])
        bags = len(read_slide(trained.model, cohort, slide, recipe=recipe, seed=0).bag_probability)
        assert bags == (max(1, count // 10) if bag_size else 1)


def test_every_patient_weighs_the_same():
    patient = np.array([0] * 7 + [1] + [2] * 2)
    labels = np.array([0] * 7 + [1] + [1] * 2)
    weight = bag_weights(patient, labels, recipe=PRESETS["default"])
    np.testing.assert_allclose(np.bincount(patient, weight), 10 / 3)
    balanced = bag_weights(patient, labels, recipe=replace(PRESETS["default"], balanced=True))
    np.testing.assert_allclose(np.bincount(labels, balanced), 5)
    np.testing.assert_allclose(np.bincount(patient, balanced)[1:], 2.5)
    np.testing.assert_allclose(bag_weights(patient, labels, recipe=PRESETS["released-code"]), 1)


def test_the_learning_rate_is_torchs_warm_restarts():
    recipe = PRESETS["paper"]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 20, 2)
    for epoch in range(150):
        assert cosine_rate(epoch, recipe) == pytest.approx(
            optimizer.param_groups[0]["lr"], abs=1e-12
        )
        optimizer.step()
        schedule.step()


def test_presets_are_the_papers():
    paper, released = PRESETS["paper"], PRESETS["released-code"]
    assert (paper.optimizer, paper.learning_rate, paper.weight_decay) == ("adam", 1e-4, 1e-3)
    assert (paper.restart_epochs, paper.restart_factor) == (20, 2)
    assert (released.optimizer, released.momentum, released.inner) == ("sgd", 0.3, 1)
    assert (released.bags_per_step, released.stop_train_auc) == (1, 0.98)
    assert settle_recipe("paper", epochs=3, inner=None) == replace(paper, epochs=3)
    with pytest.raises(InputError, match="choose default, paper, released-code"):
        settle_recipe("best")
    with pytest.raises(InputError, match="learning rate must be positive"):
        ImageRecipe(learning_rate=-1)


def test_standardization_weighs_patients_alike():
    cohort = cohort_of(5, patients=6, slides=2)
    mean, sd = fit_scale(cohort, np.arange(6))  # the slides of the first three patients
    arrays = [
        cohort.rows.read(np.arange(*cohort.rows.starts[i : i + 2])).double().numpy()
        for i in range(6)
    ]
    expected = np.mean([rows.mean(axis=0) for rows in arrays], axis=0)
    square = np.mean([(rows**2).mean(axis=0) for rows in arrays], axis=0)
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    np.testing.assert_allclose(sd, np.sqrt(square - expected**2), rtol=1e-5)


def test_features_are_read_from_files_row_by_row(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(n, 33)).astype(np.float16) for n in (5, 1, 12)]
    paths = [tmp_path / f"{number}.npy" for number in range(3)]
    for path, array in zip(paths, arrays, strict=True):
        np.save(path, array)
    index = rng.integers(0, 18, 50)
    held = Rows(paths=paths).read(index)
    monkeypatch.setattr("morphomil.image_model.rows.HELD_BYTES", 10)
    read = Rows(paths=paths).read(index)
    np.testing.assert_array_equal(read, held)
    np.testing.assert_array_equal(read, np.concatenate(arrays)[index].astype(np.float32))
    np.save(tmp_path / "other.npy", np.zeros((3, 5), np.float16))
    with pytest.raises(InputError, match="different shapes"):
        Rows(paths=[*paths, tmp_path / "other.npy"])


def test_a_loss_that_is_no_number_ends_the_training():
    cohort = cohort_of(patients=20)
    with pytest.raises(TrainingError, match="lower the learning rate"):
        recipe = replace(PRESETS["released-code"], learning_rate=1e30)
        train_image_model(cohort, train=np.arange(14), val=np.arange(14, 20), recipe=recipe, seed=0)


def test_stopping():
    cohort = cohort_of(1, patients=60, shift=6.0)
    train, val = np.arange(40), np.arange(40, 60)
    soon = replace(PRESETS["default"], stop_train_auc=0.9)
    log = train_image_model(cohort, train=train, val=val, recipe=soon, seed=0).log
    assert log["auc_train"].iloc[-1] > 0.9
    assert (log["auc_train"].iloc[:-1] <= 0.9).all()
    patient = replace(PRESETS["default"], patience=3)
    trained = train_image_model(cohort, train=train, val=val, recipe=patient, seed=0)
    assert len(trained.log) == trained.best_epoch + 3
    best = trained.log.set_index("epoch").loc[trained.best_epoch]
    assert best["auc_val"] == trained.log["auc_val"].max()


KILLED = """
import sys, time
from dataclasses import replace
from pathlib import Path
import numpy as np
from morphomil.image_model.recipe import PRESETS
from morphomil.image_model.rows import ImageCohort, Rows
from morphomil.image_model.training import train_image_model
from morphomil.store import write_arrays
rng = np.random.default_rng(0)
arrays = [rng.normal(size=(int(rng.integers(5, 60)), 64)).astype(np.float16) for _ in range(80)]
cohort = ImageCohort(tuple(map(str, range(80))), Rows(arrays), np.arange(80), np.arange(80) % 2, 2)
recipe = replace(PRESETS[sys.argv[1]], epochs=int(sys.argv[2]), patience=100, stop_train_auc=1.0)
folder = Path(sys.argv[3])
def said(done, total):
    print(done, flush=True)
trained = train_image_model(
    cohort, train=np.arange(60), val=np.arange(60, 80), recipe=recipe, seed=4,
    checkpoint=folder / "checkpoint.safetensors", checkpoint_seconds=0, on_epoch=said,
)
write_arrays(folder / "weights.safetensors", trained.model.weights())
trained.log.to_csv(folder / "log.csv", index=False)
"""


@pytest.mark.parametrize(("preset", "epochs"), [("default", 24), ("released-code", 12)])
def test_a_killed_training_ends_with_the_same_bytes(tmp_path, preset, epochs):
    def start(folder):
        folder.mkdir(exist_ok=True)
        words = [sys.executable, "-c", KILLED, preset, str(epochs), str(folder)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    def digest(folder):
        names = ("weights.safetensors", "log.csv")
        return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]

    with start(tmp_path / "whole") as whole:
        whole.communicate()
    first = []
    for round_ in range(2):
        with start(tmp_path / "killed") as process:
            first.append(int(process.stdout.readline()))
            process.stdout.readline()
            process.stdout.readline()
            time.sleep(0.01 * round_)
            os.kill(process.pid, signal.SIGKILL)
    with start(tmp_path / "killed") as process:
        done = process.communicate()[0].split()
    assert first == sorted(set(first))  # each went on from the last
    assert int(done[0]) > first[-1]
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
