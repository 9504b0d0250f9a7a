"""Redis as a pair of gateways has it: a master, a replica that follows it, and Sentinels that know who is which."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis

from orchestrator.store.embedded import find_server
from tests.chaos.parts import Launch, Process
from tests.cluster.running import free_port, until

MASTER = "main"
# As docs/operations.md has them.
DOWN_AFTER_MS, FAILOVER_TIMEOUT_MS = 1500, 3000


class Redis(Process):
    """One Valkey server. It keeps what it has in `folder` where `keeps` says so."""

    def __init__(self, name: str, folder: Path, launch: Launch, options: tuple[str, ...] = ()) -> None:
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        argv = [str(find_server()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)]
        argv += ["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0", *options]
        super().__init__(name, argv, folder, launch)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        super().start()
        until(self.answers, f"{self.name} answers")

    def answers(self) -> bool:
        with suppress(redis.RedisError, OSError):
            return bool(self.command("PING"))
        return False

    def command(self, *words: str | int) -> Any:
        """What it answers to one command. Raises redis.RedisError."""
        with redis.Redis(port=self.port, socket_timeout=5, decode_responses=True) as client:
            return client.execute_command(*words)

    def info(self, section: str) -> dict[str, Any]:
        told: dict[str, Any] = self.command("INFO", section)
        return told

    def lose_data(self) -> None:
        """What it has on disk is gone; for when it is down."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()


class Sentinel(Redis):
    """One Sentinel, which writes what it learns into its own file."""

    def __init__(self, name: str, folder: Path, launch: Launch, watched: Redis, quorum: int) -> None:
        super().__init__(name, folder, launch)
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {watched.port} {quorum}\n"
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {MASTER} {FAILOVER_TIMEOUT_MS}\nsentinel parallel-syncs {MASTER} 1\n"
        )
        self._argv = [str(find_server()), str(config), "--sentinel"]

    def master_port(self) -> int:
        """Whom it names as the master; 0: nobody."""
        found = self.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        return int(found[1]) if found else 0

    def others(self) -> int:
        """How many other Sentinels it knows."""
        return len(self.command("SENTINEL", "SENTINELS", MASTER))

    def is_settled(self) -> bool:
        """Whether it sees the master up, and a replica of it that could take its place."""
        states = [self.command("SENTINEL", "MASTER", MASTER), *self.command("SENTINEL", "REPLICAS", MASTER)]
        flags = [_flags(each) for each in states]
        return len(flags) >= 2 and flags[0] == {"master"} and any(each == {"slave"} for each in flags[1:])


def _flags(told: Any) -> set[str]:
    pairs = told if isinstance(told, dict) else dict(zip(told[::2], told[1::2], strict=True))
    flags = pairs.get("flags", "")
    return set(flags.split(",")) if isinstance(flags, str) else set(flags)


class Store:
    """Redis as the gateways know it: `url`, and who is the master now."""

    def __init__(self, servers: list[Redis], sentinels: list[Sentinel]) -> None:
        self.servers, self.sentinels = servers, sentinels
        if sentinels:
            self.url = f"sentinel://{','.join(each.address for each in sentinels)}/{MASTER}"
        else:
            self.url = f"redis://{servers[0].address}"

    def start(self) -> None:
        for each in self.servers:
            each.start()
        for replica in self.servers[1:]:
            replica.command("REPLICAOF", "127.0.0.1", self.servers[0].port)
        for each in self.sentinels:
            each.start()
        until(self.is_whole, "the Sentinels know each other and the replica")

    def master(self) -> Redis:
        """Whom the Sentinels name now; of those that answer, the first that names one."""
        for sentinel in self.sentinels:
            with suppress(redis.RedisError, OSError):
                port = sentinel.master_port()
                return next(each for each in self.servers if each.port == port)
        return self.servers[0]

    def replica(self) -> Redis:
        master = self.master()
        return next(each for each in self.servers if each is not master)

    def fail_over(self) -> None:
        """Asked of a Sentinel; another one is named after a while."""
        self.sentinels[0].command("SENTINEL", "FAILOVER", MASTER)

    def is_whole(self) -> bool:
        """Whether the master answers, the replica follows it, and all Sentinels say the same."""
        with suppress(redis.RedisError, OSError):
            master = self.master()
            if master.info("replication")["role"] != "master":
                return False
            if not self.sentinels:
                return True
            links = [each.info("replication") for each in self.servers if each is not master]
            follow = all(
                link["role"] == "slave" and link["master_port"] == master.port and link["master_link_status"] == "up"
                for link in links
            )
            known = all(each.others() == len(self.sentinels) - 1 for each in self.sentinels)
            return follow and known and all(each.is_settled() for each in self.sentinels)
        return False

    def close(self) -> None:
        for each in (*self.sentinels, *self.servers):
            each.kill()


def redis_of(folder: Callable[[str], Path], launch: Launch, sentinels: int, options: tuple[str, ...]) -> Store:
    """A store that is not started yet: alone without Sentinels, with a replica where there are some."""
    servers = [Redis(f"redis-{n}", folder(f"redis-{n}"), launch, options) for n in range(2 if sentinels else 1)]
    quorum = sentinels // 2 + 1
    return Store(
        servers,
        [Sentinel(f"sentinel-{n}", folder(f"sentinel-{n}"), launch, servers[0], quorum) for n in range(sentinels)],
    )
