"""A run directory: where each result lies, whether it is still valid, and its readers."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.cohort.table import cohort_from_table, cohort_table
from morphomil.errors import DamagedError, InputError, SlideError
from morphomil.nuclei.registry import features_of
from morphomil.nuclei.types import of_type
from morphomil.places import identity, split_image_number
from morphomil.run.claims import Part, alone, working_in
from morphomil.run.ledger import Ledger
from morphomil.run.log import CommandLog
from morphomil.store import (
    read_csv,
    read_json,
    read_parquet,
    reading,
    safe_name,
    write_parquet,
)
from morphomil.types import NUCLEI, PATCHES, TISSUE_PARTS

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from morphomil.places import Place
    from morphomil.run.claims import Claim
    from morphomil.slides.image import SlideImage
    from morphomil.slides.masks import RegionMasks
    from morphomil.types import Cohort, Schema, Slide

SAID_FILE = "nuclei_said.parquet"
"""In a slide's folder: what the file that its nuclei were imported from says of each."""


@dataclass(frozen=True)
class SlideCounts:
    """How many nuclei of each kept patch fall in each fine bin of each feature's range
    (`matrix.count_nuclei`)."""

    features: tuple[str, ...]
    patch_id: NDArray[np.int64]  # (patches,)
    counts: NDArray[np.uint32]  # (features, patches, fine bins)


@dataclass(frozen=True)
class Run:
    """A run directory: where each result lies, whether it is still valid, and its readers."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> Run:
        """The run directory at `path`, made or gone on with.

        Raises:
            InputError: the folder can't be written, or holds something else.
        """
        run = cls(path)
        if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not run._is_run())):
            raise InputError(
                f"{path} exists and is no run directory; name a new or empty folder with --out"
            )
        return run

    @classmethod
    def open(cls, path: Path) -> Run:
        """An existing run directory.

        Raises:
            InputError: there is none at `path`.
        """
        run = cls(path)
        if not run._is_run():
            raise InputError(
                f"{path} is no run directory; make one with: morphomil segment COHORT --out {path}"
            )
        return run

    def _is_run(self) -> bool:
        known = ("cohort.parquet", "run.json")  # one of them may be lost
        return any((self.path / name).is_file() for name in known) or any(self.path.glob(".lock*"))

    def save_cohort(self, cohort: Cohort) -> None:
        """Store the cohort that the run is about; a changed manifest replaces it.

        Parts of a run that start together write it once.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with alone(self.path):
            self.__dict__.pop("cohort", None)
            try:
                known = self.cohort == cohort
            except DamagedError:
                known = False
            if not known:
                write_parquet(self.path / "cohort.parquet", cohort_table(cohort))
                self.__dict__.pop("cohort", None)

    @cached_property
    def cohort(self) -> Cohort:
        """The cohort as the last `segment` read it.

        Raises:
            DamagedError: its file is missing or can't be read.
        """
        path = self.path / "cohort.parquet"
        with reading(path):
            return cohort_from_table(read_parquet(path))

    def lock(
        self, part: Part = Part(), *, wait: float | None = None, reading: bool = False
    ) -> AbstractContextManager[Claim]:
        """The right to work in the run; held by one process at a time, with parts by one for each
        (`claims.working_in`)."""
        return working_in(self.path, part, wait=wait, reading=reading)

    def slide_folder(self, slide_id: str) -> Path:
        """Where a slide's regions, patches, masks and nuclei lie."""
        return self.path / "slides" / safe_name(slide_id)

    @property
    def rank_folder(self) -> Path:
        """Where the ranking lies, with everything that it rests on."""
        return self.path / "rank"

    @property
    def contributions_folder(self) -> Path:
        """Where the nuclei's contributions to the ranking's predictions lie."""
        return self.rank_folder / "nuclei"

    @property
    def rank_parts_folder(self) -> Path:
        """Where parts of a ranking's training lie until it is whole."""
        return self.rank_folder / "parts"

    def contributions_path(self, slide_id: str) -> Path:
        """What each nucleus of a slide contributes to its prediction."""
        return self.contributions_folder / f"{safe_name(slide_id)}.parquet"

    def model_folder(self, model: str) -> Path:
        """Where a model's folds and its predictions lie."""
        return self.path / "models" / model

    def fold_folder(self, model: str, fold: str) -> Path:
        """Where a model lies as it was trained on one fold."""
        return self.model_folder(model) / fold

    def model_files(self, name: str) -> list[Path]:
        """The files of this name that models have for all folds together, by model."""
        return sorted(self.path.glob(f"models/*/{name}"))

    def fold_files(self, name: str, *, model: str = "*") -> list[Path]:
        """The files of this name that folds of models have, by model and fold."""
        return sorted(self.path.glob(f"models/{model}/*/{name}"))

    def map_path(self, model: str, slide_id: str, *, image: int = 0) -> Path:
        """The scores of the patches of a slide's image, as a model reads it."""
        number = f"-{image}" if image else ""
        return self.model_folder(model) / "maps" / f"{safe_name(slide_id)}{number}.geojson"

    @property
    def backbone_folders(self) -> list[Path]:
        """The folders of deep features that there are, by backbone."""
        return sorted(path for path in (self.path / "embeddings").glob("*") if path.is_dir())

    def embeddings_folder(self, backbone: str) -> Path:
        """Where the slides' deep features by a backbone lie."""
        return self.path / "embeddings" / backbone

    @property
    def tables_folder(self) -> Path:
        """Where the paper's tables lie."""
        return self.path / "tables"

    @property
    def alongside_folder(self) -> Path:
        """Where the tables lie that set the ranking beside the image models."""
        return self.path / "alongside"

    @property
    def figures_folder(self) -> Path:
        """Where the figures lie."""
        return self.path / "figures"

    def slide_figures_folder(self, slide_id: str) -> Path:
        """Where the pictures of a slide lie."""
        return self.figures_folder / "slides" / safe_name(slide_id)

    def map_figures_folder(self, model: str, slide_id: str) -> Path:
        """Where the pictures lie that show how a model reads a slide."""
        return self.figures_folder / "models" / model / safe_name(slide_id)

    @property
    def report_path(self) -> Path:
        """The report."""
        return self.path / "report.html"

    def export_folder(self, target: str) -> Path:
        """Where an export to a format lies, unless another place is named."""
        return self.path / "export" / target

    @property
    def ledger(self) -> Ledger:
        """What the stages that work slide by slide have done."""
        return Ledger(self.path / "slides", "{slide}/status.json", ("segment", "featurize"))

    @property
    def log(self) -> CommandLog:
        """The commands that worked on the run."""
        return CommandLog(self.path / "run.json")

    def figures(self, stage: str) -> pd.DataFrame:
        """One row per slide of the cohort: `slide_id`, `patient`, `label`, `state` (done, empty,
        failed, missing), `cause`, a stage's figures."""
        return self.ledger.figures(self.cohort.slides, stage)

    def done(self, stage: str) -> list[str]:
        """The slides that a stage has results for, in the cohort's order; none of the empty
        ones."""
        return self.ledger.done(self.cohort.slides, stage)

    def losses(self, stage: str) -> dict[str, str]:
        """The slides that failed or are empty in a stage or before it, and why, in the cohort's
        order."""
        names = [slide.slide_id for slide in self.cohort.slides]
        causes = {name: self.ledger.cause(name, stage) for name in names}
        return {name: cause for name, cause in causes.items() if cause}

    def patches(self, slide_id: str | None = None) -> pd.DataFrame:
        """A slide's patches (schema `PATCHES`, and where the family `type` is measured
        `TISSUE_PARTS`); without a name those of every segmented slide.

        Raises:
            InputError: the slide isn't in the run, or not segmented.
        """
        patches = self.cut_patches(slide_id)
        name = "tissue_parts.parquet"
        if slide_id is None or name not in self._outputs(slide_id, "featurize"):
            return patches
        path = self._output(slide_id, "featurize", name)
        with reading(path):
            parts = TISSUE_PARTS.check(read_parquet(path))
        return patches.merge(parts, on="patch_id", how="left", validate="one_to_one")

    def cut_patches(self, slide_id: str | None = None) -> pd.DataFrame:
        """`patches` as `segment` wrote them, whatever was measured since.

        Raises:
            InputError: as `patches`.
        """
        return self._table("patches", slide_id, PATCHES, stage="segment")

    def nuclei(self, slide_id: str | None = None) -> pd.DataFrame:
        """A slide's nuclei (schema `NUCLEI`); without a name those of every measured slide.

        Raises:
            InputError: the slide isn't in the run, or not measured.
        """
        return self._table("nuclei", slide_id, NUCLEI, stage="featurize")

    def counted_nuclei(self, slide_id: str) -> pd.DataFrame:
        """A slide's nuclei as the matrices count them: of a run that is about one type, the
        features of the others are missing (`nuclei.types.of_type`).

        Raises:
            InputError: as `nuclei`.
        """
        return of_type(self.nuclei(slide_id), self.whose)

    @property
    def whose(self) -> str:
        """Whose nuclei the matrices count: all, or a type."""
        return str(self._measured_with().get("nuclei", "all"))

    @property
    def features(self) -> tuple[str, ...]:
        """The features that the run was measured with; before that, those without a family."""
        return tuple(self._measured_with().get("features", features_of()))

    def _measured_with(self) -> dict[str, Any]:
        return dict(self.commands().get("featurize", {}).get("settings", {}))

    def said_of_nuclei(self, slide_id: str) -> pd.DataFrame | None:
        """What the file that a slide's nuclei were imported from says of each: `label`, `type`,
        `type_probability`, `detection_probability`, as far as it has them; None where it has none
        or the nuclei were segmented here."""
        outputs = self._outputs(slide_id, "segment")
        if SAID_FILE not in outputs:
            return None
        return read_parquet(self._output(slide_id, "segment", SAID_FILE))

    def _outputs(self, slide_id: str, stage: str) -> dict[str, str]:
        """The digests of what a stage has left of a slide, by name; none where it hasn't worked."""
        return dict(self.ledger.status(slide_id).get(stage, {}).get("outputs", {}))

    def _output(self, slide_id: str, stage: str, name: str) -> Path:
        """Where an output of a stage lies, which isn't damaged."""
        maker = "segment (or import-nuclei)" if stage == "segment" else stage
        again = f"run morphomil {maker} again, which makes it anew"
        return self.ledger.output(slide_id, stage, name, mend=again)

    def _table(
        self, name: str, slide_id: str | None, schema: Schema, *, stage: str
    ) -> pd.DataFrame:
        if slide_id is None:
            tables = [self._table(name, done, schema, stage=stage) for done in self.done(stage)]
            return schema.check(pd.concat(tables)) if tables else schema.empty()
        file = f"{name}.parquet"
        if not (self.slide_folder(slide_id) / file).exists():
            self.slide(slide_id)
            if self.ledger.state(slide_id, stage) not in ("done", "empty"):
                cause = self.ledger.cause(slide_id, stage) or f"run: morphomil {stage}"
                raise InputError(f"slide {slide_id} has no {name} yet: {cause}")
        path = self._output(slide_id, stage, file)
        with reading(path):
            return schema.check(read_parquet(path))

    def slide(self, slide_id: str) -> Slide:
        """A slide of the cohort.

        Raises:
            InputError: the run has no slide of this name.
        """
        for slide in self.cohort.slides:
            if slide.slide_id == slide_id:
                return slide
        names = [slide.slide_id for slide in self.cohort.slides]
        near = difflib.get_close_matches(slide_id, names, n=1) or names[:3]
        raise InputError(
            f"{self.path} has no slide {slide_id!r}; it has {len(names)}, such as {', '.join(near)}"
        )

    @property
    def ranking(self) -> pd.DataFrame:
        """The features in order of rank, as `rank/ranking.csv` has them.

        Raises:
            InputError: nothing is ranked yet.
        """
        path = self.rank_folder / "ranking.csv"
        if not path.is_file():
            raise InputError(f"{self.path} has no ranking yet; run: morphomil rank {self.path}")
        return read_csv(path)

    def attention(self, slide_id: str) -> pd.DataFrame:
        """What the models attend to in a slide: `model`, `fold`, `feature` or `patch_id`,
        `attention` (sums to 1).

        The morphometry model attends to features (one row each, of the slide's patient, out of
        fold), image models to patches; the column of the other kind is empty. A model that wasn't
        trained has no rows.

        Raises:
            InputError: the run has no slide of this name.
        """
        slide = self.slide(slide_id)
        tables = []
        ranked = self.rank_folder / "attention.parquet"
        if ranked.is_file():
            wide = read_parquet(ranked)
            names = [name for name in wide.select_dtypes("number") if name in wide]
            wide = wide[wide["patient"] == slide.patient].assign(fold=wide.get("fold"))
            tables.append(
                wide.melt(["fold"], names, var_name="feature", value_name="attention").assign(
                    model="morphometry"
                )
            )
        for path in self.fold_files("attention.parquet"):
            table = read_parquet(path)
            if {"slide_id", "patch_id", "attention"} <= set(table):
                patches = table.loc[table["slide_id"] == slide_id, ["patch_id", "attention"]]
                tables.append(patches.assign(model=path.parts[-3], fold=path.parts[-2]))
        columns = ["model", "fold", "feature", "patch_id", "attention"]
        filled = [table for table in tables if len(table)]
        result = pd.concat(filled) if filled else pd.DataFrame(columns=columns)
        result = result.reindex(columns=columns).astype(
            {"patch_id": "Int32", "attention": "float64"}
        )
        return result.reset_index(drop=True)

    def segmented_with(self) -> dict[str, Any]:
        """Settings of the command that made the masks: `segment`, or `import-nuclei` (`model` is
        then "imported")."""
        return dict(self.log.newest("segment", "import-nuclei").get("settings", {}))

    def masks(self, slide_id: str) -> dict[int, RegionMasks]:
        """A slide's masks by region, from 0: `labels` and `tissue`, read as they are sliced, and
        their `frame`."""
        from morphomil.slides.masks import open_masks

        path = self._output(slide_id, "segment", "masks.zarr")
        with reading(path):
            return open_masks(path)

    def masks_path(self, slide_id: str) -> Path:
        """Where a slide's masks lie."""
        return self.slide_folder(slide_id) / "masks.zarr"

    def open_image(self, slide_id: str, image: int = 0) -> SlideImage:
        """One of a slide's images, of the pixel size that its masks were made with.

        Where neither manifest nor file says a pixel size, it is `--mpp` of the command that made
        the masks.

        Raises:
            InputError: the run has no such slide or image, or the pixel size is contradicted.
            SlideError: the file can't be read, or isn't the one that was segmented.
        """
        from morphomil.slides.image import open_image

        images = self.slide(slide_id).images
        if not 0 <= image < len(images):
            raise InputError(
                f"slide {slide_id} has {len(images)} images, counted from 0; there "
                f"is no image {image}"
            )
        self._check_unchanged(slide_id, image, images[image].path)
        made = self.segmented_with()
        return open_image(
            images[image], default_mpp=made.get("mpp"), icc=bool(made.get("icc", True))
        )

    def _check_unchanged(self, slide_id: str, image: int, path: Place) -> None:
        """Refuse an image that is missing, or isn't the one that the masks were made from."""
        file, _ = split_image_number(path)
        if isinstance(file, Path) and not file.exists():
            raise SlideError(f"slide {slide_id}: {path} is missing; bring it back to its place")
        segmented = self.ledger.status(slide_id).get("segment", {})
        known = segmented.get("figures", {}).get("files", [])
        if image < len(known) and identity(path) != known[image]:
            raise SlideError(
                f"slide {slide_id}: {path} has changed since its nuclei were found (size, content "
                "or modification time); bring back the file, or run morphomil segment (or "
                "import-nuclei) again, which makes its results anew"
            )

    def counts(self, slide_id: str) -> SlideCounts:
        """A slide's histogram counts."""
        import zarr

        path = self._output(slide_id, "featurize", "counts.zarr")
        with reading(path):
            group: Any = zarr.open_group(path, mode="r")
            patch_ids = np.array(group.attrs["patch_id"], dtype=np.int64)
            return SlideCounts(
                tuple(group.attrs["features"]), patch_ids, np.asarray(group["counts"][:])
            )

    def regions(self, slide_id: str) -> list[dict[str, Any]]:
        """A slide's regions: GeoJSON features, level-0 pixels of the image that their properties
        name."""
        path = self._output(slide_id, "segment", "regions.geojson")
        with reading(path):
            return list(read_json(path)["features"])

    def measured_key(self) -> str:
        """Changes with every slide that is measured anew, added or lost."""
        return self.ledger.outputs_key(self.cohort.slides, "featurize")

    def ranking_about(self) -> dict[str, Any]:
        """What the stored ranking is about: groups, AUC with interval, settings, notes; empty
        before `rank`."""
        path = self.rank_folder / "about.json"
        with reading(path):
            return dict(read_json(path)) if path.is_file() else {}

    def commands(self) -> dict[str, dict[str, Any]]:
        """The last entry of run.json for each command: `settings`, `versions`, `seconds`,
        `finished`."""
        return self.log.latest()

    def record(self, command: str, settings: dict[str, Any], *, seconds: float) -> None:
        """Add a finished command to run.json: settings, versions, duration."""
        with alone(self.path):
            self.log.add(command, settings, seconds=seconds)
