"""Simulated time agrees with what is published for real cards, and moves the right way."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.cards import CARDS, find_card, parse_cards
from orchestrator.core.model import CacheLayers, ModelShape
from orchestrator.core.physics import (
    decode_step_s,
    kv_bytes_per_token,
    load_s,
    prefill_s,
    prompt_tokens_kept,
    share_of,
)

LLAMA_8B = ModelShape(
    arch="llama",
    parameters=8_030_261_248,
    layers=32,
    heads=32,
    kv_heads=8,
    head_dim=128,
    embedding_length=4096,
    vocab=128_256,
    context_length=131_072,
    weights_bytes=4_912_898_304,
    quantisation="Q4_K_M",
)


@pytest.mark.parametrize(
    ("card", "written", "read"), [("RTX 4090", 131, 7139), ("RTX 4080", 108, 5390), ("RTX 3090", 115, 4030)]
)
def test_an_8b_model_alone_is_as_fast_as_published_within_a_quarter(card, written, read):
    found = find_card(card)
    live = 256 * kv_bytes_per_token(LLAMA_8B)
    assert 1 / decode_step_s(found, LLAMA_8B, live) == pytest.approx(written, rel=0.25)
    assert 512 / prefill_s(found, LLAMA_8B, 512) == pytest.approx(read, rel=0.25)


def test_a_4090_writes_between_120_and_135_tokens_a_second_with_an_8b_model():
    assert 120 < 1 / decode_step_s(find_card("rtx4090"), LLAMA_8B, 0) < 135


def test_the_kv_cache_of_llama_8b_takes_128_kib_a_token():
    assert kv_bytes_per_token(LLAMA_8B) == 128 * 1024
    assert kv_bytes_per_token(LLAMA_8B, "q8_0") == 128 * 1024 * 34 / 64


@given(slots=st.integers(1, 16), tokens=st.integers(1, 8192))
def test_more_running_slots_cost_each_less_than_they_would_alone(slots, tokens):
    card, live = find_card("RTX 4090"), tokens * kv_bytes_per_token(LLAMA_8B)
    together = decode_step_s(card, LLAMA_8B, slots * live)
    assert decode_step_s(card, LLAMA_8B, live) <= together <= slots * decode_step_s(card, LLAMA_8B, live)


@given(mine=st.integers(0, 64), others=st.integers(0, 64))
def test_shares_of_a_card_are_never_more_than_the_whole(mine, others):
    share = share_of(mine, mine + others)
    assert 0 < share <= 1
    if mine and others:
        assert share + share_of(others, mine + others) == pytest.approx(1)


def test_half_of_a_card_takes_twice_as_long_but_for_the_overhead():
    card = find_card("RTX 4090")
    whole, half = decode_step_s(card, LLAMA_8B, 0), decode_step_s(card, LLAMA_8B, 0, share=0.5)
    assert half == pytest.approx(2 * whole - 0.0015)
    assert prefill_s(card, LLAMA_8B, 512, share=0.5) == pytest.approx(2 * prefill_s(card, LLAMA_8B, 512))


def test_loading_takes_its_weights_over_the_disks_bandwidth():
    assert load_s(LLAMA_8B) == pytest.approx(0.5 + 4.912898304 / 2.5)


@pytest.mark.parametrize(("tokens", "context", "kept"), [(610, 256, 130), (6009, 4096, 2050), (255, 256, 255)])
def test_a_prompt_too_long_is_cut_as_measured(tokens, context, kept):
    assert prompt_tokens_kept(tokens, context) == kept


def test_a_list_of_cards_is_read_in_its_order():
    names = [card.name for card in parse_cards("3x RTX 4090, 1x A100-40GB")]
    assert names == ["RTX 4090"] * 3 + ["A100-40GB"]


@pytest.mark.parametrize(
    "text", ["rtx4090", " 1 x  RTX-4090 ", "1× NVIDIA GeForce RTX 4090", "1*Rtx 4090", "4090", "1xrtx 4090"]
)
def test_spelling_case_and_a_missing_count_do_not_matter(text):
    assert parse_cards(text) == (find_card("RTX 4090"),)


def test_an_unknown_card_is_named_and_the_known_ones_are_listed():
    with pytest.raises(ValueError, match=r"unknown card 'RTX 9999'.*RTX 4090.*H200"):
        parse_cards("2x RTX 9999")


@pytest.mark.parametrize("text", ["", "RTX 4090,", " , ", "0x RTX 4090", "99999x L4"])
def test_a_broken_list_of_cards_is_refused(text):
    with pytest.raises(ValueError, match="cards "):
        parse_cards(text)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_card_is_found_by_its_own_name(card):
    assert parse_cards(f"2x {card.name.lower()}") == (card, card)


MOE_30B = replace(
    LLAMA_8B, parameters=30_532_122_624, weights_bytes=18_500_000_000, experts=128, experts_used=8,
    expert_bytes=17_500_000_000,
)  # fmt: skip


def test_a_model_with_experts_reads_only_those_it_uses_and_more_of_them_with_more_slots():
    card = find_card("RTX 4090")
    dense = replace(MOE_30B, experts=0)
    one, eight = (decode_step_s(card, MOE_30B, 0, slots=slots) for slots in (1, 8))
    assert one < eight < decode_step_s(card, dense, 0, slots=8)
    assert one < decode_step_s(card, dense, 0) / 5
    assert prefill_s(card, MOE_30B, 512) < prefill_s(card, dense, 512) / 5


def test_a_cache_of_latents_and_layers_without_one_count_as_what_they_keep():
    latent = replace(LLAMA_8B, caches=(CacheLayers(8, 576, 0),))
    assert kv_bytes_per_token(latent) == 8 * 576 * 2
