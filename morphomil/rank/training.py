"""Training of the morphometry models of a fold, side by side in one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import nn

from morphomil.errors import TrainingError
from morphomil.rank.evidence import weigh_views
from morphomil.rank.instances import STEP_PATIENTS, Scaler
from morphomil.rank.model import (
    MorphometryMIL,
    Recipe,
    TrainedMorphometry,
    one_thread,
    pool,
    scale,
)
from morphomil.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from morphomil.rank.instances import InstanceBags
ADAM_BETAS = (0.9, 0.999)
"""Adam forgets gradients and their squares at these rates, as `torch.optim.Adam` does."""
VALIDATION_BAGS = 4
"""Each patient has so many bags in the loss that ends training."""
COMPACT_BELOW = 0.75
"""Replicates that have stopped leave the batch once fewer than this share still learns."""


def train_morphometry(
    bags: InstanceBags,
    labels: NDArray[np.int64],
    *,
    validation: NDArray[np.bool_],
    seed: int,
    recipe: Recipe | None = None,
    available: NDArray[np.bool_] | None = None,
    streams: NDArray[np.int64] | None = None,
    offset: NDArray[np.float64] | None = None,
    check: Callable[[], None] = lambda: None,
) -> TrainedMorphometry:
    """Train one model per row of `validation`, all at once.

    In each step every training patient, or `STEP_PATIENTS` of them, is represented by one of its
    bags, drawn by weight, so patients count alike. The loss is the cross-entropy of the whole bag
    plus that of a coalition of its instances, one instance in every other step. Instances that must
    speak for themselves keep the classifier's scale, and then the whole bag gains by attending to
    those that carry evidence; without this, attention is indifferent, as the classifier can
    rescale. Each replicate keeps the weights with the smallest validation loss: with few validation
    patients the log-loss is smoother than the AUC. What becomes of a replicate doesn't depend on
    the others.

    Args:
        bags: of the training and validation patients; the scaler is fitted to all of them.
        labels: (patients,) or (replicates, patients), classes from 0; patients without bags are
            left out.
        validation: (replicates, patients), who decides when to stop; each row has as many patients
            with bags.
        seed: of weights, coalitions and drawn bags.
        recipe: settings.
        available: (replicates, features), the features that a replicate may see; by default all.
        streams: (replicates,), from 0: replicates with one number start from the same weights and
            see the same bags and coalitions; by default each has its own.
        offset: (replicates, patients, classes), added to the logits, so that the model learns what
            its features say beyond it.
        check: is called in every step, to raise where nobody waits for the models any more.

    Raises:
        TrainingError: the loss is not a number.
    """
    recipe = recipe or Recipe()
    scaler = Scaler.fit(bags)
    rng = torch.Generator().manual_seed(int(generator("train", seed).integers(2**63)))
    with one_thread():
        training = _BatchTraining(
            bags,
            np.broadcast_to(labels, validation.shape),
            validation,
            scaler=scaler,
            recipe=recipe,
            available=available,
            streams=np.arange(len(validation)) if streams is None else streams,
            offset=offset,
            rng=rng,
        )
        log = training.run(check)
    return TrainedMorphometry(training.model, scaler, log, available)


class _AdamW:
    """Adam with decoupled weight decay, as `torch.optim.AdamW`, whose first use loads a compiler
    for seconds."""

    def __init__(self, parameters: list[nn.Parameter], *, rate: float, decay: float) -> None:
        self.parameters, self.rate, self.decay = parameters, rate, decay
        self.mean = [torch.zeros_like(p) for p in parameters]
        self.square = [torch.zeros_like(p) for p in parameters]
        self.steps = 0

    def keep_entries(self, parameters: list[nn.Parameter], chosen: torch.Tensor) -> None:
        """These are the chosen entries of the parameters' first axis."""
        self.parameters = parameters
        self.mean, self.square = (
            [one[chosen] for one in state] for state in (self.mean, self.square)
        )

    @torch.no_grad()
    def step(self, gradients: Sequence[torch.Tensor]) -> None:
        self.steps += 1
        first, second = (1 - beta**self.steps for beta in ADAM_BETAS)
        for parameter, gradient, mean, square in zip(
            self.parameters, gradients, self.mean, self.square, strict=True
        ):
            mean.lerp_(gradient, 1 - ADAM_BETAS[0])
            square.lerp_(gradient**2, 1 - ADAM_BETAS[1])
            parameter.mul_(1 - self.rate * self.decay)
            parameter.addcdiv_(mean, (square / second).sqrt() + 1e-8, value=-self.rate / first)


class _BatchTraining:
    """The training of all replicates of a batch."""

    def __init__(
        self,
        bags: InstanceBags,
        labels: NDArray[np.int64],
        validation: NDArray[np.bool_],
        *,
        scaler: Scaler,
        recipe: Recipe,
        available: NDArray[np.bool_] | None,
        streams: NDArray[np.int64],
        offset: NDArray[np.float64] | None,
        rng: torch.Generator,
    ) -> None:
        self.recipe, self.rng = recipe, rng
        self.streams, self.replicate_streams = int(streams.max()) + 1, torch.from_numpy(streams)
        self.available = None if available is None else torch.from_numpy(available)[:, None]
        values = scale(bags.values, scaler)
        self.rows = values.transpose(0, 1).contiguous()  # (features, bags, columns)
        patients, place = np.unique(bags.patient, return_inverse=True)
        self.train, self.val = _members(~validation, patients), _members(validation, patients)
        self.ends = torch.from_numpy(
            np.cumsum(bags.weight) - place + bags.patient
        )  # patient p's lie in (p, p + 1]
        self.last_bag = torch.from_numpy(
            np.searchsorted(bags.patient, np.arange(labels.shape[1]), side="right") - 1
        )
        self.labels = torch.from_numpy(labels.astype(np.int64))
        self.classes = int(labels.max()) + 1
        self.offset = None if offset is None else torch.from_numpy(offset.astype(np.float32))
        self.model = MorphometryMIL(
            self.streams,
            features=values.shape[1],
            columns=values.shape[2],
            classes=self.classes,
            recipe=recipe,
            rng=rng,
        )
        weights = {
            name: tensor[self.replicate_streams] for name, tensor in self.model.state_dict().items()
        }
        if scaler.reading == "quantiles":
            weights["gate"] = self._weigh_views(values, bags, ~validation, available)
        self.model.replace_parameters(weights)

    def _weigh_views(
        self,
        values: torch.Tensor,
        bags: InstanceBags,
        training: NDArray[np.bool_],
        available: NDArray[np.bool_] | None,
    ) -> torch.Tensor:
        """Gates by the patients with bags whom each replicate is trained on."""
        patients, starts = np.unique(bags.patient, return_index=True)
        weighted = values.numpy() * bags.weight[:, None, None]
        of_patients = np.add.reduceat(weighted, starts, axis=0)
        labels = self.labels.numpy()[:, patients]
        expected = None
        if self.offset is not None:
            expected = torch.softmax(self.offset.double(), dim=-1).numpy()[:, patients]
        gates = weigh_views(
            of_patients, labels, training[:, patients], available=available, expected=expected
        )
        return torch.from_numpy(gates)

    def run(self, check: Callable[[], None]) -> pd.DataFrame:
        """Train; the model keeps each replicate's best weights."""
        recipe = self.recipe
        optimizer = _AdamW(
            list(self.model.parameters()), rate=recipe.learning_rate, decay=recipe.weight_decay
        )
        kept = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        number = torch.arange(len(self.labels))  # of the replicates still in training
        best, idle = (
            torch.full((len(number),), torch.inf),
            torch.zeros(len(number), dtype=torch.int64),
        )
        rows: list[pd.DataFrame] = []
        for step in range(1, recipe.steps + 1):
            check()
            loss = self._training_loss(step)  # (replicates,)
            optimizer.step(torch.autograd.grad(loss.sum(), optimizer.parameters))
            if step % recipe.check_every:
                continue
            with torch.no_grad():
                checked = self._validation_loss()
            learning = idle < recipe.patience
            rows.append(
                _log_rows(number[learning], step, loss.detach()[learning], checked[learning])
            )
            better = (checked < best) & learning
            best = torch.where(better, checked, best)
            for name, tensor in self.model.state_dict().items():
                kept[name][number[better]] = tensor[better]
            idle = torch.where(better, 0, idle + 1)
            learning = idle < recipe.patience
            if not learning.any():
                break
            if learning.float().mean() < COMPACT_BELOW:
                number, best, idle = number[learning], best[learning], idle[learning]
                self._keep_entries(learning)
                optimizer.keep_entries(list(self.model.parameters()), learning)
        self.model.replace_parameters(kept)
        log = pd.concat(rows, ignore_index=True)
        return log.sort_values(["step", "replicate"], kind="stable", ignore_index=True)

    def _keep_entries(self, chosen: torch.Tensor) -> None:
        """Leave out replicates that have stopped."""
        self.train, self.val, self.labels = (
            self.train[chosen],
            self.val[chosen],
            self.labels[chosen],
        )
        self.replicate_streams = self.replicate_streams[chosen]
        self.available = None if self.available is None else self.available[chosen]
        self.offset = None if self.offset is None else self.offset[chosen]
        self.model.replace_parameters(
            {name: tensor[chosen] for name, tensor in self.model.state_dict().items()}
        )

    def _training_loss(self, step: int) -> torch.Tensor:
        patients = self._training_patients()
        position = self._draw(patients.shape[1], dtype=torch.float64)
        embedded, score = self.model.read(self._bags_at(patients, position))
        targets = self.labels.gather(1, patients)
        coalition = self._draw_coalitions(patients.shape[1], len(self.rows), single=step % 2 == 0)
        loss = torch.zeros(len(score))
        for chosen in (self.available, coalition):
            scores = score
            if chosen is not None:
                scores = score.masked_fill(~chosen.transpose(1, 2), -torch.inf)
            pooled = pool(torch.softmax(scores, dim=1), embedded)
            loss = loss + self._loss(self._shift(self.model.decide(pooled), patients), targets)
        return loss

    def _training_patients(self) -> torch.Tensor:
        """Those of a step, (replicates, n)."""
        if self.train.shape[1] <= STEP_PATIENTS:
            return self.train
        luck = self._draw(self.train.shape[1])
        return self.train.gather(1, luck.topk(STEP_PATIENTS, sorted=False).indices)

    def _validation_loss(self) -> torch.Tensor:
        """Of bags spread evenly over each patient's weights."""
        positions = (torch.arange(VALIDATION_BAGS, dtype=torch.float64) + 0.5) / VALIDATION_BAGS
        patients = self.val.repeat_interleave(VALIDATION_BAGS, dim=1)
        position = positions.repeat(self.val.shape[1]).expand(patients.shape)
        parts = [
            self.model(self._bags_at(*some).transpose(1, 2), self.available)[0]
            for some in zip(
                torch.split(patients, STEP_PATIENTS, dim=1),
                torch.split(position, STEP_PATIENTS, dim=1),
                strict=True,
            )
        ]
        logits = self._shift(torch.cat(parts, dim=1), patients)
        return self._loss(logits, self.labels.gather(1, patients))

    def _shift(self, logits: torch.Tensor, patients: torch.Tensor) -> torch.Tensor:
        """Logits (replicates, n, classes) of these patients (replicates, n), with their offset."""
        if self.offset is None:
            return logits
        return logits + self.offset.gather(1, patients[..., None].expand_as(logits))

    def _bags_at(self, patients: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """One bag per entry of `patients` (replicates, n), at a position in [0, 1) of its bags'
        cumulative weight: (replicates, features, n, columns)."""
        index = torch.searchsorted(self.ends, patients + position, right=True)
        index = torch.minimum(index, self.last_bag[patients]).unsqueeze(1)
        features, bags, columns = self.rows.shape
        place = (index + bags * torch.arange(features)[:, None]).flatten()
        chosen = self.rows.view(-1, columns).index_select(0, place)
        return chosen.view(len(patients), features, -1, columns)

    def _draw(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Uniform random numbers (replicates, *shape), the same where streams are."""
        return torch.rand((self.streams, *shape), generator=self.rng, dtype=dtype)[
            self.replicate_streams
        ]

    def _draw_coalitions(self, bags: int, features: int, *, single: bool) -> torch.Tensor:
        """Which instances take part, (replicates, bags, features): one, or a number drawn uniformly
        from 1 to all."""
        luck, most = self._draw(bags, features), torch.tensor(features)
        if self.available is not None:
            luck, most = (
                luck.masked_fill(~self.available, 2),
                self.available.sum(dim=-1, keepdim=True),
            )
        size = 1 + (self._draw(bags, 1) * most).floor()
        place = luck.argsort(dim=-1).argsort(dim=-1)
        return place < (1 if single else size)

    def _loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of each replicate; (replicates, n, classes) and (replicates, n) ->
        (replicates,)."""
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="none"
        ).view_as(targets)
        if not self.recipe.balanced:
            return loss.mean(dim=1)
        member = nn.functional.one_hot(targets, self.classes)
        weight = (member / member.sum(dim=1, keepdim=True).clamp(min=1)).sum(dim=-1)
        return (weight * loss).sum(dim=1) / weight.sum(dim=1)


def _members(chosen: NDArray[np.bool_], patients: NDArray[np.int64]) -> torch.Tensor:
    """Numbers of the chosen patients, (replicates, n)."""
    return torch.from_numpy(np.stack([patients[row[patients]] for row in chosen]))


def _log_rows(
    number: torch.Tensor, step: int, train: torch.Tensor, validation: torch.Tensor
) -> pd.DataFrame:
    if not (torch.isfinite(train).all() and torch.isfinite(validation).all()):
        raise TrainingError(
            f"the loss is not a number after {step} steps; train with a lower learning rate"
        )
    return pd.DataFrame(
        {
            "replicate": number.numpy(),
            "step": step,
            "loss_train": train.numpy(),
            "loss_val": validation.numpy(),
        }
    )
