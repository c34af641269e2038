"""What runs a network as the reference does: Keras, on TensorFlow, which StarDist is built on."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Any

from morphomil.errors import InputError
from morphomil.segment.network import LOGITS, Design, Layer, forward

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from morphomil.segment.network import Folded, Network
    from morphomil.types import Device


def import_tensorflow() -> None:
    """Import TensorFlow without the notes that it writes to the process's standard error before
    logging is set up, and so that it takes of a GPU's memory what it needs, not all there is."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    with tempfile.TemporaryFile() as notes:
        stderr = os.dup(2)
        try:
            os.dup2(notes.fileno(), 2)
            import tensorflow  # noqa: F401
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


class _KerasOperations:
    """Keras layers, images (B, H, W, C)."""

    def conv(self, x: Any, layer: Layer) -> Any:
        from keras import layers

        if layer.kernel > 1:
            x = layers.ZeroPadding2D(layer.kernel // 2)(x)
        if layer.depthwise:
            x = layers.DepthwiseConv2D(layer.kernel, layer.stride, name=layer.name)(x)
        else:
            x = layers.Conv2D(layer.filters, layer.kernel, layer.stride, name=layer.name)(x)
        if layer.activation == "none":
            return x
        return layers.ReLU(max_value=6.0 if layer.activation == "relu6" else None)(x)

    def add(self, a: Any, b: Any) -> Any:
        from keras import layers

        return layers.Add()([a, b])

    def join(self, x: Any, skips: list[Any], layer: Layer) -> Any:
        from keras import layers

        return self.conv(layers.Concatenate()([layers.UpSampling2D()(x), *skips]), layer)

    def crop(self, x: Any, rim: int) -> Any:
        from keras import layers

        return layers.Cropping2D(rim)(x)

    def fold(self, x: Any) -> Any:
        from keras import layers

        channels = x.shape[-1]
        # TensorFlow's order of channels is 2 a + b first, then c; ours c first
        order = [part * channels + c for c in range(channels) for part in range(4)]
        return layers.Lambda(_space_to_depth, arguments={"order": order})(x)

    def beside(self, x: Any, skip: Any, layer: Layer) -> Any:
        from keras import layers

        return self.conv(layers.Concatenate()([x, skip]), layer)

    def unfold(self, x: Any) -> Any:
        from keras import layers

        maps = x.shape[-1] // 4
        order = [4 * c + part for part in range(4) for c in range(maps)]
        return layers.Lambda(_depth_to_space, arguments={"order": order})(x)


def _keras_nucleus(maps: Any) -> Any:
    import tensorflow as tf

    return tf.clip_by_value(maps[..., 0] - tf.nn.relu(maps[..., 1]), -LOGITS, LOGITS)


def _space_to_depth(x: Any, order: list[int]) -> Any:
    import tensorflow as tf

    return tf.gather(tf.nn.space_to_depth(x, 2), order, axis=-1)


def _depth_to_space(x: Any, order: list[int]) -> Any:
    import tensorflow as tf

    return tf.nn.depth_to_space(tf.gather(x, order, axis=-1), 2)


def keras_network(folded: Folded, design: Design) -> Any:
    """The architecture as a Keras model with the outputs of a StarDist model, `prob` and `dist`,
    and what else the design has (`Network`)."""
    import_tensorflow()
    import keras
    from keras import layers

    pixels = keras.Input((None, None, 3), name="input")
    scaled = layers.Rescaling(2.0, -1.0)(pixels)
    heads = forward(_KerasOperations(), scaled, design)
    outputs = [
        layers.Activation("sigmoid", name="prob")(heads.probability),
        layers.Activation("exponential", name="dist")(heads.distance),
    ]
    if heads.outline is not None:
        outputs.append(layers.Lambda(_keras_nucleus)(heads.outline))
    if heads.types is not None:
        outputs.append(heads.types)
    model = keras.Model(pixels, outputs)
    for name, (weight, bias) in folded.items():
        layer = model.get_layer(name)
        order = (2, 3, 0, 1) if isinstance(layer, layers.DepthwiseConv2D) else (2, 3, 1, 0)
        layer.set_weights([weight.transpose(order), bias])
    return model


def tensorflow_network(keras_model: Any, *, heads: int = 2, device: Device = "auto") -> Network:
    """A Keras model with the outputs of StarDist, or of `keras_network`, of which the first `heads`
    are wanted, compiled; on a GPU where TensorFlow sees one, unless the device is the processor.

    Raises:
        InputError: a GPU is asked for, and TensorFlow sees none.
    """
    import tensorflow as tf

    if device == "cuda" and not tf.config.list_physical_devices("GPU"):
        raise InputError("TensorFlow sees no CUDA GPU here; use --device cpu or auto")
    place = "/CPU:0" if device == "cpu" else None
    compiled = tf.function(
        lambda block: keras_model(block, training=False)[:heads],
        input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)],
    )

    def network(pixels: NDArray[np.float32], margin: int = 0) -> tuple[NDArray[np.float32], ...]:
        with tf.device(place):
            found = compiled(pixels)
        return tuple(
            _without_margin(part.numpy(), margin * part.shape[1] // pixels.shape[1])
            for part in found
        )

    return network


def _without_margin(part: NDArray[np.float32], rim: int) -> NDArray[np.float32]:
    return part[:, rim : part.shape[1] - rim, rim : part.shape[2] - rim]
