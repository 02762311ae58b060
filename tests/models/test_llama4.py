"""Llama 4 against transformers."""

from pathlib import Path
from typing import Any

import pytest
from tests.models import hf_models
from tests.models.agreement import check, check_removal
from tests.models.hf_to_gguf import write_model, write_ollamas

pytestmark = pytest.mark.transformers

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

# Chunks of 12 tokens, and lengths of 8 after which queries grow, are shorter than the prompt of 45.
CASES: dict[str, dict[str, Any]] = {
    "one expert": {},
    "two experts, one head for all, tied": {
        "num_experts_per_tok": 2,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
    },
    "experts in each second layer, stretched": {"interleave_moe_layer_step": 2, "rope_parameters": LLAMA3},
    "128 experts, heads as they are": {"num_local_experts": 128, "use_qk_norm": False},
    "chunk longer than the prompt": {"attention_chunk_size": 64, "num_key_value_heads": 4},
    "everything seen, all layers rotated": {
        "layer_types": ["full_attention"] * 5,
        "no_rope_layers": [1] * 5,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_every_logit_agrees_with_transformers(case: str, backend_name: str, tmp_path: Path) -> None:
    seed = list(CASES).index(case)
    model = hf_models.llama4(seed, **CASES[case])
    check(tmp_path / "model.gguf", model, write_model, backend_name, seed)


def test_ollamas_names(backend_name: str, tmp_path: Path) -> None:
    model = hf_models.llama4(7, interleave_moe_layer_step=2, use_qk_norm=False)
    check(tmp_path / "model.gguf", model, write_ollamas, backend_name, 7)


def test_tokens_taken_out_leave_no_trace(backend_name: str, tmp_path: Path) -> None:
    model = hf_models.llama4(9, num_hidden_layers=1, attention_chunk_size=64)
    check_removal(tmp_path / "model.gguf", model, write_model, backend_name)
