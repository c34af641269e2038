"""Copies of files elsewhere on this machine's disk: bounded in bytes, shared between processes,
left behind by none that was killed.

In the cache's folder for this machine, `copies/KEY/NAME` is a whole copy, and `process-ID/KEY/NAME`
a second name of it (a hard link) for as long as that process reads it; so a copy with one name is
idle, and may go when room is needed. `process-ID/KEY.bytes` holds room for a copy that is being
made. All this changes under one lock, and a process holds a lock of its own for as long as it
lives: what one left that ended is removed by the next.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import time
import uuid
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.util import Finalize
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING

from morphomil.errors import InputError, MorphomilError, SlideError
from morphomil.places.remote import Known, fetch, look
from morphomil.store import safe_name, split_image_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from morphomil.places.address import Address, Place

FOLDER, SIZE = "MORPHOMIL_CACHE", "MORPHOMIL_CACHE_GB"
"""The environment says so where copies lie, and how many GB (1e9 bytes) all of them may have."""
CACHE_GB = 50.0
PATIENCE_S = 60.0
"""So long an image that is to be opened waits for room; a stage's next slide, until there is."""
LOOK_AGAIN_S = 0.1


@contextmanager
def local_copy(place: Place) -> Iterator[Path]:
    """The path of a file, without the number of an image, for the time of the block; one elsewhere
    is copied first, if it isn't there. Errors of the block say where the file comes from.

    Raises:
        SlideError: it can't be copied.
        InputError: there is no place for copies, or the package for the address isn't installed.
    """
    if isinstance(place, Path):
        yield split_image_number(place)[0]
        return
    with held([place]) as copies, naming(place, copies[place]):
        yield copies[place]


@contextmanager
def naming(place: Place, path: Path) -> Iterator[None]:
    """Errors of the block that name a copy name instead where it comes from."""
    try:
        yield
    except MorphomilError as error:
        if isinstance(place, Path) or str(path) not in str(error):
            raise
        if isinstance(error, InputError):
            said = [problem.replace(str(path), str(place)) for problem in error.problems]
            raise type(error)(said) from error
        raise type(error)(str(error).replace(str(path), str(place))) from error


@contextmanager
def held(
    addresses: Iterable[Address],
    *,
    patience_s: float = PATIENCE_S,
    stopped: Callable[[], bool] = lambda: False,
    remove: bool = False,
) -> Iterator[dict[Address, Path]]:
    """Copies of files, all at once, for the time of the block.

    Args:
        addresses: the files.
        patience_s: room is waited for so long.
        stopped: is asked now and then whether to give up.
        remove: idle copies go at once, rather than when room is needed or the program ends.

    Raises:
        SlideError: one can't be copied, or there is no room.
        InputError: there is no place for copies, or a package isn't installed.
        InterruptedError: it was given up.
    """
    wanted = {one: _Wanted(one.file, look(one.file)) for one in addresses}
    with ExitStack() as stack:
        if wanted:
            desk = _desk()
            files = [*{want.key: want for want in wanted.values()}.values()]
            stack.enter_context(desk.lent(files, patience_s, stopped, remove=remove))
        yield {one: desk.own / want.key / want.name for one, want in wanted.items()}


def bound_bytes() -> int:
    """All copies may have so many bytes.

    Raises:
        InputError: `MORPHOMIL_CACHE_GB` is no such number.
    """
    text = os.environ.get(SIZE, f"{CACHE_GB:g}")
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < 1e9:
        raise InputError(f"{SIZE} is a number of GB above 0; got {text!r}")
    return int(gigabytes * 1e9)


def too_large(address: Address, size: int) -> str:
    """Why a file of so many bytes can't be copied; "" if it can.

    Raises:
        InputError: `MORPHOMIL_CACHE_GB` is no number.
    """
    if size <= bound_bytes():
        return ""
    return (
        f"{address} has {size / 1e9:.3g} GB, more than all copies may have together "
        f"({bound_bytes() / 1e9:.3g} GB); let {SIZE} say more"
    )


def cache_folder() -> Path:
    """Where this machine's copies lie; made if it isn't there.

    Raises:
        InputError: nothing can be written there.
    """
    chosen = os.environ.get(FOLDER)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    base = Path(chosen) if chosen else Path(home) / "morphomil" / "slides"
    folder = base.absolute() / safe_name(socket.gethostname())
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(folder):
            (folder / "copies").mkdir(exist_ok=True)
            second = folder / "second"
            second.unlink(missing_ok=True)
            os.link(folder / "lock", second)
            second.unlink()
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"slides elsewhere are copied to {folder}, which can't be used ({error}); name a "
            f"folder on a disk of this machine with {FOLDER}"
        ) from error
    return folder


@dataclass(frozen=True)
class _Wanted:
    """A file elsewhere, in one version."""

    address: Address
    known: Known

    @property
    def key(self) -> str:
        """The folder of its copy."""
        said = f"{self.address}\n{self.known.size}\n{self.known.version}"
        return hashlib.blake2b(said.encode(), digest_size=12).hexdigest()

    @property
    def name(self) -> str:
        """The name of its copy, with the same ending."""
        ending = re.search(r"\.\w+$", self.address.name)
        return safe_name(self.address.stem) + ending[0] if ending else safe_name(self.address.name)


@dataclass
class _Copy:
    """A copy in the cache."""

    path: Path

    def __post_init__(self) -> None:
        about = self.path.stat()
        self.bytes, self.used, self.idle = about.st_size, about.st_mtime_ns, about.st_nlink == 1

    def remove(self) -> None:
        shutil.rmtree(self.path.parent, ignore_errors=True)


@dataclass
class _Desk:
    """What this process has of the cache."""

    root: Path
    own: Path
    alive: int
    """The open file whose lock says that the process lives."""
    uses: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def lent(
        self,
        wanted: list[_Wanted],
        patience_s: float,
        stopped: Callable[[], bool],
        *,
        remove: bool,
    ) -> Iterator[None]:
        """Copies of what is wanted; nothing is held while room is waited for."""
        for want in wanted:
            if problem := too_large(want.address, want.known.size):
                raise SlideError(problem)
        with self._using():
            missing = self._wait(wanted, patience_s, stopped)
        try:
            with self._using():
                for want in missing:
                    self._make(want, stopped)
            yield
        finally:
            with self._using():
                self._give_back(wanted, remove=remove)

    @contextmanager
    def _using(self) -> Iterator[None]:
        """A disk that fails is the cache's, not the run's."""
        try:
            yield
        except InterruptedError:
            raise
        except OSError as error:
            raise SlideError(
                f"slides elsewhere can't be copied to {self.root}: {error}; make room there, or "
                f"name another folder with {FOLDER}"
            ) from error

    def _wait(
        self, wanted: list[_Wanted], patience_s: float, stopped: Callable[[], bool]
    ) -> list[_Wanted]:
        """Hold what is there, and room for the rest, as soon as there is any."""
        begun = time.monotonic()
        while (missing := self._take(wanted)) is None:
            if stopped():
                raise InterruptedError
            if time.monotonic() - begun > patience_s and not any(self._reservations()):
                raise SlideError(
                    f"{wanted[0].address} can't be copied: {self.root} is full of copies that are "
                    f"in use; let {SIZE} say more, or try again later"
                )
            time.sleep(LOOK_AGAIN_S)
        return missing

    def _take(self, wanted: list[_Wanted]) -> list[_Wanted] | None:
        """Hold what is there and room for the rest, which is returned; None: others are to be
        waited for."""
        keys = {want.key for want in wanted}
        with _alone(self.root):
            self._sweep()
            reserved = {path.stem: int(path.read_text()) for path in self._reservations()}
            if keys & set(reserved):
                return None  # it is just being copied
            copies = self._copies()
            for want in wanted:
                if want.key in copies and copies[want.key].bytes != want.known.size:
                    copies.pop(want.key).remove()  # the machine stopped before it was on the disk
            missing = [want for want in wanted if want.key not in copies]
            need = sum(want.known.size for want in missing)
            spare = bound_bytes() - sum(reserved.values()) - sum(c.bytes for c in copies.values())
            spare = min(spare, shutil.disk_usage(self.root).free - sum(reserved.values()))
            idle = [copy for key, copy in copies.items() if copy.idle and key not in keys]
            for copy in sorted(idle, key=lambda copy: copy.used):
                if spare < need:
                    copy.remove()
                    spare += copy.bytes
            if spare < need:
                if reserved or any(not copy.idle for copy in copies.values()):
                    return None
                whole = sum(want.known.size for want in wanted)
                raise SlideError(
                    f"{wanted[0].address} can't be copied: it takes {whole / 1e9:.3g} GB (all "
                    f"files of its slide together), and {self.root} has room for "
                    f"{max(spare + whole - need, 0) / 1e9:.3g}; make room on its disk, let {SIZE} "
                    f"say more, or name another folder with {FOLDER}"
                )
            for want in wanted:
                self.uses[want.key] += 1
                if want in missing:
                    self._reservation(want).write_text(str(want.known.size))
                elif not (self.own / want.key).exists():
                    self._link(want)
        return missing

    def _make(self, want: _Wanted, stopped: Callable[[], bool]) -> None:
        """Copy a file into the room that is held for it."""
        part = self.own / f"{want.key}.part"
        part.mkdir()
        fetch(want.address, part / want.name, want.known, stopped=stopped)
        with _alone(self.root):
            part.rename(self.root / "copies" / want.key)
            self._link(want)
            self._reservation(want).unlink()

    def _give_back(self, wanted: list[_Wanted], *, remove: bool) -> None:
        """Let go of copies, and of room for those that weren't made."""
        with _alone(self.root):
            for want in wanted:
                self.uses[want.key] -= 1
                if self.uses[want.key]:
                    continue
                shutil.rmtree(self.own / f"{want.key}.part", ignore_errors=True)
                shutil.rmtree(self.own / want.key, ignore_errors=True)
                self._reservation(want).unlink(missing_ok=True)
                if (copy := self._copies().get(want.key)) is None:
                    continue
                if remove and copy.idle:
                    copy.remove()
                else:
                    os.utime(copy.path)

    def clear(self) -> None:
        """Remove what this process has, what ended ones left, and what is idle."""
        with suppress(OSError), _alone(self.root):
            shutil.rmtree(self.own, ignore_errors=True)
            os.close(self.alive)
            self._sweep()
            for copy in self._copies().values():
                if copy.idle:
                    copy.remove()

    def _link(self, want: _Wanted) -> None:
        (self.own / want.key).mkdir()
        os.link(self.root / "copies" / want.key / want.name, self.own / want.key / want.name)

    def _reservation(self, want: _Wanted) -> Path:
        return self.own / f"{want.key}.bytes"

    def _reservations(self) -> Iterator[Path]:
        return self.root.glob("process-*/*.bytes")

    def _copies(self) -> dict[str, _Copy]:
        return {path.parent.name: _Copy(path) for path in self.root.glob("copies/*/*")}

    def _sweep(self) -> None:
        """Remove what processes left that have ended."""
        for folder in self.root.glob("process-*"):
            if folder != self.own and not _lives(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _desk() -> _Desk:
    """This process's part of the cache; a forked one has its own."""
    root, process = cache_folder(), os.getpid()
    with _turn():
        if (root, process) not in _desks:
            own = root / f"process-{process}-{uuid.uuid4().hex[:8]}"
            with _alone(root):
                own.mkdir()
                desk = _desks[root, process] = _Desk(root, own, _locked(own / "alive"))
            Finalize(None, desk.clear, exitpriority=0)  # at the end of a pool's process too
        return _desks[root, process]


_desks: dict[tuple[Path, int], _Desk] = {}
_turns: dict[int, RLock] = {}
"""The threads of a process take turns; what another thread had locked isn't locked after a fork."""


def _turn() -> RLock:
    return _turns.setdefault(os.getpid(), RLock())


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """A moment in which nobody else changes the cache."""
    with _turn():
        handle = _locked(root / "lock")
        try:
            yield
        finally:
            os.close(handle)


def _locked(path: Path, *, wait: bool = True) -> int:
    """An open file with its lock, which ends with the process, and isn't a forked one's.

    Raises:
        BlockingIOError: another process has it, and it isn't to be waited for.
        OSError: there are no such locks here.
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, lockf
    except ImportError as error:
        raise OSError("this system has no locks of files") from error
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        lockf(handle, LOCK_EX if wait else LOCK_EX | LOCK_NB)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _lives(folder: Path) -> bool:
    """Whether the process of a folder goes on."""
    try:
        os.close(_locked(folder / "alive", wait=False))
    except (BlockingIOError, PermissionError):
        return True
    return False
