"""A run directory in a notebook: its tables, its pixels, its nuclei drawn."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morphomil.errors import InputError
from morphomil.nuclei.registry import FEATURES
from morphomil.run.directory import Run

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


def load_run(path: str | Path) -> LoadedRun:
    """The run directory at `path`.

    Raises:
        InputError: there is none.
    """
    return LoadedRun(Run.open(Path(path)).path)


class LoadedRun(Run):
    """A run directory for exploration: the readers of `Run`, thumbnails, and drawings of nuclei."""

    def thumbnail(self, slide_id: str, *, image: int = 0, max_px: int = 1024) -> NDArray[np.uint8]:
        """RGB uint8 (H, W, 3) of a slide's image, its longer side at most `max_px`.

        Args:
            slide_id: of the cohort.
            image: which of the slide's image files, from 0.
            max_px: the longer side; a smaller image isn't enlarged.

        Raises:
            InputError: the run has no such slide or image.
            SlideError: the file can't be read.
        """
        with self.open_image(slide_id, image) as opened:
            return opened.thumbnail(max_px)

    def show_nuclei(
        self,
        slide_id: str,
        feature: str | None = None,
        *,
        patch_id: int | None = None,
        count: int = 4,
    ) -> Figure:
        """Patches of a slide with the outlines of their nuclei, colored by a feature where one is
        named.

        Args:
            slide_id: of the cohort.
            feature: a column of the nuclei table.
            patch_id: the patch to show; without it those with most nuclei.
            count: how many patches to show without `patch_id`.

        Raises:
            InputError: no such slide, feature or patch, or no nuclei.
            SlideError: the slide's file can't be read.
        """
        from morphomil.figures.contours import contact_sheet
        from morphomil.figures.patch_examples import read_example
        from morphomil.nuclei.quantities import feature_quantity

        nuclei, patches = self.nuclei(slide_id), self.patches(slide_id).set_index("patch_id")
        if feature is not None and (feature not in nuclei or feature not in FEATURES):
            raise InputError(f"{feature!r} is no feature; the features are {', '.join(FEATURES)}")
        if patch_id is not None and patch_id not in patches.index:
            raise InputError(
                f"slide {slide_id} has no patch {patch_id}; its patches are 0 to "
                f"{patches.index.max()}"
            )
        most = nuclei["patch_id"].value_counts(sort=True).index[:count]
        shown = sorted(most) if patch_id is None else [patch_id]
        if not shown:
            raise InputError(f"slide {slide_id} has no nuclei to show")
        values = nuclei.set_index("label")[feature] if feature else None
        masks = self.masks(slide_id)
        examples = []
        for patch in patches.loc[shown].reset_index().to_dict("records"):
            with self.open_image(slide_id, patch["image"]) as image:
                region, title = masks[patch["region"]], f"patch {patch['patch_id']}"
                examples.append(read_example(image, region, patch, title=title, values=values))
        quantity = feature_quantity(feature) if feature else None
        return contact_sheet(
            examples,
            mpp=masks[int(patches["region"].loc[shown[0]])].frame.mpp,
            label=quantity.name if quantity else "",
            unit=quantity.unit if quantity else "",
            columns=min(4, math.ceil(math.sqrt(len(examples)))),
        )

    def __repr__(self) -> str:
        slides = len(self.cohort)
        states = ", ".join(f"{name} {len(self.done(stage))}" for name, stage in _STAGES.items())
        return f"Run {self.path}: {slides} slides; {states}{_describe_ranking(self)}"

    def _repr_html_(self) -> str:
        """What Jupyter shows: what is done, the groups, the slides and what comes next."""
        from morphomil.tables.slides import slide_states

        cohort = self.cohort.table()
        groups = cohort.groupby("label", sort=True).agg(
            slides=("slide_id", "size"), patients=("patient", "nunique")
        )
        measured = slide_states(self)
        columns = [
            "slide_id",
            "patient",
            "label",
            "state",
            "patches_kept",
            "nuclei",
            "nuclei_per_mm2",
            "cause",
        ]
        slides = measured[[name for name in columns if name in measured]]
        tables = (groups.reset_index().to_html(index=False, border=0), _table(slides))
        return f"<p>{escape(repr(self))}</p>" + "".join(tables)


_STAGES = {"segmented": "segment", "measured": "featurize"}


def _table(slides: Any) -> str:
    return str(
        slides.to_html(index=False, border=0, max_rows=10, float_format="{:,.0f}".format, na_rep="")
    )


def _describe_ranking(run: Run) -> str:
    about = run.ranking_about()
    if not about:
        return "; not ranked"
    first = run.ranking["feature"].iloc[0]
    return (
        f"; ranked, {first} first, AUC {about['auc']:.2f} ({about['auc_low']:.2f} to "
        f"{about['auc_high']:.2f})"
    )
