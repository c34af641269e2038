"""JSON that is larger than memory should be: objects and arrays entered piece by piece."""

from __future__ import annotations

import gzip
import json
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from morphomil.store import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_VALUE_CHARS = 2**24
"""A value that is read as a whole may have this many characters: a nucleus has some hundred
vertices."""
READ_CHARS = 2**20
_SPACE = " \t\r\n"


@contextmanager
def open_json(path: Path) -> Iterator[JsonStream]:
    """A JSON file, plain or gzipped, before its first value."""
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    with (gzip.open if packed else open)(path, "rt", encoding="utf-8-sig") as text:
        yield JsonStream(text)


class JsonStream:
    """A text of JSON, read onward only.

    Between two calls it stands before a value: `peek` shows its first character, and one of
    `value`, `elements` and `items` takes it.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._text, self._position, self._ended = stream, "", 0, False
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no white space; "" at the end of the file."""
        while True:
            while self._position < len(self._text) and self._text[self._position] in _SPACE:
                self._position += 1
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._more():
                return ""

    def value(self) -> Any:
        """The next value, whole.

        Raises:
            ValueError: it is no JSON, cut off, or longer than `MAX_VALUE_CHARS`.
        """
        whole, value = self.try_value(MAX_VALUE_CHARS)
        if not whole:
            raise ValueError(
                f"it is no JSON, or has a value of more than {MAX_VALUE_CHARS:,} characters"
            )
        return value

    def try_value(self, chars: int) -> tuple[bool, Any]:
        """Whether the next value ends within so many characters, and the value if so, which is
        taken then.

        Raises:
            ValueError: it is cut off, or no JSON.
        """
        self.peek()
        while True:
            try:
                value, stop = self._decoder.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                if self._ended:
                    raise ValueError("it is cut off, or no JSON") from error
            else:
                if stop < len(self._text) or self._ended:
                    if self._text.find("\\u", self._position, stop) >= 0:
                        value = parse_json(self._text[self._position : stop])
                    self._position = stop
                    return True, value
            if len(self._text) - self._position > chars:
                return False, None
            self._more()

    def elements(self) -> Iterator[None]:
        """Stands before every element of the next value, an array, in turn; each must be taken."""
        self._take("[")
        while self.peek() != "]":
            yield
            self._between("]")
        self._position += 1

    def items(self) -> Iterator[str]:
        """The keys of the next value, an object; after each its value must be taken."""
        self._take("{")
        while self.peek() != "}":
            key = self.value()
            if not isinstance(key, str):
                raise ValueError("it is no JSON")
            self._take(":")
            yield key
            self._between("}")
        self._position += 1

    def _between(self, closing: str) -> None:
        if self.peek() == ",":
            self._position += 1
        elif self.peek() != closing:
            raise ValueError("it is no JSON" if self.peek() else "it is cut off")

    def _take(self, character: str) -> None:
        if self.peek() != character:
            raise ValueError("it is no JSON" if self.peek() else "it is cut off")
        self._position += 1

    def _more(self) -> bool:
        """Read on; as much again as is waiting, so that a long value is tried seldom."""
        waiting = self._text[self._position :]
        read = self._stream.read(max(READ_CHARS, len(waiting)))
        self._text, self._position, self._ended = waiting + read, 0, not read
        return bool(read)
