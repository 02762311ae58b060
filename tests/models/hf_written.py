"""Models of transformers that `puna.convert` does not know as GGUF files, as llama.cpp writes them."""

from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import gguf
from puna.gguf import GGMLType, GGUFWriter

Array = NDArray[np.float32]
State = dict[str, Array]

_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
}

_OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_delta_net(
    path: Path, architecture: str, model: Any, *, listed: bool = True, ollamas: bool = False
) -> None:
    """Writes a Qwen3NextForCausalLM, Qwen3_5ForCausalLM or Qwen3_5MoeForCausalLM.

    Args:
        listed: the file names the layers that carry states, and not only how often one does not.
        ollamas: as Ollama writes Qwen 3.5: the heads of values as they were, layers told by heads of keys.
    """
    config = model.config
    keys = _sizes(config) | _rope(config.rope_parameters)
    keys |= {
        "rope.dimension_count": int(config.head_dim * config.rope_parameters["partial_rotary_factor"]),
        "ssm.conv_kernel": config.linear_conv_kernel_dim,
        "ssm.state_size": config.linear_key_head_dim,
        "ssm.group_count": config.linear_num_key_heads,
        "ssm.time_step_rank": config.linear_num_value_heads,
        "ssm.inner_size": config.linear_num_value_heads * config.linear_value_head_dim,
    }
    if ollamas:
        heads = config.num_key_value_heads
        keys["attention.head_count_kv"] = [
            0 if kind == "linear_attention" else heads for kind in config.layer_types
        ]
        keys["ssm.v_head_reordered"] = False
    elif listed:
        keys["attention.recurrent_layers"] = [kind == "linear_attention" for kind in config.layer_types]
    else:
        keys["full_attention_interval"] = config.layer_types.index("full_attention") + 1
    if architecture != "qwen35":
        keys |= {
            "expert_count": config.num_experts,
            "expert_used_count": config.num_experts_per_tok,
            "expert_feed_forward_length": config.moe_intermediate_size,
            "expert_shared_feed_forward_length": config.shared_expert_intermediate_size,
        }
    if architecture == "qwen35moe":
        # Its configurations have no such width.
        del keys["feed_forward_length"]
    state: dict[str, Any] = {}
    for name, value in model.state_dict().items():
        state |= _delta_net(name, value, config, turned=architecture != "qwen3next" and not ollamas)
    names = {"post_attention_layernorm": "post_attention_norm"}
    names |= {f"linear_attn.{part}": part for part in ("attn_qkv", "attn_gate", "ssm_conv1d", "ssm_beta")}
    names |= {
        f"linear_attn.{part}": part for part in ("ssm_alpha", "ssm_ba", "ssm_dt", "ssm_norm", "ssm_out")
    }
    names["linear_attn"] = ""
    tensors = dict(_renamed_state(state, names, tied=config.tie_word_embeddings))
    write(path, architecture, keys, {name.replace("..", "."): value for name, value in tensors.items()})


def _delta_net(name: str, value: Any, config: Any, *, turned: bool) -> dict[str, Any]:
    """The tensors that one becomes, by transformers' names of layers and GGUF's of their parts.

    Args:
        turned: heads that share keys are far from each other, as in llama.cpp's files of Qwen 3.5.
    """
    groups, heads = config.linear_num_key_heads, config.linear_num_value_heads
    size, shared = config.linear_key_head_dim, heads // groups
    keys = groups * size
    before, found, part = name.rpartition("linear_attn.")
    if not found:
        return {name: value + 1 if name.endswith("norm.weight") else value}

    def ordered(rows: Any, width: int) -> Any:
        split = rows.reshape(groups, shared, width, *rows.shape[1:])
        return split.transpose(0, 1).reshape(rows.shape) if turned else rows

    def behind_keys(rows: Any) -> Any:
        return torch.cat((rows[: 2 * keys], ordered(rows[2 * keys :], size)))

    match part:
        case "in_proj_qkvz.weight":
            split = value.reshape(groups, -1, value.shape[1])
            parts = split.split([size, size, shared * size, shared * size], dim=1)
            query, key, values, gate = (each.reshape(-1, value.shape[1]) for each in parts)
            made = {"attn_qkv.weight": torch.cat((query, key, values)), "attn_gate.weight": gate}
        case "A_log":
            made = {"ssm_a": ordered(-value.exp(), 1)}
        case "conv1d.weight":
            made = {"ssm_conv1d.weight": behind_keys(value.squeeze(1))}
        case "in_proj_qkv.weight":
            made = {"attn_qkv.weight": behind_keys(value)}
        case "out_proj.weight":
            made = {"ssm_out.weight": ordered(value.T.contiguous(), size).T.contiguous()}
        case "in_proj_z.weight":
            made = {"attn_gate.weight": ordered(value, size)}
        case _:
            plain = {
                "dt_bias": "ssm_dt.bias",
                "norm.weight": "ssm_norm.weight",
                "in_proj_ba.weight": "ssm_ba.weight",
            }
            plain |= {"in_proj_b.weight": "ssm_beta.weight", "in_proj_a.weight": "ssm_alpha.weight"}
            made = {plain[part]: value if part in ("norm.weight", "in_proj_ba.weight") else ordered(value, 1)}
    return {f"{before}{found}{own}": tensor for own, tensor in made.items()}


def mistral3_content(model: Any) -> tuple[dict[str, Any], State]:
    """The keys and tensors of a MistralForCausalLM."""
    config = model.config
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    names = {"post_attention_layernorm": "ffn_norm"}
    tensors = {}
    for name, value in _renamed_state(model.state_dict(), names, tied=config.tie_word_embeddings):
        kind = name.split(".")[-2]
        tensors[name] = permuted(value, heads[kind]) if kind in heads else value
    return _sizes(config) | _rope(config.rope_parameters), tensors


def permuted(value: Array, heads: int) -> Array:
    """Rows of each head from two halves to pairs of one of each, as Llama's rotary embedding wants them."""
    shape = value.shape
    return value.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def _head_size(config: Any) -> int:
    size: int | None = getattr(config, "head_dim", None)
    return size or config.hidden_size // config.num_attention_heads


def write(
    path: Path, architecture: str, keys: dict[str, Any], tensors: State, narrow: Container[str] = ()
) -> None:
    """Writes F32 tensors, those of `narrow` as Q4_0, and keys without the architecture before them."""
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", architecture)
        for key, value in keys.items():
            writer.add(f"{architecture}.{key}", value)
        for name, value in tensors.items():
            values, type_ = np.ascontiguousarray(value), GGMLType.Q4_0 if name in narrow else GGMLType.F32
            if type_ is GGMLType.Q4_0:
                values = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q4_0)
            writer.add_tensor(name, type_, value.shape, values.tobytes())


def _renamed_state(state: dict[str, Any], own: dict[str, str], *, tied: bool) -> Iterator[tuple[str, Array]]:
    for name, value in _separated(state):
        stem, suffix = name.rsplit(".", 1)
        if stem in _OUTER:
            if not (tied and stem == "lm_head"):
                yield f"{_OUTER[stem]}.{suffix}", value.numpy()
        else:
            _, _, index, part = stem.split(".", 3)
            yield f"blk.{index}.{(_NAMES | own)[part]}.{suffix}", value.numpy()


def _separated(state: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Experts' matrices one by one, with the ending that all weights have."""
    for name, value in state.items():
        if name.endswith("experts.gate_up_proj"):
            gate, up = value.chunk(2, dim=1)
            stem = name.removesuffix("gate_up_proj")
            yield f"{stem}gate_proj.weight", gate
            yield f"{stem}up_proj.weight", up
        else:
            yield f"{name}.weight" if name.endswith("experts.down_proj") else name, value


def _sizes(config: Any) -> dict[str, Any]:
    return {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": _head_size(config),
        "attention.value_length": _head_size(config),
        **_epsilon(config),
    }


def _epsilon(config: Any) -> dict[str, Any]:
    """That of the model's kind of norm."""
    names = {
        "rms_norm_eps": "attention.layer_norm_rms_epsilon",
        "layer_norm_eps": "attention.layer_norm_epsilon",
        "norm_epsilon": "attention.layer_norm_epsilon",
    }
    return {key: float(getattr(config, name)) for name, key in names.items() if hasattr(config, name)}


def _rope(parameters: dict[str, Any]) -> dict[str, Any]:
    keys = {"rope.freq_base": float(parameters["rope_theta"])}
    if parameters["rope_type"] in ("linear", "yarn"):
        keys["rope.scaling.type"] = parameters["rope_type"]
        keys["rope.scaling.factor"] = float(parameters["factor"])
    if parameters["rope_type"] == "yarn":
        keys["rope.scaling.original_context_length"] = parameters["original_max_position_embeddings"]
        for ours, theirs in (
            ("attn_factor", "attention_factor"),
            ("beta_fast", "beta_fast"),
            ("beta_slow", "beta_slow"),
        ):
            if parameters.get(theirs) is not None:
                keys[f"rope.scaling.yarn_{ours}"] = float(parameters[theirs])
    return keys
