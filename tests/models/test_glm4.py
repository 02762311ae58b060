"""GLM 4 against transformers."""

from pathlib import Path
from typing import Any

import pytest
from tests.models import hf_models
from tests.models.agreement import check, check_removal
from tests.models.hf_to_gguf import write_model

pytestmark = pytest.mark.transformers

WHOLE = {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 1.0}

CASES: dict[str, dict[str, Any]] = {
    "grouped queries, half of each head rotated": {},
    "one head for all, tied, no biases": {
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
        "attention_bias": False,
    },
    "a key head for each query head, all of each rotated": {
        "num_key_value_heads": 4,
        "rope_parameters": WHOLE,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_every_logit_agrees_with_transformers(case: str, backend_name: str, tmp_path: Path) -> None:
    seed = list(CASES).index(case)
    model = hf_models.glm4(seed, **CASES[case])
    check(tmp_path / "model.gguf", model, write_model, backend_name, seed)


def test_tokens_taken_out_leave_no_trace(backend_name: str, tmp_path: Path) -> None:
    model = hf_models.glm4(9, num_hidden_layers=1)
    check_removal(tmp_path / "model.gguf", model, write_model, backend_name)
