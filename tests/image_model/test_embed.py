"""Deep features: real ImageNet weights on real photographs, the five architectures, a stage that
resumes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from morphomil import pipeline
from morphomil.errors import InputError
from morphomil.image_model.backbones import (
    BACKBONES,
    _ready_weights,
    load_encoder,
    load_function,
    resize,
)
from morphomil.image_model.embed import patch_pixels
from morphomil.phantom.files import write_cohort
from morphomil.phantom.settings import PhantomSettings
from morphomil.run.directory import Run
from morphomil.run.embeddings import Embeddings, embedded_backbones
from morphomil.types import EmbedSettings

PROGRAM = Path(sys.executable).with_name("morphomil")


@pytest.fixture(scope="module")
def segmented(tmp_path_factory) -> Path:
    """Three phantoms, segmented by the command in a process of its own."""
    folder = tmp_path_factory.mktemp("embed")
    settings = PhantomSettings(width_px=1100, height_px=900)
    manifest = write_cohort(folder / "cohort", seed=3, slides=3, settings=settings)
    words = [PROGRAM, "segment", manifest, "--out", folder / "run", "--quiet"]
    subprocess.run([str(word) for word in words], check=True, capture_output=True)
    return folder / "run"


def square(image: np.ndarray, size: int) -> np.ndarray:
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return np.asarray(
        Image.fromarray(image[top : top + side, left : left + side]).resize((size, size))
    )


@pytest.mark.parametrize(
    ("picture", "classes"), [("chelsea", {281, 282, 285}), ("coffee", {967, 968})]
)
def test_the_default_backbone_knows_what_it_sees(picture, classes):
    """Its features and its package's classifier name a cat and a cup: weights, names and
    normalization are right."""
    patch = square(getattr(skimage.data, picture)(), 224)[None]
    features = load_encoder(EmbedSettings(size=224)).encode(patch)
    state = _ready_weights("efficientnet-lite0")
    logits = features @ state["_fc.weight"].numpy().T + state["_fc.bias"].numpy()
    assert features.shape == (1, 1280)
    assert int(logits[0].argmax()) in classes


@pytest.mark.parametrize("backbone", [name for name in BACKBONES if name != "efficientnet-lite0"])
def test_torchvision_backbones_are_torchvisions_networks(backbone, tmp_path):
    """Random weights in a file, classifier included: features equal the input of torchvision's own
    classifier."""
    torch.manual_seed(1)
    options = {"init_weights": False} if backbone == "inception_v3" else {}
    network = getattr(torchvision.models, backbone)(weights=None, **options).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    path = tmp_path / f"{backbone}.pth"
    torch.save(network.state_dict(), path)
    patches = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype(np.uint8)
    encoder = load_encoder(EmbedSettings(backbone, size=224), weights=path)
    features = encoder.encode(patches)
    kind = BACKBONES[backbone]
    assert features.shape == (2, kind.features)

    seen = []
    classifier = network.fc if hasattr(network, "fc") else network.classifier
    first = classifier[0] if isinstance(classifier, torch.nn.Sequential) else classifier
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    if backbone == "inception_v3":
        network.transform_input = True
    mean, sd = torch.tensor(kind.mean).view(1, 3, 1, 1), torch.tensor(kind.sd).view(1, 3, 1, 1)
    with torch.no_grad():
        network((torch.from_numpy(patches).permute(0, 3, 1, 2) / 255 - mean) / sd)
    np.testing.assert_allclose(features, seen[0].numpy(), rtol=1e-4, atol=1e-5)

    pooled = load_encoder(EmbedSettings(backbone, size=224, pooling="max"), weights=path).encode(
        patches
    )
    assert pooled.shape == (2, kind.channels)


def test_max_pooling_takes_the_largest_of_each_map(tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.vgg16_bn(weights=None).eval()
    save_file(network.state_dict(), tmp_path / "vgg.safetensors")
    patches = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3)).astype(np.uint8)
    settings = (
        EmbedSettings("vgg16_bn", size=224),
        EmbedSettings("vgg16_bn", size=224, pooling="max"),
    )
    flat, largest = (
        load_encoder(s, weights=tmp_path / "vgg.safetensors").encode(patches) for s in settings
    )
    np.testing.assert_allclose(flat.reshape(512, 49).max(axis=1), largest[0], rtol=1e-6)


def test_weights_that_cannot_be_used_say_why(tmp_path):
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), tmp_path / "alexnet.pth")
    with pytest.raises(InputError, match="belong to another network"):
        load_encoder(EmbedSettings("resnet50"), weights=tmp_path / "alexnet.pth")
    for content in (b"no weights", b"", b"a\n", b"1\n.", b"PK\x03\x04", bytes(range(256))):
        for name in ("noise.pth", "noise.safetensors"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(InputError, match="can't be read as a state dictionary"):
                load_encoder(EmbedSettings("resnet50"), weights=tmp_path / name)
    state = torchvision.models.resnet50(weights=None).state_dict()
    state["conv1.weight"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(InputError, match=r"no numbers in conv1\.weight"):
        load_encoder(EmbedSettings("resnet50"), weights=tmp_path / "nan.pth")
    torch.save(torchvision.models.resnet18(weights=None), tmp_path / "pickle.pth")
    with pytest.raises(InputError, match="can't be read as a state dictionary"):
        load_encoder(EmbedSettings("resnet50"), weights=tmp_path / "pickle.pth")
    with pytest.raises(InputError, match="choose efficientnet-lite0"):
        load_encoder(EmbedSettings("resnet5"))


def test_without_a_network_the_message_names_the_way_out(tmp_path):
    """A process whose downloads fail at once: its proxy is a closed port."""
    closed = dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"
    )
    environment = os.environ | closed | {"TORCH_HOME": str(tmp_path)}
    code = (
        "from morphomil.image_model.backbones import load_encoder\n"
        "from morphomil.types import EmbedSettings\n"
        "load_encoder(EmbedSettings('resnet50'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "ImageNet weights of resnet50 can't be downloaded" in last
    assert "--weights" in last


def test_the_stage_gives_a_row_per_kept_patch_and_resumes(segmented):
    run = Run.open(segmented)
    told = []
    made, result = pipeline.embed(run, on_estimate=told.append)
    assert len(result.done) == 3
    assert 0 < told[0].seconds < 600
    for slide in run.cohort.slides:
        stored = np.load(made.features_path(slide.slide_id))
        assert stored.shape == (run.patches(slide.slide_id)["kept"].sum(), 1280)
        assert stored.dtype == np.float16
        expected = load_encoder(EmbedSettings()).encode(
            np.stack(list(patch_pixels(run, slide, outside="white")))
        )
        np.testing.assert_allclose(stored, expected, atol=2e-2)
    table = embedded_backbones(run)
    assert table.to_dict("records") == [
        {"backbone": "efficientnet-lite0", "slides": 3, "features": 1280, "bytes_per_patch": 2560}
    ]
    first = made.features_path("P001")
    before = first.read_bytes()
    first.write_bytes(before[:-10])
    _, again = pipeline.embed(run, on_estimate=told.append)
    assert len(told) == 1  # all seems done
    assert (again.done, len(again.skipped)) == (("P001",), 2)
    assert first.read_bytes() == before
    _, changed = pipeline.embed(run, settings=EmbedSettings(size=224))
    assert len(changed.done) == 3


def test_pixels_outside_the_region_are_white(segmented):
    run = Run.open(segmented)
    slide = run.cohort.slides[0]
    painted, kept = (
        np.stack(list(patch_pixels(run, slide, outside=outside))) for outside in ("white", "keep")
    )
    blank = run.patches(slide.slide_id).query("kept")["blank_fraction"].to_numpy()
    white = (painted == 255).all(axis=-1).mean(axis=(1, 2))
    np.testing.assert_allclose(white, blank, atol=0.01)
    inside = (painted != 255).any(axis=-1)
    np.testing.assert_array_equal(painted[inside], kept[inside])
    assert (kept != painted).any()


def test_any_function_is_an_encoder(segmented, tmp_path):
    (tmp_path / "colors.py").write_text(
        "def mean_color(patches):\n    return patches.reshape(len(patches), -1, 3).mean(axis=1)\n"
    )
    run = Run.open(segmented)
    words = [PROGRAM, "embed", segmented, "--encoder", f"{tmp_path / 'colors.py'}:mean_color"]
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "3 features and 0.0 KiB a patch" in done.stdout
    stored = np.load(Embeddings(run, "colors").features_path("P002"))
    pixels = np.stack(list(patch_pixels(run, run.cohort.slides[1], outside="white")))
    np.testing.assert_allclose(stored, pixels.mean(axis=(1, 2)), rtol=1e-3)
    with pytest.raises(InputError, match="has no function 'other'"):
        load_function(f"{tmp_path / 'colors.py'}:other")


def test_an_encoder_that_fails_on_a_slide_leaves_the_others(segmented, tmp_path):
    path = tmp_path / "broken.py"
    path.write_text(
        "import numpy as np\nseen = []\n"
        "def f(patches):\n    seen.append(1)\n"
        "    return np.full((len(patches), 2), np.nan if len(seen) == 1 else 1.0)\n"
    )
    _, result = pipeline.embed(Run.open(segmented), encoder=load_function(f"{path}:f"))
    assert len(result.failed) == 1
    assert "half precision" in next(iter(result.failed.values()))
    assert len(result.done) == 2


def test_resizing_is_torchvisions():
    patches = np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3)).astype(np.uint8)
    own = resize(patches, 224)
    for patch, resized in zip(patches, own, strict=True):
        other = torchvision.transforms.functional.resize(Image.fromarray(patch), [224, 224])
        np.testing.assert_array_equal(resized, np.asarray(other))
    assert resize(patches, 256) is patches
