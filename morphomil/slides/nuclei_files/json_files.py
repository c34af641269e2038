"""JSON of nuclei -> what wrote it, by its keys: GeoJSON, CellViT, HoVer-Net, HoverNeXt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from morphomil.slides.nuclei_files.cellvit import CellvitNuclei
from morphomil.slides.nuclei_files.geojson import FeatureNuclei, read_features, read_part
from morphomil.slides.nuclei_files.hovernet import HovernetNuclei
from morphomil.slides.nuclei_files.json_stream import open_json

if TYPE_CHECKING:
    from pathlib import Path

    from morphomil.slides.image import SlideImage
    from morphomil.slides.nuclei_files.json_stream import JsonStream
    from morphomil.slides.nuclei_files.nuclei import Nuclei, Reading

_PLAIN = ("type", "name", "crs", "bbox", "id", "properties", "objectType", "object_type")
"""Keys of GeoJSON whose values are short."""


def read_json(path: Path, image: SlideImage, reading: Reading) -> Nuclei:
    """The nuclei of a JSON file, plain or gzipped.

    Raises:
        ValueError: it is no JSON, cut off, of none of these programs, or has no outlines.
    """
    with open_json(path) as stream:
        if stream.peek() == "[":
            features = FeatureNuclei(image, reading)
            for feature in read_features(stream):
                features.add(feature)
            nuclei: Nuclei = features.nuclei()
        else:
            nuclei = _read_object(stream, image, reading)
        if stream.peek():
            raise ValueError("it is no JSON: something follows after its end")
    return nuclei


def _read_object(stream: JsonStream, image: SlideImage, reading: Reading) -> Nuclei:
    features = FeatureNuclei(image, reading)
    cellvit, hovernet = CellvitNuclei(image), HovernetNuclei(image)
    feature: dict[str, Any] = {}
    program = ""
    for key in stream.items():
        if key == "features":
            program = "features"
            for member in read_features(stream):
                features.add(member)
        elif key == "cells":
            program = "cells"
            cellvit.read_cells(stream)
        elif key == "nuc" or key.isdecimal():
            program = "nuc"
            hovernet.read(stream, key)
        elif key in ("geometry", "nucleusGeometry", "childObjects") or key in _PLAIN:
            feature[key] = read_part(stream, key)
        elif key in ("wsi_metadata", "type_map"):
            cellvit.described[key] = stream.value()
        elif key == "mag":
            hovernet.magnification = stream.value()
        else:
            stream.value()
    if program == "cells":
        return cellvit.nuclei()
    if program == "nuc":
        return hovernet.nuclei()
    if program != "features" and feature.get("type") == "FeatureCollection":
        raise ValueError("it is GeoJSON without features")
    if program != "features":
        features.add(feature)
    return features.nuclei()
