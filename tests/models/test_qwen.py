"""Qwen 2 and 3, of one piece and with experts, against transformers."""

from pathlib import Path
from typing import Any

import pytest
from tests.models import hf_models
from tests.models.agreement import check, check_removal
from tests.models.hf_to_gguf import write_model, write_ollamas

pytestmark = pytest.mark.transformers

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("qwen2", {}),
    "qwen2, one head for all, tied": ("qwen2", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "qwen2, yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen2moe": ("qwen2moe", {}),
    "qwen2moe, weights that add up": ("qwen2moe", {"norm_topk_prob": True, "num_experts_per_tok": 2}),
    "qwen3": ("qwen3", {}),
    "qwen3, tied, biases": ("qwen3", {"tie_word_embeddings": True, "attention_bias": True}),
    "qwen3, yarn, all heads": ("qwen3", {"rope_parameters": YARN, "num_key_value_heads": 4}),
    "qwen3moe": ("qwen3moe", {"norm_topk_prob": True}),
    "qwen3moe, weights as they are": ("qwen3moe", {"norm_topk_prob": False}),
    "qwen3moe, one expert": ("qwen3moe", {"norm_topk_prob": False, "num_experts_per_tok": 1}),
    "qwen3moe, all experts": ("qwen3moe", {"norm_topk_prob": True, "num_experts_per_tok": 6}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_logit_agrees_with_transformers(case: str, backend_name: str, tmp_path: Path) -> None:
    architecture, changes = CASES[case]
    seed = list(CASES).index(case)
    model = hf_models.qwen(architecture, seed, **changes)
    check(tmp_path / "model.gguf", model, write_model, backend_name, seed)


def test_ollamas_name_of_the_norm_of_weights(backend_name: str, tmp_path: Path) -> None:
    model = hf_models.qwen("qwen3moe", 3, norm_topk_prob=False)
    check(tmp_path / "model.gguf", model, write_ollamas, backend_name, 3)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3moe"])
def test_tokens_taken_out_leave_no_trace(architecture: str, backend_name: str, tmp_path: Path) -> None:
    model = hf_models.qwen(architecture, 9, num_hidden_layers=1, rope_parameters=YARN)
    check_removal(tmp_path / "model.gguf", model, write_model, backend_name)
