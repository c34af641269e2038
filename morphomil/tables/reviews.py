"""Agreement: how often a reviewer says that what was found is a nucleus, and of that type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from morphomil.run.reviews import read_reviews, reviewed_slides
from morphomil.stats.intervals import clopper_pearson_limits
from morphomil.store import write_table_csv

if TYPE_CHECKING:
    from pathlib import Path

    from morphomil.run.directory import Run

LEVEL = 0.95
COLUMNS = (
    "slide_id", "reviewer", "blind", "sampled", "skipped",
    "nuclei", "nuclei_share", "nuclei_low", "nuclei_high",
    "typed", "types", "types_share", "types_low", "types_high",
    "chosen", "chosen_rejected", "chosen_retyped",
)  # fmt: skip


def agreement_of_reviewers(run: Run) -> pd.DataFrame:
    """How far each reviewer of each slide agrees with the segmentation.

    Shares are of the random sample alone: nuclei that somebody chose, as the largest, say nothing
    of the others. Limits are exact (Clopper and Pearson), of the nuclei of this slide.

    Returns:
        `COLUMNS`: `sampled`, nuclei of the random sample that are decided; `skipped`, those before
        the last of them that aren't; `nuclei`, how many are nuclei, with share and 95 % limits;
        `typed`, those of these whose type was found, and `types`, how many have it; `chosen`, other
        nuclei that are decided, how many of them rejected and retyped. Shares of nothing are NaN.
    """
    rows = []
    for slide_id in reviewed_slides(run):
        reviews = read_reviews(run, slide_id)
        for reviewer, own in reviews.groupby("reviewer", sort=True):
            rows.append({"slide_id": slide_id, "reviewer": reviewer} | agreement(own))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def agreement(reviews: pd.DataFrame) -> dict[str, Any]:
    """The columns of `agreement_of_reviewers` from one reviewer's decisions on a slide
    (`run.reviews.read_reviews`)."""
    random = reviews["random_rank"].notna()
    sample, chosen = reviews[random], reviews[~random]
    real = sample[sample["decision"] != "reject"]
    typed = real[real["found_type"].notna()]
    last = int(sample["random_rank"].max()) + 1 if len(sample) else 0
    found: dict[str, Any] = {
        "blind": bool(reviews["blind"].all()),
        "sampled": len(sample),
        "skipped": last - len(sample),
        "nuclei": len(real),
        "typed": len(typed),
        "types": int((typed["decision"] == "accept").sum()),
        "chosen": len(chosen),
        "chosen_rejected": int((chosen["decision"] == "reject").sum()),
        "chosen_retyped": int((chosen["decision"] == "retype").sum()),
    }
    for name, whole in (("nuclei", "sampled"), ("types", "typed")):
        count, n = found[name], found[whole]
        limits = clopper_pearson_limits(count, n, level=LEVEL) if n else (float("nan"),) * 2
        found[f"{name}_share"] = count / n if n else float("nan")
        found[f"{name}_low"], found[f"{name}_high"] = limits
    return found


def write_agreement(run: Run) -> Path | None:
    """Write `reviews.csv` to the run's tables; none where nothing is reviewed."""
    path, table = run.tables_folder / "reviews.csv", agreement_of_reviewers(run)
    if table.empty:
        path.unlink(missing_ok=True)
        return None
    write_table_csv(path, table)
    return path
