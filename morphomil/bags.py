"""Bags: which patches of a slide are seen together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from morphomil.seeds import generator

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BAG_SIZE = 10
"""A bag has this many patches (Xu et al. 2021)."""


def draw_bags(
    n_patches: int, *, size: int = BAG_SIZE, bags: int | None = None, seed_key: tuple[Any, ...]
) -> list[NDArray[np.int64]]:
    """Patch numbers of each bag: `size` patches drawn without replacement, no patch in two bags,
    the remainder unused.

    Fewer than `size` patches make one bag of all. `bags` caps their number; `seed_key` (such as
    seed and slide id) decides the draw, the same on every machine.
    """
    if n_patches < 1 or size < 1:
        raise ValueError(
            f"bags need at least 1 patch and 1 patch per bag, got {n_patches} and {size}"
        )
    order = generator("bags", *seed_key).permutation(n_patches)
    count = max(n_patches // size, 1)
    return [
        order[i * size : (i + 1) * size] for i in range(count if bags is None else min(count, bags))
    ]
