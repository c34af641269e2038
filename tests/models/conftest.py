"""Models of a run that many tests look at."""

from __future__ import annotations

import pytest
from embedded_run import make_run, morphomil

from morphomil.run.directory import Run


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Run:
    """All three models on a planted signal, trained and scored by the commands."""
    run = make_run(tmp_path_factory.mktemp("models") / "run")
    for model in ("clinical", "dl-cnb", "dl-cnb+c"):
        more = [] if model == "clinical" else ["--epochs", "25"]
        done = morphomil("train", run.path, "--model", model, "--folds", "3", *more)
        assert done.returncode == 0, done.stderr
    done = morphomil("predict", run.path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("AUC") == 3
    return run
