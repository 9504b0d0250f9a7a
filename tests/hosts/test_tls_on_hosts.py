"""Mutual TLS to instances on hosts: turned on and off by `deploy` under load; who has no certificate gets nothing."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from orchestrator.app import deployments, settings_in_use
from orchestrator.app.authority import authorities_of, names_of
from orchestrator.core.certificates import LIFE_DAYS
from orchestrator.fleet.inventory import address_of
from orchestrator.nodes.authority import held_in, read_certificate
from orchestrator.nodes.hoststeps import Owner, renew_certificate
from orchestrator.nodes.ssh import connected
from orchestrator.settings import NodeSettings, load
from tests.hosts.machines import Machine
from tests.hosts.test_deploy import SMALL, TIMEOUT_S, Operator, operator, place

__all__ = ("operator", "place")

WANTED = {SMALL: {"replicas": 2, "slots": 4, "hosts": 2}}
HOSTS = {"gpu-1", "gpu-2"}
HELD_UP = "olm_authority_held_up_since_timestamp_seconds"
END = "olm_certificate_end_timestamp_seconds"
REQUEST = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def answer(address: tuple[str, int], context: ssl.SSLContext | None) -> bytes:
    """What somebody gets who asks for the version, b'' nothing; `context` None: in clear."""
    got = b""
    with suppress(OSError), socket.create_connection(address, timeout=20) as line:
        spoken = line if context is None else context.wrap_socket(line, server_hostname=None)
        with spoken:
            spoken.sendall(REQUEST)
            while piece := spoken.recv(4096):
                got += piece
    return got


def asked_with(operator: Operator, *, shows: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if shows:
        context.load_cert_chain(operator.paths.client_certificate)
    return context


@contextmanager
def without_stunnel(machine: Machine) -> Iterator[None]:
    machine.run("sh", "-c", "cd /usr/bin; mv stunnel4 stunnel4.away; mv stunnel stunnel.away")
    try:
        yield
    finally:
        machine.run("sh", "-c", "cd /usr/bin; mv stunnel4.away stunnel4; mv stunnel.away stunnel")


def deployed(operator: Operator, *, tls: bool) -> list[dict[str, Any]]:
    """Instances of two hosts, spoken to so; asked all the while, without a failed call where there were some."""
    operator.settings(WANTED, deploy={"tls": tls})
    if deployments.current(operator.paths) is None:
        operator("deploy", "--yes")
        return operator.instances(SMALL)
    with operator.load(SMALL) as answered:
        operator("deploy", "--yes")
    assert operator.asks(SMALL) == 200
    assert set(answered) == {200}
    return operator.instances(SMALL)


def test_a_host_without_stunnel_is_named_and_nothing_is_changed(operator: Operator) -> None:
    deployed(operator, tls=False)
    operator.settings(WANTED, deploy={"tls": True})
    with without_stunnel(operator.net.machines["gpu-2"]):
        said = operator("deploy", "--yes", code=1)
    assert "gpu-2: tls: there is no `stunnel`" in said
    assert "apt-get install stunnel4" in said
    assert {each["tls_name"] for each in operator.instances(SMALL)} == {""}
    assert operator.asks(SMALL) == 200


def test_it_is_turned_on_without_a_failed_call_and_lets_nobody_else_in(operator: Operator) -> None:
    deployed(operator, tls=False)
    instances = deployed(operator, tls=True)
    assert {each["tls_name"] for each in instances} == {"gpu-1", "gpu-2"}
    for each in instances:
        address = each["host"], each["port"]
        assert b"200 OK" in answer(address, asked_with(operator, shows=True))
        assert answer(address, asked_with(operator, shows=False)) == b""
        assert b"200" not in answer(address, None)
        machine = operator.net.machines[each["node"]]
        listening = machine.run("ss", "-Hltn", f"sport = :{each['port']}").splitlines()
        assert {line.split()[3].rpartition(":")[0] for line in listening} == {"127.0.0.1", each["host"]}
    gpu_2 = operator.net.machines["gpu-2"]
    assert "ollamactl-tls" in gpu_2.run("ps", "-o", "user:20=", "-C", "stunnel4")
    assert gpu_2.run("stat", "-c", "%a %U", "/etc/ollamactl/tls/host.pem").strip() == "600 ollamactl-tls"
    exposed = gpu_2.run("systemd-analyze", "security", "--no-pager", "ollama-tls@x.service", check=False)
    assert float(exposed.splitlines()[-1].split(": ")[1].split()[0]) < 2.5, exposed.splitlines()[-1]


def test_certificates_are_renewed_while_answers_run_on_and_an_instance_is_back_after_a_boot(operator: Operator) -> None:
    instances = deployed(operator, tls=True)
    before = {each["node"]: shown_by(each) for each in instances}
    settings = load(operator.folder / "cluster.yaml")
    authorities = authorities_of(operator.paths, settings)
    assert authorities is not None
    authority = authorities.signs
    old = int(time.time()) - LIFE_DAYS * 86_400 * 3 // 4
    for node in settings.hosts:
        asyncio.run(shows(operator, node, authority.certificate, authority.for_host(names_of(node), old)))
    operator.until(lambda: all(shows_another(each, before[each["node"]]) for each in instances), "hosts show the aged")
    aged = {each["node"]: shown_by(each) for each in instances}
    operator.paths.client_certificate.write_text(authority.for_client("old", old))
    with operator.load(SMALL) as answered:
        os.kill(operator.controller_pid(), signal.SIGHUP)
        operator.until(lambda: all(shows_another(each, aged[each["node"]]) for each in instances), "hosts show others")
    assert set(answered) == {200}
    renewed = read_certificate(operator.paths.client_certificate.read_text())
    assert renewed is not None
    assert renewed.since_unix_s > old
    lasts = int(time.time()) + (LIFE_DAYS - 1) * 86_400
    operator.until(lambda: set(ends(operator)) >= HOSTS and min(ends(operator).values()) > lasts, "metrics say so")
    looked = json.loads(operator("doctor", "--all", "--json", code=1))
    found = {each["where"]: each["what"] for each in looked if each["check"] == "certificates"}
    assert found.keys() > HOSTS
    assert {found[each] for each in HOSTS} == {f"the certificate that it shows to gateways lasts {LIFE_DAYS} days"}

    gpu_1 = operator.net.machines["gpu-1"]
    gpu_1.power_off()
    gpu_1.power_on()
    operator.until(lambda: {each["state"] for each in operator.instances(SMALL)} == {"serving"}, "it is back")
    assert operator.asks(SMALL) == 200


def test_another_authority_takes_its_place_without_a_failed_call_and_the_old_one_opens_nothing(
    operator: Operator,
) -> None:
    instances = deployed(operator, tls=True)
    addresses = [(each["host"], each["port"]) for each in instances]
    old, taken = trusting(operator), operator.folder / "taken.pem"
    taken.write_bytes(operator.paths.client_certificate.read_bytes())
    before = asked_with(operator, shows=False)
    before.load_cert_chain(taken)
    assert all(b"200 OK" in answer(each, before) for each in addresses)
    with operator.load(SMALL) as answered:
        said = operator("nodes", "renew-authority")
        assert operator.asks(SMALL) == 200
    assert "the only one that is trusted" in said
    assert len(answered) > 10
    assert set(answered) == {200}
    assert trusting(operator) != old
    for each in addresses:
        assert answer(each, before) == b"", "who has a certificate of the old one gets nothing"
        assert b"200 OK" in answer(each, asked_with(operator, shows=True))
    trusted = operator.net.machines["gpu-1"].run("cat", "/etc/ollamactl/tls/authority.pem")
    assert trusted.count("BEGIN CERTIFICATE") == 1
    assert "nothing to do: 2 as they are" in operator("deploy", "--yes")


def test_a_host_that_is_off_holds_another_authority_up_and_is_named_everywhere_until_it_is_back(
    operator: Operator,
) -> None:
    deployed(operator, tls=True)
    gpu_2 = operator.net.machines["gpu-2"]
    gpu_2.power_off()
    try:
        renewing = operator.start("nodes", "renew-authority")
        operator.until(lambda: set(waited_for(operator)) == {"gpu-2"}, "it is waited for")
        (note,) = (each for each in told(operator)["notes"] if "authority waits" in each)
        assert "for gpu-2 (gpu-2: " in note
        assert note in " ".join(operator("status").split())
        looked = json.loads(operator("doctor", "--json", code=2))
        (found,) = (each for each in looked if each["where"] == "authority")
        assert (found["check"], found["what"]) == ("certificates", note)
        assert "taken out of `nodes`" in found["mends"]
    finally:
        gpu_2.power_on()
    said, _ = renewing.communicate(timeout=TIMEOUT_S)
    assert renewing.returncode == 0, said
    assert "gpu-2 (gpu-2: " in " ".join(said.split())
    operator.until(lambda: not waited_for(operator), "nobody is waited for")
    assert not [each for each in told(operator)["notes"] if "authority waits" in each]
    operator.until(lambda: {each["state"] for each in operator.instances(SMALL)} == {"serving"}, "it serves")


def test_certificates_that_a_crash_damaged_are_mended_without_a_deployment(operator: Operator) -> None:
    instances = deployed(operator, tls=True)
    damages = {
        "gpu-1": "truncate --size 0 /etc/ollamactl/tls/host.pem",
        "gpu-2": "sed -i 2s/^MIG/AAA/ /etc/ollamactl/tls/host.pem",
    }
    before = {each["node"]: shown_by(each) for each in instances}
    mends = operator.controller_pid()
    os.kill(mends, signal.SIGSTOP)
    try:
        for name, damage in damages.items():
            operator.net.machines[name].run("sh", "-c", f"{damage}; systemctl restart 'ollama-tls@*'")
        operator.until(lambda: not any(is_shown(each) for each in instances), "nobody shows anything")
    finally:
        os.kill(mends, signal.SIGCONT)
    operator.until(lambda: all(shows_another(each, before[each["node"]]) for each in instances), "they show others")
    operator.until(lambda: {each["state"] for each in operator.instances(SMALL)} == {"serving"}, "they serve")
    assert operator.asks(SMALL) == 200
    assert "nothing to do: 2 as they are" in operator("deploy", "--yes")


def test_a_unit_and_settings_that_a_crash_damaged_are_mended_without_a_deployment(operator: Operator) -> None:
    instances = deployed(operator, tls=True)
    damages = {
        "gpu-1": "truncate --size 0 /etc/ollamactl/tls/stunnel.conf; systemctl restart 'ollama-tls@*'",
        "gpu-2": "truncate --size 0 /etc/systemd/system/ollama-tls@.service; systemctl daemon-reload; "
        "systemctl stop 'ollama-tls@*'",
    }
    for name, damage in damages.items():
        operator.net.machines[name].run("sh", "-c", f"{damage}; true")
    operator.until(lambda: not any(is_shown(each) for each in instances), "nobody shows anything")
    operator.until(lambda: all(is_shown(each) for each in instances), "they show certificates again")
    operator.until(lambda: {each["state"] for each in operator.instances(SMALL)} == {"serving"}, "they serve")
    assert operator.asks(SMALL) == 200
    assert "nothing to do: 2 as they are" in operator("deploy", "--yes")


def test_it_is_turned_off_again_and_goes_with_the_base(operator: Operator) -> None:
    deployed(operator, tls=True)
    instances = deployed(operator, tls=False)
    assert {each["tls_name"] for each in instances} == {""}
    assert b"200 OK" in answer((instances[0]["host"], instances[0]["port"]), None)
    operator("destroy", "--yes")
    for machine in operator.net.machines.values():
        assert machine.run("sh", "-c", "ls -d /etc/systemd/system/ollama* /etc/ollamactl/tls; true") == ""
        assert "ollamactl-tls" not in machine.run("cat", "/etc/passwd")


def trusting(operator: Operator) -> frozenset[str]:
    """Whose certificates this machine trusts."""
    held = held_in(operator.paths.client_certificate.read_text())
    assert held is not None
    return held.trusts


def shown_by(instance: dict[str, Any]) -> str:
    """The certificate that is shown where an instance is called."""
    return ssl.get_server_certificate((instance["host"], instance["port"]), timeout=20)


def shows_another(instance: dict[str, Any], than: str) -> bool:
    """Whether another certificate is shown; not yet while stunnel opens its socket anew and resets who waits."""
    try:
        return shown_by(instance) != than
    except ConnectionError:
        return False


def is_shown(instance: dict[str, Any]) -> bool:
    return shows_another(instance, "")


def ends(operator: Operator) -> dict[str, float]:
    """By whose they are, when certificates end, as metrics have it."""
    with urllib.request.urlopen(f"http://{operator.endpoint}/metrics", timeout=20) as answer:
        told = [line for line in answer.read().decode().splitlines() if line.startswith(END)]
    return {each.partition('whose="')[2].partition('"')[0]: float(each.rpartition(" ")[2]) for each in told}


def told(operator: Operator) -> dict[str, Any]:
    return json.loads(operator("status", "--json"))


def waited_for(operator: Operator) -> dict[str, float]:
    """Since when, by whose they are, as metrics have it."""
    with urllib.request.urlopen(f"http://{operator.endpoint}/metrics", timeout=20) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith(HELD_UP)]
    values = {each.partition('whose="')[2].partition('"')[0]: float(each.rpartition(" ")[2]) for each in lines}
    return {whose: since for whose, since in values.items() if not math.isnan(since)}


async def shows(operator: Operator, node: NodeSettings, trusted: str, pem: str) -> None:
    """Have a host show this from now on, as the controller would."""
    current = deployments.current(operator.paths)
    assert current is not None
    here = node.model_copy(
        update={"address": operator.net.machines[node.name].address}
    )  # its name is known there alone
    async with connected(address_of(here), operator.keys) as host:
        await renew_certificate(host, Owner(settings_in_use.owner(operator.paths), current.number), trusted, pem)
