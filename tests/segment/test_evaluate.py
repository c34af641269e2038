"""Evaluation: figures of a segmenter that is right, of one that is wrong in a known way, and the
command's files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import center_of_mass
from skimage.draw import ellipse
from typer.testing import CliRunner

from morphomil.figures.segmentation import agreement_sheet, feature_bias_plot, reliability_plot
from morphomil.nuclei.measure import measure_nuclei
from morphomil.segment import evaluate
from morphomil.segment.annotated import AnnotatedImage
from morphomil.segment.evaluate import evaluate_segmenter, tune_edge, tune_thresholds
from morphomil.segment.model import Segmenter
from morphomil.segment.outlines import Outlines
from morphomil.types import FEATURE_NAMES


def annotated_image(seed: int, *, side: int = 600, mpp: float = 0.25) -> AnnotatedImage:
    """Violet ellipses on pink at 0.25 um per pixel."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((side, side), np.int32)
    for number in range(1, 400):
        where = ellipse(
            *rng.uniform(0, side, 2),
            *rng.uniform(9, 20, 2),
            shape=labels.shape,
            rotation=rng.uniform(0, 3),
        )
        if not labels[where].any():
            labels[where] = number
    rgb = np.where(labels[..., None] > 0, [90, 50, 130], [230, 190, 210]).astype(np.uint8)
    return AnnotatedImage(f"image{seed}", rgb, labels, mpp, "set")


def answer_with(monkeypatch: pytest.MonkeyPatch, change) -> Segmenter:
    """A segmenter whose labels are the truth, changed."""
    truths: dict[bytes, np.ndarray] = {}

    def find(
        rgb: np.ndarray, *, mpp: float, segmenter: Segmenter
    ) -> tuple[np.ndarray, pd.DataFrame]:
        labels = change(truths[rgb.tobytes()])
        return labels, measure_nuclei(labels, mpp=mpp).set_index("label")

    monkeypatch.setattr(evaluate, "find_measured", find)
    segmenter = Segmenter("", lambda _: (np.empty(0), np.empty(0)), 2, 16, 0.5, 0.4, (), "unit")
    object.__setattr__(segmenter, "truths", truths)
    return segmenter


def know(segmenter: Segmenter, images: list[AnnotatedImage]) -> list[AnnotatedImage]:
    for image in images:
        for level in image.levels():
            segmenter.truths[level.rgb.tobytes()] = level.labels  # type: ignore[attr-defined]
    return images


def test_the_truth_is_perfect_and_unbiased(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = answer_with(monkeypatch, lambda labels: labels.copy())
    result = evaluate_segmenter(know(segmenter, [annotated_image(i) for i in range(4)]), segmenter)
    assert set(result.images["mpp"]) == {0.25, 0.5}
    assert (result.images[["pq", "dq", "sq", "aji", "dice", "f1_0.9", "count_ratio"]] == 1).all(
        axis=None
    )
    assert (result.features["bias"].abs() < 1e-9).all()
    assert result.features["spearman"].to_numpy() == pytest.approx(1)
    assert set(result.features["feature"]) == set(FEATURE_NAMES)
    trust = result.reliability
    assert (trust[["bias", "bias_sd", "bias_low", "bias_high"]].abs() < 1e-9).all(axis=None)
    for name in ("slope", "correlation", "spearman", "slope_low", "spearman_low"):
        assert trust[name].to_numpy() == pytest.approx(1)
    assert (trust["images"] == 4).all()
    assert set(trust["feature"]) == {
        "area_um2",
        "major_axis_um",
        "minor_axis_um",
        "circumference_um",
        "circularity",
        "rectangularity",
    }


def test_enlarged_outlines_show_as_bias_of_the_right_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every nucleus grown by a pixel: area grows by about the circumference, the count stays."""
    from skimage.segmentation import expand_labels

    segmenter = answer_with(monkeypatch, lambda labels: expand_labels(labels, 1).astype(np.int32))
    result = evaluate_segmenter(
        know(segmenter, [annotated_image(i) for i in range(4)]), segmenter, halve=False
    )
    bias = result.features.set_index("feature")["bias"]
    assert (result.images["count_ratio"] == 1).all()
    assert 0.3 < bias["major_axis_um"] < 0.6
    assert 0.3 < bias["minor_axis_um"] < 0.6
    row = result.features.set_index("feature").loc["area_um2"]
    assert row["low"] < row["bias"] < row["high"]
    assert 0.1 < row["relative_bias"] < 0.3
    assert abs(bias["orientation_deg"]) < 1
    trust = result.reliability.set_index("feature").loc["area_um2"]
    assert trust["bias"] == pytest.approx(row["relative_bias"], abs=0.02)
    assert trust["bias_low"] <= trust["bias"] <= trust["bias_high"]
    assert reliability_plot(result.means, result.reliability).axes


def test_half_the_nuclei_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = answer_with(monkeypatch, lambda labels: np.where(labels % 2, labels, 0))
    result = evaluate_segmenter(
        know(segmenter, [annotated_image(i) for i in range(3)]), segmenter, halve=False
    )
    assert result.images["count_ratio"].between(0.35, 0.65).all()
    assert (result.images["sq"] == 1).all()
    assert result.images["dq"].between(0.5, 0.8).all()
    assert result.worst[0].pq <= result.best[0].pq
    assert agreement_sheet([*result.worst, *result.best]).axes
    assert feature_bias_plot(result.features).axes


def test_nothing_found_is_told_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = answer_with(monkeypatch, np.zeros_like)
    result = evaluate_segmenter(know(segmenter, [annotated_image(0)]), segmenter, halve=False)
    assert result.images["pq"].item() == 0
    assert np.isnan(result.images["sq"].item())
    assert (result.features["pairs"] == 0).all()
    assert result.summary["low"].isna().all()
    assert result.reliability.empty
    with pytest.raises(ValueError, match="no image has enough nuclei"):
        reliability_plot(result.means, result.reliability)
    with pytest.raises(ValueError, match="no nucleus was matched"):
        feature_bias_plot(result.features)


def test_thresholds_are_tuned_to_the_image() -> None:
    """A network that is right, and only half sure: a threshold below its probability is chosen."""
    image = annotated_image(0, side=256, mpp=0.5)
    from scipy.ndimage import distance_transform_edt
    from stardist.geometry import star_dist

    def network(pixels: np.ndarray, margin: int) -> tuple[np.ndarray, np.ndarray]:
        padded = image.labels
        assert pixels.shape == (1, 256 + 2 * margin, 256 + 2 * margin, 3)
        depth = distance_transform_edt(padded)
        probability = np.where(depth > 0.5 * depth.max(), 0.5, 0.0)
        return probability[None, ::2, ::2, None].astype(np.float32), star_dist(
            padded, 16, grid=(2, 2)
        )[None]

    segmenter = Segmenter("", network, 2, 16, 0.9, 0.4, (), "unit")
    best, table = tune_thresholds([image], segmenter)
    assert best["prob"] < 0.5
    assert table.loc[table["prob"] >= 0.5, "pq"].max() == 0
    assert set(table.columns) == {"prob", "nms", "group", "mpp", "pq", "aji", "dq", "count_ratio"}


def test_the_edge_is_tuned_to_the_size() -> None:
    """A map whose edge lies 0.8 pixels too far out: the level takes it back."""
    from scipy.ndimage import distance_transform_edt
    from stardist.geometry import star_dist

    image = annotated_image(0, side=256, mpp=0.5)

    def network(pixels: np.ndarray, margin: int) -> tuple[np.ndarray, ...]:
        inside = distance_transform_edt(image.labels) - 0.5
        outside = distance_transform_edt(image.labels == 0) - 0.5
        logit = np.where(image.labels > 0, inside, -outside) + 0.8
        probability = np.where(inside > 0.5 * inside.max(), 0.5, 0.0)
        rays = star_dist(image.labels, 16, grid=(2, 2))
        parts = probability[::2, ::2, None], rays, logit
        return tuple(part[None].astype(np.float32) for part in parts)

    segmenter = Segmenter("", network, 2, 16, 0.4, 0.4, (), "unit", maps=True)
    ((_, level),), table = tune_edge([image], segmenter)
    assert level == pytest.approx(0.8, abs=0.15)
    assert set(table.columns) == {"edge_logit", "group", "mpp", "area_bias"}
    unmapped = replace(
        segmenter, network=lambda pixels, margin: network(pixels, margin)[:2], maps=False
    )
    assert tune_edge([image], unmapped)[0] == ((0.5, 0.0),)
    assert tune_edge([image], replace(segmenter, resolutions_mpp=(0.25, 0.55)))[0][0][0] == 0.55


def test_the_edge_is_tuned_at_each_resolution() -> None:
    """Maps whose edge lies 0.4 pixels too far out in fine images, 0.8 in coarse ones."""
    from scipy.ndimage import distance_transform_edt
    from stardist.geometry import star_dist

    images = [annotated_image(0, side=256, mpp=mpp) for mpp in (0.4, 0.5)]
    off = iter((0.4, 0.8))

    def network(pixels: np.ndarray, margin: int) -> tuple[np.ndarray, ...]:
        labels = images[0].labels
        inside = distance_transform_edt(labels) - 0.5
        outside = distance_transform_edt(labels == 0) - 0.5
        logit = np.where(labels > 0, inside, -outside) + next(off)
        probability = np.where(inside > 0.5 * inside.max(), 0.5, 0.0)
        rays = star_dist(labels, 16, grid=(2, 2))
        parts = probability[::2, ::2, None], rays, logit
        return tuple(part[None].astype(np.float32) for part in parts)

    segmenter = Segmenter("", network, 2, 16, 0.4, 0.4, (0.4, 0.5), "unit", maps=True)
    levels, _ = tune_edge(images, segmenter)
    assert [mpp for mpp, _ in levels] == [0.4, 0.5]
    assert [level for _, level in levels] == pytest.approx([0.4, 0.8], abs=0.15)
    tuned = replace(segmenter, edge_logits=((0.25, -1.0), (0.5, 1.0)))
    asked = [tuned.edge_logit(mpp) for mpp in (0.1, 0.25, 0.125**0.5, 0.5, 2)]
    assert asked == pytest.approx([-1, -1, 0, 1, 1])


def test_a_nucleus_on_the_rim_says_nothing_of_the_edge() -> None:
    """Its other part isn't seen."""
    labels = np.zeros((60, 60), np.int32)
    labels[20:40, 20:40], labels[0:10, 20:40] = 1, 2
    corners = np.array([[[19.5, 19.5], [19.5, 39.5], [39.5, 39.5], [39.5, 19.5]]] * 2, np.float32)
    corners[1, :, 0] = [-0.5, -0.5, 13.5, 13.5]
    outlines = Outlines(
        corners.mean(axis=1), np.ones(2, np.float32), corners.reshape(-1, 2), np.array([4, 8])
    )
    image = AnnotatedImage("a", np.zeros((60, 60, 3), np.uint8), labels, 0.5, "")
    assert evaluate._area_bias(image, outlines) == pytest.approx(0, abs=1e-6)


def test_the_command_writes_tables_and_pictures(tmp_path: Path) -> None:
    from morphomil.cli.app import app

    image = annotated_image(1, side=320)
    Image.fromarray(image.rgb).save(tmp_path / "a.png")
    Image.fromarray(image.labels.astype(np.uint16)).save(tmp_path / "a_labels.png")
    rows = [
        {"image": "a.png", "labels": "a_labels.png", "mpp": 0.25, "split": "val", "group": "mine"}
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "images.csv", index=False)
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app, ["evaluate-segmenter", str(tmp_path / "images.csv"), "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert "mine" in result.output
    assert "SD of bias %" in result.output
    assert {"slope", "slope_low", "bias_sd"} <= set(pd.read_csv(out / "reliability.csv"))
    assert {"annotated", "found"} <= set(pd.read_csv(out / "means.csv"))
    assert (out / "reliability.png").stat().st_size > 10_000
    assert set(pd.read_csv(out / "images.csv")["mpp"]) == {0.25, 0.5}
    assert {"relative_bias", "low", "high", "spearman"} <= set(pd.read_csv(out / "features.csv"))
    assert (out / "tiles.png").stat().st_size > 10_000
    refused = CliRunner().invoke(
        app, ["evaluate-segmenter", str(tmp_path / "images.csv"), "--out", str(out), "--split", "x"]
    )
    assert "no images with split x" in str(refused.exception)


def test_the_command_compares_types_of_points(tmp_path: Path) -> None:
    from morphomil.cli.app import app

    image = annotated_image(1, side=320, mpp=0.5)
    Image.fromarray(image.rgb).save(tmp_path / "a.png")
    names = np.unique(image.labels[image.labels > 0])
    middles = np.array(center_of_mass(image.labels > 0, image.labels, names)).round().astype(int)
    points = pd.DataFrame(middles[:, ::-1], columns=["x_px", "y_px"]).assign(type="stroma")
    points.to_csv(tmp_path / "points.csv", index=False)
    table = tmp_path / "images.csv"
    pd.DataFrame([{"image": "a.png", "points": "points.csv", "mpp": 0.5}]).to_csv(
        table, index=False
    )
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["evaluate-segmenter", str(table), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "detection" in result.output
    scores = pd.read_csv(out / "types.csv").set_index("type")
    assert scores.loc["detection", "annotated"] == len(names)
    assert scores.loc["detection", "f1"] > 0.7
    confused = pd.read_csv(out / "confusion.csv").set_index("annotated")
    assert confused.loc["stroma"].drop("group").astype(int).sum() == len(names)
    assert (out / "types.png").stat().st_size > 10_000
    assert not (out / "images.csv").exists()
