"""Where networks of patches compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from morphomil.device import torch_device
from morphomil.errors import InputError
from morphomil.image_model.backbones import load_encoder
from morphomil.types import EmbedSettings

GPU = torch.cuda.is_available()


def test_a_device_is_chosen_by_name() -> None:
    assert torch_device("cpu").type == "cpu"
    assert torch_device("auto").type == ("cuda" if GPU else "cpu")
    with pytest.raises(InputError, match="auto, cpu, cuda, not 'tpu'"):
        torch_device("tpu")  # type: ignore[arg-type]


@pytest.mark.skipif(GPU, reason="there is a GPU")
def test_a_gpu_that_is_asked_for_must_be_there() -> None:
    with pytest.raises(InputError, match="no CUDA GPU"):
        load_encoder(EmbedSettings(), device="cuda")


@pytest.mark.skipif(not GPU, reason="there is no GPU")
def test_a_gpu_gives_the_features_of_the_processor() -> None:
    patches = np.random.default_rng(0).integers(0, 256, (8, 256, 256, 3), dtype=np.uint8)
    cpu, gpu = (
        load_encoder(EmbedSettings(), device=name).encode(patches) for name in ("cpu", "cuda")
    )
    assert not torch.backends.cudnn.allow_tf32
    np.testing.assert_allclose(gpu, cpu, rtol=1e-3, atol=1e-3 * float(np.abs(cpu).max()))
