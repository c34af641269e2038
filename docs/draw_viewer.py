"""Remakes `images/viewer.webp`, a walk through the slide browser on real tissue: CMU-1-Small-Region
of OpenSlide's test data (CC0). Needs Chromium; without it the picture stays as it is.

python docs/draw_viewer.py .slides/cmu_small_region.svs
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from PIL import Image

from morphomil.run.directory import Run
from morphomil.viewer import Reviewer
from morphomil.viewer.serving import make_server

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import chromium

PICTURE = Path(__file__).parent / "images" / "viewer.webp"
SIZE, SHOWN = (1200, 760), (960, 608)
MIDDLE = (1010, 1560)
"""Level-0 pixels that the walk goes to."""
STEPS = 5
"""Pictures on the way there."""
CANVAS = "document.querySelector('canvas.layers').dataset"
DRAWN = f"Number({CANVAS}.missing) === 0 && viewer.world.getItemAt(0).getFullyLoaded()"


class Walk:
    """Pictures of the page, each with how long it is shown (ms)."""

    def __init__(self, browser: chromium.Browser, folder: Path) -> None:
        self.browser, self.folder = browser, folder
        self.frames: list[tuple[Image.Image, int]] = []

    def show(self, ms: int) -> None:
        """Keep what is seen when all is drawn."""
        self.browser.wait(DRAWN)
        self.browser.ask("new Promise((done) => setTimeout(done, 300))")
        path = self.folder / f"{len(self.frames)}.png"
        self.browser.screenshot(path)
        self.frames.append(
            (Image.open(path).convert("RGB").resize(SHOWN, Image.Resampling.LANCZOS), ms)
        )

    def go(self, zoom: float) -> None:
        """Bring the middle into view, so many times larger than the whole slide."""
        x, y = MIDDLE
        share = min(1.0, zoom / 4)
        self.browser.ask(
            "(() => { const v = viewer.viewport, home = v.getHomeBounds().getCenter();"
            f"const to = v.imageToViewportCoordinates({x}, {y});"
            f"v.zoomTo(v.getHomeZoom() * {zoom}, null, true);"
            f"v.panTo(home.plus(to.minus(home).times({share})), true); }})()"
        )

    def choose(self, name: str, words: str) -> None:
        """Choose of a list the option that begins so."""
        self.browser.ask(
            f"(() => {{ const list = document.getElementById('{name}');"
            f"list.value = [...list.options].find((one) => one.text.startsWith('{words}')).value;"
            "list.dispatchEvent(new Event('input', { bubbles: true })); })()"
        )

    def save(self) -> None:
        """Write the pictures as one that moves."""
        images, durations = zip(*self.frames, strict=True)
        images[0].save(
            PICTURE,
            save_all=True,
            append_images=images[1:],
            duration=list(durations),
            loop=0,
            quality=70,
            method=6,
        )


def main(slide: Path) -> None:
    """Analyze the slide, walk through it, write the picture."""
    if chromium.PROGRAM is None:
        print("No Chromium: viewer.webp stays as it is.")
        return
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        cohort, run = folder / "cohort.csv", folder / "run"
        cohort.write_text(f"slide,patient,label\n{slide.resolve()},CMU-1,skin\n")
        program = Path(sys.executable).with_name("morphomil")
        subprocess.run([program, "segment", cohort, "--out", run, "--quiet"], check=True)
        subprocess.run([program, "featurize", run, "--quiet"], check=True)
        server = make_server(Run.open(run), reviewer=Reviewer("you"))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with chromium.Browser(folder / "profile") as browser:
            browser.open(server.address, width=SIZE[0], height=SIZE[1])
            browser.wait(f"Number({CANVAS}.nuclei) + Number({CANVAS}.cells) > 0", seconds=60)
            walk(Walk(browser, folder))
        server.shutdown()


def walk(page: Walk) -> None:
    """From the whole slide to a nucleus, accepted."""
    page.choose("feature", "Area")
    page.show(1500)
    for step in range(1, STEPS + 1):
        page.go(1.6**step)
        page.show(1500 if step == STEPS else 250)
    page.choose("feature", "Circularity")
    page.show(1500)
    page.browser.ask("document.getElementById('next').click()")
    page.browser.wait("!document.getElementById('nucleus').hidden")
    page.show(2200)
    page.browser.ask("document.querySelector('[data-decision=accept]').click()")
    page.show(2000)
    page.save()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
