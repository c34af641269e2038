"""The image model on deep features of patches: DL-CNB, and DL-CNB+C with clinical covariates (Xu et
al. 2021).

A bag is N patches of a slide; the head is `mil.AttentionMIL`. A slide is always predicted from the
same bags, and every patch is embedded once, so that prediction, attention and occlusion come from
one reading.
"""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint as recompute

from morphomil.bags import BAG_SIZE, draw_bags, generator
from morphomil.embed import PATCHES_AT_ONCE, digest_state
from morphomil.mil import AttentionMIL, TrainingError
from morphomil.stats.roc import auc
from morphomil.store import write_arrays
from morphomil.types import CORES, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

HELD_BYTES = 2**30
"""Features are held in memory up to this size; larger ones are read from their files, bag by
bag."""
STEP_BYTES = 2**27
"""Of a training step's features in single precision: larger steps are taken with fewer bags."""
READ_AT_ONCE = 512
"""Patches embedded at once in prediction."""
TUNED_AT_ONCE = 8
"""Patches that a backbone sees at once while it learns; what its gradient needs of them is all it
holds."""
WIDE = 4096
"""Features beyond which a training step is worth more than one thread."""
LARGE = 3 * 128**2
"""The same of a patch's pixels."""
CHECKPOINT_SECONDS = 20.0
LOG_COLUMNS = ("epoch", "learning_rate", "loss_train", "auc_train", "loss_val", "auc_val")


@dataclass(frozen=True)
class ImageRecipe:
    """How the image model is built and trained."""

    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 3e-4
    momentum: float = 0.0
    """Of SGD."""
    weight_decay: float = 1e-3
    """Added to the gradient."""
    restart_epochs: int = 20
    """T_0 of the cosine annealing with warm restarts (Loshchilov & Hutter 2017)."""
    restart_factor: int = 2
    """T_mult: each cycle is so much longer than the last."""
    epochs: int = 200
    """At most."""
    patience: int = 30
    """Epochs without a better validation AUC before training ends."""
    stop_train_auc: float = 1.0
    """Training ends when the training bags' AUC exceeds it; 1: never."""
    bags_per_step: int = 16
    clip: float = 5.0
    """Largest norm of a step's gradient; 0: any."""
    bag_size: int = BAG_SIZE
    """Patches in a bag; 0: all of a slide's patches are one bag."""
    redraw: bool = True
    """Draw the training bags anew in every epoch; else they are those of prediction."""
    max_bags: int = 0
    """Of a slide, in training; 0: all."""
    inner: int = 128
    """Width of the attention's hidden layer."""
    dropout: float = 0.5
    attention_dropout: float = 0.0
    """Share of the attention's hidden and final values left out in training."""
    standardize: bool = True
    """Bring every deep feature to mean 0 and SD 1 over the training patches, every patient with the
    same weight."""
    equal_patients: bool = True
    """Every patient has the same total weight in the loss; else every bag."""
    balanced: bool = False
    """Every class has the same total weight in the loss; probabilities then ignore the
    prevalence."""
    backbone_rate: float = 0.1
    """Learning rate of a fine-tuned backbone, as a share of the head's."""
    pool: Literal["mean", "max"] = "mean"
    """A slide's probability over its bags: their mean, or the bag with the largest probability of
    the last class."""

    def __post_init__(self) -> None:
        """Refuse what can't be trained."""
        problems = []
        if min(self.learning_rate, self.backbone_rate) <= 0 or self.weight_decay < 0:
            problems.append(
                f"learning rate must be positive, got {self.learning_rate:g} (decay "
                f"{self.weight_decay:g})"
            )
        if (
            min(
                self.restart_epochs,
                self.restart_factor,
                self.epochs,
                self.patience,
                self.bags_per_step,
            )
            < 1
        ):
            problems.append("epochs, patience, restarts and bags per step must be 1 or more")
        if self.bag_size < 0 or not 0 <= self.dropout < 1 or not 0 <= self.attention_dropout < 1:
            problems.append("bag size must be 0 (all patches) or more, and dropout a share below 1")
        if problems:
            raise InputError(problems)


PRESETS = {
    "default": ImageRecipe(),
    "paper": ImageRecipe(
        learning_rate=1e-4,
        redraw=False,
        standardize=False,
        attention_dropout=0.5,
        patience=200,
        backbone_rate=1.0,
    ),
    "released-code": ImageRecipe(
        optimizer="sgd",
        learning_rate=1e-4,
        momentum=0.3,
        stop_train_auc=0.98,
        bags_per_step=1,
        clip=0.0,
        redraw=False,
        inner=1,
        attention_dropout=0.5,
        standardize=False,
        equal_patients=False,
        patience=200,
        backbone_rate=1.0,
    ),
}
"""`paper` and `released-code` as described there; the latter's patches are embedded at 224
pixels."""


def settle_recipe(preset: str, **changes: Any) -> ImageRecipe:
    """A preset with some settings changed; those that are None stay.

    Raises:
        InputError: there is no such preset, or a setting is out of range.
    """
    if preset not in PRESETS:
        raise InputError(f"no preset named {preset!r}; choose {', '.join(PRESETS)}")
    return replace(
        PRESETS[preset], **{name: value for name, value in changes.items() if value is not None}
    )


# ----------------------------------------------------------------------------------------- features


class Rows:
    """The patches of many slides one after the other, in memory or in their `.npy` files."""

    def __init__(self, arrays: Sequence[NDArray[Any]] = (), *, paths: Sequence[Path] = ()) -> None:
        """Arrays (patches, F), or files of such.

        Raises:
            InputError: their widths differ.
        """
        self._paths = list(paths)
        headers = [_header(path) for path in paths]
        shapes = [array.shape for array in arrays] + [shape for shape, _, _ in headers]
        widths = {shape[1:] for shape in shapes}
        if len(widths) != 1:
            raise InputError(
                f"slides have features of different shapes ({sorted(widths)}); run "
                "morphomil embed anew"
            )
        self.width = int(np.prod(widths.pop()))
        self.starts = np.concatenate([[0], np.cumsum([shape[0] for shape in shapes])]).astype(
            np.int64
        )
        self._offsets = np.array([offset for _, _, offset in headers], dtype=np.int64)
        self._dtype = headers[0][1] if headers else arrays[0].dtype
        self._held: Tensor | None = None
        if arrays:
            self._held = torch.from_numpy(np.concatenate(arrays))
        elif len(self) * self.width * self._dtype.itemsize <= HELD_BYTES:
            self._held = torch.from_numpy(
                np.concatenate([np.load(p, allow_pickle=False) for p in paths])
            )

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def threads(self) -> int:
        """One thread for narrow rows, whose products are too small to share; as many as there are
        cores for wide."""
        return 1 if self.width <= (LARGE if self._dtype == np.uint8 else WIDE) else CORES

    def read(self, index: NDArray[np.int64]) -> Tensor:
        """The rows of these numbers (n, F): float32, or uint8 where they are pixels."""
        if self._held is not None:
            return _as_features(self._held[torch.from_numpy(index)])
        found = np.empty((len(index), self.width), self._dtype)
        files = np.searchsorted(self.starts, index, side="right") - 1
        size = self.width * self._dtype.itemsize
        for number in np.unique(files):
            handle = os.open(self._paths[number], os.O_RDONLY)
            try:
                for place in np.flatnonzero(files == number):
                    start = int(self._offsets[number] + (index[place] - self.starts[number]) * size)
                    if os.preadv(handle, [memoryview(found[place]).cast("B")], start) != size:
                        raise InputError(
                            f"{self._paths[number]} is cut short; run morphomil embed anew"
                        )
            finally:
                os.close(handle)
        return _as_features(torch.from_numpy(found))


def _as_features(rows: Tensor) -> Tensor:
    return rows if rows.dtype == torch.uint8 else rows.float()


def _header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, type and place of the numbers of a `.npy` file."""
    with path.open("rb") as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise InputError(f"{path} isn't what morphomil embed writes; run it anew")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        return shape, dtype, stream.tell()


@dataclass(frozen=True)
class ImageCohort:
    """Slides with their patches' features, and their patients; numbers of patients count from 0."""

    slides: tuple[str, ...]
    rows: Rows
    """The slides' patches in the same order."""
    patient: NDArray[np.int64]  # (slides,)
    labels: NDArray[np.int64]  # (patients,)
    classes: int
    clinical: NDArray[np.float32] | None = None  # (patients, C)

    def __post_init__(self) -> None:
        """Refuse slides without a patch and numbers that don't fit."""
        if len(self.slides) != len(self.patient) or len(self.slides) != len(self.rows.starts) - 1:
            raise ValueError(
                f"{len(self.slides)} slides, {len(self.patient)} owners, "
                f"{len(self.rows.starts) - 1} files"
            )
        if (np.diff(self.rows.starts) == 0).any():
            raise ValueError("a slide has no patches")

    def bags(
        self, slide: int, *, size: int, key: tuple[Any, ...], most: int = 0
    ) -> list[NDArray[np.int64]]:
        """Row numbers of each bag of a slide."""
        first, end = self.rows.starts[slide : slide + 2]
        count = int(end - first)
        drawn = draw_bags(
            count, size=size or count, bags=most or None, seed_key=(*key, self.slides[slide])
        )
        return [first + bag for bag in drawn]

    def covariates(self, patient: NDArray[np.int64] | int) -> Tensor | None:
        """Clinical columns of patients."""
        return (
            None
            if self.clinical is None
            else torch.tensor(self.clinical[patient], dtype=torch.float32)
        )


# ---------------------------------------------------------------------------------------- the model


class _DropTanh(nn.Tanh):
    """Tanh of what dropout leaves, as in the released code; no weights, so the head's names
    stay."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(functional.dropout(x, self.share, self.training))


class _DropLinear(nn.Linear):
    """A linear layer whose results dropout thins."""

    share = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(super().forward(x), self.share, self.training)


def build_head(
    in_features: int, *, classes: int, clinical: int, recipe: ImageRecipe
) -> AttentionMIL:
    """The head of a recipe, random weights from torch's generator."""
    head = AttentionMIL(
        in_features, classes=classes, clinical=clinical, inner=recipe.inner, dropout=recipe.dropout
    )
    if recipe.attention_dropout:
        score = _DropLinear(recipe.inner, 1)
        score.share = recipe.attention_dropout
        score.load_state_dict(head.attend[2].state_dict())
        head.attend[1], head.attend[2] = _DropTanh(recipe.attention_dropout), score
    return head


class ImageModel(nn.Module):
    """A head with the standardization of its features, and the backbone that makes them where it is
    fine-tuned."""

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        head: AttentionMIL,
        shift: NDArray[np.float32],
        scale: NDArray[np.float32],
        backbone: nn.Module | None = None,
    ) -> None:
        """`shift` and `scale` (F,): mean and SD of the training patches, or 0 and 1; `backbone`:
        `build_backbone`."""
        super().__init__()
        self.head, self.backbone = head, backbone
        self.register_buffer("shift", torch.from_numpy(shift))
        self.register_buffer("scale", torch.from_numpy(scale))

    def see(self, rows: Tensor) -> Tensor:
        """Features (n, F) of rows: the rows themselves, or what the backbone makes of their pixels.

        Where gradients are wanted, a few patches are seen at a time, and seen again when their
        gradient is due.
        """
        if self.backbone is None:
            return rows
        if torch.is_grad_enabled():
            parts = [
                recompute(self.backbone, part, use_reentrant=False)
                for part in torch.split(rows, TUNED_AT_ONCE)
            ]
        else:
            parts = [self.backbone(part) for part in torch.split(rows, PATCHES_AT_ONCE)]
        return torch.cat(parts)

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (n, F), or pixels -> embedded instances (n, 256), attention before the softmax
        (n,)."""
        embedded: Tensor = self.head.embed((self.see(rows) - self.shift) / self.scale)
        return embedded, self.head.attend(embedded).squeeze(-1)

    def decide(
        self, embedded: Tensor, score: Tensor, clinical: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Bags (B, N, 256), scores (B, N; -inf: no instance), covariates (B, C) -> logits (B,
        classes), attention."""
        attention = torch.softmax(score, dim=-1)
        return self.classify((attention.unsqueeze(-2) @ embedded).squeeze(-2), clinical), attention

    def classify(self, pooled: Tensor, clinical: Tensor | None) -> Tensor:
        """Pooled instances (B, 256) and covariates (B, C) -> logits (B, classes)."""
        from morphomil.mil import CLINICAL_REPEATS

        if clinical is not None:
            pooled = torch.cat([pooled, clinical.repeat(1, CLINICAL_REPEATS)], dim=-1)
        logits: Tensor = self.head.classify(pooled)
        return logits

    def forward(self, rows: Tensor, sizes: Sequence[int], clinical: Tensor | None = None) -> Tensor:
        """Logits (B, classes) of bags of these sizes whose instances (sum of sizes, F) follow one
        another."""
        embedded, score = self.read(rows)
        if len(set(sizes)) == 1:
            shape = (len(sizes), sizes[0])
            return self.decide(embedded.view(*shape, -1), score.view(shape), clinical)[0]
        parts = torch.split(embedded, list(sizes)), torch.split(score, list(sizes))  # type: ignore[no-untyped-call, unused-ignore]
        padded = nn.utils.rnn.pad_sequence(list(parts[0]), batch_first=True)
        scores = nn.utils.rnn.pad_sequence(
            list(parts[1]), batch_first=True, padding_value=-torch.inf
        )
        return self.decide(padded, scores, clinical)[0]

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """All that prediction needs, by name."""
        return {
            name: tensor.detach().cpu().numpy().copy() for name, tensor in self.state_dict().items()
        }

    @classmethod
    def from_weights(
        cls,
        arrays: dict[str, NDArray[np.float32]],
        *,
        recipe: ImageRecipe,
        backbone: nn.Module | None = None,
    ) -> ImageModel:
        """The model that `weights` described; `backbone` takes its own from there.

        Raises:
            InputError: names or shapes don't fit the recipe.
        """
        from morphomil.mil import CLINICAL_REPEATS

        try:
            classes, width = (
                arrays["head.classify.2.weight"].shape[0],
                arrays["head.embed.0.weight"].shape,
            )
            clinical = (arrays["head.classify.0.weight"].shape[1] - width[0]) // CLINICAL_REPEATS
            head = build_head(width[1], classes=classes, clinical=clinical, recipe=recipe)
            model = cls(head, np.array(arrays["shift"]), np.array(arrays["scale"]), backbone)
            model.load_state_dict(
                {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
            )
        except (KeyError, RuntimeError) as error:
            cause = str(error).splitlines()[0]
            raise InputError(
                f"the stored weights are of another model: {cause}; train it anew"
            ) from error
        return model.eval()


# ----------------------------------------------------------------------------------- reading slides


@dataclass(frozen=True)
class SlideReading:
    """What a model says of a slide."""

    probability: NDArray[np.float64]  # (classes,)
    bag_probability: NDArray[np.float64]  # (bags, classes)
    bag: NDArray[np.int64]  # (patches,): the bag of each patch, -1 for the remainder
    bag_attention: NDArray[np.float64]  # (patches,): sums to 1 over a bag, NaN in the remainder
    attention: NDArray[np.float64]  # (patches,): sums to 1 over the slide, as if it were one bag
    occlusion: NDArray[np.float64]  # (patches,)
    """Probability of the last class with the whole slide as one bag, minus the same without the
    patch."""


def read_slide(
    model: ImageModel, cohort: ImageCohort, slide: int, *, recipe: ImageRecipe, seed: int
) -> SlideReading:
    """Predict a slide from its bags, and see which patches it rests on; no dropout, always the same
    bags."""
    model.eval()
    first, end = (int(value) for value in cohort.rows.starts[slide : slide + 2])
    clinical = cohort.covariates(int(cohort.patient[slide]))
    with torch.inference_mode(), _threads(cohort.rows.threads):
        parts = [
            model.read(cohort.rows.read(np.arange(start, min(start + READ_AT_ONCE, end))))
            for start in range(first, end, READ_AT_ONCE)
        ]
        embedded, score = (torch.cat(part) for part in zip(*parts, strict=True))
        bags = [bag - first for bag in cohort.bags(slide, size=recipe.bag_size, key=(seed,))]
        index = torch.from_numpy(np.stack(bags))  # all of one size, by draw_bags
        repeated = None if clinical is None else clinical.expand(len(bags), -1)
        logits, attention = model.decide(embedded[index], score[index], repeated)
        bag_probability = torch.softmax(logits.double(), dim=-1).numpy()
        whole = torch.softmax(score.double(), dim=0)
        occlusion = _occlude(model, embedded, whole, clinical)
    bag = np.full(end - first, -1, np.int64)
    bag_attention = np.full(end - first, np.nan)
    for number, members in enumerate(bags):
        bag[members], bag_attention[members] = number, attention[number].double().numpy()
    strongest = bag_probability[bag_probability[:, -1].argmax()]
    probability = strongest if recipe.pool == "max" else bag_probability.mean(axis=0)
    return SlideReading(probability, bag_probability, bag, bag_attention, whole.numpy(), occlusion)


def _occlude(
    model: ImageModel, embedded: Tensor, attention: Tensor, clinical: Tensor | None
) -> NDArray[np.float64]:
    """Drop of the last class's probability when each patch is left out of the slide; NaN for an
    only patch."""
    if len(attention) == 1:
        return np.full(1, np.nan)
    instances = embedded.double()
    pooled = attention @ instances  # (256,)
    left = (1 - attention).clamp(min=1e-12).unsqueeze(-1)
    drops = []
    for start in range(0, len(attention), READ_AT_ONCE):
        part = slice(start, start + READ_AT_ONCE)
        without = (pooled - attention[part, None] * instances[part]) / left[part]
        both = torch.cat([pooled[None], without]).float()
        repeated = None if clinical is None else clinical.expand(len(both), -1)
        probability = torch.softmax(model.classify(both, repeated).double(), dim=-1)[:, -1]
        drops.append((probability[0] - probability[1:]).numpy())
    return np.concatenate(drops)


def predict_patients(
    model: ImageModel,
    cohort: ImageCohort,
    patients: NDArray[np.int64],
    *,
    recipe: ImageRecipe,
    seed: int,
) -> NDArray[np.float64]:
    """Probability (patients, classes): the mean over a patient's slides."""
    wanted = {int(patient): number for number, patient in enumerate(patients)}
    total, count = np.zeros((len(patients), cohort.classes)), np.zeros(len(patients))
    for slide, owner in enumerate(cohort.patient):
        if (place := wanted.get(int(owner))) is not None:
            total[place] += read_slide(model, cohort, slide, recipe=recipe, seed=seed).probability
            count[place] += 1
    return np.asarray(total / count[:, None])


# ----------------------------------------------------------------------------------------- training


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
    with _threads(cohort.rows.threads):
        return _Training(cohort, train, val, recipe, seed, backbone).run(
            checkpoint, checkpoint_seconds, on_epoch
        )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
        seen = predict_patients(self.model, cohort, self.val, recipe=recipe, seed=self.seed)
        truth = cohort.labels[self.val]
        loss_val = float(-np.log(np.maximum(seen[np.arange(len(truth)), truth], 1e-12)).mean())
        if not math.isfinite(loss_val):
            raise TrainingError(
                f"the loss is no number after epoch {epoch + 1}; lower the learning rate"
            )
        areas = macro_auc(labels, probability), macro_auc(truth, seen)
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
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            arrays = load_file(path)
        except (OSError, SafetensorError):
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
                seen = see(cohort.rows.read(np.arange(at, min(at + READ_AT_ONCE, end)))).double()
                first = first + share * seen.sum(dim=0).numpy()
                second = second + share * seen.square_().sum(dim=0).numpy()
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
