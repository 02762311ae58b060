"""Tiny models of transformers with random weights, large enough that every part of them matters."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

# Models this small lose by more threads.
torch.set_num_threads(1)

_SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "attn_implementation": "eager",
}

_ENCODER: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "attn_implementation": "eager",
}


def llama(seed: int, *, gain: float = 2.0, **changes: Any) -> Any:
    """A LlamaForCausalLM; `changes` are keys of LlamaConfig. The gain sharpens attention."""
    config = transformers.LlamaConfig(**_SIZES | changes)
    return randomised(transformers.LlamaForCausalLM(config), seed, gain, gain)


def mixtral(seed: int, **changes: Any) -> Any:
    """A MixtralForCausalLM; `changes` are keys of its config."""
    own = {"num_local_experts": 6, "num_experts_per_tok": 2, "sliding_window": None}
    config = transformers.MixtralConfig(**_SIZES | own | changes)
    return randomised(transformers.MixtralForCausalLM(config), seed, 1.5, 1.0)


def qwen(architecture: str, seed: int, **changes: Any) -> Any:
    """A model of the Qwen family for causal language modelling; `changes` are keys of its config."""
    kind = {"qwen2": "Qwen2", "qwen2moe": "Qwen2Moe", "qwen3": "Qwen3", "qwen3moe": "Qwen3Moe"}[architecture]
    own: dict[str, Any] = {} if architecture.startswith("qwen2") else {"head_dim": 24}
    if kind.endswith("Moe"):
        own |= {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 40}
    if architecture == "qwen2moe":
        own |= {"shared_expert_intermediate_size": 56}
    config = getattr(transformers, f"{kind}Config")(**_SIZES | own | changes)
    return randomised(getattr(transformers, f"{kind}ForCausalLM")(config), seed, 1.5, 1.0)


def delta_net(kind: str, seed: int, **changes: Any) -> Any:
    """A Qwen3Next, Qwen3_5 or Qwen3_5Moe ForCausalLM; `changes` are keys of its config."""
    own: dict[str, Any] = {
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention", "full_attention", "linear_attention", "linear_attention"],
        "head_dim": 32,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    }
    if kind != "Qwen3_5":
        own |= {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 40}
        own |= {"shared_expert_intermediate_size": 56}
    name = f"{kind}Config" if kind == "Qwen3Next" else f"{kind}TextConfig"
    config = getattr(transformers, name)(**_SIZES | own | changes)
    return randomised(getattr(transformers, f"{kind}ForCausalLM")(config), seed, 1.5, 1.0)


def gemma2(seed: int, **changes: Any) -> Any:
    """A Gemma2ForCausalLM with a window of 12; `changes` are keys of its config."""
    own = {"num_hidden_layers": 3, "sliding_window": 12, "head_dim": 24, "query_pre_attn_scalar": 24}
    config = transformers.Gemma2Config(**_SIZES | own | changes)
    return randomised(transformers.Gemma2ForCausalLM(config), seed, 1.5, 0.25)


def granite(seed: int, **changes: Any) -> Any:
    """A GraniteForCausalLM; `changes` are keys of its config."""
    config = transformers.GraniteConfig(**_SIZES | changes)
    return randomised(transformers.GraniteForCausalLM(config), seed, 1.5, 1.0)


def olmo(kind: str, seed: int, **changes: Any) -> Any:
    """An Olmo2ForCausalLM or Olmo3ForCausalLM; `changes` are keys of its config."""
    config = getattr(transformers, f"{kind}Config")(**_SIZES | changes)
    return randomised(getattr(transformers, f"{kind}ForCausalLM")(config), seed, 1.5, 1.0)


def gpt_oss(seed: int, **changes: Any) -> Any:
    """A GptOssForCausalLM with a window of 12; `changes` are keys of its config."""
    own = {"num_local_experts": 6, "num_experts_per_tok": 3, "head_dim": 24, "sliding_window": 12}
    own |= {"num_hidden_layers": 3}
    config = transformers.GptOssConfig(**_SIZES | own | changes)
    return randomised(transformers.GptOssForCausalLM(config), seed, 1.0, 0.5)


def phi3(seed: int, **changes: Any) -> Any:
    """A Phi3ForCausalLM; `changes` are keys of its config."""
    config = transformers.Phi3Config(**_SIZES | changes)
    return randomised(transformers.Phi3ForCausalLM(config), seed, 1.5, 1.0)


def mistral(kind: str, seed: int, **changes: Any) -> Any:
    """A MistralForCausalLM or Ministral3ForCausalLM; `changes` are keys of its config."""
    own = {"sliding_window": None, "head_dim": 24}
    config = getattr(transformers, f"{kind}Config")(**_SIZES | own | changes)
    return randomised(getattr(transformers, f"{kind}ForCausalLM")(config), seed, 1.5, 1.0)


def cohere(kind: str, seed: int, **changes: Any) -> Any:
    """A CohereForCausalLM or Cohere2ForCausalLM; `changes` are keys of its config."""
    config = getattr(transformers, f"{kind}Config")(**_SIZES | changes)
    return randomised(getattr(transformers, f"{kind}ForCausalLM")(config), seed, 1.5, 4.0)


def glm4(seed: int, **changes: Any) -> Any:
    """A Glm4ForCausalLM; `changes` are keys of its config."""
    config = transformers.Glm4Config(**_SIZES | {"head_dim": 24} | changes)
    return randomised(transformers.Glm4ForCausalLM(config), seed, 1.5, 1.0)


def lfm2(kind: str, seed: int, **changes: Any) -> Any:
    """An Lfm2ForCausalLM or Lfm2MoeForCausalLM; `changes` are keys of its config."""
    own: dict[str, Any] = {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "conv"]}
    if kind == "Lfm2":
        own |= {"block_auto_adjust_ff_dim": False}
    else:
        own |= {
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 40,
            "num_dense_layers": 1,
        }
    config = getattr(transformers, f"{kind}Config")(**_SIZES | own | changes)
    model = randomised(getattr(transformers, f"{kind}ForCausalLM")(config), seed, 1.5, 1.0)
    for name, buffer in model.named_buffers():
        if name.endswith("expert_bias"):
            buffer.copy_(0.3 * torch.randn_like(buffer))
    return model


def starcoder2(seed: int, **changes: Any) -> Any:
    """A Starcoder2ForCausalLM with logits of about 1, see `gemma3`; `changes` are keys of its config."""
    config = transformers.Starcoder2Config(**_SIZES | changes)
    return randomised(transformers.Starcoder2ForCausalLM(config), seed, 1.5, 0.25)


def deepseek(kind: str, seed: int, **changes: Any) -> Any:
    """A DeepseekV2ForCausalLM, DeepseekV3ForCausalLM or Glm4MoeLiteForCausalLM (`kind` is "Flash").

    `changes` are keys of its config.
    """
    own = {
        "num_key_value_heads": 4,
        "kv_lora_rank": 24,
        "q_lora_rank": 20,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 40,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 1.5,
        "num_hidden_layers": 3,
    }
    name = "Glm4MoeLite" if kind == "Flash" else f"Deepseek{kind}"
    config = getattr(transformers, f"{name}Config")(**_SIZES | own | changes)
    model = randomised(getattr(transformers, f"{name}ForCausalLM")(config), seed, 1.5, 1.0)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(0.3 * torch.randn_like(buffer))
    return model


def llama4(seed: int, **changes: Any) -> Any:
    """A Llama4ForCausalLM of five layers with chunks of 12 tokens; `changes` are keys of its config."""
    own = {
        "intermediate_size": 40,
        "intermediate_size_mlp": 96,
        "num_hidden_layers": 5,
        "head_dim": 24,
        "num_local_experts": 6,
        "attention_chunk_size": 12,
        "floor_scale": 8,
        "attn_scale": 0.3,
    }
    config = transformers.Llama4TextConfig(**_SIZES | own | changes)
    return randomised(transformers.Llama4ForCausalLM(config), seed, 1.5, 1.0)


def gemma3n(seed: int, **changes: Any) -> Any:
    """A Gemma3nForCausalLM of four layers, the last two without keys; `changes` are keys of its config.

    Logits are below 1, see `gemma3`; four layers with two tables each move them more.
    """
    own = {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "sliding_window": 12,
        "head_dim": 24,
        "laurel_rank": 8,
        "vocab_size_per_layer_input": _SIZES["vocab_size"],
        "hidden_size_per_layer_input": 16,
        "activation_sparsity_pattern": [0.6, 0.6, 0.0, 0.0],
    }
    config = transformers.Gemma3nTextConfig(**_SIZES | own | changes)
    return randomised(transformers.Gemma3nForCausalLM(config), seed, 1.0, 0.15)


def gemma3(seed: int, **changes: Any) -> Any:
    """A Gemma3ForCausalLM of four layers, of which the third is global; `changes` are keys of its config.

    Logits are about 1. ggml's GELU is a table of half-precision numbers, which moves them by up to 1/2000.
    """
    own = {
        "num_hidden_layers": 4,
        "sliding_window_pattern": 3,
        "sliding_window": 12,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
    }
    config = transformers.Gemma3TextConfig(**_SIZES | own | changes)
    return randomised(transformers.Gemma3ForCausalLM(config), seed, 1.5, 0.25)


def gemma3_with_pictures(seed: int, **changes: Any) -> Any:
    """A Gemma3ForConditionalGeneration of seven layers; `changes` are keys of its text's config."""
    own = {"num_hidden_layers": 7, "sliding_window": 12, "head_dim": 32, "query_pre_attn_scalar": 32}
    ids = {key: value for key, value in changes.items() if key.endswith("_token_id")}
    config = transformers.Gemma3Config(
        text_config=_SIZES | own | changes,
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        mm_tokens_per_image=4,
        **ids,
    )
    return randomised(transformers.Gemma3ForConditionalGeneration(config), seed, 1.5, 0.25)


def bert(seed: int, *, labels: int = 0, **changes: Any) -> Any:
    """A BertModel, or with `labels` a BertForSequenceClassification; `changes` are keys of its config."""
    head: dict[str, Any] = {"num_labels": labels} if labels else {}
    config = transformers.BertConfig(**_ENCODER | changes | head)
    kind = transformers.BertForSequenceClassification if labels else transformers.BertModel
    return randomised(kind(config), seed, 1.5, 1.0)


def nomic_bert(seed: int, **changes: Any) -> Any:
    """A NomicBertModel; `changes` are keys of its config."""
    config = transformers.NomicBertConfig(**_ENCODER | changes)
    return randomised(transformers.NomicBertModel(config), seed, 1.5, 1.0)


def states(model: Any, tokens: Sequence[int]) -> NDArray[np.float32]:
    """What an encoder of transformers, or the stack of a decoder, makes of a text; F32 (tokens, hidden)."""
    with torch.no_grad():
        ids = torch.tensor([list(tokens)])
        result: NDArray[np.float32] = model(input_ids=ids).last_hidden_state[0].numpy()
    return result


def scores(model: Any, tokens: Sequence[int], segments: Sequence[int]) -> NDArray[np.float32]:
    """What a model with a head for classification says of a pair of texts, F32 (labels,)."""
    with torch.no_grad():
        ids, kinds = torch.tensor([list(tokens)]), torch.tensor([list(segments)])
        result: NDArray[np.float32] = model(input_ids=ids, token_type_ids=kinds).logits[0].numpy()
    return result


def randomised(model: Any, seed: int, gain: float, vocabulary_gain: float) -> Any:
    """The model with random matrices, and norms and biases other than before training."""
    torch.manual_seed(seed)
    for name, parameter in model.eval().float().named_parameters():
        noise = torch.randn_like(parameter)
        if name.endswith("norm.weight") or "layernorm" in name.lower():
            parameter.data += 0.3 * noise
        elif parameter.dim() == 1:
            parameter.data = 0.3 * noise
        else:
            of_vocabulary = "embed_tokens" in name or "lm_head" in name
            parameter.data = noise * (vocabulary_gain if of_vocabulary else gain) / parameter.shape[-1] ** 0.5
    return model


def logits(model: Any, tokens: Sequence[int]) -> NDArray[np.float32]:
    """What transformers computes, F32 (tokens, vocabulary)."""
    with torch.no_grad():
        result: NDArray[np.float32] = model(input_ids=torch.tensor([list(tokens)])).logits[0].numpy()
    return result


def random_tokens(seed: int, count: int) -> list[int]:
    """Ids of the tiny vocabulary."""
    ids: list[int] = np.random.default_rng(seed).integers(0, _SIZES["vocab_size"], count).tolist()
    return ids
