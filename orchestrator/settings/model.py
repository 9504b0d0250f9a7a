"""Every setting, with its unit, its default and the reason.

What one value may be is said here. `file` adds file, line and field to errors, and `checks` what
several values must be together. docs/configuration.md is generated from this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from orchestrator.core.nginx.checks import check_address as check_reached
from orchestrator.core.nginx.checks import check_network, check_path, check_server_name
from orchestrator.settings.syntax import (
    check_address,
    check_folder,
    check_instance_url,
    check_listen,
    check_redis,
    check_simulate,
    check_user,
    host_and_port,
)

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
    """One host. At most one is this machine's real hardware; others are reached over SSH."""

    name: str = Field(
        pattern=NODE_NAME, description="Name of the host in plans, metrics and status.", examples=["gpu-1"]
    )
    address: Annotated[str, AfterValidator(check_address)] = Field(
        default="local",
        description="`local`: this machine; otherwise host or host:port of its sshd.",
        examples=["10.0.0.7"],
    )
    user: Annotated[str | None, AfterValidator(check_user)] = Field(
        default=None,
        description="Who logs in there, with sudo; by default as `ssh` would.",
        examples=["ops"],
    )
    key: Path | None = Field(
        default=None,
        description="Private key to log in with; by default those of the agent and of ~/.ssh.",
        examples=["~/.ssh/id_ed25519"],
    )
    models_dir: Annotated[str, AfterValidator(check_folder)] = Field(
        default="/usr/share/ollama/.ollama/models",
        description="Folder of models on a host that is reached over SSH; by default that of Ollama's own installer.",
    )
    simulate: Annotated[str | None, AfterValidator(check_simulate)] = Field(
        default=None,
        description="Cards to play instead of real ones, counts and names. Marked everywhere.",
        examples=["3x RTX 4090, 1x A100-40GB"],
    )


class SshSettings(Section):
    """How hosts are spoken to."""

    look_s: float = Field(
        default=1.0, ge=0.1, le=3600, description="A host tells what changed on it this often, while it is watched."
    )
    connect_s: float = Field(
        default=10.0, gt=0, le=3600, description="A host that has not let us in by then cannot be reached."
    )
    step_s: float = Field(default=60.0, gt=0, le=86_400, description="One step on a host has failed after this.")


class ModelSettings(Section):
    """One pool: a model with one context, and how many instances and slots it gets."""

    slots: int = Field(
        default=2, ge=1, le=64, description="Requests one instance serves at once; each has its own KV cache."
    )
    context: int = Field(
        default=4096, ge=256, le=1_048_576, description="Tokens of one slot, prompt and answer together."
    )
    replicas: Annotated[int, Field(ge=1, le=1024)] | Literal["fill", "auto"] = Field(
        default=1,
        description="Instances wanted; `fill`: one at least, then as many as free VRAM holds, shared by `share`; "
        "`auto`: one at least, then as many as serve the part of `demand` that its tiers get.",
    )
    instances_per_gpu: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = Field(
        default="auto",
        description="The most instances of it on one GPU; `auto`: as many as are wanted and fit. Each holds the "
        "weights again: `ollamactl plan --explain` shows what more slots would do instead.",
        examples=[3],
    )
    hosts: int = Field(default=1, ge=1, le=1024, description="Different hosts that its instances should be on.")
    on_nodes: tuple[str, ...] = Field(
        default=(), description="The only hosts it may go to; none: all.", examples=[["gpu-1"]]
    )
    apart: tuple[str, ...] = Field(
        default=(), description="Models that it never shares a GPU with.", examples=[["llama3.1:70b"]]
    )
    beside: tuple[str, ...] = Field(
        default=(), description="Models of which one must be on each GPU it goes to.", examples=[["llama3.2:3b"]]
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
    slots: Annotated[int, Field(ge=1, le=1024)] | Literal["probe"] | None = Field(
        default=None,
        description="Calls it serves at once for each model: its OLLAMA_NUM_PARALLEL, which it does not tell, by "
        "default 1 as in Ollama; `probe`: found out by asking a model that was just loaded for a few short answers at "
        "once. llama.cpp tells; fewer may be named.",
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
    share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="Part of all calls that it answers, for models with `replicas: auto`; what tiers leave is cached.",
        examples=[0.3],
    )
    answer_s: Annotated[float, Field(gt=0, le=3600)] | None = Field(
        default=None,
        description="A usual answer should take no longer, predicted from published numbers of the GPUs; calls that "
        "would take longer do not count as served when instances are placed.",
        examples=[5],
    )


class DemandSettings(Section):
    """What is asked of the cluster at its busiest, for models with `replicas: auto`."""

    at_once: Annotated[float, Field(gt=0, le=1_000_000)] | None = Field(
        default=None, description="Calls under way at the same time, cached ones included.", examples=[80]
    )
    prompt_tokens: int = Field(default=512, ge=1, le=1_048_576, description="Tokens of a usual prompt.")
    answer_tokens: int = Field(default=256, ge=1, le=1_048_576, description="Tokens of a usual answer.")


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
    cache_shared: bool = Field(
        default=False, description="One API key may be given an answer of this route that was made for another."
    )
    cache_spellings: bool = Field(
        default=True,
        description="A single plain question in Turkish or English is the same with other capitals, blanks and closing "
        "marks; names that are small words otherwise (the US), sums, code and questions about words are not.",
    )
    cache_paraphrases: bool = Field(
        default=False,
        description="A question that means what another one meant is given its answer: single plain questions in "
        "Turkish or English, of which numbers, negations and every word that means something agree.",
    )
    cache_ttl_s: Annotated[int, Field(ge=1, le=315_360_000)] | None = Field(
        default=None, description="`cache.ttl_s` of this route.", examples=[3600]
    )
    cache_stale_while_revalidate_s: Annotated[int, Field(ge=0, le=315_360_000)] | None = Field(
        default=None, description="`cache.stale_while_revalidate_s` of this route.", examples=[600]
    )
    cache_stale_if_error_s: Annotated[int, Field(ge=0, le=315_360_000)] | None = Field(
        default=None, description="`cache.stale_if_error_s` of this route.", examples=[86_400]
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


Reached = Annotated[str, AfterValidator(check_reached)]
Network = Annotated[str, AfterValidator(check_network)]
PlainPath = Annotated[str, AfterValidator(check_path)]


class DeploySettings(Section):
    """What `ollamactl deploy` brings to hosts that are reached over SSH, and how carefully."""

    ollama: str | None = Field(
        default=None,
        description="Ollama's program for the hosts: a file beside this one or an https URL, the binary itself or a "
        "release's archive (.tgz, .tar.zst). None: the `ollama` that is on each host already.",
        examples=["https://github.com/ollama/ollama/releases/download/v0.33.0/ollama-linux-amd64.tgz"],
    )
    sha256: Annotated[str | None, Field(pattern="^[0-9a-f]{64}$")] = Field(
        default=None, description="Digest of that file; a URL needs one."
    )
    user: str = Field(default="ollama", pattern=r"^[a-z_][a-z0-9_-]{0,31}$", description="Whom instances run as.")
    ports: tuple[int, int] = Field(default=(11500, 11599), description="First and last port of instances on a host.")
    gateways: tuple[Network, ...] = Field(
        default=(),
        description="Who may reach the instances, beside the address this machine reaches the host from. Others are "
        "kept out by nftables on the host.",
        examples=[["10.0.0.0/24"]],
    )
    firewall: bool = Field(default=True, description="Put that rule up; without it whoever reaches the host may ask.")
    at_once: float = Field(
        default=0.34, gt=0, le=1, description="The most of a pool's instances that are replaced at the same time."
    )
    drain_s: float = Field(
        default=120.0, ge=0, le=86_400, description="An instance that leaves finishes its answers, at most so long."
    )
    serve_s: float = Field(
        default=1800.0, gt=0, le=86_400, description="`deploy` waits so long until everything serves, pulls included."
    )
    copy_mib_s: float | None = Field(
        default=None,
        gt=0,
        description="The most MiB a second that one host sends to others; none: what the line takes.",
    )


class NginxLimitSettings(Section):
    """What one address may ask of nginx; beyond it calls are answered 429."""

    a_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None,
        description="Calls a minute; none: no limit, as a whole office may have one address.",
        examples=[120],
    )
    burst: int = Field(default=20, ge=0, le=100_000, description="Calls that may come at once beyond `a_minute`.")
    at_once: Annotated[int, Field(ge=1, le=65_535)] | None = Field(
        default=None, description="Calls under way at the same time; none: no limit.", examples=[32]
    )


class NginxSettings(Section):
    """The server that `ollamactl nginx` writes, before the endpoint; without that command it is of no effect."""

    server_name: Annotated[str, AfterValidator(check_server_name)] = Field(
        default="localhost",
        description="Name callers reach it by; others are answered 421, so that no web page gets in by a name of its "
        "own.",
        examples=["ollama.example.com"],
    )
    listen: tuple[Reached, ...] = Field(
        default=(),
        description="host:port each; by default every IPv4 address at port 443 with `certificate`, otherwise 80.",
        examples=[["10.0.0.1:443"]],
    )
    certificate: PlainPath | None = Field(
        default=None,
        description="Certificate chain in PEM, for TLS and HTTP/2; without one keys and prompts go in clear.",
        examples=["/etc/ssl/ollama.pem"],
    )
    certificate_key: PlainPath | None = Field(
        default=None, description="Its private key in PEM.", examples=["/etc/ssl/private/ollama.key"]
    )
    redirect_from: tuple[Reached, ...] = Field(
        default=(), description="Addresses in clear that send callers on to TLS.", examples=[["0.0.0.0:80"]]
    )
    gateways: tuple[Reached, ...] = Field(
        default=(),
        description="Where gateways are reached; by default the one at `listen`. All workers of one share an address.",
        examples=[["10.0.0.2:11434", "10.0.0.3:11434"]],
    )
    trusted_proxies: tuple[Network, ...] = Field(
        default=(),
        description="Balancers before nginx, whose X-Forwarded-For is believed; anybody else's is replaced.",
        examples=[["10.0.0.0/8"]],
    )
    proxy_protocol: bool = Field(
        default=False, description="`trusted_proxies` speak the PROXY protocol; nginx then takes nothing else."
    )
    operators: tuple[Network, ...] = Field(
        default=("127.0.0.1",),
        description="Who may see /status and /metrics, and with `--direct` who may change instances.",
        examples=[["127.0.0.1", "10.0.9.0/24"]],
    )
    limits: NginxLimitSettings = Field(default=NginxLimitSettings(), description="Limits by address.")
    access_log: PlainPath = Field(
        default="/var/log/nginx/ollama-cluster.log",
        description="One JSON object a call, without texts and keys.",
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
    ssh: SshSettings = Field(default=SshSettings(), description="How hosts are spoken to.")
    models: dict[ModelName, ModelSettings] = Field(
        default={}, description="Pools by model name, as callers ask for them; a name alone takes every default."
    )
    demand: DemandSettings = Field(default=DemandSettings(), description="How much is asked of the cluster.")
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
    nginx: NginxSettings = Field(default=NginxSettings(), description="nginx before the endpoint.")
    deploy: DeploySettings = Field(
        default=DeploySettings(), description="What is brought to hosts that are reached over SSH."
    )

    @property
    def hosts(self) -> tuple[NodeSettings, ...]:
        """Nodes that are reached over SSH. Where there are some, placements change by `ollamactl deploy` alone."""
        return tuple(each for each in self.nodes if each.address != "local")
