"""Training of the nucleus segmenter: annotated images -> a StarDist model folder.

The network, its losses and its targets are StarDist's (Schmidt et al. 2018, Weigert & Schmidt 2022); the patches come
from `augment`. Batch k of epoch e depends on the seed, e and k alone, so that a resumed training sees the same patches.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import warnings
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image
from skimage.transform import downscale_local_mean

from morphomil.segment import MIN_AREA_UM2
from morphomil.segment.agreement import agreement
from morphomil.segment.augment import AugmentSettings, jitter_optics, jitter_stain, sample_patch
from morphomil.segment.detect import array_reader, block_rows, find_candidates, join, render, suppress
from morphomil.segment.model import import_tensorflow, load_segmenter, save_weights
from morphomil.store import write_json, write_table_csv
from morphomil.types import InputError, SlideError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from morphomil.segment.model import Segmenter

HALO_PX = 32
"""Targets are computed on a patch larger by this on each side: nuclei cut by the patch's edge keep their shape."""


@dataclass(frozen=True)
class TrainSettings:
    """The network and its training; stored with the model."""

    rays: int = 32
    filters: int = 32
    depth: int = 3
    features: int = 128
    """Width of the last hidden layer."""
    grid: int = 2
    patch_px: int = 256
    batch: int = 4
    epochs: int = 60
    steps_per_epoch: int = 100
    learning_rate: float = 4e-4
    seed: int = 1
    augment: AugmentSettings = field(default_factory=AugmentSettings)


@dataclass(frozen=True)
class AnnotatedImage:
    """One annotated image: RGB uint8 (H, W, 3), instance labels (H, W), resolution, and the group it is drawn in."""

    name: str
    rgb: NDArray[np.uint8]
    labels: NDArray[np.int32]
    mpp: float
    group: str


def read_annotated(table: pd.DataFrame, root: Path) -> list[AnnotatedImage]:
    """The images named in a table with the columns `image`, `labels`, `mpp` and optionally `group`.

    Args:
        table: paths are relative to `root`. Images of one group share the chance to be drawn (say, data sets of
            different size); without the column all images are one group.
        root: folder that the paths start from.

    Raises:
        InputError: every missing or unusable file, at once.
    """
    problems, images = [], []
    for row in table.to_dict("records"):
        try:
            with Image.open(root / row["image"]) as file:
                rgb = np.asarray(file.convert("RGB"))
            with Image.open(root / row["labels"]) as file:
                labels = np.asarray(file).astype(np.int32)
            if labels.shape != rgb.shape[:2]:
                raise ValueError(f"labels are {labels.shape}, the image is {rgb.shape[:2]}")
            images.append(AnnotatedImage(str(row["image"]), rgb, labels, float(row["mpp"]), str(row.get("group", ""))))
        except (OSError, ValueError, KeyError) as error:
            problems.append(f"{row.get('image')}: {error}")
    if problems:
        raise InputError(problems)
    return images


class PatchSampler:
    """Batches of augmented patches with StarDist's targets, reproducible by (seed, epoch, index)."""

    def __init__(self, images: Sequence[AnnotatedImage], settings: TrainSettings) -> None:
        self.settings = settings
        groups = {image.group for image in images}
        self.groups = [[i for i, image in enumerate(images) if image.group == group] for group in sorted(groups)]
        self.levels = [_halvings(image) for image in images]

    def patch(self, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """One augmented patch with its labels, both with `HALO_PX` around."""
        settings = self.settings.augment
        group = self.groups[rng.integers(len(self.groups))]
        levels = self.levels[group[rng.integers(len(group))]]
        spread = math.log(settings.scale_jitter)
        mpp = rng.choice(settings.target_mpp) * math.exp(rng.uniform(-spread, spread))
        mpp = max(mpp, levels[0].mpp / settings.scale_jitter)  # no invented detail
        level = min(levels, key=lambda image: abs(math.log(image.mpp / mpp)))
        side = self.settings.patch_px + 2 * HALO_PX
        rgb, labels = sample_patch(level.rgb, level.labels, side=side, zoom=mpp / level.mpp, rng=rng)
        return jitter_optics(jitter_stain(rgb, rng, settings), rng, settings), labels

    def batch(self, epoch: int, index: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Input (B, S, S, 3) and targets: object probability (B, s, s, 1); distances and mask (B, s, s, rays + 1)."""
        from stardist.geometry import star_dist
        from stardist.utils import edt_prob

        rng = np.random.default_rng([self.settings.seed, epoch, index])
        grid = self.settings.grid
        inner = slice(HALO_PX, -HALO_PX)
        small = slice(HALO_PX // grid, -(HALO_PX // grid))
        inputs, probabilities, distances = [], [], []
        for _ in range(self.settings.batch):
            rgb, labels = self.patch(rng)
            probability = edt_prob(labels[::grid, ::grid])[small, small, None]
            distance = star_dist(labels, self.settings.rays, grid=(grid, grid))[small, small]
            inputs.append(rgb[inner, inner])
            probabilities.append(probability)
            distances.append(np.concatenate([distance, probability], axis=-1))
        return (np.stack(inputs),), (np.stack(probabilities), np.stack(distances))


def _halvings(image: AnnotatedImage) -> list[AnnotatedImage]:
    """The image at its own and at half its resolution (area mean; labels by nearest neighbor)."""
    if image.mpp > 0.35:
        return [image]
    half = downscale_local_mean(image.rgb, (2, 2, 1)).round().astype(np.uint8)
    labels = image.labels[::2, ::2]
    return [image, AnnotatedImage(image.name, half, labels, image.mpp * 2, image.group)]


def train_segmenter(
    train: Sequence[AnnotatedImage],
    validation: Sequence[AnnotatedImage],
    out: Path,
    *,
    settings: TrainSettings,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> Path:
    """Train a StarDist network and write it to the folder `out`; an interrupted training in `out` is resumed.

    The learning rate falls from its maximum to zero on a cosine over the whole training; the last weights are kept.
    `out` receives `config.json`, `weights.safetensors`, `settings.json` and `log.csv`; thresholds are tuned
    afterwards (`tune_thresholds`).

    Raises:
        InputError: `out` holds a training with other settings.
    """
    import_tensorflow()
    import keras
    from stardist.models import Config2D, StarDist2D

    _claim_folder(out, settings)
    config = Config2D(
        axes="YXC",
        n_channel_in=3,
        n_rays=settings.rays,
        grid=(settings.grid, settings.grid),
        unet_n_filter_base=settings.filters,
        unet_n_depth=settings.depth,
        net_conv_after_unet=settings.features,
        train_patch_size=(settings.patch_px, settings.patch_px),
        train_batch_size=settings.batch,
        train_epochs=settings.epochs,
        train_steps_per_epoch=settings.steps_per_epoch,
        train_learning_rate=settings.learning_rate,
        train_reduce_lr=None,
        train_tensorboard=False,
    )
    keras.utils.set_random_seed(settings.seed)
    with contextlib.redirect_stdout(io.StringIO()):  # StarDist prints its thresholds
        model = StarDist2D(config, name=None, basedir=None)
    total = settings.epochs * settings.steps_per_epoch
    rate = keras.optimizers.schedules.CosineDecay(
        1e-6, total, alpha=0.01, warmup_target=settings.learning_rate, warmup_steps=min(200, total // 10)
    )
    model.prepare_for_training(optimizer=keras.optimizers.Adam(rate, global_clipnorm=1.0))

    sampler = PatchSampler(train, settings)

    class Batches(keras.utils.PyDataset):  # type: ignore[misc, unused-ignore]
        """The sampler's batches, epoch by epoch."""

        def __init__(self, first_epoch: int) -> None:
            super().__init__(workers=1, max_queue_size=4)
            self.epoch = first_epoch

        def __len__(self) -> int:
            return settings.steps_per_epoch

        def __getitem__(self, index: int) -> Any:
            return sampler.batch(self.epoch, index)

        def on_epoch_end(self) -> None:
            self.epoch += 1

    class Log(keras.callbacks.Callback):  # type: ignore[misc, unused-ignore]
        """One line of log.csv and one checkpoint an epoch."""

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            figures = {name: float(value) for name, value in (logs or {}).items()}
            _append_log(out / "log.csv", epoch, figures)
            partial = out / "checkpoint.tmp.weights.h5"
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Detected filename suffix", category=UserWarning)
                self.model.save_weights(partial)
            partial.replace(out / "checkpoint.weights.h5")
            write_json(out / "checkpoint.json", {"epoch": epoch + 1})
            if on_epoch is not None:
                on_epoch(epoch, figures)

    checked = PatchSampler(validation, settings)
    batches = [checked.batch(2**31, index) for index in range(8)]
    held_out = (
        np.concatenate([b[0][0] for b in batches]),
        tuple(np.concatenate([b[1][part] for b in batches]) for part in (0, 1)),
    )
    first = _resume(out, model.keras_model)
    if first < settings.epochs:
        model.keras_model.fit(
            Batches(first),
            epochs=settings.epochs,
            initial_epoch=first,
            validation_data=held_out,
            validation_batch_size=settings.batch,
            callbacks=[Log()],
            verbose=0,
        )
    write_json(out / "config.json", vars(config))
    save_weights(model.keras_model, out / "weights.safetensors")
    write_json(out / "morphomil.json", {"resolutions_mpp": list(settings.augment.target_mpp), "normalize": "unit"})
    return out


def _claim_folder(out: Path, settings: TrainSettings) -> None:
    out.mkdir(parents=True, exist_ok=True)
    path = out / "settings.json"
    stated = asdict(settings)
    if path.exists():
        if json.loads(path.read_text()) != json.loads(json.dumps(stated)):
            raise InputError(f"{out} holds a training with other settings; name another folder")
    else:
        write_json(path, stated)


def _resume(out: Path, network: Any) -> int:
    """Load the last checkpoint, if any; the epoch to go on with."""
    state = out / "checkpoint.json"
    if not state.exists():
        return 0
    network.optimizer.build(network.trainable_variables)  # else its momenta have nowhere to go
    network.load_weights(out / "checkpoint.weights.h5")
    epoch = int(json.loads(state.read_text())["epoch"])
    log = pd.read_csv(out / "log.csv")
    write_table_csv(out / "log.csv", log[log["epoch"] < epoch])
    return epoch


def _append_log(path: Path, epoch: int, figures: dict[str, float]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["epoch", *figures])
        writer.writerow([epoch, *(f"{value:.5f}" for value in figures.values())])


PROB_GRID = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
NMS_GRID = (0.2, 0.3, 0.4, 0.5)


def tune_thresholds(
    validation: Sequence[AnnotatedImage], segmenter: Segmenter
) -> tuple[dict[str, float], pd.DataFrame]:
    """The thresholds of best mean panoptic quality on the validation images, each at its own and at half resolution.

    Returns:
        {"prob", "nms"}, and the table of all pairs: `prob`, `nms`, `group`, `mpp`, `pq`, `aji`, `f1`, `count_ratio`,
        means over images. Groups and resolutions weigh the same.
    """
    low = replace(segmenter, prob_threshold=min(PROB_GRID))
    rows = []
    for image in (level for whole in validation for level in _halvings(whole)):
        shape = (image.labels.shape[0], image.labels.shape[1])
        blocks = [block for row in block_rows(*shape) for block in row]
        try:
            found = [find_candidates(array_reader(image.rgb), block, segmenter=low) for block in blocks]
        except SlideError:  # nuclei nearly everywhere: a network that has learned nothing agrees with nothing
            found = []
        candidates = join([part for part in found if len(part)], rays=0)
        for prob in PROB_GRID:
            likely = candidates[candidates.prob > prob]
            for nms in NMS_GRID:
                nuclei = suppress(likely, threshold=nms)
                bands = render(nuclei, shape=shape, min_px=MIN_AREA_UM2 / image.mpp**2)
                score = agreement(image.labels, np.concatenate([labels for _, labels in bands]))
                ratio = score.found / max(score.annotated, 1)
                key = {"prob": prob, "nms": nms, "group": image.group, "mpp": image.mpp}
                rows.append(key | {"pq": score.pq, "aji": score.aji, "f1": score.f1, "count_ratio": ratio})
    table = pd.DataFrame(rows).groupby(["prob", "nms", "group", "mpp"], as_index=False).mean()
    mean = table.groupby(["prob", "nms"], as_index=False)[["pq"]].mean()
    best = mean.iloc[int(mean["pq"].argmax())]
    return {"prob": float(best["prob"]), "nms": float(best["nms"])}, table


def train_from_table(
    path: Path,
    out: Path,
    *,
    root: Path | None,
    settings: TrainSettings,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> Path:
    """Train on the images of a CSV (`read_annotated`, with a column `split`: train or val) and tune the thresholds.

    Raises:
        InputError: the table lacks a column, an image is unusable, or a split is empty.
    """
    try:
        table = pd.read_csv(path, dtype={"group": "str"})
    except (OSError, ValueError) as error:
        raise InputError(f"training table {path} can't be read: {error}") from error
    if missing := {"image", "labels", "mpp", "split"} - set(table.columns):
        raise InputError(f"training table {path} lacks {', '.join(sorted(missing))}")
    parts = {name: table[table["split"] == name] for name in ("train", "val")}
    if empty := [name for name, rows in parts.items() if rows.empty]:
        raise InputError(f"training table {path} has no rows with split {' or '.join(empty)}")
    images = {name: read_annotated(rows, root or path.parent) for name, rows in parts.items()}
    train_segmenter(images["train"], images["val"], out, settings=settings, on_epoch=on_epoch)
    thresholds, scores = tune_thresholds(images["val"], load_segmenter(str(out)))
    write_table_csv(out / "thresholds.csv", scores)
    write_json(out / "thresholds.json", thresholds)
    return out
