"""gpt-oss, its experts in F32, against transformers."""

from pathlib import Path
from typing import Any

import pytest
from tests.models import hf_models
from tests.models.agreement import check, check_removal
from tests.models.hf_to_gguf import write_model, write_ollamas

pytestmark = pytest.mark.transformers

PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
}
# The window of 12 is shorter than the prompt of 45.
CASES: dict[str, dict[str, Any]] = {
    "plain": {"rope_parameters": PLAIN},
    "yarn": {"rope_parameters": YARN},
    "one expert, one head for all": {
        "rope_parameters": PLAIN,
        "num_experts_per_tok": 1,
        "num_key_value_heads": 1,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_every_logit_agrees_with_transformers(case: str, backend_name: str, tmp_path: Path) -> None:
    seed = list(CASES).index(case)
    model = hf_models.gpt_oss(seed, **CASES[case])
    check(tmp_path / "model.gguf", model, write_model, backend_name, seed)


def test_ollamas_names(backend_name: str, tmp_path: Path) -> None:
    model = hf_models.gpt_oss(4, rope_parameters=YARN)
    check(tmp_path / "model.gguf", model, write_ollamas, backend_name, 4)


def test_tokens_taken_out_leave_no_trace(backend_name: str, tmp_path: Path) -> None:
    model = hf_models.gpt_oss(9, num_hidden_layers=1, sliding_window=40, rope_parameters=YARN)
    check_removal(tmp_path / "model.gguf", model, write_model, backend_name)
