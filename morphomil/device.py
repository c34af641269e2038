"""On which device networks compute: the processor, or a GPU."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from morphomil.errors import InputError
from morphomil.types import Device

if TYPE_CHECKING:
    import torch


DRIVER = Path("/proc/driver/nvidia/version")
"""NVIDIA's driver on Linux."""


def has_cuda_driver() -> bool:
    """Whether there may be a CUDA GPU; without a driver torch needn't be loaded to know."""
    return DRIVER.exists() or shutil.which("nvidia-smi") is not None


def torch_device(name: Device) -> torch.device:
    """Torch's device of this name; auto: a CUDA GPU where torch sees one, else the processor.

    A GPU multiplies float32 in float32: TF32, which keeps 10 bits of the 23, is off.

    Raises:
        InputError: there is no such device here.
    """
    import torch

    if name not in get_args(Device):
        raise InputError(f"a device is {', '.join(get_args(Device))}, not {name!r}")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise InputError(
            "torch sees no CUDA GPU here (morphomil doctor says more); use --device cpu or auto"
        )
    if name == "cpu" or not there:
        return torch.device("cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")
