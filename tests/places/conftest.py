"""Servers of files elsewhere, and a cache of the test's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from stores import KEYS, Web, s3_server, web_server


@pytest.fixture(scope="session")
def _s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as url:
        yield url


@pytest.fixture
def s3(_s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket of a real S3 server, as the environment says."""
    for name, value in (KEYS | {"AWS_ENDPOINT_URL": _s3}).items():
        monkeypatch.setenv(name, value)
    bucket = Bucket()
    yield bucket
    bucket.empty()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    """A web server on an empty folder."""
    (tmp_path / "web").mkdir()
    with web_server(tmp_path / "web") as server:
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for copies."""
    monkeypatch.setenv("MORPHOMIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("morphomil.places.remote.PAUSE_S", 0.01)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    return tmp_path / "cache"


class Bucket:
    """`s3://slides`."""

    def __init__(self) -> None:
        import s3fs

        self._files = s3fs.S3FileSystem(use_listings_cache=False)
        with contextlib.suppress(FileExistsError):
            self._files.mkdir("slides")

    def put(self, path: Path) -> str:
        """Put a file into the bucket; its address."""
        self._files.pipe_file(f"slides/{path.name}", path.read_bytes())
        return f"s3://slides/{path.name}"

    def empty(self) -> None:
        """Remove all files."""
        if names := self._files.find("slides"):
            self._files.rm(names)
