"""Settings of where instances run: hosts, models on them, servers that somebody else runs, what `deploy` brings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from orchestrator.settings.section import NAME, NODE_NAME, ModelName, Network, Section
from orchestrator.settings.syntax import (
    check_address,
    check_folder,
    check_instance_url,
    check_simulate,
    check_user,
    host_and_port,
)


def _check_program(text: str | None) -> str | None:
    if text is not None and "@" in urlsplit(text).netloc:
        raise ValueError("a URL is no place for a secret; fetch the file with it, and name the file")
    return text


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
        description="Cards to play instead of real ones, counts and names, on all nodes or on none. Marked everywhere.",
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
        "`auto`: as many as its load needs while it runs, within free VRAM, and at the beginning as many as serve the "
        "part of `demand` that its tiers get.",
    )
    replicas_min: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None,
        description="With `replicas: auto`, the fewest instances that it ever has; by default one on each of `hosts`.",
        examples=[1],
    )
    replicas_max: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None,
        description="With `replicas: auto`, the most instances that it ever has; by default as many as fit.",
        examples=[4],
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


DISCOVERED: Final = "discovered"


class InstanceSettings(Section):
    """A server that somebody else runs, Ollama or llama.cpp's. It is called and watched, never started or stopped."""

    url: Annotated[str, AfterValidator(check_instance_url)] = Field(
        description="Where it answers; over https its certificate is always checked, and must name this host.",
        examples=["http://10.0.0.5:11434"],
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

    ca: Path | None = Field(
        default=None,
        description="Behind https, file of the certificates (PEM) that its own is checked by; none: the system's.",
        examples=["company-ca.pem"],
    )
    cert: Path | None = Field(
        default=None,
        description="Behind https, our own certificate in PEM, where it asks for one; with `key`.",
        examples=["gateway.pem"],
    )
    key: Path | None = Field(
        default=None, description="The private key of `cert` in PEM, for its owner alone.", examples=["gateway.key"]
    )

    @property
    def is_tls(self) -> bool:
        return self.url.startswith("https://")

    @property
    def address(self) -> tuple[str, int]:
        return host_and_port(self._at)

    @property
    def label(self) -> str:
        """What it is called."""
        return self.name or self._at

    @property
    def _at(self) -> str:
        return self.url.partition("://")[2]

    @property
    def models(self) -> tuple[str, ...]:
        """The models named; none: all that it has."""
        if isinstance(self.model, tuple):
            return self.model
        return () if self.model == DISCOVERED else (self.model,)


class DemandSettings(Section):
    """What is asked of the cluster at its busiest, for models with `replicas: auto`, and how they follow their load."""

    at_once: Annotated[float, Field(gt=0, le=1_000_000)] | None = Field(
        default=None,
        description="Calls under way at the same time, cached ones included; none: `auto` begins with the fewest.",
        examples=[80],
    )
    quiet_s: float = Field(
        default=300.0,
        ge=1,
        le=86_400,
        description="Fewer instances must have been enough for so long before one is given up, and for 20 loads of its "
        "model; more come at once.",
    )
    prompt_tokens: int = Field(default=512, ge=1, le=1_048_576, description="Tokens of a usual prompt.")
    answer_tokens: int = Field(default=256, ge=1, le=1_048_576, description="Tokens of a usual answer.")


class DeploySettings(Section):
    """What `ollamactl deploy` brings to hosts that are reached over SSH, and how carefully."""

    ollama: Annotated[str | None, AfterValidator(_check_program)] = Field(
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
    tls: bool = Field(
        default=False,
        description="Instances are asked over TLS, and answer those alone who show a certificate of the cluster's own "
        "authority. Each host needs the package stunnel4. Takes effect with `ollamactl deploy`.",
    )
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
