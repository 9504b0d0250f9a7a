"""Checks of the machines: driver, who holds VRAM, which Ollama is open to the network, how many files may be open."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator.core.address import address_text
from orchestrator.core.doctor.ollama import set_variable
from orchestrator.core.doctor.seen import Cluster, Host, OllamaProcess, Seen, Unseen
from orchestrator.core.doctor.told import Finding, Says
from orchestrator.core.model import Accelerator, GpuProcess, NodeFacts
from orchestrator.core.origins import is_loopback

GIB = 2**30
# Ollama's docs/gpu: "driver version 531 and newer"; its runners are built for CUDA 12, which came with driver 525.
OLDEST_DRIVER, OLDEST_CUDA = 531, 12
# A desktop's windows hold some hundred MiB of a card, a training run or a second Ollama gigabytes.
NOTED_BYTES, HARMFUL_PART = 256 * 2**20, 0.1
# What a driver keeps for itself of a card, with ECC up to a fifteenth more.
DRIVERS_OWN_PART = 0.1
_OURS = re.compile(r"^(ollama|llama-server)")


def driver(seen: Seen) -> Iterator[Finding]:
    """Whether each host's GPUs can be seen and used."""
    says = Says("driver")
    for host in seen.hosts:
        if isinstance(host.facts, Unseen):
            yield (
                _refused(says, host.name, host.facts.why) if host.is_refused else says.unseen(host.name, host.facts.why)
            )
        else:
            found = list(_driver_of(says, host.name, host.facts))
            yield from found or [says.ok(host.name, _gpus_in_words(host.facts))]


def _refused(says: Says, where: str, why: str) -> Finding:
    """A restricted host whose program does nothing for us. `why` ends with the way out, where it has one."""
    what, _, mends = why.rpartition(": ")
    again = f"`ollamactl nodes restrict {where}`"
    if again not in mends:
        what, mends = why, f"mend there what it names, then run {again} again"
    hurts = "what runs there goes on, but nothing is deployed there, mended or stopped, and upgrades wait for it"
    return says.warning(where, what, hurts, mends)


def _driver_of(says: Says, where: str, facts: NodeFacts) -> Iterator[Finding]:
    for problem in facts.problems:
        what, _, mends = problem.rpartition(": ")
        hurts = "what cannot be seen gets no instance, and a model placed without a GPU is many times slower"
        yield says.error(where, what or problem, hurts, mends or "`ollamactl nodes` shows what is left of the host")
    install = "install a newer driver (`ubuntu-drivers install`, or nvidia.com/drivers), then reboot"
    driver_version, cuda = _number(facts.driver_version), _number(facts.cuda_version)
    if facts.accelerators and driver_version is not None and driver_version < OLDEST_DRIVER:
        what = f"driver {facts.driver_version} is older than {OLDEST_DRIVER}, the oldest that Ollama works with"
        yield says.error(where, what, "Ollama finds no GPU and computes on the CPU", install)
    elif facts.accelerators and cuda is not None and cuda < OLDEST_CUDA:
        what = f"the driver offers CUDA {facts.cuda_version}; Ollama's runners need {OLDEST_CUDA}"
        yield says.error(where, what, "Ollama finds no GPU and computes on the CPU", install)


def _gpus_in_words(facts: NodeFacts) -> str:
    if not facts.accelerators:
        return "no GPU, and nothing hides one: the CPU serves"
    played = ", simulated" if facts.is_simulated else f", driver {facts.driver_version}, CUDA {facts.cuda_version}"
    return f"{len(facts.accelerators)} GPU{'s' * (len(facts.accelerators) > 1)}{played}"


def _number(version: str | None) -> int | None:
    found = re.match(r"\d+", version or "")
    return int(found[0]) if found else None


def vram(seen: Seen) -> Iterator[Finding]:
    """Whether others hold memory of the cards."""
    says = Says("vram")
    for host in seen.hosts:
        if isinstance(host.facts, Unseen):
            yield says.unseen(host.name, host.facts.why)
            continue
        yield from _beside(says, host, seen)
        for card in host.facts.accelerators:
            where = f"{host.name}, {card.name} #{card.index}"
            found = [*_held(says, where, card), *_held_by_nobody(says, where, card)]
            yield from found or [says.ok(where, f"{_gib(card.vram_free_bytes)} free, held by no stranger")]
        if not host.facts.accelerators:
            yield says.ok(host.name, "no GPU")


def _beside(says: Says, host: Host, seen: Seen) -> Iterator[Finding]:
    """Another's Ollama on a host where instances of our own are placed."""
    deploys = not isinstance(seen.servers, Unseen) and any(not each.is_given for each in seen.servers)
    assert not isinstance(host.facts, Unseen)
    for server in host.facts.ollamas:
        if deploys and not server.is_ours and host.facts.accelerators:
            what = f"an Ollama runs here that the cluster did not start (pid {server.pid}, user {server.user})"
            hurts = "whenever somebody asks it, it takes memory of the cards that instances were placed by"
            ends = f"`systemctl disable --now {server.unit}`" if server.unit else f"`kill {server.pid}` there"
            yield says.warning(host.name, what, hurts, f"{ends}; its models can be served by the cluster")


def _held(says: Says, where: str, card: Accelerator) -> Iterator[Finding]:
    hurts = "that memory is missing for weights and slots, and instances are placed around it"
    for process in card.processes:
        if _OURS.match(process.name):
            continue
        ends = f"end it where it is not needed (`kill {process.pid}` there); else the plan does with what is left"
        if process.vram_bytes is None:
            yield says.note(where, f"{_named(process)} is on it; the driver does not tell with how much", hurts, ends)
        elif process.vram_bytes >= HARMFUL_PART * card.vram_total_bytes:
            yield says.warning(where, f"{_named(process)} holds {_gib(process.vram_bytes)} of it", hurts, ends)
        elif process.vram_bytes >= NOTED_BYTES:
            yield says.note(where, f"{_named(process)} holds {_gib(process.vram_bytes)} of it", hurts, ends)


def _held_by_nobody(says: Says, where: str, card: Accelerator) -> Iterator[Finding]:
    told = [each.vram_bytes for each in card.processes]
    if any(each is None for each in told):
        return
    missing = card.vram_used_bytes - sum(each or 0 for each in told)
    if missing >= max(GIB, 2 * DRIVERS_OWN_PART * card.vram_total_bytes):
        what = f"{_gib(missing)} of it are used, and by none of the processes that the driver names"
        hurts = "a runner that outlived its server (kill -9 leaves them), or a container: the plan does without it"
        yield says.warning(where, what, hurts, "`fuser -v /dev/nvidia*` there as root names who has the card open")


def _named(process: GpuProcess) -> str:
    user = f" of {process.user}" if process.user else ""
    return f"{process.name or 'a process'}{user} (pid {process.pid})"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


# --- the network -----------------------------------------------------------------------------------------------------


def open_ports(seen: Seen) -> Iterator[Finding]:
    """Whether anybody can ask an engine, or the endpoint, without a key."""
    says = Says("open ports")
    found = [*_open_here(says, seen.processes), *_open_servers(says, seen), *_open_endpoint(says, seen)]
    yield from found
    if not any(each.mends for each in found):
        yield says.ok("this machine", f"{len(seen.processes)} Ollama running here, none open to the network")


def _open_here(says: Says, processes: tuple[OllamaProcess, ...]) -> Iterator[Finding]:
    for each in processes:
        where = f"ollama serve, pid {each.pid}"
        if each.listens is None:
            yield says.unseen(where, "its sockets are another user's: run it as root")
            continue
        outward = [address_text(host, port) for host, port in each.listens if not is_loopback(host)]
        if outward:
            what = f"listens on {', '.join(outward)}, and Ollama knows no keys"
            hurts = "whoever reaches it asks past the queue, and may pull, replace and delete models"
            yield says.error(where, what, hurts, set_variable(each, "OLLAMA_HOST", f"127.0.0.1:{each.listens[0][1]}"))


def _open_servers(says: Says, seen: Seen) -> Iterator[Finding]:
    for each in () if isinstance(seen.servers, Unseen) else seen.servers:
        if each.problem or is_loopback(each.host):
            continue
        what = f"{address_text(each.host, each.port)} answered over the network without a key"
        hurts = "whoever reaches it asks past the queue and the keys, and may pull, replace and delete models"
        mends = (
            f"let only the gateway's host in, there: `ufw allow from GATEWAY to any port {each.port} proto tcp` and "
            f"`ufw deny {each.port}/tcp`"
        )
        yield says.warning(each.name, what, hurts, mends)


def _open_endpoint(says: Says, seen: Seen) -> Iterator[Finding]:
    cluster = seen.cluster
    if isinstance(cluster, Unseen):
        yield says.unseen("endpoint", cluster.why)
    elif not cluster.has_keys and cluster.listens and not is_loopback(cluster.listens.rpartition(":")[0].strip("[]")):
        what = f"listens on {cluster.listens}, and no `keys` are configured"
        hurts = "whoever reaches it may ask, and read the status"
        yield says.error("endpoint", what, hurts, "`ollamactl keys create NAME` makes one and prints its secret")
    if not isinstance(cluster, Unseen):
        yield from _ending_keys(says, cluster)


def _ending_keys(says: Says, cluster: Cluster) -> Iterator[Finding]:
    for name, days in cluster.ending_keys.items():
        what = f"the API key {name} ends in {days:.0f} days" if days > 0 else f"the API key {name} has ended"
        mends = f"`ollamactl keys change {name} --expires 365d`, or `ollamactl keys revoke {name}`; or in cluster.yaml"
        yield says.warning("endpoint", what, "from then on its callers are answered 401", mends)


# --- files -----------------------------------------------------------------------------------------------------------

NEARLY_ALL = 0.8


def files(seen: Seen) -> Iterator[Finding]:
    """Whether the gateways may open as many connections as their queues allow callers."""
    says = Says("file limits")
    mends = "`ulimit -n 65536` before `ollamactl up`; as a service LimitNOFILE=65536, as in deploy/ollamactl.service"
    for each in seen.files:
        if each.in_use is not None and each.in_use >= NEARLY_ALL * each.limit:
            what = f"{each.in_use} of {each.limit} files and connections are open"
            yield says.error(each.whose, what, "at the limit it takes no more callers", mends)
        elif each.limit < each.needed:
            what = f"may open {each.limit} files and connections; full queues need {each.needed}"
            yield says.warning(each.whose, what, "callers are turned away before the queue is full", mends)
        else:
            used = "" if each.in_use is None else f", {each.in_use} are open"
            yield says.ok(each.whose, f"{each.limit} files and connections allowed{used}")
    if not seen.files:
        yield says.unseen("gateways", "no gateway's limits can be read: another user's, or none runs")
