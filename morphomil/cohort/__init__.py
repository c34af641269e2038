"""Manifest -> cohort: slides, patients, labels, splits; one order of labels."""

from morphomil.cohort.manifest import Manifest, read_manifest

__all__ = ["Manifest", "read_manifest"]
