"""Pathology encoders of others, from the folders that their authors publish; nothing is downloaded.

Networks, tokens and pixels are those of the model cards, as TRIDENT (mahmoodlab/TRIDENT:
`patch_encoder_models/load.py`) has them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from morphomil.device import torch_device
from morphomil.errors import InputError
from morphomil.image_model.backbones import (
    LoadedEncoder,
    digest_state,
    load_function,
    load_state,
    read_weights,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from morphomil.types import Device

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_BIOPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
_SWIGLU = ("mlp_layer", "act_layer")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""The authors' folders have their weights under one of these names."""


@dataclass(frozen=True)
class Preset:
    """An encoder: its network in timm, and what goes in and comes out."""

    repository: str
    """It is published under this name on huggingface.co."""
    architecture: str
    features: int
    options: dict[str, Any] = field(default_factory=dict)
    """Of `timm.create_model`."""
    gated_mlp: bool = False
    """Its layers are SwiGLU."""
    pooled_from: int = 0
    """The mean of the tokens from this one on follows the class token; 0: the network pools."""
    size: int = 224
    resized: int = 0
    """Patches are brought to this side and cut to `size`; 0: brought to `size`."""
    resampling: Literal["bilinear", "bicubic"] = "bilinear"
    pixels: tuple[tuple[float, ...], tuple[float, ...]] = _IMAGENET
    """Mean and SD of the colors."""


_HUGE = {"mlp_ratio": 5.3375, "global_pool": "", "init_values": 1e-5}
_OPTIMUS = {"global_pool": "token", "init_values": 1e-5, "img_size": 224}
PRESETS = {
    "uni": Preset(
        "MahmoodLab/UNI",
        "vit_large_patch16_224",
        1024,
        {"patch_size": 16, "init_values": 1e-5, "img_size": 224},
    ),
    "uni2": Preset(
        "MahmoodLab/UNI2-h",
        "vit_giant_patch14_224",
        1536,
        {
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "reg_tokens": 8,
        },
        gated_mlp=True,
    ),
    "virchow": Preset(
        "paige-ai/Virchow",
        "vit_huge_patch14_224",
        2560,
        _HUGE,
        gated_mlp=True,
        pooled_from=1,
        resampling="bicubic",
    ),
    "virchow2": Preset(
        "paige-ai/Virchow2",
        "vit_huge_patch14_224",
        2560,
        _HUGE | {"reg_tokens": 4},
        gated_mlp=True,
        pooled_from=5,
        resampling="bicubic",
    ),
    "h-optimus-0": Preset(
        "bioptimus/H-optimus-0",
        "vit_giant_patch14_reg4_dinov2",
        1536,
        _OPTIMUS,
        pixels=_BIOPTIMUS,
    ),
    "h-optimus-1": Preset(
        "bioptimus/H-optimus-1",
        "vit_giant_patch14_reg4_dinov2",
        1536,
        _OPTIMUS,
        pixels=_BIOPTIMUS,
    ),
    "gigapath": Preset(
        "prov-gigapath/prov-gigapath",
        "vit_giant_patch14_dinov2",
        1536,
        {
            "img_size": 224,
            "patch_size": 16,
            "embed_dim": 1536,
            "depth": 40,
            "num_heads": 24,
            "mlp_ratio": 5.33334,
        },
        resized=256,
        resampling="bicubic",
    ),
    "conch": Preset("MahmoodLab/CONCH", "conch_ViT-B-16", 512, size=448),
}
"""`embed --encoder` knows these."""


def load_encoder_named(
    spec: str, weights: Path | None, *, device: Device = "auto"
) -> LoadedEncoder:
    """An encoder by its preset's name, or the function that `FILE.py:FUNCTION` names.

    Raises:
        InputError: it is neither, or can't be loaded (`load_preset`, `backbones.load_function`).
    """
    if spec.casefold() in PRESETS:
        return load_preset(spec.casefold(), weights, device=device)
    if ":" not in spec:
        raise InputError(
            f"no encoder is called {spec!r}; there are {', '.join(PRESETS)}, or your own as "
            "FILE.py:FUNCTION"
        )
    return load_function(spec)


def load_preset(
    name: str, weights: Path | None, *, preset: Preset | None = None, device: Device = "auto"
) -> LoadedEncoder:
    """An encoder of others as a function of patches.

    Args:
        name: one of `PRESETS`.
        weights: the authors' folder, or the file of weights in it.
        preset: in place of the one of this name.
        device: where it computes.

    Raises:
        InputError: there are no such weights, they are another network's, or a package that builds
            the network isn't installed.
    """
    chosen = preset or PRESETS[name]
    path = _find_weights(name, chosen, weights)
    if name == "conch":
        network, sha256 = _load_conch(path)
        read: Callable[[Tensor], Tensor] = partial(
            network.encode_image, proj_contrast=False, normalize=False
        )
    else:
        network = build_network(chosen)
        state = read_weights(path)
        load_state(network, state, source=str(path))
        sha256 = digest_state(state)
        read = network
    return LoadedEncoder(name, _encode(network, read, chosen, device), sha256)


def build_network(preset: Preset) -> Any:
    """The network with random weights.

    Raises:
        InputError: timm isn't installed.
    """
    try:
        import timm
        from timm.layers.mlp import SwiGLUPacked
    except ImportError as error:
        raise InputError(
            "encoders of others are built by timm, which isn't installed: pip install "
            "'morphomil[encoders]'"
        ) from error
    import torch

    options = {"num_classes": 0, "dynamic_img_size": True} | preset.options
    if preset.gated_mlp:
        options |= dict(zip(_SWIGLU, (SwiGLUPacked, torch.nn.SiLU), strict=True))
    return timm.create_model(preset.architecture, pretrained=False, **options)


def _find_weights(name: str, preset: Preset, weights: Path | None) -> Path:
    """The file of weights.

    Raises:
        InputError: there is none.
    """
    where = (
        f"encoder {name} reads its authors' weights, which aren't downloaded here: get "
        f"{preset.repository} from huggingface.co (its license asks you to apply) and name the "
        "folder with --weights"
    )
    if weights is None:
        raise InputError(where)
    if weights.is_file():
        return weights
    files = [weights / file for file in WEIGHT_FILES if (weights / file).is_file()]
    if not files:
        state = "has neither" if weights.is_dir() else "isn't there; a folder is needed with"
        raise InputError(f"{weights} {state} {' or '.join(WEIGHT_FILES)}; {where}")
    return files[0]


def _load_conch(path: Path) -> tuple[Any, str]:
    """CONCH's image tower is built by its authors' package.

    Raises:
        InputError: it isn't installed.
    """
    try:
        from conch.open_clip_custom import create_model_from_pretrained
    except ImportError as error:
        raise InputError(
            "encoder conch is built by its authors' package, which isn't installed: "
            "https://github.com/mahmoodlab/CONCH; or take features that TRIDENT made of it "
            "(import-features)"
        ) from error
    network, _ = create_model_from_pretrained("conch_ViT-B-16", checkpoint_path=str(path))
    return network, digest_state(dict(network.state_dict()))


def _encode(
    network: nn.Module, read: Callable[[Tensor], Tensor], preset: Preset, device: Device
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Patches (n, side, side, 3) uint8 -> features (n, F)."""
    import torch

    place = torch_device(device)
    network.eval().requires_grad_(False).to(place)
    mean, sd = (torch.tensor(part, device=place).view(1, 3, 1, 1) for part in preset.pixels)

    def encode(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        pixels = torch.from_numpy(prepare(patches, preset)).to(place).permute(0, 3, 1, 2)
        with torch.inference_mode():
            tokens = read((pixels.float() / 255 - mean) / sd)
            if preset.pooled_from:
                rest = tokens[:, preset.pooled_from :].mean(dim=1)
                tokens = torch.cat([tokens[:, 0], rest], dim=-1)
            features: NDArray[np.float32] = tokens.float().cpu().numpy()
        return features

    return encode


def prepare(patches: NDArray[np.uint8], preset: Preset) -> NDArray[np.uint8]:
    """Patches (n, side, side, 3) as the network takes them (n, size, size, 3)."""
    from PIL import Image

    how = Image.Resampling.BICUBIC if preset.resampling == "bicubic" else Image.Resampling.BILINEAR
    side, size = preset.resized or preset.size, preset.size
    first = (side - size) // 2
    ready = np.empty((len(patches), size, size, 3), np.uint8)
    for number, patch in enumerate(patches):
        image = Image.fromarray(patch)
        if patch.shape[:2] != (side, side):
            image = image.resize((side, side), how)
        ready[number] = np.asarray(image)[first : first + size, first : first + size]
    return ready
