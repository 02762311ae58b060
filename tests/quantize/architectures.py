"""Models of many architectures as a quantizer sees them: metadata and named matrices of zeros."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puna.gguf import GGMLType, GGUFWriter

WIDTH, INNER, VOCABULARY = 256, 512, 288

Shapes = Mapping[str, tuple[int, ...]]

_KEYS = {
    "context_length": 64,
    "embedding_length": WIDTH,
    "feed_forward_length": INNER,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "vocab_size": VOCABULARY,
}
_NORMS: Shapes = {"attn_norm.weight": (WIDTH,), "ffn_norm.weight": (WIDTH,)}
_ATTENTION: Shapes = {
    "attn_q.weight": (WIDTH, WIDTH),
    "attn_k.weight": (64, WIDTH),
    "attn_v.weight": (64, WIDTH),
    "attn_output.weight": (WIDTH, WIDTH),
}
_FUSED: Shapes = {"attn_qkv.weight": (3 * WIDTH, WIDTH), "attn_output.weight": (WIDTH, WIDTH)}
_DENSE: Shapes = {
    "ffn_gate.weight": (INNER, WIDTH),
    "ffn_up.weight": (INNER, WIDTH),
    "ffn_down.weight": (WIDTH, INNER),
}
_UNGATED: Shapes = {"ffn_up.weight": (INNER, WIDTH), "ffn_down.weight": (WIDTH, INNER)}
_SHARED: Shapes = {name.replace(".weight", "_shexp.weight"): shape for name, shape in _DENSE.items()}
_LATENT: Shapes = {
    "attn_q.weight": (WIDTH, WIDTH),
    "attn_kv_a_mqa.weight": (96, WIDTH),
    "attn_kv_a_norm.weight": (64,),
    "attn_kv_b.weight": (WIDTH, 64),
    "attn_output.weight": (WIDTH, WIDTH),
}
_ABSORBED: Shapes = {
    "attn_q_a.weight": (WIDTH, WIDTH),
    "attn_q_a_norm.weight": (WIDTH,),
    "attn_q_b.weight": (WIDTH, WIDTH),
    "attn_kv_a_mqa.weight": (WIDTH + 32, WIDTH),
    "attn_kv_a_norm.weight": (WIDTH,),
    "attn_k_b.weight": (4, WIDTH, 32),
    "attn_v_b.weight": (4, 64, WIDTH),
    "attn_output.weight": (WIDTH, WIDTH),
}
_STREAMS: Shapes = {
    "altup_correct_coef.weight": (4, 4),
    "altup_correct_scale.weight": (WIDTH,),
    "altup_predict_coef.weight": (16, 4),
    "altup_router.weight": (4, WIDTH),
    "altup_router_norm.weight": (WIDTH,),
    "inp_gate.weight": (WIDTH, WIDTH),
    "laurel_l.weight": (64, WIDTH),
    "laurel_post_norm.weight": (WIDTH,),
    "laurel_r.weight": (WIDTH, 64),
    "post_attention_norm.weight": (WIDTH,),
    "post_ffw_norm.weight": (WIDTH,),
    "post_norm.weight": (WIDTH,),
    "proj.weight": (WIDTH, WIDTH),
}
_RECURRENT: Shapes = {
    "attn_norm.weight": (WIDTH,),
    "ssm_in.weight": (2 * INNER, WIDTH),
    "ssm_conv1d.weight": (INNER, 4),
    "ssm_x.weight": (48, INNER),
    "ssm_dt.weight": (INNER, 16),
    "ssm_a": (INNER, 16),
    "ssm_out.weight": (WIDTH, INNER),
}


def _experts(count: int) -> Shapes:
    split = {name.replace(".", "_exps."): (count, *shape) for name, shape in _DENSE.items()}
    return {"ffn_gate_inp.weight": (count, WIDTH), **split}


@dataclass(frozen=True, slots=True)
class Case:
    """One model.

    Attributes:
        keys: metadata by name without the architecture.
        block: the tensors of each block.
        first: those of the first block, where they are others.
        outer: those outside of blocks, besides the embeddings and the last norm.
    """

    architecture: str
    blocks: int
    block: Shapes
    keys: Mapping[str, Any] = field(default_factory=dict)
    first: Shapes | None = None
    outer: Shapes = field(default_factory=dict)

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield "token_embd.weight", (VOCABULARY, WIDTH)
        yield "output_norm.weight", (WIDTH,)
        yield from self.outer.items()
        for block in range(self.blocks):
            shapes = self.first if block == 0 and self.first is not None else self.block
            yield from ((f"blk.{block}.{name}", shape) for name, shape in shapes.items())


_HEADS = {"attention.head_count": 4, "attention.head_count_kv": 1}
_PAIRS = {"attention.head_count": 4, "attention.head_count_kv": 2}
_HEAD: Shapes = {"output.weight": (VOCABULARY, WIDTH)}
_MOE = {"expert_used_count": 2, "expert_feed_forward_length": INNER}

CASES = {
    "llama, a head of its own": Case("llama", 19, {**_NORMS, **_ATTENTION, **_DENSE}, _PAIRS, outer=_HEAD),
    "llama, tied, four queries to a key": Case("llama", 16, {**_NORMS, **_ATTENTION, **_DENSE}, _HEADS),
    "llama of 80 blocks": Case("llama", 80, {**_ATTENTION, **_DENSE}, _HEADS, outer=_HEAD),
    "mixtral": Case(
        "llama",
        9,
        {**_NORMS, **_ATTENTION, **_experts(8)},
        {**_PAIRS, **_MOE, "expert_count": 8},
        outer=_HEAD,
    ),
    "falcon": Case(
        "falcon",
        20,
        {"attn_norm.weight": (WIDTH,), **_FUSED, **_UNGATED},
        {"attention.head_count": 4, "attention.head_count_kv": 1, "attention.layer_norm_epsilon": 1e-5},
        outer=_HEAD,
    ),
    "phi3": Case(
        "phi3",
        17,
        {**_NORMS, **_FUSED, "ffn_up.weight": (2 * INNER, WIDTH), "ffn_down.weight": (WIDTH, INNER)},
        {**_PAIRS, "rope.scaling.original_context_length": 64},
        outer=_HEAD,
    ),
    "qwen2moe": Case(
        "qwen2moe",
        10,
        {**_NORMS, **_ATTENTION, **_experts(6), **_SHARED, "ffn_gate_inp_shexp.weight": (WIDTH,)},
        {**_PAIRS, **_MOE, "expert_count": 6, "expert_shared_feed_forward_length": INNER},
        outer=_HEAD,
    ),
    "qwen3": Case(
        "qwen3",
        12,
        {**_NORMS, **_ATTENTION, **_DENSE, "attn_q_norm.weight": (64,), "attn_k_norm.weight": (64,)},
        _PAIRS,
    ),
    "gemma2, rows of 288": Case(
        "gemma2",
        8,
        {**_NORMS, **_ATTENTION, **_UNGATED, "ffn_down.weight": (WIDTH, 288), "odd.weight": (8, 40)},
        {**_PAIRS, "attention.sliding_window": 32},
    ),
    "deepseek2": Case(
        "deepseek2",
        11,
        {**_NORMS, **_LATENT, **_experts(4), **_SHARED},
        {
            **_PAIRS,
            **_MOE,
            "attention.head_count_kv": 4,
            "expert_count": 4,
            "expert_shared_count": 1,
            "expert_weights_scale": 1.0,
            "leading_dense_block_count": 1,
            "attention.kv_lora_rank": 64,
            "attention.q_lora_rank": 0,
            "attention.key_length": 64,
            "attention.value_length": 64,
            "rope.dimension_count": 32,
            "rope.scaling.yarn_log_multiplier": 0.1,
        },
        first={**_NORMS, **_LATENT, **_DENSE},
        outer=_HEAD,
    ),
    "deepseek2, keys and values apart": Case(
        "deepseek2",
        9,
        {**_NORMS, **_ABSORBED, **_experts(4), **_SHARED, "exp_probs_b.bias": (4,)},
        {
            **_MOE,
            "attention.head_count": 4,
            "attention.head_count_kv": 1,
            "expert_count": 4,
            "expert_gating_func": 2,
            "expert_shared_count": 1,
            "expert_weights_scale": 1.0,
            "leading_dense_block_count": 1,
            "attention.kv_lora_rank": WIDTH,
            "attention.q_lora_rank": WIDTH,
            "attention.key_length": WIDTH + 32,
            "attention.value_length": WIDTH,
            "attention.key_length_mla": 64,
            "attention.value_length_mla": 64,
            "rope.dimension_count": 32,
        },
        first={**_NORMS, **_ABSORBED, **_DENSE},
        outer=_HEAD,
    ),
    "llama4": Case(
        "llama4",
        8,
        {**_NORMS, **_ATTENTION, **_experts(4), **_SHARED},
        {**_PAIRS, **_MOE, "expert_count": 4, "interleave_moe_layer_step": 1},
        first={**_NORMS, **_ATTENTION, **_DENSE},
        outer=_HEAD,
    ),
    "gemma3n": Case(
        "gemma3n",
        30,
        {**_NORMS, **_ATTENTION, **_DENSE, **_STREAMS},
        {**_PAIRS, "attention.sliding_window": 32, "embedding_length_per_layer_input": WIDTH},
        outer={
            "per_layer_token_embd.weight": (VOCABULARY, 30 * WIDTH),
            "per_layer_model_proj.weight": (30 * WIDTH, WIDTH),
            "per_layer_proj_norm.weight": (WIDTH,),
            "altup_proj.weight": (3, WIDTH, WIDTH),
            "altup_unembd_proj.weight": (3, WIDTH, WIDTH),
        },
    ),
    "command-r, tied": Case(
        "command-r",
        10,
        {"attn_norm.weight": (WIDTH,), **_ATTENTION, "attn_q_norm.weight": (4, 64), **_DENSE},
        {**_PAIRS, "attention.layer_norm_epsilon": 1e-5, "logit_scale": 0.0625},
    ),
    "glm4": Case(
        "glm4",
        12,
        {**_NORMS, **_ATTENTION, "ffn_up.weight": (2 * INNER, WIDTH), "ffn_down.weight": (WIDTH, INNER)},
        {**_PAIRS, "rope.dimension_count": 32},
        outer=_HEAD,
    ),
    "bert": Case(
        "bert",
        6,
        {**_ATTENTION, **_UNGATED, "attn_output_norm.weight": (WIDTH,)},
        {
            "attention.head_count": 4,
            "attention.layer_norm_epsilon": 1e-5,
            "attention.causal": False,
            "pooling_type": 1,
        },
        outer={"position_embd.weight": (64, WIDTH), "token_types.weight": (2, WIDTH)},
    ),
    "mamba": Case(
        "mamba",
        7,
        _RECURRENT,
        {
            "attention.head_count": 0,
            "feed_forward_length": 0,
            "ssm.conv_kernel": 4,
            "ssm.inner_size": INNER,
            "ssm.state_size": 16,
            "ssm.time_step_rank": 16,
        },
    ),
}


def write_case(path: Path, case: Case) -> Path:
    """Write a model with F16 matrices and F32 vectors of zeros."""
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", case.architecture)
        writer.add("general.file_type", 1)
        for key, value in {**_KEYS, "block_count": case.blocks, **case.keys}.items():
            writer.add(f"{case.architecture}.{key}", value)
        for name, shape in case.tensors():
            type_ = GGMLType.F16 if len(shape) > 1 else GGMLType.F32
            writer.add_tensor(name, type_, shape, bytes(type_.nbytes(shape)))
    return path
