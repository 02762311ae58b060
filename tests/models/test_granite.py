"""Granite against transformers."""

from pathlib import Path
from typing import Any

import pytest
from tests.models import hf_models
from tests.models.agreement import check, check_removal
from tests.models.hf_to_gguf import write_model

pytestmark = pytest.mark.transformers

FACTORS = {
    "attention_multiplier": 0.11,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.4,
    "logits_scaling": 2.5,
}
CASES: dict[str, dict[str, Any]] = {
    "no factors": {},
    "factors": FACTORS,
    "factors, tied, biases": FACTORS
    | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    "one head for all": FACTORS | {"num_key_value_heads": 1},
}


@pytest.mark.parametrize("case", CASES)
def test_every_logit_agrees_with_transformers(case: str, backend_name: str, tmp_path: Path) -> None:
    seed = list(CASES).index(case)
    model = hf_models.granite(seed, **CASES[case])
    check(tmp_path / "model.gguf", model, write_model, backend_name, seed)


def test_tokens_taken_out_leave_no_trace(backend_name: str, tmp_path: Path) -> None:
    model = hf_models.granite(9, num_hidden_layers=1, **FACTORS)
    check_removal(tmp_path / "model.gguf", model, write_model, backend_name)
