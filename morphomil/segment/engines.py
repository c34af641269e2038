"""What runs a network on CPUs, fast: OpenVINO.

The shipped architecture is built from `network.forward`; any other StarDist model is converted from
its Keras graph.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from threading import Lock, local
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from morphomil.errors import InputError
from morphomil.segment.network import LOGITS, OUTLINE_MAPS, SPARE, Design, Heads, Layer, forward
from morphomil.types import CORES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from morphomil.segment.network import Folded, Network
    from morphomil.types import Precision

UNTRIMMED = "starnet, untrimmed"
"""A graph of this name leaves `network.SPARE` pixels of the margin around its first two results: a
view of them costs nothing, the graph would copy them."""
COMPILED_SHAPES = 9
"""Sizes of images kept compiled."""
Span = tuple[Any, Any]
"""The lowest and the highest value."""
Ranges = dict[str, tuple[float, float]]
"""What enters each layer, by `_name_of_part`."""


class _OpenVINOOperations:
    """Nodes of an OpenVINO graph, images (B, C, H, W).

    With `ranges` (what enters each layer, from `activation_ranges`) the convolutions that have one
    are quantized: activations to 8 bits on their range, weights to 8 bits on each filter's largest
    value (Krishnamoorthi 2018). With `half` the decoder multiplies bfloat16 numbers and sums them
    in float32.
    """

    def __init__(self, folded: Folded, ranges: Ranges | None = None, *, half: bool = False) -> None:
        self.folded, self.ranges, self.half = folded, ranges or {}, half
        self.entering: dict[str, list[Any]] = {}

    def conv(self, x: Any, layer: Layer) -> Any:
        self.entering[layer.name] = [x]
        return _activated(
            self._with_bias(self._product([x], self.folded[layer.name][0], layer), layer), layer
        )

    def join(self, x: Any, skips: list[Any], layer: Layer) -> Any:
        from openvino import opset13 as ops

        self.entering[layer.name] = [x, *skips]
        own, rest = self._split(layer, x)
        small = replace(layer, kernel=2)  # with a pixel more on each side where it is padded
        four = self._product([x], _of_twice_the_size(own), small)
        larger = ops.depth_to_space(four, "blocks_first", 2)
        same = self._with_bias(self._product(skips, rest, layer, first=1), layer)
        return _activated(ops.add(same, self.crop(larger, int(layer.padded))), layer)

    def _split(self, layer: Layer, x: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The layer's weights for the channels of x, and for those that follow."""
        own, rest = np.split(self.folded[layer.name][0], [_channels(x)], axis=1)
        return own, rest

    def _product(
        self,
        parts: list[Any],
        weight: NDArray[np.float32],
        layer: Layer,
        *,
        first: int = 0,
        spans: list[Span] | None = None,
    ) -> Any:
        """The channels of all parts convolved, without bias and activation; `first`: of what enters
        the layer, the number of the first part; `spans`: what each part holds, if the ranges don't
        say."""
        from openvino import opset13 as ops

        eight_bits = layer.name in self.ranges
        halved = self.half and not eight_bits and layer.name.startswith(DECODER)
        if eight_bits:
            numbers = range(first, first + len(parts))
            spans = spans or [self._span(layer, number) for number in numbers]
            parts, weight = _in_eight_bits(parts, spans, weight)
            largest = np.maximum(np.abs(weight).max(axis=(1, 2, 3), keepdims=True), 1e-9)
            filters = _quantized(ops.constant(weight), (-largest, largest), levels=255)
        else:
            filters = ops.constant(
                np.ascontiguousarray(weight[:, None] if layer.depthwise else weight)
            )
        x = ops.concat(parts, 1) if len(parts) > 1 else parts[0]
        if halved:
            x, filters = ops.convert(x, "bf16"), ops.convert(filters, "bf16")
        pad, stride = [layer.kernel // 2 if layer.padded else 0] * 2, [layer.stride] * 2
        convolution = ops.group_convolution if layer.depthwise else ops.convolution
        found = convolution(x, filters, stride, pad, pad, [1, 1])
        return ops.convert(found, "f32") if halved else found

    def _span(self, layer: Layer, number: int) -> Span:
        """The range of a part of what enters a layer; models of earlier versions have one range
        for all parts."""
        return self.ranges.get(_name_of_part(layer.name, number), self.ranges[layer.name])

    def _with_bias(self, x: Any, layer: Layer) -> Any:
        from openvino import opset13 as ops

        return ops.add(x, ops.constant(self.folded[layer.name][1][None, :, None, None]))

    def add(self, a: Any, b: Any) -> Any:
        from openvino import opset13 as ops

        return ops.add(a, b)

    def crop(self, x: Any, rim: int) -> Any:
        from openvino import opset13 as ops

        start, stop, step, axes = (
            ops.constant(np.array(pair)) for pair in ([rim] * 2, [-rim] * 2, [1] * 2, [2, 3])
        )
        return ops.slice(x, start, stop, step, axes) if rim else x

    def fold(self, x: Any) -> Any:
        from openvino import opset13 as ops

        return ops.space_to_depth(x, "depth_first", 2)

    def beside(self, x: Any, skip: Any, layer: Layer) -> Any:
        from openvino import opset13 as ops

        self.entering[layer.name] = [x]
        own, rest = self._split(layer, x)
        found = ops.add(
            self._product([x], own, layer), self._product([skip], rest, layer, spans=[PIXEL_SPAN])
        )
        return _activated(self._with_bias(found, layer), layer)

    def unfold(self, x: Any) -> Any:
        """Nothing: `_nucleus` has half as much to unfold."""
        return x


def _activated(x: Any, layer: Layer) -> Any:
    from openvino import opset13 as ops

    if layer.activation == "relu6":
        return ops.clamp(x, 0.0, 6.0)
    return ops.relu(x) if layer.activation == "relu" else x


_SHARED = np.array([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]], np.float32)
"""Which taps of a 3-tap filter meet the same one of two pixels of an image of half the size: where
the middle tap is on the second half of the first, and on the first half of the second."""


def _of_twice_the_size(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """The filters (4 n, inputs, 2, 2) that equal 3 x 3 ones (n, inputs, 3, 3) of the image enlarged
    by nearest neighbor.

    A pixel of the enlarged image sees 2 x 2 pixels of the small one, so this takes 4 products
    instead of 9. The four pixels of the enlarged image that see the same ones come one after the
    other, row by row, n filters each.
    """
    filters = np.einsum("pak,qbl,oikl->pqoiab", _SHARED, _SHARED, weight)
    return np.asarray(filters.reshape(-1, weight.shape[1], 2, 2), np.float32)


def _channels(x: Any) -> int:
    return int(x.output(0).get_partial_shape()[1].get_length())


def _in_eight_bits(
    parts: list[Any], spans: list[tuple[float, float]], weight: NDArray[np.float32]
) -> tuple[list[Any], NDArray[np.float32]]:
    """The parts quantized, each on its own range, but all in the first one's scale, as products of
    8 bits need it; and the weights (filters, inputs, k, k), from which the scales are taken
    again."""
    if any(low < 0 for low, _ in spans):
        spans = [_eight_bit_span(min(low, -1e-9), high) for low, high in spans]
    common, quantized, scaled, begun = spans[0], [], weight.copy(), 0
    for part, span in zip(parts, spans, strict=True):
        quantized.append(_quantized(part, span, common, levels=256))
        end = begun + _channels(part)
        scaled[:, begun:end] *= np.float32(span[1] / common[1])
        begun = end
    return quantized, scaled


def _quantized(x: Any, span: Span, becomes: Span | None = None, *, levels: int) -> Any:
    """x in so many levels from the first to the second of `span`, which become those of
    `becomes`."""
    from openvino import opset13 as ops

    ends = [
        ops.constant(np.asarray(end, np.float32).reshape(np.shape(end) or (1, 1, 1, 1)))
        for end in (*span, *(becomes or span))
    ]
    return ops.fake_quantize(x, *ends, levels)


def openvino_graph(
    folded: Folded,
    design: Design,
    ranges: Ranges | None = None,
    *,
    half: bool = False,
    margin: int = 0,
) -> Any:
    """The architecture as an OpenVINO model, quantized to 8 bits with `ranges` (of
    `activation_ranges`).

    `half`: the decoder multiplies in bfloat16; the encoder, on which the nuclei depend more, is
    left as it is. The results leave out the margin, but for the two first (`UNTRIMMED`).
    """
    import openvino
    from openvino import opset13 as ops

    pixels, heads = _openvino_nodes(_OpenVINOOperations(folded, ranges, half=half), design, margin)
    to_last = ops.constant(np.array([0, 2, 3, 1]))
    results = [ops.sigmoid(heads.probability), ops.exp(heads.distance)]
    last = [ops.transpose(part, to_last) for part in results]
    if heads.outline is not None:
        last.append(_nucleus(heads.outline))
    if heads.types is not None:
        last.append(ops.transpose(heads.types, to_last))
    return openvino.Model(last, [pixels], UNTRIMMED if margin else "starnet")


def _nucleus(folded: Any) -> Any:
    """The logit of nucleus at full size (1, H, W), float16, from `OUTLINE_MAPS` folded to half."""
    from openvino import opset13 as ops

    nucleus, seam = ops.split(folded, np.int64(1), len(OUTLINE_MAPS)).outputs()
    logit = ops.clamp(ops.subtract(nucleus, ops.relu(seam)), -LOGITS, LOGITS)
    whole = ops.depth_to_space(logit, "depth_first", 2)
    return ops.convert(ops.squeeze(whole, ops.constant(np.array([1]))), "f16")


def _openvino_nodes(
    operations: _OpenVINOOperations, design: Design, margin: int = 0
) -> tuple[Any, Heads[Any]]:
    from openvino import opset13 as ops

    pixels = ops.parameter([1, -1, -1, 3], np.float32, name="input")
    scaled = ops.subtract(ops.multiply(pixels, np.float32(2)), np.float32(1))
    channels_first = ops.transpose(scaled, ops.constant(np.array([0, 3, 1, 2])))
    return pixels, forward(operations, channels_first, design, margin=margin)


PIXEL_SPAN = (-128 / 127, 1.0)
"""Of pixels in [-1, 1], with zero as one of its 256 levels."""
DECODER = ("decoder", "outline", "types_")
"""Layers that bfloat16 is for begin so: two thirds of the work. In the encoder, whose layers are
thin, it costs four times and more as many nuclei that differ from the reference."""
EIGHT_BITS = (*DECODER, "probability", "distance")
"""Layers that 8 bits are for begin so. In the encoder they cost three times as many."""


def activation_ranges(
    folded: Folded, design: Design, images: Iterable[NDArray[np.float32]]
) -> Ranges:
    """What enters each quantizable layer: the span of all but a hundred-thousandth of the values on
    either side.

    Args:
        folded: weights, of `network.fold_norms`.
        design: the network.
        images: (1, H, W, 3) in [0, 1], H and W multiples of `network.MULTIPLE`; some of the
            training images.
    """
    import openvino
    from openvino import opset13 as ops

    operations = _OpenVINOOperations(folded)
    pixels, _ = _openvino_nodes(operations, design)
    entering = {
        name: parts for name, parts in operations.entering.items() if name.startswith(EIGHT_BITS)
    }
    model = openvino.Model(
        [ops.result(part) for parts in entering.values() for part in parts], [pixels], "entering"
    )
    run = openvino.Core().compile_model(
        model, "CPU", {openvino.properties.hint.inference_precision: openvino.Type.f32}
    )
    lows, highs = [], []
    for image in images:
        ends = [np.quantile(part, (1e-5, 1 - 1e-5)) for part in run(image).to_tuple()]
        lows.append([float(low) for low, _ in ends])
        highs.append([float(high) for _, high in ends])
    names = [
        _name_of_part(name, number)
        for name, parts in entering.items()
        for number in range(len(parts))
    ]
    spans = zip(names, np.min(lows, axis=0).tolist(), np.max(highs, axis=0).tolist(), strict=True)
    return {name: _eight_bit_span(low, high) for name, low, high in spans}


def _name_of_part(layer: str, number: int) -> str:
    """A layer's range of the first of several things that enter it has its name, the others one
    with their number."""
    return f"{layer}.{number}" if number else layer


def _eight_bit_span(low: float, high: float) -> tuple[float, float]:
    """The range widened so that zero, which pads every image, is one of its 256 levels."""
    if low >= 0:
        return 0.0, high
    high = max(high, -low * 127 / 128)
    return -high * 128 / 127, high


def openvino_graph_of(keras_model: Any, *, grid: int, margin: int = 0) -> Any:
    """The OpenVINO model of a StarDist Keras model; its results leave out the margin (pixels)."""
    import openvino
    import tensorflow as tf
    from openvino import opset13 as ops

    call = tf.function(
        lambda block: keras_model(block, training=False)[:2],
        input_signature=[tf.TensorSpec((1, None, None, 3), tf.float32)],
    )
    model = openvino.convert_model(call, input=[[1, -1, -1, 3]])
    if not margin:
        return model
    rim = margin // grid
    frame = [ops.constant(np.array(pair)) for pair in ([rim] * 2, [-rim] * 2, [1] * 2, [1, 2])]
    inner = [ops.slice(result.input_value(0), *frame) for result in model.get_results()]
    return openvino.Model(inner, model.get_parameters(), "trimmed")


def _of_bytes(model: Any) -> Any:
    """The model, which takes values from 0 to 1, as one that takes 0 to 255."""
    import openvino
    from openvino.preprocess import PrePostProcessor

    adapted = PrePostProcessor(model)
    adapted.input().tensor().set_element_type(openvino.Type.u8)
    adapted.input().preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
    return adapted.build()


def multiplied_in(precision: Precision) -> Literal["float32", "bfloat16"]:
    """What the processor multiplies: "auto" is bfloat16 where it has it (AVX512-BF16, AMX), else
    float32.

    Raises:
        InputError: bfloat16 is asked for and the processor doesn't have it.
    """
    import openvino
    from openvino import properties

    able = "BF16" in openvino.Core().get_property("CPU", properties.device.capabilities)
    if precision == "bfloat16" and not able:
        raise InputError(
            "this processor can't multiply bfloat16; leave --precision out or say float32"
        )
    return "float32" if precision == "float32" or not able else "bfloat16"


def openvino_network(graph: Callable[[int], Any], *, precision: Precision) -> tuple[Network, str]:
    """The network compiled for this machine's CPU, and the precision of what in it states none
    (`multiplied_in`).

    `graph` gives the graph that leaves out so many pixels of margin. The network takes uint8 from 0
    to 255 as well.

    Each size of image is compiled on its own (a fifth of a second), which runs a quarter faster
    than one graph for all. Each call may come from another thread: there are as many streams as
    cores, one core each, so that calls side by side don't wait for each other's threads.

    Raises:
        InputError: bfloat16 is asked for and the processor doesn't have it.
    """
    import openvino
    from openvino import properties
    from openvino.properties import hint

    core, chosen = openvino.Core(), multiplied_in(precision)
    element = {"float32": openvino.Type.f32, "bfloat16": openvino.Type.bf16}[chosen]
    settings = {
        hint.inference_precision: element,
        hint.enable_cpu_pinning: False,
        properties.num_streams: properties.streams.Num(CORES),
    }
    compiling, own, trimmed = Lock(), local(), lru_cache(graph)

    @lru_cache(maxsize=COMPILED_SHAPES)
    def compiled(height: int, width: int, margin: int, kind: str) -> Any:
        fixed = trimmed(margin).clone()
        fixed.reshape([1, height, width, 3])
        return core.compile_model(_of_bytes(fixed) if kind == "u" else fixed, "CPU", settings)

    def request(*which: Any) -> Any:
        with compiling:
            return compiled(*which).create_infer_request()

    def network(pixels: NDArray[Any], margin: int = 0) -> tuple[NDArray[np.float32], ...]:
        if not hasattr(own, "request"):
            own.request = lru_cache(maxsize=COMPILED_SHAPES)(request)
        found = own.request(*pixels.shape[1:3], margin, pixels.dtype.kind).infer(
            pixels, share_inputs=True, share_outputs=True
        )
        parts = found.to_tuple()
        if margin and trimmed(margin).get_friendly_name() == UNTRIMMED:
            inner = np.s_[:, SPARE:-SPARE, SPARE:-SPARE]
            return parts[0][inner], parts[1][inner], *parts[2:]
        return tuple(parts)

    return network, chosen
