"""The lock of a state folder, with real files and real other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.core.errors import HostError
from orchestrator.nodes.state_lock import Holder, StateLock, read_holder

REPO = Path(__file__).parents[2]

HOLDS = """
import sys
from pathlib import Path
from orchestrator.nodes.state_lock import StateLock
with StateLock(Path(sys.argv[1])) as lock:
    lock.tell("127.0.0.1:11434")
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds `tmp_path / "state"`."""
    argv = [sys.executable, "-c", HOLDS, str(tmp_path / "state")]
    with subprocess.Popen(argv, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_folder_is_created_for_its_owner_alone(tmp_path: Path) -> None:
    state = tmp_path / "deep" / "state"
    with StateLock(state):
        assert state.stat().st_mode & 0o777 == 0o700
        assert (state / "lock").stat().st_mode & 0o777 == 0o600


def test_the_holder_says_who_and_where_it_is(tmp_path: Path) -> None:
    with StateLock(tmp_path / "state") as lock:
        early = read_holder(tmp_path / "state")
        lock.tell("[::1]:11434")
        late = read_holder(tmp_path / "state")
    assert early is not None
    assert late == Holder(os.getpid(), early.started_unix_ms, "[::1]:11434")
    assert early.endpoint == ""


def test_a_second_holder_is_told_who_has_the_folder_and_what_to_do(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    state = tmp_path / "state"
    with pytest.raises(HostError) as refused:
        StateLock(state).acquire()
    text = str(refused.value)
    assert f"in use by pid {other.pid} since 2" in text
    assert "answering on 127.0.0.1:11434" in text
    assert f"ollamactl down --state {state}" in text
    assert "another --state" in text


def test_a_second_holder_in_the_same_process_is_refused_too(tmp_path: Path) -> None:
    with StateLock(tmp_path / "state"), pytest.raises(HostError, match=f"pid {os.getpid()}"):
        StateLock(tmp_path / "state").acquire()


def test_a_refused_one_changes_nothing_of_the_holders(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    before = read_holder(tmp_path / "state")
    assert before is not None
    with pytest.raises(HostError):
        StateLock(tmp_path / "state").acquire()
    assert read_holder(tmp_path / "state") == before


def test_the_folder_of_a_killed_holder_is_taken_over(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.kill()
    other.wait()
    assert read_holder(tmp_path / "state") is None
    with StateLock(tmp_path / "state"):
        holder = read_holder(tmp_path / "state")
        assert holder is not None
        assert holder.pid == os.getpid()


def test_a_lock_file_with_anything_in_it_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("not json " * 1000)
    with StateLock(tmp_path):
        assert read_holder(tmp_path) is not None


def test_a_lock_that_was_let_go_can_be_taken_again(tmp_path: Path) -> None:
    lock = StateLock(tmp_path / "state")
    for _ in range(2):
        lock.acquire()
        lock.release()
        lock.release()
    assert read_holder(tmp_path / "state") is None


def test_nobody_holds_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert read_holder(tmp_path / "none") is None
    (tmp_path / "file").touch()
    assert read_holder(tmp_path / "file") is None


def test_one_who_only_asks_does_not_keep_another_from_the_lock(tmp_path: Path) -> None:
    ask = "import sys; from pathlib import Path; from orchestrator.nodes.state_lock import read_holder\n"
    ask += "print('asks', flush=True)\nwhile True: read_holder(Path(sys.argv[1]))"
    with StateLock(tmp_path):
        pass
    with subprocess.Popen([sys.executable, "-c", ask, str(tmp_path)], cwd=REPO, stdout=subprocess.PIPE) as asking:
        assert asking.stdout is not None
        asking.stdout.readline()
        for _ in range(50):
            with StateLock(tmp_path):
                pass
        asking.kill()


def test_a_child_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    with StateLock(tmp_path / "state"):
        child = subprocess.Popen(["sleep", "1000"], close_fds=False)
    try:
        with StateLock(tmp_path / "state"):
            pass
    finally:
        child.kill()
        child.wait()


# --- folders that will not do ---------------------------------------------------------------------------------------


def test_an_empty_folder_of_ours_is_made_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with StateLock(tmp_path):
        assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_a_folder_with_other_files_in_it_that_is_open_to_others_is_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(HostError, match="name an empty --state"):
        StateLock(tmp_path).acquire()
    assert tmp_path.stat().st_mode & 0o777 == 0o755


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(HostError, match="belongs to another user"):
        StateLock(tmp_path).acquire()


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for state in (tmp_path / "file", tmp_path / "file" / "state"):
        with pytest.raises(HostError, match="not a folder"):
            StateLock(state).acquire()


def test_a_full_disk_is_said_to_be_full(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("/dev/full")
    with pytest.raises(HostError, match="disk is full"):
        StateLock(tmp_path).acquire()


def test_a_place_where_nothing_may_be_written_is_refused(tmp_path: Path) -> None:
    # Not even root may create folders there.
    with pytest.raises(HostError, match=r"cannot hold the state: .*; or name another --state"):
        StateLock(Path("/proc/self/state")).acquire()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount a read-only file system")
def test_a_read_only_file_system_is_said_to_be_one(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount here: {mounted.stderr.decode().strip()}")
    try:
        with pytest.raises(HostError, match="read-only"):
            StateLock(tmp_path / "state").acquire()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from orchestrator.nodes.state_lock import StateLock\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "try: StateLock(Path(sys.argv[1])).acquire()\n"
        "except Exception as why: print(type(why).__name__, why)"
    )
    closed = Path("/usr/lib/ollamactl-state")
    ran = subprocess.run(
        [sys.executable, "-c", code, str(closed)], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith(f"HostError {closed} cannot hold the state: no permission to write there")
