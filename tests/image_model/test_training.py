"""Training of the image model: stopping, weights of patients, learning rates, kill and resume."""

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
from image_cohort import cohort_of
from torch import nn

from morphomil.errors import TrainingError
from morphomil.image_model.model import predict_patients
from morphomil.image_model.recipe import PRESETS
from morphomil.image_model.training import (
    bag_weights,
    cosine_rate,
    fit_scale,
    macro_auc,
    train_image_model,
)
from morphomil.stats import auc_interval


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
