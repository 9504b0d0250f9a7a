"""What the doctor looks at, as values. What could not be looked at is an `Unseen` with the reason, never a guess."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.core.address import address_text
from orchestrator.core.certificates import Lasting
from orchestrator.core.model import NodeFacts


@dataclass(frozen=True, slots=True)
class Unseen:
    """Why something could not be looked at, for people."""

    why: str


@dataclass(frozen=True, slots=True)
class Host:
    """A node of the settings. `is_here`: this machine, whose processes can be read.

    `is_refused`: it answers, and the program that it is restricted to does nothing for this ollamactl.
    """

    name: str
    facts: NodeFacts | Unseen
    is_here: bool
    is_refused: bool = False


@dataclass(frozen=True, slots=True)
class OllamaProcess:
    """An `ollama serve` of this machine. None: it is another user's, who alone may read that."""

    pid: int
    is_ours: bool
    unit: str | None = None  # its systemd unit
    environment: Mapping[str, str] | None = None
    listens: tuple[tuple[str, int], ...] | None = None  # address and port


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in a server's memory, as /api/ps has it. 0: not told."""

    name: str
    size_bytes: int
    vram_bytes: int
    context: int = 0
    expires_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """An engine that calls go to: an instance of our own, or a server that somebody else runs.

    `problem`: why it did not answer. `state`: as the controller published it; empty where no cluster runs.
    """

    name: str
    host: str
    port: int
    is_given: bool
    engine: str = "ollama"
    version: str = ""
    problem: str = ""
    loaded: tuple[Loaded, ...] | Unseen = ()
    model: str = ""  # the one it was started for; empty: any
    is_resident: bool | None = None  # whether that one is in memory, under whatever name; None: not told
    slots: int | None = None  # calls sent to it at once; None: its own number is found out
    context: int = 0  # tokens of a slot that callers are promised; 0: what it has
    gpus: int | None = None  # that it should use; None: not known
    is_simulated: bool = False
    state: str = ""
    reason: str = ""
    is_tls: bool = False

    @property
    def origin(self) -> str:
        """Where its API begins."""
        return f"{'https' if self.is_tls else 'http'}://{address_text(self.host, self.port)}"


@dataclass(frozen=True, slots=True)
class Redis:
    """What Redis says of itself; None: it does not tell. `problem`: why it did not answer."""

    address: str
    problem: str = ""
    is_embedded: bool = False
    is_open: bool = False  # reached over the network without a password
    version: str = ""
    policy: str | None = None
    memory_limit_bytes: int = 0  # 0: none
    memory_used_bytes: int = 0
    evicted_keys: int = 0
    has_log: bool | None = None  # every change is appended to a file
    snapshots: str | None = None  # when it writes itself down whole; empty: never
    is_write_failing: bool = False
    is_replica: bool = False


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster that runs, or the one that the settings describe. `problem`: why its endpoint does not answer."""

    listens: str  # host:port
    has_keys: bool
    is_cache_on: bool
    cached_routes: Mapping[str, str]  # by route: off, deterministic, all
    store: str = "up"
    pools: Mapping[str, tuple[str, ...]] | Unseen = field(default_factory=dict)  # states of each pool's instances
    problem: str = ""
    ending_keys: Mapping[str, float] = field(default_factory=dict)  # days that keys are still good for, by name


@dataclass(frozen=True, slots=True)
class Clock:
    """How far another's clock is ahead of this machine's; it is known to `within_s`."""

    whose: str
    ahead_s: float
    within_s: float


@dataclass(frozen=True, slots=True)
class FileLimit:
    """Files and connections that a process may have open, has, and would have with every queue full."""

    whose: str
    limit: int
    in_use: int | None  # None: it does not run yet
    needed: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that was looked at, once."""

    settings: str | Unseen  # where they come from
    hosts: tuple[Host, ...]
    processes: tuple[OllamaProcess, ...]
    servers: tuple[Server, ...] | Unseen
    redis: Redis | Unseen
    cluster: Cluster | Unseen
    clocks: tuple[Clock | Unseen, ...]
    files: tuple[FileLimit, ...]
    certificates: tuple[Lasting, ...] = ()
    held_up: str = ""  # whom a change of the cluster's authority waits for, in the controller's words
    held_up_since_unix_s: float | None = None  # None: those words tell no time
    now_unix_s: float = 0.0  # when it was looked
