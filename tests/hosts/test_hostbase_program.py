"""Ollama's program on hosts: sent, finished after an interruption, tried, and kept in versions."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.fleet.hostbase import make_base
from orchestrator.nodes.hoststeps import claim, send
from orchestrator.nodes.ssh import SshError
from tests.hosts.bases import (
    VERSIONS,
    changed,
    host_of,
    script,
    wanted,
)

pytestmark = pytest.mark.usefixtures("bare")


async def test_who_lost_the_host_meanwhile_sends_nothing_and_changes_nothing(hosts, gpu_1, tmp_path):
    base = await wanted(tmp_path, script(tmp_path, size=3_000_000))
    async with host_of(hosts, gpu_1, tmp_path) as host:

        def taken_over(node: str, sent: int, of: int) -> None:
            owner = gpu_1.files / "var/lib/ollamactl-host/owner.json"
            owner.write_text(owner.read_text().replace("prod", "lab"))

        with pytest.raises(SshError, match=r"^gpu-1: owner: the host is lab's"):
            await make_base(host, base, on_progress=taken_over)
        with pytest.raises(SshError, match=r"^gpu-1: owner: the host is lab's"):
            await send(host, await base.program.ready(), base.owner)
    assert gpu_1.run("ls", VERSIONS) == ""
    assert gpu_1.run("ls", "/etc/systemd/system").count("ollama") == 0


async def test_an_upload_that_was_cut_leaves_nothing_half_and_the_next_run_goes_on_from_there(hosts, gpu_1, tmp_path):
    size = 8_000_000
    base = await wanted(tmp_path, script(tmp_path, size=size))
    cut_at = size // 2

    async with host_of(hosts, gpu_1, tmp_path) as host:

        def cut(node: str, sent: int, of: int) -> None:
            if sent >= cut_at:
                host._connection.abort()

        with pytest.raises(SshError, match=r"^gpu-1: upload: the connection was lost"):
            await make_base(host, base, on_progress=cut)
    assert gpu_1.run("ls", VERSIONS) == ""
    sent = []
    async with host_of(hosts, gpu_1, tmp_path) as host:
        await make_base(host, base, on_progress=lambda node, at, of: sent.append(at))
    assert sent[0] > 2**18  # not from the beginning
    assert gpu_1.run("sh", "-c", f"sha256sum <{VERSIONS}/current/bin/ollama").split()[0] == base.program.digest


# As a receiver whose connection broke without a word: it has the file, and waits for more of it.
HOLDS = """\
import fcntl, sys
file = open(sys.argv[1], "a+b")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


async def test_an_upload_whose_host_still_waits_for_the_lost_connection_is_taken_over(hosts, gpu_1, tmp_path):
    base = await wanted(tmp_path, script(tmp_path, size=4_000_000))
    async with host_of(hosts, gpu_1, tmp_path) as first, host_of(hosts, gpu_1, tmp_path) as second:
        await claim(first, base.owner)
        gpu_1.run("mkdir", "-p", "/opt/ollamactl/incoming")
        file = await base.program.ready()
        part = f"/opt/ollamactl/incoming/{file.sha256}"
        async with first.started(("python3", "-c", HOLDS, part), step="hold", sudo=True) as process:
            assert await process.stdout.readline() == b"held\n"
            assert (await send(second, file, base.owner)).is_changed
    assert gpu_1.run("sha256sum", part).split()[0] == file.sha256


async def test_bytes_that_are_not_those_that_were_sent_are_thrown_away(hosts, gpu_1, tmp_path):
    base = await wanted(tmp_path, script(tmp_path, size=1_000_000))
    gpu_1.run("mkdir", "-p", "/opt/ollamactl/incoming")
    part = gpu_1.files / f"opt/ollamactl/incoming/{base.program.digest}"
    part.write_bytes(b"spoilt" * 1000)
    async with host_of(hosts, gpu_1, tmp_path) as host:
        with pytest.raises(
            SshError, match=r"^gpu-1: upload: what arrived is not what was sent \(its sha256 is another\)"
        ):
            await make_base(host, base)
        assert gpu_1.run("find", "/opt/ollamactl", "-type", "f") == ""
        await make_base(host, base)
    assert gpu_1.run(f"{VERSIONS}/current/bin/ollama", "--version") == "ollama version is 0.33.0\n"


@contextmanager
def small_disk(machine, mib: int):
    machine.run("mkdir", "-p", "/opt/ollamactl")
    machine.run("mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=755", "tmpfs", "/opt/ollamactl")
    yield
    machine.run("umount", "/opt/ollamactl")


async def test_a_disk_without_room_is_told_before_a_byte_is_sent(hosts, gpu_1, tmp_path):
    base = await wanted(tmp_path, script(tmp_path, size=1_000_000))
    with small_disk(gpu_1, 64):
        async with host_of(hosts, gpu_1, tmp_path) as host:
            with pytest.raises(SshError, match=r"^gpu-1: room: /opt has 64 MiB free and needs 258 MiB: make room"):
                await make_base(host, base, on_progress=lambda *sent: pytest.fail("sent"))
        assert gpu_1.run("ls", "-A", VERSIONS, "/opt/ollamactl/incoming").count("ollama-") == 0


async def test_a_disk_that_fills_up_on_the_way_is_told_and_the_next_run_finishes(hosts, gpu_1, tmp_path):
    base = await wanted(tmp_path, script(tmp_path, size=20_000_000))
    filled = []
    with small_disk(gpu_1, 320):

        def fill(node: str, sent: int, of: int) -> None:
            if not filled:
                filled.append(sent)
                gpu_1.run("sh", "-c", "head -c 310M /dev/zero >/opt/ollamactl/filler")

        async with host_of(hosts, gpu_1, tmp_path) as host:
            with pytest.raises(SshError, match=r"^gpu-1: (upload|program): the disk is full.*make room there"):
                await make_base(host, base, on_progress=fill)
            assert gpu_1.run("find", VERSIONS, "-name", "ollama", "-type", "f") == ""
            gpu_1.run("rm", "/opt/ollamactl/filler")
            await make_base(host, base)
            assert gpu_1.run(f"{VERSIONS}/current/bin/ollama", "--version") == "ollama version is 0.33.0\n"


async def test_a_program_that_does_not_run_there_is_not_made_current(hosts, gpu_1, tmp_path):
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELFnot for this machine")
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho no such library\nexit 127\n")
    async with host_of(hosts, gpu_1, tmp_path) as host:
        await make_base(host, await wanted(tmp_path, script(tmp_path)))
        was = gpu_1.run("readlink", f"{VERSIONS}/current")
        with pytest.raises(SshError, match=r"^gpu-1: program: the program does not run on this \w+ host \(Exec format"):
            await make_base(host, await wanted(tmp_path, broken))
        with pytest.raises(SshError, match=r"^gpu-1: program: the program does not run there \(no such library\)"):
            await make_base(host, await wanted(tmp_path, failing))
    assert gpu_1.run("readlink", f"{VERSIONS}/current") == was
    assert gpu_1.run("ls", "-A", VERSIONS).split() == sorted(["current", was.strip()])


async def test_old_versions_go_but_the_last_two_and_those_that_something_runs_from(hosts, gpu_1, tmp_path):
    """A host's `sleep`, which says a version as well, with bytes behind it that make five programs of it."""
    names = []
    async with host_of(hosts, gpu_1, tmp_path) as host:
        for number in range(5):
            source = tmp_path / f"sleep-{number}"
            source.write_bytes(Path("/usr/bin/sleep").read_bytes() + bytes([number]))
            base = await wanted(tmp_path, source)
            await make_base(host, base)
            names.append(base.program.digest[:16])
            if number == 0:
                gpu_1.run("systemd-run", "--unit=runs-from-it", f"{VERSIONS}/{names[0]}/bin/ollama", "600")
        there = set(gpu_1.run("ls", VERSIONS).split())
        assert there == {"current", names[0], names[2], names[3], names[4]}
        gpu_1.run("systemctl", "stop", "runs-from-it")
        await make_base(host, await wanted(tmp_path, script(tmp_path)))
    assert set(gpu_1.run("ls", VERSIONS).split()) > {names[3], names[4]}
    assert names[0] not in gpu_1.run("ls", VERSIONS)


async def test_without_a_program_of_ours_the_hosts_own_is_linked(hosts, gpu_1, tmp_path):
    base = await wanted(tmp_path, None)
    async with host_of(hosts, gpu_1, tmp_path) as host:
        with pytest.raises(
            SshError, match=r"^gpu-1: program: there is no `ollama` .*: install it, or name `deploy.ollama`"
        ):
            await make_base(host, base)
        own = gpu_1.files / "usr/local/bin/ollama"
        shutil.copy(script(tmp_path, "0.31.2"), own)
        own.chmod(0o755)
        first = await make_base(host, base)
        again = await make_base(host, base)
    assert [each.words for each in first if each.step == "program"] == ["/usr/local/bin/ollama, 0.31.2"]
    assert not any(changed(again).values())
    assert gpu_1.run(f"{VERSIONS}/current/bin/ollama", "--version") == "ollama version is 0.31.2\n"
