"""Every setting, with its unit, its default and the reason: sections in modules of their own, and all of them here.

What one value may be is said with it. `file` adds file, line and field to errors, and `checks` what
several values must be together. docs/configuration.md is generated from these modules.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from orchestrator.core.nginx.checks import check_address as check_reached
from orchestrator.core.nginx.checks import check_path, check_server_name
from orchestrator.settings.access import IssuerSettings, KeySettings
from orchestrator.settings.answering import CacheSettings, LimitSettings, RequestLogSettings
from orchestrator.settings.hosts import (
    DemandSettings,
    DeploySettings,
    InstanceSettings,
    ModelSettings,
    NodeSettings,
    SshSettings,
)
from orchestrator.settings.measuring import EvalSettings
from orchestrator.settings.outside import ProviderSettings
from orchestrator.settings.privacy import LogSettings, PrivacySettings
from orchestrator.settings.routing import RouteSettings, TierSettings
from orchestrator.settings.section import NAME, NODE_NAME, ModelName, Network, Section
from orchestrator.settings.syntax import check_listen, check_redis
from orchestrator.settings.tracing import TraceSettings


class GatewaySettings(Section):
    """The processes that answer calls."""

    workers: int = Field(
        default=2, ge=1, le=64, description="Gateway processes that share the port; two, so one can die."
    )


Reached = Annotated[str, AfterValidator(check_reached)]
PlainPath = Annotated[str, AfterValidator(check_path)]


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
        description="`embedded`, or `redis://…`, `unix://…`, `sentinel://…`, `cluster://…` for one outside; over TLS "
        "`rediss://…`, `sentinels://…`, `clusters://…`, with `?ca=FILE&cert=FILE&key=FILE` where they are needed.",
        examples=["redis://redis.internal:6379/0"],
    )
    redis_password: SecretStr | None = Field(
        default=None,
        description="The password of an outside Redis, where it does not stand in its URL, as `env:NAME` or "
        "`file:PATH`.",
        examples=["env:REDIS_PASSWORD"],
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
    providers: dict[Annotated[str, Field(pattern=NAME)], ProviderSettings] = Field(
        default={}, description="Who may be asked outside the cluster, by name; asked only for tiers that name them."
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
        default=(),
        description="API keys, beside those that `ollamactl keys` keeps; with none at all, whoever reaches the "
        "endpoint may ask.",
    )
    keys_file: Path | None = Field(
        default=None,
        description="Where `ollamactl keys` keeps its keys; by default in the state folder. One file on shared "
        "storage serves the gateways of several machines.",
        examples=["/srv/ollamactl/keys.json"],
    )
    issuers: dict[Annotated[str, Field(pattern=NODE_NAME)], IssuerSettings] = Field(
        default={},
        description="Whose tokens (OpenID Connect, JWT) are taken beside API keys, by the name that their callers have "
        "in logs.",
    )
    open: bool | None = Field(
        default=None,
        description="Without keys the endpoint is on this machine's own address alone, unless `true`: then anybody "
        "who reaches it may ask. `false`: never without a key, also where there is none yet.",
        examples=[True],
    )
    privacy: PrivacySettings = Field(default=PrivacySettings(), description="What may leave the cluster.")
    logs: LogSettings = Field(default=LogSettings(), description="What logs say.")
    request_log: RequestLogSettings = Field(
        default=RequestLogSettings(), description="Records of calls, kept in the state folder."
    )
    traces: TraceSettings = Field(default=TraceSettings(), description="OpenTelemetry traces of calls.")
    eval: EvalSettings = Field(
        default=EvalSettings(), description="Questions asked again and again, to see whether all is as it was."
    )
    gateway: GatewaySettings = Field(default=GatewaySettings(), description="The processes that answer calls.")
    nginx: NginxSettings = Field(default=NginxSettings(), description="nginx before the endpoint.")
    deploy: DeploySettings = Field(
        default=DeploySettings(), description="What is brought to hosts that are reached over SSH."
    )

    @property
    def asks_who(self) -> bool:
        """Whether nobody is let in whom it does not know, by what `cluster.yaml` says."""
        return self.open is False or bool(self.keys or self.issuers)

    @property
    def hosts(self) -> tuple[NodeSettings, ...]:
        """Nodes that are reached over SSH. Where there are some, placements change by `ollamactl deploy` alone."""
        return tuple(each for each in self.nodes if each.address != "local")
