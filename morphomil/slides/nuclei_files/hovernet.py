"""HoVer-Net's `.json` and `.mat`, and HoverNeXt's `class_inst.json`, which has no outlines.

Sources: https://github.com/vqdang/hover_net, `infer/base.py`, `infer/wsi.py`, `infer/tile.py`:
`{"mag": M, "nuc": {ID: {"bbox", "centroid", "contour", "type_prob", "type"}}}`, contours (OpenCV's)
in pixels at magnification M, or of the image itself where it is null; the `.mat` of a tile holds
`inst_map`, `inst_uid`, `inst_type`, `inst_centroid`. HoverNeXt
(https://github.com/digitalpathologybern/hover_next_inference): `{ID: [class, [y, x]]}`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.slides.flat import MAX_FLAT_PX
from morphomil.slides.nuclei_files.cellvit import probability
from morphomil.slides.nuclei_files.label_image import LabelImage
from morphomil.slides.nuclei_files.nuclei import OutlineList

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from morphomil.slides.image import SlideImage
    from morphomil.slides.nuclei_files.json_stream import JsonStream
    from morphomil.slides.nuclei_files.nuclei import Outlines, Reading

MAGNIFICATION_MPP = 10.0
"""um per pixel times magnification give about this much: 40 x is 0.25 um."""
MAX_MAGNIFICATION_CONFLICT = 0.25
"""A scanner's pixel size may differ by this much from what its magnification says."""
_IN_MAT = {"inst_map", "inst_uid", "inst_type"}


class HovernetNuclei:
    """Gathers the entries by number; the magnification may stand before or after them."""

    def __init__(self, image: SlideImage) -> None:
        self._image = image
        self._outlines = OutlineList()
        self._centers = 0
        self.magnification: Any = None
        """`mag` of the file: contours are in pixels at this magnification."""

    def read(self, stream: JsonStream, key: str) -> None:
        """Take what stands under `nuc`, or under the number of a single nucleus.

        Raises:
            ValueError: an entry is no nucleus.
        """
        if key != "nuc":
            self._add(stream.value())
            return
        for _ in stream.items():
            self._add(stream.value())

    def _add(self, entry: Any) -> None:
        if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], list):
            self._centers += 1  # HoverNeXt
            return
        if not isinstance(entry, dict) or not {"contour", "centroid"} & set(entry):
            raise ValueError("it is JSON, but no GeoJSON of features, and no HoVer-Net's nuclei")
        if entry.get("contour") is None:
            self._centers += 1
            return
        kind = entry.get("type")
        said = {
            "type": None if kind is None else str(kind),
            "type_probability": probability(entry),
        }
        self._outlines.add([entry["contour"]], said)

    def nuclei(self) -> Outlines:
        """What was gathered.

        Raises:
            ValueError: there are centers in place of outlines, or the magnification doesn't fit.
        """
        if self._centers:
            raise ValueError(
                f"it has the centers of {self._centers:,} nuclei but no outlines, and without an "
                "outline no shape can be measured; give HoVer-Net's JSON with contours, or "
                "HoverNeXt's poly.geojson (--save_polygon)"
            )
        factor = 1.0
        if self.magnification is not None:
            factor = level0_per_pixel(self.magnification, self._image)
        return self._outlines.placed(self._image, factor=factor)


def level0_per_pixel(magnification: Any, image: SlideImage) -> float:
    """How many level-0 pixels a pixel at a magnification is wide: by the slide's magnification
    where it records one, else the power of two that the pixel size is nearest to.

    Raises:
        ValueError: it is no magnification, or the pixel size fits none.
    """
    if not isinstance(magnification, int | float) or not 0.1 <= magnification <= 1000:
        raise ValueError(f"its magnification is {magnification!r}")
    try:
        recorded = float(image.properties.get("openslide.objective-power", ""))
    except ValueError:
        recorded = 0.0
    if recorded > 0:
        return recorded / magnification
    ratio = MAGNIFICATION_MPP / image.mpp / magnification
    factor = 2.0 ** round(math.log2(ratio))
    if abs(ratio / factor - 1) > MAX_MAGNIFICATION_CONFLICT:
        raise ValueError(
            f"its contours are in pixels at {magnification:g} x, and {image.mpp:g} um per pixel of "
            "the slide isn't a whole number of halvings from that; check mpp, or run HoVer-Net on "
            "the image as a tile"
        )
    return factor


def read_mat(path: Path, image: SlideImage, reading: Reading) -> LabelImage:
    """The labels of a tile, with each one's type.

    Raises:
        ValueError: it is no MATLAB file of version 5, or holds no `inst_map` of the image's extent.
    """
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError

    try:
        held = {name: (shape, kind) for name, shape, kind in whosmat(path)}
        if "inst_map" not in held:
            raise ValueError(f"it has no inst_map; it holds {', '.join(sorted(held)) or 'nothing'}")
        numbers = {name for name in _IN_MAT & set(held) if _is_numeric(held[name][1])}
        if "inst_map" not in numbers or math.prod(held["inst_map"][0]) > MAX_FLAT_PX:
            raise ValueError(f"its inst_map is {held['inst_map'][1]} {held['inst_map'][0]}")
        arrays = loadmat(path, variable_names=sorted(numbers))
    except NotImplementedError as error:
        raise ValueError(
            "it is a MATLAB file of version 7.3; save it as version 5 (scipy.io.savemat)"
        ) from error
    except MatReadError as error:
        raise ValueError(f"it is no whole MATLAB file ({error})") from error
    labels = _whole(arrays["inst_map"])
    present = np.unique(labels[labels != 0])
    said = None
    if "inst_type" in arrays:
        types = np.ravel(arrays["inst_type"])
        known = np.ravel(arrays["inst_uid"]) if "inst_uid" in arrays else present
        if len(types) != len(known):
            raise ValueError(f"it has {len(known):,} nuclei but {len(types):,} types")
        names = [str(int(one)) for one in types]
        table = pd.DataFrame({"type": pd.Series(names, index=known.astype(np.int64), dtype=object)})
        said = table[~table.index.duplicated()]
    return LabelImage(path, image, plane=reading.plane, decoded=labels, said=said)


def _is_numeric(kind: str) -> bool:
    return kind.startswith(("int", "uint", "double", "single"))


def _whole(labels: NDArray[Any]) -> NDArray[Any]:
    """Labels that are whole numbers, of MATLAB's usual double too."""
    if labels.dtype.kind == "f" and (labels == np.round(labels)).all():
        return labels.astype(np.int64)
    return labels
