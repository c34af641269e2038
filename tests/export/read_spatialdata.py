"""Reads the SpatialData stores of a folder with spatialdata, writes them again, and prints what
they hold as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import spatialdata

said = {}
for path in sorted(Path(sys.argv[1]).glob("*.zarr")):
    store = spatialdata.read_zarr(path)
    store.write(path.with_suffix(".again"))
    shapes, table = spatialdata.match_element_to_table(store, "nuclei", "measurements")
    nuclei = shapes["nuclei"]
    um = spatialdata.transform(nuclei, to_coordinate_system="um")
    said[path.stem] = {
        "shapes": {name: len(element) for name, element in store.shapes.items()},
        "numbers": table.obs["nucleus"].tolist(),
        "area_um2": dict(zip(map(int, nuclei.index), um.area, strict=True)),
        "types": nuclei["type"].fillna("").tolist(),
        "measured": table.to_df()["area_um2"].tolist(),
        "patient": str(table.obs["patient"].iloc[0]),
        "systems": sorted(store.coordinate_systems),
    }
print(json.dumps(said))
