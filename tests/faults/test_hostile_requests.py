"""Requests that someone made to break the server of the slide browser: whatever comes, it answers
with a sentence or not at all, and goes on."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from morphomil.run import Run
from morphomil.viewer.serving import SlideServer, make_server

EXAMPLES = 5_000 if os.environ.get("MORPHOMIL_FAULTS", "sample") != "sample" else 60

bounded = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., Run]
) -> Iterator[SlideServer]:
    run = make_run(tmp_path_factory.mktemp("served") / "run", ("plain",))
    with make_server(run) as server:
        server.wrong = []  # type: ignore[attr-defined]
        server.handle_error = lambda *where: _note(server)  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def _note(server: Any) -> None:
    import sys

    if not isinstance(sys.exception(), ConnectionError | TimeoutError):
        server.wrong.append(sys.exception())


NUMBERS = st.integers(-1, 10**12).map(str) | st.sampled_from(["0", "00", "\u0661", "1e3", "", "-0"])
PARTS = st.sampled_from(
    ["", "slides", "slides.json", "tiles", "nuclei", "viewer.js", "..", ".", "%2e%2e", "%00", "0",
     "0.json", "0_0.jpg", "plain", "~", "etc/passwd", "a" * 200]
)  # fmt: skip
PATHS = st.one_of(
    *(
        st.builds(path.format, *[NUMBERS] * path.count("{}"))
        for path in (
            "/slides/{}/{}/tiles/{}/{}_{}.jpg",
            "/slides/{}/{}/outlines/{}/{}_{}.bin",
            "/slides/{}/{}/values/{}/{}/{}_{}.bin",
            "/slides/{}/{}.json",
            "/slides/{}/{}/patches.json",
            "/slides/{}/nuclei/{}.json",
            "/slides/{}/gallery/high/{}/{}.json",
            "/slides/{}/reviews.json",
        )
    ),
    st.lists(PARTS, max_size=7).map(lambda parts: "/" + "/".join(parts)),
    st.text(max_size=12),
)
QUERIES = st.lists(
    st.tuples(st.sampled_from(["token", "x", "level", "feature", "", "%"]), st.text(max_size=5)),
    max_size=10,
).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs))
HEADERS = st.dictionaries(
    st.sampled_from(
        ["Content-Length", "Transfer-Encoding", "Cookie", "Range", "Expect", "Connection",
         "If-None-Match", "Origin", "X", "", "Host"]
    ),
    st.text(max_size=8)
    | st.sampled_from(["0", "-1", "9" * 30, "chunked", "keep-alive", "100-continue", "a" * 9000]),
    max_size=4,
)  # fmt: skip
METHODS = st.sampled_from(
    ["GET"] * 8 + ["HEAD", "POST", "PUT", "OPTIONS", "TRACE", "get", "", "G T"]
)


@bounded
@given(
    method=METHODS, path=PATHS, query=QUERIES, headers=HEADERS, known=st.booleans(),
    version=st.sampled_from(["HTTP/1.1"] * 5 + ["HTTP/1.0", "HTTP/9.9", "HTTP", ""]),
    body=st.binary(max_size=20),
)  # fmt: skip
def test_any_request(
    method: str, path: str, query: str, headers: dict[str, str], known: bool, version: str,
    body: bytes, server: SlideServer,
) -> None:  # fmt: skip
    lines = [f"{method} {path}?{query} {version}", f"Host: 127.0.0.1:{server.server_port}"]
    lines += [f"Cookie: {server.cookie}={server.token}"] * known
    lines += [f"{name}: {value}" for name, value in headers.items()]
    answer = talk(server, "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + body)
    assert server.wrong == []  # type: ignore[attr-defined]
    assert b"internal error" not in answer, answer
    assert b"Traceback" not in answer
    if not known:
        assert b"200 OK" not in answer


TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
REVIEWS = st.fixed_dictionaries(
    {"label": TREES | st.just(40), "decision": TREES | st.sampled_from(["accept", "retype"])},
    optional={"type": TREES, "random_rank": TREES, "reviewer": TREES},
)
BODIES = (TREES | REVIEWS).map(lambda tree: json.dumps(tree).encode()) | st.sampled_from(
    [b"[" * 4000, b"\xff", b"", b"{" * 9, b"1e999", b'{"label": NaN, "decision": "accept"}']
)


@bounded
@example(body=b'{"label": 40, "decision": "accept", "random_rank": false}', slide="0")
@example(body=b'{"label": true, "decision": "accept"}', slide="0")
@given(body=BODIES, slide=NUMBERS)
def test_any_review(body: bytes, slide: str, server: SlideServer) -> None:
    host = f"127.0.0.1:{server.server_port}"
    lines = [
        f"POST /slides/{slide}/reviews.json HTTP/1.1", f"Host: {host}",
        f"Origin: http://{host}", f"Cookie: {server.cookie}={server.token}",
        "Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close",
    ]  # fmt: skip
    answer = talk(server, "\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    assert server.wrong == []  # type: ignore[attr-defined]
    assert answer.startswith(b"HTTP/1.1 ")
    assert b"internal error" not in answer, answer


@pytest.mark.parametrize("length", ["9" * 5000, "\u0663", "-1", "1_0"])
def test_a_length_that_is_no_number(length: str, server: SlideServer) -> None:
    host = f"127.0.0.1:{server.server_port}"
    lines = [
        "POST /slides/0/reviews.json HTTP/1.1", f"Host: {host}",
        f"Origin: http://{host}", f"Cookie: {server.cookie}={server.token}",
        "Content-Type: application/json", f"Content-Length: {length}", "Connection: close",
    ]  # fmt: skip
    answer = talk(server, "\r\n".join(lines).encode() + b"\r\n\r\n")
    assert server.wrong == []  # type: ignore[attr-defined]
    assert answer.startswith(b"HTTP/1.1 411 ")


def talk(server: SlideServer, request: bytes) -> bytes:
    """All that is answered until the other end is closed, or waits for more."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as line:
        answer = b""
        try:
            line.sendall(request)
            line.shutdown(socket.SHUT_WR)  # "not connected" where the server has hung up by now
            while part := line.recv(2**16):
                answer += part
        except TimeoutError:
            raise
        except OSError:
            pass
        return answer


def test_it_still_answers(server: SlideServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request("GET", "/slides.json", headers={"Cookie": f"{server.cookie}={server.token}"})
    assert connection.getresponse().status == 200
    connection.close()
