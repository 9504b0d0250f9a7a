"""What the probe makes of drivers that are old, sick or absent."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from orchestrator.nodes.onhost import gpus
from tests.nodes.probing import MIB, RTX_4090, RTX_4090_B, look, put, put_card


def _readers() -> list[int]:
    return [each.pid for each in psutil.Process().children() if "orchestrator.nodes.onhost.nvml" in each.cmdline()]


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
