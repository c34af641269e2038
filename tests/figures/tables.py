"""Made-up tables that figures draw in tests."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from morphomil.figures.verdict import Seen
from morphomil.rank.summaries import SUMMARIES
from morphomil.stats.correlation import FeatureCorrelation, correlate_features
from morphomil.types import FEATURE_NAMES

MODELS = (
    "clinical",
    "dl-cnb",
    "dl-cnb+c",
    "morphometry",
    "morphometry+clinical",
    "a model with a very long name",
)


def groups(count: int) -> list[str]:
    return ["N0", "N+"] if count == 2 else [f"a group with a long name {n}" for n in range(count)]


def composition(count: int) -> pd.DataFrame:
    """Shares of types of ten patients of each group."""
    shares = np.random.default_rng(0).dirichlet([5, 2, 2, 1], 10 * count)
    table = pd.DataFrame(shares, columns=["epithelial", "lymphocyte", "stroma", "other"])
    return table.assign(patient=range(10 * count), label=np.repeat(groups(count), 10))


def flow() -> pd.DataFrame:
    rows = [
        ("In the manifest", 120, 140, np.nan, np.nan, "70 with N0, 50 with N+", ""),
        (
            "Segmented",
            118,
            137,
            9000.0,
            np.nan,
            "69 with N0, 49 with N+",
            "3 slides and 2 patients (2 failed, 1 missing)",
        ),
        (
            "With kept patches",
            118,
            137,
            8000.0,
            np.nan,
            "69 with N0, 49 with N+",
            "1,000 patches, blank or outside",
        ),
        (
            "With measured nuclei",
            117,
            136,
            7990.0,
            1234567.0,
            "68 with N0, 49 with N+",
            "1 slide and 1 patient",
        ),
    ]
    return pd.DataFrame(
        rows, columns=["step", "patients", "slides", "patches", "nuclei", "groups", "lost"]
    )


def predictions(models: int, patients: int = 80) -> pd.DataFrame:
    rng = np.random.default_rng(models)
    label = np.arange(patients) % 2
    tables = []
    for number, model in enumerate(MODELS[:models]):
        score = 1 / (1 + np.exp(-(0.5 * number * (2 * label - 1) + rng.normal(0, 1, patients))))
        tables.append(
            pd.DataFrame(
                {"model": model, "patient": range(patients), "label": label, "score": score}
            )
        )
    return pd.concat(tables, ignore_index=True).assign(fold="test", part="test", cutoff=0.5)


def confusion(models: int, classes: int) -> pd.DataFrame:
    rng = np.random.default_rng(classes)
    rows = []
    for model in MODELS[:models]:
        counts = rng.integers(0, 40, (classes, classes)) + 60 * np.eye(classes, dtype=int)
        shares = counts / counts.sum(axis=1, keepdims=True)
        rows += [
            {
                "model": model,
                "label": a,
                "call": b,
                "n": int(counts[a, b]),
                "share": float(shares[a, b]),
            }
            for a in range(classes)
            for b in range(classes)
        ]
    return pd.DataFrame(rows)


def subgroups(models: int, variables: int = 2) -> pd.DataFrame:
    rows = []
    further = tuple((f"variable {number}", ("no", "yes")) for number in range(variables - 2))
    for number, model in enumerate(MODELS[:models]):
        for variable, names in (
            ("age", ("< 50", ">= 50")),
            ("molecular subtype", ("Luminal A", "Triple negative")),
            *further,
        ):
            for at, name in enumerate(names):
                auc = 0.6 + 0.05 * number + 0.04 * at
                row = {
                    "model": model,
                    "variable": variable,
                    "subgroup": name,
                    "n": 30 + 9 * at,
                    "positives": 12,
                }
                rows.append(
                    row
                    | {
                        "auc": auc,
                        "low": auc - 0.12,
                        "high": auc + 0.1,
                        "p_value": 0.03,
                        "p_holm": 0.12,
                    }
                )
    rows[-1] |= dict.fromkeys(("auc", "low", "high", "p_value", "p_holm"), np.nan)
    return pd.DataFrame(rows)


def patient_values(patients: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    size = rng.normal(0, 1, patients)
    columns = {name: rng.normal(0, 1, patients) for name in FEATURE_NAMES}
    for name in ("area_um2", "major_axis_um", "minor_axis_um", "circumference_um"):
        columns[name] = size + 0.3 * columns[name]
    columns["density_per_mm2"] = 3000 - 800 * size + 200 * columns["density_per_mm2"]
    return pd.DataFrame(columns, index=[f"patient {n}" for n in range(patients)])


def correlation() -> FeatureCorrelation:
    return correlate_features(patient_values())


def histograms(count: int, patients: int = 4) -> pd.DataFrame:
    rng = np.random.default_rng(count)
    tables = []
    for number, group in enumerate(groups(count)):
        for patient in range(patients):
            for feature in FEATURE_NAMES:
                middle = 12 + 1.2 * number + rng.normal(0, 1)
                shares = np.exp(-0.5 * ((np.arange(32) - middle) / 5) ** 2)
                bins = {
                    "low": np.arange(32.0),
                    "high": np.arange(1.0, 33.0),
                    "share": shares / shares.sum(),
                }
                tables.append(
                    pd.DataFrame(
                        {"patient": f"{group}/{patient}", "label": group, "feature": feature} | bins
                    )
                )
    return pd.concat(tables, ignore_index=True)


def orientation(count: int) -> pd.DataFrame:
    low = np.arange(-90.0, 90.0, 10.0)
    tables = []
    for number, group in enumerate(groups(count)):
        shares = 1 + 0.15 * (number + 1) * np.cos(2 * np.radians(low + 5))
        bins = {"low": low, "high": low + 10, "share": shares / shares.sum()}
        tables.append(
            pd.DataFrame(
                {"label": group, "patients": 10 + number, "polarity": 0.03 * number} | bins
            )
        )
    return pd.concat(tables, ignore_index=True)


def evidence() -> tuple[pd.DataFrame, pd.DataFrame]:
    """A ranking with Shapley values and ablation, and the places that models gave."""
    rng = np.random.default_rng(0)
    ranking = pd.DataFrame({"feature": FEATURE_NAMES})
    for name in ("attention", "shapley_auc", "ablation_auc"):
        value = rng.normal(0, 0.1, len(FEATURE_NAMES))
        ranking = ranking.assign(
            **{name: value, f"{name}_low": value - 0.1, f"{name}_high": value + 0.1}
        )
    places = rng.dirichlet(np.ones(len(FEATURE_NAMES)), len(FEATURE_NAMES))
    names = [f"rank{place}" for place in range(1, len(FEATURE_NAMES) + 1)]
    return ranking, pd.DataFrame(places, columns=names).assign(
        by="shapley", feature=FEATURE_NAMES, kendalls_w=0.18
    )


def scan() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ten summaries of each feature compared, and what they say of each feature."""
    rng = np.random.default_rng(1)
    rows = [(feature, summary) for feature in FEATURE_NAMES for summary in SUMMARIES]
    table = pd.DataFrame(rows, columns=["feature", "summary"]).assign(
        delta=rng.uniform(-0.9, 0.9, len(rows)), p_any=rng.uniform(0, 1, len(rows))
    )
    table.loc[3, ["delta", "p_any"]] = np.nan
    count = len(FEATURE_NAMES)
    features = pd.DataFrame({"feature": FEATURE_NAMES}).assign(
        scan_delta=rng.uniform(-0.9, 0.9, count),
        scan_p_any=rng.uniform(0, 0.2, count),
        cliffs_delta=rng.uniform(-0.9, 0.9, count),
    )
    return table, features


def context() -> pd.DataFrame:
    """Each feature and the label against what is known beside; the site is held constant."""
    against = ["site", "age", "um_per_pixel", "sharpness", "tissue_mm2", "optical_density"]
    names = ["label", *FEATURE_NAMES]
    rng = np.random.default_rng(1)
    table = pd.DataFrame(itertools.product(names, against), columns=["feature", "against"])
    share = rng.beta(0.6, 2, len(table))
    table = table.assign(share=share, p_value=np.exp(-9 * share), held=table["against"] == "site")
    place = {name: float(at) for at, name in enumerate(FEATURE_NAMES, start=1)}
    table = table.assign(rank=table["feature"].map(place), p_holm=table["p_value"])
    table.loc[table["feature"] == "label", "p_holm"] = np.nan
    table.loc[5, "share"] = np.nan
    return table


def interactions() -> tuple[pd.DataFrame, pd.DataFrame, pd.Series[bool]]:
    """Every pair's interaction, patients' values, and who is positive."""
    rng = np.random.default_rng(1)
    pairs = pd.DataFrame(
        list(itertools.combinations(FEATURE_NAMES, 2)), columns=["first", "second"]
    )
    pairs["index"] = rng.normal(0, 0.03, len(pairs))
    pairs = pairs.assign(p_any=[0.005, 0.04] + [0.5] * (len(pairs) - 2))
    values = pd.DataFrame(rng.normal(5, 1, (60, len(FEATURE_NAMES))), columns=FEATURE_NAMES)
    return pairs, values, pd.Series(rng.random(60) < 0.4)


def attended() -> pd.DataFrame:
    """Ten patches of most and ten of least attention."""
    rng = np.random.default_rng(0)
    attention = np.sort(rng.lognormal(0, 1.5, 20))[::-1]
    z = {f"{name}_z": rng.normal(0, 2, 20) for name in FEATURE_NAMES}
    ends = pd.DataFrame(
        {
            "end": ["most"] * 10 + ["least"] * 10,
            "patch_id": range(20),
            "relative_attention": attention,
        }
    )
    return ends.assign(**z)


def verdict(*, pair: bool = False) -> tuple[Seen, pd.DataFrame, pd.DataFrame]:
    """Patients' values of a feature, or of a pair, p of each route, AUCs of the models."""
    rng = np.random.default_rng(2)
    labels = pd.Categorical(["N0", "N(+)"] * 20, ["N0", "N(+)"])
    values = pd.DataFrame({"label": labels, "density": rng.normal(4000, 500, 40)})
    seen = Seen(values, ("Density\n(nuclei/mm²)",), "What differs most surely")
    if pair:
        values = values.assign(area=rng.normal(45, 8, 40))
        seen = Seen(values, ("Density (nuclei/mm²)", "Area (µm²)"), "What tells together")
    routes = ["all", "attention", "shapley", "scan", "auc", "pairs"]
    p_values = pd.DataFrame({"route": routes, "p_value": [0.01, 0.005, 0.02, 0.0001, 0.3, 1.0]})
    models = ["morphometry", "single_feature", "logistic_medians", "logistic_products"]
    areas = pd.DataFrame({"model": [*models, "l1_summaries", "forest_summaries"]}).assign(
        auc=[0.9, 0.85, 0.8, 0.7, 1.0, 0.4]
    )
    return seen, p_values, areas.assign(low=areas["auc"] - 0.2, high=areas["auc"].clip(upper=0.9))
