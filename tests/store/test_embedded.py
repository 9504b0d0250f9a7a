"""The private server: reached by its socket alone, its data kept, its folders closed to others."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path

import pytest

from orchestrator.core.errors import HostError
from orchestrator.store import embedded
from orchestrator.store.connection import Connection
from tests.store.playing import Connect, Server


async def test_it_listens_on_a_private_socket_only(own_server: Server, connect: Connect) -> None:
    connection = await connect(own_server)
    config = await connection.command("CONFIG", "GET", "port", "appendonly", "maxmemory-policy", "aof-load-truncated")
    assert config == {
        b"port": b"0",
        b"appendonly": b"yes",
        b"maxmemory-policy": b"noeviction",
        b"aof-load-truncated": b"yes",
    }
    socket = embedded.server_socket(own_server.state)
    assert stat.S_IMODE(socket.stat().st_mode) == 0o700
    assert stat.S_IMODE((own_server.state / "redis").stat().st_mode) == 0o700


async def test_it_keeps_its_data_over_an_ordered_stop(own_server: Server, connect: Connect) -> None:
    connection = await connect(own_server)
    await connection.command("SET", "olm:x", "kept")
    own_server.stop()
    own_server.start()
    again = await connect(own_server)
    assert await again.command("GET", "olm:x") == b"kept"


def test_the_c_library_takes_every_word_of_how_the_server_gives_out_memory() -> None:
    loader = Path("/lib64/ld-linux-x86-64.so.2")
    if not loader.exists():
        pytest.skip("no glibc of this kind of machine")
    environment = embedded.server_environment()
    said = subprocess.run([loader, "--list-tunables"], env=environment, capture_output=True, text=True, check=True)
    known = dict(re.findall(r"^(\S+): (\S+) ", said.stdout, re.MULTILINE))
    wanted = dict(each.split("=") for each in environment["GLIBC_TUNABLES"].split(":"))
    assert {name: int(known[name], 0) for name in wanted} == {name: int(value) for name, value in wanted.items()}


async def test_a_deep_state_folder_gets_a_short_private_socket(
    tmp_path: Path, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded.tempfile, "gettempdir", lambda: "/tmp")
    state = tmp_path / ("deep" * 20) / "state"
    server = Server(binary, state)
    folder = embedded.server_socket(state).parent
    try:
        server.start()
        assert len(str(embedded.server_socket(state))) <= 103
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert str(embedded.server_socket(state)) in (embedded.socket_note(state) or "")
        connection = Connection(embedded.server_url(state))
        await connection.open(20)
        await connection.close()
    finally:
        server.stop()
        folder.rmdir()


def test_a_short_path_that_others_can_enter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.tempfile, "gettempdir", lambda: str(tmp_path))
    state = tmp_path / ("deep" * 30)
    embedded.server_socket(state).parent.chmod(0o755)
    with pytest.raises(HostError, match="open to others"):
        embedded.server_socket(state)


def test_a_plain_state_folder_needs_no_note() -> None:
    assert embedded.socket_note(Path("/var/lib/ollamactl")) is None


def test_without_any_server_program_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(HostError, match=r"pip install 'ollama-orchestrator\[embedded\]'"):
        embedded.find_server()


def test_a_server_on_path_serves_where_none_was_packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda _: None)
    program = tmp_path / "redis-server"
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded.find_server() == program
