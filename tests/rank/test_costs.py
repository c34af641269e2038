"""What is foretold of a ranking: how it grows, and its memory beside the real one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from morphomil.pace import machine_pace
from morphomil.rank.costs import foretell_ranking
from morphomil.types import RankSettings

QUICK, FULL = RankSettings(seed=0, quick=True), RankSettings(seed=0)
SCALE = Path(__file__).parents[2] / "benchmarks" / "scale.py"


def cost(slides, settings=QUICK, **options):
    return foretell_ranking(slides, settings, **({"pace": 1.0, "cores": 2} | options))


def test_time_grows_with_slides_permutations_and_a_slower_machine():
    seconds = [cost(n).seconds for n in (20, 200, 2000, 10_000)]
    assert seconds == sorted(seconds)
    assert seconds[-1] < 5 * 1.2 * seconds[-2]  # no faster than the slides
    assert cost(200, FULL).seconds > 2 * cost(200).seconds
    assert cost(200, pace=2.0).seconds == pytest.approx(2 * cost(200).seconds)
    assert cost(200, FULL, cores=8).seconds < cost(200, FULL, cores=2).seconds
    assert cost(200, stored=False).seconds < cost(200).seconds
    assert cost(500, patients=100).seconds < cost(500).seconds


def test_memory_hardly_grows_beyond_the_patients_of_a_step():
    few, some, many = (cost(n).memory_bytes / 2**30 for n in (20, 2500, 10_000))
    assert few < 1 < some < many < 1.6
    assert cost(10_000, FULL).memory_bytes < 2**31


def test_this_machine_is_compared_in_a_moment():
    assert 0.02 < machine_pace() < 50


def test_memory_is_as_foretold():
    """Of a process of its own; time is compared by the benchmark, on a machine that is idle."""
    words = [sys.executable, str(SCALE), "--slides", "60", "--patches", "20", "--here"]
    made = subprocess.run(words, check=True, capture_output=True, text=True)
    row = json.loads(made.stdout.splitlines()[-1])
    assert 1 / 1.5 < row["gib_foretold"] < 1.5
    assert row["rest_foretold"] > 0
