"""Ten summaries against the nuclei they come from; what the scan says of planted differences."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from morphomil.matrix import FINE_BINS, count_nuclei
from morphomil.nuclei.registry import FEATURES
from morphomil.rank.classes import Classes
from morphomil.rank.patch_sums import SlideSums
from morphomil.rank.scan import say_difference, say_findings, scan_features
from morphomil.rank.summaries import SUMMARIES, PatientSummaries, summary_columns
from morphomil.stats.scan import draw_labelings

NAMES = ("area_um2", "circularity")


def nuclei_of(rng, slide, *, patches=12, per_patch=40, between=6.0):
    patch = np.repeat(np.arange(patches), per_patch)
    level = between * rng.normal(size=patches)
    return pd.DataFrame(
        {
            "slide_id": slide,
            "patch_id": patch,
            "area_um2": 60 + level[patch] + 9 * rng.normal(size=len(patch)),
            "circularity": rng.uniform(0.7, 0.9, len(patch)),
        }
    )


def summarize(nuclei, cohort=None, features=NAMES):
    parts = dict(list(nuclei.groupby("slide_id")))
    if cohort is None:
        cohort = pd.DataFrame({"slide_id": list(parts), "patient": list(parts)})
    summaries = PatientSummaries(features, cohort)
    for name in cohort["slide_id"]:
        patches = np.unique(parts[name]["patch_id"])
        counts = count_nuclei(parts[name], patches, features=features)
        summaries.add(name, SlideSums.of(counts))
    return summaries.of_patients()


def test_summaries_are_those_of_the_nuclei():
    nuclei = nuclei_of(np.random.default_rng(0), "a")
    found = summarize(nuclei).loc["a"]
    for name in NAMES:
        bin_width = (FEATURES[name].high - FEATURES[name].low) / FINE_BINS
        values, patches = nuclei[name], nuclei.groupby("patch_id")[name]
        within = patches.var().mean()
        between = patches.mean().var() - within / 40
        witness = {
            "mean": values.mean(),
            "median": values.median(),
            "sd_within": np.sqrt(within),
            "sd_between": np.sign(between) * np.sqrt(abs(between)),
        } | {f"q{q}": values.quantile(q / 100) for q in (10, 25, 75, 90)}
        for summary, value in witness.items():
            assert found[f"{name}.{summary}"] == pytest.approx(value, abs=2 * bin_width), summary
        center, shrink = patches.mean().mean(), np.sqrt(max(between, 0) / patches.mean().var())
        for summary, share in (("patches_low", 0.1), ("patches_high", 0.9)):
            tail = np.quantile(patches.mean() - center, share, method="hazen")
            assert found[f"{name}.{summary}"] == pytest.approx(
                center + shrink * tail, abs=2 * bin_width
            )


def test_patches_and_slides_weigh_alike():
    """A patch of four times as many nuclei, and a slide of twice as many patches, have no more
    say."""
    rng = np.random.default_rng(1)
    few, many = nuclei_of(rng, "a", patches=4), nuclei_of(rng, "b", patches=8)
    crowded = pd.concat([few[few["patch_id"] == 0]] * 3 + [few])
    cohort = pd.DataFrame({"slide_id": ["a", "b"], "patient": ["p", "p"]})
    found = summarize(pd.concat([crowded, many]), cohort).loc["p"]
    means = [part.groupby("patch_id")["area_um2"].mean().mean() for part in (few, many)]
    assert found["area_um2.mean"] == pytest.approx(np.mean(means), abs=0.05)


def test_few_nuclei_make_patches_look_no_more_different():
    """The same patches, seen through 40 nuclei each or through 6."""
    rng = np.random.default_rng(2)
    full = [nuclei_of(rng, f"s{i:02}", patches=30, between=4.0) for i in range(40)]
    nuclei = pd.concat(full)
    sparse = nuclei[nuclei.groupby(["slide_id", "patch_id"]).cumcount() < 6]
    columns = ["area_um2.sd_between", "area_um2.patches_low", "area_um2.patches_high"]
    many, few = summarize(nuclei)[columns].mean(), summarize(sparse)[columns].mean()
    assert np.abs(few - many).max() < 0.35
    raw = sparse.groupby(["slide_id", "patch_id"])["area_um2"].mean().groupby("slide_id").std()
    assert raw.mean() > many["area_um2.sd_between"] + 1  # what it would be without the correction


def test_crowding_alone_makes_no_difference():
    """Patches of 6 nuclei in one group and of 30 in the other, all else alike, axes among it."""
    found = 0
    names = ("area_um2", "orientation_deg", "circularity")
    for seed in range(40):
        rng = np.random.default_rng(seed)
        parts = [
            nuclei_of(rng, f"s{i:02}", patches=8, per_patch=30 if i % 2 else 6) for i in range(30)
        ]
        nuclei = pd.concat(parts)
        nuclei["orientation_deg"] = rng.uniform(0, 180, len(nuclei))
        table = summarize(nuclei, features=names)
        scan = scan_features(
            table,
            np.arange(30) % 2 == 1,
            features=names,
            seed=seed,
            labelings=draw_labelings(np.arange(30) % 2, seed=seed, permutations=199),
        )
        found += scan.features["scan_p_any"].min() <= 0.05
        of_axis = scan.table[scan.table["feature"] == "orientation_deg"].set_index("summary")
        assert of_axis["p_any"].isna().sum() == 4
    assert found <= 6  # 5 % of 40 are 2


def test_what_can_not_be_summarized_is_missing():
    rng = np.random.default_rng(3)
    nuclei = pd.concat([nuclei_of(rng, "a"), nuclei_of(rng, "b", patches=1)])
    nuclei.loc[nuclei["slide_id"] == "a", "circularity"] = np.nan
    found = summarize(nuclei)
    assert found.columns.tolist() == summary_columns(NAMES)
    assert found.filter(like="circularity").loc["a"].isna().all()
    known = found.filter(like="area_um2").loc["b"].notna()
    assert known[known.index[:-3]].all()
    assert not known[known.index[-3:]].any()  # one patch has no spread between patches


def planted(change, seed=0, patients=60):
    rng = np.random.default_rng(seed)
    label = np.arange(patients) % 2 == 1
    names = [f"s{i:02}" for i in range(patients)]
    parts = [
        change(nuclei_of(rng, name), rng) if y else nuclei_of(rng, name)
        for name, y in zip(names, label, strict=True)
    ]
    return summarize(pd.concat(parts)), label


def more_variable(nuclei, rng):
    return nuclei.assign(area_um2=nuclei["area_um2"] + 7 * rng.normal(size=len(nuclei)))


def larger(nuclei, rng):
    return nuclei.assign(area_um2=nuclei["area_um2"] + 6)


def rare(nuclei, rng):
    return nuclei.assign(area_um2=nuclei["area_um2"] - 30 * (nuclei["patch_id"] == 3))


@pytest.mark.parametrize(
    ("change", "summaries", "words"),
    [
        (more_variable, {"sd_within"}, "varies more from nucleus to nucleus"),
        (larger, {"mean", "median", "q25", "q75", "q10", "q90"}, "is larger"),
        (rare, {"sd_between"}, "differs more between patches in N+ than in N0"),
    ],
)
def test_planted_differences_are_found_and_said(change, summaries, words):
    table, label = planted(change)
    scan = scan_features(table, label, features=NAMES, seed=0, classes=Classes(("N0", "N+")))
    first = scan.features.set_index("feature").loc["area_um2"]
    assert first["scan_summary"] in summaries
    assert first["scan_p_any"] < 0.01
    assert first["scan_delta_low"] > 0.2
    assert scan.features.set_index("feature").loc["circularity", "scan_p_any"] > 0.05
    assert len(scan.findings) == 1
    assert words in scan.findings[0]
    assert scan.findings[0].endswith("p < 0.001 for all features together).")
    rows = scan.table[scan.table["feature"] == "area_um2"].set_index("summary")
    assert rows.loc[first["scan_summary"], "p_any"] == first["scan_p_any"]
    assert (scan.table["p_any"] >= scan.table["p_value"]).all()
    again = scan_features(table, label, features=NAMES, seed=0, classes=Classes(("N0", "N+")))
    pd.testing.assert_frame_equal(again.table, scan.table)


def test_nothing_found_is_said_with_its_smallest_p():
    table, label = planted(lambda nuclei, rng: nuclei)
    scan = scan_features(table, label, features=NAMES, seed=0, classes=Classes(("N0", "N+")))
    (said,) = scan.findings
    assert said.startswith("The plain scan finds no feature that differs between N+ and N0")
    untested = scan.features.assign(scan_p_any=np.nan)
    assert "too few patients have values" in say_findings(untested, classes=Classes(("b", "a")))[0]


@pytest.mark.parametrize("summary", SUMMARIES)
def test_every_summary_has_its_words_in_both_directions(summary):
    said = {
        say_difference(feature, summary, higher=higher)
        for feature in FEATURES
        for higher in (True, False)
    }
    assert len(said) == 2 * len(FEATURES)
    assert not [text for text in said if "{" in text or "_" in text]
