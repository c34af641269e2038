"""Training of the image model: resumable, the same bytes however often it was stopped."""

from __future__ import annotations

import json
import math
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from morphomil.errors import DamagedError, TrainingError
from morphomil.image_model.backbones import digest_state
from morphomil.image_model.model import (
    READ_AT_ONCE,
    ImageModel,
    build_head,
    predict_patients,
    torch_threads,
)
from morphomil.seeds import generator
from morphomil.stats.roc import auc
from morphomil.store import read_arrays, write_arrays

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from morphomil.image_model.recipe import ImageRecipe
    from morphomil.image_model.rows import ImageCohort
STEP_BYTES = 2**27
"""The features of a training step take at most so much memory in single precision; larger steps are
taken with fewer bags."""
CHECKPOINT_SECONDS = 20.0
"""Between two checkpoints at least this much time passes."""
LOG_COLUMNS = ("epoch", "learning_rate", "loss_train", "auc_train", "loss_val", "auc_val")


@dataclass(frozen=True)
class TrainedImageModel:
    """A trained model and how training went."""

    model: ImageModel
    log: pd.DataFrame = field(repr=False)
    """`LOG_COLUMNS`, one row per epoch. `auc_train` is that of the bags as they were trained, with
    dropout."""
    best_epoch: int


def train_image_model(
    cohort: ImageCohort,
    *,
    train: NDArray[np.int64],
    val: NDArray[np.int64],
    recipe: ImageRecipe,
    seed: int,
    backbone: nn.Module | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    on_epoch: Callable[[int, int], None] | None = None,
) -> TrainedImageModel:
    """Train on some patients and keep the weights of the epoch with the best validation AUC, then
    the lowest log-loss.

    What epoch e draws depends on the seed and e alone, so a training that goes on from its
    checkpoint ends with the same bytes as one that was never stopped.

    Args:
        cohort: slides, features, labels.
        train: numbers of the training patients.
        val: numbers of the patients who decide when to stop.
        recipe: settings.
        seed: of weights, bags, order and dropout.
        backbone: learns too (`embed.load_backbone`), from a cohort whose rows are pixels.
        checkpoint: where to keep the state of an unfinished training; one of other settings is
            ignored.
        checkpoint_seconds: least time between two checkpoints.
        on_epoch: hears the number of finished epochs and the most there can be.

    Raises:
        TrainingError: the loss is not a number.
    """
    with torch_threads(cohort.rows.threads):
        return _Training(cohort, train, val, recipe, seed, backbone).run(
            checkpoint, checkpoint_seconds, on_epoch
        )


class _Training:
    """The state of a training."""

    def __init__(
        self,
        cohort: ImageCohort,
        train: NDArray[np.int64],
        val: NDArray[np.int64],
        recipe: ImageRecipe,
        seed: int,
        backbone: nn.Module | None,
    ) -> None:
        self.cohort, self.train, self.val, self.recipe, self.seed = cohort, train, val, recipe, seed
        self.slides = np.flatnonzero(np.isin(cohort.patient, train))
        clinical = 0 if cohort.clinical is None else cohort.clinical.shape[1]
        width = cohort.rows.width if backbone is None else int(backbone.features)  # type: ignore[arg-type, unused-ignore]
        with _seeded("weights", seed):
            head = build_head(width, classes=cohort.classes, clinical=clinical, recipe=recipe)
        self.model = ImageModel(
            head, np.zeros(width, np.float32), np.ones(width, np.float32), backbone
        )
        if recipe.standardize:
            shift, scale = fit_scale(cohort, self.slides, see=self.model.see)
            self.model.shift.copy_(torch.from_numpy(shift))
            self.model.scale.copy_(torch.from_numpy(scale))
        groups: list[dict[str, Any]] = [{"params": list(head.parameters()), "share": 1.0}]
        if backbone is not None:
            groups.append({"params": list(backbone.parameters()), "share": recipe.backbone_rate})
        if recipe.optimizer == "adam":
            self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
                groups, weight_decay=recipe.weight_decay
            )
        else:
            self.optimizer = torch.optim.SGD(
                groups,
                lr=recipe.learning_rate,
                momentum=recipe.momentum,
                weight_decay=recipe.weight_decay,
            )
        self.start = digest_state(self.model.state_dict())
        self.best = self.model.weights()
        self.log: list[tuple[float, ...]] = []

    def run(
        self, checkpoint: Path | None, seconds: float, on_epoch: Callable[[int, int], None] | None
    ) -> TrainedImageModel:
        recipe = self.recipe
        if checkpoint is not None:
            self._resume(checkpoint)
        saved = time.monotonic()
        while not self._is_over():
            row = self._epoch(len(self.log))
            better = not self.log or _is_better(row, self._best_row())
            self.log.append(row)
            if better:
                self.best = self.model.weights()
            if checkpoint is not None and time.monotonic() - saved >= seconds:
                self._save(checkpoint)
                saved = time.monotonic()
            if on_epoch:
                on_epoch(len(self.log), recipe.epochs)
        self.model.load_state_dict(
            {name: torch.from_numpy(value) for name, value in self.best.items()}
        )
        table = pd.DataFrame(self.log, columns=list(LOG_COLUMNS)).astype({"epoch": "int64"})
        return TrainedImageModel(self.model.eval(), table, int(self._best_row()[0]))

    def _best_row(self) -> tuple[float, ...]:
        best = self.log[0]
        for row in self.log[1:]:
            if _is_better(row, best):
                best = row
        return best

    def _is_over(self) -> bool:
        if not self.log:
            return False
        idle = self.log[-1][0] - self._best_row()[0]
        enough = self.recipe.stop_train_auc < 1 and self.log[-1][3] > self.recipe.stop_train_auc
        return len(self.log) >= self.recipe.epochs or idle >= self.recipe.patience or enough

    def _epoch(self, epoch: int) -> tuple[float, ...]:
        recipe, cohort = self.recipe, self.cohort
        key = (self.seed, "epoch", epoch) if recipe.redraw else (self.seed,)
        bags, owner = [], []
        for slide in self.slides:
            drawn = cohort.bags(int(slide), size=recipe.bag_size, key=key, most=recipe.max_bags)
            bags += drawn
            owner += [int(cohort.patient[slide])] * len(drawn)
        patient = np.array(owner)
        labels = cohort.labels[patient]
        weight = bag_weights(patient, labels, recipe=recipe)
        rate = cosine_rate(epoch, recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        order = generator("order", self.seed, epoch).permutation(len(bags))
        probability = np.empty((len(bags), cohort.classes))
        total = 0.0
        self.model.train()
        with _seeded("dropout", self.seed, epoch):
            for chosen in _steps(order, bags, recipe.bags_per_step, 4 * cohort.rows.width):
                rows = cohort.rows.read(np.concatenate([bags[i] for i in chosen]))
                logits = self.model(
                    rows, [len(bags[i]) for i in chosen], cohort.covariates(patient[chosen])
                )
                losses = functional.cross_entropy(
                    logits, torch.from_numpy(labels[chosen]), reduction="none"
                )
                loss = (losses * torch.from_numpy(weight[chosen]).float()).mean()
                if not math.isfinite(loss.item()):
                    raise TrainingError(
                        f"the loss is no number in epoch {epoch + 1}; lower the learning rate"
                    )
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
                if recipe.clip:
                    nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
                self.optimizer.step()
                total += loss.item() * len(chosen)
                probability[chosen] = torch.softmax(logits.detach().double(), dim=-1).numpy()
        predicted = predict_patients(self.model, cohort, self.val, recipe=recipe, seed=self.seed)
        truth = cohort.labels[self.val]
        loss_val = float(-np.log(np.maximum(predicted[np.arange(len(truth)), truth], 1e-12)).mean())
        if not math.isfinite(loss_val):
            raise TrainingError(
                f"the loss is no number after epoch {epoch + 1}; lower the learning rate"
            )
        areas = macro_auc(labels, probability), macro_auc(truth, predicted)
        return (float(epoch + 1), rate, total / len(bags), areas[0], loss_val, areas[1])

    def _key(self) -> NDArray[np.uint8]:
        """What a checkpoint belongs to."""
        parts = [
            asdict(self.recipe),
            self.seed,
            self.cohort.slides,
            self.train.tolist(),
            self.val.tolist(),
        ]
        parts += [
            self.cohort.labels.tolist(),
            self.cohort.rows.width,
            self.cohort.rows.starts.tolist(),
        ]
        clinical = self.cohort.clinical
        parts.append(None if clinical is None else np.round(clinical.astype(float), 5).tolist())
        parts.append(self.start)
        return np.frombuffer(json.dumps(parts).encode(), np.uint8)

    def _save(self, path: Path) -> None:
        arrays: dict[str, NDArray[Any]] = {
            f"now/{name}": value for name, value in self.model.weights().items()
        }
        arrays |= {f"best/{name}": value for name, value in self.best.items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            arrays |= {
                f"optimizer/{number}/{name}": v.cpu().numpy()
                for name, v in state.items()
                if v is not None
            }
        write_arrays(path, arrays | {"log": np.array(self.log), "key": self._key()})

    def _resume(self, path: Path) -> None:
        """Take over the state of a checkpoint, if there is one of this very training."""
        try:
            arrays = read_arrays(path)
        except DamagedError:  # begun anew
            return
        if not np.array_equal(arrays["key"], self._key()):
            return
        parts: dict[str, dict[str, NDArray[Any]]] = {"now": {}, "best": {}, "optimizer": {}}
        for name, value in arrays.items():
            part, _, rest = name.partition("/")
            if rest:
                parts[part][rest] = np.array(value)
        self.model.load_state_dict(
            {name: torch.from_numpy(value) for name, value in parts["now"].items()}
        )
        self.best = parts["best"]
        state = self.optimizer.state_dict()
        for name, value in parts["optimizer"].items():
            number, _, field_name = name.partition("/")
            state["state"].setdefault(int(number), {})[field_name] = torch.from_numpy(value)
        self.optimizer.load_state_dict(state)
        self.log = [tuple(float(v) for v in row) for row in arrays["log"]]


def _is_better(row: tuple[float, ...], than: tuple[float, ...]) -> bool:
    """By validation AUC, then by validation loss."""
    return (row[5], -row[4]) > (than[5], -than[4])


@contextmanager
def _seeded(*key: Any) -> Iterator[None]:
    """torch's generator seeded by a key inside the block, and as it was after it."""
    before = torch.get_rng_state()
    torch.manual_seed(int(generator(*key).integers(2**63)))
    try:
        yield
    finally:
        torch.set_rng_state(before)


def cosine_rate(epoch: int, recipe: ImageRecipe) -> float:
    """Learning rate of an epoch (from 0): cosine annealing to 0 with warm restarts."""
    length, since = recipe.restart_epochs, epoch
    while since >= length:
        since -= length
        length *= recipe.restart_factor
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * since / length))


def bag_weights(
    patient: NDArray[np.int64], labels: NDArray[np.int64], *, recipe: ImageRecipe
) -> NDArray[np.float64]:
    """Weight (bags,) of each bag in the loss, 1 on average; equal sums for patients if the recipe
    says so."""
    _, place, count = np.unique(patient, return_inverse=True, return_counts=True)
    weight = 1 / count[place] if recipe.equal_patients else np.ones(len(patient))
    if recipe.balanced:
        weight = weight / np.bincount(labels, weight)[labels]
    return np.asarray(weight / weight.mean())


def fit_scale(
    cohort: ImageCohort,
    slides: NDArray[np.int64],
    *,
    see: Callable[[Tensor], Tensor] = lambda rows: rows,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and SD (F,) of the patches of some slides, every patient with the same weight; a
    constant's SD is 1.

    `see` makes features of rows (`ImageModel.see`).
    """
    patients, place, count = np.unique(
        cohort.patient[slides], return_inverse=True, return_counts=True
    )
    first, second = np.zeros(1), np.zeros(1)
    for slide, owner in zip(slides, place, strict=True):
        start, end = (int(value) for value in cohort.rows.starts[slide : slide + 2])
        share = 1 / (len(patients) * count[owner] * (end - start))
        for at in range(start, end, READ_AT_ONCE):
            with torch.inference_mode():
                values = see(cohort.rows.read(np.arange(at, min(at + READ_AT_ONCE, end)))).double()
                first = first + share * values.sum(dim=0).numpy()
                second = second + share * values.square_().sum(dim=0).numpy()
    sd = np.sqrt(np.maximum(second - first**2, 0))
    return first.astype(np.float32), np.where(sd > 1e-4, sd, 1).astype(np.float32)


def macro_auc(labels: NDArray[np.int64], probability: NDArray[np.float64]) -> float:
    """AUC of the last of two classes, or the mean over classes of each against the others; 0.5 with
    one class."""
    classes = range(1, 2) if probability.shape[1] == 2 else range(probability.shape[1])
    areas = [
        auc(labels == k, probability[:, k])
        for k in classes
        if 0 < (labels == k).sum() < len(labels)
    ]
    return float(np.mean(areas)) if areas else 0.5


def _steps(
    order: NDArray[np.int64], bags: list[NDArray[np.int64]], most: int, row_bytes: int
) -> Iterator[NDArray[np.int64]]:
    """The bags of each training step: at most so many, and no more than fit into `STEP_BYTES` (but
    one)."""
    chosen: list[int] = []
    held = 0
    for number in order:
        size = len(bags[number]) * row_bytes
        if chosen and (len(chosen) == most or held + size > STEP_BYTES):
            yield np.array(chosen)
            chosen, held = [], 0
        chosen.append(int(number))
        held += size
    yield np.array(chosen)
