"""Every metric of the product, by name, and logging.

With several gateway workers each process writes its own files under the state folder's `metrics/`
(prometheus-client's multi-process mode), and whichever worker is scraped adds them all up.
"""

from __future__ import annotations

import logging
import os
import sys
from bisect import bisect_left
from collections import defaultdict
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

# From a cached answer's millisecond to a long answer of a loaded full tier.
_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

CALLS = Counter(
    "olm_calls_total", "Calls ended, by tier, where the answer came from and outcome.", ("tier", "cache", "outcome")
)
FAQ_ANSWERS = Counter(
    "olm_faq_answers_total", "Curated answers given, by how their question was found: words or paraphrase.", ("match",)
)
CACHE_HITS = Counter(
    "olm_cache_hits_total",
    "Answers given without an instance, by layer (faq, exact) and how: words, paraphrase; fresh, stale, spare.",
    ("layer", "how"),
)
CACHE_MISSES = Counter(
    "olm_cache_misses_total", "Calls that a layer of the answer cache did not answer, and why.", ("layer", "reason")
)
CACHE_NEAR = Counter(
    "olm_cache_near_total",
    "Calls whose answer was looked for in the worker's own memory first: a hit there asks nobody, a miss asks Redis.",
    ("outcome",),
)
CACHE_JOINS = Counter(
    "olm_cache_joins_total",
    "Calls answered by the generation of an identical one under way, on the same worker (here) or another (elsewhere).",
    ("where",),
)
CACHE_FOLLOWERS = Gauge(
    "olm_cache_followers", "Calls that wait for an answer made for an identical one.", multiprocess_mode="livesum"
)
CACHE_EVICTIONS = Counter("olm_cache_evictions_total", "Answers forgotten for want of room (`cache.max_bytes`).")
CACHE_FALSE_HITS = Counter("olm_cache_false_hits_total", "Hits that their callers reported as wrong.", ("layer",))
CACHE_BYTES = Gauge("olm_cache_bytes", "Room that kept answers take in Redis.", multiprocess_mode="mostrecent")
CACHE_NEAR_BYTES = Gauge(
    "olm_cache_near_bytes", "Room that kept answers take in the workers' own memory.", multiprocess_mode="livesum"
)
CACHE_ANSWERS = Gauge("olm_cache_answers", "Answers kept.", multiprocess_mode="mostrecent")
CACHE_HITLESS = Gauge(
    "olm_cache_hitless", "1 while a cache that is on has seen many calls and no hit.", multiprocess_mode="mostrecent"
)
TOKENS = Counter("olm_tokens_total", "Tokens of prompts and answers, as the instances counted them.", ("tier", "kind"))
CALL_SECONDS = Histogram(
    "olm_call_seconds", "A call from its first byte in to its last byte out.", ("tier",), buckets=_SECONDS
)
QUEUE_SECONDS = Histogram("olm_queue_seconds", "Waited for a slot.", ("pool",), buckets=_SECONDS)
FIRST_BYTE_SECONDS = Histogram(
    "olm_first_byte_seconds",
    "Request sent until the stream began, or the body was whole.",
    ("pool",),
    buckets=_SECONDS,
)
RETRIES = Counter("olm_retries_total", "Calls asked of another instance, because the first one failed.", ("pool",))
GIVEN_UP = Counter(
    "olm_given_up_total", "Calls taken from an instance that was silent for too long while others answered.", ("pool",)
)
KEPT_FROM_RELOADING = Counter(
    "olm_reloading_options_total",
    "What callers asked for that would have had a model loaded anew or unloaded, by API key, option and what was done.",
    ("caller", "option", "done"),
)
STORE_ERRORS = Counter("olm_store_errors_total", "Commands that Redis did not answer.")
INSTANCE_SLOTS = Gauge(
    "olm_instance_slots", "Slots an instance offers.", ("pool", "instance", "simulated"), multiprocess_mode="mostrecent"
)
INSTANCE_IN_FLIGHT = Gauge(
    "olm_instance_in_flight", "Slots leased.", ("pool", "instance", "simulated"), multiprocess_mode="mostrecent"
)
QUEUE_DEPTH = Gauge("olm_queue_depth", "Tickets waiting.", ("pool",), multiprocess_mode="mostrecent")
CACHE_ENABLED = Gauge("olm_cache_enabled", "1 while the answer cache is on.", multiprocess_mode="mostrecent")
UP = Gauge("olm_store_up", "1 while this process reaches Redis.", multiprocess_mode="livemin")


class Tally:
    """Counts and seconds of a path on which each microsecond counts, handed to their metrics a few times a second.

    In multi-process mode the library asks for the process id and writes to a mapped file at each step: some 3 µs, a
    dozen times a call. A process that is killed takes at most the last second's counts with it.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[Counter, tuple[str, ...]], float] = defaultdict(float)
        self._observed: dict[tuple[Histogram, tuple[str, ...]], list[float]] = {}

    def count(self, metric: Counter, labels: tuple[str, ...], amount: float = 1) -> None:
        self._counts[metric, labels] += amount

    def observe(self, metric: Histogram, labels: tuple[str, ...], seconds: float) -> None:
        """For histograms with the buckets of `_SECONDS`."""
        key = (metric, labels)
        seen = self._observed.get(key)
        if seen is None:
            seen = self._observed[key] = [0.0] * (len(_SECONDS) + 2)
        seen[bisect_left(_SECONDS, seconds)] += 1
        seen[-1] += seconds

    def flush(self) -> None:
        counts, self._counts = self._counts, defaultdict(float)
        for (counter, labels), amount in counts.items():
            counter.labels(*labels).inc(amount)
        observed, self._observed = self._observed, {}
        for (histogram, labels), (*buckets, total) in observed.items():
            child = histogram.labels(*labels)
            child._sum.inc(total)  # the library has no public way to add many observations at once
            for bucket, amount in zip(child._buckets, buckets, strict=True):
                if amount:
                    bucket.inc(amount)


TALLY = Tally()


def forget_process(pid: int, folder: Path) -> None:
    """A process has ended: what it said of its own present state no longer counts; its counters stay."""
    multiprocess.mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


def exposition() -> bytes:
    """All processes' metrics, in Prometheus' text format; other processes' tallies are up to a second old."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
    return generate_latest()


def log_to_stderr(name: str) -> None:
    """One line an event, to stderr: the keeper keeps it in the unit's log file."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format=f"%(asctime)s {name} %(levelname)s %(name)s: %(message)s"
    )
    for chatty in ("aiohttp.access", "asyncssh"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
