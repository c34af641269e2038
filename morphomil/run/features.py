"""Whether the registered features are those that a run was measured with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from morphomil.errors import InputError
from morphomil.nuclei.feature_files import feature_files
from morphomil.nuclei.registry import FEATURES, features_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from morphomil.run.directory import Run


def describe_features(*, nuclei: str = "all", families: Sequence[str] = ()) -> dict[str, Any]:
    """Settings of `featurize`: the features, whose nuclei they are taken of, and path and SHA-256
    of the files that add some."""
    files = {str(file.path): file.sha256 for file in feature_files()}
    said: dict[str, Any] = {"features": list(features_of(families)), "nuclei": nuclei}
    return said | ({"features_from": files} if files else {})


def check_features(run: Run) -> None:
    """Refuse a run whose features are not the registered ones.

    Raises:
        InputError: the run was measured with further features, without some, or with another
            version of their file, or slides for nuclei of different types.
    """
    measured = run.commands().get("featurize", {}).get("settings", {})
    names = measured.get("features", list(features_of()))
    if unknown := [name for name in names if name not in FEATURES]:
        files = ", ".join(measured.get("features_from", ())) or "FILE.py"
        raise InputError(
            f"{run.path} was measured with {', '.join(unknown)}; give the file that adds such "
            f"features: --features-from {files}"
        )
    again = f"run: morphomil featurize {run.path} --features-from"
    if absent := [name for name in features_of() if name not in names]:
        files = ", ".join(str(file.path) for file in feature_files()) or "FILE.py"
        raise InputError(f"{run.path} was measured without {', '.join(absent)}; {again} {files}")
    versions = set(measured.get("features_from", {}).values())
    for file in feature_files():
        if file.sha256 not in versions:
            raise InputError(
                f"{run.path} was measured with another version of {file.path}; {again} {file.path}"
            )
    figures = run.figures("featurize")
    figures = figures[figures["state"] == "done"]
    whose = figures.get("whose", pd.Series("all", index=figures.index)).fillna("all")
    if len(other := figures[whose != run.whose]):
        raise InputError(
            f"{run.path}: {len(other)} slides, such as {other['slide_id'].iloc[0]}, were measured "
            f"for other nuclei than --nuclei {run.whose}; run: morphomil featurize {run.path} "
            f"--nuclei {run.whose}"
        )
