"""A run directory -> files of other tools: QuPath, scverse, TRIDENT, CLAM, spreadsheets."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal, get_args

from morphomil.errors import InputError
from morphomil.store import safe_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from morphomil.run.directory import Run
    from morphomil.types import Slide

__all__ = ["Target", "export_run", "file_stems"]

Target = Literal["qupath", "anndata", "spatialdata", "trident", "clam", "csv"]


def export_run(
    run: Run,
    target: Target,
    *,
    out: Path | None = None,
    slides: Sequence[str] = (),
    on_file: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Write a measured run's results for another tool; files that are there are replaced, each
    whole or not at all.

    Args:
        run: with nuclei tables (`featurize`).
        target: qupath: GeoJSON of every image; anndata: `patches.h5ad`, `histograms.h5ad`,
            `slides.h5ad`, `nuclei/STEM.h5ad`; spatialdata: `STEM.zarr` of every image; trident and
            clam: HDF5 bags of every image; csv: tables.
        out: folder, `RUN/export/TARGET` if not given.
        slides: names of the slides to export; all measured ones if empty.
        on_file: hears of every file that is written.

    Returns:
        The files, in the order of writing.

    Raises:
        InputError: nothing is measured, a named slide isn't, or the target is unknown.
        BusyError: another process works in the run directory.
    """
    from morphomil.export import bags, h5ad, qupath, spatialdata, tables

    writers = {
        "qupath": qupath.write_run,
        "anndata": h5ad.write_run,
        "spatialdata": spatialdata.write_run,
        "trident": bags.write_trident,
        "clam": bags.write_clam,
        "csv": tables.write_run,
    }
    if target not in writers:
        raise InputError(f"exports go to {', '.join(get_args(Target))}; got {target!r}")
    folder, written = out or run.export_folder(target), []
    reading = not folder.resolve().is_relative_to(run.path.resolve())
    with run.lock(reading=reading):
        for path in writers[target](run, _chosen(run, slides), folder):
            if on_file:
                on_file(path)
            written.append(path)
    return written


def _chosen(run: Run, names: Sequence[str]) -> list[Slide]:
    """The measured slides, or those of these names.

    Raises:
        InputError: there are none, or a name isn't among them.
    """
    measured = set(run.done("featurize"))
    if not measured:
        raise InputError(f"{run.path} has no measured slides; run: morphomil featurize {run.path}")
    wanted = [run.slide(name) for name in dict.fromkeys(names)] or run.cohort.slides
    if missing := [slide.slide_id for slide in wanted if names and slide.slide_id not in measured]:
        causes = run.figures("featurize").set_index("slide_id")["cause"]
        raise InputError(
            [
                f"slide {name} has no nuclei to export: {causes[name]}"
                if causes[name]
                else f"slide {name} isn't measured; run: morphomil featurize {run.path}"
                for name in missing
            ]
        )
    return [slide for slide in wanted if slide.slide_id in measured]


def file_stems(run: Run) -> dict[tuple[str, int], str]:
    """A file name without ending for every image of the cohort, by slide and number of the image.

    The slide's name where that is safe, with the image's number where the slide has several; no two
    are alike, not even where case doesn't count.
    """
    stems: dict[tuple[str, int], str] = {}
    used: set[str] = set()
    for slide in run.cohort.slides:
        for number in range(len(slide.images)):
            several = len(slide.images) > 1
            stem = safe_name(f"{slide.slide_id}_{number}" if several else slide.slide_id)
            if stem.casefold() in used:
                mark = hashlib.blake2b(
                    f"{number}/{slide.slide_id}".encode(), digest_size=8
                ).hexdigest()
                stem = f"{stem}-{mark}"
            used.add(stem.casefold())
            stems[slide.slide_id, number] = stem
    return stems
