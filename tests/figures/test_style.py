from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import matplotlib
import pandas as pd
import pytest
from matplotlib import font_manager

from morphomil.figures.style import (
    PALETTE,
    describe_font,
    journal_font,
    new_figure,
    render,
    save_figure,
    style,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from matplotlib.figure import Figure


def example(title: str = "Area (µm²)") -> Figure:
    with style():
        figure = new_figure(width_mm=85, height_mm=50)
        axes = figure.subplots()
        axes.plot([1, 2, 3], [3, 1, 2], "o-")
        axes.set_title(title)
        return figure


def test_settings_hold_inside_the_block_only() -> None:
    before = dict(matplotlib.rcParams)
    with style():
        assert matplotlib.rcParams["pdf.fonttype"] == 42
        assert matplotlib.rcParams["svg.fonttype"] == "none"
    with pytest.raises(ZeroDivisionError), style():
        _ = 1 / 0
    assert dict(matplotlib.rcParams) == before


def test_threads_leave_the_settings_alone() -> None:
    before = dict(matplotlib.rcParams)
    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(lambda _: render(example(), "svg"), range(8)))
    assert dict(matplotlib.rcParams) == before
    assert len(set(pictures)) == 1


def test_what_a_file_does_not_show_is_not_in_its_names() -> None:
    """A layout that differs in its last digits gives the same bytes; two areas have two names."""

    def placed(off: float) -> Figure:
        figure = new_figure(width_mm=85, height_mm=50)
        figure.set_layout_engine("none")
        for left in (0.1 + off, 0.6):
            figure.add_axes((left, 0.2, 0.3, 0.6)).plot([1, 2, 3], [3, 1, 2])
        return figure

    first = render(placed(0), "svg")
    assert first == render(placed(1e-13), "svg") != render(placed(1e-3), "svg")
    clips = set(re.findall(rb'<clipPath id="([^"]+)"', first))
    assert len(clips) == 2
    assert clips == set(re.findall(rb"url\(#([^)]+)\)", first))


@pytest.mark.parametrize("file_format", ["png", "jpg", "pdf", "svg"])
def test_equal_figures_give_equal_bytes(file_format: str) -> None:
    figure = example()
    first = render(figure, file_format)
    assert first == render(figure, file_format) == render(example(), file_format)
    assert b"Date" not in first and b":date" not in first


def test_pdf_embeds_truetype_and_svg_keeps_text() -> None:
    pdf = render(example(), "pdf")
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    assert "Area (µm²)" in render(example(), "svg").decode()


def test_a_dollar_sign_is_only_a_dollar_sign() -> None:
    assert "a$_b$c" in render(example("a$_b$c"), "svg").decode()


def test_width_is_the_journal_width() -> None:
    assert example().get_size_inches()[0] * 25.4 == pytest.approx(85)
    # A PNG's width stands in bytes 16 to 20.
    assert int.from_bytes(render(example(), "png")[16:20]) == int(85 / 25.4 * 300)


def test_save_writes_every_format_and_the_plotted_table(tmp_path: Path) -> None:
    table = pd.DataFrame({"label": ["=1+1", "N0"], "delta": [-0.3, 0.25]})
    paths = save_figure(example(), tmp_path / "slide.1", table=table)
    assert [path.name for path in paths] == [
        "slide.1.png",
        "slide.1.pdf",
        "slide.1.svg",
        "slide.1.csv",
    ]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert (tmp_path / "slide.1.csv").read_text() == "label,delta\n'=1+1,-0.3\nN0,0.25\n"
    assert (tmp_path / "slide.1.svg").read_bytes() == render(example(), "svg")


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.svg").write_text("old")
    figure = example()
    monkeypatch.setattr(figure, "savefig", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_figure(figure, tmp_path / "a", formats=["svg"])
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.svg", "old")]


def test_palette_is_eight_different_colors() -> None:
    assert len(set(PALETTE)) == 8


def test_import_needs_neither_pyplot_nor_an_engine() -> None:
    heavy = ("matplotlib.pyplot", "torch", "tensorflow")
    code = (
        f"import sys, morphomil.figures; print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.fixture
def forgotten_font() -> Iterator[None]:
    journal_font.cache_clear()
    yield
    journal_font.cache_clear()


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        ({"Arial", "DejaVu Sans"}, ""),
        ({"Liberation Sans"}, "Arial's widths"),
        ({"DejaVu Sans"}, "is wider"),
    ],
)
@pytest.mark.usefixtures("forgotten_font")
def test_a_missing_font_is_told(
    installed: set[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(font_manager, "get_font_names", lambda: sorted(installed))
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    assert describe_font("plain") == ""
    for look in ("nature", "frontiers"):
        note = describe_font(look)
        assert said in note
        assert bool(note) == bool(said)
