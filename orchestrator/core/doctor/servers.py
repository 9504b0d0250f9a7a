"""Checks of the engines that calls go to: do they answer, what version, is the model in memory and on the GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator.core.doctor.seen import Loaded, Seen, Server, Unseen
from orchestrator.core.doctor.told import Finding, Says

# Whoever reaches an older one reads its memory, other callers' prompts in it, with three calls (CVE-2026-7482).
SAFE_FROM = (0, 17, 1)
# The oldest that this product was measured with, and the first whose runner is llama.cpp's own server.
MEASURED_FROM, NEW_RUNNER = (0, 24, 0), (0, 30, 0)
_UPGRADE = "`curl -fsSL https://ollama.com/install.sh | sh` there, one server after the other"


def answering(seen: Seen) -> Iterator[Finding]:
    """Whether each server answers."""
    says = Says("servers")
    if isinstance(seen.servers, Unseen):
        yield says.unseen("servers", seen.servers.why)
        return
    for each in seen.servers:
        if each.problem:
            mends = (
                f"look at it there: `systemctl status ollama`, `curl {each.origin}/api/version`"
                if each.is_given
                else f"its reason: `ollamactl status`; its log: engine-{each.name}.log in the state folder's logs"
            )
            yield says.error(each.name, each.problem, "its slots serve nobody", mends)
        else:
            yield says.ok(each.name, "answers")


def version(seen: Seen) -> Iterator[Finding]:
    """Whether each Ollama is new enough, and all of them alike."""
    says = Says("version")
    known: dict[str, tuple[int, ...]] = {}
    for each in ollamas(seen):
        told = version_of(each.version)
        if told is None:
            yield says.unseen(each.name, "it does not tell its version")
            continue
        known[each.version] = told
        if told < SAFE_FROM:
            hurts = "who reaches it can read other callers' prompts out of it (CVE-2026-7482, mended in 0.17.1)"
            yield says.error(each.name, f"Ollama {each.version} is not safe", hurts, _UPGRADE)
        elif told < MEASURED_FROM:
            what = f"Ollama {each.version} is older than 0.24, the oldest that this was measured with"
            yield says.warning(each.name, what, "endpoints and memory it needs may be others than planned", _UPGRADE)
        else:
            yield says.ok(each.name, f"Ollama {each.version}")
    if len(known) > 1:
        what = f"different versions: {', '.join(sorted(known, key=lambda each: known[each]))}"
        hurts = "the same call is answered differently by server (embeddings of chat models, prompts too long)"
        is_mixed = min(known.values()) < NEW_RUNNER <= max(known.values())
        yield (says.warning if is_mixed else says.note)("all servers", what, hurts, _UPGRADE)


def version_of(text: str) -> tuple[int, ...] | None:
    """`0.33.0-rc2` as numbers; None for what is no release's."""
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", text)
    numbers = tuple(int(each) for each in found.groups()) if found else (0, 0, 0)
    return None if numbers == (0, 0, 0) else numbers  # 0.0.0: somebody built it from source


def ollamas(seen: Seen) -> Iterator[Server]:
    """Those that answer, a process once, however many models of it are published."""
    known: set[tuple[str, int]] = set()
    for each in () if isinstance(seen.servers, Unseen) else seen.servers:
        if each.problem or each.is_simulated or each.engine != "ollama" or (each.host, each.port) in known:
            continue
        known.add((each.host, each.port))
        yield each


# --- memory ----------------------------------------------------------------------------------------------------------


def residency(seen: Seen) -> Iterator[Finding]:
    """Whether the model that each server is there for is in its memory."""
    says = Says("residency")
    for each in _answering(seen):
        if each.state in ("starting", "loading", "draining"):
            yield says.note(each.name, f"{each.state}: {each.reason}".rstrip(": "), *_IN_A_MOMENT)
        elif each.is_resident is False and not each.is_given:
            what = f"{each.model} is not in memory"
            hurts = "the next caller waits for the load, from seconds to minutes"
            yield says.warning(each.name, what, hurts, f"{_load(each)} loads it; the controller keeps it there")
        elif each.is_resident is False:
            hurts = "its first caller waits for the load"
            yield says.note(each.name, f"{each.model} is not in memory", hurts, f"{_load(each)} loads it now")
        elif each.is_resident is None:
            yield says.unseen(each.name, "it does not tell what is in its memory")
        else:
            yield says.ok(each.name, f"{each.model or 'a model'} is in memory")


def _load(server: Server) -> str:
    return f'`curl {server.origin}/api/generate -d \'{{"model": "{server.model}"}}\'`'


_IN_A_MOMENT = ("it serves nobody yet", "wait for it: `ollamactl status` shows how far it is")


def on_cpu(seen: Seen) -> Iterator[Finding]:
    """Whether models that should be on a GPU are computed by the CPU."""
    says = Says("cpu fallback")
    done: set[tuple[str, int, str]] = set()
    for each in _answering(seen):
        if isinstance(each.loaded, Unseen):
            yield says.unseen(each.name, each.loaded.why)
            continue
        for model in each.loaded:
            if (each.host, each.port, model.name) not in done and model.size_bytes > 0:
                done.add((each.host, each.port, model.name))
                yield _placed(says, each, model)


def _placed(says: Says, server: Server, model: Loaded) -> Finding:
    outside = model.size_bytes - model.vram_bytes
    if outside <= 0:
        return says.ok(server.name, f"{model.name} is on the GPU whole")
    if server.gpus == 0:
        return says.ok(server.name, f"{model.name} is on the CPU, as planned: there is no GPU")
    part = round(100 * outside / model.size_bytes)
    if model.vram_bytes > 0:
        what = f"{part} % of {model.name} are in the host's memory (size_vram below size)"
        hurts = "each token waits for the CPU: several times slower than on the GPU alone"
        mends = (
            "less context, fewer slots, `kv_cache: q8_0`, a smaller quantisation; `ollamactl gpus`: who holds the rest"
        )
        return says.warning(server.name, what, hurts, mends)
    what = f"{model.name} is computed by the CPU alone (size_vram 0)"
    mends = "`nvidia-smi` there, then the start of its log (`journalctl -u ollama | grep -iE 'gpu|cuda'`); restart it"
    hurts = "ten times slower and more, and a few callers fill the queue"
    return (says.error if server.gpus else says.warning)(server.name, what, hurts, mends)


def context(seen: Seen) -> Iterator[Finding]:
    """Whether models are loaded with the context that callers are promised."""
    says = Says("context")
    for each in _answering(seen):
        loaded = () if isinstance(each.loaded, Unseen) else each.loaded
        for model in loaded:
            if each.context and model.context and same_model(model.name, each.model or model.name):
                if model.context < each.context:
                    what = f"{model.name} is loaded with {model.context} tokens, and {each.context} are promised"
                    hurts = "longer prompts are cut at their beginning, without a word"
                    mends = f"OLLAMA_CONTEXT_LENGTH={each.context} there, or `context: {model.context}` in cluster.yaml"
                    yield says.warning(each.name, what, hurts, mends)
                else:
                    yield says.ok(each.name, f"{model.name} has {model.context} tokens a slot")


def same_model(one: str, other: str) -> bool:
    return one.removesuffix(":latest").lower() == other.removesuffix(":latest").lower()


def _answering(seen: Seen) -> Iterator[Server]:
    yield from (each for each in (() if isinstance(seen.servers, Unseen) else seen.servers) if not each.problem)
