"""How soon a shift of a rate is noticed, how often in vain, and what nobody could do better.

Question   within how many calls is a shift of five points noticed, with fewer than one false alarm in 100,000 calls?
Data       calls that count by chance, from a seeded generator; no model is asked
Command    python benchmarks/routing/drift.py [--shift 0.05] [--runs 400]

`known`: the rate is given; `learnt`: from 30,000 calls before the shift. `bound`: for a known rate the chart is the one
that takes the fewest calls in the mean of all that raise so few false alarms (Moustakides 1986), so its own mean is the
bound; the column has the formula of `core.drift.expected_calls`, that the status tells.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from orchestrator.core.drift import Aims, Drift, expected_calls, seen  # noqa: E402

RATES = (0.02, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5)
LEARNT_FROM, QUIET, WITHIN = 30_000, 1_000_000, 500


def counted(rate: float, calls: int, rng: Random) -> int:
    return sum(rng.random() < rate for _ in range(calls))


def noticed(rate: float, to: float, aims: Aims, runs: int, rng: Random) -> list[int]:
    """Calls from the shift to the alarm, in each run."""
    told = []
    for run in range(runs):
        if run % 20 == 0:
            before = Drift()
            for _ in range(LEARNT_FROM // 100 if aims.rate is None else 0):
                before = seen(before, 100, counted(rate, 100, rng), aims)
            before = replace(before, rise=0.0, fall=0.0, alarm="")
        drift = before
        for count in itertools.count(1):
            drift = seen(drift, 10, counted(to, 10, rng), aims)
            if drift.alarm:
                told.append(10 * count)
                break
    return told


def false_alarms(rate: float, aims: Aims, rng: Random) -> float:
    """In 100,000 steady calls; what is learnt is learnt anew each 100,000."""
    alarms = 0
    for _ in range(QUIET // 100_000):
        drift, was = Drift(), ""
        for _ in range(100_000 // 50):
            drift = seen(drift, 50, counted(rate, 50, rng), aims)
            alarms += bool(drift.alarm) and not was
            was = drift.alarm
    return 100_000 * alarms / QUIET


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shift", type=float, default=0.05)
    parser.add_argument("--runs", type=int, default=400)
    asked = parser.parse_args()
    print(f"{'rate':>5} {'':6} {'shift':>6} {'bound':>6} {'mean':>6} {f'<={WITHIN}':>6} {'false, of 100,000':>24}")
    for rate, is_known in itertools.product(RATES, (True, False)):
        aims = Aims(shift=asked.shift, rate=rate if is_known else None)
        false = false_alarms(rate, aims, Random(f"{rate}"))
        for sign, bound in zip((1, -1), expected_calls(rate, aims), strict=True):
            to = rate + sign * asked.shift
            if not 0 <= to <= 1:
                continue
            told = noticed(rate, to, aims, asked.runs, Random(f"{rate} {sign}"))
            soon = sum(each <= WITHIN for each in told) / len(told)
            known = "known" if is_known else "learnt"
            line = f"{rate:5.2f} {known:6} {sign * asked.shift:+6.2f} {bound:6.0f} {fmean(told):6.0f} {soon:6.0%}"
            print(f"{line} {false:24.2f}")


if __name__ == "__main__":
    main()
