"""Presets of the image model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from morphomil.errors import InputError
from morphomil.image_model.recipe import PRESETS, ImageRecipe, settle_recipe


def test_presets_are_the_papers():
    paper, released = PRESETS["paper"], PRESETS["released-code"]
    assert (paper.optimizer, paper.learning_rate, paper.weight_decay) == ("adam", 1e-4, 1e-3)
    assert (paper.restart_epochs, paper.restart_factor) == (20, 2)
    assert (released.optimizer, released.momentum, released.inner) == ("sgd", 0.3, 1)
    assert (released.bags_per_step, released.stop_train_auc) == (1, 0.98)
    assert settle_recipe("paper", epochs=3, inner=None) == replace(paper, epochs=3)
    with pytest.raises(InputError, match="choose default, paper, released-code"):
        settle_recipe("best")
    with pytest.raises(InputError, match="learning rate must be a positive number"):
        ImageRecipe(learning_rate=-1)
