"""What the image models look at, in terms of nuclei: sentences and tables of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from morphomil.figures.labels import format_interval, format_ratio, model_name
from morphomil.figures.report.data import AttentionSection, Picture
from morphomil.figures.sentences import say_attention, say_statement
from morphomil.nuclei.quantities import patient_quantity
from morphomil.store import read_csv

if TYPE_CHECKING:
    from collections.abc import Mapping

    from morphomil.run.directory import Run


def read_attention_section(
    run: Run, ranking: pd.DataFrame | None, pictures: tuple[Picture, ...]
) -> AttentionSection | None:
    """What `compare` has set side by side; None where it has not, or there is no image model."""
    path = run.alongside_folder / "morphology_of_attention.csv"
    if not path.is_file():
        return None
    associations = read_csv(path)
    sentences = [say_statement(run.ranking_about(), ranking)]
    for model, associations_of_model in associations.groupby("model", sort=False):
        first = None if ranking is None else str(ranking["feature"].iloc[0])
        sentences.append(
            " ".join(say_attention(model_name(str(model)), associations_of_model, first=first))
        )
    scores = path.with_name("scores.csv")
    return AttentionSection(
        tuple(sentence for sentence in sentences if sentence),
        _morphology_table(associations),
        _scores_table(read_csv(scores)) if scores.is_file() else pd.DataFrame(),
        pictures,
    )


def _morphology_table(associations: pd.DataFrame) -> pd.DataFrame:
    """One row per model and feature; attention beside what the probability loses without the
    patch."""
    rows = []
    for (model, feature), associations_of_model in associations.groupby(
        ["model", "feature"], sort=False
    ):
        row: dict[str, Any] = {
            "model": model_name(str(model)),
            "feature": patient_quantity(str(feature)).name,
        }
        row["patients"] = int(associations_of_model["patients"].max())
        for evidence, head in (
            ("attention", "attention"),
            ("occlusion", "probability lost without it"),
        ):
            rows_of_evidence = associations_of_model[associations_of_model["evidence"] == evidence]
            if len(rows_of_evidence):
                row[f"{head}: \N{GREEK SMALL LETTER RHO} [95 %]"] = _correlation(
                    rows_of_evidence.to_dict("records")[0], "rho"
                )
                row[f"{evidence}_p_holm"] = float(rows_of_evidence["p_holm"].iloc[0])
        rows.append(row)
    return pd.DataFrame(rows)


def _scores_table(scores: pd.DataFrame) -> pd.DataFrame:
    rows = [
        {
            "model a": model_name(str(row["model_a"])),
            "model b": model_name(str(row["model_b"])),
            "patients": row["patients"],
            "rank correlation [95 %]": _correlation(row, "rho"),
            "within the label [95 %]": _correlation(row, "rho_within_label"),
        }
        for row in scores.to_dict("records")
    ]
    return pd.DataFrame(rows)


def _correlation(row: Mapping[Any, Any], name: str) -> str:
    return f"{format_ratio(row[name])} {format_interval(row[f'{name}_low'], row[f'{name}_high'])}"
