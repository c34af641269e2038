"""Standard output and standard error that never end the work: what a full disk, or a pipe that
nobody reads any more, doesn't take is lost."""

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any


class _Unfailing(io.RawIOBase):
    """What a stream writes to, for as long as it takes anything; from then on, nothing."""

    def __init__(self, stream: Any, on_loss: Callable[[OSError], None] | None) -> None:
        """`on_loss` hears of the first error, unless it is that nobody reads."""
        self._stream = stream  # which would close the file behind it when nobody knows it any more
        self._target = getattr(stream.buffer, "raw", stream.buffer)
        self._on_loss = on_loss
        self._lost = False

    def write(self, content: Any, /) -> int:
        """All of the content counts as written."""
        left = memoryview(content).cast("B")
        size = len(left)
        try:
            while left and not self._lost:
                done = self._target.write(left)
                if done is None:  # it takes nothing for the moment, and isn't waited for
                    break
                left = left[done:]
        except OSError as error:
            self._lost = True
            if self._on_loss is not None and error.errno != errno.EPIPE:
                self._on_loss(error)
        return size

    def writable(self) -> bool:
        """It is, to those who write."""
        return True

    def fileno(self) -> int:
        """That of what it writes to."""
        return int(self._target.fileno())

    def isatty(self) -> bool:
        """Whether a person looks on."""
        return bool(self._target.isatty())


def guard() -> None:
    """From here on no output raises errors; one that was closed from the start goes nowhere, so
    that no file that is opened later gets its number, and with it what libraries write."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stderr = _guarded(sys.stderr or open(2, "w", closefd=False), None)  # noqa: SIM115
    sys.stdout = _guarded(sys.stdout or open(1, "w", closefd=False), _tell)  # noqa: SIM115


def _guarded(stream: Any, on_loss: Callable[[OSError], None] | None) -> Any:
    """The stream, which raises no more; characters that it can't show are replaced."""
    if not hasattr(stream, "buffer"):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        _Unfailing(stream, on_loss),
        encoding=stream.encoding,
        errors="replace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _tell(error: OSError) -> None:
    """That results aren't shown."""
    sys.stderr.write(
        f"morphomil: standard output can't be written ({error.strerror or error}); what else it "
        "would say is lost, the work goes on\n"
    )
