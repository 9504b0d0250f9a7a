"""What the probe makes of hosts and drivers, healthy, old, sick and absent."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.core.errors import HostError
from orchestrator.core.model import Accelerator, GpuLink, GpuProcess, ModelOnDisk, NodeFacts, NodeName, NumaNode
from orchestrator.fleet import made
from orchestrator.nodes import probe as probe_module
from orchestrator.nodes.onhost import gpus, ollamas
from orchestrator.nodes.onhost.nvml import merge_processes
from orchestrator.nodes.onhost.ollamas import MARK, Models
from orchestrator.nodes.probe import PROGRAM, Asked, Seen, bundle, facts_from_json, facts_to_json, probe
from orchestrator.nodes.sending import packed
from tests.waiting import WITHIN_S

MIB = 2**20
RTX_4090 = (
    "gpu uuid=GPU-4090-a name=NVIDIA_GeForce_RTX_4090 pci=00000000:01:00.0 "
    "total=24564 reserved=364 used=1200 util=37 temp=61 power=312 limit=450"
)
RTX_4090_B = "gpu uuid=GPU-4090-b name=NVIDIA_GeForce_RTX_4090 pci=00000000:41:00.0 total=24564 reserved=364 used=0"
A100 = "gpu uuid=GPU-a100 name=NVIDIA_A100-SXM4-40GB pci=00000000:81:00.0 total=40960 reserved=600 used=0 temp=33 ecc=1"


def look(tmp_path: Path, root: Path | None = None, nvml_wait_s: float = 30.0) -> NodeFacts:
    """Probe with a /sys, /proc and /dev that hold only what the test put there."""
    empty = tmp_path / "root"
    empty.mkdir(exist_ok=True)
    return probe(NodeName("n1"), tmp_path, root=root or empty, nvml_wait_s=nvml_wait_s)


def put_card(root: Path, address: str, driver: str = "nvidia", kind: str = "0x030000", vendor: str = "0x10de") -> None:
    device = root / "sys/bus/pci/devices" / address
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    (root / "sys/bus/pci/drivers" / driver).mkdir(parents=True, exist_ok=True)
    (device / "driver").symlink_to(root / "sys/bus/pci/drivers" / driver)


def put(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


# --- healthy cards ---------------------------------------------------------------------------------------------------


def test_a_card_is_told_with_everything_its_driver_knows(play, tmp_path):
    play(RTX_4090, "process on=GPU-4090-a pid=4242 used=1100 as=compute")
    facts = look(tmp_path)
    assert facts.accelerators == (
        Accelerator(
            uuid="GPU-4090-a",
            index=0,
            name="NVIDIA GeForce RTX 4090",
            vram_total_bytes=24564 * MIB,
            vram_free_bytes=(24564 - 364 - 1200) * MIB,
            vram_used_bytes=1200 * MIB,
            processes=(GpuProcess(4242, 1100 * MIB),),
            utilisation_percent=37,
            temperature_c=61,
            power_w=312.0,
            power_limit_w=450.0,
            mig="unsupported",
            ecc="unsupported",
            pci="0000:01:00.0",
        ),
    )
    assert (facts.driver_version, facts.cuda_version, facts.problems) == ("550.54.15", "12.4", ())


def test_what_the_driver_does_not_support_is_none_and_no_problem(play, tmp_path):
    play(RTX_4090_B)
    facts = look(tmp_path)
    (card,) = facts.accelerators
    assert (card.utilisation_percent, card.temperature_c, card.power_w, card.power_limit_w) == (None,) * 4
    assert facts.problems == ()


def test_memory_that_the_driver_keeps_for_itself_is_neither_free_nor_used(play, tmp_path):
    play(RTX_4090_B)
    (card,) = look(tmp_path).accelerators
    assert card.vram_free_bytes == card.vram_total_bytes - 364 * MIB
    assert card.vram_used_bytes == 0


def test_each_probe_sees_the_vram_as_it_is_then(play, tmp_path):
    play(RTX_4090_B)
    before = look(tmp_path).accelerators[0].vram_free_bytes
    play(RTX_4090_B.replace("used=0", "used=8000"))
    assert look(tmp_path).accelerators[0].vram_free_bytes == before - 8000 * MIB


def test_all_cards_are_told_in_the_order_of_their_indices(play, tmp_path):
    play(RTX_4090, RTX_4090_B, A100)
    cards = look(tmp_path).accelerators
    assert [(each.index, each.uuid) for each in cards] == [(0, "GPU-4090-a"), (1, "GPU-4090-b"), (2, "GPU-a100")]


def test_processes_of_others_are_told_once_each_with_the_card_they_are_on(play, tmp_path):
    play(
        RTX_4090,
        RTX_4090_B,
        "process on=GPU-4090-a pid=77 used=900 as=both",
        "process on=GPU-4090-a pid=31 used=300 as=graphics",
        "process on=GPU-4090-b pid=77 used=? as=compute",
    )
    first, second = look(tmp_path).accelerators
    assert first.processes == (GpuProcess(31, 300 * MIB), GpuProcess(77, 900 * MIB))
    assert second.processes == (GpuProcess(77, None),)


@pytest.mark.parametrize(
    ("held", "merged"),
    [
        ([], []),
        ([(1, 5), (1, 7)], [(1, 7)]),
        ([(1, None), (1, 7)], [(1, 7)]),
        ([(1, 7), (1, None)], [(1, 7)]),
        ([(1, None), (1, None)], [(1, None)]),
        ([(2, 0), (1, 7)], [(1, 7), (2, 0)]),
    ],
)
def test_a_process_in_both_lists_counts_once_with_the_larger_figure(held, merged):
    assert [(each["pid"], each["vram_bytes"]) for each in merge_processes(held)] == merged


@pytest.mark.parametrize(("key", "told"), [("ecc=1", "on"), ("ecc=0", "off"), ("", "unsupported")])
def test_ecc_is_told_as_the_card_has_it_now(play, tmp_path, key, told):
    play(A100.replace("ecc=1", key))
    assert look(tmp_path).accelerators[0].ecc == told


# --- MIG -------------------------------------------------------------------------------------------------------------


def test_a_card_with_mig_off_is_offered_as_a_whole(play, tmp_path):
    play(f"{A100} mig=0")
    (card,) = look(tmp_path).accelerators
    assert (card.uuid, card.mig, card.parent_uuid) == ("GPU-a100", "off", None)


def test_a_card_with_mig_on_is_offered_as_its_mig_devices_only(play, tmp_path):
    play(
        RTX_4090,
        f"{A100} mig=1",
        "mig uuid=MIG-1g gpu=1 position=0 name=NVIDIA_A100-SXM4-40GB_MIG_1g.5gb total=4864 used=12",
        "mig uuid=MIG-3g gpu=1 position=4 name=NVIDIA_A100-SXM4-40GB_MIG_3g.20gb total=19968 used=5000",
        "process on=MIG-3g pid=9 used=? as=compute",
    )
    facts = look(tmp_path)
    whole, small, large = facts.accelerators
    assert (whole.uuid, whole.parent_uuid) == ("GPU-4090-a", None)
    assert small == Accelerator(
        uuid="MIG-1g",
        index=1,
        name="NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        vram_total_bytes=4864 * MIB,
        vram_free_bytes=4852 * MIB,
        vram_used_bytes=12 * MIB,
        mig="on",
        ecc="on",
        parent_uuid="GPU-a100",
        pci="0000:81:00.0",
    )
    assert (large.uuid, large.vram_free_bytes, large.parent_uuid) == ("MIG-3g", 14968 * MIB, "GPU-a100")
    assert large.processes == (GpuProcess(9, None),)
    assert facts.problems == ()


def test_a_card_with_mig_on_and_no_mig_device_is_a_problem_with_both_ways_out(play, tmp_path):
    play(f"{A100} mig=1")
    facts = look(tmp_path)
    assert facts.accelerators == ()
    (problem,) = facts.problems
    assert "NVIDIA A100-SXM4-40GB, PCI 0000:81:00.0" in problem
    assert "nvidia-smi mig -i 0 -cgi" in problem
    assert "nvidia-smi -i 0 -mig 0" in problem


def test_a_card_that_does_not_say_whether_mig_is_on_is_not_offered_as_a_whole(play, tmp_path):
    play(RTX_4090, f"{A100} mig=1", "fault call=nvmlDeviceGetMigMode gpu=1 answer=999")
    facts = look(tmp_path)
    assert [each.uuid for each in facts.accelerators] == ["GPU-4090-a"]
    assert any("0000:81:00.0 does not answer" in each for each in facts.problems)


# --- drivers of old, drivers in trouble ------------------------------------------------------------------------------


def test_a_driver_without_newer_functions_is_read_through_its_older_ones(play, tmp_path):
    play(RTX_4090, driver="old")
    facts = look(tmp_path)
    (card,) = facts.accelerators
    assert card.vram_free_bytes == (24564 - 364 - 1200) * MIB
    assert (card.temperature_c, card.power_limit_w, card.mig) == (61, 450.0, "unsupported")
    assert facts.cuda_version == "12.4"
    (problem,) = facts.problems
    assert "does not say which processes hold VRAM" in problem
    assert "driver 470 or newer" in problem


def test_a_card_lost_on_the_bus_is_left_out_and_the_others_stay(play, tmp_path):
    play(RTX_4090, RTX_4090_B, "fault call=nvmlDeviceGetMemoryInfo_v2 gpu=0 answer=15")
    facts = look(tmp_path)
    assert [each.uuid for each in facts.accelerators] == ["GPU-4090-b"]
    assert facts.problems == ("GPU at PCI 0000:01:00.0 has fallen off the bus; it is left out; power-cycle the host",)


def test_a_lost_card_that_nvml_cannot_place_is_named_by_the_address_nobody_answered_for(play, tmp_path):
    root = tmp_path / "root"
    put_card(root, "0000:01:00.0")
    put_card(root, "0000:41:00.0", kind="0x030200")
    put_card(root, "0000:41:00.1", kind="0x040300")  # the sound device of a card is no card
    put_card(root, "0000:02:00.0", vendor="0x8086")
    play(RTX_4090, RTX_4090_B, "fault gpu=1 answer=15")
    facts = look(tmp_path, root)
    assert [each.uuid for each in facts.accelerators] == ["GPU-4090-a"]
    assert facts.problems == ("GPU at PCI 0000:41:00.0 has fallen off the bus; it is left out; power-cycle the host",)


def test_a_lost_card_is_named_by_its_index_where_its_address_could_only_be_guessed(play, tmp_path):
    play(RTX_4090, RTX_4090_B, "fault gpu=1 answer=15")
    assert look(tmp_path).problems == ("GPU 1 has fallen off the bus; it is left out; power-cycle the host",)


@pytest.mark.parametrize(
    ("answer", "told"),
    [(16, "nvidia-smi --gpu-reset -i 0"), (999, "does not answer (Unknown Error)"), (14, "Corrupted infoROM")],
)
def test_a_card_that_cannot_be_opened_is_left_out_with_a_way_out(play, tmp_path, answer, told):
    play(RTX_4090, RTX_4090_B, f"fault call=nvmlDeviceGetHandleByIndex_v2 gpu=0 answer={answer}")
    facts = look(tmp_path)
    assert [each.uuid for each in facts.accelerators] == ["GPU-4090-b"]
    (problem,) = facts.problems
    assert told in problem
    assert "it is left out" in problem


def test_a_card_whose_vram_cannot_be_measured_is_left_out(play, tmp_path):
    play(RTX_4090, "gpu uuid=GPU-spark name=NVIDIA_GB10 pci=0000000F:01:00.0")
    facts = look(tmp_path)
    assert [each.uuid for each in facts.accelerators] == ["GPU-4090-a"]
    (problem,) = facts.problems
    assert problem.startswith("GPU 1 (NVIDIA GB10, PCI 000f:01:00.0) is left out")


def test_one_failed_reading_is_told_and_leaves_the_card_in_place(play, tmp_path):
    play(RTX_4090, "fault call=nvmlDeviceGetPowerUsage gpu=0 answer=999")
    facts = look(tmp_path)
    (card,) = facts.accelerators
    assert (card.power_w, card.temperature_c) == (None, 61)
    (problem,) = facts.problems
    assert problem.startswith("GPU 0 (NVIDIA GeForce RTX 4090, PCI 0000:01:00.0): power: NVML answers")
    assert "dmesg" in problem


def test_a_host_question_that_meets_a_lost_card_does_not_hide_the_others(play, tmp_path):
    play(RTX_4090, "fault call=nvmlSystemGetDriverVersion answer=15", "fault call=nvmlShutdown answer=15")
    facts = look(tmp_path)
    assert [each.uuid for each in facts.accelerators] == ["GPU-4090-a"]
    assert facts.driver_version is None
    assert len(facts.problems) == 2


@pytest.mark.parametrize(
    ("answer", "way_out"),
    [
        (18, "reboot, or reload the nvidia module"),
        (9, "modprobe nvidia"),
        (4, "allow it to read and write /dev/nvidia*"),
        (15, "power-cycle the host"),
        (13, "install version 450 or newer"),
        (999, "a reboot loads the driver anew"),
        (29, "an error that only this library knows"),
    ],
)
def test_a_driver_that_does_not_start_is_a_problem_that_says_what_to_do(play, tmp_path, answer, way_out):
    play(RTX_4090, f"fault call=nvmlInitWithFlags answer={answer}")
    facts = look(tmp_path)
    assert facts.accelerators == ()
    (problem,) = facts.problems
    assert way_out in problem


def test_every_start_of_nvml_has_its_shutdown_whatever_happens_between(play, tmp_path):
    journal = tmp_path / "journal"
    play(RTX_4090, f"journal {journal}")
    look(tmp_path)
    play(RTX_4090, f"journal {journal}", "fault gpu=0 answer=15")
    look(tmp_path)
    play(RTX_4090, f"journal {journal}", "fault call=nvmlDeviceGetCount_v2 answer=999")
    look(tmp_path)
    assert journal.read_text().split() == ["init", "shutdown"] * 3


def test_a_driver_that_never_answers_costs_the_gpus_and_leaves_no_process(play, tmp_path):
    play(RTX_4090, "fault call=nvmlDeviceGetMemoryInfo_v2 answer=hang")
    facts = look(tmp_path, nvml_wait_s=1.5)
    assert facts.accelerators == ()
    assert facts.ram_total_bytes > 0
    (problem,) = facts.problems
    assert problem.startswith("the NVIDIA driver did not answer within 1.5 s; its GPUs are left out")
    assert _readers() == []


def test_a_library_that_crashes_takes_only_the_reader_along(play, tmp_path):
    play(RTX_4090, "fault call=nvmlDeviceGetName answer=crash")
    facts = look(tmp_path)
    assert facts.accelerators == ()
    (problem,) = facts.problems
    assert "ended the process that asked it (Segmentation fault)" in problem


def test_while_a_reader_is_stuck_in_the_driver_no_second_one_is_sent_after_it(play, tmp_path, monkeypatch):
    play(RTX_4090)
    # No test can put a process where SIGKILL does not reach; one that merely lives on stands for it.
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as stuck:
        monkeypatch.setattr(gpus, "stuck", [stuck])
        facts = look(tmp_path)
        stuck.kill()
    assert facts.accelerators == ()
    assert f"still holds process {stuck.pid}" in facts.problems[0]
    assert [each.uuid for each in look(tmp_path).accelerators] == ["GPU-4090-a"]


# --- hosts without a driver ------------------------------------------------------------------------------------------


def test_a_host_without_library_and_card_has_no_gpu_and_no_problem(play, tmp_path):
    play(driver="none")
    facts = look(tmp_path)
    assert (facts.accelerators, facts.driver_version, facts.problems) == ((), None, ())


def test_a_card_without_a_library_is_a_problem(play, tmp_path):
    play(driver="none")
    put_card(tmp_path / "root", "0000:65:00.0", driver="nouveau")
    (problem,) = look(tmp_path).problems
    assert "PCI 0000:65:00.0" in problem
    assert "install the NVIDIA driver" in problem


def test_a_device_file_without_a_library_is_a_problem(play, tmp_path):
    play(driver="none")
    put(tmp_path / "root", {"dev/nvidia0": ""})
    (problem,) = look(tmp_path).problems
    assert "`--gpus all`" in problem


def test_a_card_given_to_a_virtual_machine_is_none_of_this_hosts(play, tmp_path):
    play(driver="none")
    put_card(tmp_path / "root", "0000:65:00.0", driver="vfio-pci")
    assert look(tmp_path).problems == ()


# --- CPU, memory, disk -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"a/b/cpu.max": "max 100000\n"}, None),
        ({"a/cpu.max": "100000 100000\n", "a/b/cpu.max": "max 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"a/b/cpu.max": "100000000 100000\n"}, None),
        ({"cpu/c/cpu.cfs_quota_us": "-1\n", "cpu/c/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_a_cpu_quota_of_any_cgroup_above_bounds_the_cpus(play, tmp_path, files, cpus):
    play(driver="none")
    put(tmp_path / "root", {"proc/self/cgroup": "4:cpu,cpuacct:/c\n0::/a/b\n"})
    put(tmp_path / "root/sys/fs/cgroup", files)
    assert look(tmp_path).cpu_count == (cpus or len(os.sched_getaffinity(0)))


def test_a_memory_limit_of_a_cgroup_bounds_the_ram(play, tmp_path):
    play(driver="none")
    put(tmp_path / "root", {"proc/self/cgroup": "0::/a\n"})
    put(
        tmp_path / "root/sys/fs/cgroup/a",
        {
            "memory.max": f"{64 * MIB}\n",
            "memory.current": f"{48 * MIB}\n",
            "memory.stat": f"anon 1\ninactive_file {8 * MIB}\n",
        },
    )
    facts = look(tmp_path)
    assert (facts.ram_total_bytes, facts.ram_free_bytes) == (64 * MIB, 24 * MIB)


def test_a_memory_limit_of_the_older_cgroups_bounds_the_ram(play, tmp_path):
    play(driver="none")
    put(tmp_path / "root", {"proc/self/cgroup": "4:memory:/not/seen/in/a/container\n"})
    put(
        tmp_path / "root/sys/fs/cgroup/memory",
        {"memory.limit_in_bytes": f"{64 * MIB}\n", "memory.usage_in_bytes": f"{65 * MIB}\n"},
    )
    facts = look(tmp_path)
    assert (facts.ram_total_bytes, facts.ram_free_bytes) == (64 * MIB, 0)


def test_the_disk_is_that_of_the_nearest_directory_that_exists(play, tmp_path):
    play(driver="none")
    (tmp_path / "file").touch()
    for models_dir in (tmp_path, tmp_path / "not" / "yet" / "made", tmp_path / "file" / "models"):
        facts = probe(NodeName("n1"), models_dir, root=tmp_path)
        assert facts.disk_free_bytes > 0
        assert facts.problems == ()


def test_a_disk_that_cannot_be_read_is_a_problem(play, tmp_path):
    play(driver="none")
    facts = probe(NodeName("n1"), tmp_path / ("x" * 300), root=tmp_path)
    assert facts.disk_free_bytes == 0
    (problem,) = facts.problems
    assert "File name too long" in problem


# --- facts as text ---------------------------------------------------------------------------------------------------


def test_facts_survive_the_way_through_json(play, tmp_path):
    play(
        RTX_4090,
        f"{A100} mig=1",
        "mig uuid=MIG-1g gpu=1 position=0 name=slice total=4864",
        "process on=MIG-1g pid=9 used=? as=compute",
        "fault call=nvmlDeviceGetPowerUsage answer=999",
    )
    facts = look(tmp_path)
    assert len(facts.accelerators) == 2
    assert facts_from_json(facts_to_json(facts)) == facts


def test_the_command_prints_the_facts_on_one_line(play, tmp_path):
    play(RTX_4090)
    command = [sys.executable, "-m", "orchestrator.nodes.probe", "gpu-7", str(tmp_path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    facts = facts_from_json(printed)
    assert facts.node == "gpu-7"
    assert [each.uuid for each in facts.accelerators] == ["GPU-4090-a"]
    assert printed.count("\n") == 1


@pytest.mark.parametrize("text", ["", "bash: python: command not found", "{}", '{"node": "n1", "cpu_count": "many"}'])
def test_text_that_is_no_inventory_is_refused_with_a_way_out(text):
    with pytest.raises(HostError, match="install the same version"):
        facts_from_json(text)


def _readers() -> list[int]:
    return [each.pid for each in psutil.Process().children() if "orchestrator.nodes.onhost.nvml" in each.cmdline()]


# --- where cards sit, what is there already --------------------------------------------------------------------------


def test_a_card_tells_its_seat_and_how_it_is_linked_to_the_others(play, tmp_path):
    root = tmp_path / "root"
    put_card(root, "0000:01:00.0")
    put(root, {"sys/bus/pci/devices/0000:01:00.0/numa_node": "1\n"})
    play(f"{RTX_4090} gen=4 width=16", RTX_4090_B, A100, "link a=0 b=1 path=50 nvlinks=4", "link a=1 b=2 path=20")
    facts = look(tmp_path, root)
    card = facts.accelerators[0]
    assert (card.numa_node, card.pcie_generation, card.pcie_width) == (1, 4, 16)
    assert facts.accelerators[1].numa_node is None
    assert facts.gpu_links == (
        GpuLink(("GPU-4090-a", "GPU-4090-b"), "across NUMA nodes", 4),
        GpuLink(("GPU-4090-b", "GPU-a100"), "several PCIe switches", 0),
    )


def test_the_hosts_memory_is_told_by_numa_node(play, tmp_path):
    play(driver="none")
    put(
        tmp_path / "root/sys/devices/system/node",
        {
            "node1/cpulist": "8-15\n",
            "node1/meminfo": "Node 1 MemTotal:       2048 kB\n",
            "node0/cpulist": "0-7\n",
            "node0/meminfo": "Node 0 MemTotal:       1024 kB\nNode 0 MemFree: 7 kB\n",
        },
    )
    assert look(tmp_path).numa_nodes == (NumaNode(0, "0-7", 2**20), NumaNode(1, "8-15", 2**21))


def put_model(folder: Path, name: str, blobs: dict[str, bytes], missing: tuple[str, ...] = ()) -> str:
    """A model as Ollama keeps it; its digest."""
    layers = [{"digest": f"sha256:{key}", "size": len(content)} for key, content in blobs.items()]
    manifest = folder / "manifests" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"config": layers[0], "layers": layers[1:]}))
    (folder / "blobs").mkdir(exist_ok=True)
    for key, content in blobs.items():
        if key not in missing:
            (folder / "blobs" / f"sha256-{key}").write_bytes(content)
    return hashlib.sha256(manifest.read_bytes()).hexdigest()


def test_models_are_those_whose_files_are_all_there(play, tmp_path):
    play(driver="none")
    digest = put_model(tmp_path, "registry.ollama.ai/library/llama3.2/3b", {"aa": b"{}", "bb": b"weights"})
    other = put_model(tmp_path, "example.org/team/tuned/v1", {"aa": b"{}"})
    put_model(tmp_path, "registry.ollama.ai/me/half/latest", {"aa": b"{}", "cc": b"never came"}, missing=("cc",))
    put(tmp_path / "manifests/registry.ollama.ai/library", {"torn/latest": '{"layers": [', "wild/latest": "[]"})
    assert look(tmp_path).models == (
        ModelOnDisk("example.org/team/tuned:v1", other, 2),
        ModelOnDisk("llama3.2:3b", digest, 9),
    )


def test_a_model_that_is_replaced_or_removed_is_seen_so_by_the_next_look(tmp_path):
    models = Models(tmp_path)
    put_model(tmp_path, "registry.ollama.ai/library/a/b", {"aa": b"{}", "bb": b"one"})
    assert [each["size_bytes"] for each in models.present()[0]] == [5]
    put_model(tmp_path, "registry.ollama.ai/library/a/b", {"aa": b"{}", "cc": b"longer"})
    assert [each["size_bytes"] for each in models.present()[0]] == [8]
    (tmp_path / "blobs" / "sha256-cc").unlink()
    assert models.present() == ([], [])


def test_an_ollama_of_ours_is_known_by_its_mark(tmp_path):
    put(
        tmp_path / "proc/77",
        {
            "cmdline": "/usr/bin/ollama\0serve\0",
            "environ": f"{MARK}=x\0OLLAMA_HOST=127.0.0.1:11500\0HOME=/home/u\0",
            "cgroup": "0::/system.slice/system-ollama.slice/ollama@small-0.service\n",
        },
    )
    put(tmp_path / "proc/78", {"cmdline": "vim\0ollama\0serve.py\0"})
    put(tmp_path / "proc/79", {"cmdline": "/usr/bin/ollama\0runner\0"})
    (server,) = ollamas.servers(tmp_path)
    assert server["is_ours"]
    assert (server["port"], server["models_dir"]) == (11500, "/home/u/.ollama/models")
    assert server["unit"] == "ollama@small-0.service"


def test_the_mark_is_the_one_that_the_fleet_writes():
    assert MARK == made.MARK


# --- as it is sent to other hosts ------------------------------------------------------------------------------------


def test_what_is_sent_is_python_3_8_and_needs_nothing_but_its_library():
    sources = {name: text for program in probe_module._modules().values() for name, text in program}
    assert len(sources) == 10
    for name, text in sources.items():
        tree = ast.parse(text, feature_version=(3, 8))
        imported = {each.split(".")[0] for each in imports_of(tree)}
        allowed = sys.stdlib_module_names | {"orchestrator", "pynvml", "psutil" if name.endswith(".host") else ""}
        assert imported <= allowed, name
        assert {each for each in imports_of(tree) if each.startswith("orchestrator.")} <= sources.keys(), name


def imports_of(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = node.module == "orchestrator.nodes.onhost"
            found |= {f"{node.module}.{each.name}" for each in node.names} if package else {str(node.module)}
    return found


def sent_program(tmp_path: Path, **asked: Any) -> subprocess.Popen[bytes]:
    program = subprocess.Popen(
        [sys.executable, *PROGRAM[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stdin is not None
    program.stdin.write(packed(bundle(Asked(NodeName("gpu-7"), str(tmp_path), **asked))))
    program.stdin.flush()
    return program


def test_what_is_sent_prints_what_a_look_from_here_would_see(play, tmp_path):
    play(RTX_4090, "link a=0 b=1 path=50")
    with sent_program(tmp_path, most=1) as program:
        printed, complaint = program.communicate(timeout=WITHIN_S)
    there, here = Seen().read(printed), probe(NodeName("gpu-7"), tmp_path)
    assert complaint == b""
    changing = {"ram_free_bytes": 0, "disk_free_bytes": 0, "ollamas": ()}
    assert replace(there, **changing) == replace(here, **changing)


def test_a_line_tells_what_changed_and_the_program_ends_with_its_input(play, tmp_path):
    play(RTX_4090)
    with sent_program(tmp_path, interval_s=0.1) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        seen, first = Seen(), program.stdout.readline()
        assert seen.read(first).accelerators[0].vram_used_bytes == 1200 * MIB
        play(RTX_4090.replace("used=1200", "used=1300"))
        while seen.read(line := program.stdout.readline()).accelerators[0].vram_used_bytes != 1300 * MIB:
            assert "hostname" not in json.loads(line)
        assert seen.facts is not None
        assert (seen.facts.node, seen.facts.driver_version) == ("gpu-7", "550.54.15")
        program.stdin.close()
        assert program.wait(timeout=WITHIN_S) == 0


@pytest.mark.parametrize("line", [b"", b"sh: python3: not found\n", b"[1]\n", b'{"node": "n1"}\n'])
def test_a_line_that_is_no_inventory_is_refused(line):
    with pytest.raises(HostError, match="no inventory"):
        Seen().read(line)
