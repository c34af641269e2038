"""The nouns of morphomil: cohorts, slides, settings, table schemas, errors.

Coordinates are level-0 pixels (x right, y down) of the image that a row belongs to. Lengths are um,
areas um2, densities nuclei/mm2, angles degrees; the unit stands in the column name.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from morphomil.errors import InputError
from morphomil.numerals import read_digits

if TYPE_CHECKING:
    import pandas as pd

    from morphomil.places import Place

RegionMode = Literal["auto", "annotation", "white", "tissue", "whole", "epithelium"]
GridMode = Literal["paper", "fit"]
AnnotationOrigin = Literal["level0", "bounds"]
"""Where an annotation's coordinates begin: at the level-0 origin, or where the scanned part does
(OpenSlide's bounds)."""
Split = Literal["train", "val", "test"]
Reading = Literal["quantiles", "histograms"]
"""What the morphometry model reads of a feature: its quantile function with views of the patches
(`rank.representation`), or the plain histogram."""
Normalize = Literal["unit", "percentile"]
NormalizeStain = Literal["auto", "always", "never"]
Implausible = Literal["drop", "keep"]
Engine = Literal["openvino", "tensorflow"]
Precision = Literal["auto", "float32", "bfloat16", "int8"]
NucleusType = Literal["epithelial", "lymphocyte", "stroma", "other"]
NUCLEUS_TYPES: tuple[NucleusType, ...] = get_args(NucleusType)
"""Whose nucleus it is: of epithelium, benign or malignant; a lymphocyte or another round cell of
inflammation; a spindle cell of stroma (fibroblast, endothelium, smooth muscle); or none of them.
Probabilities of types stand in this order."""
WhoseNuclei = Literal["all", "epithelial", "lymphocyte", "stroma"]
"""Whose nuclei make the matrices."""
Device = Literal["auto", "cpu", "cuda"]
"""Where a network computes; auto: on a CUDA GPU if there is one, else on the processor."""
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
if (_stated := read_digits(os.environ.get("MORPHOMIL_CORES", ""))) is not None:
    CORES = max(1, min(CORES, _stated))
"""So many slides, and blocks, are worked side by side; fewer where `MORPHOMIL_CORES` says so."""


@dataclass(frozen=True)
class ImageSource:
    """One image file of a slide: a whole slide, or one of several region images.

    `mpp` (um per level-0 pixel) and `annotation` are what the manifest says; None: take it from the
    file, or none. `annotation_origin` is where the annotation's coordinates begin; None: as its
    format has it.
    """

    path: Place
    annotation: Place | None = None
    mpp: float | None = None
    annotation_origin: AnnotationOrigin | None = None


@dataclass(frozen=True)
class Slide:
    """One slide of a patient: its image files and its row of the manifest."""

    slide_id: str
    patient: str
    label: str
    images: tuple[ImageSource, ...]
    split: Split | None = None
    site: str | None = None
    covariates: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cohort:
    """All slides, in the order of the manifest."""

    slides: tuple[Slide, ...]

    def __len__(self) -> int:
        return len(self.slides)

    def table(self) -> pd.DataFrame:
        """One row per slide: `slide_id`, `patient`, `label`, `split`, `site` and the covariates."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "slide_id": s.slide_id,
                    "patient": s.patient,
                    "label": s.label,
                    "split": s.split,
                    "site": s.site,
                }
                | s.covariates
                for s in self.slides
            ]
        )


@dataclass(frozen=True)
class SegmenterSettings:
    """Which segmenter, run how: the one value that every way to segment takes.

    Raises:
        InputError: a value is none of the choices, or two don't go together.
    """

    model: str = "default"
    """"default" (the shipped weights), a model folder (of morphomil or StarDist), or a StarDist
    pretrained name, which StarDist downloads once."""
    normalize: Normalize | None = None
    """Pixel values enter the network this way: `unit`, values / 255; `percentile`, each channel's
    1st to 99.8th percentile to 0..1, as StarDist's examples; None, as the folder's `morphomil.json`
    says, else `unit` for folders and `percentile` for pretrained names."""
    engine: Engine = "openvino"
    """openvino is fast on CPUs; tensorflow is the reference and runs on GPUs that it sees."""
    device: Device = "auto"
    """On a GPU the shipped architecture runs in torch, in float32 (auto: unless a precision is
    asked for), Keras models by the tensorflow engine. Part of no key: rounding alone differs."""
    precision: Precision = "auto"
    """The openvino engine computes in it; "auto" is int8 for models with ranges for it, as shipped
    ones are, else bfloat16 where the processor has it, else float32. The shipped architecture uses
    int8 and bfloat16 in the decoder only; beside int8 the rest is bfloat16 or float32."""
    accurate: bool = False
    """The predictions of four mirrorings are averaged, which takes four times as long."""
    normalize_stain: NormalizeStain = "auto"
    """Stains are brought to a reference first; auto: as `segment.stains` says."""
    implausible: Implausible = "drop"
    """Objects that are no nuclei of H&E (fat, red cells, pigment, ink, folds, what is out of focus;
    `segment.plausible`) are dropped and counted, by models that are for H&E; or kept."""

    def __post_init__(self) -> None:
        choices = {
            "implausible": get_args(Implausible),
            "normalize": (None, *get_args(Normalize)),
            "engine": get_args(Engine),
            "precision": get_args(Precision),
            "device": get_args(Device),
            "normalize_stain": get_args(NormalizeStain),
        }
        for name, known in choices.items():
            if (value := getattr(self, name)) not in known:
                raise InputError(f"{name} is one of {', '.join(map(str, known))}, got {value!r}")
        for name, exact in (("engine", "tensorflow"), ("device", "cuda")):
            if getattr(self, name) == exact and self.precision not in ("auto", "float32"):
                raise InputError(f"{name} {exact} computes in float32, not {self.precision}")


NATIVE = 0.0
"""As a working resolution this stands for the cohort's own; `--working-mpp native`."""


@dataclass(frozen=True)
class PatchSettings:
    """How tumor patches are cut. A changed value makes a slide's results stale."""

    working_mpp: float = 0.5
    """Patches are cut and segmented at this many um per pixel; `NATIVE`: as many as the coarsest
    image of the cohort has."""
    patch_px: int = 256
    """A patch's side is this many working pixels."""
    max_blank: float = 0.3
    """A patch is dropped when this share of it, or more, is blank (outside the region, or pure
    white)."""
    max_ink: float = 0.1
    """A patch is dropped when this share of its tissue, or more, is ink (green, blue, black) or
    inverted."""
    grid: GridMode = "paper"
    """Patches begin here: `paper`, at the top left corner of a region's bounding box; `fit`, up to
    a patch further up and left, where the patches that are kept hold most of the region."""
    icc: bool = True
    """The colors of slides with an ICC profile other than sRGB are changed to sRGB first."""
    regions: RegionMode = "auto"
    """Tumor is looked for in this way; `auto` takes the annotation if there is one, else the
    white-filled crop, else detected tissue; `epithelium` outlines it from the types of the nuclei
    in the tissue."""
    tumor_classes: str = ""
    """Annotated classes that are tumor, as whole names with commas between; empty: the documented
    list (`slides.annotations.classes.TUMOR_CLASSES`)."""

    def __post_init__(self) -> None:
        if self.working_mpp != NATIVE and not 0.05 <= self.working_mpp <= 5:
            raise InputError(
                f"working resolution must be 0.05 to 5 um/px, got {self.working_mpp:g}"
            )
        if not 64 <= self.patch_px <= 8192 or self.patch_px % 4:
            raise InputError(f"patch side must be a multiple of 4, 64 to 8192, got {self.patch_px}")
        for name, most in (("blank", self.max_blank), ("ink", self.max_ink)):
            if not 0 < most <= 1:
                raise InputError(f"max {name} share must be above 0 and at most 1, got {most:g}")
        if self.grid not in get_args(GridMode):
            raise InputError(f"grid is one of {', '.join(get_args(GridMode))}, got {self.grid!r}")

    def recorded(self) -> dict[str, Any]:
        """The values by name, as results depend on them: an empty `tumor_classes` and the paper's
        grid are left out, so results from before they existed stand."""
        values = asdict(self)
        if not self.tumor_classes:
            del values["tumor_classes"]
        if self.grid == "paper":
            del values["grid"]
        return values

    @property
    def patch_um(self) -> float:
        """A patch's side is this many um."""
        return self.patch_px * self.working_mpp


QUICK_SEEDS = 3
"""A fold of a quick ranking has this many models."""
SEEDS = 5
"""A fold has this many models, each with weights and an inner validation of its own."""
PERMUTATIONS = 199
"""The labels are permuted so often, each time trained anew."""
QUICK_PERMUTATIONS = 4
"""A quick ranking permutes the labels so often: enough to standardize attention, not to test."""


@dataclass(frozen=True)
class RankSettings:
    """How features are ranked: for `rank_nuclei`, `rank_counts` and the command alike."""

    seed: int
    """Of folds, bags and training."""
    positive: str | None = None
    """The label that counts as positive, of two; needed unless they are 0 and 1."""
    ordered: str = ""
    """Three labels or more in their order, such as `low,mid,high`: differences are then trends."""
    folds: int = 5
    """Of the cross-validation, where the cohort gives no split."""
    quick: bool = False
    """Three models per fold, permutations only to standardize attention, no ablation."""
    permutations: int = PERMUTATIONS
    """Of the labels, for the null; each is trained."""
    ablation: bool = True
    """Also train without each feature, and with each alone."""
    reading: Reading = "quantiles"
    """What the model reads of a feature: the quantile function of its nuclei and of its patches, or
    the plain histogram (histograms)."""
    strata: str = ""
    """Columns of the cohort, such as `site`, with commas between: folds, permutations, tests and
    scan are made within the groups that they make together."""
    adjust: str = ""
    """Columns of the cohort, such as `age,site`, with commas between, which the model knows beside
    the features: what is ranked is what features add to them."""
    folds_by: str = ""
    """A column of the cohort, such as `site`, whose groups are predicted by the others' models."""

    allow_missing: str = ""
    """Features, with commas between, that are ranked though it tells the labels apart which
    patients lack them."""
    only_reviewed: bool = False
    """Of a run: only slides with reviews, their nuclei as the reviewers say."""

    def __post_init__(self) -> None:
        """Refuse numbers that nothing can be made of."""
        for name, least in (("seed", 0), ("folds", 2), ("permutations", 0)):
            if (value := getattr(self, name)) < least:
                raise InputError(f"{name} must be at least {least}, got {value}")

    @property
    def label_order(self) -> tuple[str, ...]:
        """The labels in `ordered`."""
        return tuple(filter(None, map(str.strip, self.ordered.split(","))))

    @property
    def may_be_missing(self) -> tuple[str, ...]:
        """The names in `allow_missing`."""
        return tuple(filter(None, map(str.strip, self.allow_missing.split(","))))

    @property
    def strata_columns(self) -> tuple[str, ...]:
        """The names in `strata`."""
        return tuple(filter(None, map(str.strip, self.strata.split(","))))

    @property
    def adjusted_columns(self) -> tuple[str, ...]:
        """The names in `adjust`."""
        return tuple(filter(None, map(str.strip, self.adjust.split(","))))

    @property
    def models_per_fold(self) -> int:
        """How many models are trained on all features."""
        return QUICK_SEEDS if self.quick else SEEDS

    @property
    def labelings(self) -> int:
        """How many permutations are trained."""
        return min(self.permutations, QUICK_PERMUTATIONS) if self.quick else self.permutations

    @property
    def tested(self) -> int:
        """How many permutations the models' p values rest on."""
        return 0 if self.quick else self.permutations

    @property
    def ablates(self) -> bool:
        """Whether models are trained on some of the features."""
        return self.ablation and not self.quick


@dataclass(frozen=True)
class Column:
    """A column of a stored table: numpy/pandas dtype, meaning (with unit), whether values may be
    missing."""

    name: str
    dtype: str
    meaning: str
    nullable: bool = False
    added: bool = False
    """Tables of earlier versions are without the column: all its values are missing then."""
    categories: tuple[str, ...] = ()
    """The values of a column of `category`; others count as missing."""

    def cast(self, values: pd.Series[Any]) -> pd.Series[Any]:
        """The values in the column's type."""
        import pandas as pd

        if not self.categories:
            return values.astype(self.dtype)  # type: ignore[call-overload,no-any-return]
        dtype = pd.CategoricalDtype(list(self.categories))
        if values.dtype == dtype:
            return values
        return values.astype("object").where(values.isin(self.categories)).astype(dtype)


@dataclass(frozen=True)
class Schema:
    """Names, types and meanings of a table's columns; each step checks its table once, on
    leaving."""

    name: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> list[str]:
        """The columns' names, in order."""
        return [c.name for c in self.columns]

    def empty(self) -> pd.DataFrame:
        """A table of no rows."""
        import pandas as pd

        return pd.DataFrame({c.name: c.cast(pd.Series(dtype="object")) for c in self.columns})

    def check(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table with the schema's columns first, in order and cast to their types; further
        columns follow.

        Raises:
            ValueError: a column is missing, can't be cast, or holds missing values where none may
                be.
        """
        absent = [c for c in self.columns if c.name not in table.columns]
        if missing := [c.name for c in absent if not c.added]:
            raise ValueError(
                f"{self.name} table lacks {', '.join(missing)}; it has {', '.join(map(str, table))}"
            )
        table = table.assign(**{c.name: math.nan for c in absent})
        if holes := [c.name for c in self.columns if not c.nullable and table[c.name].isna().any()]:
            raise ValueError(f"{self.name} table has missing values in {', '.join(holes)}")
        further = [name for name in table.columns if name not in self.names]
        cast = {c.name: c.cast(table[c.name]) for c in self.columns}
        return table[self.names + further].assign(**cast).reset_index(drop=True)


PATCHES = Schema(
    "patches",
    (
        Column("slide_id", "str", "slide"),
        Column("patch_id", "int32", "number of the patch within its slide, from 0"),
        Column("image", "int32", "which of the slide's image files, from 0"),
        Column("region", "int32", "region within the slide, from 0"),
        Column("x_px", "float64", "left edge, level-0 pixels of the image"),
        Column("y_px", "float64", "top edge, level-0 pixels of the image"),
        Column("side_px", "float64", "side, level-0 pixels"),
        Column("blank_fraction", "float64", "share of the patch outside the region or pure white"),
        Column("tissue_mm2", "float64", "area inside the region and not blank, mm2"),
        Column(
            "ink_fraction",
            "float64",
            "share of its tissue that H&E doesn't color so: ink, an inverted image",
            nullable=True,
        ),
        Column(
            "sharpness",
            "float64",
            "variance of the Laplacian over 20 variances of brightness, in the tissue",
            nullable=True,
        ),
        Column(
            "kept",
            "bool",
            "blank_fraction and ink_fraction below their limits: the patch is analyzed",
        ),
    ),
)
TISSUE_PARTS = Schema(
    "tissue parts",
    (
        Column("patch_id", "int32", "a kept patch"),
        Column("nest_mm2", "float64", "its tissue in nests of epithelial nuclei"),
        Column("stroma_mm2", "float64", "its other tissue"),
        Column("covered_mm2", "float64", "area of the lymphocytes in that stroma"),
    ),
)
"""`featurize` stores this table where the family `type` is measured."""
NUCLEI = Schema(
    "nuclei",
    (
        Column("slide_id", "str", "slide"),
        Column("patch_id", "int32", "patch that holds the centroid"),
        Column("label", "int32", "number of the nucleus in the slide's masks, from 1"),
        Column("image", "int32", "which of the slide's image files"),
        Column(
            "x_px",
            "float64",
            "centroid, level-0 pixels; a pixel's corners have integer coordinates",
        ),
        Column(
            "y_px",
            "float64",
            "centroid, level-0 pixels; a pixel's corners have integer coordinates",
        ),
        Column("area_um2", "float64", "area, um2"),
        Column(
            "major_axis_um", "float64", "long axis of the ellipse with the same second moments, um"
        ),
        Column("minor_axis_um", "float64", "short axis of that ellipse, um"),
        Column(
            "orientation_deg",
            "float64",
            "direction of the long axis, degrees in [0, 180), axial",
            nullable=True,
        ),
        Column("circumference_um", "float64", "Crofton perimeter, um"),
        Column(
            "density_per_mm2",
            "float64",
            "other nuclei within 50 um per mm2 of analyzed tissue",
            nullable=True,
        ),
        Column("circularity", "float64", "4 pi area / circumference^2"),
        Column("rectangularity", "float64", "area / area of the minimum-area rectangle"),
        Column(
            "type",
            "category",
            "the most probable of epithelial, lymphocyte, stroma, other",
            nullable=True,
            added=True,
            categories=NUCLEUS_TYPES,
        ),
        Column("type_probability", "float64", "probability of that type", True, added=True),
    ),
)
"""`featurize` stores this table: one row per nucleus."""
FEATURE_NAMES = (
    "area_um2",
    "major_axis_um",
    "minor_axis_um",
    "orientation_deg",
    "circumference_um",
    "density_per_mm2",
    "circularity",
    "rectangularity",
)
Pooling = Literal["own", "max", "mean"]
"""The last maps are pooled as the network itself does it, or to each one's largest value, or to
its mean."""
DEFAULT_BACKBONE = "efficientnet-lite0"


@dataclass(frozen=True)
class EmbedSettings:
    """Which features, from pixels prepared how."""

    backbone: str = DEFAULT_BACKBONE
    size: int = 256
    """A patch is resized to this side, pixels: 256 in the paper, 224 in its released code."""
    pooling: Pooling = "own"
    outside: Literal["white", "keep"] = "white"
    """What lies outside the tumor region is painted white, as in BCNB, or left as it is."""

    def __post_init__(self) -> None:
        """Refuse what no backbone takes."""
        if not 64 <= self.size <= 1024:
            raise InputError(
                f"patches are resized to 64 to 1024 pixels (224 or 256 are usual), got {self.size}"
            )
        if self.pooling not in ("own", "max", "mean"):
            raise InputError(f"pooling is own, max or mean, not {self.pooling!r}")
