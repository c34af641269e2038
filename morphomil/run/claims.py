"""Who works in a run directory: files that stand for processes, on every kind of disk.

A claim is a file that its process rewrites every few seconds for as long as it works. Its owner is
known to have ended where that can be asked (the same machine), and is taken to have ended where the
file stays as it is for two minutes (another one, as on a shared disk without locks). No two clocks
are compared. Claims are made one at a time, by who holds the guard, a symbolic link that says whose
it is: it is there at once with what it says, or not at all, on network file systems too.
"""

from __future__ import annotations

import errno
import json
import math
import os
import random
import re
import socket
import stat
import tempfile
import time
import uuid
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

from morphomil.errors import NO_ROOM, BusyError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

BEAT_S = 10.0
"""A claim's file is rewritten this often."""
SILENCE_S = 120.0
"""A process elsewhere whose file stays as it is for so long has ended."""
GUARD = ".lock.guard"
GUARD_WAIT_S = 600.0
"""So long the guard is waited for: it is held for moments only, but perhaps by one that ended."""
RESTS_ON = {"featurize": "segment", "embed": "segment"}
"""A stage reads what that other one writes for the same slides."""
ALL_SLIDES = {"rank"}
"""Parts of these read what is written for every slide."""
_CAN_ASK = os.name == "posix"
"""Elsewhere asking a process whether it is there would end it; its signs are watched instead."""
MAX_PID = 2**31 - 1
"""The system's numbers of processes are from 1 to this."""
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)
_NAME = re.compile(r"\.lock(?:\.([a-z]+)\.(\d+)of(\d+)(?:\.([0-9a-f]{8}))?)?")
P = ParamSpec("P")
T = TypeVar("T")
_State = Literal["alive", "ended", "unknown"]

_ours: set[str] = set()
"""Tokens of what this process holds; a file of this process with another one is a leftover."""


@dataclass(frozen=True)
class Part:
    """Part of the work in a run: all of it, or a stage on part `index` of `count` of the slides."""

    work: str = ""
    """The stage; empty: everything."""
    index: int = 1
    count: int = 1
    plan: str = ""
    """Names how slides were given to the parts; empty: by their ids."""

    @property
    def file_name(self) -> str:
        """The file of who works on it."""
        plan = f".{self.plan}" if self.plan else ""
        return f".lock.{self.work}.{self.index}of{self.count}{plan}" if self.work else ".lock"

    @classmethod
    def of(cls, file_name: str) -> Part | None:
        """The part that a file stands for; None: it is no claim."""
        if not (found := _NAME.fullmatch(file_name)):
            return None
        work, index, count, plan = found.groups()
        return cls(work, int(index), int(count), plan or "") if work else cls()

    def meets(self, other: Part) -> bool:
        """Whether the two can't be worked on at the same time."""
        one, two = self.work, other.work
        if not (one and two):
            return True
        if one != two and ALL_SLIDES & {one, two}:
            return True
        if one != two and RESTS_ON.get(one) != two and RESTS_ON.get(two) != one:
            return False
        if self.plan != other.plan:
            return True
        return (self.index - other.index) % math.gcd(self.count, other.count) == 0


@dataclass
class Claim:
    """The right to work on a part, for as long as nobody else had to take it over."""

    path: Path
    token: str
    lost: Event = field(default_factory=Event)

    def check(self) -> None:
        """Refuse to go on once another process has taken over.

        Raises:
            BusyError: so it is: this one was silent for too long, as a machine that slept.
        """
        if self.lost.is_set():
            raise BusyError(
                f"this process was silent for so long that another one took over its work in "
                f"{self.path.parent}; run the same command again, which keeps what is done"
            )

    def beat(self) -> None:
        """Rewrite the file, or notice that it isn't ours any more."""
        try:
            if _read(self.path).get("token") != self.token:
                self.lost.set()
                return
            with self.path.open("r+b") as stream:
                stream.write(_describe(self.token))
                stream.flush()
                os.fsync(stream.fileno())
        except FileNotFoundError:
            self.lost.set()
        except OSError:
            pass  # the disk fails for now; the next beat tries again


@contextmanager
def working_in(
    folder: Path, part: Part, *, wait: float | None = None, reading: bool = False
) -> Iterator[Claim]:
    """The right to work on a part of a run, which is made where there is none.

    Args:
        folder: the run directory.
        part: what is worked on.
        wait: so many seconds for others to end; default: those of `MORPHOMIL_WAIT_S`, or 0.
        reading: nothing is written to the run; one that this user can't write needs no right.

    Raises:
        BusyError: another process holds it.
        InputError: the run directory can't be written, or has no room left.
    """
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            claim = held.enter_context(claimed(folder, part, wait=wait))
        except OSError as error:
            if not (reading and error.errno in _NOT_OURS):
                raise InputError(f"run directory {folder} can't be written: {error}") from error
            claim = Claim(folder, "")
        try:
            yield claim
        except OSError as error:
            meant = _blamed(error.filename, folder, reading=reading)
            if error.errno not in NO_ROOM or not meant:
                raise
            raise InputError(
                f"{meant} can't be written: {error}; what is finished is kept, and the same "
                "command goes on from there once there is room"
            ) from error


def _blamed(name: Any, folder: Path, *, reading: bool) -> str:
    """What has no room, by the file that an error names: the run, or what else lies on disk if it
    names none; empty: a file elsewhere."""
    if isinstance(name, str | os.PathLike):
        inside = Path(name).resolve().is_relative_to(folder.resolve())
        return f"run directory {folder}" if inside else ""
    return "" if reading else f"run directory {folder} or {tempfile.gettempdir()}"


@contextmanager
def claimed(folder: Path, part: Part, *, wait: float | None = None) -> Iterator[Claim]:
    """The right to work on a part of a run, against all that meet it.

    Args:
        folder: the run directory, which exists.
        part: what is worked on.
        wait: so many seconds for others to end; default: those of `MORPHOMIL_WAIT_S`, or 0. Whether
            a process on another machine has ended is waited for in any case, at most `SILENCE_S`.

    Raises:
        BusyError: another process works on it.
        InputError: `MORPHOMIL_WAIT_S` is no number.
        OSError: the folder can't be written.
    """
    patience = _patience() if wait is None else wait
    claim = Claim(folder / part.file_name, uuid.uuid4().hex)
    seen: dict[Path, tuple[bytes, float]] = {}
    begun, pause = time.monotonic(), 0.02
    _ours.add(claim.token)
    try:
        while (met := _try_claim(claim, part, seen)) is not None:
            state, holder = met
            if state == "alive" and time.monotonic() - begun >= patience:
                owner = _read(holder) if holder.exists() else {}
                who = f" ({owner['host']}, process {owner['pid']})" if owner else ""
                raise BusyError(
                    f"another morphomil process works in {folder}{who}; wait for it or name "
                    "another --out"
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.5)
        ending = Event()
        beating = Thread(target=_beat, args=(claim, ending), daemon=True)
        beating.start()
        try:
            yield claim
        finally:
            ending.set()
            beating.join()
            _remove_own(claim.path, claim.token)
    finally:
        _ours.discard(claim.token)


def _patience() -> float:
    text = os.environ.get("MORPHOMIL_WAIT_S", "0")
    try:
        return float(text)
    except ValueError:
        raise InputError(f"MORPHOMIL_WAIT_S is a number of seconds; got {text!r}") from None


def _beat(claim: Claim, ending: Event) -> None:
    while not ending.wait(BEAT_S):
        claim.beat()


def _try_claim(
    claim: Claim, part: Part, seen: dict[Path, tuple[bytes, float]]
) -> tuple[_State, Path] | None:
    """Make the claim; else the state and the file of one that meets it, a living one first."""
    folder = claim.path.parent
    with alone(folder):
        met: list[tuple[_State, Path]] = []
        for path in sorted(folder.glob(".lock*")):
            other = Part.of(path.name)
            if other is None or not part.meets(other):
                continue
            state = _state_of(path, seen, unsaid="ended")
            if state == "ended":
                _discard(path)
            else:
                met.append((state, path))
        if not met:
            _create(claim.path, claim.token)
            return None
        return min(met)


class Lockable(Protocol):
    """A run directory."""

    def lock(self) -> AbstractContextManager[Claim]:
        """The right to work in it (`Run.lock`)."""


R = TypeVar("R", bound=Lockable)


def with_lock(write: Callable[Concatenate[R, P], T]) -> Callable[Concatenate[R, P], T]:
    """Decorates a function that writes into its first argument: it holds `Run.lock` meanwhile."""

    @wraps(write)
    def locked(run: R, /, *arguments: P.args, **options: P.kwargs) -> T:
        with run.lock():
            return write(run, *arguments, **options)

    return locked


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """A moment in which nobody else claims anything in the folder, or writes what all share.

    Raises:
        BusyError: the guard was never free.
        OSError: the folder can't be written.
    """
    path, token = folder / GUARD, uuid.uuid4().hex
    seen: dict[Path, tuple[bytes, float]] = {}
    begun = time.monotonic()
    _ours.add(token)
    try:
        while not _put_up(path, token):
            if _state_of(path, seen, unsaid="unknown") == "ended":
                _take_away(path, seen[path][0])
            elif time.monotonic() - begun > GUARD_WAIT_S:
                raise BusyError(f"other morphomil processes keep {folder} busy; try again later")
            else:
                time.sleep(random.uniform(0.002, 0.03))
        try:
            yield
        finally:
            _remove_own(path, token)
    finally:
        _ours.discard(token)


def _create(path: Path, token: str) -> bool:
    """Create a file of ours; False: there is one."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        os.write(handle, _describe(token))
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    return True


def _put_up(path: Path, token: str) -> bool:
    """Make the guard; False: there is one. A disk without symbolic links gets a file instead."""
    text = _describe(token).decode()
    try:
        path.symlink_to(text)
    except FileExistsError:
        with suppress(FileNotFoundError):
            return _content(path) == text.encode()  # a network's answer may get lost
        return False
    except OSError as error:
        if _CAN_ASK and error.errno not in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        return _create(path, token)
    return True


def _remove_own(path: Path, token: str) -> None:
    with suppress(OSError):  # a leftover of an ended owner is recognized
        if _read(path).get("token") == token:
            path.unlink(missing_ok=True)


def _take_away(path: Path, content: bytes) -> None:
    """Remove the guard of an owner that ended; of several who try, all but one find another's
    guard in their hands and put it back."""
    aside = path.with_name(f"{GUARD}.{uuid.uuid4().hex}")
    try:
        if _content(path) != content:
            return
        path.rename(aside)
        if (other := _content(aside)) != content:
            with suppress(FileExistsError):
                path.symlink_to(other.decode())
    except FileNotFoundError:
        return
    finally:
        _discard(aside)


def _state_of(path: Path, seen: dict[Path, tuple[bytes, float]], *, unsaid: _State) -> _State:
    """Whether a file's owner works: asked where it is this machine, else watched from call to call.

    `unsaid` stands for a file that doesn't say whose it is.
    """
    try:
        content = _content(path)
    except FileNotFoundError:
        return "ended" if unsaid == "ended" else "unknown"
    earlier, since = seen.setdefault(path, (content, time.monotonic()))
    if earlier != content:
        seen[path] = (content, time.monotonic())
    owner = _parse(content)
    if owner and _CAN_ASK and all(owner[name] == value for name, value in _here().items()):
        return "alive" if _is_running(owner) else "ended"
    if not owner and (unsaid == "ended" or _is_no_file(path)):
        return "ended"
    if earlier != content:
        return "alive"
    return "ended" if time.monotonic() - since >= SILENCE_S else "unknown"


def _is_running(owner: dict[str, Any]) -> bool:
    """Whether a process of this machine is there and the same one."""
    pid = owner["pid"]
    if pid == os.getpid():
        return owner["token"] in _ours
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    started = _started(pid)
    return started is None or owner["started"] in (None, started)


def _started(pid: int) -> str | None:
    """When a process started, in ticks since the machine did; "" of one that has ended, and None
    where the system doesn't say."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = after_name.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


@lru_cache(maxsize=1)
def _here() -> dict[str, str]:
    """What is the same for processes that can see each other."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        numbers = str(Path("/proc/self/ns/pid").readlink())
        return {"host": socket.gethostname(), "boot": boot, "pids": numbers}
    return {"host": socket.gethostname(), "boot": "", "pids": ""}


def _describe(token: str) -> bytes:
    """The content of a file of this process; its length stays the same."""
    pid = os.getpid()
    owner = _here() | {"pid": pid, "started": _started(pid), "token": token}
    return json.dumps(owner | {"beat": f"{time.time_ns():020d}"}).encode()


def _parse(content: bytes) -> dict[str, Any]:
    """What a file says of its owner; empty: nothing that a process has written."""
    try:
        owner = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(owner, dict):
        return {}
    texts, pid = [owner.get(name) for name in ("host", "boot", "pids", "token")], owner.get("pid")
    if not all(isinstance(text, str) for text in texts) or "started" not in owner:
        return {}
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 < pid <= MAX_PID:
        return {}
    return owner if isinstance(owner["started"], str | None) else {}


def _read(path: Path) -> dict[str, Any]:
    return _parse(_content(path))


def _content(path: Path) -> bytes:
    if path.is_symlink():
        return os.fsencode(path.readlink())
    return b"" if _is_no_file(path) else path.read_bytes()


def _is_no_file(path: Path) -> bool:
    """Whether a folder, a pipe or the like lies there, which no process of ours makes."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISLNK(mode))


def _discard(path: Path) -> None:
    """Remove a leftover, be it an empty folder."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
