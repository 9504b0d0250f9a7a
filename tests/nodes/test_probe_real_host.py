"""The facts of the machine that runs the tests, against readings that owe nothing to the probe."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.core.model import NodeFacts, NodeName
from orchestrator.nodes.probe import probe


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> NodeFacts:
    return probe(NodeName("here"), tmp_path_factory.mktemp("models"))


def output(*command: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}  # nproc heeds them
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def lines_of(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def test_the_host_is_named_as_the_kernel_names_it(facts):
    assert facts.node == "here"
    assert facts.hostname == Path("/proc/sys/kernel/hostname").read_text().strip()


def test_the_cpu_is_the_one_of_the_kernels_list(facts):
    models = {line.split(":", 1)[1].strip() for line in lines_of("/proc/cpuinfo") if line.startswith("model name")}
    assert facts.cpu_model
    assert not models or facts.cpu_model in models


def test_no_more_cpus_are_told_than_this_process_may_use(facts):
    assert 1 <= facts.cpu_count <= int(output("nproc"))


def test_fewer_cpus_are_told_to_a_process_that_may_use_fewer(tmp_path):
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert probe(NodeName("here"), tmp_path).cpu_count == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_the_memory_is_the_kernels_or_what_a_cgroup_leaves_of_it(facts):
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines_of("/proc/meminfo")}
    total = kilobytes["MemTotal"] * 1024
    assert 0 <= facts.ram_free_bytes <= facts.ram_total_bytes <= total
    if facts.ram_total_bytes != total:
        cgroups = Path("/sys/fs/cgroup")
        limits = [*cgroups.glob("**/memory.max"), *cgroups.glob("**/memory.limit_in_bytes")]
        assert str(facts.ram_total_bytes) in {each.read_text().strip() for each in limits}


def test_the_free_disk_is_what_df_says_give_or_take_what_others_write(facts, tmp_path):
    told = int(output("df", "--output=avail", "--block-size=1", str(tmp_path)).splitlines()[-1])
    assert abs(facts.disk_free_bytes - told) < 2 * 2**30


def test_the_gpus_are_those_that_nvidia_smi_lists(facts):
    if shutil.which("nvidia-smi") is None:
        pytest.skip("no nvidia-smi here: this machine's GPUs, if any, are left to the driver's own tools")
    listed = output("nvidia-smi", "--query-gpu=uuid,memory.total", "--format=csv,noheader,nounits").splitlines()
    expected = {(uuid.strip(), int(mib)) for uuid, mib in (line.split(",") for line in listed)}
    assert {(each.uuid, each.vram_total_bytes // 2**20) for each in facts.accelerators} == expected


def test_a_machine_without_any_sign_of_nvidia_has_no_gpu_and_no_problem(facts):
    vendors = {each.read_text().strip() for each in Path("/sys/bus/pci/devices").glob("*/vendor")}
    if "0x10de" in vendors or any(Path("/dev").glob("nvidia*")) or shutil.which("nvidia-smi"):
        pytest.skip("this machine has something of NVIDIA's")
    assert (facts.accelerators, facts.driver_version, facts.cuda_version, facts.problems) == ((), None, None, ())
