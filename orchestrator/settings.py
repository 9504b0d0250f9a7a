"""Every setting, with its unit, its default and the reason. `load` is the one way in; errors name file, line, field."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class Section(BaseModel):
    """Base of all sections: an unknown key is an error, a loaded setting never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeSettings(Section):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Name of the host in plans, metrics and status.")
    address: Literal["local"] = Field("local", description="`local`: this machine.")
    simulate: str | None = Field(
        None, description='Cards to play instead of real ones, such as "3x RTX 4090, 1x A100-40GB". Marked everywhere.'
    )


class ModelSettings(Section):
    """One pool: a model with one context, and how many instances and slots it gets."""

    slots: int = Field(2, ge=1, le=64, description="Requests one instance serves at once; each has its own KV cache.")
    context: int = Field(4096, ge=256, le=1_048_576, description="Tokens of one slot, prompt and answer together.")
    replicas: int | Literal["fill"] = Field(
        1, description="Instances wanted; `fill`: one at least, then as many as free VRAM holds, shared by `share`."
    )
    share: float = Field(1.0, gt=0, description="Weight of this pool when `fill` pools share the room left over.")
    kv_cache: Literal["f16", "q8_0", "q4_0"] = Field("f16", description="Type of the KV cache; smaller ones save VRAM.")
    gguf: Path | None = Field(None, description="Weights to serve with the built-in llama.cpp engine, a GGUF file.")
    embedding: bool = Field(False, description="The model embeds text; it serves the embedding endpoints only.")


class TierSettings(Section):
    model: str = Field(description="Pool that answers this tier; a name under `models`.")
    backup: str | None = Field(None, description="Tier that answers when this one cannot; a name under `tiers`.")


class RouteSettings(Section):
    """From a request to a tier, for callers that ask for this route's name as their model."""

    small: str = Field("small", description="Tier for questions below `full_from`.")
    full: str = Field("full", description="Tier for the others.")
    chat_full_from: Annotated[int, Field(ge=1, le=11)] = Field(8, description="Difficulty from which CHAT goes to `full`.")
    task_full_from: Annotated[int, Field(ge=1, le=11)] = Field(5, description="Difficulty from which TASK goes to `full`.")
    cache: Literal["off", "deterministic", "all"] = Field(
        "all", description="Which calls of this route the answer cache may answer and keep."
    )


class CacheSettings(Section):
    enabled: bool = Field(True, description="The answer cache as a whole; its state is said at start and in `status`.")
    models: Literal["off", "deterministic", "all"] = Field(
        "deterministic",
        description="For calls that name a model: `deterministic` means temperature 0 or a seed, where a repeat is no surprise.",
    )
    ttl_s: int = Field(86_400, ge=1, description="An answer is forgotten after this.")
    max_answer_bytes: int = Field(262_144, ge=1024, description="Longer answers are not kept.")
    shared: bool = Field(False, description="One API key may be given an answer made for another.")
    faq: tuple[Path, ...] = Field((), description="YAML files of curated answers, asked first.")


class LimitSettings(Section):
    queue_length: int = Field(1000, ge=0, description="Tickets a pool's queue holds; the next is answered 503.")
    queue_wait_s: float = Field(60.0, gt=0, description="A ticket not granted by then is answered 503 with Retry-After.")
    first_byte_s: float = Field(300.0, gt=0, description="An instance silent this long before its first byte has failed.")
    between_bytes_s: float = Field(60.0, gt=0, description="An instance silent this long within an answer has failed.")
    body_bytes: int = Field(16 * 2**20, ge=1024, description="Larger request bodies are answered 413.")
    lease_ttl_s: float = Field(15.0, ge=1, description="A dead gateway's slots return after this; renewed at a third of it.")


class KeySettings(Section):
    name: str = Field(pattern=r"^[\w.@-]{1,64}$", description="Who it is, in logs, metrics and queue order.")
    secret: SecretStr = Field(description="The key itself; `env:NAME` or `file:PATH` keeps it out of this file.")
    admin: bool = Field(False, description="May see the status page, metrics and every admin path.")


class GatewaySettings(Section):
    workers: int = Field(2, ge=1, le=64, description="Gateway processes that share the port; two, so one can die.")


class ClusterSettings(Section):
    """`cluster.yaml`, whole."""

    listen: str | None = Field(
        None, description="host:port of the endpoint; by default 127.0.0.1:11434, or the next port that is free."
    )
    redis: str = Field(
        "embedded", description="`embedded`, or `redis://…`, `rediss://…`, `unix://…`, `sentinel://…` for one outside."
    )
    engine: Literal["auto", "ollama", "llama.cpp"] = Field(
        "auto", description="`auto`: `ollama` where it is on PATH, otherwise the built-in llama.cpp with a small model."
    )
    nodes: tuple[NodeSettings, ...] = Field((NodeSettings(name="local"),), description="Hosts that run instances.")
    models: dict[str, ModelSettings] = Field(description="Pools by model name, as callers ask for them.")
    tiers: dict[str, TierSettings] = Field(description="Roles by name; `small` and `full` serve the `auto` route.")
    routes: dict[str, RouteSettings] = Field(description="Routes by the model name that callers ask for.")
    cache: CacheSettings = CacheSettings()
    limits: LimitSettings = LimitSettings()
    keys: tuple[KeySettings, ...] = Field((), description="API keys; with none, whoever reaches the endpoint may ask.")
    gateway: GatewaySettings = GatewaySettings()
