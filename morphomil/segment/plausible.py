"""Which of the objects found are no nuclei of H&E, and why.

An object is measured against its surroundings in the pixels that the network saw
(`measure_evidence`), at about `EVIDENCE_MPP`, and judged by rules (`judge`): what is too large,
brighter inside than around it, stained by eosin alone, brown or gray, ink, without an edge, or lies
in tissue denser than nuclei are. Limits stand far outside of what annotated nuclei have, whatever
the stain: they are ratios and hues, not amounts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from morphomil.compiled import compiled
from morphomil.slides.masks import IMPLAUSIBLE, MIN_AREA_UM2
from morphomil.slides.quality import COLORED_INK

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from morphomil.segment.outlines import SomeOutlines

RULES = 1
"""The rules have this number; one more with every change of them."""
EVIDENCE_MPP = 0.5
"""Objects are measured at about this many um per pixel: finer images are averaged."""
RING_UM = 3.0
"""An object's surroundings are what no object covers in the box around it and this far beyond, of
which every second pixel of every second row is looked at."""
MIN_RING_PX = 10
"""Fewer pixels are no surroundings to compare with."""
EVIDENCE = (
    "red",
    "green",
    "blue",
    "ink",
    "glass",
    "roughness",
    "step",
    "ring_red",
    "ring_green",
    "ring_blue",
)
"""Of an object are measured: its mean optical density in three channels; the shares of its pixels
with colors of ink and of glass; the mean difference of density between neighbors inside, and across
the edge; the mean densities around it."""
MAX_AREA_UM2 = 500.0
"""Larger is no nucleus: a disc 25 um across; the largest of 35,664 annotated ones has 321."""
INK_SHARE = 0.4
"""An object with this share of ink's colors is a mark."""
GLASS_SHARE = 0.75
"""An object with this share of glass's colors is a hole."""
HOLE = 0.75
"""An object with less than this share of its surroundings' density, and less red density by
`HOLE_RED`, is a hole."""
HOLE_RED = 0.05
"""Hematoxylin takes red from the light; a hole has this much less of it."""
EOSIN_RED = 0.15
"""Below this share of red in the density there is eosin, or hemoglobin, alone: nuclei have 0.18 to
0.4."""
EOSIN_EXCESS = 0.25
"""With more red density than its surroundings by this much an object holds hematoxylin after
all."""
BROWN_BLUE = 0.36
"""Above this share of blue in the density an object is brown: nuclei have 0.1 to 0.32."""
GRAY_BLUE, GRAY_RED = 0.31, 0.30
"""Above these shares of blue and of red an object is gray or black, as carbon and dust are: no
stain takes all colors alike."""
SMOOTH = 0.06
"""Neighboring pixels inside differ less than this out of focus; nuclei in focus by 0.1 to 0.6."""
SOFT_EDGE = 0.06
"""The density falls by less than this share of it across the edge's pixels out of focus."""
FOLDED = 1.2
"""Surroundings with this many times the density of the median nucleus are a fold."""
MIN_NUCLEI = 30
"""Of fewer nuclei there is no median to call surroundings dense."""
_DENSITY = np.maximum(-np.log((np.arange(256) + 1) / 241), 0).astype(np.float32)
_GLASS_RED, _GLASS_SUM = 0.12, 0.4


def evidence_factor(mpp: float) -> int:
    """So many network pixels of `mpp` um on a side are averaged to one."""
    return 2 if mpp <= EVIDENCE_MPP / 1.4 else 1


def averaged(rgb: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """The image (H, W, 3) at a half of its size, or itself; H and W are multiples of `factor`."""
    if factor == 1:
        return rgb.copy()
    quads = [rgb[row::2, column::2].astype(np.uint16) for row in (0, 1) for column in (0, 1)]
    return np.asarray((sum(quads[1:], quads[0]) + 2) // 4, dtype=np.uint8)


def measure_evidence(
    rgb: NDArray[np.uint8], labels: NDArray[np.int32], count: int, *, mpp: float
) -> NDArray[np.float32]:
    """What `judge` needs of the objects 1 to `count`: (count, `EVIDENCE`), NaN where there is none.

    Args:
        rgb: pixels (H, W, 3).
        labels: the objects (H, W); 0 is none, larger numbers are other objects, negative is where
            `rgb` isn't known.
        count: so many objects are measured.
        mpp: um per pixel.
    """
    reach = max(round(RING_UM / mpp), 1)
    sums = _measure(np.ascontiguousarray(rgb), np.ascontiguousarray(labels), count, reach, _DENSITY)
    pixels, inner, edges, ring = (sums[:, [column]] for column in range(4))
    ring = np.where(ring < MIN_RING_PX, 0, ring)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [sums[:, 4:9] / pixels, sums[:, 9:10] / inner, sums[:, 10:11] / edges]
        return np.hstack([*parts, np.where(ring > 0, sums[:, 11:14] / ring, np.nan)]).astype(
            np.float32
        )


def judge(evidence: NDArray[np.float32], areas_um2: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Why an object is no nucleus: 0 where it may be one, else 1 + its place in `IMPLAUSIBLE` (n,).

    Args:
        evidence: of `measure_evidence` (n, `EVIDENCE`), of all objects of an image or region.
        areas_um2: of the objects (n,).
    """
    of = {name: evidence[:, place].astype(np.float64) for place, name in enumerate(EVIDENCE)}
    density = of["red"] + of["green"] + of["blue"]
    around = of["ring_red"] + of["ring_green"] + of["ring_blue"]
    excess = of["red"] - np.nan_to_num(of["ring_red"])
    with np.errstate(divide="ignore", invalid="ignore"):
        red, blue, edge = (of[name] / density for name in ("red", "blue", "step"))
    many = np.isfinite(density).sum() >= MIN_NUCLEI
    typical = float(np.nanmedian(density)) if many else np.inf
    rules = {
        "size": areas_um2 > MAX_AREA_UM2,
        "ink": of["ink"] > INK_SHARE,
        "hole": (of["glass"] > GLASS_SHARE) | ((density < HOLE * around) & (excess < -HOLE_RED)),
        "eosin": (red < EOSIN_RED) & (excess < EOSIN_EXCESS),
        "pigment": (blue > BROWN_BLUE) | ((blue > GRAY_BLUE) & (red > GRAY_RED)),
        "blur": (of["roughness"] < SMOOTH) & (edge < SOFT_EDGE),
        "fold": around > FOLDED * typical,
    }
    assert tuple(rules) == IMPLAUSIBLE
    reasons = np.zeros(len(areas_um2), np.uint8)
    for number, hit in reversed(list(enumerate(rules.values(), start=1))):
        reasons[hit] = number
    return reasons


@compiled(nogil=True)
def _measure(
    rgb: NDArray[np.uint8],
    labels: NDArray[np.int32],
    count: int,
    reach: int,
    density: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Sums over each object: pixels, pairs inside, pairs across the edge, pixels around; densities
    (3), ink, glass; differences inside and across the edge; densities around (3)."""
    height, width = labels.shape
    sums = np.zeros((count, 14))
    box = np.empty((count, 4), np.int64)
    box[:, 0], box[:, 1], box[:, 2], box[:, 3] = height, width, -1, -1
    total = np.zeros((2, width), np.float32)
    for y in range(height):
        here, above = total[y % 2], total[(y + 1) % 2]
        for x in range(width):
            label = labels[y, x]
            if label <= 0 or label > count:
                continue
            own, place = sums[label - 1], box[label - 1]
            place[0], place[1] = min(place[0], y), min(place[1], x)
            place[2], place[3] = max(place[2], y), max(place[3], x)
            red, green, blue = rgb[y, x, 0], rgb[y, x, 1], rgb[y, x, 2]
            here[x] = density[red] + density[green] + density[blue]
            own[0] += 1
            own[4] += density[red]
            own[5] += density[green]
            own[6] += density[blue]
            own[7] += np.int64(green) - np.int64(red) > COLORED_INK
            own[8] += density[red] < _GLASS_RED and here[x] < _GLASS_SUM
            if y > 0 and labels[y - 1, x] == label:
                own[1] += 1
                own[9] += abs(here[x] - above[x])
            if x > 0 and labels[y, x - 1] == label:
                own[1] += 1
                own[9] += abs(here[x] - here[x - 1])
            for r, c in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= r < height and 0 <= c < width and labels[r, c] == 0:
                    beside = density[rgb[r, c, 0]] + density[rgb[r, c, 1]] + density[rgb[r, c, 2]]
                    own[2] += 1
                    own[10] += here[x] - beside
    for k in range(count):
        for y in range(max(box[k, 0] - reach, 0), min(box[k, 2] + reach + 1, height), 2):
            for x in range(max(box[k, 1] - reach, 0), min(box[k, 3] + reach + 1, width), 2):
                if labels[y, x] == 0:
                    sums[k, 3] += 1
                    for channel in range(3):
                        sums[k, 11 + channel] += density[rgb[y, x, channel]]
    return sums


def parted(
    found: SomeOutlines, *, mpp: float
) -> tuple[SomeOutlines, SomeOutlines, NDArray[np.uint8]]:
    """What may be nuclei; the objects that are none, and the reason of each (`judge`)."""
    if found.evidence is None:
        return found, found[np.zeros(len(found), bool)], np.empty(0, np.uint8)
    areas = found.areas() * mpp**2
    reasons = judge(found.evidence, areas)
    dropped = (reasons > 0) & (areas >= MIN_AREA_UM2)
    return found[reasons == 0], found[dropped], reasons[dropped]
