"""One architecture, three engines, one answer: torch, Keras and OpenVINO; StarDist models; mirrored
predictions."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.signal import correlate2d

from morphomil.errors import InputError
from morphomil.segment import engines, segment_image
from morphomil.segment.agreement import overlaps
from morphomil.segment.blocks import BLOCK_PX, MARGIN_PX
from morphomil.segment.engines import (
    activation_ranges,
    multiplied_in,
    openvino_graph,
    openvino_network,
)
from morphomil.segment.keras_engine import keras_network, tensorflow_network
from morphomil.segment.model import (
    WEIGHTS,
    Segmenter,
    TypeCalibration,
    load_segmenter,
    load_stardist,
)
from morphomil.segment.network import Design, fold_norms, layers_of
from morphomil.types import SegmenterSettings

DESIGN = Design(rays=8, widths=(8, 8, 8))


def random_state(design: Design, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights and batch norms with statistics that make folding matter."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, (layer, inputs) in layers_of(design).items():
        shape = (layer.filters, 1 if layer.depthwise else inputs, layer.kernel, layer.kernel)
        state[f"{name}.conv.weight"] = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        if layer.norm:
            for part, low, high in (
                ("weight", 0.5, 1.5),
                ("bias", -0.3, 0.3),
                ("running_mean", -0.3, 0.3),
            ):
                state[f"{name}.norm.{part}"] = rng.uniform(low, high, layer.filters)
            state[f"{name}.norm.running_var"] = rng.uniform(0.5, 2, layer.filters)
        else:
            state[f"{name}.conv.bias"] = rng.normal(0, 0.3, layer.filters)
    return {name: value.astype(np.float32) for name, value in state.items()}


def test_keras_and_openvino_compute_the_same() -> None:
    folded = fold_norms(random_state(DESIGN), DESIGN)
    pixels = np.random.default_rng(1).random((1, 64, 96, 3), dtype=np.float32)
    reference = tensorflow_network(keras_network(folded, DESIGN), heads=4)(pixels)
    network, precision = openvino_network(
        lambda margin: openvino_graph(folded, DESIGN, margin=margin), precision="float32"
    )
    assert precision == "float32"
    for expected, got, exact in zip(reference, network(pixels), (1, 1, 10, 1), strict=True):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=exact * 2e-4, atol=exact * 2e-5)
    assert reference[0].shape == (1, 32, 48, 1)
    assert reference[1].shape == (1, 32, 48, 8)
    assert reference[2].shape == (1, 64, 96)
    assert reference[3].shape == (1, 16, 24, 4)


@pytest.mark.parametrize(("outline", "types", "heads"), [(0, 0, 2), (8, 0, 3), (0, 8, 3)])
def test_a_design_has_the_heads_it_names(outline: int, types: int, heads: int) -> None:
    design = Design(rays=8, widths=(8, 8, 8), outline=outline, types=types)
    folded = fold_norms(random_state(design), design)
    pixels = np.random.default_rng(1).random((1, 64, 96, 3), dtype=np.float32)
    reference = tensorflow_network(keras_network(folded, design), heads=heads)(pixels)
    network, _ = openvino_network(
        lambda margin: openvino_graph(folded, design, margin=margin), precision="float32"
    )
    assert len(reference) == len(network(pixels)) == heads


def test_an_enlarged_image_convolved_is_four_convolutions_of_the_small_one() -> None:
    """Witness: scipy's correlation of the image enlarged by nearest neighbor."""
    rng = np.random.default_rng(0)
    image, weight = rng.normal(size=(7, 9)), rng.normal(size=(1, 1, 3, 3)).astype(np.float32)
    expected = correlate2d(np.kron(image, np.ones((2, 2))), weight[0, 0], mode="valid")
    found = np.empty((12, 16))
    for number, filters in enumerate(engines._of_twice_the_size(weight)[:, 0]):
        row, column = divmod(number, 2)
        found[row::2, column::2] = correlate2d(image, filters, mode="valid")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("margin", [32, 48, 96])
def test_leaving_out_the_margin_early_changes_no_number(margin: int, precision: str) -> None:
    folded = fold_norms(random_state(DESIGN), DESIGN)
    pixels = np.random.default_rng(1).random((1, 320, 288, 3), dtype=np.float32)
    ranges = activation_ranges(folded, DESIGN, [pixels]) if precision == "int8" else None
    network, _ = openvino_network(
        lambda margin: openvino_graph(folded, DESIGN, ranges, margin=margin), precision="float32"
    )
    whole = [part.copy() for part in network(pixels)]
    for expected, got, rim in zip(
        whole,
        network(pixels, margin),
        (margin // 2, margin // 2, margin, margin // 4),
        strict=True,
    ):
        own = expected[:, rim:-rim, rim:-rim]
        tolerance = 1e-5 if own.dtype == np.float32 else 2e-3
        np.testing.assert_allclose(got, own, rtol=tolerance, atol=tolerance)


def test_torch_computes_what_keras_does(tmp_path: Path) -> None:
    """In a process of its own: torch and TensorFlow don't share one."""
    from safetensors.numpy import load_file, save_file

    state = random_state(DESIGN)
    pixels = np.random.default_rng(1).random((1, 64, 96, 3), dtype=np.float32)
    save_file(state | {"pixels": pixels}, tmp_path / "in.safetensors")
    code = (
        "import torch, sys\n"
        "from safetensors.numpy import load_file, save_file\n"
        "from morphomil.segment.network import Design\n"
        "from morphomil.segment.torch_network import TorchNetwork\n"
        "arrays = load_file(sys.argv[1]); pixels = torch.from_numpy(arrays.pop('pixels'))\n"
        "network = TorchNetwork(Design(rays=8, widths=(8, 8, 8))).eval(); "
        "network.load_arrays(arrays)\n"
        "with torch.inference_mode(): logit, log_rays, outline, types = network(pixels)\n"
        "nucleus = outline[:, :1] - outline[:, 1:].relu()\n"
        "parts = {'p': logit.sigmoid(), 'd': log_rays.exp(), 'n': nucleus.clamp(-16, 16), "
        "'t': types}\n"
        "save_file({name: part.permute(0, 2, 3, 1).contiguous().numpy() for name, part in "
        "parts.items()}, sys.argv[2])\n"
    )
    subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            str(tmp_path / "in.safetensors"),
            str(tmp_path / "out.safetensors"),
        ],
        check=True,
    )
    got = load_file(tmp_path / "out.safetensors")
    expected = tensorflow_network(keras_network(fold_norms(state, DESIGN), DESIGN), heads=4)(pixels)
    for name, part in zip("pdnt", expected, strict=True):
        np.testing.assert_allclose(got[name].reshape(part.shape), part, rtol=2e-4, atol=2e-5)


def test_eight_bits_stay_close_and_need_their_ranges() -> None:
    folded = fold_norms(random_state(DESIGN), DESIGN)
    rng = np.random.default_rng(1)
    images = [rng.random((1, 64, 96, 3), dtype=np.float32) for _ in range(3)]
    ranges = activation_ranges(folded, DESIGN, images)
    assert "stem" not in ranges
    assert all(low <= 0 < high for low, high in ranges.values())
    full, _ = openvino_network(
        lambda margin: openvino_graph(folded, DESIGN, margin=margin), precision="float32"
    )
    eight, _ = openvino_network(
        lambda _: openvino_graph(folded, DESIGN, ranges), precision="float32"
    )
    for expected, got in zip(full(images[0]), eight(images[0]), strict=True):
        assert not np.array_equal(got, expected)
        assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.98
    joint = {
        name: tuple(f(end) for f, end in zip((min, max), zip(*spans, strict=True), strict=True))
        for name, *spans in (
            (name, span, *(ranges[part] for part in ranges if part.startswith(f"{name}.")))
            for name, span in ranges.items()
            if "." not in name
        )
    }
    assert len(joint) < len(ranges)
    coarse, _ = openvino_network(
        lambda _: openvino_graph(folded, DESIGN, joint), precision="float32"
    )
    expected = full(images[0])[1]
    errors = [np.abs(network(images[0])[1] - expected).mean() for network in (eight, coarse)]
    assert errors[0] < 0.8 * errors[1], "each side has a range of its own"
    clipped = {name: (low / 20, high / 20) for name, (low, high) in ranges.items()}
    narrow, _ = openvino_network(
        lambda _: openvino_graph(folded, DESIGN, clipped), precision="float32"
    )
    assert (
        np.abs(narrow(images[0])[1] - full(images[0])[1]).mean()
        > np.abs(eight(images[0])[1] - full(images[0])[1]).mean()
    )


def test_bytes_are_numbers_from_0_to_1() -> None:
    folded = fold_norms(random_state(DESIGN), DESIGN)
    network, _ = openvino_network(
        lambda margin: openvino_graph(folded, DESIGN, margin=margin), precision="float32"
    )
    pixels = np.random.default_rng(1).integers(0, 256, (1, 128, 96, 3)).astype(np.uint8)
    expected = [part.copy() for part in network(pixels / np.float32(255), 32)]
    for got, part in zip(network(pixels, 32), expected, strict=True):
        np.testing.assert_allclose(got, part, rtol=1e-4, atol=2e-3)


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="other processors have other kernels"
)
def test_every_product_of_the_decoder_is_of_eight_bits() -> None:
    """Sixteen convolutions, as they are executed on a block: a range or a size they can't use would
    go unseen."""
    import openvino

    folded = fold_norms(random_state(Design()), Design())
    pixels = np.random.default_rng(1).random((1, 128, 128, 3), dtype=np.float32)
    ranges = activation_ranges(folded, Design(), [pixels])
    side = BLOCK_PX + 2 * MARGIN_PX
    graph = openvino_graph(folded, Design(), ranges, margin=MARGIN_PX)
    graph.reshape([1, side, side, 3])
    executed = openvino.Core().compile_model(graph, "CPU").get_runtime_model().get_ordered_ops()
    kernels = [
        (node.get_rt_info()["layerType"].value, node.get_rt_info()["primitiveType"].value)
        for node in executed
    ]
    eight_bits = [
        kind for kind, kernel in kernels if kernel.lower().endswith("i8") and "onvolution" in kind
    ]
    assert eight_bits == 16 * ["Convolution"], kernels


def test_weights_that_do_not_fit_are_refused() -> None:
    state = random_state(DESIGN)
    with pytest.raises(ValueError, match="the design needs"):
        fold_norms(state, Design(rays=8, widths=(8, 8, 16)))
    with pytest.raises(KeyError):
        fold_norms({name: value for name, value in state.items() if "stem" not in name}, DESIGN)


@pytest.mark.parametrize("rays", [8, 32])
def test_mirrored_predictions_return_to_their_place(rays: int) -> None:
    """A network that knows the answer for any mirroring of one ellipse gives that answer, averaged
    or not."""

    def oracle(pixels: np.ndarray, margin: int = 0) -> tuple[np.ndarray, ...]:
        """Distances from every second pixel to the far side of a window around it, told by the
        pixels themselves."""
        image = pixels[0, ..., 0]
        angles = 2 * np.pi * np.arange(rays) / rays
        down, across = (np.round(6 * f(angles)).astype(int) for f in (np.sin, np.cos))
        seen = [
            np.roll(image, (-dy, -dx), (0, 1))[::2, ::2]
            for dy, dx in zip(down, across, strict=True)
        ]
        rays_of = np.stack(seen, axis=-1)[None] + np.float32(0.01)
        kinds = np.repeat(image[None, 2::4, 2::4, None], 4, axis=-1)
        return image[None, ::2, ::2, None], rays_of, image[None], kinds

    rgb = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    plain = Segmenter("", oracle, 2, 16, 0.5, 0.4, (), "unit", maps=True, types=TypeCalibration())
    mirrored = replace(plain, settings=SegmenterSettings(accurate=True))
    for margin in (0, 16):
        whole = mirrored.predict(rgb, margin=margin)
        for expected, got, rim in zip(plain.predict(rgb)[:3], whole[:3], (8, 8, 16), strict=True):
            assert expected is not None
            assert got is not None
            own = expected[rim:-rim, rim:-rim] if margin else expected
            np.testing.assert_allclose(got, own, atol=1e-6)
    squares = rgb[::16, ::16].repeat(16, 0).repeat(16, 1)
    inside = np.isin(np.arange(12) % 4, (1, 2)), np.isin(np.arange(16) % 4, (1, 2))
    types = [s.predict(squares).types[np.ix_(*inside)] for s in (plain, mirrored)]
    np.testing.assert_allclose(*types, atol=1e-6)


def matched_share(reference: np.ndarray, other: np.ndarray, *, iou: float = 0.9) -> float:
    """Share of the nuclei of two label images that have a partner."""
    pairs = overlaps(reference, other)
    total = (pairs.areas_annotated > 0).sum() + (pairs.areas_found > 0).sum()
    return float(2 * (pairs.iou > iou).sum() / max(total, 1))


SHARE = {"float32": 0.999, "bfloat16": 0.99, "auto": 0.95}
"""Of the nuclei that have a partner with IoU 0.9."""


@pytest.mark.parametrize("precision", SHARE)
def test_the_fast_engine_finds_the_nuclei_of_the_reference(
    shared_data: Path, precision: str
) -> None:
    if precision == "bfloat16" and multiplied_in("auto") != "bfloat16":
        pytest.skip("this processor has no bfloat16")
    image = np.asarray(
        Image.open(shared_data / "nuclei" / "tnbc" / "images" / "03_1.png").convert("RGB")
    )
    reference = segment_image(image, mpp=0.25, engine="tensorflow")
    fast = segment_image(image, mpp=0.25, precision=precision)
    assert reference.max() > 20
    assert matched_share(reference, fast) >= SHARE[precision]


def test_bfloat16_keeps_the_nuclei_of_a_biopsy(shared_data: Path) -> None:
    if multiplied_in("auto") != "bfloat16":
        pytest.skip("this processor has no bfloat16")
    with Image.open(shared_data / "bcnb" / "regions" / "351899_1.jpg") as file:
        biopsy = np.asarray(file.convert("RGB"))[1200:2200, 1200:2200]
    full, half = (segment_image(biopsy, mpp=0.5, precision=p) for p in ("float32", "bfloat16"))
    assert full.max() > 300
    assert not np.array_equal(full, half)
    assert matched_share(full, half) >= 0.99


def without_later_heads(folder: Path) -> Path:
    """The default model with StarDist's heads alone."""
    from safetensors.numpy import load_file, save_file

    own = WEIGHTS / "default"
    arrays = load_file(own / "weights.safetensors")
    kept = {k: v for k, v in arrays.items() if not k.startswith(("outline", "types"))}
    save_file(kept, folder / "weights.safetensors")
    config = json.loads((own / "config.json").read_text()) | {"outline": 0, "types": 0}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("thresholds.json", "morphomil.json"):
        (folder / name).write_text((own / name).read_text())
    return folder


@pytest.mark.parametrize("model", ["default", "trial_segmenter"])
def test_whole_images_as_stardist_itself_segments_them(
    shared_data: Path, tmp_path: Path, model: str
) -> None:
    image = np.asarray(
        Image.open(shared_data / "nuclei" / "tnbc" / "images" / "03_1.png").convert("RGB")
    )
    name = str(without_later_heads(tmp_path) if model == "default" else shared_data / model)
    expected, _ = load_stardist(name).predict_instances(image.astype(np.float32) / 255)
    found = segment_image(image, mpp=0.25, model=name, precision="float32", implausible="keep")
    small = np.bincount(expected.ravel())[expected] * 0.25**2 < 6
    expected = np.where(small, 0, expected)
    # StarDist pads with zeros beyond the edges, where we mirror: nuclei that reach into the rim are
    # left to it
    rim = np.ones(expected.shape, bool)
    rim[96:-96, 96:-96] = False
    whole = [
        np.where(np.isin(labels, np.unique(labels[rim])), 0, labels) for labels in (expected, found)
    ]
    assert whole[0].max() > 0
    assert matched_share(whole[0], whole[1]) > 0.98


def test_what_does_not_go_together_is_refused(shared_data: Path) -> None:
    with pytest.raises(InputError, match="engine tensorflow computes in float32"):
        SegmenterSettings(engine="tensorflow", precision="bfloat16")
    with pytest.raises(InputError, match="no folder with a config"):
        load_segmenter(SegmenterSettings("nowhere"))
    with pytest.raises(InputError, match=r"holds no ranges\.json"):
        load_segmenter(SegmenterSettings(str(shared_data / "trial_segmenter"), precision="int8"))


def test_loading_the_default_needs_neither_tensorflow_nor_torch() -> None:
    code = (
        "import sys, numpy as np\n"
        "from morphomil.segment import segment_image\n"
        "segment_image(np.random.default_rng(0).integers(150, 255, (64, 64, 3)).astype(np.uint8), "
        "mpp=0.5)\n"
        "assert not {'tensorflow', 'torch', 'keras'} & set(sys.modules), 'imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_shipped_weights_are_the_architecture_that_is_described() -> None:
    from safetensors.numpy import load_file

    state = load_file(WEIGHTS / "default" / "weights.safetensors")
    assert sum(value.size for name, value in state.items() if "conv" in name) < 1.5e6
    config = json.loads((WEIGHTS / "default" / "config.json").read_text())
    heads = config.get("outline", 0), config.get("types", 0)
    fold_norms(state, Design(config["rays"], tuple(config["widths"]), *heads))
