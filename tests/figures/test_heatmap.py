"""Maps of attention and occlusion: what is drawn where, and a sheet of patches."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from shapely.geometry import box

from morphomil.figures.heatmap import ScoredPatch, attention_map, patch_sheet


@pytest.fixture
def patches():
    table = pd.DataFrame(
        {"x_px": [0.0, 256.0, 0.0, 256.0], "y_px": [0.0, 0.0, 256.0, 256.0], "side_px": 256.0}
    )
    return table.assign(
        relative_attention=[0.1, 2.5, 1.0, 0.4], occlusion=[-0.02, 0.3, np.nan, 0.0]
    )


def test_both_scores_are_drawn_where_the_patches_lie(patches):
    thumbnail = np.full((64, 64, 3), 200, np.uint8)
    figure = attention_map(
        thumbnail,
        patches,
        level0_px_per_thumb_px=8,
        mpp=0.5,
        regions=[box(10, 10, 500, 500)],
        title="slide",
    )
    left, right, *bars = figure.axes
    assert len(bars) == 2
    (attention,) = (c for c in left.collections if isinstance(c, PolyCollection))
    (occlusion,) = (c for c in right.collections if isinstance(c, PolyCollection))
    assert attention.get_array().tolist() == [0.1, 2.5, 1.0, 0.4]
    assert attention.get_clim() == (0, 2.5)
    assert occlusion.get_array().tolist() == [-0.02, 0.3, 0.0]
    assert occlusion.get_clim() == (-0.3, 0.3)
    corners = attention.get_paths()[1].vertices
    assert (corners.min(axis=0).tolist(), corners.max(axis=0).tolist()) == ([256, 0], [512, 256])
    assert sum(isinstance(c, LineCollection) for c in left.collections) == 1
    assert any("µm" in text.get_text() for text in left.findobj(lambda a: hasattr(a, "get_text")))


def test_a_slide_of_one_patch_has_no_occlusion(patches):
    one = patches.head(1).assign(occlusion=np.nan, relative_attention=1.0)
    figure = attention_map(np.zeros((32, 64, 3), np.uint8), one, level0_px_per_thumb_px=8, mpp=0.5)
    assert len(figure.axes) == 4


def test_a_sheet_shows_most_and_least():
    rng = np.random.default_rng(0)
    shown = [
        ScoredPatch(rng.integers(0, 255, (64, 64, 3)).astype(np.uint8), f"patch {n}: 2 x")
        for n in range(7)
    ]
    figure = patch_sheet(shown, shown[:3], mpp=0.5)
    titles = [
        axes.get_title(loc="left") for axes in figure.findobj(lambda a: hasattr(a, "get_images"))
    ]
    assert sum(title.startswith("patch") for title in titles) == 10
    with pytest.raises(ValueError, match="both kinds"):
        patch_sheet(shown, [], mpp=0.5)
