"""Measured slides -> ranking, and everything that it rests on."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.bags import BAG_SIZE
from morphomil.errors import InputError
from morphomil.matrix import slide_values
from morphomil.nuclei.registry import FEATURES
from morphomil.pipeline.execution import Progress, Silence
from morphomil.store import (
    write_json,
    write_parquet,
    write_table_csv,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from morphomil.rank.ranking import Ranking
    from morphomil.run.directory import Run


def rank(
    run: Run,
    *,
    positive: str | None = None,
    folds: int = 5,
    seed: int = 0,
    quick: bool = False,
    permutations: int | None = None,
    progress: Progress | None = None,
    on_estimate: Callable[[float], None] | None = None,
) -> Ranking:
    """Rank the features of a measured run (`rank.rank_counts`) and store everything the ranking
    rests on.

    Writes to `rank/` the tables `ranking.csv`, `groups.csv`, `agreement.csv`, `stability.csv`,
    `faithfulness.csv`, `correlation.csv`, `predictions.parquet`, `attention.parquet`,
    `shapley.parquet` and `patient_values.parquet` with `about.json`, and each fold's model to
    `models/morphometry/FOLD/`. Unless `quick`, also what every nucleus contributes
    (`attribution.attribute_nuclei`), to `rank/nuclei/SLIDE.parquet`. `on_estimate` hears how many
    seconds the training will take.

    Raises:
        InputError: nothing is measured yet, or the labels don't make two groups.
        RefusedError: leakage, or too few patients of a class.
        BusyError: another process works in the run directory.
    """
    from morphomil.models.ranked import store_ranked_folds
    from morphomil.rank.ranking import rank_counts
    from morphomil.rank.settings import PERMUTATIONS, SEEDS

    permuted = 0 if quick else PERMUTATIONS if permutations is None else permutations
    measured = run.done("featurize")
    if not measured:
        raise InputError(f"{run.path} has no measured slides; run: morphomil featurize {run.path}")
    heard = progress or Silence()
    begun = time.monotonic()
    with run.lock():
        values = pd.DataFrame([_slide_values(run, slide_id) for slide_id in measured])
        heard.start("rank", folds)
        ranking = rank_counts(
            lambda slide_id: run.counts(slide_id).counts,
            values,
            run.cohort.table(),
            features=tuple(FEATURES),
            seed=seed,
            positive=positive,
            folds=folds,
            quick=quick,
            permutations=permuted,
            on_fold=lambda done, total: heard.end(f"fold {done}", "done", f"of {total}"),
            on_estimate=on_estimate,
        )
        about = {
            "positive": ranking.positive,
            "reference": ranking.reference,
            "auc": ranking.auc.auc,
            "auc_low": ranking.auc.low,
            "auc_high": ranking.auc.high,
            "folds": len(ranking.models),
            "seeds": 1 if quick else SEEDS,
            "permutations": permuted,
            "statement": ranking.statement,
            "bag_patches": BAG_SIZE,
            "notes": list(ranking.notes),
            "measured": run.measured_key(),
        }
        _store_ranking(run, ranking, about)
        store_ranked_folds(run, ranking, seed=seed)
        shutil.rmtree(run.contributions_folder, ignore_errors=True)  # of an earlier ranking
        if not quick:
            _store_contributions(run, ranking, seed=seed)
        settings = {"positive": ranking.positive, "folds": folds, "seed": seed, "quick": quick}
        settings |= {"permutations": permuted}
        run.record("rank", settings, seconds=time.monotonic() - begun)
    return ranking


def _slide_values(run: Run, slide_id: str) -> dict[str, Any]:
    values = slide_values(run.nuclei(slide_id), run.patches(slide_id), features=tuple(FEATURES))
    return {"slide_id": slide_id} | dict(values)


def _store_ranking(run: Run, ranking: Ranking, about: dict[str, Any]) -> None:
    folder = run.rank_folder
    write_table_csv(folder / "ranking.csv", ranking.table)
    write_parquet(folder / "predictions.parquet", ranking.predictions)
    for stem in ("groups", "agreement", "stability", "faithfulness"):
        write_table_csv(folder / f"{stem}.csv", getattr(ranking, stem))
    write_table_csv(
        folder / "correlation.csv", ranking.correlation.rename_axis("feature").reset_index()
    )
    write_parquet(folder / "attention.parquet", ranking.attention)
    write_parquet(folder / "shapley.parquet", ranking.shapley)
    write_parquet(folder / "patient_values.parquet", ranking.patient_values)
    write_json(folder / "about.json", about)


def _store_contributions(run: Run, ranking: Ranking, *, seed: int) -> None:
    """What every nucleus in a bag adds to its slide's probability, by the model that didn't see its
    patient.

    And, as further rows of `faithfulness.csv`, curves of deleting and inserting patches in the
    order of their nuclei's contributions.
    """
    from morphomil.rank.attribution import attribute_nuclei, curves_of_patches
    from morphomil.rank.robustness import measure_faithfulness

    curves = []
    fold = ranking.predictions.set_index("patient")["fold"]
    slides = run.cohort.table().astype({"patient": str})
    for row in slides[slides["patient"].isin(fold.index)].to_dict("records"):
        slide_id = str(row["slide_id"])
        if slide_id not in ranking.slides:
            continue
        nuclei = run.nuclei(slide_id)
        nuclei = nuclei[nuclei["patch_id"].isin(run.counts(slide_id).patch_id)]
        model = ranking.models[str(fold[row["patient"]])]
        shares = attribute_nuclei(nuclei, model)
        curves.append(curves_of_patches(nuclei, model, shares, seed_key=(seed, slide_id)))
        path = run.contributions_path(slide_id)
        stored = nuclei[["label", "patch_id"]].join(shares.nuclei.astype(np.float32))
        write_parquet(path, stored.reset_index(drop=True))
    of_patches = measure_faithfulness(np.stack(curves, axis=-1), seed=seed)
    of_patches.insert(0, "order", "patches")
    both = pd.concat([ranking.faithfulness, of_patches], ignore_index=True)
    write_table_csv(run.rank_folder / "faithfulness.csv", both)
