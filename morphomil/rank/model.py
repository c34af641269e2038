"""The morphometry model: feature matrices -> attention over features, many models at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Event
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from torch import nn

from morphomil.memory import give_back_memory
from morphomil.rank.instances import Scaler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
Part = TypeVar("Part")
Result = TypeVar("Result")
COALITION_BAGS = 64
"""The coalitions of so many bags are evaluated at once, which bounds memory."""


@dataclass(frozen=True)
class Recipe:
    """How the morphometry model is built and trained."""

    width: int = 16
    """Of an embedded instance."""
    inner: int = 32
    """Of the attention's hidden layer."""
    loudness: float = 2.0
    """Before anything is learned, attention goes with this power of a feature's gates' norm."""
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


def scale(values: NDArray[np.float32], scaler: Scaler) -> torch.Tensor:
    """What the model takes of instances (bags, features, columns), same shape."""
    return _coordinates(torch.from_numpy(scaler.standardize(values)), scaler)


def _coordinates(standardized: torch.Tensor, scaler: Scaler) -> torch.Tensor:
    return smooth(standardized) if scaler.reading == "histograms" else standardized


class MorphometryMIL(nn.Module):
    """Attention-MIL over features, several independent models (replicates) side by side.

    With x what is read of an instance (`scale`), g_f its gates (`evidence`; 1 where histograms are
    read), c = W_f (g_f x) the feature's own linear layer and e_f its learned identity: instance
    h = ReLU(c + e_f), attention softmax(v' tanh(V (content c + e_f)) + loudness log |g_f|),
    logits = classifier(sum a h); V, v and the classifier are shared by the features. `content`
    (`Recipe`) is below 1 because with few patients c overfits before attention has settled, and
    attention then follows noise.
    """

    def __init__(
        self,
        replicates: int,
        *,
        features: int,
        columns: int,
        classes: int,
        recipe: Recipe,
        rng: torch.Generator,
    ) -> None:
        """Models with random weights."""
        super().__init__()
        width, inner = recipe.width, recipe.inner

        def normal(*shape: int, sd: float) -> nn.Parameter:
            return nn.Parameter(sd * torch.randn(replicates, *shape, generator=rng))

        self.embed = normal(features, columns, width, sd=columns**-0.5)
        self.identity = normal(features, width, sd=0.5)
        self.attend_in = normal(width, inner, sd=width**-0.5)
        self.attend_bias = nn.Parameter(torch.zeros(replicates, 1, inner))
        self.attend_out = normal(inner, 1, sd=inner**-0.5)
        self.content, self.loudness = recipe.content, recipe.loudness
        self.classify_in = normal(width, 2 * width, sd=width**-0.5)
        self.classify_bias = nn.Parameter(torch.zeros(replicates, 1, 2 * width))
        self.classify_out = normal(2 * width, classes, sd=(2 * width) ** -0.5)
        self.prior = nn.Parameter(torch.zeros(replicates, 1, classes))
        self.gate: torch.Tensor
        self.register_buffer("gate", torch.ones(replicates, features, columns))

    def forward(
        self, bags: torch.Tensor, present: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Bags (R, B, features, columns) -> logits (R, B, classes), attention (R, B, features) that
        sums to 1.

        `present` (R, B, features): the instances that take part; the others get no attention.
        """
        embedded, score = self.read(bags.transpose(1, 2))
        if present is not None:
            score = score.masked_fill(~present.transpose(1, 2), -torch.inf)
        attention = torch.softmax(score, dim=1)
        return self.decide(pool(attention, embedded)), attention.transpose(1, 2)

    def replace_parameters(self, values: dict[str, torch.Tensor]) -> None:
        """Take other values, perhaps of another number of replicates."""
        for name, value in values.items():
            setattr(self, name, value if name == "gate" else nn.Parameter(value))

    def read(self, bags: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Instances (R, features, B, columns) -> embedded (R, features, B, width), attention before
        the softmax (R, features, B).

        A feature's instances lie together, so that sums over features are sums of long rows.
        """
        content = bags @ (self.gate[..., None] * self.embed)
        identity = self.identity.unsqueeze(2)
        keys = torch.add(identity, content, alpha=self.content).flatten(1, 2)
        hidden = torch.baddbmm(self.attend_bias, keys, self.attend_in).tanh_()
        score = torch.bmm(hidden, self.attend_out).view(content.shape[:-1])
        heard = self.loudness * self.gate.norm(dim=-1).log().unsqueeze(-1)
        return (content + identity).relu_(), score + heard

    def decide(self, pooled: torch.Tensor) -> torch.Tensor:
        """Weighted means of instances (R, n, width) -> logits (R, n, classes)."""
        hidden = torch.baddbmm(self.classify_bias, pooled, self.classify_in).relu_()
        return torch.baddbmm(self.prior, hidden, self.classify_out)


def pool(attention: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
    """Weighted means (R, B, width) of instances (R, features, B, width) by attention (R, features,
    B)."""
    return (attention.unsqueeze(-1) * embedded).sum(dim=1)


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

    def predict(
        self, values: NDArray[np.float32], *, offset: NDArray[np.float64] | None = None
    ) -> Prediction:
        """Probability and attention of bags (bags, features, columns).

        `offset` (replicates or 1, bags, classes) is added to the logits, as in training.
        """
        replicates = len(self.model.prior)
        present = None if self.available is None else torch.from_numpy(self.available)[:, None]
        with torch.no_grad(), one_thread():
            logits, attention = self.model(
                scale(values, self.scaler).expand(replicates, -1, -1, -1), present
            )
            shift = 0.0 if offset is None else torch.from_numpy(offset)
            probability = torch.softmax(logits.double() + shift, dim=-1)
        return Prediction(probability.numpy(), attention.double().numpy())

    def predict_coalitions(
        self,
        values: NDArray[np.float32],
        members: NDArray[np.bool_],
        *,
        empty: NDArray[np.float64],
        offset: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Probability of every bag when only the members of a coalition take part.

        Instances are embedded once; the members share the attention as if the others weren't in the
        bag.

        Args:
            values: (bags, features, columns), as `InstanceBags.values`.
            members: (coalitions, features).
            empty: (classes,), the probability where a coalition has no member: the training
                prevalence. With an offset the covariates' is taken instead.
            offset: as `predict`.

        Returns:
            (replicates, coalitions, bags, classes).
        """
        if self.available is not None:
            raise ValueError("coalitions need models that were trained on all features")
        replicates = len(self.model.prior)
        chosen = torch.from_numpy(members)
        parts = []
        with torch.no_grad(), one_thread():
            scaled = scale(values, self.scaler)
            for start in range(0, len(scaled), COALITION_BAGS):
                bags = scaled[start : start + COALITION_BAGS].transpose(0, 1)
                read = self.model.read(bags.expand(replicates, -1, -1, -1))
                embedded, score = (part.transpose(1, 2) for part in read)
                # Features last but one, so that one product serves all coalitions of a bag: (R, B,
                # coalitions, width)
                share = torch.softmax(score.unsqueeze(-2).masked_fill(~chosen, -torch.inf), dim=-1)
                pooled = share.nan_to_num(0) @ embedded
                logits = self.model.decide(pooled.flatten(1, 2)).reshape(*pooled.shape[:3], -1)
                logits = logits.double()
                if offset is not None:
                    shift = torch.from_numpy(offset[:, start : start + COALITION_BAGS])
                    logits = logits + shift.unsqueeze(2)
                parts.append(torch.softmax(logits, dim=-1).transpose(1, 2))
        probability = torch.cat(parts, dim=2).numpy()
        nobody = empty if offset is None else softmax(offset, axis=-1)[:, None]
        probability[:, ~members.any(axis=1)] = nobody
        return np.asarray(probability)

    def integrate_gradients(
        self,
        bag: NDArray[np.float64],
        *,
        steps: int,
        target: int = -1,
        offset: NDArray[np.float64] | None = None,
    ) -> tuple[NDArray[np.float64], float, float]:
        """Mean gradient of a class's probability on the line from the baseline to a bag.

        Sundararajan et al. 2017, by the midpoint rule in double precision; replicates are averaged.
        What is not known stands at the training mean all along.

        Args:
            bag: (features, columns), as `InstanceBags.values`.
            steps: points on the line.
            target: which class, by default the last.
            offset: (classes,), added to the logits all along.

        Returns:
            (features, columns), then the probability at the baseline and that of the bag.
        """
        mean, sd = (
            torch.from_numpy(array.astype(np.float64))
            for array in (self.scaler.mean, self.scaler.sd)
        )
        unknown = np.isnan(bag)
        goal = torch.from_numpy(np.where(unknown, self.scaler.mean, bag))
        start = torch.from_numpy(np.where(unknown, self.scaler.mean, self.scaler.baseline))
        model = restore_morphometry(self.weights()).model.double()
        shift = 0.0 if offset is None else torch.from_numpy(offset)

        def answer(points: torch.Tensor) -> torch.Tensor:  # (points, features, columns)
            standardized = ((points - mean) / sd).clamp(-Scaler.LIMIT, Scaler.LIMIT)
            scaled = _coordinates(standardized, self.scaler).expand(len(model.prior), -1, -1, -1)
            return torch.softmax(model(scaled)[0] + shift, dim=-1)[..., target].mean(dim=0)

        with one_thread():
            place = ((torch.arange(steps, dtype=torch.float64) + 0.5) / steps)[:, None, None]
            points = (start + place * (goal - start)).requires_grad_()
            (gradient,) = torch.autograd.grad(answer(points).sum(), [points])
            with torch.no_grad():
                ends = answer(torch.stack([start, goal]))
        return gradient.mean(dim=0).numpy(), float(ends[0]), float(ends[1])

    def part(self, numbers: Sequence[int]) -> TrainedMorphometry:
        """Some of the models by themselves."""
        chosen = list(numbers)
        weights = {
            name: array[chosen]
            for name, array in self.weights().items()
            if not name.startswith("scaler_")
        }
        some = restore_morphometry(weights | self._scaling())
        available = None if self.available is None else self.available[chosen]
        return replace(some, available=available)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Everything that prediction needs, by name; the first axis of the model's arrays is the
        replicate."""
        arrays = {name: tensor.numpy().copy() for name, tensor in self.model.state_dict().items()}
        return arrays | self._scaling()

    def _scaling(self) -> dict[str, NDArray[np.float32]]:
        return {f"scaler_{name}": getattr(self.scaler, name) for name in ("mean", "sd", "typical")}


def restore_morphometry(
    weights: dict[str, NDArray[np.float32]], *, recipe: Recipe | None = None
) -> TrainedMorphometry:
    """The models whose `TrainedMorphometry.weights` were stored.

    Raises:
        ValueError: an array is missing, or its shape is not that of the others.
    """
    try:
        replicates, features, columns, _ = weights["embed"].shape
        classes = weights["classify_out"].shape[-1]
        scaler = Scaler(*(weights[f"scaler_{name}"] for name in ("mean", "sd", "typical")))
    except KeyError as error:
        raise ValueError(f"stored weights of the morphometry model lack {error}") from error
    model = MorphometryMIL(
        replicates,
        features=features,
        columns=columns,
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


@contextmanager
def one_thread() -> Iterator[None]:
    """The models are too small for more, and sums then don't depend on the number of processors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Stopped(BaseException):
    """Nobody waits for a part any more."""


def side_by_side(
    work: Callable[[Part, Callable[[], None]], Result], parts: Sequence[Part], *, workers: int
) -> Iterator[Result]:
    """What the work makes of each part, in order; so many at a time, each with one thread.

    `work` calls what it is given beside the part now and then, which raises when another part has
    failed or the program is to end.
    """
    stopping = Event()

    def check() -> None:
        if stopping.is_set():
            raise _Stopped

    with one_thread(), ThreadPoolExecutor(workers) as pool:
        try:
            yield from pool.map(work, parts, [check] * len(parts))
        finally:
            stopping.set()
    give_back_memory()
