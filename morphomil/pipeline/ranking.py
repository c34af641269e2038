"""Measured slides -> ranking, and everything that it rests on."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.bags import BAG_SIZE
from morphomil.errors import DamagedError, InputError
from morphomil.matrix import by_feature
from morphomil.pipeline.execution import Progress, Silence
from morphomil.pipeline.reviewed import RankedNuclei, ranked_nuclei
from morphomil.run.features import check_features
from morphomil.run.ledger import key_of
from morphomil.run.log import versions
from morphomil.run.reviews import reviews_key
from morphomil.store import (
    INDEX,
    digest,
    read_arrays,
    safe_name,
    write_arrays,
    write_json,
    write_parquet,
    write_table_csv,
)
from morphomil.tables.methods import patch_settings
from morphomil.tables.quality import read_quality
from morphomil.types import RankSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from morphomil.pipeline.execution import Shard
    from morphomil.rank.plan import Arrays
    from morphomil.rank.ranking import Ranking
    from morphomil.run.directory import Run


def rank(
    run: Run,
    *,
    settings: RankSettings = RankSettings(seed=0),
    progress: Progress | None = None,
    on_estimate: Callable[[float], None] | None = None,
    **changes: Any,
) -> Ranking:
    """Rank the features of a measured run (`rank.rank_counts`) and store everything the ranking
    rests on.

    Writes to `rank/` the tables `ranking.csv`, `missing.csv`, `groups.csv`, `agreement.csv`,
    `stability.csv`, `faithfulness.csv`, `pairs.csv`, `correlation.csv`, `interactions.csv`,
    `scan.csv`, `baselines.csv`,
    `predictions.parquet`, `attention.parquet`, `shapley.parquet`, `patient_values.parquet` and
    `summaries.parquet` with `about.json`, and each fold's model to `models/morphometry/FOLD/`.
    Unless `quick`, also what every nucleus contributes (`attribution.attribute_nuclei`), to
    `rank/nuclei/SLIDE.parquet`. What was trained before it was interrupted, or in parts
    (`rank_part`), isn't trained again. `on_estimate` hears how many seconds the training will take;
    `changes` are fields of the settings.

    Raises:
        InputError: nothing is measured yet, or with other features, or the labels don't make two
            groups, or the settings name a column that the cohort lacks.
        RefusedError: leakage, or too few patients of a class.
        BusyError: another process works in the run directory.
    """
    from morphomil.models.ranked import store_ranked_folds
    from morphomil.rank.ranking import rank_counts

    settings = replace(settings, **changes)
    _check_measured(run, settings)
    listener = progress or Silence()
    begun = time.monotonic()
    with run.lock():
        nuclei = ranked_nuclei(run, only_reviewed=settings.only_reviewed)
        values = pd.DataFrame([nuclei.values(slide_id) for slide_id in nuclei.slides])
        listener.start("rank", settings.folds)
        ranking = rank_counts(
            lambda slide_id: nuclei.counts(slide_id).counts,
            values,
            run.cohort.table(),
            features=run.features,
            settings=settings,
            on_fold=lambda done, total: listener.end(f"fold {done}", "done", f"of {total}"),
            on_estimate=on_estimate,
            recall=_StoredPieces(run, settings),
        )
        ranking = replace(ranking, notes=(*nuclei.notes, *ranking.notes))
        context, said = _explain(run, ranking)
        summary = _summarize(ranking, seeds=settings.models_per_fold, permutations=settings.tested)
        summary |= {"context": list(said), "measured": run.measured_key(), "nuclei": run.whose}
        _write_ranking(run, ranking)
        write_table_csv(run.rank_folder / "context.csv", context)
        store_ranked_folds(run, ranking, seed=settings.seed)
        shutil.rmtree(run.contributions_folder, ignore_errors=True)  # of an earlier ranking
        if not settings.quick:
            _write_contributions(nuclei, ranking, seed=settings.seed)
        _write_index(run, summary)
        used: dict[str, Any] = _say_classes(ranking)
        used |= {"folds": settings.folds, "seed": settings.seed}
        used |= {"quick": settings.quick, "permutations": settings.tested}
        used |= {"strata": settings.strata, "adjust": settings.adjust}
        used |= {"folds_by": settings.folds_by}
        used |= {"reading": settings.reading, "only_reviewed": settings.only_reviewed}
        used["asked"] = _asked(run, settings) if not ranking.failed else {}
        run.record("rank", used, seconds=time.monotonic() - begun)
        shutil.rmtree(run.rank_parts_folder, ignore_errors=True)
    return ranking


def rank_part(
    run: Run,
    part: Shard,
    *,
    settings: RankSettings,
    progress: Progress | None = None,
) -> None:
    """Train part i of n of what a ranking trains beside each fold's first models, in
    `rank/parts/`, where `rank` with the same settings finds it. Parts may be made side by side, on
    several machines, in any order; `rank` makes what is missing.

    Raises:
        InputError, RefusedError: as `rank`; or the part is one of a plan of slides.
        BusyError: another process works in the run directory, or on this part.
    """
    from morphomil.rank.ranking import train_pieces

    if part.plan:
        raise InputError("a ranking's parts are i/n, as in 2/8, not those of a plan of slides")
    if settings.quick:
        raise InputError("a quick ranking is trained in one go; leave out --shard, or --quick")
    _check_measured(run, settings)
    listener = progress or Silence()
    with run.lock(part.part("rank")):
        nuclei = ranked_nuclei(run, only_reviewed=settings.only_reviewed)
        values = pd.DataFrame([nuclei.values(slide_id) for slide_id in nuclei.slides])

        def tell(done: int, total: int) -> None:
            if not done:
                listener.start("rank", total)
            else:
                listener.end(f"training {done}", "done", f"of {total}")

        train_pieces(
            lambda slide_id: nuclei.counts(slide_id).counts,
            values,
            run.cohort.table(),
            features=run.features,
            settings=settings,
            recall=_StoredPieces(run, settings),
            part=(part.index, part.count),
            on_piece=tell,
        )


def _check_measured(run: Run, settings: RankSettings) -> None:
    from morphomil.rank.design import check_columns

    if not run.done("featurize"):
        raise InputError(f"{run.path} has no measured slides; run: morphomil featurize {run.path}")
    check_features(run)
    check_columns(run.cohort.table(), settings)


class _StoredPieces:
    """Trains pieces of a ranking once (`rank.plan.Recall`): each is a file below `rank/parts/`, in
    a folder for everything that the ranking is made of."""

    def __init__(self, run: Run, settings: RankSettings) -> None:
        key = key_of("rank", _asked(run, settings), versions()["morphomil"])
        self.folder = run.rank_parts_folder / key

    def __call__(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        path = self.folder / f"{safe_name(name)}.safetensors"
        if path.is_file():
            with suppress(DamagedError):  # made anew
                return read_arrays(path)
        arrays = make()
        write_arrays(path, arrays)
        return arrays


def is_ranked(run: Run, settings: RankSettings) -> bool:
    """Whether the last ranking is complete and of these settings, of the cohort as it is now, of
    the slides as they are measured now, and by this version."""
    last = run.commands().get("rank")
    return (
        last is not None
        and last["settings"].get("asked") == _asked(run, settings)
        and last["versions"]["morphomil"] == versions()["morphomil"]
        and bool(run.ranking_about())
    )


def _asked(run: Run, settings: RankSettings) -> dict[str, Any]:
    """What a ranking is made of."""
    cohort = run.cohort.table().to_json(orient="values")
    asked = asdict(settings) | {"cohort": key_of(cohort), "measured": run.measured_key()}
    if not asked.pop("only_reviewed"):  # so that rankings from before there were reviews stand
        return asked
    return asked | {"reviews": reviews_key(run)}


def _summarize(ranking: Ranking, *, seeds: int, permutations: int) -> dict[str, Any]:
    """What a ranking is about, in numbers and words."""
    return {
        **_say_classes(ranking),
        "classes": list(ranking.classes.names),
        "auc": ranking.auc.auc,
        "auc_low": ranking.auc.low,
        "auc_high": ranking.auc.high,
        "folds": len(ranking.models),
        **_say_design(ranking),
        "seeds": seeds,
        "permutations": permutations,
        "verdict": {
            "word": ranking.verdict.word,
            "p_value": None if np.isnan(ranking.verdict.p) else ranking.verdict.p,
            "routes": {k: v for k, v in ranking.verdict.routes.items() if not np.isnan(v)},
            "permutations": ranking.verdict.permutations,
            "plain": ranking.verdict.plain,
            "sentence": ranking.verdict.sentence,
            "feature": ranking.verdict.feature,
            "alone": ranking.verdict.alone,
        },
        "statement": ranking.statement,
        "interaction": ranking.interactions.statement,
        "findings": list(ranking.scan.findings),
        "baselines": ranking.baselines.statement,
        "bag_patches": BAG_SIZE,
        "notes": list(ranking.notes),
    }


def _explain(run: Run, ranking: Ranking) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """What else goes with the features and the label (`rank.context`), and sentences on it."""
    from morphomil.rank.context import context_of_patients, explain_by_context, say_context

    cohort = run.cohort.table()
    cohort = cohort[cohort["slide_id"].isin(ranking.slides)].astype({"patient": str})
    known = [str(name) for name in context_of_patients(cohort)]
    side_um = patch_settings(run).patch_um
    measured = pd.DataFrame(
        [_slide_quantities(run, str(name), side_um=side_um) for name in cohort["slide_id"]]
    )
    quality = read_quality(run).reindex(columns=["slide_id", "tissue_share", "optical_density"])
    slides = cohort.merge(measured, on="slide_id").merge(quality, on="slide_id", how="left")
    held = ranking.design.covariates
    table = explain_by_context(
        ranking.table,
        by_feature(ranking.patient_values),
        context_of_patients(slides),
        held=() if held is None else [str(name) for name in held],
    )
    return table, say_context(table, adjustable=known)


def _slide_quantities(run: Run, slide_id: str, *, side_um: float) -> dict[str, Any]:
    """What the patches tell of a slide: pixel size of its images, sharpness, extent."""
    patches = run.patches(slide_id)
    patches = patches[patches["kept"]]
    return {
        "slide_id": slide_id,
        "um_per_pixel": round(float(side_um / patches["side_px"].median()), 4),
        "sharpness": float(patches["sharpness"].median()),
        "tissue_mm2": float(patches["tissue_mm2"].sum()),
    }


def _say_classes(ranking: Ranking) -> dict[str, Any]:
    """Of two labels which is positive, of more whether they have an order."""
    names = ranking.classes.names
    if ranking.classes.several:
        return {"ordered": ",".join(names) if ranking.classes.ordered else ""}
    return {"positive": names[1], "reference": names[0]}


def _say_design(ranking: Ranking) -> dict[str, Any]:
    """What is held constant; nothing of a plain ranking."""
    said: dict[str, Any] = {}
    if ranking.design.columns:
        said["strata"] = list(ranking.design.columns)
    if (auc := ranking.auc_covariates) is not None and ranking.design.covariates is not None:
        said["adjusted"] = [str(name) for name in ranking.design.covariates]
        said |= {"auc_covariates": auc.auc}
        said |= {"auc_covariates_low": auc.low, "auc_covariates_high": auc.high}
    return said


def _attribute_slides(
    ranked: RankedNuclei, ranking: Ranking, *, seed: int
) -> Iterator[tuple[str, pd.DataFrame, NDArray[np.float64]]]:
    """Every ranked slide with what each nucleus in its bag adds to its probability, by the model
    that didn't see its patient, and with the curves of deleting and inserting its patches."""
    from morphomil.rank.attribution import attribute_nuclei, curves_of_patches

    predicted = ranking.predictions.set_index("patient")
    fold = predicted["fold"]
    shown = pd.Series(ranking.classes.shown(predicted["label"].to_numpy()), predicted.index)
    slides = ranked.run.cohort.table().astype({"patient": str})
    for row in slides[slides["patient"].isin(fold.index)].to_dict("records"):
        slide_id = str(row["slide_id"])
        if slide_id not in ranking.slides:
            continue
        nuclei = ranked.nuclei(slide_id)
        nuclei = nuclei[nuclei["patch_id"].isin(ranked.counts(slide_id).patch_id)]
        model = ranking.models[str(fold[row["patient"]])]
        known = ranking.design.covariates
        covariates = None if known is None else known.loc[[row["patient"]]]
        target = int(shown[row["patient"]])
        shares = attribute_nuclei(nuclei, model, target=target, covariates=covariates)
        contributions = nuclei[["label", "patch_id"]].join(shares.nuclei.astype(np.float32))
        curves = curves_of_patches(
            nuclei,
            model,
            shares,
            seed_key=(seed, slide_id),
            target=target,
            covariates=covariates,
        )
        yield slide_id, contributions.reset_index(drop=True), curves


def _write_ranking(run: Run, ranking: Ranking) -> None:
    """Write the tables that the ranking rests on."""
    correlation = ranking.correlation.rename_axis("feature").reset_index()
    printed = {"ranking": ranking.table, "correlation": correlation}
    printed["interactions"] = ranking.interactions.table
    printed |= {"scan": ranking.scan.table, "baselines": ranking.baselines.table}
    for stem in ("missing", "groups", "agreement", "stability", "faithfulness", "pairs"):
        printed[stem] = getattr(ranking, stem)
    for stem, table in printed.items():
        write_table_csv(run.rank_folder / f"{stem}.csv", table)
    for stem in ("predictions", "attention", "shapley", "patient_values"):
        write_parquet(run.rank_folder / f"{stem}.parquet", getattr(ranking, stem))
    write_parquet(run.rank_folder / "summaries.parquet", ranking.scan.summaries)


def _write_index(run: Run, summary: dict[str, Any]) -> None:
    """Write what the ranking is about, last of all: tables of another ranking don't fit it."""
    files = {path.name: digest(path) for path in sorted(run.rank_folder.glob("*.csv"))}
    write_json(run.rank_folder / INDEX, summary | {"files": files}, seal=True)


def _write_contributions(nuclei: RankedNuclei, ranking: Ranking, *, seed: int) -> None:
    """Write what the nuclei contribute, and the patches' curves as further rows of
    `faithfulness.csv`."""
    from morphomil.rank.robustness import measure_faithfulness

    curves, run = [], nuclei.run
    for slide_id, contributions, of_slide in _attribute_slides(nuclei, ranking, seed=seed):
        write_parquet(run.contributions_path(slide_id), contributions)
        curves.append(of_slide)
    of_patches = measure_faithfulness(np.stack(curves, axis=-1), seed=seed)
    of_patches.insert(0, "order", "patches")
    both = pd.concat([ranking.faithfulness, of_patches], ignore_index=True)
    write_table_csv(run.rank_folder / "faithfulness.csv", both)
