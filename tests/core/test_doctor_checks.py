"""What the doctor says of facts: tables of what is wrong, how bad that is, and what mends it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.certificates import Lasting
from orchestrator.core.doctor import (
    Clock,
    Cluster,
    FileLimit,
    Finding,
    Host,
    Loaded,
    OllamaProcess,
    Redis,
    Seen,
    Server,
    Severity,
    Unseen,
    check,
    worst,
)
from orchestrator.core.doctor.checks import CHECKS
from orchestrator.core.doctor.ollama import seconds
from orchestrator.core.model import Accelerator, GpuProcess, NodeFacts, NodeName, OllamaServer

GIB = 2**30
CARD = Accelerator("GPU-1", 0, "RTX 4090", 24 * GIB, 23 * GIB, GIB // 2)
FACTS = NodeFacts(NodeName("gpu-1"), "gpu-1", "a CPU", 8, 64 * GIB, 60 * GIB, 500 * GIB, (CARD,), "550.54", "12.4")
WHOLE = Loaded("llama3.1:8b", 6 * GIB, 6 * GIB, context=8192)
SERVER = Server(
    "one", "127.0.0.1", 11434, False, "ollama", "0.33.0", "", (WHOLE,), "llama3.1:8b", True, 4, 8192, gpus=1
)
GOOD = {
    "OLLAMA_KEEP_ALIVE": "-1",
    "OLLAMA_NUM_PARALLEL": "4",
    "OLLAMA_CONTEXT_LENGTH": "8192",
    "OLLAMA_NO_CLOUD": "1",
}
PROCESS = OllamaProcess(77, False, "ollama.service", GOOD, (("127.0.0.1", 11434),))
REDIS = Redis("redis://10.0.0.9:6379", version="redis 7.0", policy="noeviction", has_log=True, snapshots="")
CLUSTER = Cluster("127.0.0.1:11434", False, True, {"auto": "all"}, pools={"a": ("serving",)})
HEALTHY = Seen(
    settings="cluster.yaml is valid",
    hosts=(Host("gpu-1", FACTS, is_here=True),),
    processes=(PROCESS,),
    servers=(SERVER,),
    redis=REDIS,
    cluster=CLUSTER,
    clocks=(Clock("gpu-2", 0.2, 0.5),),
    files=(FileLimit("gateway, pid 5", 65536, 30, 2300),),
    certificates=(Lasting("host", "gpu-1", 22 * 86_400),),
)


def bad(seen: Seen) -> tuple[Finding, ...]:
    return tuple(each for each in check(seen) if each.severity not in (Severity.OK, Severity.UNSEEN))


def only(seen: Seen) -> Finding:
    [finding] = bad(seen)
    return finding


def of_card(**changes: Any) -> Seen:
    facts = replace(FACTS, accelerators=(replace(CARD, **changes),))
    return replace(HEALTHY, hosts=(Host("gpu-1", facts, is_here=True),))


def of_facts(**changes: Any) -> Seen:
    return replace(HEALTHY, hosts=(Host("gpu-1", replace(FACTS, **changes), is_here=True),))


def of_server(**changes: Any) -> Seen:
    return replace(HEALTHY, servers=(replace(SERVER, **changes),))


def of_environment(**changes: str | None) -> Seen:
    environment = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    return replace(HEALTHY, processes=(replace(PROCESS, environment=environment),))


def of_redis(**changes: Any) -> Seen:
    return replace(HEALTHY, redis=replace(REDIS, **changes))


def of_cluster(**changes: Any) -> Seen:
    return replace(HEALTHY, cluster=replace(CLUSTER, **changes))


def of_certificate(kind: str, days: float) -> Seen:
    return replace(HEALTHY, certificates=(Lasting(kind, "gpu-1", int(days * 86_400)),))


def waiting(for_s: float) -> Seen:
    line = "it waits for gpu-1 (no answer)"
    return replace(HEALTHY, certificates=(), held_up=line, held_up_since_unix_s=5_000.0, now_unix_s=5_000.0 + for_s)


def refused(why: str) -> Seen:
    return replace(HEALTHY, hosts=(Host("gpu-1", Unseen(why), is_here=False, is_refused=True),))


def held(size: int | None, name: str = "python3") -> Seen:
    process = GpuProcess(4711, size, name, "ayse")
    return of_card(processes=(process,), vram_used_bytes=GIB // 2 + (size or 0))


def test_a_healthy_cluster_has_no_finding_and_every_check_says_so():
    assert bad(HEALTHY) == ()
    assert worst(check(HEALTHY)) is Severity.OK
    assert [*dict.fromkeys(each.check for each in check(HEALTHY))] == [*CHECKS]


RESTRICT = "`ollamactl nodes restrict gpu-1`"
NOTE, WARNING, ERROR = Severity.NOTE, Severity.WARNING, Severity.ERROR


@pytest.mark.parametrize(
    ("seen", "name", "severity", "what", "mends"),
    [
        (of_facts(problems=("library and module differ: reboot",)), "driver", ERROR, "differ", "reboot"),
        (of_facts(driver_version="470.1"), "driver", ERROR, "older than 531", "newer driver"),
        (of_facts(cuda_version="11.8"), "driver", ERROR, "CUDA 11.8", "newer driver"),
        (refused(f"look: of another version: run {RESTRICT} again"), "driver", WARNING, "of another version", RESTRICT),
        (refused("look: /usr is not root's"), "driver", WARNING, "is not root's", f"it names, then run {RESTRICT}"),
        (held(6 * GIB), "vram", WARNING, "python3 of ayse (pid 4711) holds 6.0 GiB", "kill 4711"),
        (held(GIB), "vram", NOTE, "holds 1.0 GiB", "kill 4711"),
        (held(None), "vram", NOTE, "does not tell", "kill 4711"),
        (of_card(vram_used_bytes=9 * GIB), "vram", WARNING, "by none of the processes", "fuser"),
        (of_server(problem="no connection: Connection refused"), "servers", ERROR, "refused", "engine-one.log"),
        (of_server(version="0.17.0"), "version", ERROR, "not safe", "install.sh"),
        (of_server(version="0.18.2"), "version", WARNING, "older than 0.24", "install.sh"),
        (of_server(is_resident=False, loaded=()), "residency", WARNING, "not in memory", "/api/generate"),
        (of_server(is_resident=False, loaded=(), is_given=True), "residency", NOTE, "not in memory", "/api/generate"),
        (of_server(loaded=(replace(WHOLE, vram_bytes=0),)), "cpu fallback", ERROR, "size_vram 0", "nvidia-smi"),
        (of_server(loaded=(replace(WHOLE, vram_bytes=0),), gpus=None), "cpu fallback", WARNING, "alone", "nvidia-smi"),
        (of_server(loaded=(replace(WHOLE, vram_bytes=3 * GIB),)), "cpu fallback", WARNING, "50 %", "kv_cache"),
        (of_server(loaded=(replace(WHOLE, context=4096),)), "context", WARNING, "4096 tokens", "OLLAMA_CONTEXT_LENGTH"),
        (of_environment(OLLAMA_KEEP_ALIVE=None), "ollama settings", WARNING, "5 minutes", "OLLAMA_KEEP_ALIVE=-1"),
        (of_environment(OLLAMA_KEEP_ALIVE="0"), "ollama settings", WARNING, "after each answer", "ollama.service"),
        (of_environment(OLLAMA_NUM_PARALLEL=None), "ollama settings", WARNING, "4 are sent", "OLLAMA_NUM_PARALLEL=4"),
        (of_environment(OLLAMA_NUM_PARALLEL="8"), "ollama settings", NOTE, "could serve 8", "slots: 8"),
        (of_environment(OLLAMA_FLASH_ATTENTION="0"), "ollama settings", WARNING, "off", "OLLAMA_FLASH_ATTENTION=1"),
        (of_environment(OLLAMA_KV_CACHE_TYPE="q7"), "ollama settings", ERROR, "q7", "OLLAMA_KV_CACHE_TYPE=q8_0"),
        (of_environment(OLLAMA_CONTEXT_LENGTH=None), "ollama settings", NOTE, "not set", "OLLAMA_CONTEXT_LENGTH=8192"),
        (of_environment(OLLAMA_DEBUG="1"), "ollama settings", WARNING, "OLLAMA_DEBUG", "OLLAMA_DEBUG=0"),
        (of_environment(OLLAMA_NO_CLOUD=None), "ollama settings", NOTE, "NO_CLOUD", "OLLAMA_NO_CLOUD=1"),
        (of_redis(policy="allkeys-lru", memory_limit_bytes=GIB), "redis", ERROR, "evicts", "-p 6379 CONFIG"),
        (of_redis(problem="does not answer"), "redis", ERROR, "not answer", "systemctl"),
        (of_redis(policy="allkeys-lru"), "redis", WARNING, "would evict", "noeviction"),
        (of_redis(evicted_keys=9), "redis", WARNING, "evicted 9 keys", "noeviction"),
        (of_redis(memory_limit_bytes=100, memory_used_bytes=95), "redis", ERROR, "95 %", "maxmemory"),
        (of_redis(has_log=False), "redis", WARNING, "no append-only file", "appendonly yes"),
        (of_redis(has_log=False, snapshots="3600 1"), "redis", NOTE, "snapshots alone", "appendonly yes"),
        (of_redis(is_write_failing=True), "redis", ERROR, "last write", "df -h"),
        (of_redis(is_replica=True), "redis", ERROR, "replica", "sentinel://"),
        (of_redis(is_open=True), "redis", WARNING, "without a password", "requirepass"),
        (of_cluster(store="DOWN: gone"), "redis", ERROR, "DOWN", "redis.log"),
        (of_cluster(problem="no answer"), "pools", ERROR, "no answer", "gateway-0.log"),
        (of_cluster(pools={"a": ("down", "down")}), "pools", ERROR, "no instance serves", "ollamactl status"),
        (of_cluster(pools={"a": ("down", "serving")}), "pools", WARNING, "1 of 2", "ollamactl status"),
        (of_cluster(pools={"a": ("cold",)}), "pools", NOTE, "in memory", "loaded when"),
        (of_cluster(is_cache_on=False), "cache", WARNING, "OFF", "enabled: true"),
        (of_cluster(cached_routes={"auto": "off"}), "cache", NOTE, "keeps no answers", "cache: all"),
        (of_cluster(listens="0.0.0.0:11434"), "open ports", ERROR, "no `keys`", "keys create NAME"),
        (of_cluster(ending_keys={"team": 3.4}), "open ports", WARNING, "team ends in 3 days", "keys change team"),
        (of_cluster(ending_keys={"team": -3.4}), "open ports", WARNING, "team has ended", "keys revoke team"),
        (of_certificate("host", 20.4), "certificates", WARNING, "gateways ends in 20 days", "controller.log"),
        (of_certificate("gateway", -3.0), "certificates", ERROR, "has ended", "controller.log"),
        (of_certificate("authority", 20.0), "certificates", WARNING, "own authority ends in 20", "renew-authority"),
        (replace(HEALTHY, held_up="it waits for gpu-1 (no answer)"), "certificates", WARNING, "gpu-1", "`nodes`"),
        (waiting(601.0), "certificates", WARNING, "gpu-1", "`nodes`"),
        (waiting(599.0), "certificates", NOTE, "gpu-1", "`nodes`"),
        (of_certificate("server", 3.0), "certificates", WARNING, "shows ends in 3", "owner"),
        (of_certificate("server-ca", 3.0), "certificates", WARNING, "checked by ends in 3", "instances"),
        (of_certificate("server-cert", 0.0), "certificates", ERROR, "is shown has ended", "instances"),
        (replace(HEALTHY, clocks=(Clock("gpu-2", -90.0, 0.5),)), "clocks", WARNING, "behind", "set-ntp"),
        (replace(HEALTHY, clocks=(Clock("gpu-2", 4.0, 0.5),)), "clocks", NOTE, "ahead of", "set-ntp"),
        (replace(HEALTHY, files=(FileLimit("w", 1024, 30, 2300),)), "file limits", WARNING, "2300", "ulimit -n"),
        (replace(HEALTHY, files=(FileLimit("w", 1024, 900, 99),)), "file limits", ERROR, "900 of 1024", "ulimit -n"),
        (replace(HEALTHY, settings=Unseen("line 3: no such key")), "settings", ERROR, "line 3", "config check"),
    ],
)  # fmt: skip
def test_one_thing_wrong_is_one_finding_with_what_mends_it(seen, name, severity, what, mends):
    finding = only(seen)
    assert (finding.check, finding.severity) == (name, severity)
    assert what in finding.what
    assert mends in finding.mends
    assert finding.hurts
    assert finding.where


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.5"])
def test_an_ollama_that_listens_to_the_network_is_an_error(address):
    process = replace(PROCESS, listens=((address, 11434),))
    finding = only(replace(HEALTHY, processes=(process,), servers=()))
    assert (finding.check, finding.severity) == ("open ports", ERROR)
    assert "OLLAMA_HOST=127.0.0.1:11434" in finding.mends


def test_a_server_that_answers_over_the_network_is_named_with_its_firewall_rule():
    finding = only(of_server(host="10.0.0.5"))
    assert finding.check == "open ports"
    assert "ufw deny 11434/tcp" in finding.mends


def test_what_only_api_ps_shows_of_a_remote_ollama_is_its_keep_alive():
    soon = replace(WHOLE, expires_in_s=240.0)
    remote = of_server(host="10.0.0.5", loaded=(soon,))
    found = [each for each in bad(remote) if each.check == "ollama settings"]
    assert "4 min from now" in found[0].what
    lasting = of_server(host="10.0.0.5", loaded=(replace(WHOLE, expires_in_s=1e9),))
    assert [each.severity for each in check(lasting) if each.where == "one" and each.check == "ollama settings"] == [
        Severity.UNSEEN
    ]


def test_a_model_on_the_cpu_is_as_planned_where_there_is_no_gpu():
    assert bad(of_server(loaded=(replace(WHOLE, vram_bytes=0),), gpus=0)) == ()


def test_an_engines_own_process_on_a_card_is_no_stranger():
    for name in ("ollama", "ollama_llama_server", "llama-server"):
        assert bad(held(20 * GIB, name)) == ()


def test_an_ollama_of_somebody_else_beside_our_instances_is_a_warning():
    stranger = OllamaServer(88, 11434, "ollama", None, "ollama.service")
    finding = only(of_facts(ollamas=(stranger,)))
    assert (finding.check, finding.severity) == ("vram", WARNING)
    assert "disable --now ollama.service" in finding.mends
    assert bad(of_facts(ollamas=(replace(stranger, is_ours=True),))) == ()


def versions(*found: str) -> Seen:
    servers = (replace(SERVER, name=each, port=11434 + number, version=each) for number, each in enumerate(found))
    return replace(HEALTHY, servers=tuple(servers))


def test_versions_apart_are_a_note_and_runners_apart_a_warning():
    assert only(versions("0.33.0", "0.33.1")).severity is NOTE
    finding = only(versions("0.33.0", "0.24.0"))
    assert finding.severity is WARNING
    assert "0.24.0, 0.33.0" in finding.what


def test_simulated_instances_have_no_version_to_mend():
    assert bad(of_server(version="0.1.0", is_simulated=True)) == ()


def nothing_seen() -> Seen:
    why = Unseen("nobody is there")
    return Seen("none", (Host("gpu-1", why, is_here=False),), (), why, why, why, (why,), ())


def test_what_cannot_be_looked_at_says_why_and_is_no_error():
    findings = check(nothing_seen())
    unseen = {each.check for each in findings if each.severity is Severity.UNSEEN}
    assert unseen >= {"driver", "vram", "redis", "pools", "servers", "cache", "open ports", "clocks", "file limits"}
    assert worst(findings) is Severity.UNSEEN


def test_no_check_is_silent():
    assert [name for name in CHECKS if name not in {each.check for each in check(nothing_seen())}] == []


def test_another_users_ollama_is_not_looked_at_and_says_how_it_could_be():
    seen = replace(HEALTHY, processes=(OllamaProcess(5, False),))
    found = [each for each in check(seen) if each.where == "ollama serve, pid 5"]
    assert {each.check for each in found} == {"open ports", "ollama settings"}
    assert all(each.severity is Severity.UNSEEN and "root" in each.what for each in found)


@pytest.mark.parametrize(
    ("told", "is_s"),
    [
        ("300", 300),
        ("-1", -1),
        ("5m", 300),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("-1m", -60),
        ("soon", None),
        ("5x", None),
    ],
)
def test_a_keep_alive_is_read_as_ollama_reads_it(told, is_s):
    assert seconds(told) == is_s


def test_every_finding_above_ok_names_what_mends_it():
    def mended(findings: Iterable[Finding]) -> bool:
        return all(each.mends and each.hurts for each in findings)

    assert mended(bad(of_server(problem="gone", host="10.0.0.5", is_given=True)))
    assert mended(bad(of_environment(OLLAMA_FLASH_ATTENTION="0", OLLAMA_KV_CACHE_TYPE="q8_0")))
