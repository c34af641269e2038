"""Mask -> nuclei table: the registry of features, and what they are computed from."""

from morphomil.nuclei.density import DENSITY_RADIUS_UM, local_density
from morphomil.nuclei.feature_files import load_features
from morphomil.nuclei.measure import measure_nuclei, measure_shapes
from morphomil.nuclei.polygons import measure_outlines
from morphomil.nuclei.registry import (
    FEATURES,
    NEIGHBOR_ROOTS,
    SHAPE_ROOTS,
    TYPE_ROOTS,
    Feature,
    feature,
)
from morphomil.nuclei.type_features import mixing as _registers_family  # noqa: F401

__all__ = [
    "DENSITY_RADIUS_UM",
    "FEATURES",
    "NEIGHBOR_ROOTS",
    "SHAPE_ROOTS",
    "TYPE_ROOTS",
    "Feature",
    "feature",
    "load_features",
    "local_density",
    "measure_nuclei",
    "measure_outlines",
    "measure_shapes",
]
