"""The shipped network's architecture, written once: an ImageNet encoder, a short decoder,
StarDist's two heads, one that says where the edges of the nuclei are, and one that says their type.

EfficientNet-Lite0 (Tan & Le 2019; Liu 2020) down to a sixteenth of the resolution, three decoder
steps up to a half, then object probability and star-convex distances as in StarDist (Schmidt et al.
2018). The polygons say which nucleus; the third head says pixel by pixel what is nucleus. It works
at half the resolution with four times the channels, which are shuffled to the full one (Shi et al.
2016), and sees the pixels themselves besides the decoder's features. The fourth works at a quarter
of the resolution, where most of what surrounds a nucleus is in view; a nucleus has the type said at
its center, as StarDist's classes are (Weigert & Schmidt 2022). `forward` is generic: training
(torch), the reference (Keras) and the fast engine (OpenVINO) call it with operations of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np

from morphomil.types import NUCLEUS_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Activation = Literal["relu", "relu6", "none"]
T = TypeVar("T")
Folded = dict[str, tuple["NDArray[np.float32]", "NDArray[np.float32]"]]

BACKBONE = "efficientnet-lite0"
GRID = 2
SPARE = 2
"""The decoder's features at a half reach so many pixels into the margin, for the outlines' head."""
TYPE_GRID = 4
"""The types' head has a value for so many pixels in each direction."""
OUTLINE_MAPS = ("nucleus", "seam")
"""Logits per pixel: it belongs to a nucleus; it lies between two that touch or nearly touch."""
LOGITS = 16.0
"""Logits of nucleus are cut here; float16 holds them to better than a hundredth."""
MULTIPLE = 16
NORM_EPSILON = 1e-3
_STAGES = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 1, 3, 1),
)
"""Expansion, channels, blocks, kernel, stride of each encoder stage.

EfficientNet-Lite0's fifth stage has three blocks with kernel 5; one with kernel 3 looks 80 pixels
less far, so that a block needs less context.
"""


class Network(Protocol):
    """A network ready to run; safe to call from several threads."""

    def __call__(self, pixels: NDArray[Any], margin: int = 0) -> tuple[NDArray[np.float32], ...]:
        """float32 (1, H, W, 3) in [0, 1] -> probability (1, h, w, 1), distances in pixels (1, h, w,
        rays) and, where the network has them, the logit of nucleus (1, H, W) and those of
        `NUCLEUS_TYPES` (1, H / 4, W / 4, 4), without the margin. The first is the map `nucleus` of
        `OUTLINE_MAPS` less what of `seam` is positive, within `LOGITS`.

        `margin` is a number of pixels on each side, 0 or a multiple of 16 from 32 on. The results
        may lie in memory of the network's own: they hold until the same thread calls again.
        """


@dataclass(frozen=True)
class Design:
    """What may be chosen: rays of a polygon; channels of the decoder at a half, a quarter, an
    eighth; channels of the outlines' head at a half, of the types' head at a quarter, 0 without
    that head."""

    rays: int = 32
    widths: tuple[int, int, int] = (64, 64, 96)
    outline: int = 32
    types: int = 64


class Heads(NamedTuple, Generic[T]):
    """What `forward` gives, of an engine's own type."""

    probability: T
    """Logit of the object probability at half size, 1 channel; with a margin `SPARE` pixels of it
    are left on each side, which an engine cuts away where that costs it least."""
    distance: T
    """Logarithm of the star-convex distances in pixels at half size, `rays` channels; as the
    probability."""
    outline: T | None
    """`OUTLINE_MAPS` at full size; None without that head."""
    types: T | None
    """Logits of `NUCLEUS_TYPES` at a quarter; None without that head."""


@dataclass(frozen=True)
class Layer:
    """A convolution, batch norm (or a bias, in the heads), and an activation."""

    name: str
    filters: int
    kernel: int = 3
    stride: int = 1
    depthwise: bool = False
    norm: bool = True
    activation: Activation = "relu"
    padded: bool = True
    """With kernel // 2 zeros around what it gets, else what it gives is smaller by so much on each
    side."""


class Operations(Protocol[T]):
    """What an engine provides; images are of the engine's own type and layout."""

    def conv(self, x: T, layer: Layer) -> T:
        """The layer applied to x, or for `depthwise` each of its filters to one channel."""

    def add(self, a: T, b: T) -> T:
        """Sum."""

    def join(self, x: T, skips: list[T], layer: Layer) -> T:
        """The layer applied to the channels of x at twice its size, nearest neighbor, and then
        those of the skips."""

    def crop(self, x: T, rim: int) -> T:
        """x without so many pixels on each side."""

    def fold(self, x: T) -> T:
        """x at half its size: channel c of the pixel (2 i + a, 2 j + b) becomes channel 4 c + 2 a +
        b of (i, j)."""

    def beside(self, x: T, skip: T, layer: Layer) -> T:
        """The layer applied to the channels of x and then those of the skip, of one size."""

    def unfold(self, x: T) -> T:
        """The inverse of `fold`."""


def forward(ops: Operations[T], x: T, design: Design, *, margin: int = 0) -> Heads[T]:
    """Pixels in [-1, 1], 3 channels -> the heads.

    With a margin (pixels, multiple of `MULTIPLE`, two of it at least) the results leave out so much
    on each side, or nearly (`SPARE`). They are the same numbers at half the cost: the decoder,
    where most of the work is, needs no more than a few pixels around what is wanted; only the
    encoder looks farther.
    """
    pixels = x
    x = ops.conv(x, Layer("stem", 32, stride=2, activation="relu6"))
    channels, index, levels = 32, 0, [x]
    for expansion, filters, count, kernel, first_stride in _STAGES:
        for position in range(count):
            stride = first_stride if position == 0 else 1
            y = x
            if expansion != 1:
                y = ops.conv(
                    y,
                    Layer(
                        f"block{index}_expand", channels * expansion, kernel=1, activation="relu6"
                    ),
                )
            y = ops.conv(
                y,
                Layer(
                    f"block{index}_depthwise",
                    channels * expansion,
                    kernel,
                    stride,
                    depthwise=True,
                    activation="relu6",
                ),
            )
            y = ops.conv(y, Layer(f"block{index}_project", filters, kernel=1, activation="none"))
            x = ops.add(x, y) if stride == 1 and channels == filters else y
            channels, index = filters, index + 1
        levels.append(x)
    stem, half, quarter, eighth, _, x = levels
    x = ops.crop(x, margin // 16 - 2) if margin else x
    decoded = []
    for scale, skips in ((2, [eighth]), (1, [quarter]), (0, [half, stem])):
        # with a margin x has two pixels to spare, four once it is enlarged, of which two 3 x 3
        # convolutions without padding take two
        if margin:
            skips = [ops.crop(skip, margin // 2 ** (scale + 1) - 4) for skip in skips]
        width, padded = design.widths[scale], not margin
        x = ops.join(x, skips, Layer(f"decoder{scale}a", width, padded=padded))
        x = ops.conv(x, Layer(f"decoder{scale}b", width, padded=padded))
        decoded.append(x)
    outline = _outline_head(ops, x, pixels, design, margin=margin)
    types = _types_head(ops, decoded[1], design, margin=margin)
    probability, distance = (
        ops.conv(x, Layer(name, filters, kernel=1, norm=False, activation="none"))
        for name, filters in (("probability", 1), ("distance", design.rays))
    )
    return Heads(probability, distance, outline, types)


def _outline_head(ops: Operations[T], x: T, pixels: T, design: Design, *, margin: int) -> T | None:
    """The decoder's features at a half, with two pixels to spare where there is a margin, and the
    pixels themselves."""
    if not design.outline:
        return None
    if margin:
        pixels = ops.crop(pixels, margin - 4)
    padded = not margin
    maps = ops.beside(x, ops.fold(pixels), Layer("outline_a", design.outline, padded=padded))
    last = Layer("outline", 4 * len(OUTLINE_MAPS), norm=False, activation="none", padded=padded)
    return ops.unfold(ops.conv(maps, last))


def _types_head(ops: Operations[T], x: T, design: Design, *, margin: int) -> T | None:
    """The decoder's features at a quarter, with two pixels to spare where there is a margin."""
    if not design.types:
        return None
    for name in ("types_a", "types_b"):
        x = ops.conv(x, Layer(name, design.types, padded=not margin))
    return ops.conv(x, Layer("types", len(NUCLEUS_TYPES), kernel=1, norm=False, activation="none"))


class _Recorder(Generic[T]):
    """Operations on channel counts: what each layer gets."""

    def __init__(self) -> None:
        self.layers: dict[str, tuple[Layer, int]] = {}

    def conv(self, x: int, layer: Layer) -> int:
        self.layers[layer.name] = (layer, x)
        return layer.filters

    def add(self, a: int, b: int) -> int:
        assert a == b
        return a

    def join(self, x: int, skips: list[int], layer: Layer) -> int:
        return self.conv(x + sum(skips), layer)

    def crop(self, x: int, rim: int) -> int:
        return x

    def fold(self, x: int) -> int:
        return 4 * x

    def beside(self, x: int, skip: int, layer: Layer) -> int:
        return self.conv(x + skip, layer)

    def unfold(self, x: int) -> int:
        return x // 4


def layers_of(design: Design) -> dict[str, tuple[Layer, int]]:
    """Each layer by name, with the number of its input channels, in order of use."""
    recorder: _Recorder[int] = _Recorder()
    forward(recorder, 3, design)
    return recorder.layers


def fold_norms(
    state: Mapping[str, NDArray[np.float32]], design: Design
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Weights and bias of each layer with its batch norm multiplied in.

    Args:
        state: `NAME.conv.weight` (filters, inputs, k, k) and `NAME.norm.weight`, `.bias`,
            `.running_mean`, `.running_var` (filters,), or `NAME.conv.bias` for layers without a
            norm.
        design: the network.

    Raises:
        KeyError: an array is missing.
        ValueError: an array has another shape.
    """
    folded = {}
    for name, (layer, inputs) in layers_of(design).items():
        weight = state[f"{name}.conv.weight"]
        shape = (layer.filters, 1 if layer.depthwise else inputs, layer.kernel, layer.kernel)
        if weight.shape != shape:
            raise ValueError(f"{name} has weights {weight.shape}, the design needs {shape}")
        if layer.norm:
            scale = state[f"{name}.norm.weight"] / np.sqrt(
                state[f"{name}.norm.running_var"] + NORM_EPSILON
            )
            bias = state[f"{name}.norm.bias"] - scale * state[f"{name}.norm.running_mean"]
            weight = weight * scale[:, None, None, None]
        else:
            bias = state[f"{name}.conv.bias"]
        folded[name] = weight.astype(np.float32), bias.astype(np.float32)
    return folded
