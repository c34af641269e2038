"""Everything that the report shows."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from morphomil.figures.differences import NOTHING_HELD, Held

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from morphomil.figures.sentences import Auc

_MAGIC = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"))


Shape = Literal["wide", "medium", "square", "strip", "slide"]
"""A picture's shape decides its width on the page."""


@dataclass(frozen=True)
class Picture:
    """A picture as PNG, JPEG or SVG bytes, its caption, and in `alt` what it shows for those who
    can't see it."""

    title: str
    alt: str
    data: bytes
    caption: str = ""
    shape: Shape = "wide"

    @property
    def uri(self) -> str:
        """The picture as a data URI; an SVG within an image element runs no script and loads
        nothing."""
        media = next(
            (name for magic, name in _MAGIC if self.data.startswith(magic)), "image/svg+xml"
        )
        return f"data:{media};base64,{base64.b64encode(self.data).decode('ascii')}"


@dataclass(frozen=True)
class SlidePictures:
    """A slide's pictures in the gallery."""

    slide_id: str
    label: str
    pictures: tuple[Picture, ...]
    absent: str = ""
    """Why there are none."""


@dataclass(frozen=True)
class AttentionSection:
    """What the image models look at, in terms of nuclei: sentences, tables and pictures.

    `morphology`: `model, feature, patients`, and for `attention` and `occlusion` each a text with
    the interval and the adjusted p. `scores`: of each pair of models, how alike they score
    patients; may be empty.
    """

    sentences: tuple[str, ...]
    morphology: pd.DataFrame
    scores: pd.DataFrame
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class ScanSection:
    """How the groups differ without a model, and how well plain models predict.

    `features`: one row per feature, the summary that differs most, Cliff's delta with its interval
    as a text, p alone and for all features together. `baselines`: of each model its AUC and the
    difference from the morphometry model's, texts with intervals.
    """

    findings: tuple[str, ...]
    features: pd.DataFrame
    baselines: pd.DataFrame


@dataclass(frozen=True)
class LimitsSection:
    """What to know before results are believed: sentences, and how reliably features are measured
    (one row per data set and feature; may be empty)."""

    sentences: tuple[str, ...]
    reliability: pd.DataFrame


@dataclass(frozen=True)
class ReportData:
    """Everything that the report shows; a part that is None is left out.

    `flow`: one row per step of the patient flow, first column its name, then counts and what was
    lost why. `cohort`: any table. `slides`: slide_id, patient, label, state ("done" or why not),
    patches_kept, patches_dropped, nuclei, nuclei_per_mm2, median_area_um2, cause ("" if done).
    `ranking`: as `ranking_plot`, with n_positive, n_reference, median_positive, median_reference.
    `verdict` says what the tests allow to say, `verdict_plain` the same without p values,
    `statement` how the ways of ranking agree, `interaction` which pair of features tells more
    together; `cautions` are further sentences of the summary.
    `held` is what the ranking holds constant.
    `whose` says whose nuclei the features are; `types`: composition by group, label, patients and
    a text with the interval for each type. `reviews`: agreement of reviewers by slide, texts.
    `performance` and `comparison`: any tables of the models. `pictures` are all further figures,
    `absent` sentences on those that could not be drawn.
    """

    title: str
    positive: str
    reference: str
    flow: pd.DataFrame
    cohort: pd.DataFrame
    slides: pd.DataFrame
    ranking: pd.DataFrame | None = None
    held: Held = NOTHING_HELD
    verdict: str = ""
    verdict_plain: str = ""
    verdict_picture: Picture | None = None
    statement: str = ""
    interaction: str = ""
    auc: Auc | None = None
    limits: LimitsSection | None = None
    ranking_picture: Picture | None = None
    groups_picture: Picture | None = None
    scan: ScanSection | None = None
    scan_picture: Picture | None = None
    roc_picture: Picture | None = None
    performance: pd.DataFrame | None = None
    comparison: pd.DataFrame | None = None
    attention: AttentionSection | None = None
    pictures: tuple[Picture, ...] = ()
    absent: tuple[str, ...] = ()
    gallery: tuple[SlidePictures, ...] = ()
    gallery_note: str = ""
    cautions: tuple[str, ...] = ()
    nucleus_classes: bool = False
    whose: str = ""
    types: pd.DataFrame | None = None
    reviews: pd.DataFrame | None = None
    methods: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
