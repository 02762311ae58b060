"""Gemma 2 against transformers."""

from pathlib import Path
from typing import Any

import pytest
from tests.models import hf_models
from tests.models.agreement import check, check_removal
from tests.models.hf_to_gguf import write_model

pytestmark = pytest.mark.transformers

# The window of 12 is shorter than the prompt of 45 in most of these.
CASES: dict[str, dict[str, Any]] = {
    "grouped queries": {},
    "one head for all": {"num_key_value_heads": 1},
    "untied": {"tie_word_embeddings": False, "num_hidden_layers": 4},
    "narrow limits": {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.5},
    "window longer than the prompt": {"sliding_window": 64},
}


@pytest.mark.parametrize("case", CASES)
def test_every_logit_agrees_with_transformers(case: str, backend_name: str, tmp_path: Path) -> None:
    seed = list(CASES).index(case)
    model = hf_models.gemma2(seed, **CASES[case])
    check(tmp_path / "model.gguf", model, write_model, backend_name, seed)


def test_tokens_taken_out_leave_no_trace(backend_name: str, tmp_path: Path) -> None:
    model = hf_models.gemma2(9, num_hidden_layers=1, sliding_window=40)
    check_removal(tmp_path / "model.gguf", model, write_model, backend_name)
