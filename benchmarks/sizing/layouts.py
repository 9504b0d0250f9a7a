"""Two to six layers of well-known architectures, with the widths of a published model of each: metadata and tensors.

A step's buffer does not depend on how many layers there are, and a cache is layers times one layer's; so a few layers
of every kind show both. Names and shapes are those that llama.cpp looks for (its src/models).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.sizing.blocks import VOCAB, attention, base, dense, ends, experts, state_space, states
from benchmarks.sizing.files import Tensor

Layout = tuple[str, dict[str, Any], list[Tensor]]


def llama(width: int, heads: int, kv: int, wide: int, arch: str = "llama", dim: int = 128) -> Layout:
    tensors = ends(width, tied=False)
    for at in range(2):
        tensors += attention(at, width, heads, kv, dim, qk_norm=arch == "qwen3") + dense(at, width, wide)
    return arch, base(2, width, wide, 131072, heads, kv, dim), tensors


def parallel(width: int, heads: int, kv: int, wide: int) -> Layout:
    """Command-R: attention and feed-forward from the same input."""
    tensors = ends(width, tied=True)
    for at in range(2):
        tensors += attention(at, width, heads, kv, 128) + dense(at, width, wide, norm=False)
    return "command-r", base(2, width, wide, 131072, heads, kv, 128) | {"logit_scale": 0.1}, tensors


def fused(width: int, heads: int, kv: int, dim: int, wide: int) -> Layout:
    """Phi-3: one projection for Q, K and V, one for gate and up."""
    tensors = ends(width, tied=False)
    for at in range(2):
        blk = f"blk.{at}."
        tensors += [
            (f"{blk}attn_norm.weight", (width,), "F32"),
            (f"{blk}attn_qkv.weight", (width, (heads + 2 * kv) * dim), "Q8_0"),
            (f"{blk}attn_output.weight", (heads * dim, width), "Q8_0"),
            (f"{blk}ffn_norm.weight", (width,), "F32"),
            (f"{blk}ffn_up.weight", (width, 2 * wide), "Q8_0"),
            (f"{blk}ffn_down.weight", (wide, width), "Q8_0"),
        ]
    return "phi3", base(2, width, wide, 131072, heads, kv, dim), tensors


def gemma(arch: str, width: int, heads: int, kv: int, wide: int, window: int, layers: int) -> Layout:
    tensors = ends(width, tied=True)
    for at in range(layers):
        tensors += attention(at, width, heads, kv, 128, qk_norm=arch == "gemma3") + dense(at, width, wide)
        tensors += [(f"blk.{at}.post_{name}.weight", (width,), "F32") for name in ("attention_norm", "ffw_norm")]
    told = base(layers, width, wide, 131072, heads, kv, 128) | {"attention.sliding_window": window}
    return arch, told, tensors


def gemma4(width: int, heads: int, kv: tuple[int, int], wide: int, aside: int = 0) -> Layout:
    """Layers with a window have other heads than those that see everything; `aside`: inputs of each layer's own."""
    sliding, tensors = [True] * 5 + [False], ends(width, tied=True)
    tensors.append(("rope_freqs.weight", (256,), "F32"))
    if aside:
        tensors.append(("per_layer_token_embd.weight", (aside * 6, VOCAB), "Q8_0"))
        tensors.append(("per_layer_model_proj.weight", (width, aside * 6), "Q8_0"))
        tensors.append(("per_layer_proj_norm.weight", (aside,), "F32"))
    for at, is_sliding in enumerate(sliding):
        tensors += attention(at, width, heads, kv[not is_sliding], 256 if is_sliding else 512, qk_norm=True)
        tensors += dense(at, width, wide)
        tensors += [(f"blk.{at}.post_{name}.weight", (width,), "F32") for name in ("attention_norm", "ffw_norm")]
        if aside:
            tensors.append((f"blk.{at}.inp_gate.weight", (width, aside), "Q8_0"))
            tensors.append((f"blk.{at}.proj.weight", (aside, width), "Q8_0"))
            tensors.append((f"blk.{at}.post_norm.weight", (width,), "F32"))
    told = base(6, width, wide, 262144, heads, [kv[0]] * 5 + [kv[1]], 512) | {
        "attention.sliding_window": 1024,
        "attention.sliding_window_pattern": sliding,
        "attention.key_length_swa": 256,
        "attention.value_length_swa": 256,
        "attention.shared_kv_layers": 0,
        "embedding_length_per_layer_input": aside,
        "rope.dimension_count_swa": 256,
        "rope.freq_base_swa": 10000.0,
    }
    return "gemma4", told, tensors


def mixture(
    arch: str, width: int, heads: int, kv: int, wide: int, count: int, used: int, context: int = 32768
) -> Layout:
    tensors = ends(width, tied=False)
    for at in range(2):
        tensors += attention(at, width, heads, kv, 128, qk_norm=arch == "qwen3moe")
        tensors += experts(at, width, wide, count)
    told = base(2, width, wide, context, heads, kv, 128) | {"expert_count": count, "expert_used_count": used}
    return arch, told | ({"expert_feed_forward_length": wide} if arch == "qwen3moe" else {}), tensors


def glm4moe(width: int = 4096, heads: int = 96, wide: int = 1408, count: int = 64) -> Layout:
    tensors = ends(width, tied=False)
    for at in range(3):
        tensors += attention(at, width, heads, 8, 128)
        tensors += [(f"blk.{at}.post_attention_norm.weight", (width,), "F32")]
        tensors += (
            dense(at, width, 10944, norm=False)
            if at == 0
            else [
                *experts(at, width, wide, count, wide, norm=False),
                (f"blk.{at}.exp_probs_b.bias", (count,), "F32"),
            ]
        )
    told = base(3, width, 10944, 131072, heads, 8, 128) | {
        "leading_dense_block_count": 1,
        "expert_count": count,
        "expert_used_count": 8,
        "expert_shared_count": 1,
        "expert_feed_forward_length": wide,
        "nextn_predict_layers": 0,
        "rope.dimension_count": 64,
    }
    return "glm4moe", told, tensors


def gpt_oss(width: int = 2880, heads: int = 64, count: int = 32) -> Layout:
    tensors = ends(width, tied=False)
    for at in range(2):
        blk = f"blk.{at}."
        tensors += attention(at, width, heads, 8, 64) + experts(at, width, width, count, norm=False)
        tensors += [
            (f"{blk}post_attention_norm.weight", (width,), "F32"),
            (f"{blk}attn_sinks.weight", (heads,), "F32"),
            (f"{blk}attn_output.bias", (width,), "F32"),
            (f"{blk}ffn_gate_inp.bias", (count,), "F32"),
            *((f"{blk}ffn_{part}_exps.bias", (width, count), "F32") for part in ("gate", "up", "down")),
        ]
    told = base(2, width, width, 131072, heads, 8, 64) | {
        "expert_count": count,
        "expert_used_count": 4,
        "expert_feed_forward_length": width,
        "attention.sliding_window": 128,
    }
    return "gpt-oss", told, tensors


def latent(width: int = 7168, heads: int = 128, query: int = 1536, wide: int = 2048, count: int = 16) -> Layout:
    """DeepSeek V3: K and V of all heads in one latent; the first layer is dense."""
    tensors = ends(width, tied=False)
    for at in range(2):
        blk = f"blk.{at}."
        tensors += [
            (f"{blk}attn_norm.weight", (width,), "F32"),
            (f"{blk}attn_kv_a_norm.weight", (512,), "F32"),
            (f"{blk}attn_kv_a_mqa.weight", (width, 576), "Q8_0"),
            (f"{blk}attn_k_b.weight", (128, 512, heads), "Q8_0"),
            (f"{blk}attn_v_b.weight", (512, 128, heads), "Q8_0"),
            (f"{blk}attn_output.weight", (heads * 128, width), "Q8_0"),
            (f"{blk}attn_q_a_norm.weight", (query,), "F32"),
            (f"{blk}attn_q_a.weight", (width, query), "Q8_0"),
            (f"{blk}attn_q_b.weight", (query, heads * 192), "Q8_0"),
        ]
        tensors += dense(at, width, 18432) if at == 0 else experts(at, width, wide, count, wide)
    told = base(2, width, 18432, 163840, heads, 1) | {
        "attention.key_length": 576,
        "attention.value_length": 512,
        "rope.dimension_count": 64,
        "attention.key_length_mla": 192,
        "attention.value_length_mla": 128,
        "attention.kv_lora_rank": 512,
        "attention.q_lora_rank": query,
        "leading_dense_block_count": 1,
        "expert_count": count,
        "expert_used_count": 8,
        "expert_shared_count": 1,
        "expert_feed_forward_length": wide,
        "expert_weights_scale": 1.0,
    }
    return "deepseek2", told, tensors


def mamba(width: int = 2560, state: int = 16) -> Layout:
    inner, rank, tensors = 2 * width, width // 16, ends(width, tied=True)
    for at in range(3):
        blk = f"blk.{at}."
        tensors += [
            (f"{blk}attn_norm.weight", (width,), "F32"),
            (f"{blk}ssm_in.weight", (width, 2 * inner), "Q8_0"),
            (f"{blk}ssm_conv1d.weight", (4, inner), "F32"),
            (f"{blk}ssm_conv1d.bias", (inner,), "F32"),
            (f"{blk}ssm_x.weight", (inner, rank + 2 * state), "Q8_0"),
            (f"{blk}ssm_dt.weight", (rank, inner), "Q8_0"),
            (f"{blk}ssm_dt.bias", (inner,), "F32"),
            (f"{blk}ssm_a", (state, inner), "F32"),
            (f"{blk}ssm_d", (inner,), "F32"),
            (f"{blk}ssm_out.weight", (inner, width), "Q8_0"),
        ]
    told = base(3, width, 0, 1048576, 0) | states(inner, state, 0, rank)
    return "mamba", told, tensors


def mamba2(width: int = 2560, state: int = 128) -> Layout:
    inner, tensors = 2 * width, ends(width, tied=True)
    for at in range(3):
        tensors += state_space(at, width, inner, state, 1, inner // 64)
    return "mamba2", base(3, width, 0, 1048576, 0) | states(inner, state, 1, inner // 64), tensors


def granite_hybrid(width: int = 1536, heads: int = 12, wide: int = 512, count: int = 62) -> Layout:
    inner, tensors = 2 * width, ends(width, tied=True)
    for at in range(4):
        is_attention = at == 2
        tensors += (
            attention(at, width, heads, 4, 128) if is_attention else state_space(at, width, inner, 128, 1, inner // 64)
        )
        tensors += experts(at, width, wide, count, 1024)
    told = base(4, width, wide, 131072, heads, [0, 0, 4, 0], 128) | states(inner, 128, 1, inner // 64)
    told |= {"expert_count": count, "expert_used_count": 6, "expert_shared_feed_forward_length": 1024}
    scales = ("embedding_scale", "residual_scale", "logit_scale", "attention.scale")
    return "granitehybrid", told | dict.fromkeys(scales, 1.0), tensors


def falcon_h1(width: int = 3072, heads: int = 12, wide: int = 12288) -> Layout:
    """Every layer attends and has a state."""
    tensors = ends(width, tied=False)
    for at in range(2):
        tensors += state_space(at, width, 3072, 256, 2, 24) + attention(at, width, heads, 2, 128, norm=False)
        tensors += [(f"blk.{at}.ffn_norm", (width,), "F32"), *dense(at, width, wide, norm=False)]
    return "falcon-h1", base(2, width, wide, 262144, heads, 2, 128) | states(3072, 256, 2, 24), tensors


def lfm2(width: int = 2048, heads: int = 32, wide: int = 8192) -> Layout:
    tensors = ends(width, tied=True, norm="token_embd_norm.weight")
    for at in range(4):
        blk = f"blk.{at}."
        tensors += (
            attention(at, width, heads, 8, 64, qk_norm=True)
            if at == 2
            else [
                (f"{blk}attn_norm.weight", (width,), "F32"),
                (f"{blk}shortconv.conv.weight", (3, width), "F32"),
                (f"{blk}shortconv.in_proj.weight", (width, 3 * width), "Q8_0"),
                (f"{blk}shortconv.out_proj.weight", (width, width), "Q8_0"),
            ]
        )
        tensors += dense(at, width, wide)
    return "lfm2", base(4, width, wide, 128000, heads, [0, 0, 8, 0]) | {"shortconv.l_cache": 3}, tensors


def delta_net(arch: str, width: int, heads: int, kv: int, wide: int) -> Layout:
    """Qwen3-Next and Qwen3.5: every fourth layer attends, the others keep a state of fixed size."""
    state, groups, value_heads, tensors = 128, 16, 32, ends(width, tied=arch == "qwen35")
    inner, mixed = state * value_heads, state * (2 * groups + value_heads)
    for at in range(4):
        blk = f"blk.{at}."
        tensors += [(f"{blk}{name}.weight", (width,), "F32") for name in ("attn_norm", "post_attention_norm")]
        if at == 3:
            tensors += attention(at, width, heads, kv, 256, qk_norm=True, norm=False, gated=True)
        else:
            gates = ("ssm_beta", "ssm_alpha") if arch == "qwen35" else ("ssm_ba",)
            tensors += [
                (f"{blk}attn_qkv.weight", (width, mixed), "Q8_0"),
                (f"{blk}attn_gate.weight", (width, inner), "Q8_0"),
                (f"{blk}ssm_conv1d.weight", (4, mixed), "F32"),
                (f"{blk}ssm_dt.bias", (value_heads,), "F32"),
                (f"{blk}ssm_a", (value_heads,), "F32"),
                *((f"{blk}{gate}.weight", (width, 2 * value_heads // len(gates)), "Q8_0") for gate in gates),
                (f"{blk}ssm_norm.weight", (state,), "F32"),
                (f"{blk}ssm_out.weight", (inner, width), "Q8_0"),
            ]
        if arch == "qwen35":
            tensors += dense(at, width, wide, norm=False)
        else:
            tensors += experts(at, width, wide, 128, wide, norm=False)
            tensors += [(f"{blk}ffn_gate_inp_shexp.weight", (width,), "F32")]
    told = base(4, width, wide, 262144, heads, kv, 256) | states(inner, state, groups, value_heads)
    told["rope.dimension_count"] = 64
    if arch == "qwen35":
        return arch, told | {"rope.dimension_sections": [11, 11, 10, 0]}, tensors
    told |= {"expert_count": 128, "expert_used_count": 10, "expert_feed_forward_length": wide}
    return arch, told | {"expert_shared_feed_forward_length": wide}, tensors


def gemma3n(width: int = 2048, heads: int = 8, wide: int = 8192) -> Layout:
    """Four streams of values side by side; layers from the 20th on read the caches of earlier ones."""
    layers, aside = 22, 256
    tensors = [
        *ends(width, tied=True),
        ("altup_proj.weight", (width, width, 3), "Q8_0"),
        ("altup_unembd_proj.weight", (width, width, 3), "Q8_0"),
        ("per_layer_token_embd.weight", (aside * layers, VOCAB), "Q8_0"),
        ("per_layer_model_proj.weight", (width, aside * layers), "Q8_0"),
        ("per_layer_proj_norm.weight", (aside,), "F32"),
    ]
    for at in range(layers):
        blk = f"blk.{at}."
        tensors += attention(at, width, heads, 2, 256, qk_norm=True) + dense(at, width, wide)
        norms = ("post_attention_norm", "post_ffw_norm", "post_norm", "laurel_post_norm", "altup_router_norm")
        tensors += [(f"{blk}{name}.weight", (width,), "F32") for name in (*norms, "altup_correct_scale")]
        tensors += [
            (f"{blk}inp_gate.weight", (width, aside), "Q8_0"),
            (f"{blk}proj.weight", (aside, width), "Q8_0"),
            (f"{blk}altup_correct_coef.weight", (4, 4), "F32"),
            (f"{blk}altup_predict_coef.weight", (4, 16), "F32"),
            (f"{blk}altup_router.weight", (width, 4), "F32"),
            (f"{blk}laurel_l.weight", (width, 64), "Q8_0"),
            (f"{blk}laurel_r.weight", (64, width), "Q8_0"),
        ]
    told = base(layers, width, wide, 32768, heads, 2, 256) | {"attention.sliding_window": 512}
    return "gemma3n", told, tensors


def llama4(width: int = 5120, heads: int = 40, wide: int = 8192, count: int = 4) -> Layout:
    """Three of four layers attend in chunks of 8,192 tokens."""
    tensors = ends(width, tied=False)
    for at in range(4):
        tensors += attention(at, width, heads, 8, 128) + experts(at, width, wide, count, wide)
    told = base(4, width, 16384, 262144, heads, 8, 128) | {
        "interleave_moe_layer_step": 1,
        "expert_count": count,
        "expert_used_count": 1,
        "expert_feed_forward_length": wide,
    }
    return "llama4", told, tensors


def nemotron_h(width: int = 4480, heads: int = 40, wide: int = 15680) -> Layout:
    """Each layer is one thing: a state, attention or a feed-forward layer."""
    tensors = ends(width, tied=False) + state_space(0, width, 10240, 128, 8, 128)
    tensors += attention(1, width, heads, 8, 128)
    tensors += [
        ("blk.2.attn_norm.weight", (width,), "F32"),
        ("blk.2.ffn_up.weight", (width, wide), "Q8_0"),
        ("blk.2.ffn_down.weight", (wide, width), "Q8_0"),
    ]
    told = base(3, width, [0, 0, wide], 131072, heads, [0, 8, 0], 128)
    return "nemotron_h", told | states(10240, 128, 8, 128), tensors


__all__ = ["LAYOUTS", "VOCAB", "Layout"]

LAYOUTS: dict[str, Callable[[], Layout]] = {
    "llama 8b": lambda: llama(4096, 32, 8, 14336),
    "llama 70b": lambda: llama(8192, 64, 8, 28672),
    "qwen3 4b": lambda: llama(2560, 32, 8, 9728, "qwen3"),
    "command-r": lambda: parallel(8192, 64, 8, 22528),
    "phi3 3.8b": lambda: fused(3072, 32, 32, 96, 8192),
    "gemma2 27b": lambda: gemma("gemma2", 4608, 32, 16, 36864, 4096, 4),
    "gemma3 27b": lambda: gemma("gemma3", 5376, 32, 16, 21504, 1024, 6),
    "gemma3n e2b": gemma3n,
    "gemma4 e4b": lambda: gemma4(2560, 8, (2, 2), 10240, 256),
    "gemma4 12b": lambda: gemma4(3840, 16, (8, 1), 15360),
    "mixtral 8x7b": lambda: mixture("llama", 4096, 32, 8, 14336, 8, 2),
    "qwen3 30b-a3b": lambda: mixture("qwen3moe", 2048, 32, 4, 768, 128, 8, 262144),
    "qwen3 235b-a22b": lambda: mixture("qwen3moe", 4096, 64, 4, 1536, 32, 8, 262144),
    "glm4 moe": glm4moe,
    "gpt-oss 20b": gpt_oss,
    "llama4 scout": llama4,
    "deepseek v3": latent,
    "mamba 2.8b": mamba,
    "mamba2 2.7b": mamba2,
    "granite 4 hybrid": granite_hybrid,
    "falcon-h1 3b": falcon_h1,
    "lfm2 1.2b": lfm2,
    "nemotron-h 9b": nemotron_h,
    "qwen3-next 80b": lambda: delta_net("qwen3next", 2048, 16, 2, 512),
    "qwen3.5 4b": lambda: delta_net("qwen35", 2560, 16, 4, 9216),
}
