"""What the probe tells of a host besides its cards: CPU, memory, disk, seats, links, models, other Ollamas."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from orchestrator.core.model import GpuLink, ModelOnDisk, NodeName, NumaNode
from orchestrator.fleet import made
from orchestrator.nodes.onhost import ollamas
from orchestrator.nodes.onhost.ollamas import MARK, Models
from orchestrator.nodes.probe import probe
from tests.nodes.probing import A100, MIB, RTX_4090, RTX_4090_B, look, put, put_card

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
