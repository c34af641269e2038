"""A run directory: where each result lies, whether it is still valid, and its readers."""

from morphomil.run.directory import Run

__all__ = ["Run"]
