from __future__ import annotations

import base64
import hashlib
import html
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from morphomil.figures.differences import Held
from morphomil.figures.labels import MINUS, RHO
from morphomil.figures.report.data import (
    AttentionSection,
    Picture,
    ReportData,
    ScanSection,
    SlidePictures,
)
from morphomil.figures.report.page import render_report, summarize
from morphomil.figures.sentences import Auc, say_attention, say_auc, say_plainly
from morphomil.figures.style import new_figure, render

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects elements and text, and checks that elements close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def ranking(p_holm: float = 0.004) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "rank": [2, 1, 3],
            "feature": ["area_um2", "density_per_mm2", "circularity"],
            "attention": [0.9, 1.5, 0.6],
            "attention_low": [0.7, 1.2, 0.4],
            "attention_high": [1.1, 1.8, 0.8],
            "n_positive": 30,
            "n_reference": 28,
            "median_positive": [45.6, 5120.0, 0.84],
            "median_reference": [44.1, 4412.0, 0.85],
            "p_value": [0.2, p_holm / 3, 0.6],
            "p_holm": [0.4, p_holm, 0.6],
            "p_bh": [0.3, p_holm, 0.6],
            "brunner_munzel_holm": [0.4, p_holm, 0.6],
            "attention_z": [0.4, 3.1, -1.0],
            "attention_p_any": [0.5, p_holm, 0.9],
            "shapley_p_any": [0.6, p_holm, 0.9],
            "scan_p_any": [0.4, p_holm / 2, 0.9],
            "verdict_p": [0.5, p_holm, 0.9],
            "verdict": [
                "inconclusive at this n",
                "supported" if p_holm < 0.05 else "inconclusive at this n",
                "not supported",
            ],
            "cliffs_delta": [0.1, 0.42, -0.05],
            "cliffs_delta_low": [-0.1, 0.2, -0.2],
            "cliffs_delta_high": [0.3, 0.6, 0.1],
        }
    )


def report(**changes: object) -> ReportData:
    with_picture = Picture(
        "Ranking.",
        "Ranking of three features",
        render(new_figure(width_mm=20, height_mm=20), "svg"),
    )
    slide = Picture("Density.", "Heatmap", render(new_figure(width_mm=20, height_mm=20), "png"))
    slides = pd.DataFrame(
        {
            "slide_id": ["s1", "s2", "s3"],
            "patient": ["001", "001", "002"],
            "label": ["N+", "N+", "N0"],
            "state": ["done", "done", "failed"],
            "patches_kept": pd.array([100, 1150, None], dtype="Int64"),
            "patches_dropped": pd.array([10, 20, None], dtype="Int64"),
            "nuclei": pd.array([9000, 91000, None], dtype="Int64"),
            "nuclei_per_mm2": [5200.4, 4100.0, math.nan],
            "median_area_um2": [44.21, 43.0, math.nan],
            "cause": ["", "", "file is truncated"],
        }
    )
    data = ReportData(
        title="Nuclei and N status",
        positive="N+",
        reference="N0",
        flow=pd.DataFrame(
            {"step": ["manifest", "segmented"], "patients": [2, 1], "lost": ["", "1 slide failed"]}
        ),
        cohort=pd.DataFrame({"characteristic": ["age"], "p_value": [0.0002]}),
        slides=slides,
        ranking=ranking(),
        auc=Auc(0.78, 0.66, 0.88, 0.005),
        ranking_picture=with_picture,
        groups_picture=with_picture,
        roc_picture=with_picture,
        gallery=(SlidePictures("s1", "N+", (slide,)),),
        cautions=("A quick run.",),
        methods=("We did this.",),
        settings={"working_mpp": 0.5},
        versions={"morphomil": "0.1.0"},
    )
    return replace(data, **changes)


def cells(text: str, caption: str) -> list[list[str]]:
    table = next(
        t for t in re.findall(r"<table>.*?</table>", text, re.S) if f"<caption>{caption}" in t
    )
    return [
        re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(<td.*?)</tr>", table)
    ]


def test_page_is_whole_and_asks_nothing_of_the_network() -> None:
    text = render_report(report())
    page = Page(text)
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    links = [attributes["href"] for attributes in page.all("a")]
    assert links and all(link.startswith("#") and link[1:] in ids for link in links)
    images = page.all("img")
    assert len(images) == 4
    assert all(image["alt"] and image["src"].startswith("data:image/") for image in images)
    assert "http://" not in text and "https://" not in text
    assert not page.all("link") and all("src" not in script for script in page.all("script"))
    assert page.all("html")[0]["lang"] == "en" and len(page.all("h1")) == 1


def test_policy_allows_only_the_page_s_own_script_and_style() -> None:
    text = render_report(report())
    policy = next(
        m["content"]
        for m in Page(text).all("meta")
        if m.get("http-equiv") == "Content-Security-Policy"
    )
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        content = re.search(f"<{tag}>(.*?)</{tag}>", text, re.S).group(1)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert not any("style" in attributes for _, attributes in Page(text).elements)


def test_the_scan_and_the_plain_models_have_a_section_and_their_sentences() -> None:
    features = pd.DataFrame(
        {"feature": ["Nuclear area"], "Cliff's delta [95 %]": ["0.41 [0.20, 0.60]"]}
    ).assign(scan_p=0.004, scan_p_any=0.0123)
    models = pd.DataFrame({"model": ["An L1 regression"], "AUC": ["0.81 [0.70, 0.90]"]})
    section = ScanSection(("Nuclear area differs more between patches.",), features, models)
    data = report(scan=section)
    text = render_report(data)
    assert section.findings[0] in summarize(data)
    assert cells(text, "The summary of each feature")[0][-2:] == ["0.004", "0.012"]
    assert cells(text, "Plain models")[0][1] == "0.81 [0.70, 0.90]"
    assert 'href="#scan"' in text
    assert 'href="#scan"' not in render_report(report())


def test_hostile_names_stay_text() -> None:
    slides = report().slides.assign(slide_id=HOSTILE, label=HOSTILE, cause=HOSTILE, patient=HOSTILE)
    picture = Picture(HOSTILE, HOSTILE, b"<svg/>", HOSTILE)
    text = render_report(
        report(
            title=HOSTILE,
            positive=HOSTILE,
            reference=HOSTILE,
            slides=slides,
            cohort=pd.DataFrame({HOSTILE: [HOSTILE]}),
            gallery=(SlidePictures(HOSTILE, HOSTILE, (picture,)),),
            gallery_note=HOSTILE,
            attention=AttentionSection(
                (HOSTILE,),
                pd.DataFrame({HOSTILE: [HOSTILE]}),
                pd.DataFrame({HOSTILE: [f"0.5 [{HOSTILE}]"]}),
            ),
            cautions=(HOSTILE,),
            settings={HOSTILE: HOSTILE},
        )
    )
    page = Page(text)
    assert len(page.all("script")) == 1
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert {image["src"][:11] for image in page.all("img")} == {"data:image/"}
    assert HOSTILE in page.text


def test_tables_hold_the_numbers() -> None:
    text = render_report(report())
    rows = cells(text, "The features, ranked")
    assert rows[0] == [
        "1",
        "Density (nuclei/mm²)",
        "1.50 [1.20, 1.80]",
        "0.42 [0.20, 0.60]",
        "5,120 (30)",
        "4,412 (28)",
        "0.001",
        "0.004",
        "0.004",
        "0.004",
        "3.10",
        "0.004",
        "0.004",
        "0.002",
        "0.004",
        "supported",
    ]
    assert [row[1] for row in rows] == ["Density (nuclei/mm²)", "Area (µm²)", "Circularity"]
    dash = "\N{EN DASH}"
    slides = cells(text, "Segmentation of every slide")
    assert slides[0] == ["s1", "001", "N+", "done", "100", "10", "9,000", "5,200", "44.2", dash]
    assert slides[2] == [
        "s3",
        "002",
        "N0",
        "failed",
        dash,
        dash,
        dash,
        dash,
        dash,
        "file is truncated",
    ]
    assert cells(text, "The cohort") == [["age", "&lt;0.001"]]
    assert cells(text, "Settings of the run") == [["Working mpp", "0.5"]]


def test_cells_sort_by_value_not_by_text() -> None:
    text = render_report(report())
    assert re.findall(r'<td data-key="(\d+)" class="number">[\d,]+</td>', text).count("91000") == 1
    assert 'data-key="1.5" class="number">1.50 [1.20, 1.80]' in text


def test_significant_summary() -> None:
    said = {"verdict": "Supported.", "statement": "Both.", "interaction": "No pair."}
    (extent, lost, auc, verdict, first, both, pair, differences, attention, density, quick) = (
        summarize(report(**said))
    )
    assert [verdict, both, pair] == list(said.values())
    assert (
        extent
        == "1 patient (1 with N+) with 2 slides, 1,250 patches and 100,000 nuclei were analyzed."
    )
    assert lost == "1 of 3 slides gave no result and is left out (1 with N0); see the causes."
    assert auc == (
        "From these features alone, the model separates the groups better than chance: out-of-fold "
        "AUC 0.78 [0.66, 0.88], p = 0.005 under permuted labels."
    )
    assert first == (
        "Of three features, density ranks first; its attention is 1.50 times the average "
        "[1.20, 1.80]. Verdict: supported (p = 0.004 over all features; for any feature: "
        "attention p = 0.004, Shapley value p = 0.004, plain scan p = 0.002). "
        "The patients' values are higher in N+ than in N0 (Cliff's delta 0.42 [0.20, 0.60], "
        "p = 0.004 after Holm)."
    )
    assert differences == (
        "After adjustment for three Brunner-Munzel tests of the patients' values (Holm), one of "
        "three features differs significantly between N+ and N0: "
        "density higher in N+ (p = 0.004)."
    )
    assert "evidence" in attention and "not an explanation" in attention
    assert "lymphocytes or stroma" in density
    assert quick == "A quick run."


def test_summary_says_when_nothing_is_found() -> None:
    table = ranking(p_holm=0.3).assign(attention_low=0.8)
    text = " ".join(summarize(report(ranking=table, auc=Auc(0.53, 0.4, 0.66, 0.3))))
    assert "That the model separates the groups better than chance is not shown" in text
    assert "0.53 [0.40, 0.66], p = 0.30 under permuted labels" in text
    assert "Its attention should not be interpreted." in text
    assert "Verdict: inconclusive at this n (p = 0.30 over all features;" in text
    assert "The patients' values do not differ significantly between N+ and N0" in text
    assert "no feature differs significantly between the groups" in text
    assert "smallest p is that of density (p = 0.30)" in text
    assert "no proof that the groups are alike" in text
    assert "separates the groups better than chance:" not in text and "higher in" not in text


def test_within_strata_the_test_that_was_made_is_named() -> None:
    """Van Elteren's p values are there, Brunner-Munzel's aren't."""
    table = ranking().assign(strata=2, brunner_munzel_holm=math.nan)
    text = " ".join(summarize(report(ranking=table, held=Held(("site",), ("site",)))))
    assert "Within site, the patients' values are higher in N+ than in N0" in text
    assert "three van Elteren tests of the patients' values (Holm), within site, one" in text
    assert "could not be tested" not in text
    page = render_report(report(ranking=table))
    assert "Cliff's delta runs from" in html.unescape(page)
    assert "Brunner-Munzel, Holm" not in page


def test_beside_covariates_both_tests_stand_and_are_told_apart() -> None:
    table = ranking().assign(
        adjusted_odds_ratio=[1.1, 0.4, 1.0],
        adjusted_odds_ratio_low=[0.7, 0.2, 0.6],
        adjusted_odds_ratio_high=[1.6, 0.8, 1.7],
        adjusted_p=[0.6, 0.003, 0.9],
        adjusted_p_holm=[1.0, 0.009, 1.0],
    )
    given = report(ranking=table, held=Held((), ("age", "site")))
    text = " ".join(summarize(given))
    assert "Without regard to age and site, the patients' values are higher in N+" in text
    assert "(Holm), without regard to age and site, one of three" in text
    assert (
        "Beside age and site one goes with the outcome (regressions of it, Holm): density "
        "(odds ratio per SD 0.40 [0.20, 0.80], p = 0.009)." in text
    )
    rows = cells(render_report(given), "The features, ranked")
    assert "0.40 [0.20, 0.80]" in rows[0] and "0.003" in rows[0] and "0.009" in rows[0]
    none = table.assign(adjusted_p_holm=[1.0, 0.2, 1.0])
    text = " ".join(summarize(report(ranking=none, held=Held((), ("age",)))))
    assert "Beside age none goes with the outcome significantly" in text


def test_of_several_groups_two_are_named_only_where_they_differ() -> None:
    table = ranking().drop(columns=[c for c in ranking() if c.startswith("brunner")])
    table = table.assign(
        test="Kruskal-Wallis",
        epsilon_squared=[0.1, 0.3, 0.0],
        epsilon_squared_low=0.0,
        epsilon_squared_high=0.6,
        highest="C",
        lowest="B",
        extremes_p=0.2,
        **{f"{name}_{g}": 10 for g in "ABC" for name in ("n", "median")},
    )
    assert "The patients' values are different, no two groups for sure" in " ".join(
        summarize(report(ranking=table))
    )
    sure = table.assign(extremes_p=0.01)
    text = " ".join(summarize(report(ranking=sure)))
    assert "The patients' values are highest in C and lowest in B (epsilon squared" in text
    assert "Epsilon squared runs from 0" in render_report(report(ranking=sure))


def test_summary_without_tests_ranking_or_interval() -> None:
    untested = ranking().assign(brunner_munzel_holm=math.nan, cliffs_delta=math.nan)
    text = " ".join(summarize(report(ranking=untested)))
    assert "No feature could be tested" in text and "could not be tested." in text
    page = render_report(report(ranking=None, auc=None, ranking_picture=None))
    assert "The features have not been ranked yet." in page and 'href="#ranking"' not in page
    assert "without an interval" in say_auc(Auc(0.7, math.nan, math.nan))
    assert "not tested against permuted labels" in say_auc(Auc(0.7, 0.6, 0.8))
    tests = ["attention_p_any", "shapley_p_any", "scan_p_any"]
    text = " ".join(summarize(report(ranking=ranking().assign(**dict.fromkeys(tests, math.nan)))))
    assert "Whether it does so by chance was not tested." in text
    assert "below chance" in say_auc(Auc(0.3, 0.2, 0.4))
    adjusted = say_auc(Auc(0.8, 0.7, 0.9, 0.01, "without them, from site, it is 0.75 [0.65, 0.85]"))
    assert adjusted.startswith("With the features, the out-of-fold AUC is 0.80 [0.70, 0.90] (p")
    assert adjusted.endswith("; without them, from site, it is 0.75 [0.65, 0.85].")


def test_density_is_explained_by_classes_or_cautioned() -> None:
    low = ranking().assign(rank=[1, 5, 2], brunner_munzel_holm=0.5)
    assert not any("lymphocytes" in s for s in summarize(report(ranking=low)))
    assert not any("lymphocytes" in s for s in summarize(report(nucleus_classes=True)))


def test_equal_data_give_equal_pages() -> None:
    assert render_report(report()) == render_report(report())


@pytest.mark.parametrize(
    ("data", "media"),
    [(b"\x89PNG\r\n", "png"), (b"\xff\xd8\xff\xe0", "jpeg"), (b"<?xml ?><svg/>", "svg+xml")],
)
def test_pictures_tell_their_media_type(data: bytes, media: str) -> None:
    uri = Picture("a", "b", data).uri
    assert uri.startswith(f"data:image/{media};base64,")
    assert base64.b64decode(uri.split(",")[1]) == data


def test_counts_of_many_types_print() -> None:
    table = pd.DataFrame(
        {"flag": [True, False], "n": np.array([1200, 3], dtype=np.int32), "x": [None, "y"]}
    )
    rows = cells(render_report(report(cohort=table)), "The cohort")
    assert rows == [["yes", "1,200", "\N{EN DASH}"], ["no", "3", "y"]]


def associations() -> pd.DataFrame:
    """Attention goes with low density and small nuclei, what the probability loses with nothing."""
    rows = [
        ("attention", "area_um2", -0.2, 0.03),
        ("attention", "density_per_mm2", -0.4, 0.001),
        ("attention", "circularity", 0.3, 0.06),
        ("occlusion", "area_um2", 0.1, 0.5),
    ]
    table = pd.DataFrame(rows, columns=["evidence", "feature", "rho", "p_holm"])
    return table.assign(rho_low=table["rho"] - 0.1, rho_high=table["rho"] + 0.1)


def test_what_the_image_model_looks_at_is_said_with_direction_and_interval() -> None:
    assert say_attention("DL-CNB", associations(), first="density_per_mm2") == [
        f"Within a slide, DL-CNB attends more to patches with lower density ({RHO} {MINUS}0.40 "
        f"[{MINUS}0.50, "
        f"{MINUS}0.30]), smaller area ({RHO} {MINUS}0.20 [{MINUS}0.30, {MINUS}0.10]).",
        "What its probability loses without a patch goes with no feature significantly.",
        "The feature that ranks first, density, is among them.",
    ]
    nothing = associations().assign(p_holm=[0.5, math.nan, 0.5, 0.5])
    assert say_attention("DL-CNB", nothing, first="circularity") == [
        "Within a slide, the attention of DL-CNB goes with no feature significantly.",
        "What its probability loses without a patch goes with no feature significantly.",
        "The feature that ranks first, circularity, is not among them.",
    ]


def test_features_are_named_plainly() -> None:
    said = say_plainly(
        "Both put area_um2 first (tau -0.36), not area_um2_sd", ["area_um2", "area_um2_sd"]
    )
    assert said == f"Both put area first (tau {MINUS}0.36), not area um2 sd"


def test_image_model_has_its_section_and_estimates_sort_as_numbers() -> None:
    morphology = pd.DataFrame(
        {
            "model": ["DL-CNB"],
            f"attention: {RHO} [95 %]": [f"{MINUS}0.40 [{MINUS}0.50, {MINUS}0.30]"],
            "attention_p_holm": [0.0004],
        }
    )
    text = render_report(
        report(attention=AttentionSection(("It looks at density.",), morphology, pd.DataFrame()))
    )
    assert '<a href="#looks">' in text and "<li>It looks at density.</li>" in text
    assert cells(text, "Patches inside each slide") == [
        ["DL-CNB", f"{MINUS}0.40 [{MINUS}0.50, {MINUS}0.30]", "&lt;0.001"]
    ]
    assert (
        f'<td data-key="-0.40" class="number">{MINUS}0.40 [{MINUS}0.50, {MINUS}0.30]</td>' in text
    )
    assert "What the image model looks at" not in render_report(report())
