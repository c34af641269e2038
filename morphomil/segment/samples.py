"""Training patches of annotated images with the targets of every head.

The targets are StarDist's (Schmidt et al. 2018, Weigert & Schmidt 2022), maps of what is nucleus
and what lies between two, and types around centers; the patches come from `augment`. Batch k of
epoch e depends on the seed, e and k alone, so that a resumed training sees the same patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import ndimage
from skimage.draw import disk

from morphomil.errors import SlideError
from morphomil.segment.augment import AugmentSettings, jitter_optics, jitter_stain, sample_patch
from morphomil.segment.network import GRID, TYPE_GRID, Design
from morphomil.segment.polygons import native_threads
from morphomil.slides.stain import change_of_stains, estimate_stains, restain
from morphomil.types import NUCLEUS_TYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from morphomil.segment.annotated import AnnotatedImage
    from morphomil.slides.stain import Stains

    Batch = tuple[NDArray[np.float32], ...]
    """Input (B, S, S, 3), object probability (B, s, s, 1), distances (B, s, s, rays), the outlines'
    maps (B, S, S, 2), one plus the number of the type, or 0, (B, S / 4, S / 4), and whether the
    image has outlines (B,)."""

HALO_PX = 32
"""Targets are computed on a patch larger by this on each side: nuclei cut by the patch's edge keep
their shape."""
SEAM_UM = 0.5
"""A pixel with two nuclei within about this lies in the seam between them."""
TYPED_UM = 2.0
"""The type is learned this far around a nucleus's center."""
RAREST = 3.0
"""A type's nuclei count as the square root of how rare they are among the typed ones, at most this
many times as much as those of the commonest."""


@dataclass(frozen=True)
class TrainSettings:
    """The network and its training; stored with the model."""

    design: Design = field(default_factory=Design)
    start: str = "imagenet"
    """First weights: "imagenet" (encoder only), "default" (the shipped model), "random", or a model
    folder."""
    patch_px: int = 256
    batch: int = 8
    epochs: int = 48
    steps_per_epoch: int = 100
    learning_rate: float = 1e-3
    encoder_share: float = 0.3
    """Learning rate of the encoder, as a share."""
    heads_only: bool = False
    """Only the heads of outlines and types learn; the nuclei found stay those of `start`."""
    weight_decay: float = 1e-3
    average: float = 0.998
    """Decay of the moving average of the weights, per step."""
    distance_weight: float = 0.5
    nucleus_weight: float = 1.0
    seam_weight: float = 0.5
    type_weight: float = 0.5
    seed: int = 1
    augment: AugmentSettings = field(default_factory=AugmentSettings)


class Patch(NamedTuple):
    """A part of an image as it is learned."""

    rgb: NDArray[np.float32]
    """(S, S, 3) in [0, 1]."""
    labels: NDArray[np.int32]
    """Instance labels (S, S)."""
    maps: NDArray[np.float32]
    """Targets of `OUTLINE_MAPS` (S, S, 2)."""
    marks: NDArray[np.uint8]
    """One plus the number of the type around the centers of typed nuclei (S, S), else 0."""
    outlined: bool
    """The labels are all nuclei."""


class PatchSampler:
    """Batches of augmented patches with StarDist's targets, reproducible by (seed, epoch,
    index)."""

    def __init__(self, images: Sequence[AnnotatedImage], settings: TrainSettings) -> None:
        self.settings = settings
        groups = {image.group for image in images}
        self.groups = [
            [i for i, image in enumerate(images) if image.group == group]
            for group in sorted(groups)
        ]
        self.levels = [image.levels() for image in images]
        self.marks = [[_type_marks(level) for level in levels] for levels in self.levels]
        self.stains = [_stains_of(image) for image in images]
        self.type_weights = _type_weights(images)

    def patch(self, rng: np.random.Generator) -> Patch:
        """One augmented patch, with `HALO_PX` around."""
        settings = self.settings.augment
        group = self.groups[rng.integers(len(self.groups))]
        chosen = group[rng.integers(len(group))]
        levels = self.levels[chosen]
        spread = math.log(settings.scale_jitter)
        mpp = rng.choice(settings.target_mpp) * math.exp(rng.uniform(-spread, spread))
        mpp = max(mpp, levels[0].mpp / settings.scale_jitter)  # no invented detail
        nearest = min(range(len(levels)), key=lambda k: abs(math.log(levels[k].mpp / mpp)))
        level = levels[nearest]
        side, zoom = self.settings.patch_px + 2 * HALO_PX, mpp / level.mpp
        rgb, labels, covered, marks = sample_patch(
            level.rgb,
            level.finest,
            side=side,
            zoom=zoom,
            elastic=settings.elastic,
            marks=self.marks[chosen][nearest],
            rng=rng,
        )
        maps = np.stack([covered, _seams(labels, mpp)], axis=-1)
        own, other = self.stains[chosen], self.stains[rng.integers(len(self.stains))]
        if rng.random() < settings.stain_swap and own is not None and other is not None:
            rgb = restain(rgb, change_of_stains(own, other))
        rgb = jitter_optics(jitter_stain(rgb, rng, settings), rng, settings)
        return Patch(rgb, labels, maps, marks, level.outlined)

    def batch(self, epoch: int, index: int) -> Batch:
        """One batch, all float32."""
        from stardist.geometry import star_dist
        from stardist.utils import edt_prob

        rng = np.random.default_rng([self.settings.seed, epoch, index])
        inner = slice(HALO_PX, -HALO_PX)
        small = slice(HALO_PX // GRID, -(HALO_PX // GRID))
        cell = slice(HALO_PX + TYPE_GRID // 2, -HALO_PX, TYPE_GRID)
        rows = []
        with native_threads().limit(limits=1, user_api="openmp"):
            for _ in range(self.settings.batch):
                patch = self.patch(rng)
                labels, rays = patch.labels, self.settings.design.rays
                rows.append(
                    (
                        patch.rgb[inner, inner],
                        edt_prob(labels[::GRID, ::GRID])[small, small, None],
                        star_dist(labels, rays, grid=(GRID, GRID))[small, small],
                        patch.maps[inner, inner],
                        patch.marks[cell, cell],
                        np.float32(patch.outlined),
                    )
                )
        return tuple(map(np.stack, zip(*rows, strict=True)))


def _type_marks(image: AnnotatedImage) -> NDArray[np.uint8] | None:
    """One plus the number of the type within `TYPED_UM` of the typed nuclei (H, W), else 0; None
    where none is known."""
    if image.typed is None:
        return None
    marks = np.zeros(image.labels.shape, np.uint8)
    reach = TYPED_UM / image.mpp
    for (x, y), kind in zip(image.typed.centers, image.typed.types, strict=True):
        marks[disk((y - 0.5, x - 0.5), reach, shape=marks.shape)] = kind + 1
    return marks


def _type_weights(images: Sequence[AnnotatedImage]) -> NDArray[np.float32]:
    """How much a nucleus of each type counts (4,): `RAREST`."""
    counts = np.zeros(len(NUCLEUS_TYPES))
    for image in images:
        if image.typed is not None:
            counts += np.bincount(image.typed.types, minlength=len(counts))
    weights = np.sqrt(counts.max() / np.maximum(counts, 1))
    return np.asarray(np.minimum(weights, RAREST), np.float32)


def _seams(labels: NDArray[np.int32], mpp: float) -> NDArray[np.float32]:
    """1 where two nuclei lie in the square of `SEAM_UM` around a pixel, else 0."""
    side = 2 * max(round(SEAM_UM / mpp), 1) + 1
    highest = ndimage.maximum_filter(labels, side)
    far = np.int32(2**31 - 1)
    lowest = ndimage.minimum_filter(np.where(labels > 0, labels, far), side)
    return np.asarray((lowest != far) & (lowest != highest), dtype=np.float32)


def _stains_of(image: AnnotatedImage) -> Stains | None:
    """None where the image doesn't show two stains."""
    try:
        return estimate_stains(image.rgb)
    except SlideError:
        return None
