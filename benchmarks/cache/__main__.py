"""What does a hit cost, by layer, and how many questions does each layer keep from the instances?

    python -m benchmarks.cache [--calls 2000] [--replay 6000] [--seed 1]

Cost       CPU of the worker and of Redis for a call, scripts that Redis runs for it, and what its caller waits; one
           caller, then 16. The instance answers at once: a miss costs what the gateway and Redis do for it.
Replay     the questions of `traffic`, by Zipf's law, from four API keys: by layer how many were answered, with every
           layer on, then without one of them; how many curated answers went to a question that does not ask for them;
           and the parts that the cache, the small and the full tier answered, beside the plan's 60/30/10.

The replay's parts are an assumption (`traffic` has them): half of the questions are an FAQ's. What is measured is what
the layers make of such traffic. Other people's questions will hit less or more; `ollamactl cache stats` counts theirs.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.cache.rig import SMALL, Caller, Rig, Told, each_of, rigged
from benchmarks.cache.traffic import Asked, Topic, replay, topics, write_faq
from benchmarks.gateway.machine import described
from orchestrator.app.curated import faq_from
from orchestrator.core.faq import Faq

NEAR_BYTES = 16 * 2**20  # of the rows that say so; without, Redis is asked for each hit
_NUMBERS = itertools.count(1)
Body = dict[str, Any]


def chat(text: str, model: str = "auto", **more: Any) -> Body:
    return {"model": model, "messages": [{"role": "user", "content": text}], "stream": False, **more}


def kinds(known: Sequence[Topic], faq: Faq) -> dict[str, tuple[str, Callable[[], Body]]]:
    """What is asked, and what `X-Cache` should say of it."""
    today = datetime.now(UTC).date()
    asked = (text for each in known for text in each.same)
    paraphrase = next(text for text in asked if (found := faq.find(text, today)) and found.how == "paraphrase")
    return {
        "FAQ, word for word": ("faq words", lambda: chat(known[0].question)),
        "FAQ, paraphrase": ("faq paraphrase", lambda: chat(paraphrase)),
        "exact, a route": ("hit", lambda: chat("the same each time")),
        "exact, a model": ("hit", lambda: chat("the same each time", SMALL, options={"temperature": 0})),
        "miss, a route": ("miss", lambda: chat(f"another each time: {next(_NUMBERS)}")),
        "miss, a model": ("miss", lambda: chat(f"another: {next(_NUMBERS)}", SMALL, options={"temperature": 0})),
        "not cached": ("bypass", lambda: chat(f"another each time: {next(_NUMBERS)}", SMALL)),
    }


async def cost(rig: Rig, calls: int, callers: int, wanted: str, body: Callable[[], Body]) -> list[str]:
    """µs of CPU of worker and Redis, scripts, and the caller's wait, a call."""
    waits: list[float] = []

    async def ask(caller: Caller, _: int) -> None:
        told = await caller.ask(body())
        if told.cache not in (wanted, "joined"):  # of 16 who ask the same at once, most share one look-up
            raise RuntimeError(f"{told.cache!r} instead of {wanted!r}")
        waits.append(told.took_s)

    warm = await Caller.to(rig.port)
    for _ in range(3):  # kept, as far as it is kept
        await warm.ask(body())
        await asyncio.sleep(0.02)
    warm.close()
    before, scripts = rig.cpu_s(), await rig.scripts_run()
    await each_of(rig, callers, list(range(calls)), ask)
    after, run = rig.cpu_s(), await rig.scripts_run() - scripts
    worker, redis = ((later - sooner) / calls * 1e6 for later, sooner in zip(after, before, strict=True))
    return [f"{worker:.0f}", f"{redis:.0f}", f"{run / calls:.2f}", f"{statistics.median(waits) * 1e6:.0f}"]


async def costs(calls: int, known: Sequence[Topic], sealed: bool) -> None:
    print(f"\n**Cost of a call{', answers sealed' if sealed else ''}**\n")
    print("| what | CPU µs worker | CPU µs Redis | scripts | p50 µs | CPU µs worker, 16 callers | Redis | scripts |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="cache-") as folder:
        faq = Path(folder) / "faq.jsonl"
        write_faq(faq, known)
        asked = kinds(known, faq_from([faq]))
        settings = {"faq": [str(faq)], **({"encryption_key": "0123456789abcdef"} if sealed else {})}
        for near_bytes in (0, NEAR_BYTES):
            place = Path(folder) / str(near_bytes)
            place.mkdir()
            async with rigged(place, near_bytes=near_bytes, **settings) as rig:
                for what, (wanted, body) in asked.items():
                    if (sealed and wanted not in ("hit", "miss")) or (near_bytes and wanted != "hit"):
                        continue
                    alone = await cost(rig, calls, 1, wanted, body)
                    many = await cost(rig, calls, 16, wanted, body)
                    name = f"{what}, near" if near_bytes else what
                    print(f"| {name} | {' | '.join((*alone, *many[:3]))} |", flush=True)


LAYERS: dict[str, dict[str, Any]] = {
    "all on": {},
    "without paraphrases": {"faq_paraphrases": False},
    "without the FAQ": {"faq": []},
    "without exact": {"route": "off"},
    "one scope for all keys": {"shared": True},
    "all off": {"enabled": False},
}


async def replayed(asked: Sequence[Asked], known: Sequence[Topic], changes: dict[str, Any]) -> list[tuple[Asked, Told]]:
    seen: list[tuple[Asked, Told]] = []

    async def ask(caller: Caller, each: Asked) -> None:
        seen.append((each, await caller.ask(chat(each.text), each.tenant)))

    with tempfile.TemporaryDirectory(prefix="cache-") as folder:
        faq = Path(folder) / "faq.jsonl"
        write_faq(faq, known)
        async with rigged(Path(folder), **{"faq": [str(faq)], **changes}) as rig:
            await each_of(rig, 8, list(asked), ask)
    return seen


async def replays(asked: Sequence[Asked], known: Sequence[Topic]) -> None:
    print(f"\n**Replay of {len(asked)} questions on {len(known)} topics, % of them**\n")
    print("| layers | FAQ, words | FAQ, paraphrase | exact | joined | not from the cache | wrong | cache/small/full |")
    print("|---|---|---|---|---|---|---|---|")
    for name, changes in LAYERS.items():
        seen = await replayed(asked, known, dict(changes))
        failed = sum(told.status != 200 for _, told in seen)
        if failed:
            raise RuntimeError(f"{failed} calls failed")
        print(f"| {name} | {' | '.join(_row(seen))} |", flush=True)


def _row(seen: Sequence[tuple[Asked, Told]]) -> list[str]:
    words = Counter(told.cache for _, told in seen)
    answered = [words[each] for each in ("faq words", "faq paraphrase", "hit", "joined")]
    rest = len(seen) - sum(answered)
    tiers = Counter("cache" if told.cache.startswith(("faq", "hit", "joined")) else told.tier for _, told in seen)
    mix = "/".join(f"{100 * tiers[each] / len(seen):.0f}" for each in ("cache", "small", "full"))
    wrong = Counter((asked.text, told.faq) for asked, told in seen if _is_wrong(asked, told))
    for (text, entry), times in wrong.items():
        print(f"wrong, {times} times: {text!r} was answered by {entry}", file=sys.stderr)
    return [*(f"{100 * each / len(seen):.1f}" for each in (*answered, rest)), str(wrong.total()), mix]


def _is_wrong(asked: Asked, told: Told) -> bool:
    """A curated answer to a question of another topic, or of none: line n of the file is topic n - 1."""
    return bool(told.faq) and int(told.faq.rpartition(":")[2]) - 1 not in asked.rightly


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--replay", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(described())
    known = topics()
    asyncio.run(costs(given.calls, known, sealed=False))
    asyncio.run(costs(given.calls, known, sealed=True))
    asyncio.run(replays(replay(known, given.replay, given.seed), known))


if __name__ == "__main__":
    main()
