"""CellViT's and CellViT++'s `cells.json`.

Sources: https://github.com/TIO-IKIM/CellViT, `cell_detection.py`, and CellViT-plus-plus,
`inference_disk.py`: `cells` is a list with `contour` (OpenCV's, x and y in level-0 pixels), `type`
and `type_prob`; `type_map` gives each type's name (CellViT: number by name, CellViT++: name by
number); `cell_detection.json` has centroids in place of contours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from morphomil.slides.nuclei_files.nuclei import OutlineList

if TYPE_CHECKING:
    from morphomil.slides.image import SlideImage
    from morphomil.slides.nuclei_files.json_stream import JsonStream
    from morphomil.slides.nuclei_files.nuclei import Outlines


class CellvitNuclei:
    """Gathers the cells; what describes them may stand before or after them."""

    def __init__(self, image: SlideImage) -> None:
        self._image = image
        self._outlines = OutlineList()
        self._centers = 0
        self.described: dict[str, Any] = {}
        """`wsi_metadata` and `type_map` of the file."""

    def read_cells(self, stream: JsonStream) -> None:
        """Take the array of cells.

        Raises:
            ValueError: an entry is no cell.
        """
        for _ in stream.elements():
            cell = stream.value()
            if not isinstance(cell, dict):
                raise ValueError("its list of cells holds something else")
            contour = cell.get("contour")
            if contour is None:
                self._centers += 1
                continue
            said = {"type": cell.get("type"), "type_probability": probability(cell)}
            self._outlines.add([contour], said)

    def nuclei(self) -> Outlines:
        """What was gathered.

        Raises:
            ValueError: the cells have no contours, or these aren't in level-0 pixels.
        """
        if self._centers:
            raise ValueError(
                f"{self._centers:,} of its cells have a center but no contour, and without an "
                "outline no shape can be measured; give CellViT's cells.json or cells.geojson, not "
                "cell_detection"
            )
        metadata = self.described.get("wsi_metadata")
        scale = metadata.get("downsampling") if isinstance(metadata, dict) else None
        if isinstance(scale, int | float) and scale != 1:
            raise ValueError(
                f"CellViT worked at a downsampling of {scale:g} and doesn't bring its contours to "
                "level 0 then; run it at the slide's full resolution"
            )
        placed = self._outlines.placed(self._image)
        if "type" in placed.said:
            names = _type_names(self.described.get("type_map"))
            placed.said["type"] = [
                None if one is None else names.get(str(one), str(one))
                for one in placed.said["type"]
            ]
        return placed


def _type_names(type_map: Any) -> dict[str, str]:
    """Name by number, from either direction."""
    if not isinstance(type_map, dict):
        return {}
    if all(str(key).lstrip("-").isdecimal() for key in type_map):
        return {str(key): str(name) for key, name in type_map.items()}
    return {str(number): str(name) for name, number in type_map.items()}


def probability(entry: dict[str, Any]) -> float | None:
    """The probability of an entry's type; None where it has none."""
    said = entry.get("type_prob")
    return float(said) if isinstance(said, int | float) and not isinstance(said, bool) else None
