"""The hosts themselves: what every test in this folder stands on, and that nothing of them stays."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts.machines import network, why_not
from tests.waiting import WITHIN_S

ROOT = Path(__file__).parents[2]


def test_a_host_runs_its_own_systemd_with_nothing_failed(gpu_1, gpu_2):
    for machine in (gpu_1, gpu_2):
        assert machine.run("systemctl", "is-system-running", "--wait").strip() == "running"
        assert machine.run("hostname").strip() == machine.name


def test_hosts_have_keys_of_their_own_and_no_way_out(gpu_1, gpu_2):
    assert gpu_1.host_key != gpu_2.host_key
    assert "default" not in gpu_1.run("ip", "route")


def test_a_host_whose_power_failed_boots_again_with_its_files(gpu_1):
    gpu_1.run("touch", "/var/lib/kept")
    gpu_1.power_off()
    gpu_1.power_on()
    gpu_1.run("test", "-e", "/var/lib/kept")


def left_of(tag: str) -> list[str]:
    """What still bears the tag of a run: links, namespaces, mounts, control groups, processes."""
    outputs = [subprocess.run(each, capture_output=True, text=True, check=True).stdout for each in LISTS]
    groups = [str(each) for each in Path("/sys/fs/cgroup").glob(f"*/{tag}*")]
    return [line for output in outputs for line in output.splitlines() if tag in line] + groups


LISTS = (("ip", "-o", "link"), ("ip", "netns"), ("cat", "/proc/mounts"), ("ps", "-eo", "args"))


def test_a_host_that_cannot_be_made_leaves_nothing(tmp_path):
    if why := why_not():
        pytest.skip(why)
    with pytest.raises(FileNotFoundError), network(tmp_path) as net:  # noqa: PT012 (the last line raises)
        tag = net.tag
        assert left_of(tag)
        net.add("gpu-9", tmp_path / "no library", "")
    assert left_of(tag) == []
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


HANGS = """
import signal

def test_hangs(host_network):
    print("booted", host_network.tag, host_network.folder, flush=True)
    signal.pause()
"""


def test_a_run_that_is_ended_by_sigterm_leaves_nothing(tmp_path, nvml_libraries):
    if why := why_not():
        pytest.skip(why)
    (tmp_path / "test_hangs.py").write_text(HANGS)
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "tests.conftest", "-p", "tests.hosts.conftest"]
    command += ["-c", str(ROOT / "pyproject.toml"), f"--basetemp={tmp_path / 'base'}", str(tmp_path / "test_hangs.py")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        _, tag, folder = next(line for line in run.stdout if line.startswith("booted")).split()
        assert left_of(tag)
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=WITHIN_S)
    assert left_of(tag) == []
    assert folder not in Path("/proc/mounts").read_text()
