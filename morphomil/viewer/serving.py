"""The server of the slide browser's page: on this machine's loopback, for those who know its
token."""

from __future__ import annotations

import hmac
import json
import re
import secrets
import threading
from http import HTTPStatus
from http.client import LineTooLong
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, urlsplit

from morphomil.errors import InputError, MorphomilError
from morphomil.numerals import read_digits
from morphomil.store import parse_json
from morphomil.viewer import SlideBrowser

if TYPE_CHECKING:
    import io
    from collections.abc import Callable
    from socket import socket

    from morphomil.run.directory import Run
    from morphomil.viewer.browser import End, Reviewer

LOOPBACK = "127.0.0.1"
MAX_REQUEST_BYTES = 2**16
"""A request's line and headers are at most so long."""
MAX_BODY_BYTES = 4096
"""A review is at most so long; no other request has a body."""
MAX_CONNECTIONS = 32
"""So many are answered at once; the next one is told to come again."""
IDLE_SECONDS = 60
"""A connection that says nothing for so long is closed."""

_HERE = Path(__file__).parent
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_FILES = {
    "/": _HERE / "page" / "index.html",
    "/openseadragon.js": _HERE / "openseadragon" / "openseadragon.min.js",
} | {f"/page/{file.name}": file for file in (_HERE / "page").iterdir()}
_JSON, _JPEG, _BYTES = "application/json", "image/jpeg", "application/octet-stream"
# OpenSeadragon sets styles inline.
_STYLES = "style-src 'self' 'unsafe-inline'"
_POLICY = (
    f"default-src 'none'; script-src 'self'; {_STYLES}; img-src 'self' data: blob:; connect-src "
    "'self'"
)
_HEADERS = {
    "Content-Security-Policy": f"{_POLICY}; base-uri 'none'; form-action 'none'; frame-ancestors "
    "'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_SLIDE, _PLACE = r"/slides/(\d{1,7})", r"(\d{1,2})/(\d{1,7})_(\d{1,7})"
_IMAGE = rf"{_SLIDE}/(\d{{1,4}})"
_TILE = re.compile(rf"{_IMAGE}/tiles/{_PLACE}\.jpg")
_OUTLINES = re.compile(rf"{_IMAGE}/outlines/{_PLACE}\.bin")
_VALUES = re.compile(rf"{_IMAGE}/values/(\d{{1,4}})/{_PLACE}\.bin")
_ABOUT = re.compile(rf"{_IMAGE}\.json")
_PATCHES = re.compile(rf"{_IMAGE}/patches\.json")
_NUCLEUS = re.compile(rf"{_SLIDE}/nuclei/(\d{{1,9}})\.json")
_GALLERY = re.compile(rf"{_SLIDE}/gallery/(high|low|random)/(\d{{1,4}})/(\d{{1,9}})\.json")
_REVIEWS = re.compile(rf"{_SLIDE}/reviews\.json")
_OF_IMAGE = (_TILE, _OUTLINES, _VALUES, _ABOUT, _PATCHES)
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class SlideServer(ThreadingHTTPServer):
    """Serves a run's slides to those who know `token`."""

    daemon_threads = True

    def __init__(self, slides: SlideBrowser, port: int) -> None:
        """Listen on the loopback; `port` 0 takes a free one."""
        self.slides, self.token = slides, secrets.token_urlsafe(32)
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__((LOOPBACK, port), _Handler)
        self.cookie = f"morphomil-{self.server_port}"
        """Cookies know no ports, so its name has the port."""
        self.hosts = {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}
        """Browsers call this server so; a page elsewhere whose name was made to point here still
        sends its own."""

    @property
    def address(self) -> str:
        """Who opens this may read the slides."""
        return f"http://{LOOPBACK}:{self.server_port}/?token={self.token}"

    def knows(self, token: str) -> bool:
        """Whether it is the token; the time that this takes doesn't say how much of it is right."""
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, if one is free."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        try:
            cast("socket", request).sendall(_BUSY)
        except OSError:
            pass
        finally:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer all requests of a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def server_close(self) -> None:
        """Stop listening, and let go of the slides."""
        super().server_close()
        self.slides.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a connection that broke."""


def make_server(run: Run, *, port: int = 0, reviewer: Reviewer | None = None) -> SlideServer:
    """A server of the run's slides on this machine only; `port` 0 takes a free one. Not started.

    `reviewer` is whose decisions on nuclei are stored.

    Raises:
        InputError: no slide is segmented, what is stored of them is damaged, or the port is taken.
    """
    slides = SlideBrowser(run, reviewer)
    try:
        return SlideServer(slides, port)
    except OSError as error:
        raise InputError(f"port {port} can't be used: {error}; name another with --port") from error


class _Bounded:
    """Lines of a connection, up to `left` bytes."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self.stream, self.left = stream, MAX_REQUEST_BYTES

    def readline(self, limit: int = -1) -> bytes:
        """The next line; raises what the parser of headers answers with a status."""
        if self.left <= 0:
            raise LineTooLong("request")
        line = self.stream.readline(min(limit, self.left + 1) if limit >= 0 else self.left + 1)
        self.left -= len(line)
        return line

    def read(self, size: int) -> bytes:
        """So many bytes of a body, which the caller bounds."""
        return self.stream.read(size)

    def close(self) -> None:
        """Close the connection's end."""
        self.stream.close()


class _Handler(BaseHTTPRequestHandler):
    """Answers GET with files of the page, tiles and JSON, and POST of a review with those that hold
    then; whatever else is refused in a sentence, as JSON."""

    server: SlideServer
    server_version = "morphomil"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS

    def setup(self) -> None:
        """Bound what is read."""
        super().setup()
        self.rfile: Any = _Bounded(self.rfile)

    def handle_one_request(self) -> None:
        """Read and answer one request."""
        self.rfile.left = MAX_REQUEST_BYTES
        super().handle_one_request()

    def do_GET(self) -> None:
        """Answer."""
        if not self._is_for_us():
            return
        if self.headers.get("Transfer-Encoding") or self.headers.get("Content-Length", "0") != "0":
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "a request has no body here")
            return
        try:
            parts = urlsplit(self.path)
            given = parse_qs(parts.query, max_num_fields=8).get("token", [""])[0]
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST, "that is no address")
            return
        if not self.server.knows(given or self._stored_token()):
            self.send_error(
                HTTPStatus.FORBIDDEN, "open the whole address that morphomil view has printed"
            )
            return
        self._answer_path(parts.path, with_cookie=bool(given))

    def do_POST(self) -> None:
        """Store a review: of this page, by its cookie, as JSON."""
        if not self._is_for_us():
            return
        origin = f"http://{self.headers['Host']}"
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip()
        if self.headers.get_all("Origin", []) != [origin] or kind != _JSON:
            self.send_error(HTTPStatus.FORBIDDEN, "only the page of this server writes, as JSON")
            return
        if not self.server.knows(self._stored_token()):
            self.send_error(
                HTTPStatus.FORBIDDEN, "open the whole address that morphomil view has printed"
            )
            return
        length = self.headers.get_all("Content-Length", [])
        size = read_digits(length[0]) if len(length) == 1 else None
        if self.headers.get("Transfer-Encoding") or size is None:
            self.send_error(HTTPStatus.LENGTH_REQUIRED, "a review says how long it is")
            return
        if size > MAX_BODY_BYTES:
            self.send_error(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a review has {MAX_BODY_BYTES} bytes at most"
            )
            return
        found = _REVIEWS.fullmatch(self.path)
        if not found:
            self.send_error(HTTPStatus.NOT_FOUND, "there is nothing here")
            return
        self._answer_with(self._store_review, int(found[1]), self.rfile.read(size))

    def _store_review(self, slide: int, body: bytes) -> tuple[bytes, str]:
        self._check(slide, 0)
        try:
            asked = parse_json(body)
        except (ValueError, RecursionError) as error:
            raise InputError("a review is JSON") from error
        return _as_json(self.server.slides.review(slide, asked)), _JSON

    def _is_for_us(self) -> bool:
        """Whether the request names this server; else it is refused."""
        named = self.headers.get_all("Host", [])
        if len(named) == 1 and named[0] in self.server.hosts:
            return True
        self.send_error(HTTPStatus.FORBIDDEN, "only for this machine")
        return False

    def _stored_token(self) -> str:
        """The token that the page was opened with, which its requests bring as a cookie."""
        for cookie in self.headers.get("Cookie", "").split(";"):
            name, _, value = cookie.strip().partition("=")
            if name == self.server.cookie:
                return value
        return ""

    def _answer_path(self, path: str, *, with_cookie: bool) -> None:
        stored = f"{self.server.cookie}={self.server.token}; Path=/; HttpOnly; SameSite=Strict"
        self._answer_with(self._content, path, cookie=stored if with_cookie else "")

    def _answer_with(self, make: Callable[..., tuple[bytes, str]], *key: Any, **more: str) -> None:
        """Answer with what `make` gives, or with a sentence on why it gives nothing."""
        try:
            content, kind = make(*key)
        except Exception as error:  # noqa: BLE001 - whatever it is, the page gets a sentence
            if type(error) is LookupError:
                self.send_error(HTTPStatus.NOT_FOUND, str(error))
                return
            matches = (one.fullmatch(urlsplit(self.path).path) for one in _OF_IMAGE)
            if found := next(filter(None, matches), None):
                self.server.slides.forget(int(found[1]), int(found[2]))
            bad = type(error) is InputError and self.command == "POST"
            status = HTTPStatus.BAD_REQUEST if bad else HTTPStatus.INTERNAL_SERVER_ERROR
            self.send_error(status, _describe(error))
        else:
            self._answer(HTTPStatus.OK, content, kind, **more)

    def _content(self, path: str) -> tuple[bytes, str]:
        slides = self.server.slides
        if path in _FILES:
            file = _FILES[path]
            return file.read_bytes(), f"{_KINDS[file.suffix]}; charset=utf-8"
        if path == "/run.json":
            return _as_json(slides.describe_run()), _JSON
        if path == "/slides.json":
            return _as_json(slides.list_slides()), _JSON
        if path == "/cohort.json":
            return _as_json(slides.cohort.describe()), _JSON
        for pattern, make, kind in (
            (_TILE, slides.tile, _JPEG),
            (_OUTLINES, slides.outlines, _BYTES),
            (_VALUES, slides.values, _BYTES),
        ):
            if found := pattern.fullmatch(path):
                place = tuple(map(int, found.groups()))
                self._check(*place[:2])
                return make(*place), kind
        return _as_json(self._table(path)), _JSON

    def _table(self, path: str) -> Any:
        slides = self.server.slides
        for pattern, describe in ((_ABOUT, slides.describe), (_PATCHES, slides.patches)):
            if found := pattern.fullmatch(path):
                slide, image = map(int, found.groups())
                self._check(slide, image)
                return describe(slide, image)
        if found := _NUCLEUS.fullmatch(path):
            self._check(int(found[1]), 0)
            return slides.nucleus(int(found[1]), int(found[2]))
        if found := _GALLERY.fullmatch(path):
            self._check(int(found[1]), 0)
            end = cast("End", found[2])
            return slides.gallery(int(found[1]), end, int(found[3]), int(found[4]))
        if found := _REVIEWS.fullmatch(path):
            self._check(int(found[1]), 0)
            return slides.reviews(int(found[1]))
        raise LookupError("there is nothing here")

    def _check(self, slide: int, image: int) -> None:
        known = self.server.slides.slides
        if slide >= len(known) or image >= len(known[slide].images):
            raise LookupError(f"there is no slide {slide} with an image {image}")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """A sentence as JSON; what the request still says is not read."""
        self.close_connection = True
        status = HTTPStatus(code)
        self._answer(status, _as_json({"error": message or status.description}), _JSON)

    def _answer(self, status: HTTPStatus, content: bytes, kind: str, *, cookie: str = "") -> None:
        self.request_version = self.protocol_version  # an answer has a head, whatever was asked
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if cookie:
            self.send_header("Set-Cookie", cookie)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        keep = "private, max-age=300" if kind == _JPEG else "no-store"
        self.send_header("Cache-Control", keep)
        try:
            self.end_headers()
            self.wfile.write(content)
        except ConnectionError:  # the page no longer wants this tile
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet: tiles are many."""


def _as_json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


def _describe(error: Exception) -> str:
    if isinstance(error, MorphomilError | OSError):
        return str(error)
    return f"internal error, please report it: {type(error).__name__}: {error}"
