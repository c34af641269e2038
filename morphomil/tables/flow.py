"""Patients, slides, patches and nuclei at every step of a run, and what each step lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from morphomil.matrix import has_enough_nuclei
from morphomil.store import read_parquet

if TYPE_CHECKING:
    from morphomil.run.directory import Run


def flow_table(run: Run) -> pd.DataFrame:
    """Patients, slides, patches and nuclei at every step, and what each step lost and why.

    Returns:
        `step, patients, slides, patches, nuclei` (missing where not known yet), `groups` (patients
        by label), `lost` (a sentence, "" where nothing was lost). A step that the run hasn't
        reached has no row.
    """
    segmented, measured = run.figures("segment"), run.figures("featurize")
    rows = [_flow_row("In the manifest", segmented)]
    done = segmented[segmented["state"].isin(["done", "empty"])]
    if done.empty:
        return pd.DataFrame(rows)
    cut, kept, ink = (
        _total(done, name) for name in ("patches", "patches_kept", "patches_with_ink")
    )
    found = _flow_row("Segmented", done, patches=cut, lost=_lost_slides(segmented, done))
    analyzed = done[done["patches_kept"] > 0] if "patches_kept" in done else done
    held, tissue = analyzed_tissue_mm2(run)
    with_ink = f" ({ink:,} with ink)" if ink else ""
    why = (
        f"{cut - kept:,} patches, blank or outside the region{with_ink}: "
        f"{say_share(tissue - held, tissue)} of the regions' tissue"
    )
    lost = "; ".join(
        part
        for part in (_lost_slides(done, analyzed, "no patch kept"), why if cut > kept else "")
        if part
    )
    rows += [found, _flow_row("With kept patches", analyzed, patches=kept, lost=lost)]
    nuclei = measured[measured["state"] == "done"]
    nuclei = nuclei[nuclei["nuclei"] > 0] if "nuclei" in nuclei else nuclei
    if nuclei.empty:
        return pd.DataFrame(rows)
    enough = {
        name: int(has_enough_nuclei(run.counts(name).counts).sum()) for name in nuclei["slide_id"]
    }
    in_bags = nuclei[nuclei["slide_id"].map(enough) > 0]
    measured_patches = _total(nuclei, "patches_kept")
    dropped = measured_patches - sum(enough.values())
    rows.append(
        _flow_row(
            "With measured nuclei",
            nuclei,
            patches=measured_patches,
            nuclei=_total(nuclei, "nuclei"),
            lost=_lost_slides(analyzed, nuclei, "no nuclei, or not measured"),
        )
    )
    few = f"{dropped:,} patches with fewer than 5 nuclei" if dropped else ""
    lost = "; ".join(part for part in (_lost_slides(nuclei, in_bags, "no patch left"), few) if part)
    rows.append(_flow_row("In the histograms", in_bags, patches=sum(enough.values()), lost=lost))
    predictions = run.rank_folder / "predictions.parquet"
    if predictions.is_file():
        ranked = in_bags[in_bags["patient"].isin(read_parquet(predictions)["patient"])]
        patches = int(ranked["slide_id"].map(enough).sum())
        lost = _lost_slides(in_bags, ranked, "not in the ranking")
        rows.append(_flow_row("Ranked out of fold", ranked, patches=patches, lost=lost))
    return pd.DataFrame(rows)


def analyzed_tissue_mm2(run: Run) -> tuple[float, float]:
    """The tissue in kept patches, and in the regions, of all segmented slides."""
    names = run.done("segment")
    if not names:
        return 0.0, 0.0
    table = pd.concat([run.patches(name)[["kept", "tissue_mm2"]] for name in names])
    return float(table.loc[table["kept"], "tissue_mm2"].sum()), float(table["tissue_mm2"].sum())


def say_share(part: float, whole: float) -> str:
    """A share in percent, without decimals from 10 % on."""
    if whole <= 0:
        return "0 %"
    share = 100 * part / whole
    return f"{share:.0f} %" if share >= 9.95 or share == 0 else f"{share:.1f} %"


def _flow_row(
    step: str,
    slides: pd.DataFrame,
    *,
    patches: int | None = None,
    nuclei: int | None = None,
    lost: str = "",
) -> dict[str, Any]:
    patients = slides.drop_duplicates("patient")
    counts = patients["label"].astype(str).value_counts().sort_index()
    return {
        "step": step,
        "patients": len(patients),
        "slides": len(slides),
        "patches": float("nan") if patches is None else float(patches),
        "nuclei": float("nan") if nuclei is None else float(nuclei),
        "groups": ", ".join(f"{count:,} with {label}" for label, count in counts.items()),
        "lost": lost,
    }


def _total(slides: pd.DataFrame, name: str) -> int:
    return int(slides[name].fillna(0).sum()) if name in slides else 0


def _lost_slides(before: pd.DataFrame, after: pd.DataFrame, why: str = "") -> str:
    gone = before[~before["slide_id"].isin(after["slide_id"])]
    if gone.empty:
        return ""
    patients = before["patient"].nunique() - after["patient"].nunique()
    states = why or ", ".join(
        f"{count:,} {state}" for state, count in gone["state"].value_counts().items()
    )
    return f"{_count(len(gone), 'slide')} and {_count(patients, 'patient')} ({states})"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
