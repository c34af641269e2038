"""The shipped network's architecture, written once: an ImageNet encoder, a short decoder,
StarDist's two heads.

EfficientNet-Lite0 (Tan & Le 2019; Liu 2020) down to a sixteenth of the resolution, three decoder
steps up to a half, then object probability and star-convex distances as in StarDist (Schmidt et al.
2018). `forward` is generic: training (torch), the reference (Keras) and the fast engine (OpenVINO)
call it with operations of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Activation = Literal["relu", "relu6", "none"]
T = TypeVar("T")

BACKBONE = "efficientnet-lite0"
GRID = 2
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


@dataclass(frozen=True)
class Design:
    """What may be chosen: rays of a polygon; channels of the decoder at a half, a quarter, an
    eighth."""

    rays: int = 32
    widths: tuple[int, int, int] = (64, 64, 96)


@dataclass(frozen=True)
class Layer:
    """A convolution with zero padding of kernel // 2, batch norm (or a bias, in the heads), and an
    activation."""

    name: str
    filters: int
    kernel: int = 3
    stride: int = 1
    depthwise: bool = False
    norm: bool = True
    activation: Activation = "relu"


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


def forward(ops: Operations[T], x: T, design: Design, *, margin: int = 0) -> tuple[T, T]:
    """Pixels in [-1, 1], 3 channels -> logit of the probability, logarithm of the distances, both
    at half size.

    With a margin (pixels, multiple of `MULTIPLE`, two of it at least) the results leave out so much
    on each side. They are the same numbers at half the cost: the decoder, where most of the work
    is, needs no more than a few pixels around what is wanted; only the encoder looks farther.
    """
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
    for scale, skips, rim, left in (
        (2, [eighth], 4, 2),
        (1, [quarter], 4, 1),
        (0, [half, stem], 2, 0),
    ):
        # two 3 x 3 convolutions spoil two pixels of the rim; what is left is the next step's,
        # doubled
        if margin:
            skips = [ops.crop(skip, margin // 2 ** (scale + 1) - rim) for skip in skips]
        x = ops.join(x, skips, Layer(f"decoder{scale}a", design.widths[scale]))
        x = ops.conv(x, Layer(f"decoder{scale}b", design.widths[scale]))
        x = ops.crop(x, rim - left) if margin else x
    probability = ops.conv(x, Layer("probability", 1, kernel=1, norm=False, activation="none"))
    distance = ops.conv(x, Layer("distance", design.rays, kernel=1, norm=False, activation="none"))
    return probability, distance


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
