"""EfficientNet-Lite0 (Tan & Le 2019; Liu 2020), the backbone that needs no download."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from morphomil.segment.network import NORM_EPSILON

if TYPE_CHECKING:
    from torch import Tensor
STAGES = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
"""Each stage has this expansion, channels, blocks, kernel and stride."""
MAPS = 1280
"""The head gives so many maps."""


class Block(nn.Module):
    """An inverted residual."""

    def __init__(
        self, inputs: int, filters: int, *, expansion: int, kernel: int, stride: int
    ) -> None:
        """Names are those of the package's weights."""
        super().__init__()
        wide = inputs * expansion
        if expansion != 1:
            self._expand_conv, self._bn0 = _conv(inputs, wide), _norm(wide)
        self._depthwise_conv = _conv(wide, wide, kernel, stride, groups=wide)
        self._bn1 = _norm(wide)
        self._project_conv, self._bn2 = _conv(wide, filters), _norm(filters)
        self.expanded, self.adds = expansion != 1, stride == 1 and inputs == filters

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, inputs, h, w) -> (n, filters, h / stride, w / stride)."""
        y = nn.functional.relu6(self._bn0(self._expand_conv(x))) if self.expanded else x
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        projected: Tensor = self._bn2(self._project_conv(y))
        return x + projected if self.adds else projected


class Lite0(nn.Module):
    """The network up to its head's 1280 maps, names as in its package's weights."""

    def __init__(self) -> None:
        """Random weights."""
        super().__init__()
        self._conv_stem, self._bn0 = _conv(3, 32, 3, 2), _norm(32)
        blocks, inputs = [], 32
        for expansion, filters, count, kernel, stride in STAGES:
            for number in range(count):
                step = stride if number == 0 else 1
                blocks.append(
                    Block(inputs, filters, expansion=expansion, kernel=kernel, stride=step)
                )
                inputs = filters
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _conv(inputs, MAPS), _norm(MAPS)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels (n, 3, h, w) -> maps (n, 1280, h / 32, w / 32)."""
        x = nn.functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        head: Tensor = self._bn1(self._conv_head(x))
        return nn.functional.relu6(head)


def _conv(
    inputs: int, filters: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    return nn.Conv2d(inputs, filters, kernel, stride, kernel // 2, groups=groups, bias=False)


def _norm(filters: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(filters, NORM_EPSILON)
