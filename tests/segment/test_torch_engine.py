"""The network in torch, which runs on GPUs, computes what OpenVINO does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.draw import disk

from morphomil import device
from morphomil.errors import InputError
from morphomil.segment import segment_image
from morphomil.segment.folders import design_of, read_model_folder, read_network
from morphomil.segment.model import load_segmenter, model_folder
from morphomil.segment.torch_engine import torch_network
from morphomil.store import read_arrays
from morphomil.types import SegmenterSettings

GPU = torch.cuda.is_available()
PLACES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not GPU, reason="there is no GPU")),
]


def draw_discs(width: int = 256, *, step: int = 50) -> np.ndarray:
    """They touch where the step is 17."""
    rgb = np.full((256, width, 3), (230, 190, 210), np.uint8)
    for row, column in np.ndindex(200 // step + 1, (width - 56) // step + 1):
        rgb[disk((25 + step * row, 25 + step * column), 9)] = (90, 50, 130)
    return rgb


PIXELS = draw_discs(320, step=17)[None] / np.float32(255)
"""Nuclei that touch, between which the network sees seams."""


@pytest.mark.parametrize("margin", [0, 32, 64])
@pytest.mark.parametrize("place", PLACES)
def test_it_computes_what_openvino_does(place: str, margin: int) -> None:
    files = read_model_folder(model_folder("default"))
    design = design_of(files)
    assert read_network(files, design)
    network = torch_network(read_arrays(files.weights), design, device.torch_device(place))  # type: ignore[arg-type]
    exact = load_segmenter(SegmenterSettings(precision="float32", device="cpu"))
    for got, expected in zip(network(PIXELS, margin), exact.network(PIXELS, margin), strict=True):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)
    levels = (PIXELS * 255).astype(np.uint8)
    for got, expected in zip(
        network(levels, margin), network(levels / np.float32(255), margin), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    again = network(PIXELS, margin)
    for got, expected in zip(network(PIXELS, margin), again, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.skipif(not GPU, reason="there is no GPU")
def test_a_gpu_finds_the_nuclei_of_the_processor() -> None:
    rgb = draw_discs()
    cpu, gpu = (
        segment_image(rgb, mpp=0.5, device=name, precision=precision)
        for name, precision in (("cpu", "float32"), ("cuda", "auto"))
    )
    assert cpu.max() == gpu.max() == 25
    assert np.mean((cpu > 0) != (gpu > 0)) < 1e-3
    assert load_segmenter(SegmenterSettings()).precision == "float32 on CUDA"


@pytest.mark.skipif(GPU, reason="there is a GPU")
def test_a_gpu_that_is_asked_for_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no CUDA GPU"):
        load_segmenter(SegmenterSettings(device="cuda"))
    monkeypatch.setattr("morphomil.segment.model.has_cuda_driver", lambda: True)
    load_segmenter.cache_clear()
    assert load_segmenter(SegmenterSettings()).precision.startswith("int8")  # no GPU all the same


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(InputError, match="device cuda computes in float32, not int8"):
        SegmenterSettings(device="cuda", precision="int8")
    with pytest.raises(InputError, match="device is one of auto, cpu, cuda"):
        SegmenterSettings(device="tpu")  # type: ignore[arg-type]
