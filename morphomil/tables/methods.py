"""The methods of a run in sentences, from its settings: a paragraph for the report, and the page
that stands beside the paper's tables."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from morphomil.models.settings import IMAGE_MODELS
from morphomil.nuclei.quantities import phrase, say_nuclei
from morphomil.nuclei.registry import FEATURES
from morphomil.store import read_csv
from morphomil.tables.checklist import AUTHOR
from morphomil.types import FEATURE_NAMES, PatchSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from morphomil.run.directory import Run

_COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


_GRIDS = {"paper": "", "fit": " on a grid placed in each region so as to lose least of it"}


def count_in_words(number: int) -> str:
    """Up to ten in words, beyond in digits."""
    return _COUNTS[number] if number < len(_COUNTS) else f"{number:,}"


def describe_methods(
    patches: PatchSettings,
    *,
    segmenter: str | None,
    folds: int,
    seeds: int,
    bag_patches: int,
    features: Sequence[str] = FEATURE_NAMES,
    permutations: int = 0,
    classes: int = 2,
    ordered: bool = False,
    nuclei: str = "all",
) -> str:
    """A methods paragraph for a paper, from the settings of the run.

    `segmenter` is None for imported nuclei; `permutations` is 0 for a quick ranking; `nuclei` are
    all or those of one type.
    """
    null = (
        f"The labels were permuted {permutations:,} times through the whole training, which gives "
        "the p values of attention, Shapley values, interactions of pairs and out-of-fold AUC; "
        "their smallest, with that of a scan of ten summaries per feature, was calibrated under "
        "the same permutations (Westfall and Young 1993). The model was trained again without "
        "each feature. "
    )
    starts = "start" if seeds == 1 else "starts"
    return (
        f"{describe_nuclei(patches, segmenter=segmenter)} {_describe_features(features, nuclei)} "
        "An attention-based multiple-instance model (Ilse et al. 2018) was trained on bags of "
        f"{bag_patches} patches, in which every feature is one instance, with {folds}-fold "
        f"cross-validation by patient and {seeds} random {starts}. Attention is that paid to a "
        "feature in patients outside training, relative to an even share; features are in the "
        "order of attention standardized by that of shuffled labels, less the natural logarithm of "
        "the smaller adjusted p value of the test of patients' values and of a scan of ten "
        "summaries (counted down to 0.001); Shapley values over all "
        "coalitions of features (beyond 12 features, sampled orders) say what a feature adds to "
        f"the out-of-fold AUC and log-likelihood. {null if permutations else ''}"
        f"{_describe_tests(classes, ordered=ordered)} Intervals are 95 %."
    )


def _describe_tests(classes: int, *, ordered: bool) -> str:
    """How groups were compared."""
    if classes == 2:
        return (
            "Groups were compared, with the patient as the unit, by two-sided Mann-Whitney tests "
            "and, without the assumption of equal spreads, Brunner-Munzel tests, by whose p "
            "values, adjusted after Holm, differences are called significant; the effect size is "
            "Cliff's delta."
        )
    test, effect = "Kruskal-Wallis", "epsilon squared"
    if ordered:
        test, effect = "two-sided Jonckheere-Terpstra", "Somers's D"
    return (
        f"The AUC is the mean of those of each of the {count_in_words(classes)} groups against the "
        f"others. Groups were compared, with the patient as the unit, by {test} tests, adjusted "
        f"after Holm; the effect size is {effect}."
    )


def describe_nuclei(patches: PatchSettings, *, segmenter: str | None) -> str:
    """How patches were cut and nuclei segmented, or imported (`segmenter` None)."""
    segmented = (
        f"segmented with {segmenter}, with context around each patch so that no nucleus was cut"
        if segmenter
        else "segmented with another program and imported"
    )
    return (
        f"Patches of {patches.patch_px} x {patches.patch_px} pixels ({patches.patch_um:g} µm) were "
        f"cut from the tumor regions at {patches.working_mpp:g} µm per pixel"
        f"{_GRIDS[patches.grid]}; those with "
        f"{patches.max_blank:.0%} or more blank area or {patches.max_ink:.0%} or more ink were "
        f"left out. Nuclei were {segmented}; a nucleus belongs to the patch that holds its "
        "centroid."
    )


def _describe_features(features: Sequence[str], nuclei: str) -> str:
    further = [phrase(name) for name in features if name not in FEATURE_NAMES]
    names = [
        "area",
        "major and minor axis",
        "orientation",
        "circumference",
        "density",
        "circularity",
        "rectangularity",
        *further,
    ]
    count = count_in_words(len(FEATURE_NAMES) + len(further)).capitalize()
    whose = ""
    if nuclei != "all":
        whose = (
            f"The features entered the analysis for {say_nuclei(nuclei)} alone; density counts the "
            "nuclei of all types around them. "
        )
    return (
        f"{count} features were measured for each nucleus: {', '.join(names[:-1])} and "
        f"{names[-1]}. {whose}Each feature's values in a patch became a histogram whose bin edges "
        "were fitted on the training patients of the fold."
    )


def normalized_slides(run: Run) -> pd.DataFrame:
    """Of each segmented slide its `label`, and whether stains of it were brought to a reference:
    `normalized`."""
    figures = run.figures("segment").reindex(columns=["label", "state", "regions_stain_normalized"])
    table = figures[figures["state"].isin(["done", "empty"])]
    changed = table["regions_stain_normalized"].fillna(0).astype(float) > 0
    return pd.DataFrame({"label": table["label"].astype(str), "normalized": changed})


def _say_normalized(settings: dict[str, Any], normalized: int) -> str:
    """How stains were normalized, of so many slides where that was decided region by region; ""
    where none was."""
    asked = settings.get("normalize_stain", "never")
    if asked == "auto" and normalized:
        return (
            f" after normalization of the unusual stains of {normalized:,} "
            f"slide{'s' * (normalized > 1)} (Macenko), where the network was surer then"
        )
    always = asked in ("always", True)  # True: by earlier versions
    return " after normalization of the stains (Macenko)" if always else ""


def describe_segmenter(settings: dict[str, Any], *, normalized: int = 0) -> str | None:
    """The segmenter by the settings that a run was segmented with, which normalized the stains of
    so many slides; None where nuclei were imported."""
    if settings["model"] == "imported":
        return None
    name = (
        "the weights of morphomil"
        if settings["model"] == "default"
        else f"the model {settings['model']}"
    )
    engine = {"openvino": "OpenVINO", "tensorflow": "TensorFlow"}[
        settings.get("engine", "tensorflow")
    ]
    segmenter = f"StarDist ({name}; {engine}, {settings.get('precision', 'float32')})"
    segmenter += _say_normalized(settings, normalized)
    if settings.get("implausible") == "drop":
        segmenter += ", leaving out objects whose size, color or focus no nucleus has"
    return segmenter


def patch_settings(run: Run) -> PatchSettings:
    """The settings that the run's patches were cut with."""
    settings = run.segmented_with()
    return PatchSettings(
        **{f.name: settings[f.name] for f in fields(PatchSettings) if f.name in settings}
    )


def describe_run(run: Run) -> str:
    """The methods of a run as far as it has come: `describe_methods` of a ranked one, else
    `describe_nuclei`; what it can't know is the author's."""
    settings = run.segmented_with()
    if not settings:
        return f"Patches and nuclei: {AUTHOR}."
    normalized = int(normalized_slides(run)["normalized"].sum())
    patches, segmenter = patch_settings(run), describe_segmenter(settings, normalized=normalized)
    ranking = run.ranking_about()
    if not ranking:
        return describe_nuclei(patches, segmenter=segmenter)
    path = run.rank_folder / "ranking.csv"
    features = read_csv(path)["feature"].tolist() if path.is_file() else FEATURE_NAMES
    return describe_methods(
        patches,
        segmenter=segmenter,
        folds=ranking["folds"],
        seeds=ranking["seeds"],
        bag_patches=ranking["bag_patches"],
        features=features,
        permutations=ranking.get("permutations", 0),
        classes=len(ranking["classes"]),
        ordered=bool(ranking.get("ordered")),
        nuclei=str(ranking.get("nuclei", "all")),
    )


SOFTWARE = {
    "python": "Python",
    "morphomil": "morphomil",
    "numpy": "NumPy",
    "pandas": "pandas",
    "scipy": "SciPy",
    "scikit-image": "scikit-image",
    "scikit-learn": "scikit-learn",
    "statsmodels": "statsmodels",
    "stardist": "StarDist",
    "openvino": "OpenVINO",
    "tensorflow-cpu": "TensorFlow",
    "tensorflow": "TensorFlow",
    "torch": "PyTorch",
    "openslide-python": "OpenSlide for Python",
    "matplotlib": "Matplotlib",
    "machine": "Processor",
}
"""How the software is written that a run's log names."""


def say_software(run: Run) -> str:
    """The versions that the run's last command ran with."""
    named = [f"{SOFTWARE.get(name, name)} {version}" for name, version in software(run).items()]
    return f"Software: {', '.join(named)}." if named else ""


def references(run: Run, *, models: bool) -> str:
    """BibTeX of what the methods of this run cite, from `references.bib`; `models`: whether models
    were tested."""
    settings, ranking = run.segmented_with(), run.ranking_about()
    keys = ["mann1947"] if not ranking else []
    if settings and settings["model"] != "imported":
        keys.append("schmidt2018")
        if _say_normalized(settings, int(normalized_slides(run)["normalized"].sum())):
            keys.append("macenko2009")
    if ranking:
        keys += ["ilse2018", "shapley1953", "holm1979", "benjamini1995", "ledell2015"]
        keys += ["westfall1993", "phipson2010"]
        two = ["mann1947", "brunner2000", "cliff1993"]
        several = ["jonckheere1954" if ranking.get("ordered") else "kruskal1952"]
        keys += two if len(ranking["classes"]) == 2 else several
    if models:
        keys += ["delong1988", "ledell2015", "clopper1934", "mercaldo2007", "vickers2006"]
        keys += ["collins2024"]
    if any(FEATURES[name].family == "type" for name in run.features if name in FEATURES):
        keys += ["salgado2015"]
    if any(run.model_folder(name).is_dir() for name in IMAGE_MODELS):
        keys += ["xu2021"]
    text = Path(__file__).with_name("references.bib").read_text(encoding="utf-8")
    entries = [entry.strip() for entry in text.split("\n\n") if entry.strip()]
    cited = [entry for entry in entries if entry.split("{")[1].split(",")[0] in keys]
    return "\n\n".join(cited) + "\n"


def methods_page(
    run: Run, patients: pd.DataFrame, predictions: pd.DataFrame, *, notes: Sequence[str]
) -> str:
    """The page `methods.md`: patients, the paragraph of the report (`describe_run`), how models
    were tested, and the notes of the tables; `patients` as `patients_table` gives them."""
    counts = ", ".join(
        f"{n} with label {name}"
        for name, n in patients["label"].value_counts().sort_index().items()
    )
    weights = run.segmented_with().get("model_sha256")
    how = how_tested(predictions[predictions["part"] == "test"])
    lines = [
        "# Methods",
        "",
        f"{len(patients)} patients ({counts}) with {len(run.cohort.slides)} slides were analyzed "
        f"with morphomil {software(run).get('morphomil', '')}.",
        "",
        describe_run(run)
        + (f" The segmenter's weights have the SHA-256 {weights[:12]}." if weights else ""),
        "",
        f"Models were tested in {how}; patients are the unit of splitting and testing.",
        "",
        *notes,
        "Two-sided p values; Holm's adjustment within each table's family is given beside each.",
        "",
        say_software(run),
        "",
        "References: references.bib.",
        "",
    ]
    return "\n".join(lines)


def how_tested(tested: pd.DataFrame) -> str:
    """One test set or folds, from the predictions of test patients."""
    folds = tested["fold"].nunique()
    return "one held-out test set" if folds == 1 else f"{folds}-fold cross-validation by patient"


def software(run: Run) -> dict[str, str]:
    """The versions of Python and packages that the last command ran with; empty before any."""
    versions = run.log.newest().get("versions", {})
    return {name: version for name, version in versions.items() if name != "machine"}
