"""What the probe makes of healthy cards, whole or in MIG devices."""

from __future__ import annotations

import pytest

from orchestrator.core.model import Accelerator, GpuProcess
from orchestrator.nodes.onhost.nvml import merge_processes
from tests.nodes.probing import A100, MIB, RTX_4090, RTX_4090_B, look

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
