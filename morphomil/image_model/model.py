"""The image model on deep features of patches: DL-CNB, and DL-CNB+C with clinical covariates (Xu et
al. 2021).

A bag is N patches of a slide; the head is `mil.AttentionMIL`. A slide is always predicted from the
same bags, and every patch is embedded once, so that prediction, attention and occlusion come from
one reading.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as recompute

from morphomil.errors import InputError
from morphomil.image_model.embed import PATCHES_AT_ONCE
from morphomil.mil import AttentionMIL, HeadShape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from morphomil.image_model.recipe import ImageRecipe
    from morphomil.image_model.rows import ImageCohort
READ_AT_ONCE = 512
"""In prediction, this many patches are embedded at once."""
TUNED_AT_ONCE = 8
"""A backbone that learns sees this many patches at once, and holds no more than their gradient
needs."""


def build_head(
    in_features: int, *, classes: int, clinical: int, recipe: ImageRecipe
) -> AttentionMIL:
    """The head of a recipe, random weights from torch's generator."""
    return AttentionMIL(
        in_features,
        classes=classes,
        clinical=clinical,
        inner=recipe.inner,
        dropout=recipe.dropout,
        attention_dropout=recipe.attention_dropout,
    )


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
        return self.head.read((self.see(rows) - self.shift) / self.scale)

    def forward(self, rows: Tensor, sizes: Sequence[int], clinical: Tensor | None = None) -> Tensor:
        """Logits (B, classes) of bags of these sizes whose instances (sum of sizes, F) follow one
        another."""
        embedded, score = self.read(rows)
        if len(set(sizes)) == 1:
            shape = (len(sizes), sizes[0])
            return self.head.decide(embedded.view(*shape, -1), score.view(shape), clinical)[0]
        parts = torch.split(embedded, list(sizes)), torch.split(score, list(sizes))  # type: ignore[no-untyped-call, unused-ignore]
        padded = nn.utils.rnn.pad_sequence(list(parts[0]), batch_first=True)
        scores = nn.utils.rnn.pad_sequence(
            list(parts[1]), batch_first=True, padding_value=-torch.inf
        )
        return self.head.decide(padded, scores, clinical)[0]

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
        try:
            shape = HeadShape.of(
                {name.removeprefix("head."): array for name, array in arrays.items()}
            )
            head = build_head(
                shape.in_features, classes=shape.classes, clinical=shape.clinical, recipe=recipe
            )
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
    with torch.inference_mode(), torch_threads(cohort.rows.threads):
        parts = [
            model.read(cohort.rows.read(np.arange(start, min(start + READ_AT_ONCE, end))))
            for start in range(first, end, READ_AT_ONCE)
        ]
        embedded, score = (torch.cat(part) for part in zip(*parts, strict=True))
        bags = [bag - first for bag in cohort.bags(slide, size=recipe.bag_size, key=(seed,))]
        index = torch.from_numpy(np.stack(bags))  # all of one size, by draw_bags
        repeated = None if clinical is None else clinical.expand(len(bags), -1)
        logits, attention = model.head.decide(embedded[index], score[index], repeated)
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
        probability = torch.softmax(model.head.judge(both, repeated).double(), dim=-1)[:, -1]
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


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many threads for torch inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
