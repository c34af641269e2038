"""The server of the slide browser: who may read, what a request may be, and what an error says."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from morphomil.errors import DamagedError, InputError
from morphomil.run import Run
from morphomil.run.reviews import read_reviews
from morphomil.viewer import Reviewer, serving
from morphomil.viewer.serving import SlideServer, make_server


class Answer(NamedTuple):
    status: int
    content: bytes
    headers: dict[str, str]

    @property
    def error(self) -> str:
        """The sentence of an error, which is all that it says."""
        (sentence,) = json.loads(self.content).values()
        assert self.headers["Content-Type"] == "application/json"
        return str(sentence)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., Run]) -> Run:
    return make_run(tmp_path_factory.mktemp("served") / "run", ("plain",))


@pytest.fixture
def server(run: Run) -> Iterator[SlideServer]:
    with make_server(run) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(server: SlideServer, path: str, method: str = "GET", **headers: str) -> Answer:
    """The answer to a request with these headers; `_` stands for `-`."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request(
        method, path, headers={name.replace("_", "-"): text for name, text in headers.items()}
    )
    answer = connection.getresponse()
    found = Answer(answer.status, answer.read(), dict(answer.getheaders()))
    connection.close()
    return found


def cookie(server: SlideServer) -> str:
    return f"other=1; {server.cookie}={server.token}"


def say(server: SlideServer, text: bytes) -> bytes:
    """What the server answers to these bytes until it closes."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
        connection.sendall(text)
        parts = []
        try:
            while part := connection.recv(65536):
                parts.append(part)
        except ConnectionError:
            pass
        return b"".join(parts)


def test_the_address_opens_the_page_and_its_cookie_the_rest(server: SlideServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    page = ask(server, server.address.partition(str(server.server_port))[2])
    assert page.status == 200
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    name, *attributes = page.headers["Set-Cookie"].split("; ")
    assert name == f"{server.cookie}={server.token}"
    assert {"HttpOnly", "SameSite=Strict"} <= set(attributes)
    slides = ask(server, "/slides.json", Cookie=cookie(server))
    assert json.loads(slides.content)[0]["name"] == "plain"
    assert "Set-Cookie" not in slides.headers


def test_nobody_else_reads_anything(server: SlideServer) -> None:
    for path in ("/", "/slides.json", "/page/main.js", "/x", "/slides/0/0/tiles/0/0_0.jpg"):
        for headers in ({}, {"Cookie": f"{server.cookie}=wrong"}, {"Cookie": f"x={server.token}"}):
            refused = ask(server, path, **headers)
            assert refused.status == 403
            assert "open the whole address" in refused.error
    for token in ("", "wrong", server.token[:-1], server.token + "x", "%C3%A9", "%FF"):
        assert ask(server, f"/?token={token}").status == 403


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1:1@evil",
     "127.0.0.1:{port}@evil", "127.0.0.1:{port}.evil", "localhost.evil:{port}", "[::1]:{port}", ""],
)  # fmt: skip
def test_other_hosts_are_refused(host: str, server: SlideServer) -> None:
    named = host.format(port=server.server_port)
    refused = ask(server, "/slides.json", Host=named, Cookie=cookie(server))
    assert refused.status == 403
    assert refused.error == "only for this machine"
    local = f"localhost:{server.server_port}"
    assert ask(server, "/slides.json", Host=local, Cookie=cookie(server)).status == 200


def test_what_is_not_there_is_a_sentence(server: SlideServer) -> None:
    for path in (
        "/../pyproject.toml",
        "/slides/9/0.json",
        "/slides/0/7.json",
        "/slides/0/0/tiles/99/0_0.jpg",
        "/x",
    ):
        missing = ask(server, path, Cookie=cookie(server))
        assert missing.status in (404, 500)  # the slide's file isn't there
        assert missing.error
    assert ask(server, "//[", Cookie=cookie(server)).status in (400, 404)


def test_requests_have_bounds(server: SlideServer) -> None:
    own = cookie(server)
    assert ask(server, "/slides.json", Cookie=own, Content_Length="5").status == 413
    assert ask(server, "/slides.json", Cookie=own, Transfer_Encoding="chunked").status == 413
    assert ask(server, "/slides.json", method="PUT", Cookie=own).status == 501
    head = f"GET /slides.json HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n".encode()
    assert say(server, b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 414")
    wide = b"X: " + b"x" * 40_000 + b"\r\n"
    assert say(server, head + 3 * wide + b"\r\n").startswith(b"HTTP/1.1 431")
    assert say(server, head + 200 * b"X: y\r\n" + b"\r\n").startswith(b"HTTP/1.1 431")
    for line, status in ((b"\x00\xff", 400), (b"GET / HTTP/2.0", 505), (b"GET / FTP", 400),
                         (b"a b c d e", 400), (b"GET /", 403)):  # fmt: skip
        head_of, _, content = say(server, line + b"\r\n\r\n").partition(b"\r\n\r\n")
        assert head_of.startswith(b"HTTP/1.1 %d " % status), line
        assert b"Content-Type: application/json" in head_of and json.loads(content)["error"]
    assert ask(server, "/slides.json", Cookie=own).status == 200


def test_connections_have_a_bound(server: SlideServer, monkeypatch: pytest.MonkeyPatch) -> None:
    idle = [
        socket.create_connection(("127.0.0.1", server.server_port))
        for _ in range(serving.MAX_CONNECTIONS)
    ]
    assert say(server, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 503")
    for connection in idle:
        connection.close()
    for _ in range(50):
        try:
            answer = ask(server, "/slides.json", Cookie=cookie(server))
        except (ConnectionError, http.client.HTTPException):
            continue
        if answer.status == 200:
            return
    pytest.fail("the connections are not given back")


def test_damaged_results_are_a_sentence(run: Run, server: SlideServer) -> None:
    """The slide's file is missing, then its tables are damaged: the server goes on."""
    tile = ask(server, "/slides/0/0/tiles/0/0_0.jpg", Cookie=cookie(server))
    assert tile.status == 500
    assert "0_0.png is missing" in tile.error
    table = run.slide_folder("plain") / "nuclei.parquet"
    content = table.read_bytes()
    table.write_bytes(content[: len(content) // 2])
    try:
        answer = ask(server, "/slides/0/nuclei/40.json", Cookie=cookie(server))
        assert answer.status == 500
        assert answer.error.startswith(f"{table} is damaged")
    finally:
        table.write_bytes(content)
    answer = ask(server, "/slides/0/nuclei/40.json", Cookie=cookie(server))
    assert answer.status == 200
    assert json.loads(answer.content)["label"] == 40
    assert ask(server, "/slides/0/nuclei/9999.json", Cookie=cookie(server)).status == 404


def test_a_damaged_run_is_told_before_serving(run: Run, tmp_path: Path) -> None:
    with make_server(run) as server, pytest.raises(InputError, match=r"port .* can't be used"):
        make_server(run, port=server.server_port)
    (tmp_path / "cohort.parquet").write_bytes(b"PAR1")
    with pytest.raises(DamagedError, match=r"cohort\.parquet is damaged"):
        make_server(Run.open(tmp_path))


def send(
    server: SlideServer, value: object, path: str = "/slides/0/reviews.json", **changed: str
) -> Answer:
    """The answer to a review as the page sends it, but for the headers that are named."""
    host = f"127.0.0.1:{server.server_port}"
    headers = {"Cookie": cookie(server), "Origin": f"http://{host}", "Host": host}
    headers |= {"Content-Type": "application/json"}
    headers |= {name.replace("_", "-"): text for name, text in changed.items()}
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    kept = {name: text for name, text in headers.items() if text}
    connection.request("POST", path, body=body, headers=kept)
    answer = connection.getresponse()
    found = Answer(answer.status, answer.read(), dict(answer.getheaders()))
    connection.close()
    return found


ACCEPT = {"label": 40, "decision": "accept"}


def test_only_the_page_of_this_server_writes_reviews(server: SlideServer, run: Run) -> None:
    port = server.server_port
    refused = [
        {"Cookie": ""},
        {"Cookie": f"{server.cookie}=wrong"},
        {"Origin": ""},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": f"http://localhost:{port}"},  # another site than the host that is asked
        {"Origin": f"https://127.0.0.1:{port}"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Host": "evil.example"},
    ]
    for changed in refused:
        assert send(server, ACCEPT, **changed).status == 403, changed
    token = f"/slides/0/reviews.json?token={server.token}"
    assert send(server, ACCEPT, path=token, Cookie="").status == 403
    assert ask(server, "/slides/0/reviews.json", method="POST").status == 403
    assert not (run.slide_folder("plain") / "reviews.parquet").exists()


def test_reviews_are_bounded_and_checked(server: SlideServer, run: Run) -> None:
    assert send(server, b" " * 5000).status == 413
    assert send(server, ACCEPT, Content_Length="x").status == 411
    endless = send(server, ACCEPT, Content_Length="1" * 5000)
    assert (endless.status, endless.error) == (411, "a review says how long it is")
    assert send(server, ACCEPT, path="/slides/9/reviews.json").status == 404
    assert send(server, ACCEPT, path="/slides.json").status == 404
    assert send(server, {"label": 9999, "decision": "accept"}).status == 404
    for wrong in (b"{", b"[]", {"label": "40", "decision": "accept"}, {"label": 40},
                  {"label": 40, "decision": "maybe"}, {"label": 40, "decision": "retype"},
                  {"label": 40, "decision": "accept", "type": "stroma"},
                  {"label": 40, "decision": "accept", "random_rank": 10**9},
                  {"label": 40, "decision": "retype", "type": "<b>"}):  # fmt: skip
        answer = send(server, wrong)
        assert answer.status == 400, wrong
        assert answer.error
    nobody = send(server, ACCEPT)
    assert (nobody.status, "--reviewer NAME" in nobody.error) == (400, True)
    assert not (run.slide_folder("plain") / "reviews.parquet").exists()


def test_a_reviewer_s_decisions_are_stored(run: Run) -> None:
    with make_server(run, reviewer=Reviewer("Dr. A", blind=True)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert send(server, ACCEPT).status == 200
        answer = send(server, {"label": 41, "decision": "retype", "type": "stroma"})
        shown = json.loads(ask(server, "/slides.json", Cookie=cookie(server)).content)
        server.shutdown()
    assert [one["decision"] for one in json.loads(answer.content)] == ["accept", "retype"]
    assert shown[0]["label"] is None
    table = read_reviews(run, "plain")
    assert table["blind"].all() and set(table["reviewer"]) == {"Dr. A"}
    (run.slide_folder("plain") / "reviews.parquet").unlink()
