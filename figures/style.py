"""How every figure looks and is written: journal widths, legible type, colors for the color-blind,
fixed bytes."""

from __future__ import annotations

import hashlib
import io
import re
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import matplotlib.style
from matplotlib import font_manager
from matplotlib.figure import Figure

from morphomil.errors import InputError
from morphomil.store import write_bytes, write_table_csv

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pandas as pd

Format = Literal["png", "jpg", "pdf", "svg"]
Look = Literal["plain", "nature", "frontiers"]
LOOKS: tuple[Look, ...] = get_args(Look)

ONE_COLUMN_MM = 85.0
ONE_AND_A_HALF_COLUMNS_MM = 120.0
TWO_COLUMNS_MM = 180.0

BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, YELLOW, GRAY = "#56B4E9", "#CC79A7", "#F0E442", "#767676"
PALETTE = (BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE, YELLOW, GRAY)
"""These are Okabe and Ito's colors, which people with any common color blindness can tell apart,
with gray in place of black."""

LINES = ("-", "--", ":", "-.")
"""Groups and models have these lines beside their colors, for gray print (`series_look`)."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")

MODELS = ("morphometry", "dl-cnb", "clinical", "dl-cnb+c", "morphometry+clinical")
"""Models with looks of their own, in the order of `series_look`."""

DIVERGING = "RdBu_r"
"""Values around 0 are red to blue, which is safe for the color-blind."""
SEQUENTIAL = "viridis"
"""Measured values have colors even in lightness, which survive gray print and color blindness."""

# Scripts that the bundled DejaVu Sans lacks, taken from an installed font where there is one.
_FURTHER_SCRIPTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "PingFang SC",
    "Microsoft YaHei",
    "Arial Unicode MS",
)

_SETTINGS: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica", "sans-serif"],
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "legend.fontsize": 6,
    "legend.frameon": False,
    "figure.titlesize": 8,
    "axes.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1,
    "patch.linewidth": 0.5,
    "hatch.linewidth": 0.4,
    # A slide's or a label's name may hold a dollar sign.
    "text.parse_math": False,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    # Text stays text: journals ask for embedded TrueType, and editors can change it.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "morphomil",
}

_JOURNAL_FONTS = ["Arial", "Helvetica", "Liberation Sans", "DejaVu Sans", "sans-serif"]
_JOURNAL_FILES = ("arial", "helvetica", "liberationsans-")

# What a look changes. The plain one has the font that every matplotlib brings, so it is the same on
# all machines.
_LOOKS: dict[Look, dict[str, Any]] = {
    "plain": {},
    "nature": {"font.sans-serif": _JOURNAL_FONTS, "axes.titleweight": "bold", "axes.labelpad": 2},
    "frontiers": {
        "font.sans-serif": _JOURNAL_FONTS,
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7,
        "axes.linewidth": 0.7,
        "xtick.major.width": 0.7,
        "ytick.major.width": 0.7,
    },
}

_look: ContextVar[Look] = ContextVar("look", default="plain")

# None leaves the entry out: dates and versions would make equal figures differ.
_METADATA: dict[str, dict[str, str | None]] = {
    "png": {"Software": "morphomil"},
    "pdf": {"Creator": "morphomil", "Producer": None, "CreationDate": None},
    "svg": {"Creator": "morphomil", "Date": None},
}

# matplotlib's settings are global: two threads inside `style` at once would restore each other's.
_LOCK = threading.RLock()


def series_look(number: int) -> tuple[str, str]:
    """Color and line style of the group or model of this number; the first 32 all differ."""
    return PALETTE[number % len(PALETTE)], LINES[(number + number // len(PALETTE)) % len(LINES)]


class ModelLook(NamedTuple):
    """How a model is drawn, told apart in gray too."""

    color: str
    line: str
    marker: str


def model_looks(models: Iterable[str]) -> dict[str, ModelLook]:
    """Color, line and marker of each model, the same in every figure: the project's own models have
    theirs, others follow by name."""
    names = list(models)
    order = [*MODELS, *sorted(set(names) - set(MODELS))]
    places = {name: order.index(name) for name in names}
    return {
        name: ModelLook(*series_look(place), MARKERS[place % len(MARKERS)])
        for name, place in places.items()
    }


def parse_formats(text: str) -> tuple[Format, ...]:
    """File formats from a list with commas.

    Raises:
        InputError: another format than pdf, svg, png.
    """
    known: dict[str, Format] = {"pdf": "pdf", "svg": "svg", "png": "png"}
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if not names or any(name not in known for name in names):
        raise InputError(f"--format is of {', '.join(known)}, with commas between; got {text!r}")
    return tuple(dict.fromkeys(known[name] for name in names))


@contextmanager
def use_look(name: Look) -> Iterator[None]:
    """Figures drawn and written inside the block look as a journal asks; outside of any block they
    are plain."""
    token = _look.set(name)
    try:
        yield
    finally:
        _look.reset(token)


@cache
def journal_font() -> str:
    """The font of the journals' looks: Arial or Helvetica, else the one installed that comes
    nearest."""
    if not {"Arial", "Helvetica"} & set(font_manager.get_font_names()):
        # Matplotlib lists the fonts once; some may have been installed since.
        for path in map(Path, font_manager.findSystemFonts()):
            if path.stem.lower().startswith(_JOURNAL_FILES):
                font_manager.fontManager.addfont(path)
    installed = set(font_manager.get_font_names())
    return next(name for name in _JOURNAL_FONTS if name in installed)


def describe_font(look: Look) -> str:
    """What to know of the font that a look is drawn in; nothing where it is the one that it asks
    for."""
    if look == "plain" or journal_font() in ("Arial", "Helvetica"):
        return ""
    alike = "has Arial's widths" if journal_font() == "Liberation Sans" else "is wider"
    return (
        f"Neither Arial nor Helvetica is installed: text is in {journal_font()}, which {alike}. "
        "Install one of them and draw again, or replace the font in the SVG."
    )


@contextmanager
def style() -> Iterator[None]:
    """The project's matplotlib settings, on matplotlib's defaults, inside the block only; one
    thread at a time."""
    if _look.get() != "plain":
        journal_font()
    installed = set(font_manager.get_font_names())
    families = ["sans-serif", *(name for name in _FURTHER_SCRIPTS if name in installed)]
    with (
        _LOCK,
        matplotlib.style.context(
            ["default", _SETTINGS | _LOOKS[_look.get()] | {"font.family": families}]
        ),
    ):
        yield


def new_figure(*, width_mm: float, height_mm: float) -> Figure:
    """An empty figure of exactly this size that lays itself out and is known to no pyplot state."""
    return Figure(figsize=(width_mm / 25.4, height_mm / 25.4), layout="constrained")


def render(figure: Figure, file_format: Format, *, dpi: int = 300) -> bytes:
    """The bytes of the figure's file; equal figures give equal bytes. `dpi` counts for images
    only."""
    buffer = io.BytesIO()
    with style():
        lossy = file_format == "jpg"
        options = {"pil_kwargs": {"quality": 88}} if lossy else {"metadata": _METADATA[file_format]}
        figure.savefig(buffer, format=file_format, dpi=dpi, **options)
    return _name_clips(buffer.getvalue()) if file_format == "svg" else buffer.getvalue()


_CLIP = re.compile(rb'(?<=["#])p[0-9a-f]{10}(?=[")])')


def _name_clips(svg: bytes) -> bytes:
    """Name the rectangles that things are cut to by the file's other content and their order.

    Matplotlib names them by their place on the page, to digits that the layout's solver doesn't
    find the same every time and the file doesn't show.
    """
    rest = hashlib.sha256(_CLIP.sub(b"", svg)).hexdigest()[:7]
    names = list(dict.fromkeys(_CLIP.findall(svg)))
    return _CLIP.sub(lambda found: b"p%s%03x" % (rest.encode(), names.index(found[0])), svg)


def save_figure(
    figure: Figure,
    stem: Path,
    *,
    formats: Sequence[Format] = ("png", "pdf", "svg"),
    table: pd.DataFrame | None = None,
) -> tuple[Path, ...]:
    """Write `stem`.png, .pdf and .svg, and what is plotted, `table`, as `stem`.csv; returns the
    paths.

    Each file is written whole or not at all.
    """
    paths = []
    for file_format in formats:
        path = stem.with_name(f"{stem.name}.{file_format}")
        write_bytes(path, render(figure, file_format))
        paths.append(path)
    if table is not None:
        paths.append(stem.with_name(f"{stem.name}.csv"))
        write_table_csv(paths[-1], table)
    return tuple(paths)
