"""Draws docs/images/features.png: what each of the eight features measures, on one nucleus and its
neighbors; and type_features.png: what those of the types of nuclei do, on a nest and its stroma.

python docs/draw_features.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Ellipse, Polygon
from skimage.draw import polygon2mask
from skimage.measure import find_contours

from morphomil.nuclei.measure import measure_nuclei
from morphomil.nuclei.neighborhood import part_tissue, type_roots

BLUE, ORANGE, GREEN, GRAY = "#0072B2", "#D55E00", "#009E73", "0.55"
SIDE, MPP = 240, 0.05


def main() -> None:
    """Write the picture."""
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    radius = 62 * (1 + 0.09 * np.cos(3 * angles + 0.6) + 0.05 * np.sin(5 * angles))
    along, across = 1.35 * radius * np.cos(angles), 0.85 * radius * np.sin(angles)
    turn = np.radians(28)
    x = SIDE / 2 + along * np.cos(turn) - across * np.sin(turn)
    y = SIDE / 2 + along * np.sin(turn) + across * np.cos(turn)
    mask = polygon2mask((SIDE, SIDE), np.stack([y, x], axis=1)).astype(np.int32)
    nucleus = measure_nuclei(mask, mpp=MPP).iloc[0]
    outline = find_contours(mask, 0.5)[0][:, ::-1]
    figure, grid = plt.subplots(2, 4, figsize=(10, 5.4), layout="constrained")
    titles = (
        ("area", f"{nucleus.area_um2:.1f} µm²"),
        ("major and minor axis", f"{nucleus.major_axis_um:.1f} and {nucleus.minor_axis_um:.1f} µm"),
        ("orientation", f"{nucleus.orientation_deg:.0f}° from the right, clockwise"),
        ("circumference", f"{nucleus.circumference_um:.1f} µm"),
        ("circularity", f"4π area / circumference² = {nucleus.circularity:.2f}"),
        ("rectangularity", f"area / smallest rectangle = {nucleus.rectangularity:.2f}"),
        ("density", "other nuclei within 50 µm / tissue there"),
        ("polarity of a patch", "1 parallel, 0 at random"),
    )
    for axes, (name, value) in zip(grid.flat, titles, strict=True):
        axes.set(title=f"{name}\n{value}", xlim=(0, SIDE), ylim=(SIDE, 0), aspect="equal")
        axes.title.set_fontsize(9)
        axes.set_axis_off()
    for axes in grid.flat[:6]:
        axes.add_patch(Polygon(outline, facecolor="0.9", edgecolor=GRAY))
    center = (float(nucleus.x_px), float(nucleus.y_px))
    major, minor = nucleus.major_axis_um / MPP, nucleus.minor_axis_um / MPP
    direction = np.radians(nucleus.orientation_deg)
    unit = np.array([np.cos(direction), np.sin(direction)])
    grid[0, 0].add_patch(Polygon(outline, facecolor=BLUE, alpha=0.6))
    grid[0, 1].add_patch(
        Ellipse(center, major, minor, angle=nucleus.orientation_deg, fill=False, edgecolor=BLUE)
    )
    for length, way, color in (
        (major, unit, ORANGE),
        (minor, np.array([-unit[1], unit[0]]), GREEN),
    ):
        ends = np.array([center - way * length / 2, center + way * length / 2])
        grid[0, 1].plot(*ends.T, color=color, linewidth=2)
    grid[0, 2].plot([center[0], center[0] + 95], [center[1]] * 2, color=GRAY, linestyle="--")
    grid[0, 2].plot(*np.array([center, center + unit * 95]).T, color=ORANGE, linewidth=2)
    arc = np.linspace(0, direction, 50)
    grid[0, 2].plot(center[0] + 50 * np.cos(arc), center[1] + 50 * np.sin(arc), color=ORANGE)
    grid[0, 3].add_patch(Polygon(outline, fill=False, edgecolor=BLUE, linewidth=2.5))
    round_one = np.sqrt(nucleus.area_um2 / np.pi) / MPP
    grid[1, 0].add_patch(
        Circle(center, round_one, fill=False, edgecolor=GREEN, linewidth=2, linestyle="--")
    )
    corners = _smallest_rectangle(outline)
    grid[1, 1].add_patch(Polygon(corners, fill=False, edgecolor=GREEN, linewidth=2))
    rng = np.random.default_rng(3)
    for axes, spread in ((grid[1, 2], 90.0), (grid[1, 3], 9.0)):
        places = rng.uniform(12, SIDE - 12, (34, 2))
        keep = [i for i in range(len(places)) if (np.hypot(*(places[:i] - places[i]).T) > 26).all()]
        for place in places[keep]:
            if spread > 20 and np.hypot(*(place - SIDE / 2)) < 26:
                continue  # the nucleus itself stands there
            inside = np.hypot(*(place - SIDE / 2)) < 85
            color = BLUE if spread < 20 or inside else GRAY
            axes.add_patch(
                Ellipse(place, 22, 11, angle=rng.normal(28, spread), facecolor=color, alpha=0.7)
            )
    grid[1, 2].add_patch(Ellipse((SIDE / 2, SIDE / 2), 22, 11, angle=28, facecolor=ORANGE))
    grid[1, 2].add_patch(
        Circle((SIDE / 2, SIDE / 2), 85, fill=False, edgecolor=ORANGE, linewidth=2)
    )
    figure.savefig(Path(__file__).parent / "images" / "features.png", dpi=150)
    draw_types()


def draw_types() -> None:
    """Write the picture of the family `type`: 200 x 200 um with a round nest."""
    rng = np.random.default_rng(5)
    grid = np.stack(np.meshgrid(np.arange(6, 200, 13.0), np.arange(6, 200, 13.0)), -1)
    places = grid.reshape(-1, 2) + rng.uniform(-2.5, 2.5, (grid.size // 2, 2))
    in_nest = np.hypot(*(places - 100).T) < 62
    types = np.where(in_nest, 0, 2)
    immune = rng.random(len(types)) < np.where(in_nest, 0.07, 0.16)
    types[immune] = 1
    tissue = np.ones((100, 100), bool)
    parts = part_tissue(places, types, 50.0, tissue=tissue, tissue_mpp=2.0)
    areas = np.full(len(places), 40.0)
    roots = type_roots(places, types, 50.0, areas_um2=areas, parts=parts)
    figure, grid_of_axes = plt.subplots(1, 5, figsize=(15, 4.2), layout="constrained")
    titles = (
        "density of a type\nothers of it within 50 µm\n/ tissue there",
        "distance from epithelium\nto the nearest lymphocyte\nand stromal nucleus",
        "lymphocytes by 6 neighbors\nfilled: inside a nest\nring: at its edge, cross: outside",
        "mixing\nshare of unlike neighbors\nminus that by chance",
        "stroma (green): lymphocytes\nin it per mm², and the share\nthat they cover",
    )
    for axes, title in zip(grid_of_axes, titles, strict=True):
        for number, color in enumerate((BLUE, ORANGE, GRAY)):
            shown = places[types == number]
            axes.scatter(*shown.T, s=22, color=color, alpha=0.85, linewidths=0)
        axes.set(xlim=(0, 200), ylim=(200, 0), aspect="equal")
        axes.set_title(title, fontsize=9, pad=3)
        axes.set_axis_off()
    middle = places[np.argmin(np.hypot(*(places - [70, 60]).T))]
    grid_of_axes[0].add_patch(Circle(middle, 50, fill=False, edgecolor=GREEN, linewidth=2))
    grid_of_axes[0].scatter(*middle, s=60, facecolors="none", edgecolors=GREEN, linewidths=2)
    for number, color in ((1, ORANGE), (2, "0.3")):
        others = places[types == number]
        nearest = others[np.argmin(np.hypot(*(others - middle).T))]
        grid_of_axes[1].plot(*np.array([middle, nearest]).T, color=color, linewidth=2)
    share, cell = roots["nest_share"], grid_of_axes[2]
    edge = (share > 0) & (share < 1)
    cell.scatter(*places[share == 1].T, s=70, color=GREEN, linewidths=0)
    cell.scatter(*places[edge].T, s=70, facecolors="none", edgecolors=GREEN, linewidths=2)
    cell.scatter(*places[share == 0].T, s=50, color=GREEN, marker="x", linewidths=2)
    own = int(np.argmin(np.hypot(*(places - [100, 40]).T)))
    apart = np.hypot(*(places - places[own]).T)
    for other in np.argsort(apart)[1:7]:
        unlike = types[other] != types[own]
        grid_of_axes[3].plot(
            *places[[own, other]].T, color=GREEN if unlike else "black", linewidth=2, zorder=0
        )
    stroma = np.where(parts.stroma > 0, 0.35, 0.0)
    grid_of_axes[4].imshow(
        np.full((*stroma.shape, 3), to_rgb(GREEN)), extent=(0, 200, 200, 0), alpha=stroma, zorder=0
    )
    figure.legend(
        handles=[
            Line2D([], [], linestyle="", marker="o", color=color, label=name)
            for name, color in (("epithelial", BLUE), ("lymphocyte", ORANGE), ("stroma", GRAY))
        ],
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
    figure.savefig(Path(__file__).parent / "images" / "type_features.png", dpi=120)


def _smallest_rectangle(points: np.ndarray) -> np.ndarray:
    """Corners (4, 2) of the smallest rotated rectangle around points."""
    import shapely

    return np.array(shapely.oriented_envelope(shapely.MultiPoint(points)).exterior.coords)[:4]


if __name__ == "__main__":
    main()
