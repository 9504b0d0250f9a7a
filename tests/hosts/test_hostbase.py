"""The base of a host: made, found as it is, refused, and taken away again."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from orchestrator.fleet.hostbase import Made, base_of, make_base, make_bases, remove_base
from orchestrator.nodes.hoststeps import Owner, check_held, claim
from orchestrator.nodes.ssh import SshError
from orchestrator.nodes.systemd_text import render_firewall
from tests.hosts.bases import (
    MODELS,
    PORTS,
    STEPS,
    USER,
    VERSIONS,
    all_files,
    archive,
    changed,
    host_of,
    script,
    wanted,
)
from tests.hosts.reaching import address, known, reach

pytestmark = pytest.mark.usefixtures("bare")


async def test_a_fresh_host_gets_its_base_and_a_second_run_changes_nothing(hosts, gpu_1, tmp_path):
    source = archive(tmp_path, script(tmp_path))
    base = await wanted(tmp_path, source)
    seen = []
    async with host_of(hosts, gpu_1, tmp_path) as host:
        first = await make_base(host, base, on_step=seen.append)
        before = all_files(gpu_1)
        again = await make_base(host, base)
    assert changed(first) == dict.fromkeys(STEPS, True) | {"system": False, "room": False, "upload": True}
    assert tuple(seen) == first
    assert changed(again) == dict.fromkeys(STEPS, False)
    assert all_files(gpu_1) == before
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    assert gpu_1.run("readlink", f"{VERSIONS}/current") == f"{digest}\n"
    assert gpu_1.run(f"{VERSIONS}/current/bin/ollama", "--version") == "ollama version is 0.33.0\n"
    assert gpu_1.run("cat", f"{VERSIONS}/current/lib/ollama/libggml.so") == "library"
    owners = gpu_1.run("stat", "-c", "%n %U %a", "/etc/ollamactl/instances", MODELS, f"{VERSIONS}/{digest}/bin/ollama")
    assert (
        owners == f"/etc/ollamactl/instances root 700\n{MODELS} {USER} 755\n{VERSIONS}/{digest}/bin/ollama root 755\n"
    )
    assert gpu_1.run("id", "-nG", USER).split() == [USER, "video"]
    assert gpu_1.run("systemctl", "show", "-p", "User", "--value", "ollama@probe.service") == f"{USER}\n"
    assert gpu_1.run("ls", "-A", "/opt/ollamactl/incoming") == ""


async def test_a_dry_run_tells_what_would_change_and_changes_nothing(hosts, gpu_1, tmp_path):
    base = await wanted(tmp_path, script(tmp_path))
    before = all_files(gpu_1)
    async with host_of(hosts, gpu_1, tmp_path) as host:
        would = await base_of(host, base)
        assert changed(would) == dict.fromkeys(STEPS, True) | {"system": False}
        assert all_files(gpu_1) == before
        assert USER not in gpu_1.run("getent", "passwd")
        await make_base(host, base)
        assert changed(await base_of(host, base)) == dict.fromkeys(STEPS, False)


async def test_what_somebody_undid_on_the_host_is_put_back_and_nothing_else(hosts, gpu_1, tmp_path):
    base = await wanted(tmp_path, script(tmp_path))
    async with host_of(hosts, gpu_1, tmp_path) as host:
        await make_base(host, base)
        gpu_1.run("nft", "flush", "ruleset")
        gpu_1.run("chmod", "755", "/etc/ollamactl/instances")
        gpu_1.run("rm", "/etc/systemd/system/ollama@.service", f"{VERSIONS}/current")
        mended = await make_base(host, base)
        again = await make_base(host, base)
    undone = {"folders", "program", "firewall", "unit"}
    assert changed(mended) == {each: each in undone for each in STEPS}
    assert not any(changed(again).values())


async def test_a_host_is_made_ready_only_for_its_place_and_never_by_an_older_deployment(hosts, gpu_1, tmp_path):
    source = script(tmp_path)
    async with host_of(hosts, gpu_1, tmp_path) as host:
        await make_base(host, await wanted(tmp_path, source, number=7))
        with pytest.raises(
            SshError, match=r"^gpu-1: owner: the host has deployment 7 already \(kaan@ctl-1 at 20.*UTC\)"
        ):
            await make_base(host, await wanted(tmp_path, source, number=6))
        with pytest.raises(
            SshError, match=r"^gpu-1: owner: the host is prod's \(deployment 7, kaan@ctl-1 at .*take-over"
        ):
            await make_base(host, await wanted(tmp_path, source, number=99, place="lab"))
        taken = await make_base(host, await wanted(tmp_path, source, number=1, place="lab", take_over=True))
        assert [(each.step, each.words) for each in taken if each.is_changed] == [
            ("owner", "lab, deployment 1, taken over from prod")
        ]
        with pytest.raises(SshError, match="the host is lab's"):
            await check_held(host, Owner("prod", 7))
        await check_held(host, Owner("lab", 1))


async def test_of_many_places_that_claim_a_host_at_once_one_gets_it(hosts, gpu_1, tmp_path):
    async def one(place: str) -> bool:
        async with host_of(hosts, gpu_1, tmp_path) as host:
            with suppress(SshError):
                return (await claim(host, Owner(place, 1, place))).is_changed
            return False

    got = await asyncio.gather(*(one(f"place-{each}") for each in range(6)))
    assert sum(got) == 1
    winner = f"place-{got.index(True)}"
    assert winner in gpu_1.run("cat", "/var/lib/ollamactl-host/owner.json")


async def test_a_folder_of_models_that_is_somebody_elses_is_used_where_it_can_be_and_never_changed(
    hosts, gpu_1, tmp_path
):
    base = await wanted(tmp_path, script(tmp_path))
    gpu_1.run("install", "-d", "-o", "ops", "-g", "ops", "-m", "755", MODELS, f"{MODELS}/blobs")
    async with host_of(hosts, gpu_1, tmp_path) as host:
        refused = rf"^gpu-1: folders: {MODELS} is ops's, and {USER} may not write in it: set `deploy.user: ops`, or"
        with pytest.raises(SshError, match=refused):
            await make_base(host, base)
        gpu_1.run("chmod", "777", MODELS, f"{MODELS}/blobs")
        await make_base(host, base)
        assert gpu_1.run("stat", "-c", "%U %a", MODELS) == "ops 777\n"
        gpu_1.run("rm", "-r", MODELS)
        gpu_1.run("install", "-d", "-m", "755", MODELS)
        assert changed(await make_base(host, base))["folders"]
    assert gpu_1.run("stat", "-c", "%U %a", MODELS) == f"{USER} 755\n"


def reaches(port: int, machine, via=None) -> bool:
    """Whether the port can be connected to from here, or from another host."""
    if via is None:
        with socket.socket() as out:
            out.settimeout(1)
            return out.connect_ex((machine.address, port)) == 0
    knock = f"import socket,sys; s=socket.socket(); s.settimeout(1); print(s.connect_ex(('{machine.address}', {port})))"
    return via.run("python3", "-c", knock) == "0\n"


@contextmanager
def listener(machine, port: int):
    """A server on the host that answers whoever gets through."""
    machine.run("systemd-run", "--unit=listener", "/usr/bin/python3", "-m", "http.server", str(port))
    machine.run("sh", "-c", f"until ss -Hltn 'sport = :{port}' | grep -q .; do sleep 0.05; done")
    try:
        yield
    finally:
        machine.run("systemctl", "stop", "listener")


async def test_gateways_reach_instances_and_strangers_do_not_also_after_a_boot(hosts, gpu_1, gpu_2, tmp_path):
    base = await wanted(tmp_path, script(tmp_path), firewall=lambda ours: render_firewall([ours], PORTS))
    with listener(gpu_1, 11500):
        assert reaches(11500, gpu_1, via=gpu_2)
        async with host_of(hosts, gpu_1, tmp_path) as host:
            await make_base(host, base)
        assert reaches(11500, gpu_1)
        assert not reaches(11500, gpu_1, via=gpu_2)
        assert reaches(22, gpu_1, via=gpu_2)
        gpu_1.run("systemctl", "start", "nftables.service")  # flushes all rules and loads its own
        gpu_1.run("systemctl", "restart", "nftables.service")
        assert not reaches(11500, gpu_1, via=gpu_2)
        gpu_1.run("systemctl", "reload", "nftables.service")
        assert not reaches(11500, gpu_1, via=gpu_2)
    gpu_1.power_off()
    gpu_1.power_on()
    with listener(gpu_1, 11500):
        assert reaches(11500, gpu_1)
        assert not reaches(11500, gpu_1, via=gpu_2)
        async with host_of(hosts, gpu_1, tmp_path) as host:
            assert not any(changed(await make_base(host, base)).values())
            off = await make_base(host, replace(base, firewall=None))
        assert [each.step for each in off if each.is_changed] == ["firewall"]
        assert reaches(11500, gpu_1, via=gpu_2)


async def test_a_host_without_nft_is_told_with_the_package_and_the_way_around(hosts, gpu_1, tmp_path):
    base = await wanted(tmp_path, script(tmp_path))
    nft = gpu_1.files / "usr/sbin/nft"
    nft.rename(nft.with_name("nft.away"))
    try:
        async with host_of(hosts, gpu_1, tmp_path) as host:
            with pytest.raises(
                SshError, match=r"^gpu-1: firewall: there is no `nft` .*nftables, or set `deploy.firewall: f"
            ):
                await make_base(host, base)
            assert not changed(await make_base(host, replace(base, firewall=None)))["firewall"]
    finally:
        nft.with_name("nft.away").rename(nft)


async def test_rules_that_nft_does_not_take_are_told_and_not_loaded(hosts, gpu_1, tmp_path):
    base = await wanted(tmp_path, script(tmp_path), firewall="table inet ollamactl {\n nonsense\n}\n")
    async with host_of(hosts, gpu_1, tmp_path) as host:
        with pytest.raises(SshError, match=r"^gpu-1: firewall: .*Error: "):
            await make_base(host, base)
    assert gpu_1.run("find", "/etc/ollamactl", "-type", "f") == ""


async def test_what_stops_one_host_is_one_line_and_the_others_get_their_base(hosts, gpu_1, gpu_2, tmp_path):
    base = await wanted(tmp_path, script(tmp_path))
    keys = known(tmp_path, gpu_1, gpu_2)
    python = gpu_2.files / "usr/bin/python3"
    told = []
    python.rename(python.with_name("python3.away"))
    try:
        one, two = await make_bases(
            [(address(hosts, gpu_1), base), (address(hosts, gpu_2), base)], reach(keys), on_step=told.append
        )
    finally:
        python.with_name("python3.away").rename(python)
    assert (one.error, one.is_changed, len(one.steps)) == ("", True, len(STEPS) + 2)
    assert two == Made("gpu-2", (), "gpu-2: no python3 there: install it (`apt-get install python3`)")
    assert {each.node for each in told} == {"gpu-1"}
    (guest,) = await make_bases([(address(hosts, gpu_2, user="guest"), base)], reach(keys))
    assert guest.error.startswith("gpu-2: no sudo without a password for guest: add ")
    assert gpu_2.run("find", "/opt/ollamactl", "/var/lib/ollamactl-host", check=False) == ""


async def test_a_host_whose_connection_breaks_is_connected_to_again_and_finished(hosts, gpu_1, tmp_path, monkeypatch):
    base = await wanted(tmp_path, script(tmp_path, size=6_000_000))
    breaks = [True]

    def cut(node: str, sent: int, of: int) -> None:
        if breaks and sent > of // 2:
            breaks.clear()
            pids = gpu_1.run("pgrep", "-f", "sshd: ops").split()
            gpu_1.run("kill", "-9", *pids, check=False)

    monkeypatch.setattr("orchestrator.fleet.hostbase.TRIED_AGAIN_AFTER_S", (0.01, 0.01))
    (made,) = await make_bases([(address(hosts, gpu_1), base)], reach(known(tmp_path, gpu_1)), on_progress=cut)
    assert not breaks
    assert made.error == ""
    assert made.is_changed
    assert gpu_1.run(f"{VERSIONS}/current/bin/ollama", "--version") == "ollama version is 0.33.0\n"


async def test_everything_of_ours_is_taken_away_again_and_what_others_made_stays(hosts, gpu_1, tmp_path):
    gpu_1.run("install", "-d", "-m", "755", "/srv/base-test")
    before = all_files(gpu_1)
    base = await wanted(tmp_path, script(tmp_path))
    async with host_of(hosts, gpu_1, tmp_path) as host:
        await make_base(host, base)
        gpu_1.run("mkdir", f"{MODELS}/blobs", f"{MODELS}/manifests")
        gpu_1.run("touch", f"{MODELS}/blobs/sha256-aa", "/etc/ollamactl/instances/a.env")
        gpu_1.run("systemctl", "enable", "ollama@a.service")
        with pytest.raises(SshError, match="the host is prod's"):
            await remove_base(host, replace(base, owner=Owner("lab", 9)))
        would = await remove_base(host, base, dry_run=True)
        assert gpu_1.run("ls", VERSIONS) != ""
        done = await remove_base(host, base)
        assert would == done
        assert {each.step: each.words for each in done}["user"] == f"{USER} stays: the models are theirs"
        assert gpu_1.run("ls", f"{MODELS}/blobs") == "sha256-aa\n"
        gone = await remove_base(host, base, with_models=True)
        assert [each.step for each in gone if each.is_changed] == ["models", "user"]
        assert not any(each.is_changed for each in await remove_base(host, base, with_models=True))
    assert "ollamactl" not in gpu_1.run("nft", "list", "ruleset")
    assert _paths(all_files(gpu_1)) == _paths(before)


def _paths(files: str) -> set[str]:
    return {line.split()[0] for line in files.splitlines()} - {
        "/etc/passwd-",
        "/etc/shadow-",
        "/etc/group-",
        "/etc/gshadow-",
    }


async def test_a_unit_of_somebody_else_under_our_units_name_is_neither_replaced_nor_removed(hosts, gpu_1, tmp_path):
    base = await wanted(tmp_path, script(tmp_path))
    theirs = gpu_1.files / "etc/systemd/system/ollama@.service"
    theirs.write_text("[Service]\nExecStart=/usr/bin/sleep 600\n")
    gpu_1.run("systemctl", "daemon-reload")
    gpu_1.run("systemctl", "start", "ollama@theirs.service")
    async with host_of(hosts, gpu_1, tmp_path) as host:
        with pytest.raises(
            SshError, match=r"^gpu-1: unit: \S+/ollama@.service is there and not ours: rename that unit"
        ):
            await make_base(host, base)
        await remove_base(host, base, with_models=True)
    assert gpu_1.run("systemctl", "is-active", "ollama@theirs.service") == "active\n"
    gpu_1.run("systemctl", "stop", "ollama@theirs.service")
    theirs.unlink()
