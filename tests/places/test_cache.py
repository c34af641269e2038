"""The cache: bounded, shared between threads and processes, clean after kills."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from morphomil.errors import InputError, SlideError
from morphomil.places import Address, cache_folder, held, local_copy

if TYPE_CHECKING:
    from stores import Web

BYTES = 400_000
CHILD = """
import sys, time
from morphomil.places import Address, local_copy
with local_copy(Address(sys.argv[1])) as path:
    print(len(path.read_bytes()), flush=True)
    sys.stdin.read()
"""


def put(web: Web, *names: str) -> list[Address]:
    for name in names:
        (web.folder / name).write_bytes(os.urandom(BYTES))
    return [Address(f"{web.url}/{name}") for name in names]


def child(address: Address) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", CHILD, str(address)]
    return subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def copied(cache: Path) -> set[str]:
    return {path.name for path in cache.glob("*/copies/*/*")}


def room(monkeypatch: pytest.MonkeyPatch, files: float) -> None:
    monkeypatch.setenv("MORPHOMIL_CACHE_GB", str(files * BYTES / 1e9))


def test_idle_copies_go_when_room_is_needed_the_oldest_first(
    web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room(monkeypatch, 2.5)
    one, two, three, four = put(web, "1.svs", "2.svs", "3.svs", "4.svs")
    for address in (one, two, one):
        with local_copy(address):
            pass
    assert web.sent == {"/1.svs": 1, "/2.svs": 1}
    with local_copy(three):
        assert copied(cache) == {"1.svs", "3.svs"}
        full = pytest.raises(SlideError, match="full of copies that are in use")
        with local_copy(one), full, held([four], patience_s=0.2):
            pass
        with held([four], remove=True):
            assert copied(cache) == {"3.svs", "4.svs"}
        assert copied(cache) == {"3.svs"}
    with pytest.raises(InputError, match="files"), local_copy(three) as path:
        raise InputError([f"two files: {path}"])
    with pytest.raises(InputError, match=str(three)), local_copy(three) as path:
        raise InputError(f"wrong: {path}")


def test_who_waits_gets_the_room_that_becomes_free(
    web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room(monkeypatch, 2.1)
    addresses = put(web, *(f"{n}.svs" for n in range(8)))
    most: list[int] = []

    def work(number: int) -> bytes:
        with held([addresses[number], addresses[(number + 1) % 8]]) as copies:
            most.append(len(copied(cache)))
            time.sleep(0.01)
            return copies[addresses[number]].read_bytes()

    with ThreadPoolExecutor(4) as pool:
        contents = list(pool.map(work, range(8)))
    assert contents == [(web.folder / f"{n}.svs").read_bytes() for n in range(8)]
    assert max(most) == 2


def test_threads_that_want_one_file_copy_it_once(web: Web) -> None:
    (address,) = put(web, "1.svs")
    ready = threading.Barrier(6)

    def work(_: int) -> int:
        ready.wait()
        with local_copy(address) as path:
            return path.stat().st_size

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(6))) == [BYTES] * 6
    assert web.sent["/1.svs"] == 1


def test_processes_share_a_copy_and_clean_up(web: Web, cache: Path) -> None:
    (address,) = put(web, "1.svs")
    children = [child(address) for _ in range(3)]
    for process in children:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{BYTES}\n"
    assert web.sent["/1.svs"] == 1
    children[0].communicate()
    assert copied(cache) == {"1.svs"}  # two still read it
    for process in children[1:]:
        assert "Error" not in process.communicate()[1]
    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["lock"]


def test_what_a_killed_process_left_is_removed(
    web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room(monkeypatch, 1.5)
    one, two = put(web, "1.svs", "2.svs")
    killed = child(one)
    assert killed.stdout is not None
    killed.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert len(list(cache.glob("*/process-*"))) == 1
    with local_copy(two) as path:  # there is no room for both
        assert path.read_bytes() == (web.folder / "2.svs").read_bytes()
        assert copied(cache) == {"2.svs"}
        assert len(list(cache.glob("*/process-*"))) == 1


def test_files_that_never_fit_together_are_told(
    web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room(monkeypatch, 1.5)
    one, two = put(web, "1.svs", "2.svs")
    with local_copy(one):
        pass
    with (
        pytest.raises(SlideError, match=r"takes 0.0008 GB .* has room for 0.0006"),
        held([two, one], patience_s=30),
    ):
        pass
    assert not web.sent["/2.svs"]
    assert not [path for path in cache.glob("*/process-*/*") if path.name != "alive"]


def test_a_copy_that_was_cut_by_a_power_failure_is_made_anew(web: Web, cache: Path) -> None:
    (address,) = put(web, "1.svs")
    with local_copy(address):
        pass
    (left,) = cache.glob("*/copies/*/*")
    left.write_bytes(b"cut")
    with local_copy(address) as path:
        assert path.stat().st_size == BYTES
    (web.folder / "1.svs").write_bytes(os.urandom(BYTES + 1))
    with local_copy(address) as path:  # another version
        assert path.stat().st_size == BYTES + 1


def test_giving_up_leaves_nothing(web: Web, cache: Path) -> None:
    one, two = put(web, "1.svs", "2.svs")
    with pytest.raises(InterruptedError), held([one, two], stopped=lambda: True):
        pass
    web.cuts["2.svs"] = 99
    with pytest.raises(SlideError, match="reached"), held([one, two]):
        pass
    assert copied(cache) == {"1.svs"}  # it may serve the next one
    assert not [path for path in cache.glob("*/process-*/*") if path.name != "alive"]


def test_a_pool_of_processes_leaves_nothing(web: Web, cache: Path) -> None:
    addresses = put(web, "1.svs", "2.svs", "3.svs")
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        assert list(pool.map(size_of_copy, addresses * 2)) == [BYTES] * 6
    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["lock"]


def size_of_copy(address: Address) -> int:
    with local_copy(address) as path:
        return path.stat().st_size


def test_a_folder_that_cant_be_used_is_told(web: Web, cache: Path) -> None:
    (address,) = put(web, "1.svs")
    with local_copy(address):
        pass
    (machine,) = cache.iterdir()
    shutil.rmtree(machine / "copies")
    (machine / "copies").write_text("in the way")
    with pytest.raises(InputError, match=r"can't be used .* name a folder on a disk"):
        cache_folder()


def test_a_forked_process_has_copies_of_its_own(web: Web, cache: Path) -> None:
    one, two = put(web, "1.svs", "2.svs")
    with local_copy(one) as path:
        forked = os.fork()
        if not forked:
            try:
                with local_copy(one) as own, local_copy(two):
                    os._exit(0 if own != path and own.samefile(path) else 1)
            except BaseException:  # noqa: BLE001 - a child says it by its status
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0
        assert path.stat().st_size == BYTES
    assert web.sent == {"/1.svs": 1, "/2.svs": 1}
