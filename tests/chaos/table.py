"""docs/faults.md, written from what trials measured: `python -m tests.chaos.table`.

`results.json` has the last measured result of every fault; `python -m tests.chaos` (`make chaos`) measures anew.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.chaos.faults import Fault, all_faults
from tests.chaos.redis_servers import DOWN_AFTER_MS, FAILOVER_TIMEOUT_MS
from tests.chaos.trial import Result

RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"

LINE = 120

HEAD = """# What happens when something breaks

This page is written by the chaos suite (`make chaos`), from what it measured: each fault was injected into a cluster of
real processes under load, and what every client received was checked to the last byte. Two gateways of two workers each
and a controller pair on one Redis with a replica and three Sentinels; six simulated instances; fourteen clients that
ask one call after another, streamed and whole, in two dialects, cached and not, by name and by a route that escalates.
New instances are rolled out by one machine that has played cards of its own.

Of every run is checked, whatever the fault: each call ended exactly once; each stream was the beginning of the right
answer, without a gap and with nothing twice, and was whole or said that it is not; no instance worked on more calls
than it has slots, by its own count; no ticket starved; nothing was answered twice; leases went back to zero; and what
is counted as served is what instances served.

**Calls** are those under way between the fault and the moment when all was well again. What was *left* was left by its
client, as some always are. **Slowest** is the slowest answer among them, beside the slowest before the fault.
**Well again** is how long it took until every process, Redis with its replica and every instance were as before: from
the fault on where the cluster comes back by itself, otherwise from the moment on when somebody had seen to what was
broken, as by starting an instance that is not the cluster's own.
"""

ENGINE = (
    "Beside the simulated instances there were two of a **real engine** ({engines}), with a pool of their own, in the "
    "runs of the rows that tell of its calls; where a row tells of none, none was there when it was measured. Few ask "
    "it, unless the fault is its own: it computes on the cores that all the others have. Its answers, at temperature 0 "
    "with a fixed seed, are held against what it answered before anything else began; its slots and the tokens in the "
    "books against its own counters. It is hurt as a process and its connections can be from outside; wrong answers "
    "are played."
)
NO_ENGINE = "No real engine was there when this was measured: all instances were simulated."

FAIL_OVERS = f"""
## Fail-overs

From the moment at which the one is gone to that at which another one does its work. Calls go on meanwhile: gateways
serve by their shares of the slots, and by what was published last. Sentinels wait {DOWN_AFTER_MS / 1000:g} s before
they call a master down (`down-after-milliseconds {DOWN_AFTER_MS}`, `failover-timeout {FAILOVER_TIMEOUT_MS}`); what they
need then is theirs, what is between their word and the last step is ours. A master that was told to fail over is still
there while another one is made, and slots that it gave are waited for: two seconds from the moment at which it is lost.
"""

KNOWN = """
## Known, and not mended

- A frame with other letters in it, but its quotation marks and brackets in their order, reaches its client as it was
  sent.
- Where a gateway that lost Redis does not come back to it within 2.5 s of the others, though it is alive, they wait for
  it no longer: an instance may then have a call more than it has slots until it is back.
- A real engine's counters name no call: that none was answered by two of them is seen by clients and books alone. Where
  one is killed its count goes with it, and what is counted as served is held against what was asked for.
"""

TOLD = {
    "whole": "whole",
    "left": "left",
    "error_frame": "error frame",
    "refused": "refused (503)",
    "cut": "cut off",
    "garbled": "garbled",
    "broken": "broken",
}


def page(results: Mapping[str, Mapping[str, Any]], faults: Sequence[Fault]) -> str:
    """The page, of every fault that was measured, in the order of the faults."""
    rows = [_row(each, results[each.name]) for each in faults if each.name in results]
    lines = [
        HEAD + _engine(results[each.name] for each in faults if each.name in results),
        "| what breaks | what a client sees | calls | slowest | well again |",
        "|---|---|---|---|---|",
        *rows,
    ]
    return "\n".join(lines) + "\n" + _fail_overs(results, faults) + _broken_promises(results)


def _engine(results: Iterable[Mapping[str, Any]]) -> str:
    """Whether a real engine was there, and which."""
    engines = sorted({each.get("engine", "") for each in results} - {""})
    told = ENGINE.format(engines=", ".join(engines)) if engines else NO_ENGINE
    return f"\n{textwrap.fill(told, LINE)}\n"


def _row(fault: Fault, told: Mapping[str, Any]) -> str:
    slowest = f"{told['slowest_s']:.1f} s (before: {told['usual_s']:.1f} s)"
    by = "by itself" if fault.heals_itself else "once seen to"
    return f"| {fault.name} | {fault.promise} | {_told_of_ends(told)} | {slowest} | {told['back_s']:.1f} s, {by} |"


def _told_of_ends(told: Mapping[str, Any]) -> str:
    own = _told(told.get("engine_ends", {}))
    return _told(told["ends"]) + (f" (of them the real engine's: {own})" if own else "")


def _told(ends: Mapping[str, int]) -> str:
    return ", ".join(f"{ends[name]} {text}" for name, text in TOLD.items() if ends.get(name))


def _fail_overs(results: Mapping[str, Mapping[str, Any]], faults: Iterable[Fault]) -> str:
    """How long each step took of what another one takes over."""
    found = [(each, results[each.name]) for each in faults if results.get(each.name, {}).get("steps")]
    if not found:
        return ""
    rows = [
        f"| {fault.name} | {'; '.join(f'{step}: {after_s:.1f} s' for step, after_s in told['steps'].items())} "
        f"| {_told_of_ends(told)} |"
        for fault, told in found
    ]
    return "\n".join(
        [FAIL_OVERS, "| what fails over | seconds after it | calls meanwhile |", "|---|---|---|", *rows, ""]
    )


def _broken_promises(results: Mapping[str, Mapping[str, Any]]) -> str:
    """What was found and is not mended: nothing is left out of the page."""
    found = [(name, each) for name, told in sorted(results.items()) for each in told["breaches"]]
    if not found:
        return "\nIn these runs no promise was broken.\n" + KNOWN
    return "\n## Not kept\n\n" + "".join(f"- {name}: {each}\n" for name, each in found) + KNOWN


def load() -> dict[str, dict[str, Any]]:
    """The results kept, by fault."""
    return {each["fault"]: each for each in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}


def keep(results: Iterable[Result]) -> None:
    """Put results in the place of older ones of the same faults; those of faults that are no more go."""
    known = [each.name for each in all_faults()]
    kept = load() | {each.fault: asdict(each) for each in results}
    told = [kept[name] for name in known if name in kept]
    RESULTS.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def write() -> None:
    PAGE.write_text(page(load(), all_faults()))


if __name__ == "__main__":
    write()
