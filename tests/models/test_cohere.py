"""Command R and Cohere 2 against transformers."""

from pathlib import Path
from typing import Any

import pytest
from tests.models import hf_models
from tests.models.agreement import check, check_removal
from tests.models.hf_to_gguf import write_model

pytestmark = pytest.mark.transformers

WINDOW = {"sliding_window": 12, "num_hidden_layers": 5}
KINDS = ["full_attention", "sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "command-r": ("command-r", {}),
    "command-r, a key head for each query head, another factor": (
        "command-r",
        {"num_key_value_heads": 4, "logit_scale": 0.5},
    ),
    "command-r, heads normalised, biases": ("command-r", {"use_qk_norm": True, "attention_bias": True}),
    "command-r, untied, one head for all": (
        "command-r",
        {"tie_word_embeddings": False, "num_key_value_heads": 1},
    ),
    "cohere2": ("cohere2", WINDOW),
    "cohere2, window in other layers": ("cohere2", WINDOW | {"layer_types": KINDS}),
}


def _model(architecture: str, seed: int, changes: dict[str, Any]) -> Any:
    return hf_models.cohere({"command-r": "Cohere", "cohere2": "Cohere2"}[architecture], seed, **changes)


@pytest.mark.parametrize("case", CASES)
def test_every_logit_agrees_with_transformers(case: str, backend_name: str, tmp_path: Path) -> None:
    architecture, changes = CASES[case]
    seed = list(CASES).index(case)
    model = _model(architecture, seed, changes)
    check(tmp_path / "model.gguf", model, write_model, backend_name, seed)


@pytest.mark.parametrize("kind", ["sliding_attention", "full_attention"])
def test_tokens_taken_out_leave_no_trace(kind: str, backend_name: str, tmp_path: Path) -> None:
    changes = {"num_hidden_layers": 1, "sliding_window": 40, "layer_types": [kind]}
    model = _model("cohere2", 9, changes)
    check_removal(tmp_path / "model.gguf", model, write_model, backend_name)
