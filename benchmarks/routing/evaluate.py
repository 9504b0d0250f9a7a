"""How well the difficulty of a question tells which model it needs.

Question   does `orchestrator.core.difficulty` send those questions to the strong model that the weak one gets wrong?
Data       recorded outcomes of a weak and a strong model on MMLU, GSM8K and MT-Bench (RouteLLM's data files),
           ../shared/routing-eval/dev.jsonl.gz beside the repository, or --data
Command    python benchmarks/routing/evaluate.py [--data FILE]
Beware     the weights that ship were trained on this very half (MMLU and GSM8K): what this prints of it is how well
           they remember. For questions they never saw see `train.py --only-check`, or give --data another half.

Questions are sorted by score; the hardest share goes to the strong model, the rest to the weak one. APGR is the part of
the gap between the two that is won back, averaged over all shares: 0.5 is a coin. CPT50 and CPT80 are the shares of
strong calls (%) that win back 50 and 80 % of it: less is better. The curve is read at 11 points; equal scores count as
in any order. `level` is what routing uses, `points` the same before rounding, `length` the prompt's letters alone.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from orchestrator.core.dialects.parse import Turn  # noqa: E402
from orchestrator.core.difficulty import score  # noqa: E402
from orchestrator.core.evaluation.tradeoff import Item, measure  # noqa: E402

DATA = ROOT.parent / "shared" / "routing-eval" / "dev.jsonl.gz"
BENCHMARKS = ("mmlu", "gsm8k", "mt-bench")


def load(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def measures(items: list[Item]) -> dict[str, float]:
    """As `core.evaluation.tradeoff` has them; the strong model of these data is the better one."""
    found = measure(items)
    assert found is not None
    return {"APGR": found.apgr, "CPT50": found.cpt50, "CPT80": found.cpt80}


def report(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By benchmark: the measures of level, points and length, and the microseconds of one judgement."""
    told: dict[str, dict[str, Any]] = {}
    for benchmark in BENCHMARKS:
        of_it = [row for row in rows if row["benchmark"] == benchmark]
        began_s = time.perf_counter()
        judged = [score((Turn("user", row["prompt"]),)) for row in of_it]
        spent_s = time.perf_counter() - began_s
        scores = {
            "level": [float(each.level) for each in judged],
            "points": [each.points for each in judged],
            "length": [float(len(row["prompt"])) for row in of_it],
        }
        told[benchmark] = {
            name: measures([(value, row["weak"], row["strong"]) for value, row in zip(values, of_it, strict=True)])
            for name, values in scores.items()
        }
        told[benchmark] |= {"questions": len(of_it), "us_each": 1e6 * spent_s / len(of_it)}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    path: Path = parser.parse_args().data
    if not path.exists():
        print(f"skipped: {path} is not present")
        return
    print(f"{'benchmark':10} {'score':7} {'APGR':>6} {'CPT50':>6} {'CPT80':>6}")
    for benchmark, told in report(load(path)).items():
        for name in ("level", "points", "length"):
            found = told[name]
            print(f"{benchmark:10} {name:7} {found['APGR']:6.3f} {found['CPT50']:6.1f} {found['CPT80']:6.1f}")
        print(f"{benchmark:10} {told['questions']} questions, {told['us_each']:.0f} µs each")


if __name__ == "__main__":
    main()
