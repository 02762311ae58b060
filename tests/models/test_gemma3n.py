"""Gemma 3n against transformers."""

from pathlib import Path
from typing import Any

import pytest
from tests.models import hf_models
from tests.models.agreement import check, check_removal
from tests.models.hf_to_gguf import write_model, write_ollamas

pytestmark = pytest.mark.transformers

OTHER_BASES = {
    "full_attention": {"rope_type": "default", "rope_theta": 50000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
}

# The window of 12 is shorter than the prompt of 45 in most of these.
CASES: dict[str, dict[str, Any]] = {
    "grouped queries": {},
    "one head for all, other bases": {"num_key_value_heads": 1, "rope_parameters": OTHER_BASES},
    "no keys of others, untied": {"num_kv_shared_layers": 0, "tie_word_embeddings": False},
    "three streams, the second computed": {"altup_num_inputs": 3, "altup_active_idx": 1},
    "all gates count, narrow limit": {
        "activation_sparsity_pattern": [0.0] * 4,
        "final_logit_softcapping": 1.5,
    },
    "window longer than the prompt": {"sliding_window": 64},
}


@pytest.mark.parametrize("case", CASES)
def test_every_logit_agrees_with_transformers(case: str, backend_name: str, tmp_path: Path) -> None:
    seed = 10 + list(CASES).index(case)
    model = hf_models.gemma3n(seed, **CASES[case])
    check(tmp_path / "model.gguf", model, write_model, backend_name, seed)


def test_ollamas_names(backend_name: str, tmp_path: Path) -> None:
    model = hf_models.gemma3n(7, rope_parameters=OTHER_BASES)
    check(tmp_path / "model.gguf", model, write_ollamas, backend_name, 7)


def test_tokens_taken_out_leave_no_trace(backend_name: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"num_hidden_layers": 1, "num_kv_shared_layers": 0, "sliding_window": 40}
    changes |= {"layer_types": ["sliding_attention"], "activation_sparsity_pattern": [0.4]}
    model = hf_models.gemma3n(9, **changes)
    check_removal(tmp_path / "model.gguf", model, write_model, backend_name)
