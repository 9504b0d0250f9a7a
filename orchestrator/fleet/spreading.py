"""Models brought to every node that should have them, from nodes that have them: each travels into the cluster once.

Who copies from whom is `core.copying`'s to decide, how the bytes go `nodes.model_copy`'s. Here the transfers run side
by side, a broken one is tried from somewhere else, and what cannot be had is told in one line a node.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from typing import Final

from orchestrator.core.copying import Transfer, agreed_versions, next_transfers
from orchestrator.core.manifests import DEFAULT_HOST, split_name
from orchestrator.core.model import NodeFacts, NodeName
from orchestrator.nodes.model_copy import CopyError, CopyTo, Giver, Offer, Waits, giving, take
from orchestrator.nodes.ssh import SshError, SshHost

Connect = Callable[[NodeName], AbstractAsyncContextManager[SshHost]]

# From the same source, which may have been slow for a moment; what came over is not sent again.
TRIES: Final = 2
# A source that went silent so often, to whomever, is asked by nobody any more: each time costs patience.
SILENCES: Final = 3


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one model is on its way to a node, in bytes."""

    node: NodeName
    model: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Copied:
    node: NodeName
    model: str
    source: NodeName
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CopyFailed:
    """What a node still has not, and why, in one line that begins with the name of the host to look at."""

    node: NodeName
    models: tuple[str, ...]
    error: str


async def spread(
    wanted: Mapping[NodeName, Sequence[str]],
    facts: Mapping[NodeName, NodeFacts],
    connect: Connect,
    settings_of: Callable[[NodeName], CopyTo],
    *,
    mib_s: float | None,
    on_progress: Callable[[Progress], None],
    waits: Waits | None = None,
) -> tuple[Copied | CopyFailed, ...]:
    """Have every node copy what it wants and lacks. `mib_s`: the most that one node sends, to all others together.

    Nodes that `facts` leaves out give and get nothing. Raises nothing of the hosts': what failed is in the answer.
    """
    async with AsyncExitStack() as stack:
        hosts = _Hosts(stack, connect, settings_of, mib_s, waits or Waits())
        return await _Spreading(wanted, facts, hosts, on_progress).run()


class _Hosts:
    """Connections, each made once, when it is first needed, and what gives models on the other side of them."""

    def __init__(
        self,
        stack: AsyncExitStack,
        connect: Connect,
        settings_of: Callable[[NodeName], CopyTo],
        mib_s: float | None,
        waits: Waits,
    ) -> None:
        self.settings_of, self.waits = settings_of, waits
        self._stack, self._connect, self._mib_s = stack, connect, mib_s
        self._hosts: dict[NodeName, SshHost] = {}
        self._givers: dict[NodeName, Giver] = {}
        self._turns: defaultdict[NodeName, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def host(self, node: NodeName) -> SshHost:
        async with self._turns[node]:
            return await self._host(node)

    async def giver(self, node: NodeName) -> Giver:
        async with self._turns[node]:
            if node not in self._givers:
                given = giving(await self._host(node), self.settings_of(node), mib_s=self._mib_s, waits=self.waits)
                self._givers[node] = await self._stack.enter_async_context(given)
            return self._givers[node]

    def forget(self, node: NodeName) -> None:
        """It is not as it was known: the next who needs it connects anew."""
        self._givers.pop(node, None)
        self._hosts.pop(node, None)

    async def _host(self, node: NodeName) -> SshHost:
        if node not in self._hosts:
            self._hosts[node] = await self._stack.enter_async_context(self._connect(node))
        return self._hosts[node]


class _Spreading:
    """What has come where so far, and what is under way."""

    def __init__(
        self,
        wanted: Mapping[NodeName, Sequence[str]],
        facts: Mapping[NodeName, NodeFacts],
        hosts: _Hosts,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._hosts, self._on_progress = hosts, on_progress
        self._versions = agreed_versions(facts.values())
        # A model that is there in another version is there, but not given to others.
        present = {node: {each.name for each in told.models} for node, told in facts.items()}
        self._has = {
            node: {each.name for each in told.models if self._versions[each.name] == each}
            for node, told in facts.items()
        }
        names = {node: dict.fromkeys(map(_as_listed, models)) for node, models in wanted.items()}
        self._wanted = {
            node: [each for each in models if each not in present.get(node, ())] for node, models in names.items()
        }
        self._under_way: dict[asyncio.Task[None], Transfer] = {}
        self._failures: Counter[Transfer] = Counter()
        self._silences: Counter[NodeName] = Counter()
        self._given_up = {node: f"{node}: it was not seen" for node in wanted if node not in facts}
        self._last_error: dict[tuple[NodeName, str], str] = {}
        self._copied: list[Copied] = []

    async def run(self) -> tuple[Copied | CopyFailed, ...]:
        try:
            while self._begin():
                done, _ = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._settle(self._under_way.pop(task), task)
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)
        return (*self._copied, *self._failed())

    def _begin(self) -> bool:
        """Start what may start now; whether anything is under way then."""
        wanted = {node: models for node, models in self._wanted.items() if node not in self._given_up}
        broken = {each for each, times in self._failures.items() if times >= TRIES}
        has = {node: models for node, models in self._has.items() if self._silences[node] < SILENCES}
        for each in next_transfers(has, wanted, self._under_way.values(), broken):
            self._under_way[asyncio.create_task(self._transfer(each))] = each
        return bool(self._under_way)

    async def _transfer(self, each: Transfer) -> None:
        """Raises SshError."""
        giver = await self._hosts.giver(each.source)
        host = await self._hosts.host(each.target)
        async with giver.offer(self._versions[each.model]) as offer:
            try:
                if offer.is_reachable:
                    await self._take(each, host, offer)
                    return
            except CopyError as error:
                if error.fault != "way":
                    raise
            async with giver.host.reached_by(host, offer.host, offer.port) as port:
                await self._take(each, host, replace(offer, host="127.0.0.1", port=port))

    async def _take(self, each: Transfer, host: SshHost, offer: Offer) -> None:
        def tell(done: int, total: int) -> None:
            self._on_progress(Progress(each.target, each.model, done, total))

        at, waits = self._hosts.settings_of(each.target), self._hosts.waits
        await take(host, at, offer, tell, waits=waits, later_bytes=self._later_bytes(each))

    def _later_bytes(self, each: Transfer) -> int:
        """What is still to come to the same node: room that would be missing only then is asked for now."""
        missing = {model for model in self._wanted[each.target] if model not in self._has[each.target]}
        return sum(self._versions[model].size_bytes for model in missing - {each.model} if model in self._versions)

    def _settle(self, each: Transfer, task: asyncio.Task[None]) -> None:
        try:
            task.result()
        except SshError as error:
            self._fail(each, error)
        else:
            self._has[each.target].add(each.model)
            size = self._versions[each.model].size_bytes
            self._copied.append(Copied(each.target, each.model, each.source, size))

    def _fail(self, each: Transfer, error: SshError) -> None:
        fault = error.fault if isinstance(error, CopyError) else ""
        if fault == "target" or (not fault and error.node == each.target):
            self._given_up[each.target] = str(error)
            return
        self._last_error[each.target, each.model] = f"{each.target}: {each.model} from {each.source}: {error.message}"
        if fault == "corrupt":
            self._has[each.source].discard(each.model)
            return
        self._failures[each] += 1
        if not fault:
            self._hosts.forget(each.source)
            self._silences[each.source] += 1
            if self._silences[each.source] >= SILENCES:
                self._given_up.setdefault(each.source, str(error))

    def _failed(self) -> Iterator[CopyFailed]:
        for node, models in self._wanted.items():
            missing = tuple(each for each in models if each not in self._has.get(node, ()))
            if missing:
                yield CopyFailed(node, missing, self._given_up.get(node) or self._why(node, missing))

    def _why(self, node: NodeName, missing: Sequence[str]) -> str:
        told = [
            self._last_error.get((node, each), f"{node}: no node has {each}: pull it on one of them")
            for each in missing
        ]
        return "; ".join(dict.fromkeys(told))


def _as_listed(name: str) -> str:
    """A model's name as a folder of models tells it: with its tag, without what is Ollama's default."""
    parts = split_name(name)
    if parts is None:
        return name
    place = [] if parts.namespace == "library" else [parts.namespace]
    place = place if parts.host == DEFAULT_HOST else [parts.host, parts.namespace]
    return "/".join([*place, f"{parts.model}:{parts.tag}"])
