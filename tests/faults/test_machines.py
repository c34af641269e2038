"""Machines that lack something: shared memory, a home to write to, memory, a clock that only goes
forward (faults 43, 44, 63, 64, 66 and 70)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from imported_run import Imported

from morphomil.errors import tells_of_memory
from morphomil.store import read_json

ENTRY = "from morphomil.cli.main import run; run()"


def python(code: str, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


SIDE_BY_SIDE = """
import multiprocessing, os
from morphomil.figures.report import side_by_side
side_by_side.CORES, here = 2, os.getpid()
def tenfold(number):
    if {dies} and number == 2 and os.getpid() != here:
        os._exit(9)
    return 10 * number
try:
    multiprocessing.get_context("fork").Lock()
    print("locks")
except OSError:
    print("no locks")
print(list(side_by_side.map_in_processes(tenfold, [1, 2, 3, 4])))
"""


def test_pictures_are_drawn_without_shared_memory(shim: Path) -> None:
    code = SIDE_BY_SIDE.format(dies=False)
    for environment, locks in (({}, "locks"), ({"FAULT_NO_SEMAPHORES": "1"}, "no locks")):
        done = python(code, LD_PRELOAD=str(shim), **environment)
        assert done.stdout == f"{locks}\n[10, 20, 30, 40]\n", done.stderr


def test_pictures_are_drawn_though_a_process_is_killed() -> None:
    done = python(SIDE_BY_SIDE.format(dies=True))
    assert done.stdout == "locks\n[10, 20, 30, 40]\n", done.stderr


KILLED = """
import os, signal
from morphomil.figures.report import side_by_side
side_by_side.CORES = 2
for _ in side_by_side.map_in_processes(str, [1, 2, 3]):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_end_with_the_one_that_was_killed() -> None:
    """They have its terminal, which would stay open."""
    words = [sys.executable, "-c", KILLED]
    done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


LOOP = """
from morphomil.compiled import compiled
@compiled()
def double(x):
    return 2 * x
print(double(21))
"""


def test_loops_run_whatever_becomes_of_their_cache(tmp_path: Path) -> None:
    """Machine code is kept where that can be: no place for it, no room, harmed files."""
    (tmp_path / "loops.py").write_text(LOOP)
    cache = tmp_path / "cache"

    def run(place: Path, more: str = "") -> None:
        done = python(
            f"{more}import loops", **own_cache(tmp_path) | {"NUMBA_CACHE_DIR": str(place)}
        )
        assert (done.stdout, done.returncode) == ("42\n", 0), done.stderr

    run(Path("/proc/no-such-place"))
    run(cache, "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); ")
    run(cache)
    index, code = (next(cache.rglob(f"*.{kind}")) for kind in ("nbi", "nbc"))
    index.write_bytes(index.read_bytes()[:40])
    run(cache)
    code.write_bytes(b"code")
    run(cache)


SORTS = """
import sys
import numpy as np
from morphomil.compiled import compiled
@compiled()
def ordered(x):
    return np.sort(x)
@compiled()
def order(x):
    return np.argsort(x)
x = np.random.default_rng(0).random(200)
for name in sys.argv[1:]:
    right = np.sort(x) if name == "ordered" else np.argsort(x)
    assert (globals()[name](x) == right).all(), name
"""


def test_code_of_several_processes_is_not_mixed_up(tmp_path: Path) -> None:
    """Each compiles another loop, then one loads both."""
    (tmp_path / "sorts.py").write_text(SORTS)
    for names in (["ordered"], ["order"], ["ordered", "order"], ["order", "ordered"]):
        done = python(f"import sys; sys.argv[1:] = {names}; import sorts", **own_cache(tmp_path))
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "cache").rglob("*.nbc"))) == 2


AT_ONCE = """
import numpy as np
from morphomil.compiled import compiled
def twice(x):
    return x + x
loop = compiled()(twice)
files = loop._cache._cache_file
loop(np.float32(1))
known, files._load_index = files._load_index, dict  # as another saw it, just before
loop(1)
for key, name in known().items():
    print(key[0] == files._load_data(name)[3].args)
"""


def test_processes_that_save_at_once_do_not_take_each_others_files(tmp_path: Path) -> None:
    """One entry may be lost, and is compiled again; none stands for other types."""
    (tmp_path / "at_once.py").write_text(AT_ONCE)
    done = python("import at_once", **own_cache(tmp_path))
    assert done.stdout == "True\n", done.stderr
    assert len(list((tmp_path / "cache").rglob("*.nbc"))) == 2


NAMES = """
import os
from numba.core.caching import NullCache
from morphomil.compiled import compiled
def name():
    loop = compiled()(lambda x: x + x)
    loop._cache = NullCache()  # each compiles it
    loop(1)
    return loop.overloads[loop.signatures[0]].fndesc.mangled_name
for child in range(2):
    if not (number := os.fork()):
        print(name(), flush=True)
        os._exit(0)
    os.wait()
print(name())
"""


def test_functions_of_several_processes_have_names_of_their_own(tmp_path: Path) -> None:
    """Also of processes that were forked: code of the same name would become the same code."""
    (tmp_path / "named.py").write_text(NAMES)
    made = [python("import named", **own_cache(tmp_path / str(k))) for k in range(2)]
    names = [name for done in made for name in done.stdout.split()]
    assert len(names) == 6, made
    assert len(set(names)) == 6


def own_cache(folder: Path) -> dict[str, str]:
    """Where modules of tests and their machine code lie."""
    return {
        "PYTHONPATH": os.pathsep.join((str(folder), str(folder.parent))),
        "NUMBA_CACHE_DIR": str(folder / "cache"),
        "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator",
    }


def test_a_home_that_cannot_be_written(imported: Imported) -> None:
    nowhere = "/proc/nowhere"
    names = ("HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TORCH_HOME")
    done = python(
        ENTRY,
        *("figures", imported.run.path, "--only", "flow", "--format", "svg"),
        **dict.fromkeys(names, nowhere),
    )
    assert done.returncode == 0, done.stderr
    assert (imported.run.figures_folder / "flow.svg").is_file()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("gib", [2, 0.5])
def test_too_narrow_a_limit_of_memory_is_told_before_any_work(gib: float, tmp_path: Path) -> None:
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({int(gib * 2**30)},) * 2)"
    done = python(f"{limited}\n{ENTRY}", "segment", "cohort.csv", "--out", tmp_path / "run")
    assert done.returncode == 2, done.stderr
    assert f"may map {gib:.1f} GiB here (ulimit -v), and 8 are needed" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert python(f"{limited}\n{ENTRY}", "--version").returncode == 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
        ),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
    ids=repr,
)
def test_full_memory_is_called_so_in_whichever_words_it_is_said(error: Exception) -> None:
    assert tells_of_memory(error)
    wrapped = ValueError("something else")
    assert not tells_of_memory(wrapped)
    wrapped.__cause__ = error
    assert tells_of_memory(wrapped)


def test_tensorflow_takes_of_a_gpu_what_it_needs() -> None:
    """Unless the user wants it otherwise: by the variable that TensorFlow reads when it starts."""
    code = (
        "import os, sys\n"
        "from morphomil.segment.keras_engine import import_tensorflow\n"
        "import_tensorflow()\n"
        "print('tensorflow' in sys.modules, os.environ['TF_FORCE_GPU_ALLOW_GROWTH'])\n"
        "os.environ['TF_FORCE_GPU_ALLOW_GROWTH'] = 'false'\n"
        "import_tensorflow()\n"
        "print(os.environ['TF_FORCE_GPU_ALLOW_GROWTH'])"
    )
    done = python(code)
    assert done.stdout.split() == ["True", "true", "false"], done.stderr


def test_a_clock_that_was_set_back(imported: Imported) -> None:
    """Files and commands of the future: the order of the log tells which came last."""
    run = imported.run
    log = run.path / "run.json"
    stored = read_json(log)
    for entry in stored["commands"]:
        entry["finished"] = "2099-01-01T00:00:00+0000"
    of_network = dict(stored["commands"][0], command="segment")
    of_network["settings"] = of_network["settings"] | {"model": "default"}
    stored["commands"].insert(0, of_network)
    log.write_text(json.dumps(stored))
    future = 4_070_908_800
    for path in (*run.path.rglob("*"), imported.image(0)):
        os.utime(path, (future, future))
    result = imported.segment()
    assert (result.done, result.skipped) == (("s0",), ("s1",))
    assert run.segmented_with()["model"] == "imported"
    assert run.log.newest()["command"] == "import-nuclei"
    assert run.log.newest("segment")["settings"]["model"] == "default"
    assert run.log.newest("rank") == {}
    assert imported.measure().done == ("s0",)
