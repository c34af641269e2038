"""Deep features beside a run: stored by backbone, with a ledger of their own."""

from __future__ import annotations

import numpy as np
import pytest

from morphomil.errors import InputError
from morphomil.run import Embeddings, Run, embedded_backbones
from morphomil.types import EmbedSettings


def store(run: Run, backbone: str, slide_id: str, features: int) -> Embeddings:
    embeddings = Embeddings(run, backbone)
    name = embeddings.save(slide_id, np.ones((3, features), np.float16))
    figures = {"patches": 3, "features": features}
    embeddings.ledger.mark_done(slide_id, "embed", "k", outputs=[name], figures=figures)
    return embeddings


def test_features_are_a_store_beside_the_run(run: Run) -> None:
    embeddings = store(run, "vgg16_bn", "s2", 5)
    assert not isinstance(embeddings, Run)
    assert embeddings.features_path("s2") == run.path / "embeddings" / "vgg16_bn" / "s2.npy"
    assert np.load(embeddings.features_path("s2")).shape == (3, 5)
    assert embeddings.done() == ["s2"]
    assert embeddings.figures("s2") == {"patches": 3, "features": 5}
    assert list(embeddings.outputs("s2")) == ["s2.npy"]
    assert run.ledger.status("s2") == {}
    assert not hasattr(embeddings, "patches")


def test_the_key_of_features_tells_new_ones(run: Run) -> None:
    before = store(run, "vgg16_bn", "s2", 5).made_key()
    assert store(run, "vgg16_bn", "s2", 5).made_key() == before
    assert store(run, "vgg16_bn", "s2", 6).made_key() != before
    assert Embeddings(run, "other").made_key() == Embeddings(run, "none").made_key() != before


def test_backbones_are_listed_with_their_size(run: Run) -> None:
    assert embedded_backbones(run).empty
    store(run, "b", "s1", 5)
    store(run, "a", "s0", 4)
    store(run, "a", "s3", 4)
    table = embedded_backbones(run)
    assert table.to_dict("list") == {
        "backbone": ["a", "b"],
        "slides": [2, 1],
        "features": [4, 5],
        "bytes_per_patch": [8, 10],
    }


def test_features_come_back_with_the_settings_of_the_last_command(run: Run) -> None:
    embeddings = Embeddings(run, "vgg16_bn")
    with pytest.raises(InputError, match="no record"):
        embeddings.made_with()
    old, new = EmbedSettings(size=128), EmbedSettings(size=224)
    for name, settings in (("vgg16_bn", old), ("vgg16_bn", new), ("other", old)):
        run.record("embed", vars(settings) | {"name": name, "sha256": "0"}, seconds=1)
    assert embeddings.settings() == new
    run.record("embed", {"outside": "white", "name": "mine", "sha256": "0"}, seconds=1)
    with pytest.raises(InputError, match="come from a function"):
        Embeddings(run, "mine").settings()
