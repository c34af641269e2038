"""The log of a run: which commands ran, with which settings and versions."""

from __future__ import annotations


def versions() -> dict[str, str]:
    """Versions of what the results depend on, and the processor."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in (
        "morphomil",
        "numpy",
        "pandas",
        "scipy",
        "scikit-image",
        "stardist",
        "tensorflow-cpu",
        "torch",
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
