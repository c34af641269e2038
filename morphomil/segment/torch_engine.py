"""What runs a network on a GPU: torch, in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from morphomil.segment.network import LOGITS, SPARE, Design
from morphomil.segment.torch_network import TorchNetwork

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from morphomil.segment.network import Network


def torch_network(
    arrays: Mapping[str, NDArray[np.float32]], design: Design, device: torch.device
) -> Network:
    """The architecture with stored weights, ready to run on a device; uint8 is taken as well, from
    0 to 255 in place of 0 to 1.

    The same block gives the same numbers each time; those of another engine differ by rounding
    (`tests/segment/test_torch_engine.py`: at most 1e-3 of a logit).
    """
    trained = TorchNetwork(design)
    trained.load_arrays(arrays)
    trained = trained.to(device).eval()
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True

    @torch.inference_mode()
    def network(pixels: NDArray[Any], margin: int = 0) -> tuple[NDArray[np.float32], ...]:
        given = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
        heads = trained(given / 255 if given.dtype == torch.uint8 else given, margin)
        parts = [_last(heads.probability).sigmoid(), _last(heads.distance).exp()]
        if margin:
            parts = [part[:, SPARE:-SPARE, SPARE:-SPARE] for part in parts]
        if heads.outline is not None:
            nucleus, seam = heads.outline.unbind(1)
            parts.append((nucleus - seam.relu()).clamp(-LOGITS, LOGITS))
        if heads.types is not None:
            parts.append(_last(heads.types))
        return tuple(part.contiguous().cpu().numpy() for part in parts)

    return network


def _last(x: Tensor) -> Tensor:
    """Channels last."""
    return x.permute(0, 2, 3, 1)
