"""Features of patches by row, and the bags that are drawn of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from image_cohort import cohort_of

from morphomil.errors import InputError
from morphomil.image_model.model import read_slide
from morphomil.image_model.recipe import PRESETS
from morphomil.image_model.rows import Rows
from morphomil.image_model.training import (
    train_image_model,
)


@pytest.mark.parametrize("bag_size", [0, 10])
def test_bags_all_or_ten(bag_size):
    cohort = cohort_of(patients=20)
    recipe = replace(PRESETS["default"], epochs=1, bag_size=bag_size)
    trained = train_image_model(
        cohort, train=np.arange(14), val=np.arange(14, 20), recipe=recipe, seed=0
    )
    for slide in range(20):
        count = int(np.diff(cohort.rows.starts)[slide])
        bags = len(read_slide(trained.model, cohort, slide, recipe=recipe, seed=0).bag_probability)
        assert bags == (max(1, count // 10) if bag_size else 1)


def test_features_are_read_from_files_row_by_row(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(n, 33)).astype(np.float16) for n in (5, 1, 12)]
    paths = [tmp_path / f"{number}.npy" for number in range(3)]
    for path, array in zip(paths, arrays, strict=True):
        np.save(path, array)
    index = rng.integers(0, 18, 50)
    held = Rows(paths=paths).read(index)
    monkeypatch.setattr("morphomil.image_model.rows.HELD_BYTES", 10)
    read = Rows(paths=paths).read(index)
    np.testing.assert_array_equal(read, held)
    np.testing.assert_array_equal(read, np.concatenate(arrays)[index].astype(np.float32))
    np.save(tmp_path / "other.npy", np.zeros((3, 5), np.float16))
    with pytest.raises(InputError, match="different shapes"):
        Rows(paths=[*paths, tmp_path / "other.npy"])
