"""What the layers of most architectures are made of: metadata, and tensors with the names that llama.cpp looks for."""

from __future__ import annotations

from typing import Any

from benchmarks.sizing.files import Tensor

VOCAB = 2000


def base(layers: int, width: int, wide: Any, context: int, heads: Any = None, kv: Any = None, dim: int = 0) -> Any:
    told: dict[str, Any] = {
        "block_count": layers,
        "embedding_length": width,
        "feed_forward_length": wide,
        "context_length": context,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5,
        "vocab_size": VOCAB,
    }
    told |= {"attention.head_count": heads} if heads is not None else {}
    told |= {"attention.head_count_kv": kv} if kv is not None else {}
    if dim:
        told |= {"attention.key_length": dim, "attention.value_length": dim, "rope.dimension_count": dim}
    return told


def ends(width: int, *, tied: bool, norm: str = "output_norm.weight") -> list[Tensor]:
    ends: list[Tensor] = [("token_embd.weight", (width, VOCAB), "Q8_0"), (norm, (width,), "F32")]
    return ends if tied else [*ends, ("output.weight", (width, VOCAB), "Q8_0")]


def attention(
    at: int, width: int, heads: int, kv: int, dim: int, *, qk_norm: bool = False, norm: bool = True, gated: bool = False
) -> list[Tensor]:
    blk = f"blk.{at}."
    found: list[Tensor] = [(f"{blk}attn_norm.weight", (width,), "F32")] if norm else []
    found += [
        (f"{blk}attn_q.weight", (width, heads * dim * (2 if gated else 1)), "Q8_0"),
        (f"{blk}attn_k.weight", (width, kv * dim), "Q8_0"),
        (f"{blk}attn_v.weight", (width, kv * dim), "Q8_0"),
        (f"{blk}attn_output.weight", (heads * dim, width), "Q8_0"),
    ]
    if qk_norm:
        found += [(f"{blk}attn_q_norm.weight", (dim,), "F32"), (f"{blk}attn_k_norm.weight", (dim,), "F32")]
    return found


def dense(at: int, width: int, wide: int, *, norm: bool = True) -> list[Tensor]:
    blk = f"blk.{at}."
    found: list[Tensor] = [(f"{blk}ffn_norm.weight", (width,), "F32")] if norm else []
    return [
        *found,
        (f"{blk}ffn_gate.weight", (width, wide), "Q8_0"),
        (f"{blk}ffn_up.weight", (width, wide), "Q8_0"),
        (f"{blk}ffn_down.weight", (wide, width), "Q8_0"),
    ]


def experts(at: int, width: int, wide: int, count: int, shared: int = 0, *, norm: bool = True) -> list[Tensor]:
    blk = f"blk.{at}."
    found: list[Tensor] = [(f"{blk}ffn_norm.weight", (width,), "F32")] if norm else []
    found += [
        (f"{blk}ffn_gate_inp.weight", (width, count), "F32"),
        (f"{blk}ffn_gate_exps.weight", (width, wide, count), "Q8_0"),
        (f"{blk}ffn_up_exps.weight", (width, wide, count), "Q8_0"),
        (f"{blk}ffn_down_exps.weight", (wide, width, count), "Q8_0"),
    ]
    if shared:
        found += [
            (f"{blk}ffn_gate_shexp.weight", (width, shared), "Q8_0"),
            (f"{blk}ffn_up_shexp.weight", (width, shared), "Q8_0"),
            (f"{blk}ffn_down_shexp.weight", (shared, width), "Q8_0"),
        ]
    return found


def state_space(at: int, width: int, inner: int, state: int, groups: int, heads: int) -> list[Tensor]:
    blk, mixed = f"blk.{at}.", inner + 2 * groups * state
    return [
        (f"{blk}attn_norm.weight", (width,), "F32"),
        (f"{blk}ssm_in.weight", (width, inner + mixed + heads), "Q8_0"),
        (f"{blk}ssm_conv1d.weight", (4, mixed), "F32"),
        (f"{blk}ssm_conv1d.bias", (mixed,), "F32"),
        (f"{blk}ssm_dt.bias", (heads,), "F32"),
        (f"{blk}ssm_a", (1, heads), "F32"),
        (f"{blk}ssm_d", (1, heads), "F32"),
        (f"{blk}ssm_norm.weight", (inner // groups, groups), "F32"),
        (f"{blk}ssm_out.weight", (inner, width), "Q8_0"),
    ]


def states(inner: int, state: int, groups: int, heads: int) -> dict[str, Any]:
    return {
        "ssm.conv_kernel": 4,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.group_count": groups,
        "ssm.time_step_rank": heads,
    }
