"""Which model a file gets, and what a file says that the weights do not."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.hf_to_gguf import State, write

from puna.errors import GGUFError, UnsupportedModel, WeightError
from puna.gguf import Metadata, metadata_of
from puna.kvcache import Causal, Composed
from puna.ml import BackendParams, RopeParameters, RopeType, new_backend
from puna.models import (
    Decoder,
    Encoder,
    Model,
    architectures,
    build_model,
    deepseek2,
    gemma3,
    gemma3n,
    hyper,
    llama,
    mistral3,
)
from puna.models.registry import model_class

SIZES: dict[str, Any] = {
    "block_count": 1,
    "context_length": 64,
    "embedding_length": 8,
    "feed_forward_length": 12,
    "attention.head_count": 2,
    "attention.head_count_kv": 1,
    "attention.layer_norm_rms_epsilon": 1e-5,
}

# A variant lies in its parent's file.
_PARENTS = {
    "cohere2": "cohere",
    "command-r": "cohere",
    "gpt-oss": "gptoss",
    "lfm2moe": "lfm2",
    "nomic-bert": "bert",
    "olmo3": "olmo2",
    "qwen25vl": "qwen2vl",
    "qwen2moe": "qwen2",
    "qwen35": "qwen3next",
    "qwen35moe": "qwen3next",
    "qwen3moe": "qwen3",
    "qwen3vlmoe": "qwen3vl",
}

GROUPS = {
    "expert_count": 8,
    "expert_used_count": 2,
    "expert_group_count": 2,
    "expert_group_used_count": 1,
}
DELTA = {
    "ssm.conv_kernel": 4,
    "ssm.group_count": 2,
    "ssm.time_step_rank": 4,
    "ssm.state_size": 8,
    "ssm.inner_size": 32,
}
EXPERTS = {"expert_count": 4, "expert_used_count": 2}


def _metadata(architecture: str, changes: dict[str, Any]) -> Metadata:
    """Metadata of a tiny model; a change to None leaves the key out."""
    keys = {f"{architecture}.{key}": value for key, value in (SIZES | changes).items() if value is not None}
    return metadata_of({"general.architecture": architecture} | keys)


def _llama_tensors() -> State:
    shapes = {
        "token_embd": (10, 8),
        "output_norm": (8,),
        "blk.0.attn_norm": (8,),
        "blk.0.attn_q": (8, 8),
        "blk.0.attn_k": (4, 8),
        "blk.0.attn_v": (4, 8),
        "blk.0.attn_output": (8, 8),
        "blk.0.ffn_norm": (8,),
        "blk.0.ffn_gate": (12, 8),
        "blk.0.ffn_up": (12, 8),
        "blk.0.ffn_down": (8, 12),
    }
    return {f"{name}.weight": np.ones(shape, np.float32) for name, shape in shapes.items()}


def _built(path: Path, tensors: State, changes: dict[str, Any] | None = None) -> Model:
    write(path / "model.gguf", "llama", SIZES | (changes or {}), tensors)
    with new_backend(path / "model.gguf", BackendParams(), name="reference") as backend:
        return build_model(backend)


@pytest.mark.parametrize("architecture", architectures())
def test_every_architecture_has_a_model(architecture: str) -> None:
    experts = EXPERTS if architecture.endswith(("moe", "oss", "llama4")) else {}
    changes: dict[str, Any] = {"attention.layer_norm_epsilon": 1e-5, "attention.sliding_window": 4}
    if architecture == "deepseek2":
        changes |= {"attention.kv_lora_rank": 6, "rope.dimension_count": 2}
    if architecture == "gemma3n":
        changes["embedding_length_per_layer_input"] = 4
    if architecture.startswith("lfm2"):
        changes |= {"shortconv.l_cache": 3, "expert_feed_forward_length": 4}
    if architecture in ("qwen3next", "qwen35", "qwen35moe"):
        changes |= DELTA | {"expert_shared_feed_forward_length": 4, "expert_feed_forward_length": 4}
        experts = EXPERTS
    if "vl" in architecture:
        changes["rope.dimension_sections"] = [1, 1, 0, 0]
    metadata = _metadata(architecture, changes | experts)
    model = model_class(architecture)(metadata)
    assert isinstance(model, Decoder | Encoder)
    assert model_class(architecture).__module__ == f"puna.models.{_PARENTS.get(architecture, architecture)}"


def test_an_unknown_architecture_is_named_with_those_that_are_known() -> None:
    known = ", ".join(architectures())
    with pytest.raises(UnsupportedModel, match=f"'mamba' are not supported; known: {known}$"):
        model_class("mamba")


def test_a_file_that_fits(tmp_path: Path) -> None:
    tensors = _llama_tensors() | {"blk.0.attn_rot_embd.weight": np.ones(4, np.float32)}
    model = _built(tmp_path, tensors)
    assert isinstance(model, llama.Llama)
    assert model.output.weight.tensor.shape == (10, 8)


@pytest.mark.parametrize(
    ("remove", "add", "message"),
    [
        ("blk.0.ffn_down.weight", {}, "lacks blk.0.ffn_down.weight$"),
        ("token_embd.weight", {}, "lacks token_embd.weight, output.weight$"),
        (None, {"blk.0.attn_norm.weight": (9,)}, r"blk.0.attn_norm.weight is 9 instead of 8$"),
        (None, {"blk.1.attn_norm.weight": (8,)}, "nothing uses blk.1.attn_norm.weight$"),
        (None, {"rope_freqs.weight": (3,)}, "rope_freqs.weight is 3 instead of 2$"),
    ],
)
def test_a_file_that_does_not_fit(
    tmp_path: Path, remove: str | None, add: dict[str, tuple[int, ...]], message: str
) -> None:
    tensors = {name: value for name, value in _llama_tensors().items() if name != remove}
    tensors |= {name: np.ones(shape, np.float32) for name, shape in add.items()}
    with pytest.raises(WeightError, match=message):
        _built(tmp_path, tensors)


@pytest.mark.parametrize(
    "key", [key for key in SIZES if key not in ("context_length", "attention.head_count_kv")]
)
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(GGUFError, match=f"'llama.{key}' is missing"):
        llama.Llama(_metadata("llama", {key: None}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_count": 0}, "'llama.block_count' must be at least 1, but is 0"),
        ({"attention.head_count": 0}, "'llama.attention.head_count' must be at least 1"),
        ({"attention.head_count_kv": 0}, "'llama.attention.head_count_kv' must be at least 1"),
        ({"attention.head_count_kv": 3}, "3 key heads cannot be shared by 2 query heads"),
        (
            {"attention.head_count": 16, "attention.head_count_kv": 16},
            "'llama.attention.key_length' must be at least 1, but is 0",
        ),
        ({"block_count": 2**31}, "2147483648 layers are more than any model has"),
        ({"expert_count": 2}, "'llama.expert_used_count' is missing"),
        ({"expert_count": 2, "expert_used_count": 3}, "3 of 2 experts"),
        (GROUPS | {"expert_group_count": 3}, "2 of 8 experts in 1 of 3 groups"),
        (GROUPS | {"expert_group_count": 8}, "2 of 8 experts in 1 of 8 groups"),
        (GROUPS | {"expert_used_count": 5}, "5 of 8 experts in 1 of 2 groups"),
        ({"rope.dimension_count": 6}, "6 of 4 dimensions"),
        ({"rope.dimension_count": 3}, "3 of 4 dimensions"),
        ({"rope.freq_base": 0.0}, "frequency base 0.0"),
        ({"rope.freq_base": math.nan}, "frequency base nan"),
        ({"rope.scaling.factor": -2.0}, "positions cannot be divided by -2.0"),
        ({"rope.scaling.factor": math.inf}, "positions cannot be divided by inf"),
    ],
)
def test_sizes_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GGUFError, match=message):
        llama.Llama(_metadata("llama", changes))


def test_keys_of_deepseek_that_are_all_rotated() -> None:
    changes = {"attention.kv_lora_rank": 6, "rope.dimension_count": 4}
    with pytest.raises(GGUFError, match="keys of width 4 cannot have 4 rotated elements"):
        deepseek2.DeepSeek2(_metadata("deepseek2", changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"altup.num_inputs": 1}, "of 1 streams, number 0 cannot be computed"),
        ({"altup.active_idx": 4}, "of 4 streams, number 4 cannot be computed"),
        ({"attention.shared_kv_layers": 2}, "0 layers cannot have the keys of all 2"),
        ({"attention.shared_kv_layers": 3}, "-1 layers cannot have the keys of all 2"),
        (
            {"attention.shared_kv_layers": 1, "attention.sliding_window_pattern": [True, False]},
            "1 layers cannot have the keys of all 2",
        ),
        ({"activation_sparsity_scale": [1.0]}, "activation_sparsity_scale makes no sense for 2 layers"),
        ({"activation_sparsity_scale": [1.0, math.nan]}, "activation_sparsity_scale makes no sense"),
    ],
)
def test_gemma3n_sizes_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    own = {"block_count": 2, "embedding_length_per_layer_input": 4, "attention.sliding_window": 4}
    with pytest.raises(GGUFError, match=message):
        gemma3n.Gemma3n(_metadata("gemma3n", own | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shortconv.l_cache": 1}, "convolutions of 1 tap look at nothing before a token$"),
        ({"attention.head_count_kv": [1, 2]}, "different numbers of key heads make no sense$"),
        ({"attention.head_count_kv": [1]}, "must have one element for each of 2 layers, but has 1$"),
        ({"attention.head_count_kv": [0, 3]}, "3 key heads cannot be shared by 2 query heads evenly$"),
    ],
)
def test_lfm2_sizes_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GGUFError, match=message):
        model_class("lfm2")(_metadata("lfm2", {"block_count": 2, "shortconv.l_cache": 3} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ssm.conv_kernel": 1}, "convolutions of one tap look at nothing before a token$"),
        ({"ssm.group_count": 3}, "4 heads of 8 values cannot share 3 of keys"),
        ({"ssm.inner_size": 64}, "or are not as wide as ssm.inner_size$"),
        ({"ssm.state_size": 0}, "must be at least 1, but is 0$"),
        ({"full_attention_interval": 0}, "must be at least 1, but is 0$"),
        ({"block_count": 2, "attention.recurrent_layers": [True]}, "has 1 entries for 2 layers$"),
        ({"nextn_predict_layers": 1}, "1 of 1 layers cannot guess only$"),
    ],
)
def test_delta_nets_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GGUFError, match=message):
        model_class("qwen35")(_metadata("qwen35", DELTA | changes))


def test_layers_that_guess_more_tokens_are_passed_over() -> None:
    changes = {"block_count": 5, "nextn_predict_layers": 1}
    model: Any = model_class("qwen35")(_metadata("qwen35", DELTA | changes))
    assert model.attending == (False, False, False, True) and model.ignored == ("v.*", "blk.4.*")


def test_a_width_for_each_layer() -> None:
    alike = _metadata("llama", {"block_count": 2, "feed_forward_length": [12, 12]})
    assert hyper.transformer(alike).feed_forward == 12
    for widths in ([12, 16], [0, 0]):
        metadata = _metadata("llama", {"block_count": 2, "feed_forward_length": widths})
        with pytest.raises(UnsupportedModel, match="layers of different widths"):
            hyper.transformer(metadata)


@pytest.mark.parametrize("scale", [-0.5, math.inf, math.nan])
def test_temperatures_that_make_no_sense(scale: float) -> None:
    changes = {"attention.temperature_scale": scale}
    with pytest.raises(GGUFError, match="queries cannot grow by"):
        mistral3.Mistral3(_metadata("mistral3", changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expert_count": 8, "expert_used_count": 2, "expert_gating_func": 9}, "function 9"),
        ({"rope.scaling.type": "longrope"}, "scaled by 'longrope'"),
    ],
)
def test_variants_that_are_not_there(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        llama.Llama(_metadata("llama", changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, RopeParameters(4)),
        ({"rope.freq_base": 5e5, "rope.dimension_count": 2}, RopeParameters(2, 5e5)),
        ({"rope.scaling.factor": 4.0}, RopeParameters(4, scale=4.0)),
        ({"rope.scale_linear": 2.0}, RopeParameters(4, scale=2.0)),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, RopeParameters(4)),
        ({"rope.scaling.type": "linear"}, RopeParameters(4)),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0},
            RopeParameters(4, scale=4.0, original_context=64, extrapolation=1.0),
        ),
        (
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.original_context_length": 16,
                "rope.scaling.attn_factor": 0.5,
                "rope.scaling.beta_fast": 20.0,
                "rope.scaling.yarn_beta_slow": 3.0,
                "rope.scaling.yarn_ext_factor": 0.5,
            },
            RopeParameters(
                4,
                scale=4.0,
                original_context=16,
                extrapolation=0.5,
                attention_factor=0.5,
                beta_fast=20.0,
                beta_slow=3.0,
            ),
        ),
    ],
)
def test_rotary_scaling(changes: dict[str, Any], expected: RopeParameters) -> None:
    base = changes.get("rope.freq_base", 10000.0)
    assert hyper.rope(_metadata("llama", changes), 4, base, RopeType.NORMAL) == expected


def _gemma3(changes: dict[str, Any]) -> gemma3.Hyperparameters:
    return gemma3.Hyperparameters.of(_metadata("gemma3", changes))


def test_gemma3_without_window_is_causal() -> None:
    assert not any(_gemma3({"block_count": 12}).local)
    assert type(gemma3.Gemma3(_metadata("gemma3", {})).cache()) is Causal
    assert type(gemma3.Gemma3(_metadata("gemma3", {"attention.sliding_window": 4})).cache()) is Composed


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [(None, "lllllgll"), (2, "lglglglg"), (1, "gggggggg"), ([True, False] * 4, "lglglglg")],
)
def test_gemma3_windows(pattern: object, expected: str) -> None:
    changes = {"block_count": 8, "attention.sliding_window": 4, "attention.sliding_window_pattern": pattern}
    assert "".join("l" if local else "g" for local in _gemma3(changes).local) == expected


def test_gemma3_window_pattern_that_is_too_short() -> None:
    pattern = [True, False]
    with pytest.raises(GGUFError, match="2 entries for 3 layers"):
        _gemma3(
            {"block_count": 3, "attention.sliding_window": 4, "attention.sliding_window_pattern": pattern}
        )


def test_gemma3_defaults() -> None:
    found = _gemma3({"attention.layer_norm_rms_epsilon": None})
    assert (found.sizes.eps, found.sizes.key_size) == (1e-6, 256)
    assert found.local_rope == RopeParameters(256, 10000.0, type=RopeType.NEOX)
    assert found.global_rope == RopeParameters(256, 1000000.0, type=RopeType.NEOX)
    assert found.query_scale == 1 / 16


@pytest.mark.parametrize(
    ("layers", "stretch", "query_scale", "softcap"),
    [(18, 1, 1 / 2, 30), (26, 1, 1 / 2, 0), (34, 8, 1 / 2, 30), (48, 8, 1 / 2, 30), (62, 8, 8**-0.5, 30)],
)
def test_gemma3_what_early_files_do_not_say(
    layers: int, stretch: float, query_scale: float, softcap: float
) -> None:
    """The 27B model scales queries by the width of a head's share of the state, 16 / 2, not of its key, 4."""
    found = _gemma3(
        {
            "block_count": layers,
            "embedding_length": 16,
            "attention.key_length": 4,
            "final_logit_softcapping": 30.0,
        }
    )
    assert found.global_rope.scale == stretch
    assert found.local_rope.scale == 1
    assert math.isclose(found.query_scale, query_scale)
    assert found.final_softcap == softcap
    stated = _gemma3({"block_count": layers, "rope.scaling.type": "linear", "rope.scaling.factor": 2.0})
    assert stated.global_rope.scale == 2
