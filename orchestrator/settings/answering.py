"""Settings of how calls are answered: kept answers and limits. Where they go is said in `routing`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from orchestrator.settings.section import Network, Section


class CacheSettings(Section):
    """Answers kept and given again."""

    enabled: bool = Field(
        default=True, description="The answer cache as a whole; its state is said at start and in `status`."
    )
    models: Literal["off", "deterministic", "all"] = Field(
        default="deterministic",
        description="For calls that name a model: `deterministic` is temperature 0 or a seed: a repeat is no surprise.",
    )
    ttl_s: int = Field(default=86_400, ge=1, le=315_360_000, description="An answer is fresh for so long.")
    ttl_jitter: float = Field(
        default=0.1,
        ge=0,
        le=0.9,
        description="At most this part is taken off an answer's time, so that those kept together do not end together.",
    )
    stale_while_revalidate_s: int = Field(
        default=0,
        ge=0,
        le=315_360_000,
        description="So long past its time an answer is given at once, and made anew behind that. 0: never.",
    )
    stale_if_error_s: int = Field(
        default=3600,
        ge=0,
        le=315_360_000,
        description="So long past its time an answer is given where no instance can answer. 0: never.",
    )
    max_bytes: int = Field(
        default=256 * 2**20,
        ge=65_536,
        le=2**44,
        description="Room for all answers in Redis; beyond it those used least are forgotten.",
    )
    near_bytes: int = Field(
        default=16 * 2**20,
        ge=0,
        le=2**40,
        description="Room in each worker's own memory for answers given lately: a hit there asks nobody, and Redis "
        "tells of each that changes. 0: none.",
    )
    tool_calls: bool = Field(
        default=False,
        description="Keep answers that call tools, too: what such an answer had done once is done again by each hit.",
    )
    secret: SecretStr | None = Field(
        default=None,
        description="What answers' keys in Redis are made with; 32 characters or more, `env:NAME` or `file:PATH`. "
        "Gateways of several machines share answers where it is the same for all. None: this state folder's own.",
        examples=["env:CACHE_SECRET"],
    )
    encryption_key: SecretStr | None = Field(
        default=None,
        description="Answers are sealed with it (AES-256-GCM) before they go to Redis; 16 characters or more, "
        "`env:NAME` or `file:PATH`. None: they are kept as text.",
        examples=["env:CACHE_KEY"],
    )
    old_encryption_keys: tuple[SecretStr, ...] = Field(
        default=(),
        description="Keys of before, by which answers are still read until they end.",
        examples=[["file:cache-key.old"]],
    )
    warn_after: int = Field(
        default=1000,
        ge=0,
        le=1_000_000_000,
        description="So many calls that might have been cached without one hit are warned of. 0: never.",
    )
    max_answer_bytes: int = Field(default=262_144, ge=1024, le=64 * 2**20, description="Longer answers are not kept.")
    join: bool = Field(
        default=True,
        description="Identical calls that are under way at once, and whose answer the cache might give, share one "
        "generation; `Cache-Control: no-cache` asks for one of its own.",
    )
    shared: bool = Field(
        default=False, description="One API key may be given an answer made for another; `cache_shared`: of one route."
    )
    faq: tuple[Path, ...] = Field(
        default=(),
        description="Files of curated answers, asked first: .yaml, .csv or .jsonl.",
        examples=[["faq.yaml"]],
    )
    faq_paraphrases: bool = Field(
        default=True,
        description="A curated answer is given to its question in other words too; numbers, negations and every word "
        "that means something must agree. `ollamactl faq test` says what would be answered.",
    )


class LimitSettings(Section):
    """Where waiting ends, and how large a call may be."""

    queue_length: int = Field(
        default=1000, ge=0, le=1_000_000, description="Tickets a pool's queue holds; the next is answered 503."
    )
    queue_wait_s: float = Field(
        default=60.0, gt=0, le=86_400, description="A ticket not granted by then is answered 503 with Retry-After."
    )
    first_byte_s: float = Field(
        default=300.0, gt=0, le=86_400, description="An instance silent this long before its first byte has failed."
    )
    hang_s: float = Field(
        default=1.5,
        ge=0,
        le=86_400,
        description="An instance silent this long, and longer than its pool's history allows, while others of the pool "
        "answer, loses its calls to them, and is seen to. Shorter, a busy machine's pauses look like hangs; 0: off.",
    )
    cures_an_hour: int = Field(
        default=4,
        ge=0,
        le=1000,
        description="Unloads and restarts, in an hour, of an instance that fell silent; beyond them it gets no calls "
        "until it answers by itself. 0: it is only kept from calls.",
    )
    between_bytes_s: float = Field(
        default=60.0, gt=0, le=86_400, description="An instance silent this long within an answer has failed."
    )
    drain_s: float = Field(
        default=10.0,
        ge=0,
        le=3600,
        description="A stream of Ollama whose client left is read on for so long, then cut; 0: cut at once. Cutting "
        "frees the slot sooner, and can cost the instance that slot for good.",
    )
    body_bytes: int = Field(
        default=16 * 2**20, ge=1024, le=2**30, description="Larger request bodies are answered 413."
    )
    body_s: float = Field(
        default=300.0,
        gt=0,
        le=86_400,
        description="A request's body must be here by then, however steadily it trickles; otherwise 408.",
    )
    whole_s: float = Field(
        default=3600.0,
        gt=0,
        le=604_800,
        description="A call that takes longer in all is ended: 504, or an error frame behind what has been said. The "
        "bound for answers without end (`num_predict: -1`).",
    )
    answer_tokens: int | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="The longest answer, whatever a call asks for or leaves out. None: as long as the model's context, "
        "where a call asks for more.",
        examples=[8192],
    )
    images: int = Field(
        default=32, ge=0, le=100_000, description="Pictures in one call; with more it is answered 400. 0: none."
    )
    connections_per_address: int = Field(
        default=1000,
        ge=0,
        le=1_000_000,
        description="Connections that one address may have to a worker at once (of IPv6: one /64 network); the next is "
        "answered 429. 0: no limit.",
    )
    fronts: tuple[Network, ...] = Field(
        default=(),
        description="Addresses of nginx and other proxies on other machines: all callers come from there, so "
        "`connections_per_address` does not count them. This machine's own never are.",
        examples=[["10.0.0.7"]],
    )
    continue_streams: bool = Field(
        default=True,
        description="A stream whose instance is lost midway goes on at another one, where model and dialect allow; "
        "false: it ends with an error, for who would rather ask anew than get an answer from two instances.",
    )
    lease_ttl_s: float = Field(
        default=15.0, ge=1, le=3600, description="A dead gateway's slots return after this; renewed at a third of it."
    )


class RequestLogSettings(Section):
    """One record a call, without texts: what `ollamactl calls` and `ollamactl report` read."""

    enabled: bool = Field(default=True, description="Whether records are kept.")
    keep_days: int = Field(default=400, ge=1, le=36_500, description="Records are forgotten after so many days.")
    max_bytes: int = Field(
        default=10 * 2**30, ge=2**20, le=2**50, description="Room on disk; beyond it the oldest days are forgotten."
    )
