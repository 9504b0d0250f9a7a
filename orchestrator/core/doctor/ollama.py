"""Checks of how an Ollama is set: keep-alive, parallel calls, attention, cache type, context, what it tells others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from orchestrator.core.doctor.seen import Loaded, OllamaProcess, Seen, Server, Unseen
from orchestrator.core.doctor.servers import ollamas
from orchestrator.core.doctor.told import Finding, Says
from orchestrator.core.origins import is_loopback

# Someone who comes back from lunch should find the model in memory.
SHORT_KEEP_S = 3600.0


def set_variable(process: OllamaProcess | None, name: str, value: str) -> str:
    """How one setting of an Ollama is changed, by what started it."""
    unit = process.unit if process is not None else "ollama.service"
    if unit:
        return (
            f'`systemctl edit {unit}` with `[Service]` `Environment="{name}={value}"`, then `systemctl restart {unit}`'
        )
    return f"start it with {name}={value}"


def settings(seen: Seen) -> Iterator[Finding]:
    """Whether an Ollama runs with settings that hurt: those of this machine by their environment."""
    says = Says("ollama settings")
    seen_here: set[tuple[str, int]] = set()
    servers = list(ollamas(seen))
    for process in seen.processes:
        where = f"ollama serve, pid {process.pid}"
        if process.environment is None:
            yield says.unseen(where, "its environment is another user's: run it as root")
            continue
        ports = {port for _, port in process.listens or ()}
        server = next((each for each in servers if is_loopback(each.host) and each.port in ports), None)
        if server is not None:
            seen_here.add((server.host, server.port))
        found = list(_settings(says, where, process, process.environment, server))
        yield from found or [says.ok(where, "nothing of its settings hurts")]
    for each in servers:
        if (each.host, each.port) not in seen_here:
            yield from _from_outside(says, each)


def _settings(
    says: Says, where: str, process: OllamaProcess, environment: Mapping[str, str], server: Server | None
) -> Iterator[Finding]:
    def mend(name: str, value: str) -> str:
        return set_variable(process, name, value)

    yield from _keep_alive(says, where, environment.get("OLLAMA_KEEP_ALIVE", ""), mend("OLLAMA_KEEP_ALIVE", "-1"))
    yield from _parallel(says, where, process, environment, server)
    cache_type = environment.get("OLLAMA_KV_CACHE_TYPE", "").lower()
    is_flash_off = environment.get("OLLAMA_FLASH_ATTENTION", "").lower() in ("0", "false", "f")
    if cache_type not in ("", *_CACHE_TYPES):
        hurts = "it is not checked at the start, and every load fails with 500"
        what = f"OLLAMA_KV_CACHE_TYPE={cache_type} is none"
        yield says.error(where, what, hurts, mend("OLLAMA_KV_CACHE_TYPE", "q8_0"))
    if is_flash_off and cache_type not in ("", "f16", "f32", "bf16"):
        what = f"OLLAMA_FLASH_ATTENTION is off, and the KV cache is {cache_type}"
        yield says.error(where, what, "every load fails with 500", mend("OLLAMA_FLASH_ATTENTION", "1"))
    elif is_flash_off:
        hurts = "attention needs up to eight times the scratch memory: less room for slots and context"
        yield says.warning(where, "OLLAMA_FLASH_ATTENTION is off", hurts, mend("OLLAMA_FLASH_ATTENTION", "1"))
    if environment.get("OLLAMA_CONTEXT_LENGTH", "0") in ("", "0") and not process.is_ours:
        what = "OLLAMA_CONTEXT_LENGTH is not set: 4096, 32768 or 262144 tokens by the memory of its cards"
        hurts = "the same prompt is cut on one server and not on another, and large contexts eat the room for slots"
        yield says.note(where, what, hurts, mend("OLLAMA_CONTEXT_LENGTH", str((server and server.context) or 8192)))
    if environment.get("OLLAMA_DEBUG", "").lower() not in ("", "0", "false"):
        hurts = "its log grows by megabytes a minute, and prompts can be in it"
        yield says.warning(where, "OLLAMA_DEBUG is on", hurts, mend("OLLAMA_DEBUG", "0"))
    if environment.get("OLLAMA_NO_CLOUD", "").lower() not in ("1", "true"):
        what = "OLLAMA_NO_CLOUD is not set"
        hurts = "prompts to `…-cloud` models leave the house, and it asks ollama.com every 4 h"
        yield says.note(where, what, hurts, mend("OLLAMA_NO_CLOUD", "1"))


# The types that llama.cpp takes.
_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")


def _keep_alive(says: Says, where: str, told: str, mends: str) -> Iterator[Finding]:
    kept_s = seconds(told) if told else 300.0
    hurts = "whoever asks after a pause waits for the load, from seconds to minutes"
    if kept_s == 0:
        yield says.warning(where, "OLLAMA_KEEP_ALIVE=0: a model leaves memory after each answer", hurts, mends)
    elif kept_s is not None and 0 < kept_s < SHORT_KEEP_S:
        named = f"OLLAMA_KEEP_ALIVE={told}" if told else "OLLAMA_KEEP_ALIVE is not set: 5 minutes"
        yield says.warning(where, f"{named}; then a model leaves memory", hurts, mends)


def _parallel(
    says: Says, where: str, process: OllamaProcess, environment: Mapping[str, str], server: Server | None
) -> Iterator[Finding]:
    told = environment.get("OLLAMA_NUM_PARALLEL", "")
    has = int(told) if told.isdecimal() and int(told) > 0 else 1
    sent = server.slots if server is not None else None
    if sent is None:
        return
    if sent > has:
        what = f"it serves {has} call{'s' * (has > 1)} at once (OLLAMA_NUM_PARALLEL), and {sent} are sent to it"
        hurts = "the others wait inside it, where they cannot go to a free server"
        mends = f"{set_variable(process, 'OLLAMA_NUM_PARALLEL', str(sent))}; or `slots: {has}` in cluster.yaml"
        yield says.warning(where, what, hurts, mends)
    elif sent < has:
        what = f"it could serve {has} calls at once (OLLAMA_NUM_PARALLEL), and {sent} are sent to it"
        hurts = "slots whose memory is paid for stay idle"
        yield says.note(where, what, hurts, f"`slots: {has}` under its `instances` entry in cluster.yaml")


def _from_outside(says: Says, server: Server) -> Iterator[Finding]:
    """What an Ollama whose environment cannot be read lets one see."""
    loaded: Iterable[Loaded] = () if isinstance(server.loaded, Unseen) else server.loaded
    short = [each for each in loaded if each.expires_in_s is not None and each.expires_in_s < SHORT_KEEP_S]
    for each in short:
        what = f"{each.name} leaves memory {max(each.expires_in_s or 0.0, 0.0) / 60:.0f} min from now if nobody asks"
        hurts = "whoever asks after a pause waits for the load, from seconds to minutes"
        yield says.warning(server.name, what, hurts, f"there: {set_variable(None, 'OLLAMA_KEEP_ALIVE', '-1')}")
    if not short:
        yield says.unseen(server.name, "its process is not among those of this machine: only its keep-alive shows")


_UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(told: str) -> float | None:
    """A keep-alive as Ollama reads it: seconds, or Go's durations; below 0 for ever. None: it cannot be read."""
    if re.fullmatch(r"-?\d+", told):
        return float(told)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", told)
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != told.lstrip("-"):
        return None
    total = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    return -total if told.startswith("-") else total
