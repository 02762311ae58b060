"""Qwen 3 Next and 3.5 against transformers."""

from pathlib import Path
from typing import Any

import pytest
from tests.models import hf_models
from tests.models.agreement import check, check_company, check_resumed
from tests.models.hf_written import write_delta_net

pytestmark = pytest.mark.transformers

ARCHITECTURES = {"Qwen3Next": "qwen3next", "Qwen3_5": "qwen35", "Qwen3_5Moe": "qwen35moe"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "next": ("Qwen3Next", {}),
    "next, four values of each key": ("Qwen3Next", {"linear_num_value_heads": 8, "norm_topk_prob": True}),
    "next, a key for each value, tied": (
        "Qwen3Next",
        {"linear_num_key_heads": 4, "tie_word_embeddings": True},
    ),
    "3.5": ("Qwen3_5", {}),
    "3.5, tied, two taps, one head": (
        "Qwen3_5",
        {"tie_word_embeddings": True, "linear_conv_kernel_dim": 2, "num_key_value_heads": 1},
    ),
    "3.5, six values of each key, biases": (
        "Qwen3_5",
        {"linear_num_value_heads": 12, "attention_bias": True},
    ),
    "3.5, all of heads rotated, attention last": (
        "Qwen3_5",
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5000.0,
                "partial_rotary_factor": 1.0,
            },
            "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
        },
    ),
    "3.5, experts": ("Qwen3_5Moe", {}),
    "3.5, experts, a key for each value": ("Qwen3_5Moe", {"linear_num_key_heads": 4}),
}


def write(kind: str) -> Any:
    return lambda path, model: write_delta_net(path, ARCHITECTURES[kind], model)


@pytest.mark.parametrize("case", CASES)
def test_every_logit_agrees_with_transformers(case: str, backend_name: str, tmp_path: Path) -> None:
    kind, changes = CASES[case]
    seed = list(CASES).index(case)
    check(
        tmp_path / "model.gguf", hf_models.delta_net(kind, seed, **changes), write(kind), backend_name, seed
    )


def test_a_file_that_says_how_often_a_layer_has_attention(backend_name: str, tmp_path: Path) -> None:
    kinds = ["linear_attention", "full_attention"] * 2
    model = hf_models.delta_net("Qwen3_5", 20, layer_types=kinds)
    check(
        tmp_path / "model.gguf",
        model,
        lambda path, made: write_delta_net(path, "qwen35", made, listed=False),
        backend_name,
        20,
    )


def test_a_file_of_ollamas(backend_name: str, tmp_path: Path) -> None:
    model = hf_models.delta_net("Qwen3_5Moe", 23)
    check(
        tmp_path / "model.gguf",
        model,
        lambda path, made: write_delta_net(path, "qwen35moe", made, ollamas=True),
        backend_name,
        23,
    )


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_sequences_of_different_lengths_share_batches(kind: str, backend_name: str, tmp_path: Path) -> None:
    check_company(tmp_path / "model.gguf", hf_models.delta_net(kind, 21), write(kind), backend_name)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_sequences_go_on_from_kept_states(kind: str, backend_name: str, tmp_path: Path) -> None:
    check_resumed(tmp_path / "model.gguf", hf_models.delta_net(kind, 22), write(kind), backend_name)
