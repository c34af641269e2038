"""The image model's head is the released one; what it reads of a slide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from image_cohort import cohort_of
from torch import nn

from morphomil.image_model.model import ImageModel, build_head, predict_patients, read_slide
from morphomil.image_model.recipe import PRESETS
from morphomil.image_model.rows import ImageCohort, Rows
from morphomil.image_model.training import (
    macro_auc,
    train_image_model,
)
from morphomil.mil import AttentionMIL


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
