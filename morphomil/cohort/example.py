"""An example manifest to fill in."""

from __future__ import annotations

EXAMPLE_MANIFEST = """\
slide,slide_id,patient,label,annotation,mpp,site,age
slides/001.svs,,001,0,,,North,52
slides/002.ndpi,,002,1,annotations/002.geojson,,North,61
regions/003_0.jpg,003,003,1,,0.5,South,47
regions/003_1.jpg,003,003,1,,0.5,South,47
"""
"""A manifest to fill in; paths start from its folder, rows of one `slide_id` are region images of
one slide."""
