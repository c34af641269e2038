"""Files elsewhere for tests: an S3 server (moto's) and a web server, both real."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


S3 = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """The address of an S3 server of its own process; any keys are good."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", S3],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.communicate()


class Web(ThreadingHTTPServer):
    """A web server on a folder, which can be told to misbehave."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Answers, directory=str(folder)))
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.refused: dict[str, int] = {}
        """Status by the end of a path."""
        self.cuts: Counter[str] = Counter()
        """So many answers with a file are cut, by the end of its path."""
        self.sent: Counter[str] = Counter()
        """How often a whole file was asked for, by its path."""
        self.redirects: dict[str, str] = {}
        """Where a path leads to."""
        self.headers: list[dict[str, str]] = []

    def handle_error(self, *_: object) -> None:
        """Whoever asked may go before the end."""


class _Answers(SimpleHTTPRequestHandler):
    server: Web

    def do_HEAD(self) -> None:
        if not self._misbehave():
            super().do_HEAD()

    def do_GET(self) -> None:
        self.server.headers.append(dict(self.headers))
        if self._misbehave():
            return
        if "Range" not in self.headers:
            self.server.sent[self.path] += 1
        path = Path(self.translate_path(self.path))
        for end, left in self.server.cuts.items():
            if self.path.endswith(end) and left and path.is_file():
                self.server.cuts[end] -= 1
                content = path.read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
                return
        super().do_GET()

    def _misbehave(self) -> bool:
        for end, status in self.server.refused.items():
            if self.path.partition("?")[0].endswith(end):
                self.send_error(status)
                return True
        if self.path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[self.path])
            self.end_headers()
            return True
        return False

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def web_server(folder: Path) -> Iterator[Web]:
    """A web server that gives whole files only, as the standard library's."""
    with Web(folder) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
