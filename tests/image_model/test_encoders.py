"""Encoders of others: presets against published sizes; tiny random weights as authors lay them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from morphomil.errors import InputError
from morphomil.image_model.encoders import (
    PRESETS,
    build_network,
    load_encoder_named,
    load_preset,
    prepare,
)

PUBLISHED = {
    "uni": 303e6,
    "uni2": 681e6,
    "virchow": 632e6,
    "virchow2": 632e6,
    "h-optimus-0": 1.13e9,
    "h-optimus-1": 1.13e9,
    "gigapath": 1.13e9,
}
"""Parameters, as the authors' papers and model cards say."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_are_as_large_as_published(name: str) -> None:
    pytest.importorskip("timm")
    preset = PRESETS[name]
    with torch.device("meta"):
        network = build_network(preset)
    count = sum(part.numel() for part in network.parameters())
    assert count == pytest.approx(PUBLISHED[name], rel=0.01)
    assert network.num_features * (2 if preset.pooled_from else 1) == preset.features
    tokens = network.num_prefix_tokens
    assert preset.pooled_from in (0, tokens)


@pytest.mark.parametrize("name", ["uni", "uni2", "virchow2", "h-optimus-0", "gigapath"])
@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
def test_a_small_network_of_the_same_layout_is_read(name: str, file: str, tmp_path: Path) -> None:
    """Features are those of timm's own network on pixels prepared here by hand."""
    pytest.importorskip("timm")
    small = {"embed_dim": 48, "depth": 2, "num_heads": 2, "img_size": 224}
    preset = replace(PRESETS[name], options=PRESETS[name].options | small)
    torch.manual_seed(0)
    network = build_network(preset).eval()
    for part in network.parameters():
        torch.nn.init.normal_(part, std=0.1)
    state = network.state_dict()
    if file.endswith(".bin"):
        torch.save(state, tmp_path / file)
    else:
        save_file(state, tmp_path / file)
    patches = np.random.default_rng(0).integers(0, 255, (3, 256, 256, 3)).astype(np.uint8)
    found = load_preset(name, tmp_path, preset=preset).encode(patches)
    pixels = prepare(patches, preset)
    assert pixels.shape == (3, 224, 224, 3)
    if name == "gigapath":
        np.testing.assert_array_equal(pixels, patches[:, 16:240, 16:240])
    scaled = (pixels / 255 - np.array(preset.pixels[0])) / np.array(preset.pixels[1])
    with torch.inference_mode():
        tokens = network.forward_features(torch.tensor(scaled).float().permute(0, 3, 1, 2))
    expected = tokens[:, 0]
    if name == "virchow2":
        expected = torch.cat([expected, tokens[:, 5:].mean(dim=1)], dim=1)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    assert found.shape == (3, 96 if preset.pooled_from else 48)
    assert found.std() > 0.01
    state.pop("blocks.1.norm1.weight")
    torch.save(state, tmp_path / "broken.bin")
    with pytest.raises(InputError, match=r"broken\.bin belong to another network: 1 arrays"):
        load_preset(name, tmp_path / "broken.bin", preset=preset)


def test_weights_that_arent_there_are_asked_for(tmp_path: Path) -> None:
    said = "get MahmoodLab/UNI2-h from huggingface.co"
    with pytest.raises(InputError, match=said):
        load_encoder_named("UNI2", None)
    with pytest.raises(InputError, match=f"has neither model.safetensors or .*{said}"):
        load_encoder_named("uni2", tmp_path)
    with pytest.raises(InputError, match="isn't there; a folder is needed with"):
        load_encoder_named("uni2", tmp_path / "uni2")
    with pytest.raises(InputError, match="no encoder is called 'uni3'; there are uni, uni2"):
        load_encoder_named("uni3", None)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(InputError, match="authors' package"):
        load_encoder_named("conch", tmp_path)
