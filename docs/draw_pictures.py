"""Remakes the pictures of the pages from one run of the demo: nuclei, plate, ranking, overview and,
where Chromium is installed, the report's first page.

python docs/draw_pictures.py demo/run
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

IMAGES = Path(__file__).parent / "images"
WIDTHS = {"nuclei": 1200, "plate": 1200, "ranking": 1400}
"""Figures of the run, by the width in pixels that the pages show."""
SLIDE = "P002"
PAGE = (1100, 1100)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "headless_shell")


def main(run: Path) -> None:
    """Write the pictures."""
    for name, width in WIDTHS.items():
        shrink(run / "figures" / f"{name}.png", IMAGES / f"{name}.png", width)
    shutil.copyfile(run / "slides" / SLIDE / "overview.png", IMAGES / "overview.png")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"No {' or '.join(BROWSERS)}: report.png stays as it is.")
        return
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--hide-scrollbars",
                f"--user-data-dir={profile}",
                f"--window-size={PAGE[0]},{PAGE[1]}",
                f"--screenshot={IMAGES / 'report.png'}",
                (run / "report.html").resolve().as_uri(),
            ],
            check=True,
            capture_output=True,
        )


def shrink(source: Path, target: Path, width: int) -> None:
    """A picture of this width."""
    with Image.open(source) as image:
        height = round(image.height * width / image.width)
        image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS).save(
            target, optimize=True
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
