"""The engines that calls go to, as the doctor sees them: each asked for its version and what is in its memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.core.doctor import Clock, Loaded, Server, Unseen
from orchestrator.core.errors import InstanceError
from orchestrator.core.model import Engine, Instance, InstanceId, NodeName, PoolName
from orchestrator.core.origins import is_loopback
from orchestrator.nodes.checkup import CheckupApi
from orchestrator.nodes.tls import Contexts
from orchestrator.settings import InstanceSettings

ASKED_AT_ONCE = 32
NOT_TOLD = Unseen("it does not tell what is in its memory")


@dataclass(frozen=True, slots=True)
class _Asked:
    """An engine to ask, and what is known of it without asking."""

    at: Instance
    server: Server


async def look_at_servers(
    given: Sequence[InstanceSettings],
    instances: Sequence[Instance] | None,
    *,
    has_gpu_here: bool,
    contexts: Contexts | None = None,
) -> tuple[tuple[Server, ...], tuple[Clock, ...]]:
    """Every engine, and the clock of each other host. Those that are given are asked by their URL, once each.

    `contexts`: what those behind TLS are asked with.
    """
    own = [_of_instance(each) for each in instances or () if not each.is_given]
    asked = [*own, *(_of_given(each, has_gpu_here=has_gpu_here) for each in given)]
    at_once = asyncio.Semaphore(ASKED_AT_ONCE)

    async def look(each: _Asked) -> tuple[Server, Clock | None]:
        async with at_once:
            return await _look(api, each)

    api = CheckupApi(contexts)
    try:
        seen = await asyncio.gather(*map(look, asked))
    finally:
        await api.close()
    clocks = {clock.whose: clock for _, clock in seen if clock is not None}
    return tuple(server for server, _ in seen), tuple(clocks.values())


def _of_instance(instance: Instance) -> _Asked:
    server = Server(
        name=instance.id,
        host=instance.host,
        port=instance.port,
        is_given=False,
        engine=instance.engine.value,
        model=instance.upstream_model,
        slots=instance.slots,
        context=instance.context,
        gpus=len(instance.accelerators),
        is_simulated=instance.is_simulated,
        state=instance.state.value,
        reason=instance.reason,
        is_tls=bool(instance.tls_name),
    )
    return _Asked(instance, server)


def _of_given(given: InstanceSettings, *, has_gpu_here: bool) -> _Asked:
    host, port = given.address
    label = given.label
    slots = given.slots if isinstance(given.slots, int) else 1 if given.slots is None else None
    at = Instance(
        id=InstanceId(label),
        node=NodeName(host),
        pool=PoolName(""),
        host=host,
        port=port,
        engine=Engine.LLAMA_CPP if given.engine == Engine.LLAMA_CPP.value else Engine.OLLAMA,
        upstream_model=given.models[0] if given.models else "",
        slots=slots or 1,
        context=given.context or 0,
        is_given=True,
        tls_name=host if given.is_tls else "",
    )
    gpus = 0 if is_loopback(host) and not has_gpu_here else None
    server = Server(
        label, host, port, is_given=True, slots=slots, context=given.context or 0, gpus=gpus, is_tls=given.is_tls
    )
    return _Asked(at, replace(server, model=at.upstream_model))


async def _look(api: CheckupApi, asked: _Asked) -> tuple[Server, Clock | None]:
    at, server = asked.at, asked.server
    try:
        if server.is_given:
            at = replace(at, engine=await api.engine_of(at))
        version = await api.lives(at)
        loaded = await api.loaded(at)
        resident = await _is_resident(api, at, loaded)
        clock = None if is_loopback(at.host) else await api.clock(at)
    except InstanceError as why:
        return replace(server, problem=why.message), None
    told = NOT_TOLD if loaded is None else loaded
    return replace(server, engine=at.engine.value, version=version, loaded=told, is_resident=resident), clock


async def _is_resident(api: CheckupApi, at: Instance, loaded: tuple[Loaded, ...] | None) -> bool | None:
    if not at.upstream_model:
        return bool(loaded) if loaded is not None else None
    return None if loaded is None and at.engine is Engine.OLLAMA else await api.is_loaded(at)
