"""Servers that refuse, fail, cut, lead elsewhere or hold other files: one sentence each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from morphomil.cohort import read_manifest
from morphomil.errors import InputError, MorphomilError, RefusedError, SlideError
from morphomil.places import Address, fingerprint, identity, local_copy
from morphomil.places.remote import fetch, look, look_at_all

if TYPE_CHECKING:
    from conftest import Bucket
    from stores import Web

BYTES = 2_500_000
"""More than the first and last MiB."""


def put(folder: Path, name: str = "a.svs", seed: int = 0) -> Path:
    path = folder / name
    path.write_bytes(bytes([seed]) * 9 + os.urandom(BYTES))
    return path


def said(text: str) -> str:
    with pytest.raises(MorphomilError) as found, local_copy(Address(text)):
        pass
    assert "\n" not in str(found.value)
    return str(found.value)


def test_a_file_on_s3_is_known_as_on_the_disk(s3: Bucket, tmp_path: Path) -> None:
    path = put(tmp_path, "a b#c.svs".replace("#c", ""))
    address = Address(s3.put(path))
    assert look(address).size == path.stat().st_size
    assert fingerprint(address) == fingerprint(path)
    assert fingerprint(Address(f"{address}#2")) == f"{fingerprint(path)}#2"
    before = identity(address)
    with local_copy(Address(f"{address}#2")) as copy:
        assert copy.read_bytes() == path.read_bytes()
    raw = bytearray(path.read_bytes())
    raw[BYTES // 2] ^= 1  # neither in the first nor in the last MiB
    path.write_bytes(raw)
    s3.put(path)
    assert fingerprint(address) == fingerprint(path)
    assert identity(address) != before
    assert said("s3://slides/none.svs") == "s3://slides/none.svs doesn't exist"
    assert said("s3://no-bucket/a.svs") == "s3://no-bucket/a.svs doesn't exist"


def test_a_server_of_whole_files_will_do(web: Web) -> None:
    path = put(web.folder, "a b.svs")
    address = Address(f"{web.url}/a%20b.svs")
    known = identity(address)
    with local_copy(address) as copy:
        assert copy.read_bytes() == path.read_bytes()
        assert copy.suffix == ".svs"
    os.utime(path, (0, path.stat().st_mtime + 5))
    assert identity(address) != known
    assert web.sent["/a%20b.svs"] == 1


def test_a_cut_answer_is_asked_for_again(web: Web) -> None:
    path = put(web.folder)
    web.cuts["a.svs"] = 2
    with local_copy(Address(f"{web.url}/a.svs")) as copy:
        assert copy.read_bytes() == path.read_bytes()
    assert web.cuts["a.svs"] == 0
    put(web.folder, "b.svs")
    web.cuts["b.svs"] = 99
    assert said(f"{web.url}/b.svs").startswith(f"{web.url}/b.svs can't be reached: ")


def test_whatever_a_server_says_is_one_sentence(web: Web) -> None:
    put(web.folder)
    url = web.url
    assert said(f"{url}/none.svs") == f"{url}/none.svs doesn't exist"
    web.refused |= {"403.svs": 403, "401.svs": 401, "500.svs": 500}
    assert f"{url}/403.svs: access is denied (status 403); give credentials" in said(
        f"{url}/403.svs"
    )
    assert "access is denied (status 401)" in said(f"{url}/401.svs")
    assert said(f"{url}/500.svs") == f"{url}/500.svs can't be reached: status 500; try again later"
    gone = "http://127.0.0.1:1/a.svs"
    assert said(gone).startswith(f"{gone} can't be reached: ")
    secret = f"{url.replace('//', '//u:hidden@')}/403.svs?X-Amz-Signature=hidden"
    for name, to in (("/r.svs", secret), ("/q.svs", "http://u:hidden@127.0.0.1:1/?sig=hidden")):
        web.redirects[name] = to
        assert "hidden" not in said(url + name)


def test_servers_that_are_gone_are_not_asked_for_ever() -> None:
    found = look_at_all(Address(f"http://127.0.0.1:1/{n}.svs") for n in range(60))
    texts = [str(error) for error in found.values()]
    assert len(texts) == 60
    assert sum("isn't asked for" in text for text in texts) > 30


def test_credentials_come_from_the_settings_of_the_libraries(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(web.folder)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hidden\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    from fsspec import filesystem

    filesystem("http").clear_instance_cache()
    look(Address(f"{web.url}/a.svs"))
    with local_copy(Address(f"{web.url}/a.svs")):
        assert web.headers[-1]["Authorization"].startswith("Basic ")
    filesystem("http").clear_instance_cache()


def test_a_full_disk_is_said(web: Web) -> None:
    put(web.folder)
    address = Address(f"{web.url}/a.svs")
    with pytest.raises(SlideError, match=r"a.svs can't be copied: .*No space left"):
        fetch(address, Path("/dev/full"), look(address), stopped=lambda: False)


def test_a_missing_package_is_said_before_any_work(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['s3fs'] = None\n"
        "from pathlib import Path; from morphomil.cohort import read_manifest\n"
        "read_manifest(Path(sys.argv[1]))"
    )
    manifest = tmp_path / "cohort.csv"
    manifest.write_text("slide,patient,label\ns3://bucket/a.svs,p,1\n")
    done = subprocess.run(
        [sys.executable, "-c", code, str(manifest)], capture_output=True, text=True, check=False
    )
    assert (
        "line 2: s3://bucket/a.svs: s3:// needs the package s3fs; install it with: pip install "
        "'morphomil[remote]'"
    ) in done.stderr


def test_a_manifest_is_checked_before_any_work(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        put(web.folder, f"{number}.svs", seed=number)
    (web.folder / "copy.svs").write_bytes((web.folder / "0.svs").read_bytes())
    web.refused["2.svs"] = 403
    url, manifest = web.url, tmp_path / "cohort.csv"

    def read(*slides: str) -> list[str]:
        rows = [f"{url}/{name},p{number},1" for number, name in enumerate(slides)]
        manifest.write_text("\n".join(["slide,patient,label", *rows]))
        try:
            slides = read_manifest(manifest).cohort.slides
            return [str(image.path) for slide in slides for image in slide.images]
        except InputError as error:
            return error.problems

    assert read("0.svs", "1.svs") == [f"{url}/0.svs", f"{url}/1.svs"]
    problems = read("0.svs", "none.svs", "2.svs", "0.svs")
    begins = (
        "lines 2, 5 name the same file 0.svs",
        "slide 0 (lines 2, 5) has more than one patient",
        f"line 3: {url}/none.svs doesn't exist",
        f"line 4: {url}/2.svs: access is denied",
    )
    for problem, begin in zip(problems, begins, strict=True):
        assert problem.startswith(f"{manifest}: {begin}")
    with pytest.raises(RefusedError, match="lines 2, 3 are copies"):
        os.utime(web.folder / "copy.svs", (web.folder / "0.svs").stat()[7:9])
        read("0.svs", "copy.svs")
    monkeypatch.setenv("MORPHOMIL_CACHE_GB", "0.002")
    assert read("0.svs") == [
        f"{manifest}: line 2: {url}/0.svs has 0.0025 GB, more than all copies may have together "
        "(0.002 GB); let MORPHOMIL_CACHE_GB say more"
    ]
    for value in ("none", "-1", "nan", "0"):
        monkeypatch.setenv("MORPHOMIL_CACHE_GB", value)
        assert read("0.svs") == [f"MORPHOMIL_CACHE_GB is a number of GB above 0; got '{value}'"]
    monkeypatch.delenv("MORPHOMIL_CACHE_GB")
    monkeypatch.setenv("MORPHOMIL_CACHE", str(manifest / "below"))
    assert "name a folder on a disk of this machine with MORPHOMIL_CACHE" in read("0.svs")[0]
