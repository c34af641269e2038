"""The check of an installation."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from morphomil import doctor
from morphomil.cli.app import app
from morphomil.doctor import Finding
from morphomil.errors import InputError
from morphomil.segment.model import WEIGHTS


def morphomil(*words: str | Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("morphomil")
    return subprocess.run(
        [str(program), *map(str, words)], capture_output=True, text=True, check=False
    )


def test_this_installation_is_sound(demo: Path) -> None:
    result = morphomil(
        "doctor", "--manifest", demo / "cohort" / "cohort.csv", "--out", demo / "run"
    )
    assert result.returncode == 0, result.stdout
    topics = {
        line.split()[1] for line in result.stdout.splitlines() if line.startswith(("ok", "note"))
    }
    wanted = {
        "environment",
        "packages",
        "weights",
        "openvino",
        "torch",
        "tensorflow",
        "CUDA",
        "disk",
        "manifest",
    }
    assert wanted <= topics
    assert "24 slides of 24 patients" in result.stdout


def test_a_bad_manifest_is_told(tmp_path: Path) -> None:
    (tmp_path / "cohort.csv").write_text("slide,patient,label\ngone.svs,1,0\n", encoding="utf-8")
    result = morphomil("doctor", "--manifest", tmp_path / "cohort.csv")
    assert result.returncode == 2
    assert "gone.svs" in result.stderr


def test_near_equal_ids_are_told_unless_they_are_meant(tmp_path: Path) -> None:
    rows = ["slide,patient,label"]
    for name, patient in (("a", "001"), ("b", "1")):
        pixels = np.full((64, 64, 3), 200 if name == "a" else 210, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        rows.append(f"{name}.png,{patient},{name}")
    (tmp_path / "cohort.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    words = ["doctor", "--manifest", str(tmp_path / "cohort.csv"), "--mpp", "0.5"]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, InputError)
    assert "patients '001' (line 2) and '1' (line 3)" in str(refused.exception)
    assert "--distinct-ids" in str(refused.exception)
    assert "2 slides of 2 patients" in CliRunner().invoke(app, [*words, "--distinct-ids"]).output


def test_harmed_weights_are_noticed(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(WEIGHTS, tmp_path / "weights"))
    assert doctor._weights(folder).state == "ok"
    with (folder / "default" / "weights.safetensors").open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"\1\2\3")
    harmed = doctor._weights(folder)
    assert harmed.state == "problem"
    assert "weights.safetensors" in harmed.text
    shutil.rmtree(folder)
    assert doctor._weights(folder).state == "problem"


def test_cuda_libraries_of_two_versions_are_a_problem() -> None:
    assert doctor._cuda_owners(["numpy", "nvidia-cudnn-cu13", "nvidia_nccl_cu13"]).state == "ok"
    twice = doctor._cuda_owners(["nvidia-cudnn-cu12", "nvidia_cudnn_cu13", "nvidia-nccl-cu13"])
    assert twice.state == "problem"
    assert twice.text.startswith("cudnn of two")


def test_missing_and_outdated_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "zarr":
            raise PackageNotFoundError(name)
        return "1.0" if name == "pillow" else "9999"

    monkeypatch.setattr(doctor, "version", version)
    said = [found.text for found in doctor._packages()]
    assert len(said) == 2
    assert any(text.startswith("pillow is 1.0; run: pip install") for text in said)
    assert any(text.startswith("zarr is missing") for text in said)


def test_a_framework_that_breaks_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = doctor._framework("torch", "raise ImportError('libcudnn.so.9: version mismatch')")
    assert broken == Finding("torch", "problem", broken.text)
    assert "libcudnn.so.9" in broken.text
    said = '{"version": "2.9", "cuda": "13.0", "gpus": ["NVIDIA L4"]}'
    assert "GPUs: NVIDIA L4" in doctor._framework("torch", f"print('noise'); print({said!r})").text
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 0.2)
    assert "start" in doctor._framework("torch", "import time; time.sleep(9)").text


def test_a_full_disk_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(tmp_path) in doctor._disk(tmp_path / "not" / "yet").text
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))
    assert doctor._disk(tmp_path).state == "note"


def test_completion_is_offered() -> None:
    assert "--install-completion" in morphomil("--help").stdout
