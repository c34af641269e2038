"""Bags -> probability and attention: the attention-MIL head, and the morphometry model that ranks
features."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import nn

from morphomil.bags import generator
from morphomil.types import ExitStatus, MorphomilError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

CLINICAL_REPEATS = 10
"""Clinical covariates are repeated so often before the classifier (Xu et al. 2021)."""
ADAM_BETAS = (0.9, 0.999)
VALIDATION_BAGS = 4
"""Of each patient, in the loss that ends training."""
COMPACT_BELOW = 0.75
"""Replicates that have stopped leave the batch once fewer than this share still learns."""
COALITION_BAGS = 64
"""Whose coalitions are evaluated at once, which bounds memory."""


class TrainingError(MorphomilError):
    """A model's loss is no longer a number; the other folds go on."""

    exit_status = ExitStatus.SOME_FAILED


class AttentionMIL(nn.Module):
    """Attention-MIL (Ilse et al. 2018) with the head of Xu et al. 2021.

    h = ReLU(Dropout(W x)), a = softmax(v' tanh(V h)) over the N instances, logits = classifier(sum
    a h, covariates). `inner` is the width of V h; with 1, as in the released code, the attention of
    two instances differs by no more than the factor exp(2 |v|).
    """

    def __init__(
        self,
        in_features: int,
        *,
        classes: int = 2,
        clinical: int = 0,
        inner: int = 128,
        dropout: float = 0.5,
    ) -> None:
        """A model with random weights; `dropout` is the share of embedded values left out in
        training."""
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(in_features, 256), nn.Dropout(dropout), nn.ReLU())
        self.attend = nn.Sequential(nn.Linear(256, inner), nn.Tanh(), nn.Linear(inner, 1))
        self.classify = nn.Sequential(
            nn.Linear(256 + CLINICAL_REPEATS * clinical, 64), nn.ReLU(), nn.Linear(64, classes)
        )
        self.clinical = clinical

    def forward(
        self, bag: torch.Tensor, clinical: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Instances (..., N, F) and covariates (..., C) -> logits (..., classes), attention (...,
        N) that sums to 1."""
        given = 0 if clinical is None else clinical.shape[-1]
        if given != self.clinical:
            raise ValueError(f"the model takes {self.clinical} clinical covariates, got {given}")
        embedded = self.embed(bag)  # (..., N, 256)
        attention = torch.softmax(self.attend(embedded).squeeze(-1), dim=-1)  # (..., N)
        pooled = (attention.unsqueeze(-2) @ embedded).squeeze(-2)  # (..., 256)
        if clinical is not None:
            pooled = torch.cat([pooled, torch.cat([clinical] * CLINICAL_REPEATS, dim=-1)], dim=-1)
        return self.classify(pooled), attention


@dataclass(frozen=True)
class Recipe:
    """How the morphometry model is built and trained."""

    width: int = 16
    """Of an embedded instance."""
    inner: int = 32
    """Of the attention's hidden layer."""
    content: float = 0.25
    """How much attention sees of an instance's content beside its feature's identity."""
    learning_rate: float = 5e-3
    """Of Adam."""
    weight_decay: float = 3e-2
    """Decoupled from the gradient."""
    steps: int = 200
    """At most."""
    check_every: int = 10
    """Steps between two looks at the validation loss."""
    patience: int = 6
    """Looks without a better validation loss before a replicate keeps what it has."""
    balanced: bool = False
    """Give classes, instead of patients, the same weight in the loss; probabilities then ignore the
    prevalence."""


@dataclass(frozen=True)
class InstanceBags:
    """The morphometry model's bags: the mean histogram of each feature over the bag's patches.

    Bags are sorted by patient (a number from 0); a patient's weights sum to 1, so that it counts as
    much as any other. A row of zeros is an absent instance.
    """

    values: NDArray[np.float32]  # (bags, features, bins)
    patient: NDArray[np.int64]  # (bags,)
    weight: NDArray[np.float64]  # (bags,)

    def __post_init__(self) -> None:
        """Refuse bags out of order and weights that don't sum to 1."""
        if (np.diff(self.patient) < 0).any():
            raise ValueError("bags must be sorted by patient")
        total = np.bincount(self.patient, self.weight)
        if not np.allclose(total[np.unique(self.patient)], 1):
            raise ValueError(
                f"weights of a patient's bags must sum to 1, got {total.min():g} to {total.max():g}"
            )

    def of_patients(self, chosen: NDArray[np.bool_]) -> InstanceBags:
        """The bags of some patients, whose numbers stay."""
        kept = chosen[self.patient]
        return InstanceBags(self.values[kept], self.patient[kept], self.weight[kept])


@dataclass(frozen=True)
class Scaler:
    """Histograms -> cumulative shares, standardized by feature and bin.

    Cumulative shares of neighboring bins move together when a distribution shifts, so weight decay
    favors shifts over the noise of single bins. The last column, always 1, is left out.
    """

    mean: NDArray[np.float32]  # (features, bins - 1)
    sd: NDArray[np.float32]  # (features, bins - 1)

    @property
    def baseline(self) -> NDArray[np.float64]:
        """The training-mean histograms, (features, bins)."""
        ends = np.zeros((len(self.mean), 1)), np.ones((len(self.mean), 1))
        return np.diff(
            np.concatenate([ends[0], self.mean.astype(np.float64), ends[1]], axis=1), axis=1
        )

    LIMIT: ClassVar[float] = 5.0
    """Standardized values are clipped to plus or minus this many SD."""

    @classmethod
    def fit(cls, bags: InstanceBags) -> Scaler:
        """Mean and SD over bags, every patient with the same weight; absent instances left out."""
        shares = _cumulate(bags.values)
        weight = bags.weight[:, None] * bags.values.any(axis=-1)  # (bags, features)
        weight = weight / np.maximum(weight.sum(axis=0), 1e-12)
        mean = np.einsum("bf,bfi->fi", weight, shares)
        sd = np.sqrt(np.einsum("bf,bfi->fi", weight, (shares - mean) ** 2))
        return cls(mean.astype(np.float32), np.where(sd > 1e-6, sd, 1).astype(np.float32))

    def __call__(self, values: NDArray[np.float32]) -> torch.Tensor:
        """(bags, features, bins) -> (bags, features, bins - 1); an absent instance becomes the
        training mean, 0."""
        scaled = np.clip((_cumulate(values) - self.mean) / self.sd, -self.LIMIT, self.LIMIT)
        return torch.from_numpy(
            np.where(values.any(axis=-1, keepdims=True), scaled, 0).astype(np.float32)
        )


def smooth(scaled: torch.Tensor) -> torch.Tensor:
    """Cosine coefficients of each instance (..., bins), the k-th divided by (1 + k)^2.

    A linear layer on them learns, with few patients, what a whole distribution does (its location,
    then its spread) before what single bins do.
    """
    bins = scaled.shape[-1]
    order = np.arange(bins)
    basis = np.cos(np.pi * np.outer(order + 0.5, order) / bins) * np.sqrt(
        2 / bins
    )  # DCT-II, orthonormal
    basis[:, 0] /= np.sqrt(2)
    return scaled @ torch.from_numpy(basis / (1 + order) ** 2).to(scaled.dtype)


def _cumulate(values: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.cumsum(values, axis=-1, dtype=np.float64)[..., :-1]


class MorphometryMIL(nn.Module):
    """Attention-MIL over features, several independent models (replicates) side by side.

    With x an instance's smoothed histogram (`Scaler`, `smooth`), c = W_f x the feature's own linear
    layer and e_f its learned identity: instance h = ReLU(c + e_f), attention
    softmax(v' tanh(V (content c + e_f))), logits = classifier(sum a h); V, v and the classifier are
    shared by the features. `content` (`Recipe`) is below 1 because with few patients c overfits
    before attention has settled, and attention then follows noise.
    """

    def __init__(
        self,
        replicates: int,
        *,
        features: int,
        bins: int,
        classes: int,
        recipe: Recipe,
        rng: torch.Generator,
    ) -> None:
        """Models with random weights."""
        super().__init__()
        width, inner = recipe.width, recipe.inner

        def normal(*shape: int, sd: float) -> nn.Parameter:
            return nn.Parameter(sd * torch.randn(replicates, *shape, generator=rng))

        self.embed = normal(features, bins, width, sd=bins**-0.5)
        self.identity = normal(features, width, sd=0.5)
        self.attend_in = normal(width, inner, sd=width**-0.5)
        self.attend_bias = nn.Parameter(torch.zeros(replicates, 1, inner))
        self.attend_out = normal(inner, 1, sd=inner**-0.5)
        self.content = recipe.content
        self.classify_in = normal(width, 2 * width, sd=width**-0.5)
        self.classify_bias = nn.Parameter(torch.zeros(replicates, 1, 2 * width))
        self.classify_out = normal(2 * width, classes, sd=(2 * width) ** -0.5)
        self.prior = nn.Parameter(torch.zeros(replicates, 1, classes))

    def forward(
        self, bags: torch.Tensor, present: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Bags (R, B, features, bins) -> logits (R, B, classes), attention (R, B, features) that
        sums to 1.

        `present` (R, B, features): the instances that take part; the others get no attention.
        """
        embedded, score = self.read(bags)
        if present is not None:
            score = score.masked_fill(~present, -torch.inf)
        attention = torch.softmax(score, dim=-1)
        return self.decide((attention.unsqueeze(-2) @ embedded).squeeze(-2)), attention

    def replace_parameters(self, values: dict[str, torch.Tensor]) -> None:
        """Take other values, perhaps of another number of replicates."""
        for name, value in values.items():
            setattr(self, name, nn.Parameter(value))

    def read(self, bags: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bags (R, B, features, bins) -> embedded instances (R, B, features, width), attention
        before the softmax."""
        replicates, count, features, _ = bags.shape
        content = torch.einsum("rbfi,rfih->rbfh", bags, self.embed)
        identity = self.identity[:, None]
        seen = (self.content * content + identity).reshape(replicates, count * features, -1)
        score = torch.bmm(
            torch.tanh(torch.bmm(seen, self.attend_in) + self.attend_bias), self.attend_out
        )
        return torch.relu(content + identity), score.reshape(replicates, count, features)

    def decide(self, pooled: torch.Tensor) -> torch.Tensor:
        """Weighted means of instances (R, n, width) -> logits (R, n, classes)."""
        hidden = torch.relu(torch.bmm(pooled, self.classify_in) + self.classify_bias)
        return torch.bmm(hidden, self.classify_out) + self.prior


@dataclass(frozen=True)
class Prediction:
    """What the replicates say of bags."""

    probability: NDArray[np.float64]  # (replicates, bags, classes)
    attention: NDArray[np.float64]  # (replicates, bags, features)


@dataclass(frozen=True)
class TrainedMorphometry:
    """Trained replicates with the scaler they belong to."""

    model: MorphometryMIL
    scaler: Scaler
    log: pd.DataFrame = field(repr=False)
    """`replicate`, `step`, `loss_train`, `loss_val`."""
    available: NDArray[np.bool_] | None = None
    """(replicates, features): the features a replicate was trained with, None for all."""

    def predict(self, values: NDArray[np.float32]) -> Prediction:
        """Probability and attention of bags (bags, features, bins)."""
        replicates = len(self.model.prior)
        present = None if self.available is None else torch.from_numpy(self.available)[:, None]
        with torch.no_grad(), _one_thread():
            logits, attention = self.model(
                smooth(self.scaler(values)).expand(replicates, -1, -1, -1), present
            )
            probability = torch.softmax(logits.double(), dim=-1)
        return Prediction(probability.numpy(), attention.double().numpy())

    def predict_coalitions(
        self, values: NDArray[np.float32], members: NDArray[np.bool_], *, empty: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Probability of every bag when only the members of a coalition take part.

        Instances are embedded once; the members share the attention as if the others weren't in the
        bag.

        Args:
            values: (bags, features, bins).
            members: (coalitions, features).
            empty: (classes,), the probability where a coalition has no member: the training
                prevalence.

        Returns:
            (replicates, coalitions, bags, classes).
        """
        if self.available is not None:
            raise ValueError("coalitions need models that were trained on all features")
        replicates = len(self.model.prior)
        chosen = torch.from_numpy(members)
        parts = []
        with torch.no_grad(), _one_thread():
            scaled = smooth(self.scaler(values))
            for start in range(0, len(scaled), COALITION_BAGS):
                embedded, score = self.model.read(
                    scaled[start : start + COALITION_BAGS].expand(replicates, -1, -1, -1)
                )
                # Features last but one, so that one product serves all coalitions of a bag: (R, B,
                # coalitions, width)
                share = torch.softmax(score.unsqueeze(-2).masked_fill(~chosen, -torch.inf), dim=-1)
                pooled = share.nan_to_num(0) @ embedded
                logits = self.model.decide(pooled.flatten(1, 2)).reshape(*pooled.shape[:3], -1)
                parts.append(torch.softmax(logits.double(), dim=-1).transpose(1, 2))
        probability = torch.cat(parts, dim=2).numpy()
        probability[:, ~members.any(axis=1)] = empty
        return np.asarray(probability)

    def integrate_gradients(
        self, bag: NDArray[np.float64], *, steps: int
    ) -> tuple[NDArray[np.float64], float, float]:
        """Mean gradient of the probability of class 1 on the line from the training-mean histograms
        to a bag's.

        Sundararajan et al. 2017, by the midpoint rule in double precision; replicates are averaged.
        Absent instances stand at the training mean all along.

        Args:
            bag: (features, bins).
            steps: points on the line.

        Returns:
            (features, bins), then the probability at the training mean and that of the bag.
        """
        mean, sd = (
            torch.from_numpy(array.astype(np.float64))
            for array in (self.scaler.mean, self.scaler.sd)
        )
        base = self.scaler.baseline
        goal = torch.from_numpy(np.where(bag.any(axis=-1, keepdims=True), bag, base))
        start = torch.from_numpy(base)
        model = restore_morphometry(self.weights()).model.double()

        def answer(points: torch.Tensor) -> torch.Tensor:  # (points, features, bins) -> (points,)
            shares = (points.cumsum(dim=-1)[..., :-1] - mean) / sd
            scaled = smooth(shares.clamp(-Scaler.LIMIT, Scaler.LIMIT)).expand(
                len(model.prior), -1, -1, -1
            )
            return torch.softmax(model(scaled)[0], dim=-1)[..., 1].mean(dim=0)

        with _one_thread():
            place = ((torch.arange(steps, dtype=torch.float64) + 0.5) / steps)[:, None, None]
            points = (start + place * (goal - start)).requires_grad_()
            (gradient,) = torch.autograd.grad(answer(points).sum(), [points])
            with torch.no_grad():
                ends = answer(torch.stack([start, goal]))
        return gradient.mean(dim=0).numpy(), float(ends[0]), float(ends[1])

    def replicate(self, number: int) -> TrainedMorphometry:
        """One of the models by itself."""
        weights = {
            name: array[[number]]
            for name, array in self.weights().items()
            if not name.startswith("scaler_")
        }
        alone = restore_morphometry(
            weights | {"scaler_mean": self.scaler.mean, "scaler_sd": self.scaler.sd}
        )
        return replace(
            alone, available=None if self.available is None else self.available[[number]]
        )

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Everything that prediction needs, by name; the first axis of the model's arrays is the
        replicate."""
        arrays = {name: tensor.numpy().copy() for name, tensor in self.model.state_dict().items()}
        return arrays | {"scaler_mean": self.scaler.mean, "scaler_sd": self.scaler.sd}


def restore_morphometry(
    weights: dict[str, NDArray[np.float32]], *, recipe: Recipe | None = None
) -> TrainedMorphometry:
    """The models whose `TrainedMorphometry.weights` were stored.

    Raises:
        ValueError: an array is missing, or its shape is not that of the others.
    """
    try:
        replicates, features, bins, _ = weights["embed"].shape
        classes = weights["classify_out"].shape[-1]
        scaler = Scaler(weights["scaler_mean"], weights["scaler_sd"])
    except KeyError as error:
        raise ValueError(f"stored weights of the morphometry model lack {error}") from error
    model = MorphometryMIL(
        replicates,
        features=features,
        bins=bins,
        classes=classes,
        recipe=recipe or Recipe(),
        rng=torch.Generator(),
    )
    try:
        model.load_state_dict(
            {
                name: torch.from_numpy(array)
                for name, array in weights.items()
                if not name.startswith("scaler_")
            }
        )
    except RuntimeError as error:
        raise ValueError(f"stored weights don't fit the morphometry model: {error}") from error
    return TrainedMorphometry(
        model, scaler, pd.DataFrame(columns=["replicate", "step", "loss_train", "loss_val"])
    )


def train_morphometry(
    bags: InstanceBags,
    labels: NDArray[np.int64],
    *,
    validation: NDArray[np.bool_],
    seed: int,
    recipe: Recipe | None = None,
    available: NDArray[np.bool_] | None = None,
    streams: NDArray[np.int64] | None = None,
) -> TrainedMorphometry:
    """Train one model per row of `validation`, all at once.

    In each step every training patient is represented by one of its bags, drawn by weight, so
    patients count alike. The loss is the cross-entropy of the whole bag plus that of a coalition of
    its instances, one instance in every other step. Instances that must speak for themselves keep
    the classifier's scale, and then the whole bag gains by attending to those that carry evidence;
    without this, attention is indifferent, as the classifier can rescale. Each replicate keeps the
    weights with the smallest validation loss: with few validation patients the log-loss is smoother
    than the AUC. What becomes of a replicate doesn't depend on the others.

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

    Raises:
        TrainingError: the loss is not a number.
    """
    recipe = recipe or Recipe()
    scaler = Scaler.fit(bags)
    rng = torch.Generator().manual_seed(int(generator("train", seed).integers(2**63)))
    with _one_thread():
        fit = _Fit(
            bags,
            np.broadcast_to(labels, validation.shape),
            validation,
            scaler=scaler,
            recipe=recipe,
            available=available,
            streams=np.arange(len(validation)) if streams is None else streams,
            rng=rng,
        )
        log = fit.run()
    return TrainedMorphometry(fit.model, scaler, log, available)


class _AdamW:
    """Adam with decoupled weight decay, as `torch.optim.AdamW`, whose first use loads a compiler
    for seconds."""

    def __init__(self, parameters: list[nn.Parameter], *, rate: float, decay: float) -> None:
        self.parameters, self.rate, self.decay = parameters, rate, decay
        self.mean = [torch.zeros_like(p) for p in parameters]
        self.square = [torch.zeros_like(p) for p in parameters]
        self.steps = 0

    def go_on_with(self, parameters: list[nn.Parameter], chosen: torch.Tensor) -> None:
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


class _Fit:
    """One training of all replicates."""

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
        rng: torch.Generator,
    ) -> None:
        self.recipe, self.rng = recipe, rng
        self.streams, self.replicate_streams = int(streams.max()) + 1, torch.from_numpy(streams)
        self.available = None if available is None else torch.from_numpy(available)[:, None]
        self.values = smooth(scaler(bags.values))
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
        self.model = MorphometryMIL(
            self.streams,
            features=self.values.shape[1],
            bins=self.values.shape[2],
            classes=self.classes,
            recipe=recipe,
            rng=rng,
        )
        weights = {
            name: tensor[self.replicate_streams] for name, tensor in self.model.state_dict().items()
        }
        self.model.replace_parameters(weights)

    def run(self) -> pd.DataFrame:
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
                self._go_on_with(learning)
                optimizer.go_on_with(list(self.model.parameters()), learning)
        self.model.replace_parameters(kept)
        log = pd.concat(rows, ignore_index=True)
        return log.sort_values(["step", "replicate"], kind="stable", ignore_index=True)

    def _go_on_with(self, chosen: torch.Tensor) -> None:
        """Leave out replicates that have stopped."""
        self.train, self.val, self.labels = (
            self.train[chosen],
            self.val[chosen],
            self.labels[chosen],
        )
        self.replicate_streams = self.replicate_streams[chosen]
        self.available = None if self.available is None else self.available[chosen]
        self.model.replace_parameters(
            {name: tensor[chosen] for name, tensor in self.model.state_dict().items()}
        )

    def _training_loss(self, step: int) -> torch.Tensor:
        position = self._draw(self.train.shape[1], dtype=torch.float64)
        embedded, score = self.model.read(self._bags_at(self.train, position))
        targets = self.labels.gather(1, self.train)
        coalition = self._draw_coalitions(*score.shape[1:], single=step % 2 == 0)
        whole = score if self.available is None else score.masked_fill(~self.available, -torch.inf)
        loss = torch.zeros(len(score))
        for seen in (whole, score.masked_fill(~coalition, -torch.inf)):
            pooled = (torch.softmax(seen, dim=-1).unsqueeze(-2) @ embedded).squeeze(-2)
            loss = loss + self._loss(self.model.decide(pooled), targets)
        return loss

    def _validation_loss(self) -> torch.Tensor:
        """Of bags spread evenly over each patient's weights."""
        positions = (torch.arange(VALIDATION_BAGS, dtype=torch.float64) + 0.5) / VALIDATION_BAGS
        patients = self.val.repeat_interleave(VALIDATION_BAGS, dim=1)
        bags = self._bags_at(patients, positions.repeat(self.val.shape[1]).expand(patients.shape))
        return self._loss(self.model(bags, self.available)[0], self.labels.gather(1, patients))

    def _bags_at(self, patients: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """One bag per entry of `patients` (replicates, n), at a position in [0, 1) of its bags'
        cumulative weight."""
        index = torch.searchsorted(self.ends, patients + position, right=True)
        return self.values[torch.minimum(index, self.last_bag[patients])]

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


@contextmanager
def _one_thread() -> Iterator[None]:
    """The models are too small for more, and sums then don't depend on the number of processors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
