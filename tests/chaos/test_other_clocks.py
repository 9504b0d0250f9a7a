"""A clock of one's own is that of every program that is started from there, also where little of the environment is."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.chaos.clock import Clock, needs_compiler
from tests.chaos.parts import ROOT

HOUR_S = 3600
_STARTS_ANOTHER = """import os, subprocess, sys, time
print(time.time(), flush=True)
few = {name: os.environ[name] for name in ("PATH", "PYTHONPATH")}
subprocess.run([sys.executable, "-P", "-c", "import time; print(time.time())"], env=few, check=True)
"""


def test_a_program_and_what_it_starts_have_the_same_clock(tmp_path: Path) -> None:
    needs_compiler()
    clock = Clock(tmp_path / "clock")
    clock.set_ahead(-HOUR_S)
    argv = clock.before_all([sys.executable, "-c", _STARTS_ANOTHER], ROOT)
    told = subprocess.run(argv, check=True, capture_output=True, text=True)
    behind_s = [time.time() - float(each) for each in told.stdout.split()]
    assert [round(each / HOUR_S) for each in behind_s] == [1, 1]
