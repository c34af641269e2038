"""The attention-MIL head and the morphometry model: formulas by hand, PyTorch's Adam as witness,
planted features."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from scipy.fft import dct

from morphomil.errors import TrainingError
from morphomil.mil import AttentionMIL
from morphomil.rank import training
from morphomil.rank.contrasts import AucContrasts, contrast_log_likelihood
from morphomil.rank.instances import InstanceBags, Scaler
from morphomil.rank.model import (
    MorphometryMIL,
    Recipe,
    restore_morphometry,
    scale,
    smooth,
)
from morphomil.rank.shapley import Coalitions
from morphomil.rank.training import _AdamW, train_morphometry
from morphomil.stats import within_fold_auc

BINS = 32


def as_bags(values, patient, weight, *, reading="quantiles"):
    """Bags of histograms, without patches to look at."""
    patches = np.full((*values.shape[:2], 3), np.nan) if reading == "quantiles" else None
    return InstanceBags.of(values, patches, patient=patient, weight=weight)


def random_bags(
    seed, *, patients=60, bags=3, planted=None, features=4, classes=2, reading="quantiles"
):
    """Histograms of a bell curve whose center differs by patient and, in feature `planted`, by
    class."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(patients) % classes)
    center = rng.normal(16, 1.5, (patients, features))
    if planted is not None:
        center[:, planted] += 3 * labels
    patient = np.repeat(np.arange(patients), bags)
    jitter = rng.normal(0, 0.5, (patients * bags, features))
    values = np.exp(-(((np.arange(BINS) - (center[patient] + jitter)[..., None]) / 4) ** 2) / 2)
    values = (values / values.sum(-1, keepdims=True)).astype(np.float32)
    return as_bags(values, patient, np.full(len(patient), 1 / bags), reading=reading), labels


def validation_rows(labels, *, replicates, seed=0):
    rng = np.random.default_rng(seed)
    rows = np.zeros((replicates, len(labels)), bool)
    for row in rows:
        for label in np.unique(labels):
            row[rng.permutation(np.flatnonzero(labels == label))[:5]] = True
    return rows


@pytest.fixture(scope="module")
def trained():
    bags, labels = random_bags(0, planted=2)
    return (
        bags,
        labels,
        train_morphometry(bags, labels, validation=validation_rows(labels, replicates=3), seed=1),
    )


def test_the_head_is_the_papers_formula():
    torch.manual_seed(0)
    model = AttentionMIL(5, clinical=2).eval()
    bag, clinical = torch.randn(7, 5), torch.randn(2)
    logits, attention = model(bag, clinical)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    h = np.maximum(bag.numpy() @ weights["embed.0.weight"].T + weights["embed.0.bias"], 0)
    hidden = np.tanh(h @ weights["attend.0.weight"].T + weights["attend.0.bias"])
    score = hidden @ weights["attend.2.weight"][0] + weights["attend.2.bias"]
    share = np.exp(score) / np.exp(score).sum()
    pooled = np.concatenate([share @ h, np.tile(clinical.numpy(), 10)])
    middle = np.maximum(weights["classify.0.weight"] @ pooled + weights["classify.0.bias"], 0)
    expected = weights["classify.2.weight"] @ middle + weights["classify.2.bias"]
    np.testing.assert_allclose(attention.detach(), share, rtol=1e-4)
    np.testing.assert_allclose(logits.detach(), expected, rtol=1e-4, atol=1e-6)
    assert weights["embed.0.weight"].shape == (256, 5)
    assert weights["attend.0.weight"].shape == (128, 256)
    assert weights["classify.0.weight"].shape == (64, 256 + 20)


def test_the_head_ignores_the_order_of_instances_and_takes_batches():
    torch.manual_seed(1)
    model = AttentionMIL(6, classes=3).eval()
    bags = torch.randn(4, 9, 6)
    logits, attention = model(bags)
    assert logits.shape == (4, 3)
    np.testing.assert_allclose(attention.sum(-1).detach(), 1, rtol=1e-5)
    order = torch.randperm(9)
    turned_logits, turned = model(bags[2, order])
    np.testing.assert_allclose(turned_logits.detach(), logits[2].detach(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(turned.detach(), attention[2, order].detach(), rtol=1e-4)


def test_an_inner_width_of_one_bounds_the_attention():
    torch.manual_seed(2)
    model = AttentionMIL(6, inner=1).eval()
    _, attention = model(100 * torch.randn(50, 6))
    bound = np.exp(2 * np.abs(model.attend[2].weight.detach().numpy().item()))
    assert attention.max() / attention.min() <= bound * (1 + 1e-5)


def test_the_head_refuses_covariates_that_it_does_not_take():
    with pytest.raises(ValueError, match="takes 0 clinical covariates, got 2"):
        AttentionMIL(4)(torch.zeros(3, 4), torch.zeros(2))
    with pytest.raises(ValueError, match="takes 2 clinical covariates, got 0"):
        AttentionMIL(4, clinical=2)(torch.zeros(3, 4))


def test_adam_equals_pytorchs():
    torch.manual_seed(3)
    ours, theirs = (torch.nn.Parameter(torch.arange(6.0).reshape(2, 3)) for _ in range(2))
    own, witness = (
        _AdamW([ours], rate=0.1, decay=0.05),
        torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.05),
    )
    for _ in range(20):
        target = torch.randn(2, 3)
        own.step(torch.autograd.grad(((ours - target) ** 4).sum(), [ours]))
        theirs.grad = torch.autograd.grad(((theirs - target) ** 4).sum(), [theirs])[0]
        witness.step()
    np.testing.assert_allclose(ours.detach(), theirs.detach(), rtol=1e-5)


def test_the_scaler_weighs_patients_equally_and_skips_absent_instances():
    values = np.zeros((4, 1, 3), np.float32)
    values[0, 0], values[1, 0], values[2, 0] = (
        [1, 0, 0],
        [1, 0, 0],
        [0, 0, 1],
    )  # bag 3 has no values
    patient, weight = np.array([0, 0, 1, 2]), np.array([0.5, 0.5, 1, 1])
    bags = as_bags(values, patient, weight, reading="histograms")
    assert bags.present[:, 0].tolist() == [True, True, True, False]
    scaler = Scaler.fit(bags)
    np.testing.assert_allclose(
        scaler.mean, [[0.5, 0.5]]
    )  # cumulative shares, the last one left out
    np.testing.assert_allclose(scaler.sd, [[0.5, 0.5]])
    np.testing.assert_allclose(
        scaler.standardize(bags.values)[:, 0], [[1, 1], [1, 1], [-1, -1], [0, 0]]
    )
    np.testing.assert_allclose(scaler.typical, [[0.5, 0, 0.5]])
    read = as_bags(values, patient, weight)
    assert np.isnan(read.values[3]).all()
    quantiles = Scaler.fit(read)
    assert (quantiles.standardize(read.values)[3] == 0).all()
    np.testing.assert_allclose(quantiles.mean[0, 0], 1.5)  # the mean of bins' centers, by patient


def test_bags_must_be_sorted_and_weigh_one_per_patient():
    values = np.zeros((2, 1, BINS), np.float32)
    with pytest.raises(ValueError, match="sorted"):
        as_bags(values, np.array([1, 0]), np.ones(2))
    with pytest.raises(ValueError, match="sum to 1"):
        as_bags(values, np.array([0, 0]), np.ones(2))


def test_replicates_do_not_touch_each_other():
    """Changing the weights of one leaves the others' answers as they were."""
    model = MorphometryMIL(
        3, features=4, columns=6, classes=2, recipe=Recipe(), rng=torch.Generator().manual_seed(0)
    )
    torch.nn.init.normal_(model.attend_out, generator=torch.Generator().manual_seed(1))
    bags = torch.randn(5, 4, 6).expand(3, 5, 4, 6)
    before = [part.detach().clone() for part in model(bags)]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[1] += 1
    after = model(bags)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old[[0, 2]], new[[0, 2]].detach())
        assert not np.allclose(old[1], new[1].detach())


def test_absent_members_of_a_coalition_get_no_attention_and_have_no_say():
    model = MorphometryMIL(
        1, features=4, columns=6, classes=2, recipe=Recipe(), rng=torch.Generator().manual_seed(0)
    )
    bags = torch.randn(1, 3, 4, 6)
    present = torch.tensor([True, False, True, False]).expand(1, 3, 4)
    logits, attention = model(bags, present)
    assert (attention[..., [1, 3]] == 0).all()
    np.testing.assert_allclose(attention.sum(-1).detach(), 1, rtol=1e-6)
    other = bags.clone()
    other[..., [1, 3], :] = 99
    np.testing.assert_array_equal(model(other, present)[0].detach(), logits.detach())


def test_attention_finds_the_planted_feature_and_probability_the_class(trained):
    _, _, model = trained
    fresh, labels = random_bags(7, planted=2)
    prediction = model.predict(fresh.values)
    assert prediction.probability.shape == (3, 180, 2)
    np.testing.assert_allclose(prediction.attention.sum(-1), 1, rtol=1e-6)
    assert prediction.attention.mean((0, 1)).argmax() == 2
    positive = prediction.probability[..., 1].mean(0)
    truth = labels[fresh.patient]
    assert (positive[truth == 1][:, None] > positive[truth == 0]).mean() > 0.8


def test_training_is_the_same_again_and_ignores_labels_of_absent_patients(trained):
    bags, labels, model = trained
    rows = validation_rows(labels, replicates=3)
    again = train_morphometry(bags, labels, validation=rows, seed=1)
    other = train_morphometry(bags, labels, validation=rows, seed=2)
    assert all(
        np.array_equal(value, again.weights()[name]) for name, value in model.weights().items()
    )
    assert not np.array_equal(other.weights()["embed"], model.weights()["embed"])
    learning = np.arange(60) < 48
    part = bags.of_patients(learning)
    swapped = np.where(learning, labels, 1 - labels)
    rows = validation_rows(labels[:48], replicates=2)
    rows = np.concatenate([rows, np.zeros((2, 12), bool)], axis=1)
    first, second = (train_morphometry(part, y, validation=rows, seed=1) for y in (labels, swapped))
    np.testing.assert_array_equal(first.weights()["embed"], second.weights()["embed"])


def test_the_kept_weights_are_those_of_the_best_validation_loss(trained):
    _, _, model = trained
    rows = model.log[model.log["replicate"] == 0]
    assert rows["step"].iloc[0] == Recipe().check_every
    assert rows["loss_val"].min() < np.log(2)
    short = Recipe(steps=int(rows.loc[rows["loss_val"].idxmin(), "step"]))
    bags, labels, _ = trained
    stopped = train_morphometry(
        bags, labels, validation=validation_rows(labels, replicates=3), seed=1, recipe=short
    )
    np.testing.assert_array_equal(stopped.weights()["embed"][0], model.weights()["embed"][0])


def test_replicates_may_have_labels_of_their_own():
    """As permutations need them: one call trains the true labels beside shuffled ones."""
    bags, labels = random_bags(3, planted=1)
    rows = np.repeat(validation_rows(labels, replicates=1), 2, axis=0)
    both = np.stack([labels, np.random.default_rng(0).permutation(labels)])
    rows[1] = validation_rows(both[1], replicates=1)[0]
    prediction = train_morphometry(bags, both, validation=rows, seed=0).predict(bags.values)
    truth = labels[bags.patient]
    score = prediction.probability[..., 1]
    area = [(one[truth == 1][:, None] > one[truth == 0]).mean() for one in score]
    assert area[0] > 0.8
    assert area[0] > area[1] + 0.1


def test_three_classes_and_balanced_classes():
    bags, labels = random_bags(4, planted=0, classes=3, patients=90)
    prediction = train_morphometry(
        bags, labels, validation=validation_rows(labels, replicates=2), seed=0
    ).predict(bags.values)
    np.testing.assert_allclose(prediction.probability.sum(-1), 1, rtol=1e-6)
    assert (prediction.probability.mean(0).argmax(-1) == labels[bags.patient]).mean() > 0.5
    bags, labels = random_bags(5, patients=80)
    rare = np.where(np.arange(80) % 4 == 0, labels, 0)
    means = [
        train_morphometry(
            bags,
            rare,
            validation=validation_rows(rare, replicates=2),
            seed=0,
            recipe=Recipe(balanced=balanced),
        )
        .predict(bags.values)
        .probability[..., 1]
        .mean()
        for balanced in (False, True)
    ]
    assert means[0] < rare.mean() + 0.1
    assert means[1] > means[0] + 0.1


def test_a_loss_that_is_no_number_stops_training():
    bags, labels = random_bags(6)
    with pytest.raises(TrainingError, match="not a number after 10 steps"):
        train_morphometry(
            bags,
            labels,
            validation=validation_rows(labels, replicates=1),
            seed=0,
            recipe=Recipe(learning_rate=1e30),
        )


def test_weights_survive_safetensors_and_settings_are_left_as_they_were(trained):
    _, _, model = trained
    weights = model.weights()
    again = load(save(weights))
    assert all(np.array_equal(value, again[name]) for name, value in weights.items())
    threads = torch.get_num_threads()
    model.predict(np.zeros((1, 4, 7), np.float32))
    assert torch.get_num_threads() == threads


def test_smoothing_is_a_damped_cosine_transform():
    values = np.random.default_rng(0).normal(size=(3, 2, 31))
    expected = dct(values, type=2, norm="ortho") / (1 + np.arange(31)) ** 2
    np.testing.assert_allclose(smooth(torch.from_numpy(values)), expected, atol=1e-12)


def test_coalitions_are_answered_as_one_by_one(trained):
    """Against the model's own masked pass, for every coalition of four features and more bags than
    fit at once."""
    _, _, model = trained
    fresh, _ = random_bags(8, planted=2)
    members = (np.arange(16)[:, None] >> np.arange(4)) & 1 > 0
    empty = np.array([0.7, 0.3])
    answer = model.predict_coalitions(fresh.values, members, empty=empty)
    assert answer.shape == (3, 16, len(fresh.values), 2)
    np.testing.assert_array_equal(answer[:, 0], np.broadcast_to(empty, answer[:, 0].shape))
    np.testing.assert_allclose(answer[:, -1], model.predict(fresh.values).probability, atol=1e-6)
    bags = scale(fresh.values, model.scaler).expand(3, -1, -1, -1)
    for number in (1, 6, 11):
        present = torch.from_numpy(members[number]).expand(3, len(fresh.values), 4)
        alone = torch.softmax(model.model(bags, present)[0].detach().double(), dim=-1)
        np.testing.assert_allclose(answer[:, number], alone, atol=1e-6)


def test_a_feature_that_is_not_available_leaves_no_trace():
    """Its values may be anything, in training and after; where it carries the label, nothing is
    learned without it."""
    bags, labels = random_bags(9, planted=2)
    rows = np.repeat(validation_rows(labels, replicates=1), 3, axis=0)
    available = np.array([[True] * 4, [True, True, False, True], [False, False, True, False]])
    streams = np.zeros(3, np.int64)
    model = train_morphometry(
        bags, labels, validation=rows, seed=0, available=available, streams=streams
    )
    noise = bags.histograms.copy()
    noise[:, 2] = noise[::-1, 2]
    other = as_bags(noise, bags.patient, bags.weight)
    again = train_morphometry(
        other, labels, validation=rows, seed=0, available=available, streams=streams
    )
    np.testing.assert_array_equal(model.weights()["attend_in"][1], again.weights()["attend_in"][1])
    answer = model.predict(bags.values)
    assert (answer.attention[1, :, 2] == 0).all()
    np.testing.assert_allclose(answer.attention[2, :, 2], 1)
    truth = labels[bags.patient]
    score = answer.probability[..., 1]
    area = [(one[truth == 1][:, None] > one[truth == 0]).mean() for one in score]
    assert min(area[0], area[2]) > area[1] + 0.1


def test_replicates_are_trained_as_if_alone_and_streams_share_their_luck(trained):
    bags, labels, _ = trained
    rows = validation_rows(labels, replicates=3)
    alone = train_morphometry(
        bags, labels, validation=rows[:1], seed=1, streams=np.zeros(1, np.int64)
    )
    twice = train_morphometry(
        bags,
        labels,
        validation=np.concatenate([rows[:1], rows[:1]]),
        seed=1,
        streams=np.zeros(2, np.int64),
    )
    for name in ("embed", "attend_in", "classify_out"):
        np.testing.assert_array_equal(twice.weights()[name][0], twice.weights()[name][1])
        np.testing.assert_allclose(twice.weights()[name][0], alone.weights()[name][0], atol=1e-5)


def test_of_many_patients_each_step_takes_some(monkeypatch):
    """Others in each step, the same for models of one stream, and what is planted is learned."""
    bags, labels = random_bags(4, planted=1)
    taken = []
    draw = training._BatchTraining._training_patients

    def listen(self):
        taken.append(draw(self))
        return taken[-1]

    monkeypatch.setattr(training._BatchTraining, "_training_patients", listen)
    monkeypatch.setattr(training, "STEP_PATIENTS", 20)
    rows = np.repeat(validation_rows(labels, replicates=1), 2, axis=0)
    model = train_morphometry(bags, labels, validation=rows, seed=0, streams=np.zeros(2, np.int64))
    assert {step.shape for step in taken} == {(2, 20)}
    for step in taken:
        np.testing.assert_array_equal(step[0], step[1])
        assert len(set(step[0].tolist())) == 20
    assert set(np.concatenate([step[0] for step in taken])) == set(np.flatnonzero(~rows[0]))
    score = model.predict(bags.values).probability[0, :, 1]
    truth = labels[bags.patient]
    assert (score[truth == 1][:, None] > score[truth == 0]).mean() > 0.85


def test_stored_weights_give_the_same_answers(trained):
    bags, _, model = trained
    again = restore_morphometry(load(save(model.weights())))
    assert again.scaler.reading == "quantiles"
    np.testing.assert_array_equal(
        again.predict(bags.values).probability, model.predict(bags.values).probability
    )
    weights = model.weights()
    with pytest.raises(ValueError, match="lack 'scaler_sd'"):
        restore_morphometry({name: array for name, array in weights.items() if name != "scaler_sd"})
    with pytest.raises(ValueError, match="don't fit"):
        restore_morphometry(weights | {"prior": weights["prior"][:1]})


def test_a_thousand_bags_in_all_coalitions_take_less_than_ten_seconds():
    """Five models, 256 coalitions, Shapley values of AUC and log-loss with their intervals."""
    rng = np.random.default_rng(0)
    values = rng.dirichlet(np.ones(BINS), (1000, 8)).astype(np.float32)
    labels = np.arange(1000) % 2
    bags = as_bags(values, np.arange(1000), np.ones(1000))
    rows = validation_rows(labels, replicates=5)
    model = train_morphometry(bags, labels, validation=rows, seed=0, recipe=Recipe(steps=10))
    coalitions = Coalitions.exact(8)
    begun = time.process_time()  # of all threads, so that a busy machine doesn't count
    answers = model.predict_coalitions(bags.values, coalitions.members, empty=np.array([0.5, 0.5]))
    area = AucContrasts(answers, labels, np.repeat(np.arange(5), 200), seed=0).estimate(
        coalitions.weights
    )
    contrast_log_likelihood(answers, labels, coalitions.weights, seed=0)
    assert time.process_time() - begun < 2 * 10
    full = answers[:, -1, :, 1].mean(axis=0)
    assert area.value.sum() == pytest.approx(
        within_fold_auc(labels, full, np.repeat(np.arange(5), 200)) - 0.5, abs=1e-6
    )
