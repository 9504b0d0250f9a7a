"""Commands on hosts over SSH, and the one line that each failure is told in."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import asyncssh
import pytest

from orchestrator.nodes.host_keys import HostKeys, fingerprint
from orchestrator.nodes.ssh import HostKeyError, SshError, SshWaits, connected, shown_key
from tests.hosts.reaching import address, known


async def test_a_command_runs_with_its_words_as_they_are_and_its_input(hosts, gpu_1, tmp_path):
    words = ("printf", "%s|", "two words", "$(reboot)", "a'b\"c", "; exit 3", "")
    async with connected(address(hosts, gpu_1), known(tmp_path, gpu_1)) as host:
        assert (await host.run(words, step="say")).out.decode() == "two words|$(reboot)|a'b\"c|; exit 3||"
        assert (await host.run(("cat",), step="echo", given=b"x" * 300_000)).out == b"x" * 300_000
        assert (await host.run(("id", "-un"), step="who", sudo=True)).out == b"root\n"
        failed = await host.run(("false",), step="fail", check=False)
    assert failed.status == 1


async def test_a_file_is_written_whole_by_root_with_its_mode(hosts, gpu_1, tmp_path):
    async with connected(address(hosts, gpu_1), known(tmp_path, gpu_1)) as host:
        await host.write("/etc/written by test", b"content\n", mode="0600")
    assert gpu_1.run("stat", "-c", "%U %a %s", "/etc/written by test") == "root 600 8\n"


async def test_more_commands_than_sshd_has_sessions_wait_instead_of_failing(hosts, gpu_1, tmp_path):
    async with connected(address(hosts, gpu_1), known(tmp_path, gpu_1)) as host:
        ran = await asyncio.gather(*(host.run(("echo", str(n)), step="say") for n in range(20)))
    assert [each.out for each in ran] == [f"{n}\n".encode() for n in range(20)]


async def test_a_step_that_takes_too_long_is_given_up_and_the_next_one_runs(hosts, gpu_1, tmp_path):
    async with connected(address(hosts, gpu_1), known(tmp_path, gpu_1)) as host:
        with pytest.raises(SshError, match=r"^gpu-1: wait: not done within 0.3 s$"):
            await host.run(("sleep", "300"), step="wait", timeout_s=0.3)
        assert (await host.run(("echo", "on"), step="say")).out == b"on\n"


async def test_a_failed_step_is_told_with_its_last_words(hosts, gpu_1, tmp_path):
    async with connected(address(hosts, gpu_1), known(tmp_path, gpu_1)) as host:
        with pytest.raises(SshError, match=r"^gpu-1: read it: cat: /nowhere: No such file or directory$"):
            await host.run(("cat", "/nowhere"), step="read it")


async def test_a_host_nobody_has_seen_the_key_of_is_not_spoken_to(hosts, gpu_1, tmp_path):
    with pytest.raises(HostKeyError, match="not known yet: `ollamactl nodes add gpu-1` shows it"):
        async with connected(address(hosts, gpu_1), HostKeys(tmp_path / "known_hosts")):
            pass


async def test_the_key_a_host_shows_is_the_one_it_has(hosts, gpu_1):
    shown = await shown_key(address(hosts, gpu_1))
    assert fingerprint(shown) == fingerprint(asyncssh.import_public_key(gpu_1.host_key))
    assert fingerprint(shown).startswith("SHA256:")


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256"])
async def test_another_key_than_the_pinned_one_is_refused_with_both_fingerprints_and_a_way_out(
    hosts, gpu_1, tmp_path, kind
):
    keys = HostKeys(tmp_path / "known_hosts")
    other = asyncssh.generate_private_key(kind).convert_to_public()
    keys.pin(gpu_1.address, 22, other)
    with pytest.raises(HostKeyError) as refused:
        async with connected(address(hosts, gpu_1), keys):
            pass
    now = fingerprint(asyncssh.import_public_key(gpu_1.host_key))
    assert f"is {now} now and was {fingerprint(other)}" in str(refused.value)
    assert f"`ollamactl nodes add gpu-1 --fingerprint {now}`" in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_a_key_that_the_host_does_not_know_is_told(hosts, gpu_1, tmp_path):
    with pytest.raises(SshError, match=r"^gpu-1: ops@\S+ does not accept key \S+/strange: add its public half"):
        async with connected(address(hosts, gpu_1, key=hosts.strange_key), known(tmp_path, gpu_1)):
            pass


async def test_a_key_that_is_not_there_is_told(hosts, gpu_1, tmp_path):
    with pytest.raises(SshError, match=r"^gpu-1: there is no key at \S+/none$"):
        async with connected(address(hosts, gpu_1, key=tmp_path / "none"), known(tmp_path, gpu_1)):
            pass


async def test_a_user_without_sudo_is_told_with_what_to_add(hosts, gpu_1, tmp_path):
    async with connected(address(hosts, gpu_1, user="guest"), known(tmp_path, gpu_1)) as host:
        with pytest.raises(SshError, match=r"^gpu-1: no sudo without a password for guest: add "):
            await host.run(("id",), step="who", sudo=True)


async def test_a_host_where_nothing_listens_is_told(hosts, gpu_1, tmp_path):
    keys = known(tmp_path, gpu_1)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        keys.pin("127.0.0.1", port, asyncssh.import_public_key(gpu_1.host_key))
        with pytest.raises(SshError, match=rf"^gpu-1: ops@127.0.0.1:{port} cannot be reached: "):
            async with connected(replace(address(hosts, gpu_1), host="127.0.0.1", port=port), keys):
                pass


async def test_a_host_that_accepts_and_says_nothing_is_given_up_in_time(hosts, gpu_1, tmp_path):
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        port = mute.getsockname()[1]
        keys = known(tmp_path, gpu_1)
        keys.pin("127.0.0.1", port, asyncssh.import_public_key(gpu_1.host_key))
        silent = replace(address(hosts, gpu_1), host="127.0.0.1", port=port)
        with pytest.raises(SshError, match=r"did not answer within 0.3 s$"):
            async with connected(silent, keys, SshWaits(connect_s=0.3)):
                pass


async def test_a_connection_that_falls_silent_is_ended_by_its_keep_alives(hosts, gpu_1, tmp_path):
    waits = SshWaits(keepalive_s=0.2)
    async with connected(address(hosts, gpu_1), known(tmp_path, gpu_1), waits) as host:
        gpu_1.cut()
        with pytest.raises(SshError, match=r"^gpu-1: wait: the connection was lost"):
            await host.run(("sleep", "300"), step="wait", timeout_s=20)
