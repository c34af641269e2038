"""What an address may be; none is stored or told with a secret in it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from morphomil.cohort import read_manifest
from morphomil.cohort.table import cohort_from_table, cohort_table
from morphomil.errors import InputError
from morphomil.places import Address, read_place, split_image_number, without_secrets
from morphomil.types import Cohort, ImageSource, Slide

SECRET = "hidden5ecret"


def test_an_address_is_read_as_a_path_is(tmp_path: Path) -> None:
    place = read_place("s3://bucket/a/b c.ome.tif#2", tmp_path)
    assert place == Address("s3://bucket/a/b c.ome.tif#2")
    assert (place.name, place.stem) == ("b c.ome.tif#2", "b c.ome")
    assert split_image_number(place) == (Address("s3://bucket/a/b c.ome.tif"), 2)
    assert read_place("a/b.tif", tmp_path) == tmp_path / "a" / "b.tif"
    source = ImageSource(place, Address("https://host/x.json"), 0.5)
    cohort = Cohort((Slide("s", "p", "1", (source,)),))
    assert cohort_from_table(cohort_table(cohort)) == cohort


REFUSED = {
    f"https://user:{SECRET}@host/x.svs": "has a user or a password",
    f"s3://KEY:{SECRET}@bucket/x.svs": "has a user or a password",
    f"s3://KEY:a/{SECRET}@bucket/x.svs": "has a user or a password",
    f"https://user:a/{SECRET}@host/x.svs": "is no usable address",
    f"https://host/x.svs?X-Amz-Signature={SECRET}": "has a query",
    f"https://host/x.svs?sv=1&sig={SECRET}#2": "has a query",
    "ftp://host/x.svs": "which is none of https://, http://, s3://, gs://",
    "S3://bucket/x.svs": "which is none of",
    "s3://bucket": "names no file",
    "s3://bucket/folder/": "names no file",
    "https:///x.svs": "names no file",
    "https://host/x.svs#region": "isn't followed by the number",
    "gs://bucket/x.MRXS": "is one of several files",
    "https://[::1/x.svs": "is no usable address",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cant_be_used_is_one_sentence_without_secrets(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=REFUSED[text]) as found:
        Address(text)
    assert SECRET not in str(found.value)
    assert "\n" not in str(found.value)
    manifest = tmp_path / "cohort.csv"
    row = {"slide": text, "patient": "p", "label": "1", "annotation": text}
    pd.DataFrame([row, row | {"patient": "q"}]).to_csv(manifest, index=False)
    with pytest.raises(InputError, match=REFUSED[text]) as found:
        read_manifest(manifest)
    assert SECRET not in str(found.value)
    assert f"{manifest}: line 2: slide " in str(found.value)


def test_texts_are_told_without_secrets() -> None:
    told = without_secrets(
        f"Cannot connect to https://u:{SECRET}@host/a%20b.svs?sig={SECRET}&x=1, "
        f"url='http://host:80/c.svs?token={SECRET}' at 3 o'clock?"
    )
    assert told == (
        "Cannot connect to https://host/a%20b.svs, url='http://host:80/c.svs' at 3 o'clock?"
    )
