"""Training of the nucleus segmenter: annotated images -> a model folder.

The patches and their targets come from `samples`, the same ones when a training is resumed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from morphomil.errors import InputError
from morphomil.segment.annotated import read_annotated, read_table
from morphomil.segment.engines import activation_ranges
from morphomil.segment.evaluate import tune_edge, tune_thresholds
from morphomil.segment.folders import CALIBRATION, check_start
from morphomil.segment.model import load_segmenter
from morphomil.segment.network import BACKBONE, fold_norms
from morphomil.segment.samples import PatchSampler, TrainSettings
from morphomil.segment.type_agreement import calibrate_types, typed_pairs
from morphomil.store import (
    read_arrays,
    read_json,
    reading,
    write_arrays,
    write_bytes,
    write_json,
    write_table_csv,
)
from morphomil.types import SegmenterSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from morphomil.segment.annotated import AnnotatedImage
    from morphomil.segment.samples import Batch
    from morphomil.segment.torch_network import TorchNetwork

LOSSES = (
    *("loss", "probability_loss", "distance_loss", "nucleus_loss", "seam_loss"),
    "type_loss",
)
LOG_COLUMNS = (*LOSSES, *(f"val_{name}" for name in LOSSES))
CHECKPOINT = "checkpoint.safetensors"


def train_segmenter(
    train: Sequence[AnnotatedImage],
    validation: Sequence[AnnotatedImage],
    out: Path,
    *,
    settings: TrainSettings,
    resume: bool = False,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> Path:
    """Train the network of `network.forward` and write it to the folder `out`.

    AdamW; the learning rate rises for 200 steps and falls to zero on a cosine; what is validated
    and kept is the moving average of the weights. The loss is StarDist's cross-entropy of the
    object probability, and for the distances minus the logarithm of the overlap of the two polygons
    in polar coordinates (PolarMask, Xie et al. 2020), weighted by the
    probability: it measures what the masks are judged by, and nuclei of every size alike. Of the
    outlines' maps the first has the cross-entropy with the share of each pixel that a nucleus
    covers, plus one minus the Dice index; the second the cross-entropy. Types have the
    cross-entropy around the centers of typed nuclei. Images without outlines teach types alone,
    images without types outlines alone. In bfloat16 where the processor multiplies matrices of it.

    `out` receives `config.json`, `weights.safetensors`, `ranges.json`, `settings.json` and
    `log.csv`; thresholds are tuned afterwards (`tune_thresholds`).

    Args:
        train: images to draw patches from.
        validation: images for the validation loss.
        out: the model folder.
        settings: the network and its training.
        resume: go on with the training that `out` holds, from its last epoch; the result is the
            same as without the interruption.
        on_epoch: hears the number and the losses of each epoch.

    Raises:
        InputError: `out` holds a training and `resume` isn't set, or one with other settings or
            images, or damaged files of one; or `settings.start` can't be used.
    """
    import torch

    from morphomil.segment.torch_network import TorchNetwork

    check_start(settings.start, heads_only=settings.heads_only)
    torch.manual_seed(settings.seed)
    network = TorchNetwork(settings.design, start=settings.start)
    _claim_folder(out, settings, _digest([*train, *validation]), resume=resume)
    average = TorchNetwork(settings.design).requires_grad_(False).eval()
    average.load_state_dict(network.state_dict())
    optimizer = _optimizer(network, settings)
    first = _resume(out, network, average, optimizer, epochs=settings.epochs)
    total = settings.epochs * settings.steps_per_epoch
    checked = PatchSampler(validation, settings)
    held_out = [checked.batch(2**31, index) for index in range(8)]
    sampler = PatchSampler(train, settings)
    batches = _batches(sampler, range(first * settings.steps_per_epoch, total), settings)
    rarity = torch.from_numpy(sampler.type_weights)
    for epoch in range(first, settings.epochs):
        _begin_epoch(network, heads_only=settings.heads_only)
        sums = np.zeros(len(LOSSES))
        for step in range(epoch * settings.steps_per_epoch, (epoch + 1) * settings.steps_per_epoch):
            for group in optimizer.param_groups:
                group["lr"] = group["share"] * _rate(step, total, settings)
            optimizer.zero_grad(set_to_none=True)
            losses = _losses(network, next(batches), settings, rarity)
            losses[0].backward()  # type: ignore[no-untyped-call, unused-ignore]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            keep = min(settings.average, (step + 1) / (step + 10))
            _approach(average, network, 1 - keep)
            sums += [loss.item() for loss in losses]
        with torch.inference_mode():
            unseen = np.mean(
                [
                    [float(x) for x in _losses(average, batch, settings, rarity)]
                    for batch in held_out
                ],
                axis=0,
            )
        figures = dict(zip(LOSSES, sums / settings.steps_per_epoch, strict=True))
        figures |= {f"val_{name}": value for name, value in zip(LOSSES, unseen, strict=True)}
        if not math.isfinite(figures["loss"]):
            raise InputError(
                f"the training of {out} diverged in epoch {epoch + 1}; lower the learning rate"
            )
        _append_log(out / "log.csv", epoch, figures)
        _checkpoint(out, epoch + 1, network, average, optimizer)
        if on_epoch is not None:
            on_epoch(epoch, figures)
    return _write_model(out, average, sampler, settings)


HEADS = ("layers.outline", "layers.types")


def _begin_epoch(network: TorchNetwork, *, heads_only: bool) -> None:
    """Everything learns; or neither weights nor the norms' statistics of the encoder, the decoder
    and the polygons change."""
    network.train()
    for name, module in network.named_modules():
        if heads_only and not name.startswith(HEADS) and not any(module.children()):
            module.eval().requires_grad_(False)


def _optimizer(network: TorchNetwork, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW; the `share` of a group of weights is that of the learning rate."""
    import torch

    encoder = [
        p
        for name, p in network.named_parameters()
        if name.startswith(("layers.stem", "layers.block"))
    ]
    decoder = [
        p
        for name, p in network.named_parameters()
        if not name.startswith(("layers.stem", "layers.block"))
    ]
    return torch.optim.AdamW(
        [{"params": encoder, "share": settings.encoder_share}, {"params": decoder, "share": 1.0}],
        weight_decay=settings.weight_decay,
    )


def _approach(average: TorchNetwork, network: TorchNetwork, share: float) -> None:
    """Move the average of the weights by this share towards those of the network."""
    for mean, value in zip(
        average.state_dict().values(), network.state_dict().values(), strict=True
    ):
        if mean.is_floating_point():
            mean.lerp_(value, share)


def _write_model(
    out: Path, network: TorchNetwork, sampler: PatchSampler, settings: TrainSettings
) -> Path:
    """What the trained network is loaded from; ranges for 8 bits are those of some patches."""
    write_json(out / "config.json", {"backbone": BACKBONE, **asdict(settings.design)})
    write_arrays(out / "weights.safetensors", network.arrays())
    seen = (sampler.batch(2**31, index)[0] for index in range(16))
    folded = fold_norms(network.arrays(), settings.design)
    ranges = activation_ranges(
        folded, settings.design, (patch[None] for batch in seen for patch in batch)
    )
    write_json(out / "ranges.json", ranges)
    write_json(
        out / "morphomil.json",
        {"resolutions_mpp": list(settings.augment.target_mpp), "normalize": "unit"},
    )
    return out


def _batches(sampler: PatchSampler, steps: range, settings: TrainSettings) -> Iterator[Batch]:
    """The batches of these steps in order, prepared a few ahead on a thread of their own."""
    with ThreadPoolExecutor(1) as worker:
        ahead: deque[Future[Batch]] = deque()
        for step in steps:
            ahead.append(worker.submit(sampler.batch, *divmod(step, settings.steps_per_epoch)))
            if len(ahead) > 4:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _rate(step: int, total: int, settings: TrainSettings) -> float:
    warm = min(200, max(total // 10, 1))
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    return (
        settings.learning_rate
        * 0.5
        * (1 + math.cos(math.pi * (step - warm) / max(total - warm, 1)))
    )


def _losses(
    network: TorchNetwork, batch: Batch, settings: TrainSettings, rarity: Tensor
) -> list[Tensor]:
    """`LOSSES`; those of a head that the design lacks, or that nothing in the batch teaches, are 0.

    `rarity`: how much a nucleus of each type counts.
    """
    import torch
    from torch.nn import functional

    pixels, probability, distance, maps, marks, outlined = map(torch.from_numpy, batch)
    with torch.autocast("cpu", torch.bfloat16, enabled=_has_bfloat16()):
        heads = network(pixels)

    def entropy(logit: Tensor, target: Tensor) -> Tensor:
        each = functional.binary_cross_entropy_with_logits(logit, target, reduction="none")
        return (each.mean(dim=(1, 2)) * outlined).sum() / outlined.sum().clamp(min=1)

    target = probability[..., 0]
    of_probability = entropy(heads.probability[:, 0].float(), target)
    inside = target > 0
    weight, annotated = target[inside], distance[inside]
    found = heads.distance.permute(0, 2, 3, 1)[inside].float().exp()
    shared = torch.minimum(found, annotated).square().sum(dim=-1)
    united = torch.maximum(found, annotated).square().sum(dim=-1)
    of_distance = (torch.log(united / shared.clamp(min=1e-3)) * weight).sum() / (weight.sum() + 1)
    of_nucleus = of_seam = of_type = torch.zeros(())
    if heads.outline is not None:
        logit, seam = heads.outline.float().unbind(1)
        covered = maps[..., 0]
        share = logit.sigmoid() * outlined[:, None, None]
        dice = (2 * (share * covered).sum() + 1) / (share.sum() + covered.sum() + 1)
        of_nucleus = entropy(logit, covered) + 1 - dice
        of_seam = entropy(seam, maps[..., 1])
    if heads.types is not None and (known := marks > 0).any():
        kinds = heads.types.permute(0, 2, 3, 1)[known].float()
        of_type = functional.cross_entropy(kinds, marks[known].long() - 1, weight=rarity)
    total = (
        of_probability
        + settings.distance_weight * of_distance
        + settings.nucleus_weight * of_nucleus
        + settings.seam_weight * of_seam
        + settings.type_weight * of_type
    )
    return [total, of_probability, of_distance, of_nucleus, of_seam, of_type]


def _has_bfloat16() -> bool:
    """Whether there is AMX: with AVX-512's bfloat16 alone a step takes a third longer than in
    float32."""
    import torch

    return bool(torch.cpu._is_amx_tile_supported())


def _digest(images: Sequence[AnnotatedImage]) -> str:
    """Changes with any pixel or label."""
    content = hashlib.sha256()
    for image in images:
        content.update(repr((image.group, image.mpp, image.rgb.shape)).encode())
        content.update(np.ascontiguousarray(image.rgb).data)
        content.update(np.ascontiguousarray(image.finest, dtype=np.int32).data)
        if image.typed is not None:
            content.update(np.ascontiguousarray(image.typed.centers).data)
            content.update(np.ascontiguousarray(image.typed.types).data)
    return content.hexdigest()


def _claim_folder(out: Path, settings: TrainSettings, images: str, *, resume: bool) -> None:
    path, another = out / "settings.json", "name another folder with --out"
    if not path.exists():
        if (out / CHECKPOINT).exists():
            raise InputError(f"{out} holds a training without its settings.json; {another}")
        write_json(path, asdict(settings) | {"images_sha256": images}, seal=True)
        return
    if not resume:
        raise InputError(f"{out} holds a training already; --resume goes on with it")
    with reading(path, mend=another):
        earlier = dict(read_json(path, mend=another))
    known = earlier.pop("images_sha256", None)
    if earlier != json.loads(json.dumps(asdict(settings))):
        raise InputError(f"{out} holds a training with other settings; {another}")
    if known != images:
        raise InputError(f"{out} holds a training on other images; {another}")


def _checkpoint(
    out: Path,
    epoch: int,
    network: TorchNetwork,
    average: TorchNetwork,
    optimizer: torch.optim.Optimizer,
) -> None:
    arrays = {f"network/{name}": value for name, value in network.arrays().items()}
    arrays |= {f"average/{name}": value for name, value in average.arrays().items()}
    for index, state in optimizer.state_dict()["state"].items():
        arrays |= {f"optimizer/{index}/{name}": value.numpy() for name, value in state.items()}
    write_arrays(out / CHECKPOINT, arrays | {"epoch": np.array(epoch)})


def _resume(
    out: Path,
    network: TorchNetwork,
    average: TorchNetwork,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
) -> int:
    """Load the last checkpoint, if any; the epoch to go on with."""
    path, epoch = out / CHECKPOINT, 0
    if path.exists():
        mend = "remove it, and --resume trains from the first epoch on"
        with reading(path, mend=mend):
            arrays = read_arrays(path, mend=mend)
            epoch = int(arrays.pop("epoch"))
            if not 0 <= epoch <= epochs:
                raise ValueError(f"{epoch} epochs")
            _take_over(arrays, network, average, optimizer)
    _cut_log(out / "log.csv", epoch)
    return epoch


def _take_over(
    arrays: dict[str, NDArray[Any]],
    network: TorchNetwork,
    average: TorchNetwork,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Load what `_checkpoint` wrote; raises whatever is wrong with other arrays."""
    import torch

    parts: dict[str, dict[str, NDArray[Any]]] = {"network": {}, "average": {}, "optimizer": {}}
    for name, value in arrays.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = value
    network.load_arrays(parts["network"])
    average.load_arrays(parts["average"])
    state = optimizer.state_dict()
    for name, value in parts["optimizer"].items():
        index, _, key = name.partition("/")
        state["state"].setdefault(int(index), {})[key] = torch.from_numpy(value)
    optimizer.load_state_dict(state)
    for weights, known in optimizer.state.items():
        if {known[name].shape for name in ("exp_avg", "exp_avg_sq")} != {weights.shape}:
            raise ValueError("the optimizer's state belongs to another network")


def _cut_log(path: Path, epoch: int) -> None:
    """Forget what the log says of epochs from this one on; one that is gone is begun anew."""
    if not path.exists():
        return
    mend = "remove it: the training goes on, and its log begins there"
    with reading(path, mend=mend):
        head, *lines = path.read_text(encoding="utf-8").splitlines()
        if head != _log_line("epoch", LOG_COLUMNS):
            raise ValueError("other columns")
        rows = [[float(value) for value in line.split(",")] for line in lines]
        if any(len(row) != 1 + len(LOG_COLUMNS) for row in rows):
            raise ValueError("a line of another length")
    kept = [line for line, row in zip(lines, rows, strict=True) if row[0] < epoch]
    write_bytes(path, "".join(f"{line}\n" for line in (head, *kept)).encode())


def _append_log(path: Path, epoch: int, figures: dict[str, float]) -> None:
    head = _log_line("epoch", LOG_COLUMNS) + "\n"
    known = path.read_text(encoding="utf-8") if path.exists() else head
    line = _log_line(epoch, [f"{figures[name]:.5f}" for name in LOG_COLUMNS])
    write_bytes(path, f"{known}{line}\n".encode())


def _log_line(first: str | int, others: Sequence[str]) -> str:
    return ",".join([str(first), *others])


def train_from_table(
    path: Path,
    out: Path,
    *,
    root: Path | None,
    settings: TrainSettings,
    resume: bool = False,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> Path:
    """Train on the images of a CSV (`read_annotated`, with a column `split`: train or val), tune
    the thresholds and calibrate the types.

    Raises:
        InputError: the table lacks a column, an image is unusable, or a split is empty.
    """
    table = read_table(path, columns={"image", "mpp", "split"})
    parts = {name: table[table["split"] == name] for name in ("train", "val")}
    if empty := [name for name, rows in parts.items() if rows.empty]:
        raise InputError(f"training table {path} has no rows with split {' or '.join(empty)}")
    images = {name: read_annotated(rows, root or path.parent) for name, rows in parts.items()}
    train_segmenter(
        images["train"], images["val"], out, settings=settings, resume=resume, on_epoch=on_epoch
    )
    segmenter = load_segmenter(SegmenterSettings(str(out)), tuned=False)
    outlined = [image for image in images["val"] if image.outlined]
    thresholds, scores = tune_thresholds(outlined, segmenter)
    write_table_csv(out / "thresholds.csv", scores)
    tuned = replace(segmenter, prob_threshold=thresholds["prob"], nms_threshold=thresholds["nms"])
    edges, tried = tune_edge(outlined, tuned)
    write_table_csv(out / "edges.csv", tried)
    levels = {f"{mpp:g}": level for mpp, level in edges}
    write_json(out / "thresholds.json", thresholds | {"edge_logit": levels})
    if segmenter.types is not None and any(image.typed for image in images["val"]):
        pairs = typed_pairs(images["val"], replace(tuned, edge_logits=edges))
        write_json(out / CALIBRATION, asdict(calibrate_types(pairs)))
    return out
