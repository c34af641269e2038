"""The patients that a ranking is made of, with all that is known of them before a model is trained,
and what is asked of them without one or beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from morphomil.cohort.labels import describe_losses, patient_labels
from morphomil.matrix import by_feature, patient_values
from morphomil.rank.bags import LEFT_OUT_WITHOUT, NOT_MEASURED, PatientBags
from morphomil.rank.baselines import compare_baselines
from morphomil.rank.classes import Classes
from morphomil.rank.design import Design, check_columns, say_folds
from morphomil.rank.folds import permute_labels
from morphomil.rank.missing import compare_missingness, refuse_telling_absence
from morphomil.rank.scan import largest_differences, scan_features
from morphomil.rank.several import compare_pairs
from morphomil.rank.verdict import judge_ranking

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from morphomil.cohort.splits import Fold
    from morphomil.rank.bags import Counts
    from morphomil.rank.baselines import Baselines
    from morphomil.rank.outcomes import PooledOutcomes
    from morphomil.rank.scan import FeatureScan
    from morphomil.rank.summaries import PatientSummaries
    from morphomil.rank.verdict import Verdict
    from morphomil.stats.roc import AucInterval
    from morphomil.types import RankSettings
SCAN_PERMUTATIONS = 1999
"""The scan permutes labels so often where covariates make permutations costly."""


@dataclass(frozen=True)
class Study:
    """The patients that are ranked: bags, labels, strata, folds."""

    cohort: pd.DataFrame
    """One row per slide with a patch of enough nuclei."""
    bags: PatientBags
    labels: pd.Series[Any]
    """By patient, sorted."""
    classes: Classes
    design: Design
    folds: tuple[Fold, ...]
    missing: pd.DataFrame
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        load: Counts,
        values: pd.DataFrame,
        cohort: pd.DataFrame,
        settings: RankSettings,
        *,
        summaries: PatientSummaries,
    ) -> Study:
        """As `rank_counts` takes them; the summaries hear of each slide that is read."""
        cohort = cohort.assign(
            label=cohort["label"].astype(str), patient=cohort["patient"].astype(str)
        )
        check_columns(cohort, settings)
        classes = Classes.of(cohort["label"], settings)
        measured = cohort[cohort["slide_id"].isin(values["slide_id"])]
        bags = PatientBags.collect(load, measured, seed=settings.seed, summaries=summaries)
        used = cohort[cohort["slide_id"].isin(bags.slides)]
        labels = patient_labels(used)
        missing = compare_missingness(
            bags.nuclei,
            labels[list(bags.patients)],
            features=summaries.features,
            classes=classes,
        )
        lacking = refuse_telling_absence(missing, classes.names, allowed=settings.may_be_missing)
        design = Design.of(used, labels, settings)
        folds = design.make_folds(used, settings)
        notes = (
            *describe_losses(cohort, measured, NOT_MEASURED),
            *describe_losses(measured, used, LEFT_OUT_WITHOUT),
            *lacking,
            *design.notes,
            *say_folds(folds, labels, by=settings.folds_by.strip()),
        )
        return cls(used, bags, labels, classes, design, folds, missing, notes)

    @property
    def codes(self) -> pd.Series[int]:
        """Each patient's class, sorted by patient."""
        return self.classes.codes(self.labels)

    def learning(self, fold: Fold) -> int:
        """So many patients a fold's models learn from, or stop by."""
        members = self.bags.members(fold.train) | self.bags.members(fold.val)
        return int(members.sum())

    def patient_values(self, values: pd.DataFrame) -> pd.DataFrame:
        """Of each patient `patient, label` and its value of each feature, from those of slides."""
        used = by_feature(values[values["slide_id"].isin(self.bags.slides)])
        return patient_values(used, self.cohort)

    def strata_of(self, patients: pd.Series[Any]) -> NDArray[Any]:
        """Of these patients."""
        return self.design.strata[list(patients)].to_numpy()

    def scan(self, summaries: pd.DataFrame, features: tuple[str, ...], *, seed: int) -> FeatureScan:
        """The plain scan of these patients' summaries, within strata and beside covariates."""
        truth = np.asarray(self.codes, dtype=np.int64)
        labelings = self.design.labelings(truth, permutations=SCAN_PERMUTATIONS, seed=seed)
        return scan_features(
            self.design.residuals(summaries.loc[self.labels.index]),
            truth,
            features=features,
            seed=seed,
            strata=self.design.strata.to_numpy(),
            labelings=labelings,
            classes=self.classes,
            held=self.design.held,
        )

    def auc_covariates(self, pooled: PooledOutcomes) -> AucInterval | None:
        """Of the covariates alone; None where there are none."""
        return pooled.auc(features=False) if self.design.adjusts else None

    def compare_pairs(self, of_patients: pd.DataFrame, features: tuple[str, ...]) -> pd.DataFrame:
        """Every two of three and more groups in the patients' values."""
        strata = self.strata_of(of_patients["patient"]) if self.design.stratified else None
        groups = np.asarray(self.classes.codes(of_patients["label"]), dtype=np.int64)
        values = of_patients[list(features)]
        return compare_pairs(values, groups, classes=self.classes, strata=strata)

    def permute(self, settings: RankSettings) -> NDArray[np.int64]:
        """The patients' labels (row 0) and permutations within folds and strata, as likely as the
        covariates make them."""
        truth = np.asarray(self.codes, dtype=np.int64)
        return permute_labels(
            truth,
            self.folds,
            self.bags,
            permutations=settings.labelings,
            seed=settings.seed,
            strata=self.design.strata.to_numpy(),
            log_probability=self.design.log_probability(truth),
        )

    def judge(
        self,
        table: pd.DataFrame,
        scan: FeatureScan,
        pooled: PooledOutcomes,
        labelings: NDArray[np.int64],
        *,
        auc_high: float,
    ) -> Verdict:
        """What the tests allow to say: those of the models under these labelings, and the scan."""
        features = pooled.plan.features
        differences = largest_differences(
            scan.summaries,
            labelings,
            features=features,
            strata=self.strata_of(scan.summaries["patient"]),
            ordered=self.classes.ordered,
        )
        return judge_ranking(
            table,
            scan,
            differences,
            auc_high=auc_high,
            scores=pooled.null_scores(),
            features=features,
            classes=self.classes,
        )

    def compare_baselines(
        self,
        predictions: pd.DataFrame,
        of_patients: pd.DataFrame,
        summaries: pd.DataFrame,
        settings: RankSettings,
    ) -> Baselines:
        """Plain models beside the predictions of the morphometry model; without the forest if
        quick. They know the covariates too."""
        covariates = self.design.encoded
        return compare_baselines(
            predictions,
            self.folds,
            values=of_patients.set_index("patient").drop(columns="label").join(covariates),
            summaries=summaries.join(covariates),
            classes=self.codes,
            seed=settings.seed,
            forest=not settings.quick,
            held=self.design.held,
            features=of_patients.shape[1] - 2,  # besides patient and label
        )
