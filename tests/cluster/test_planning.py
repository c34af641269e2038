"""Which slides make a job: parts of a plan, and shards that follow it."""

from __future__ import annotations

from pathlib import Path

import pytest

from morphomil.cli.options import parse_shard
from morphomil.errors import InputError
from morphomil.pipeline import Shard
from morphomil.pipeline.planning import part_minutes, plan_parts, read_plan, write_plan
from morphomil.types import Cohort, ImageSource, Slide

SIZES = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89)


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Slides whose files have so many thousand bytes, one of them with a name like a formula."""
    slides = []
    for size in SIZES:
        path = tmp_path / f"{size}.tif"
        path.write_bytes(b"0" * 1000 * size)
        name = f"=s{size}" if size == 8 else f"s{size}"
        slides.append(Slide(name, f"p{size}", "0", (ImageSource(path),)))
    return Cohort(tuple(slides))


def test_time_is_shared_out_by_size_and_parts_are_even(cohort: Cohort) -> None:
    plan = plan_parts(cohort, seconds=231 * 60, minutes=77)
    assert plan["seconds"].to_numpy() == pytest.approx([60 * size for size in SIZES], rel=0.03)
    assert sorted(plan["part"].unique()) == [1, 2, 3]
    loads = plan.groupby("part")["seconds"].sum() / 60
    assert loads.max() == pytest.approx(89, rel=0.01)  # the largest slide is a part of its own
    assert loads.min() == pytest.approx(71, abs=2)


def test_no_part_is_empty(cohort: Cohort) -> None:
    assert plan_parts(cohort, seconds=10**6, minutes=1)["part"].nunique() == len(SIZES)
    assert plan_parts(cohort, seconds=1, minutes=20)["part"].tolist() == [1] * len(SIZES)


def test_shards_follow_a_stored_plan(cohort: Cohort, tmp_path: Path) -> None:
    path = tmp_path / "plan.csv"
    plan = plan_parts(cohort, seconds=231 * 60, minutes=77)
    write_plan(path, plan)
    assert read_plan(path) == dict(zip(plan["slide_id"], plan["part"], strict=True))
    assert sum(part_minutes(path).values()) == pytest.approx(231, rel=0.01)
    shards = [parse_shard(f"{part}/{path}") for part in (1, 2, 3)]
    held = [[s.slide_id for s in cohort.slides if shard.holds(s.slide_id)] for shard in shards]
    assert sorted(name for names in held for name in names) == sorted(plan["slide_id"])
    parts = [shard.part("segment") for shard in shards]
    assert not parts[0].meets(parts[1])
    assert parts[0].meets(parts[0])
    assert parts[0].meets(Shard(2, 3).part("segment"))  # by their ids: the same slides may be there
    assert Shard().part("segment").meets(parts[2])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is missing"),
        ("slide,part\na,1\n", "no plan"),
        ("slide_id,part,seconds\na,0,1\n", "no plan"),
        ("slide_id,part,seconds\na,one,1\n", "no plan"),
        ("slide_id,part,seconds\na,1.5,1\n", "no plan"),
        (f"slide_id,part,seconds\na,{'9' * 5000},1\n", "no plan"),
        ("slide_id,part,seconds\na,1,long\n", "no plan"),
        ("slide_id,part,seconds\na,1,1\na,2,1\n", "slide a to two parts"),
    ],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "plan.csv").write_text(content)
    with pytest.raises(InputError, match=said):
        parse_shard(f"1/{tmp_path / 'plan.csv'}")
    with pytest.raises(InputError, match="--shard is"):
        parse_shard("of three")


@pytest.mark.parametrize(
    "text", [f"{'9' * 5000}/2", f"1/{'9' * 5000}", "1/\u0663", "\u0661/3", "1/"]
)
def test_a_part_is_written_in_digits_that_count(text: str) -> None:
    with pytest.raises(InputError, match=r"--shard is i/n") as caught:
        parse_shard(text)
    assert len(str(caught.value)) < 200
