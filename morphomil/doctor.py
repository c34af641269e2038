"""What is installed and whether it works: packages, weights, engines, GPUs, disk."""

from __future__ import annotations

import hashlib
import json
import locale
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from typing import TYPE_CHECKING, Literal

import numpy as np

from morphomil.errors import MorphomilError
from morphomil.run.log import versions
from morphomil.segment import find_labels
from morphomil.segment.folders import WEIGHTS
from morphomil.segment.model import load_segmenter
from morphomil.store import harmed_files
from morphomil.types import CORES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

State = Literal["ok", "note", "problem"]
PROBE_SECONDS = 120.0
"""A framework may take this long to start in a process of its own."""
LOW_DISK_BYTES = 5 * 2**30
"""Less free space is worth a note."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at and how it is; a problem's text says how to mend it."""

    topic: str
    state: State
    text: str


def examine(folder: Path) -> Iterator[Finding]:
    """Look at the installation, and at the disk that `folder` is or will be on; nothing is changed
    or sent anywhere.

    torch and TensorFlow are asked in processes of their own: they don't share one.
    """
    known = versions()
    yield Finding(
        "environment",
        "ok",
        f"morphomil {known['morphomil']}, Python {known['python']}, {known['machine']}, {CORES} "
        f"processors, text in {locale.getpreferredencoding(do_setlocale=False)}",
    )
    yield from _packages()
    yield _weights(WEIGHTS)
    yield _openvino()
    yield _framework("torch", _TORCH)
    yield _framework("tensorflow", _TENSORFLOW)
    yield _cuda_owners(sorted(str(found.metadata["Name"]) for found in distributions()))
    yield _disk(folder)


def _packages() -> Iterator[Finding]:
    """Every dependency that is missing or outside its range; one line if none is."""
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in requires("morphomil") or ()]
    needed = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    wrong = []
    for each in needed:
        try:
            found = version(each.name)
        except PackageNotFoundError:
            wrong.append(
                Finding("packages", "problem", f"{each.name} is missing; run: pip install '{each}'")
            )
            continue
        if not each.specifier.contains(found, prereleases=True):
            wrong.append(
                Finding(
                    "packages",
                    "problem",
                    f"{each.name} is {found}; run: pip install --upgrade '{each}'",
                )
            )
    yield from wrong or [Finding("packages", "ok", f"{len(needed)} dependencies, all in range")]


def _weights(folder: Path) -> Finding:
    """Whether the shipped files are as they were when they were packed (`SHA256SUMS`)."""
    again = "install morphomil anew: pip install --force-reinstall --no-deps morphomil"
    try:
        harmed = harmed_files(folder)
        weights = (folder / "default" / "weights.safetensors").read_bytes()
    except (OSError, MorphomilError) as error:
        return Finding(
            "weights", "problem", f"the shipped weights can't be read ({error}); {again}"
        )
    if harmed:
        return Finding("weights", "problem", f"{', '.join(harmed)} isn't what was shipped; {again}")
    sha256 = hashlib.sha256(weights).hexdigest()
    return Finding("weights", "ok", f"shipped segmenter, SHA-256 {sha256[:16]}...")


def _openvino() -> Finding:
    """The fast engine: what the processor can do, and whether the shipped model runs."""
    try:
        import openvino

        core = openvino.Core()
        name = core.get_property("CPU", "FULL_DEVICE_NAME").strip()
        able = {"INT8", "BF16", "FP16", "FP32"} & set(
            core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        )
        segmenter = load_segmenter()
        find_labels(np.full((256, 256, 3), 230, np.uint8), mpp=0.5, segmenter=segmenter)
    except (ImportError, RuntimeError, OSError, MorphomilError) as error:
        return Finding(
            "openvino", "problem", f"it doesn't run: {_short(error)}; use --engine tensorflow"
        )
    runs = f"runs the shipped model in {segmenter.precision}"
    return Finding(
        "openvino",
        "ok",
        f"{openvino.__version__.split('-')[0]} on {name} ({', '.join(sorted(able))}), {runs}",
    )


_TORCH = """
import json, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
found = [torch.cuda.get_device_name(i) for i in range(count)]
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "gpus": found}))
"""
_TENSORFLOW = """
import json, tensorflow
built = tensorflow.sysconfig.get_build_info()
found = [device.name for device in tensorflow.config.list_physical_devices("GPU")]
about = {"version": tensorflow.__version__, "cuda": built.get("cuda_version"), "gpus": found}
print(json.dumps(about))
"""


def _framework(name: str, code: str) -> Finding:
    """Version, CUDA and GPUs of a framework, asked in a process of its own."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=environment,
            timeout=PROBE_SECONDS,
            check=True,
        )
        answer = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        cause = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
        return Finding(
            name,
            "problem",
            f"it can't be imported: {cause}; run: pip install --force-reinstall {name}",
        )
    except subprocess.TimeoutExpired:
        return Finding(name, "problem", f"it doesn't start within {PROBE_SECONDS:.0f} s")
    except (ValueError, IndexError, OSError) as error:
        return Finding(name, "problem", f"it gives no answer: {_short(error)}")
    built = f"built for CUDA {answer['cuda']}" if answer["cuda"] else "built for CPUs"
    if answer["gpus"]:
        return Finding(
            name, "ok", f"{answer['version']}, {built}, GPUs: {', '.join(answer['gpus'])}"
        )
    if answer["cuda"] and shutil.which("nvidia-smi"):
        return Finding(
            name,
            "note",
            f"{answer['version']}, {built}, but it sees no GPU: is the driver recent enough?",
        )
    return Finding(name, "ok", f"{answer['version']}, {built}, no GPU in use")


def _cuda_owners(installed: list[str]) -> Finding:
    """Packages of two CUDA versions own the same files (nvidia/cudnn/lib ...): the one installed
    last wins silently."""
    owned: dict[str, set[str]] = {}
    for name in installed:
        stem, mark, number = name.lower().replace("_", "-").rpartition("-cu")
        if mark and number.isdigit() and stem.startswith("nvidia-"):
            owned.setdefault(stem.removeprefix("nvidia-"), set()).add(number)
    twice = sorted(name for name, numbers in owned.items() if len(numbers) > 1)
    if twice:
        return Finding(
            "CUDA",
            "problem",
            f"{', '.join(twice)} of two CUDA versions lie over each other, as TensorFlow and torch "
            "for GPUs ask for; keep tensorflow-cpu beside torch, or give TensorFlow an "
            "environment of its own",
        )
    return Finding(
        "CUDA",
        "ok",
        "no libraries of two CUDA versions" if owned else "no CUDA libraries installed",
    )


def _disk(folder: Path) -> Finding:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    text = f"{free / 2**30:.1f} GiB free at {there}"
    if not os.access(there, os.W_OK):
        return Finding("disk", "problem", f"{there} can't be written; choose another folder")
    return Finding("disk", "note" if free < LOW_DISK_BYTES else "ok", text)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
