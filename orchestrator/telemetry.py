"""Every metric of the product, by name.

With several gateway workers each process writes its own files under the state folder's `metrics/`
(prometheus-client's multi-process mode), and whichever worker is scraped adds them all up.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.metrics_core import Metric

from orchestrator import metric_files

metric_files.install()

# From a cached answer's millisecond to a long answer of a loaded full tier.
_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
# From what a big card needs for a token of a small model to a CPU that is asked for too much.
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
# Our own time: some hundred microseconds, if all is well.
_OVERHEAD_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)

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
USD = Counter("olm_usd_total", "US dollars that calls cost, by true counts and the prices of tiers.", ("tier",))
PROVIDER_OPEN = Gauge(
    "olm_provider_open",
    "1 while a provider takes our key and knows our model, 0 since it last did not.",
    ("provider", "model"),
    multiprocess_mode="mostrecent",
)
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
TOKEN_SECONDS = Histogram(
    "olm_token_seconds",
    "Time per token of a streamed answer: from its first byte out to its last, by the tokens behind the first.",
    ("tier",),
    buckets=_TOKEN_SECONDS,
)
OVERHEAD_SECONDS = Histogram(
    "olm_overhead_seconds",
    "Our own part of the time until an answer's headers: neither the queue's nor an instance's.",
    ("tier",),
    buckets=_OVERHEAD_SECONDS,
)
RETRIES = Counter("olm_retries_total", "Calls asked of another instance, because the first one failed.", ("pool",))
RETRIES_SPARED = Counter(
    "olm_retries_spared_total",
    "Calls that were not asked of another instance: errors had used up the pool's budget of retries.",
    ("pool",),
)
CONTINUED = Counter(
    "olm_continued_total",
    "Streams whose instance was lost midway: continued on another one, or why not.",
    ("pool", "outcome"),
)
GIVEN_UP = Counter(
    "olm_given_up_total", "Calls taken from an instance that was silent for too long while others answered.", ("pool",)
)
KEPT_FROM_RELOADING = Counter(
    "olm_reloading_options_total",
    "What callers asked for that would have had a model loaded anew or unloaded, by API key, option and what was done.",
    ("caller", "option", "done"),
)
TENANT_CALLS = Counter(
    "olm_tenant_calls_total", "Calls by whose API keys they were, as `tenant` of keys says.", ("tenant", "outcome")
)
TENANT_TOKENS = Counter("olm_tenant_tokens_total", "Tokens of answered calls by tenant.", ("tenant", "kind"))
TOKENS_SHOWN = Counter(
    "olm_access_tokens_total",
    "Tokens of issuers (OpenID Connect) that were looked at, and what came of it; one that is known counts no more.",
    ("issuer", "outcome"),
)
ISSUER_UP = Gauge(
    "olm_issuer_up",
    "1 while an issuer's keys could be had when they were last asked for, by every worker.",
    ("issuer",),
    multiprocess_mode="livemin",
)
LOG_LOST = Counter("olm_request_log_lost_total", "Records of calls that no disk took.")
ROUTED = Counter("olm_routed_total", "Calls of a route that a tier answered, not the cache.", ("route", "tier"))
ESCALATED = Counter(
    "olm_escalated_total",
    "Calls of a route that a lower tier answered first, not well enough, and why.",
    ("route", "reason"),
)
DOUBTED_LATE = Counter(
    "olm_doubted_late_total",
    "Answers of a route that were doubted once they had been shown, and why: told in their last frame.",
    ("route", "reason"),
)
UNJUDGED = Counter(
    "olm_unjudged_total",
    "Answers whose confidence a route asks for and nobody knows: their engine told no log probabilities.",
    ("route",),
)
CONFIDENCE = Histogram(
    "olm_confidence",
    "How likely answers are right, of their beginnings (early) and whole.",
    ("route", "judged"),
    buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1),
)
SCORED = Counter(
    "olm_scored_total", "Questions that a model was to judge (`scorer: llm`), by what came of that.", ("outcome",)
)
RATED = Counter(
    "olm_rated_total", "Answers of a route that their callers rated, as right or wrong.", ("route", "verdict")
)
ESCALATION_RATE = Gauge(
    "olm_escalation_rate",
    "Part of a route's calls that was escalated today (UTC).",
    ("route",),
    multiprocess_mode="mostrecent",
)
ESCALATION_USUAL = Gauge(
    "olm_escalation_usual",
    "What that part usually is, as the settings say or as learnt.",
    ("route",),
    multiprocess_mode="mostrecent",
)
DRIFT = Gauge(
    "olm_drift",
    "1 while a route's rate of `what` (escalations, ratings) is not what it was: rise or fall.",
    ("route", "what", "direction"),
    multiprocess_mode="mostrecent",
)
REPLAY_ACCURACY = Gauge(
    "olm_replay_accuracy",
    "Part of the evaluation set that a target answered right in the last run; NaN once it has no figures there.",
    ("target", "simulated"),
    multiprocess_mode="mostrecent",
)
PRIVACY = Counter(
    "olm_privacy_calls_total", "Calls that might have gone outside the cluster, by their class.", ("class",)
)
HANDED_OVER = Counter(
    "olm_handed_over_total",
    "Calls that went on from a tier to the next, and why: used up, left alone, failed, busy, away, gone, refused.",
    ("tier", "why"),
)
TIERS_LEFT_ALONE = Gauge(
    "olm_tiers_left_alone",
    "Workers that leave a tier to its backup, because it fails or is slow.",
    ("tier",),
    multiprocess_mode="livesum",
)
UNSURE = Counter(
    "olm_unsure_total",
    "Questions whose difficulty is in doubt, by route and way: up, or down where their key's quota is used.",
    ("route", "went"),
)
LIMIT_USED = Gauge(
    "olm_limit_used",
    "What is used of a budget now: of a tier, a provider's account or an API key, by the kind of its limit.",
    ("scope", "kind"),
    multiprocess_mode="mostrecent",
)
LIMIT_ALLOWED = Gauge(
    "olm_limit_allowed", "What a budget allows, as the settings say.", ("scope", "kind"), multiprocess_mode="mostrecent"
)
LIMIT_REFUSALS = Counter(
    "olm_limit_refusals_total",
    "Times that a budget did not allow a call; `told`: its provider's own word.",
    ("scope", "kind"),
)
SPANS = Counter(
    "olm_trace_spans_total", "Spans of calls, by what became of them: sent, dropped (nobody took them).", ("outcome",)
)
STORE_ERRORS = Counter("olm_store_errors_total", "Commands that Redis did not answer.")
MODEL_CHANGES = Counter(
    "olm_model_changes_total",
    "Changes of models that the controller was asked for, by what came of them: done, refused, failed, left.",
    ("kind", "outcome"),
)
MIRRORED_OLDER = Counter(
    "olm_mirrored_older_total",
    "Files of two machines that Redis had in an older state than was seen before: not taken, and told anew.",
)
CERTIFICATE_END = Gauge(
    "olm_certificate_end_timestamp_seconds",
    "When a certificate ends that TLS to instances stands on, by kind (authority, host, gateway, server, server-ca, "
    "server-cert) and whose it is.",
    ("kind", "whose"),
    multiprocess_mode="livemostrecent",  # what a controller of before knew is nobody's word any more
)
AUTHORITY_HELD_UP = Gauge(
    "olm_authority_held_up_since_timestamp_seconds",
    "Since when a change of the cluster's own authority waits for a host or a machine, by whose it is; NaN once it "
    "does not any more.",
    ("whose",),
    multiprocess_mode="livemostrecent",
)
INSTANCE_SLOTS = Gauge(
    "olm_instance_slots", "Slots an instance offers.", ("pool", "instance", "simulated"), multiprocess_mode="mostrecent"
)
INSTANCE_IN_FLIGHT = Gauge(
    "olm_instance_in_flight", "Slots leased.", ("pool", "instance", "simulated"), multiprocess_mode="mostrecent"
)
_OF_CARD = ("node", "accelerator", "uuid", "name", "simulated")
CARD_VRAM_TOTAL = Gauge(
    "olm_accelerator_vram_total_bytes",
    "Memory of an accelerator, as its driver tells it.",
    _OF_CARD,
    multiprocess_mode="mostrecent",
)
CARD_VRAM_USED = Gauge(
    "olm_accelerator_vram_used_bytes",
    "What of it is used, by whomever; of a simulated one what its driver would keep for itself.",
    _OF_CARD,
    multiprocess_mode="mostrecent",
)
CARD_UTILISATION = Gauge(
    "olm_accelerator_utilisation_ratio",
    "Part of the last moments in which an accelerator worked, as its driver tells it.",
    _OF_CARD,
    multiprocess_mode="mostrecent",
)
CARD_TEMPERATURE = Gauge(
    "olm_accelerator_temperature_celsius", "How warm an accelerator is.", _OF_CARD, multiprocess_mode="mostrecent"
)
CARD_POWER = Gauge(
    "olm_accelerator_power_watts", "Power that an accelerator draws.", _OF_CARD, multiprocess_mode="mostrecent"
)
CARD_SEEN = Gauge(
    "olm_accelerator_seen_timestamp_seconds",
    "When an accelerator was last looked at; of one that is gone all other values are NaN.",
    _OF_CARD,
    multiprocess_mode="mostrecent",
)
QUEUE_DEPTH = Gauge("olm_queue_depth", "Tickets waiting.", ("pool",), multiprocess_mode="mostrecent")
CACHE_ENABLED = Gauge("olm_cache_enabled", "1 while the answer cache is on.", multiprocess_mode="mostrecent")
UP = Gauge("olm_store_up", "1 while this process reaches Redis.", multiprocess_mode="livemin")

_BUCKETS: Mapping[Histogram, tuple[float, ...]] = {
    TOKEN_SECONDS: _TOKEN_SECONDS,
    OVERHEAD_SECONDS: _OVERHEAD_SECONDS,
}


class Series:
    """Series of one gauge that are told together; one that was told before and is not any more is NaN."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._told: set[tuple[str, ...]] = set()

    def tell(self, told: Mapping[tuple[str, ...], float]) -> None:
        """Values by labels, in place of what was told before."""
        for gone in self._told - told.keys():
            self._gauge.labels(*gone).set(math.nan)  # in multi-process mode no series can be taken back
        for labels, value in told.items():
            self._gauge.labels(*labels).set(value)
        self._told |= told.keys()


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
        """For histograms with the buckets of `_SECONDS`, or those that `_BUCKETS` names."""
        key, bounds = (metric, labels), _BUCKETS.get(metric, _SECONDS)
        seen = self._observed.get(key)
        if seen is None:
            seen = self._observed[key] = [0.0] * (len(bounds) + 2)
        seen[bisect_left(bounds, seconds)] += 1
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
    return generate_latest(_all_processes())


def families() -> Iterable[Metric]:
    """The same as values."""
    return _all_processes().collect()


def _all_processes() -> CollectorRegistry:
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry
