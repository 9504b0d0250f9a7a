"""What cannot be started is refused at once: the exit code says who can act, the text how, and nothing is left."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import TIMEOUT_S, Up, environment, free_port, needs_redis, ollamactl, processes_of, until

CARD = ("--simulate", "1x RTX 4090")


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    needs_redis()
    made = tmp_path_factory.mktemp("no")
    yield made
    assert not processes_of(made / "state")


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        yield f"127.0.0.1:{somebody.getsockname()[1]}"


def refused(folder: Path, *args: str | Path, code: int) -> str:
    """What `up` said as it refused."""
    told = ollamactl("up", "--state", folder / "state", *args, cwd=folder)
    assert told.returncode == code, told.stderr
    assert "Traceback" not in told.stderr
    assert "Traceback" not in told.stdout
    return told.stderr


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("models:\n  llama3.2:1b: {slots: 2\n", 3, "begins on line 2"),
        ("modles:\n  llama3.2:1b:\n", 1, "modles"),
        ("models:\n  llama3.2:1b:\n    slotz: 3\n", 3, "slotz"),
        ("cache:\n  enabled: true\n  ttl_s: soon\n", 3, "ttl_s"),
        ("nodes:\n  - name: a\n    simulate: 3x RTX 9999\n", 3, "RTX 9999"),
        ("listen: everywhere\n", 1, "host:port"),
    ],
)
def test_a_wrong_configuration_is_refused_with_file_and_line(folder: Path, text: str, line: int, says: str) -> None:
    (folder / "cluster.yaml").write_text(text)
    told = refused(folder, code=3)
    assert f"cluster.yaml:{line}" in told
    assert says in told


def test_every_mistake_of_a_configuration_is_told_at_once(folder: Path) -> None:
    (folder / "cluster.yaml").write_text("modles: {}\nlisten: everywhere\ncache:\n  enabled: perhaps\n")
    told = refused(folder, code=3)
    assert all(each in told for each in ("modles", "host:port", "enabled"))


def test_a_configuration_that_is_not_there_is_refused(folder: Path) -> None:
    assert "nowhere.yaml: no such file" in refused(folder, "--config", folder / "nowhere.yaml", code=3)


def test_a_faq_that_is_not_valid_is_refused_with_its_file(folder: Path) -> None:
    (folder / "faq.yaml").write_text("- questions: []\n  answer: yes\n")
    (folder / "cluster.yaml").write_text("models:\n  llama3.2:1b:\ncache:\n  faq: [faq.yaml]\n")
    assert "faq.yaml" in refused(folder, *CARD, code=3)


@pytest.mark.parametrize("detach", [(), ("--detach",)])
def test_an_address_in_use_is_refused(folder: Path, taken: str, detach: tuple[str, ...]) -> None:
    told = ollamactl("up", "--state", folder / "state", *CARD, "--listen", taken, *detach, cwd=folder)
    assert told.returncode == 1
    assert f"cannot listen on {taken}: in use by another process; name another with --listen" in (
        told.stderr + told.stdout
    )


def test_without_a_wish_the_next_free_port_is_taken_and_said(folder: Path) -> None:
    with socket.socket() as somebody:
        somebody.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            somebody.bind(("127.0.0.1", 11434))
        except OSError:
            pass  # taken already, which is as good
        else:
            somebody.listen()
        told = ollamactl("up", "--detach", "--state", folder / "state", *CARD, cwd=folder)
        assert told.returncode == 0, told.stdout
        try:
            [endpoint] = [line.split()[1] for line in told.stdout.splitlines() if line.startswith("  endpoint ")]
            assert 11434 < int(endpoint.rpartition(":")[2]) < 11534
        finally:
            assert ollamactl("down", "--state", folder / "state", cwd=folder).returncode == 0


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--listen", "everywhere"), "expected host:port"),
        (("--listen", "127.0.0.1:99999"), "the port must be a number from 0 to 65535"),
        (("--simulate", "3x RTX 9999"), "unknown card 'RTX 9999'; known: RTX 3060,"),
        (("--simulate", ""), "cards"),
        (("--state", __file__), "is a file"),
        (("--nonsense",), "No such option"),
    ],
)
def test_a_wrong_command_line_is_refused(folder: Path, args: tuple[str, ...], says: str) -> None:
    assert says in refused(folder, *args, code=2)


def test_a_state_folder_that_cannot_be_made_is_refused(folder: Path) -> None:
    (folder / "file").touch()
    for detach in ((), ("--detach",)):
        told = ollamactl("up", "--state", folder / "file" / "state", *CARD, *detach, cwd=folder)
        assert told.returncode == 1
        assert "name another" in told.stderr
        assert "Traceback" not in told.stderr


def test_a_state_folder_that_may_not_be_written_is_refused(folder: Path) -> None:
    state = folder / "state"
    state.mkdir(mode=0o700)
    (state / "lock").touch()
    if os.getuid() == 0:
        os.chown(state, 65534, 65534)
        expected = "belongs to another user"
    else:
        state.chmod(0o500)
        (state / "lock").chmod(0o400)
        expected = "no permission to write there"
    assert expected in refused(folder, *CARD, code=1)


def test_a_ready_file_that_cannot_be_written_is_refused_before_anything_starts(folder: Path) -> None:
    told = refused(folder, *CARD, "--ready-file", folder / "nowhere" / "ready.json", code=1)
    assert "ready.json cannot be written: No such file or directory" in told
    assert not (folder / "state" / "logs").exists()


def test_a_model_that_fits_nowhere_ends_the_start_with_the_reason(folder: Path) -> None:
    (folder / "cluster.yaml").write_text("models:\n  llama3.1:8b-instruct-q4_K_M: {slots: 64, context: 131072}\n")
    told = refused(folder, *CARD, "--listen", f"127.0.0.1:{free_port()}", code=1)
    assert "llama3.1:8b-instruct-q4_K_M" in told
    assert "GiB" in told


def test_a_broken_engine_is_told_of_with_its_last_words_while_the_start_goes_on(folder: Path) -> None:
    """Ollama on PATH that ends at once: the screen says so, and Ctrl-C ends the start."""
    engine = folder / "bin" / "ollama"
    engine.parent.mkdir()
    engine.write_text("#!/bin/sh\necho no driver for me >&2\nexit 7\n")
    engine.chmod(0o755)
    (folder / "cluster.yaml").write_text("engine: ollama\nmodels:\n  llama3.2:1b:\n")
    there = environment()
    there["PATH"] = f"{engine.parent}{os.pathsep}{there['PATH']}"
    up = Up(folder / "state", config=folder / "cluster.yaml", env=there)
    try:
        until(lambda: "exit code 7" in up.screen and "no driver for me" in up.screen, "the screen tells", TIMEOUT_S)
        assert up.end() == 130
    finally:
        up.close()
