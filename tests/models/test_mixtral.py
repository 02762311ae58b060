"""Mixtral, which names the architecture llama, against transformers."""

from pathlib import Path
from typing import Any

import pytest
from tests.models import hf_models
from tests.models.agreement import check
from tests.models.hf_to_gguf import write_model

pytestmark = pytest.mark.transformers

CASES: list[dict[str, Any]] = [
    {},
    {"num_experts_per_tok": 1, "tie_word_embeddings": True},
    {"num_experts_per_tok": 3, "num_local_experts": 4, "num_key_value_heads": 4},
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_every_logit_agrees_with_transformers(case: int, backend_name: str, tmp_path: Path) -> None:
    model = hf_models.mixtral(case, **CASES[case])
    check(tmp_path / "model.gguf", model, write_model, backend_name, case)
