"""Bytes at random, and bytes that once did harm, at all that reads bytes: HTTP, bodies, and what instances say."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.security.fuzzing import CORPORA, TARGETS, seeds

ROOT = Path(__file__).resolve().parents[2]
# So many bytes to try, unless that takes longer. `python -m tests.security.fuzz` goes on for as long as it is let.
RUNS, SECONDS = 3000, 4
EXAMPLES = 60


@pytest.mark.parametrize("target", TARGETS)
def test_what_did_harm_once_and_what_is_usual_does_none(target):
    for data in seeds(target):
        TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_no_bytes_do_harm_that_are_like_usual_ones(target):
    usual = st.sampled_from(list(seeds(target)))
    cut = st.tuples(usual, st.integers(0, 400), st.binary(max_size=12), st.integers(0, 30), usual)

    @settings(max_examples=EXAMPLES, derandomize=True, database=None)
    @given(st.one_of(cut, st.tuples(usual, st.just(400), st.binary(max_size=40), st.just(0), usual)))
    def throw(parts: tuple[bytes, int, bytes, int, bytes]) -> None:
        head, at, new, left_out, tail = parts
        TARGETS[target](head[:at] + new + head[at + left_out :] + tail[at:])

    throw()


@pytest.mark.timeout(600)  # atheris rewrites each module as it is imported
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has no build for this machine")
@pytest.mark.parametrize("target", TARGETS)
def test_no_bytes_do_harm_that_reach_what_none_reached_before(target, tmp_path):
    (tmp_path / "seeds").mkdir()
    (tmp_path / "found").mkdir()
    for index, data in enumerate(seeds(target)):
        (tmp_path / "seeds" / f"{index:03}").write_bytes(data)
    command = [sys.executable, "-m", "tests.security.fuzz", target, str(tmp_path / "found"), str(tmp_path / "seeds")]
    command += [
        f"-runs={RUNS}",
        f"-max_total_time={SECONDS}",
        "-seed=8",
        "-max_len=4096",
        f"-artifact_prefix={tmp_path}/",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-3000:]


def test_each_target_keeps_what_it_found():
    assert {path.name for path in CORPORA.iterdir()} == set(TARGETS)
