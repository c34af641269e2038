"""The slide browser in a real one: layers, keys, pointer, review, links; no console errors, no
foreign request."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import chromium
import firefox
import numpy as np
import pytest
from PIL import Image

from morphomil.run import Run
from morphomil.run.reviews import read_reviews
from morphomil.viewer.serving import SlideServer

HOSTILE = "<img src=x onerror=alert(1)>"
LAYERS = "document.querySelector('canvas.layers').dataset"
KEYS = {"+": ("NumpadAdd", 107), "0": ("Digit0", 48), "1": ("Digit1", 49), "2": ("Digit2", 50),
        "3": ("Digit3", 51), "a": ("KeyA", 65), "f": ("KeyF", 70), "l": ("KeyL", 76),
        "n": ("KeyN", 78), "r": ("KeyR", 82), "u": ("KeyU", 85)}  # fmt: skip


Browser = chromium.Browser | firefox.Firefox


BOTH = pytest.mark.parametrize("kind", ["chromium", "firefox"])


@pytest.fixture
def kind() -> str:
    return "chromium"


@pytest.fixture
def browser(tmp_path: Path, kind: str) -> Iterator[Browser]:
    program = {"chromium": chromium.PROGRAM, "firefox": firefox.PROGRAM}[kind]
    if program is None:
        pytest.skip(f"no {kind} on this machine")
    make = chromium.Browser if kind == "chromium" else firefox.Firefox
    with make(tmp_path / "profile") as browser:
        yield browser


def opened(browser: Browser, server: SlideServer, link: str = "") -> None:
    browser.open(server.address + link)
    browser.wait(f"Number({LAYERS}.nuclei) > 0")
    browser.ask("document.querySelector('.openseadragon-canvas').focus()")


def press(browser: Browser, key: str) -> None:
    code, number = KEYS[key]
    browser.press(key, code=code, number=number, text=key)


def on_screen(browser: Browser, x: float, y: float) -> list[float]:
    """Where a level-0 place is in the window."""
    point = f"viewer.viewport.imageToViewerElementCoordinates(new OpenSeadragon.Point({x}, {y}))"
    box = "document.getElementById('view').getBoundingClientRect()"
    found: list[float] = browser.ask(f"((p, b) => [p.x + b.left, p.y + b.top])({point}, {box})")
    return found


def text(browser: Browser, name: str) -> str:
    return str(browser.ask(f"document.getElementById({name!r}).textContent"))


@BOTH
def test_it_opens_with_tissue_and_outlines_and_keys_switch_the_rest(
    page: SlideServer, browser: Browser, tmp_path: Path
) -> None:
    opened(browser, page)
    browser.wait("document.getElementById('status').textContent.includes('is open')")
    shown = {name: browser.ask(f"Number({LAYERS}.{name})") for name in ("heatmap", "patches")}
    assert shown == {"heatmap": 0, "patches": 0}
    browser.wait(f"Number({LAYERS}.nuclei) === {len(page.slides._on_image(0, 0).label)}")
    zoomed_out = float(browser.ask(f"{LAYERS}.zoom"))
    press(browser, "2")
    browser.wait(f"Number({LAYERS}.patches) === 4")
    press(browser, "1")
    browser.wait(f"Number({LAYERS}.heatmap) === 4")
    assert "2nd to 98th percentile of the cohort (2 slides" in text(browser, "heat-bar")
    press(browser, "f")  # neither flips nor rotates
    assert browser.ask("viewer.viewport.getFlip()") is False
    for _ in range(4):
        press(browser, "+")
    browser.wait(f"Number({LAYERS}.zoom) > {zoomed_out * 1.5}")
    browser.wait(f"viewer.world.getItemAt(0).getFullyLoaded() && Number({LAYERS}.missing) === 0")
    browser.screenshot(tmp_path / "zoomed.png")
    seen = np.asarray(Image.open(tmp_path / "zoomed.png").convert("RGB"), dtype=float)
    assert np.ptp(seen[100:800, 400:1200].mean(axis=(0, 1))) > 5, "the tissue is not drawn"
    press(browser, "3")
    browser.wait(f"Number({LAYERS}.nuclei) === 0")
    press(browser, "0")
    browser.wait(f"Math.abs(Number({LAYERS}.zoom) - {zoomed_out}) < 0.01")
    assert not browser.problems
    own = f"http://127.0.0.1:{page.server_port}/"
    assert page.token not in browser.ask("location.href")
    loaded = browser.ask("performance.getEntriesByType('resource').map(e => e.name)")
    assert all(url.startswith((own, "data:", "blob:")) for url in loaded)


@BOTH
def test_outlines_lie_on_the_nuclei(page: SlideServer, browser: Browser) -> None:
    """Of every ring that is drawn most lies on purple; a click inside one opens its nucleus."""
    opened(browser, page)
    nuclei = page.slides._on_image(0, 0)
    row = int(np.argmin(np.hypot(*(nuclei.place - [400, 350]).T)))
    x, y = nuclei.place[row].tolist()
    at = on_screen(browser, x, y)
    browser.click(*at)
    browser.wait("!document.getElementById('nucleus').hidden")
    assert text(browser, "nucleus-name") == f"Nucleus {nuclei.label[row]}"
    browser.wait("document.querySelectorAll('#measured .meter').length >= 7")
    cells = "[...document.querySelectorAll('#measured tr')].map(r => r.cells[1].textContent)"
    area = nuclei.values[nuclei.columns.index("area_um2"), row]
    assert float(browser.ask(cells)[0]) == pytest.approx(area, rel=5e-3)
    assert text(browser, "place").startswith(f"x {x:,.0f}"[:4])
    rgb = np.asarray(Image.open(page.slides.slides[0].images[0].path)).astype(int)
    ring = np.array(page.slides.nucleus(0, int(nuclei.label[row]))["rings"][0]).reshape(-1, 2)
    inner = (0.7 * ring + 0.3 * ring.mean(axis=0)).astype(int)
    assert (rgb[inner[:, 1], inner[:, 0]] == (110, 80, 160)).all()


@BOTH
def test_a_reviewer_decides_with_keys(page: SlideServer, painted: Run, browser: Browser) -> None:
    opened(browser, page)
    order = page.slides._orders(0, "random", "")
    press(browser, "n")
    browser.wait(f"document.getElementById('nucleus-name').textContent === 'Nucleus {order[0]}'")
    for number, key in enumerate("aru"):
        press(browser, "a" if key == "u" else key)
        browser.wait(
            f"document.getElementById('nucleus-name').textContent === 'Nucleus {order[number + 1]}'"
        )
    found = read_reviews(painted, "plain").set_index("label")
    assert found["decision"].to_dict() == {
        order[0]: "accept", order[1]: "reject", order[2]: "accept"
    }  # fmt: skip
    assert found["random_rank"].tolist() == [0, 1, 2]
    assert set(found["reviewer"]) == {"Dr. A"}
    browser.wait(f"Number({LAYERS}.reviews) >= 0")
    browser.ask("document.getElementById('previous').click()")
    browser.wait("document.getElementById('decision').textContent.startsWith('You: accepted')")
    press(browser, "u")
    browser.wait("document.getElementById('decision').textContent.startsWith('Not reviewed')")
    assert order[2] not in read_reviews(painted, "plain")["label"].tolist()
    opened(browser, page)  # who comes back goes on where the sample was left
    press(browser, "n")
    browser.wait(f"document.getElementById('nucleus-name').textContent === 'Nucleus {order[2]}'")
    assert not browser.problems


def test_a_link_leads_to_the_same_view(page: SlideServer, browser: Browser) -> None:
    label = int(page.slides._on_image(1, 0).label[40])
    name = "%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E"
    opened(browser, page, f"#slide={name}&image=0&x=300&y=250&mpp=0.2&nucleus={label}")
    browser.wait(f"document.title.includes({json.dumps(HOSTILE)})")
    browser.wait(f"document.getElementById('nucleus-name').textContent === 'Nucleus {label}'")
    assert browser.ask("document.querySelectorAll('[onerror]').length") == 0
    browser.wait("location.hash.includes('mpp=0.2000')")  # the page has written its own
    parts = dict(part.split("=") for part in browser.ask("location.hash.slice(1)").split("&"))
    assert (parts["mpp"], parts["nucleus"]) == ("0.2000", str(label))
    assert abs(int(parts["y"]) - 250) < 3
    browser.ask("document.getElementById('slide').value = '0'")
    browser.ask("document.getElementById('slide').dispatchEvent(new Event('change'))")
    browser.wait("document.title.startsWith('plain')")
    browser.wait("document.getElementById('nucleus').hidden")
    assert not browser.problems


def test_every_control_is_reached_by_tab(page: SlideServer, browser: Browser) -> None:
    opened(browser, page)
    browser.ask("document.activeElement.blur()")
    reached = set()
    for _ in range(30):
        browser.press("Tab", number=9)
        reached.add(browser.ask("document.activeElement.id || document.activeElement.className"))
    assert {
        "slide", "nuclei", "feature", "heatmap", "regions", "patches", "gallery", "next",
        "previous", "go-on", "in", "out", "home", "link",
    } <= reached  # fmt: skip
    assert any("openseadragon-canvas" in name for name in reached)
    unnamed = browser.ask(
        "[...document.querySelectorAll('button, select, input')].filter(e => "
        "!(e.labels?.length || e.textContent.trim() || e.ariaLabel)).map(e => e.id)"
    )
    assert unnamed == []


def test_colors_by_a_feature_are_those_of_its_value(page: SlideServer, browser: Browser) -> None:
    opened(browser, page)
    browser.ask("document.getElementById('feature').value = '0'")
    browser.ask("document.getElementById('feature').dispatchEvent(new Event('input'))")
    browser.wait("document.getElementById('nuclei-bar').textContent.includes('Area')")
    limits = page.slides.cohort.nuclei.limits("area_um2")
    ticks = browser.ask("[...document.querySelectorAll('#nuclei-bar span')].map(s => s.innerText)")
    said = [float(tick.strip("≤≥ ")) for tick in ticks]
    assert [said[0], said[2]] == pytest.approx(limits, rel=5e-3)
    assert not browser.problems


@pytest.mark.parametrize("dark", [False, True])
def test_touch_and_small_screens(page: SlideServer, browser: Browser, dark: bool) -> None:
    browser.open(page.address, width=420, height=800, dark=dark)
    browser.wait(f"Number({LAYERS}.nuclei) > 0")
    assert browser.ask("document.documentElement.scrollWidth <= innerWidth")
    place = page.slides._on_image(0, 0).place
    x, y = place[int(np.argmin(np.hypot(*(place - [400, 350]).T)))].tolist()
    browser.ask("document.getElementById('view').scrollIntoView()")
    at = on_screen(browser, x, y)
    hidden = "document.getElementById('nucleus').hidden"
    for _ in range(20):  # a slow machine makes a long press of a tap
        browser.tap(*at)
        time.sleep(0.5)
        if not browser.ask(hidden):
            break
    browser.wait(f"!{hidden}")
    assert not browser.problems
