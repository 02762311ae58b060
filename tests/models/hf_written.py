"""Models of transformers that `puna.convert` does not know as GGUF files, as llama.cpp writes them."""

import math
from collections.abc import Container, Iterator
from pathlib import Path
from statistics import NormalDist
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
_LLAMA = {"post_attention_layernorm": "ffn_norm"}
_GEMMA = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_cohere(path: Path, architecture: str, model: Any) -> None:
    """Writes a CohereForCausalLM or Cohere2ForCausalLM."""
    config = model.config
    keys = _sizes(config) | _rope(config.rope_parameters) | {"logit_scale": float(config.logit_scale)}
    keys["rope.scaling.type"] = "none"
    if architecture == "cohere2":
        keys["attention.sliding_window"] = config.sliding_window
        keys |= _window_pattern(config.layer_types, 4, usual=4)
    write(path, architecture, keys, dict(_renamed(model, {})))


def write_glm4(path: Path, model: Any) -> None:
    """Writes a Glm4ForCausalLM."""
    config = model.config
    names = {
        "mlp.gate_up_proj": "ffn_up",
        "post_self_attn_layernorm": "post_attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "post_mlp_layernorm": "post_ffw_norm",
    }
    rotated = int(_head_size(config) * config.rope_parameters["partial_rotary_factor"])
    keys = _sizes(config) | _rope(config.rope_parameters) | {"rope.dimension_count": rotated}
    write(path, "glm4", keys, dict(_renamed(model, names)))


def write_delta_net(path: Path, architecture: str, model: Any, *, listed: bool = True) -> None:
    """Writes a Qwen3NextForCausalLM, Qwen3_5ForCausalLM or Qwen3_5MoeForCausalLM.

    Args:
        listed: the file names the layers that carry states, and not only how often one does not.
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
    if listed:
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
    state: dict[str, Any] = {}
    for name, value in model.state_dict().items():
        state |= _delta_net(name, value, config)
    names = {"post_attention_layernorm": "post_attention_norm"}
    names |= {f"linear_attn.{part}": part for part in ("attn_qkv", "attn_gate", "ssm_conv1d", "ssm_beta")}
    names |= {
        f"linear_attn.{part}": part for part in ("ssm_alpha", "ssm_ba", "ssm_dt", "ssm_norm", "ssm_out")
    }
    names["linear_attn"] = ""
    tensors = dict(_renamed_state(state, names, tied=config.tie_word_embeddings))
    write(path, architecture, keys, {name.replace("..", "."): value for name, value in tensors.items()})


def _delta_net(name: str, value: Any, config: Any) -> dict[str, Any]:
    """The tensors that one becomes, by transformers' names of layers and GGUF's of their parts."""
    groups, heads = config.linear_num_key_heads, config.linear_num_value_heads
    size, shared = config.linear_key_head_dim, heads // groups
    whole, keys = type(config).__name__ == "Qwen3NextConfig", groups * size
    before, found, part = name.rpartition("linear_attn.")
    if not found:
        return {name: value + 1 if name.endswith("norm.weight") else value}

    def ordered(rows: Any, width: int) -> Any:
        """Heads that share keys far from each other, as Qwen 3.5's files have them."""
        split = rows.reshape(groups, shared, width, *rows.shape[1:])
        return rows if whole else split.transpose(0, 1).reshape(rows.shape)

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


def write_starcoder2(path: Path, model: Any) -> None:
    """Writes a Starcoder2ForCausalLM."""
    config = model.config
    keys = _sizes(config) | _rope(config.rope_parameters)
    if config.sliding_window:
        keys["attention.sliding_window"] = config.sliding_window
    names = _LLAMA | {"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    write(path, "starcoder2", keys, dict(_renamed(model, names)))


def write_deepseek(
    path: Path, kind: str, model: Any, *, absorbed: bool = True, narrow: Container[str] = ()
) -> None:
    """Writes a DeepseekV2ForCausalLM or DeepseekV3ForCausalLM as newer files are, or with whole matrices."""
    config, rope = model.config, model.config.rope_parameters
    names = _LLAMA | {
        "self_attn.q_a_proj": "attn_q_a",
        "self_attn.q_a_layernorm": "attn_q_a_norm",
        "self_attn.q_b_proj": "attn_q_b",
        "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
        "self_attn.kv_a_layernorm": "attn_kv_a_norm",
        "self_attn.kv_b_proj": "attn_kv_b",
        "mlp.gate.e_score_correction_bias": "exp_probs_b",
        **{f"mlp.shared_experts.{part}_proj": f"ffn_{part}_shexp" for part in ("gate", "up", "down")},
    }
    state = {
        f"{name}.bias" if name.endswith("correction_bias") else name: value
        for name, value in model.state_dict().items()
    }
    tensors = dict(_renamed_state(state, names, tied=config.tie_word_embeddings))
    plain, rotated = config.qk_nope_head_dim, config.qk_rope_head_dim
    keys = _sizes(config) | _rope(rope) | {"rope.dimension_count": rotated}
    keys |= {
        "attention.key_length": plain + rotated,
        "attention.value_length": config.v_head_dim,
        "attention.kv_lora_rank": config.kv_lora_rank,
        "leading_dense_block_count": config.first_k_dense_replace,
        "expert_count": config.n_routed_experts,
        "expert_used_count": config.num_experts_per_tok,
        "expert_shared_count": config.n_shared_experts,
        "expert_feed_forward_length": config.moe_intermediate_size,
        "expert_weights_scale": float(config.routed_scaling_factor),
        "expert_group_count": config.n_group,
        "expert_group_used_count": config.topk_group,
    }
    if config.q_lora_rank:
        keys["attention.q_lora_rank"] = config.q_lora_rank
    if kind == "V3":
        keys |= {"expert_weights_norm": config.norm_topk_prob, "expert_gating_func": 2}
    if rope.get("mscale_all_dim"):
        keys["rope.scaling.yarn_log_multiplier"] = 0.1 * rope["mscale_all_dim"]
    if absorbed:
        keys |= {
            "attention.head_count_kv": 1,
            "attention.key_length": config.kv_lora_rank + rotated,
            "attention.value_length": config.kv_lora_rank,
            "attention.key_length_mla": plain + rotated,
            "attention.value_length_mla": config.v_head_dim,
        }
        tensors = dict(_absorbed(tensors, config))
    write(path, "deepseek2", keys, tensors, narrow)


def _absorbed(tensors: State, config: Any) -> Iterator[tuple[str, Array]]:
    for name, value in tensors.items():
        if "attn_kv_b" not in name:
            yield name, value
            continue
        of_heads = value.reshape(config.num_attention_heads, -1, config.kv_lora_rank)
        yield name.replace("kv_b", "k_b"), of_heads[:, : config.qk_nope_head_dim].swapaxes(1, 2)
        yield name.replace("kv_b", "v_b"), of_heads[:, config.qk_nope_head_dim :]


def write_llama4(path: Path, model: Any, *, dialect: str = "llama.cpp") -> None:
    """Writes a Llama4ForCausalLM with llama.cpp's or Ollama's names of keys."""
    config = model.config
    names = {name.replace("mlp.", "feed_forward."): ours for name, ours in _NAMES.items() if "mlp." in name}
    names |= _LLAMA | {"feed_forward.router": "ffn_gate_inp"}
    state = {
        name: value.transpose(1, 2) if ".experts." in name else value
        for name, value in model.state_dict().items()
    }
    tensors = dict(_renamed_state(state, names, tied=config.tie_word_embeddings))
    if config.rope_parameters["rope_type"] == "llama3":
        tensors["rope_freqs.weight"] = _llama3_factors(config)
    keys = _sizes(config) | _rope(config.rope_parameters)
    keys |= {
        "expert_count": config.num_local_experts,
        "expert_used_count": config.num_experts_per_tok,
        "interleave_moe_layer_step": config.interleave_moe_layer_step,
        "attention.chunk_size": config.attention_chunk_size,
        "attention.temperature_length": config.floor_scale,
        "attention.temperature_scale": config.attn_scale,
    }
    dense, moe = config.intermediate_size_mlp, config.intermediate_size
    if dialect == "ollama":
        keys |= {"intermediate_size": dense, "intermediate_size_moe": moe, "use_qk_norm": config.use_qk_norm}
        tensors |= {"v.class_embedding": np.ones(4, np.float32)}
    else:
        keys |= {"feed_forward_length": dense, "expert_feed_forward_length": moe}
    if "chunked_attention" not in config.layer_types:
        keys["attention.sliding_window"] = 0
    write(path, "llama4", keys, tensors)


def write_gemma3n(path: Path, model: Any, *, dialect: str = "llama.cpp") -> None:
    """Writes a Gemma3nForCausalLM with llama.cpp's or Ollama's names of keys."""
    config = model.config
    layers, last = config.num_hidden_layers, config.rope_parameters
    inner = _GEMMA | {
        "altup.correct_output_scale": "altup_correct_scale",
        "altup.correction_coefs": "altup_correct_coef",
        "altup.prediction_coefs": "altup_predict_coef",
        "altup.modality_router": "altup_router",
        "altup.router_norm": "altup_router_norm",
        "laurel.linear_left": "laurel_l",
        "laurel.linear_right": "laurel_r",
        "laurel.post_laurel_norm": "laurel_post_norm",
        "per_layer_input_gate": "inp_gate",
        "per_layer_projection": "proj",
        "post_per_layer_input_norm": "post_norm",
    }
    outer = {
        "embed_tokens_per_layer": "per_layer_token_embd",
        "per_layer_model_projection": "per_layer_model_proj",
        "per_layer_projection_norm": "per_layer_proj_norm",
    }
    state = {
        f"{name}.weight" if name.endswith("_scale") else name: value
        for name, value in model.state_dict().items()
    }
    tensors = {
        f"{ours}.weight": state.pop(f"model.{theirs}.weight").numpy() for theirs, ours in outer.items()
    }
    for theirs, ours in (
        ("altup_projections", "altup_proj"),
        ("altup_unembed_projections", "altup_unembd_proj"),
    ):
        names = [f"model.{theirs}.{index}.weight" for index in range(config.altup_num_inputs - 1)]
        tensors[f"{ours}.weight"] = np.stack([state.pop(name).numpy() for name in names])
    tensors |= dict(_renamed_state(state, inner, tied=config.tie_word_embeddings))
    # Published models have these for all layers.
    width = config.num_key_value_heads * config.head_dim
    for index in range(layers - config.num_kv_shared_layers, layers):
        tensors[f"blk.{index}.attn_k.weight"] = np.ones((width, config.hidden_size), np.float32)
        tensors[f"blk.{index}.attn_v.weight"] = np.ones((width, config.hidden_size), np.float32)
        tensors[f"blk.{index}.attn_k_norm.weight"] = np.ones(config.head_dim, np.float32)
    normal = NormalDist()
    scales = [normal.inv_cdf(part) if part else -math.inf for part in config.activation_sparsity_pattern]
    local = last["sliding_attention"]["rope_theta"]
    keys = _sizes(config) | {
        "altup.active_idx": config.altup_active_idx,
        "altup.num_inputs": config.altup_num_inputs,
        "embedding_length_per_layer_input": config.hidden_size_per_layer_input,
        "attention.shared_kv_layers": config.num_kv_shared_layers,
        "attention.sliding_window": config.sliding_window,
        "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in config.layer_types],
        "activation_sparsity_scale": scales,
        "rope.freq_base": last["full_attention"]["rope_theta"],
        "rope.freq_base_swa": local,
    }
    if config.final_logit_softcapping != 30:
        keys["final_logit_softcapping"] = config.final_logit_softcapping
    if dialect == "ollama":
        del keys["rope.freq_base_swa"]
        keys |= {"rope.freq_base_local": local, "feed_forward_length": config.intermediate_size[0]}
    write(path, "gemma3n", keys, tensors)


def write_mistral3(path: Path, model: Any, *, dialect: str = "llama.cpp") -> None:
    """Writes a MistralForCausalLM or Ministral3ForCausalLM."""
    config, rope = model.config, model.config.rope_parameters
    keys = _sizes(config) | _rope(rope)
    own = {"mscale_all_dim": "rope.scaling.yarn_log_multiplier"}
    own |= {"llama_4_scaling_beta": "attention.temperature_scale"}
    tensors = _llama_tensors(model)
    if dialect == "ollama":
        own = {"mscale_all_dim": "rope.scaling.mscale_all_dim", "llama_4_scaling_beta": "rope.scaling_beta"}
        keys = {key.replace("yarn_beta", "beta"): value for key, value in keys.items()}
        tensors |= {"v.patch_conv.weight": np.ones((4, 3, 2, 2), np.float32)}
    keys |= {key: float(rope[name]) for name, key in own.items() if rope.get(name)}
    write(path, "mistral3", keys, tensors)


def write_phi3(path: Path, model: Any) -> None:
    """Writes a Phi3ForCausalLM."""
    config, rope = model.config, model.config.rope_parameters
    names = _LLAMA | {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}
    tensors = dict(_renamed(model, names))
    trained = rope.get("original_max_position_embeddings", config.max_position_embeddings)
    keys = _sizes(config) | _rope(rope)
    keys |= {
        "rope.dimension_count": int(_head_size(config) * rope["partial_rotary_factor"]),
        "rope.scaling.original_context_length": trained,
        "attention.sliding_window": config.sliding_window or 0,
    }
    if rope["rope_type"] == "longrope":
        stretch = config.max_position_embeddings / trained
        keys["rope.scaling.attn_factor"] = math.sqrt(1 + math.log(stretch) / math.log(trained))
        for length in ("long", "short"):
            tensors[f"rope_factors_{length}.weight"] = np.array(rope[f"{length}_factor"], np.float32)
    write(path, "phi3", keys, tensors)


def _llama_tensors(model: Any) -> State:
    config = model.config
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    tensors = {}
    for name, value in _renamed(model, _LLAMA):
        kind = name.split(".")[-2]
        tensors[name] = _permuted(value, heads[kind]) if kind in heads else value
    if config.rope_parameters["rope_type"] == "llama3":
        tensors["rope_freqs.weight"] = _llama3_factors(config)
    return tensors


def _head_size(config: Any) -> int:
    size: int | None = getattr(config, "head_dim", None)
    return size or config.hidden_size // config.num_attention_heads


def _window_pattern(types: list[str], period: int, usual: int = 6) -> dict[str, Any]:
    """Nothing where it is the usual one, the period where there is one, else one bool for each layer."""
    key, local = "attention.sliding_window_pattern", [kind == "sliding_attention" for kind in types]
    if local != [(layer + 1) % period != 0 for layer in range(len(types))]:
        return {key: local}
    return {} if period == usual else {key: period}


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


def _renamed(model: Any, own: dict[str, str]) -> Iterator[tuple[str, Array]]:
    return _renamed_state(model.state_dict(), own, tied=model.config.tie_word_embeddings)


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


def _permuted(value: Array, heads: int) -> Array:
    """Rows of each head from two halves to pairs of one of each, as Llama's rotary embedding wants them."""
    shape = value.shape
    return value.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


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


def _llama3_factors(config: Any) -> Array:
    """What each frequency is divided by: nothing where fast, the whole factor where slow, a mix between."""
    parameters, size = config.rope_parameters, config.head_dim
    context, factor = parameters["original_max_position_embeddings"], parameters["factor"]
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    wavelengths = 2 * math.pi * parameters["rope_theta"] ** (np.arange(0, size, 2) / size)
    smooth = np.clip((context / wavelengths - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / factor + smooth), np.float32)
