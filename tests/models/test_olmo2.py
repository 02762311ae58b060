"""OLMo 2 and 3 against transformers."""

from pathlib import Path
from typing import Any

import pytest
from tests.models import hf_models
from tests.models.agreement import check, check_removal
from tests.models.hf_to_gguf import write_model

pytestmark = pytest.mark.transformers

PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
ROPES = {"full_attention": YARN, "sliding_attention": PLAIN}
WINDOW = {"sliding_window": 12, "num_hidden_layers": 5, "rope_parameters": ROPES}
KINDS = ["full_attention", "sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "grouped queries": ("Olmo2", {}),
    "a key head for each query head, tied": (
        "Olmo2",
        {"num_key_value_heads": 4, "tie_word_embeddings": True},
    ),
    "yarn": ("Olmo2", {"rope_parameters": YARN}),
    "window": ("Olmo3", WINDOW),
    "window in other layers": ("Olmo3", WINDOW | {"layer_types": KINDS}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_logit_agrees_with_transformers(case: str, backend_name: str, tmp_path: Path) -> None:
    seed = list(CASES).index(case)
    model = hf_models.olmo(CASES[case][0], seed, **CASES[case][1])
    check(tmp_path / "model.gguf", model, write_model, backend_name, seed)


def test_tokens_taken_out_leave_no_trace(backend_name: str, tmp_path: Path) -> None:
    model = hf_models.olmo("Olmo2", 9, num_hidden_layers=1, rope_parameters=YARN)
    check_removal(tmp_path / "model.gguf", model, write_model, backend_name)
