"""Every setting, with its unit, its default and the reason.

What one value may be is said here. `file` adds file, line and field to errors, and `checks` what
several values must be together. docs/configuration.md is generated from this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from orchestrator.settings.syntax import check_instance_url, check_listen, check_redis, check_simulate, host_and_port

NODE_NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}$"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,62}$"
KEY_NAME = r"^[\w.@-]{1,64}$"

PATTERN_WORDS = {
    NODE_NAME: "lower-case letters, digits and hyphens, at most 63, a letter or digit first",
    MODEL_NAME: "a model's name: letters, digits and . _ : / @ -, a letter or digit first",
    NAME: "letters, digits and . _ : -, at most 63, a letter or digit first",
    KEY_NAME: "letters, digits and _ . @ -, at most 64",
}


class Section(BaseModel):
    """Base of all sections: an unknown key is an error, a loaded setting never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class NodeSettings(Section):
    """One host. At most one is this machine's real hardware."""

    name: str = Field(
        pattern=NODE_NAME, description="Name of the host in plans, metrics and status.", examples=["gpu-1"]
    )
    address: Literal["local"] = Field(default="local", description="`local`: this machine.")
    simulate: Annotated[str | None, AfterValidator(check_simulate)] = Field(
        default=None,
        description="Cards to play instead of real ones, counts and names. Marked everywhere.",
        examples=["3x RTX 4090, 1x A100-40GB"],
    )


class ModelSettings(Section):
    """One pool: a model with one context, and how many instances and slots it gets."""

    slots: int = Field(
        default=2, ge=1, le=64, description="Requests one instance serves at once; each has its own KV cache."
    )
    context: int = Field(
        default=4096, ge=256, le=1_048_576, description="Tokens of one slot, prompt and answer together."
    )
    replicas: Annotated[int, Field(ge=1, le=1024)] | Literal["fill"] = Field(
        default=1,
        description="Instances wanted; `fill`: one at least, then as many as free VRAM holds, shared by `share`.",
    )
    share: float = Field(
        default=1.0, gt=0, le=1000, description="Weight of this pool when `fill` pools share the room left over."
    )
    kv_cache: Literal["f16", "q8_0", "q4_0"] = Field(
        default="f16", description="Type of the KV cache; smaller ones save VRAM."
    )
    gguf: Path | None = Field(
        default=None,
        description="GGUF file to serve with the built-in llama.cpp engine; by default the bundled small model.",
        examples=["models/mistral-7b.Q4_K_M.gguf"],
    )
    embedding: bool = Field(default=False, description="The model embeds text; it serves the embedding endpoints only.")


ModelName = Annotated[str, Field(pattern=MODEL_NAME)]
DISCOVERED: Final = "discovered"


class InstanceSettings(Section):
    """A server that somebody else runs, Ollama or llama.cpp's. It is called and watched, never started or stopped."""

    url: Annotated[str, AfterValidator(check_instance_url)] = Field(
        description="Where it answers.", examples=["http://10.0.0.5:11434"]
    )
    name: str | None = Field(
        default=None,
        pattern=NAME,
        description="Name in status, metrics and `X-Instance`; by default its host and port.",
        examples=["gpu-1"],
    )
    model: ModelName | tuple[ModelName, ...] = Field(
        default=DISCOVERED,
        description="The model or models of it to serve; `discovered`: all that it lists, as they come and go.",
        examples=["llama3.2:3b"],
    )
    slots: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None,
        description="Calls it serves at once for each model: its OLLAMA_NUM_PARALLEL, which it does not tell, by "
        "default 1 as in Ollama. llama.cpp tells; fewer may be named.",
        examples=[4],
    )
    context: Annotated[int, Field(ge=256, le=1_048_576)] | None = Field(
        default=None,
        description="Tokens of one slot, as it was started (OLLAMA_CONTEXT_LENGTH); by default as it tells once a "
        "model is loaded.",
        examples=[8192],
    )
    loaded_models: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None,
        description="Models that its memory holds at once (OLLAMA_MAX_LOADED_MODELS); by default found out by looking.",
        examples=[1],
    )
    engine: Literal["discovered", "ollama", "llama.cpp"] = Field(
        default=DISCOVERED, description="What it runs; by default it is asked."
    )

    @property
    def address(self) -> tuple[str, int]:
        return host_and_port(self.url.removeprefix("http://"))

    @property
    def label(self) -> str:
        """What it is called."""
        return self.name or self.url.removeprefix("http://")

    @property
    def models(self) -> tuple[str, ...]:
        """The models named; none: all that it has."""
        if isinstance(self.model, tuple):
            return self.model
        return () if self.model == DISCOVERED else (self.model,)


class TierSettings(Section):
    """A role in the plan, and the pool that fills it."""

    model: str = Field(
        description="Pool that answers this tier; a name under `models`, or a model of `instances`.",
        examples=["llama3.2:3b-instruct-q4_K_M"],
    )
    backup: str | None = Field(
        default=None,
        description="Tier that answers when this one cannot; a name under `tiers`. A backup's own backup is not asked.",
        examples=["full"],
    )


class RouteSettings(Section):
    """From a request to a tier, for callers that ask for this route's name as their model."""

    small: str = Field(default="small", description="Tier for questions below `chat_full_from` or `task_full_from`.")
    full: str = Field(default="full", description="Tier for the others.")
    chat_full_from: Annotated[int, Field(ge=1, le=11)] = Field(
        default=8, description="Difficulty from which CHAT goes to `full`."
    )
    task_full_from: Annotated[int, Field(ge=1, le=11)] = Field(
        default=5, description="Difficulty from which TASK goes to `full`."
    )
    cache: Literal["off", "deterministic", "all"] = Field(
        default="all", description="Which calls of this route the answer cache may answer and keep."
    )


class CacheSettings(Section):
    """Answers kept and given again."""

    enabled: bool = Field(
        default=True, description="The answer cache as a whole; its state is said at start and in `status`."
    )
    models: Literal["off", "deterministic", "all"] = Field(
        default="deterministic",
        description="For calls that name a model: `deterministic` is temperature 0 or a seed: a repeat is no surprise.",
    )
    ttl_s: int = Field(default=86_400, ge=1, le=315_360_000, description="An answer is forgotten after this.")
    max_answer_bytes: int = Field(default=262_144, ge=1024, le=64 * 2**20, description="Longer answers are not kept.")
    shared: bool = Field(default=False, description="One API key may be given an answer made for another.")
    faq: tuple[Path, ...] = Field(
        default=(), description="YAML files of curated answers, asked first.", examples=[["faq.yaml"]]
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
    lease_ttl_s: float = Field(
        default=15.0, ge=1, le=3600, description="A dead gateway's slots return after this; renewed at a third of it."
    )


class KeySettings(Section):
    """One caller's API key."""

    name: str = Field(
        pattern=KEY_NAME, description="Who it is, in logs, metrics and queue order.", examples=["support-team"]
    )
    secret: SecretStr = Field(
        description="The key itself, 16 characters or more; `env:NAME` or `file:PATH` keeps it out of this file.",
        examples=["env:SUPPORT_KEY"],
    )
    admin: bool = Field(default=False, description="May see the status page, metrics and every admin path.")


class GatewaySettings(Section):
    """The processes that answer calls."""

    workers: int = Field(
        default=2, ge=1, le=64, description="Gateway processes that share the port; two, so one can die."
    )


class ClusterSettings(Section):
    """`cluster.yaml`, whole."""

    listen: Annotated[str | None, AfterValidator(check_listen)] = Field(
        default=None,
        description="host:port of the endpoint; by default 127.0.0.1:11434, or the next port that is free.",
        examples=["0.0.0.0:11434"],
    )
    redis: Annotated[str, AfterValidator(check_redis)] = Field(
        default="embedded",
        description="`embedded`, or `redis://…`, `rediss://…`, `unix://…`, `sentinel://…` for one outside.",
        examples=["redis://redis.internal:6379/0"],
    )
    engine: Literal["auto", "ollama", "llama.cpp"] = Field(
        default="auto",
        description="`auto`: `ollama` where it is on PATH, otherwise the built-in llama.cpp with a small model.",
    )
    nodes: tuple[NodeSettings, ...] = Field(
        default=(NodeSettings(name="local"),), min_length=1, description="Hosts that run instances."
    )
    models: dict[ModelName, ModelSettings] = Field(
        default={}, description="Pools by model name, as callers ask for them; a name alone takes every default."
    )
    instances: tuple[InstanceSettings, ...] = Field(
        default=(),
        description="Servers that somebody else runs: with them nothing is deployed, and `models` may be left out.",
    )
    tiers: dict[Annotated[str, Field(pattern=NAME)], TierSettings] = Field(
        default={}, description="Roles by name; `small` and `full` serve the `auto` route."
    )
    routes: dict[Annotated[str, Field(pattern=NAME)], RouteSettings] = Field(
        default={}, description="Routes by the model name that callers ask for; a name alone takes every default."
    )
    cache: CacheSettings = Field(default=CacheSettings(), description="The answer cache.")
    limits: LimitSettings = Field(
        default=LimitSettings(), description="Where waiting ends, and how large a call may be."
    )
    keys: tuple[KeySettings, ...] = Field(
        default=(), description="API keys; with none, whoever reaches the endpoint may ask."
    )
    gateway: GatewaySettings = Field(default=GatewaySettings(), description="The processes that answer calls.")
