"""Mistral 3 against transformers."""

from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest
from tests.models import hf_models
from tests.models.agreement import check, check_removal
from tests.models.hf_to_gguf import write_model, write_ollamas

pytestmark = pytest.mark.transformers

# The prompt of 45 tokens is longer than the original context, twice that in some.
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.4,
}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("Mistral", {"rope_parameters": PLAIN}),
    "plain, one head for all, tied": (
        "Mistral",
        {"rope_parameters": PLAIN, "num_key_value_heads": 1, "tie_word_embeddings": True},
    ),
    "temperatures": ("Ministral3", {"rope_parameters": YARN}),
    "temperatures, ramp elsewhere, other magnitude": (
        "Ministral3",
        {"rope_parameters": YARN | {"beta_fast": 8.0, "mscale_all_dim": 0.6}, "num_key_value_heads": 4},
    ),
}


class Write(Protocol):
    def __call__(self, path: Path, model: Any, **config: Any) -> None: ...


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("write", [write_model, write_ollamas], ids=["llama.cpp", "ollama"])
def test_every_logit_agrees_with_transformers(
    case: str, write: Write, backend_name: str, tmp_path: Path
) -> None:
    seed = list(CASES).index(case)
    model = hf_models.mistral(CASES[case][0], seed, **CASES[case][1])
    # The text of Mistral Small 3.1, too, is of this architecture.
    named = partial(write, architectures=["Ministral3ForCausalLM"])
    check(tmp_path / "model.gguf", model, named, backend_name, seed)


def test_tokens_taken_out_leave_no_trace(backend_name: str, tmp_path: Path) -> None:
    model = hf_models.mistral("Ministral3", 9, num_hidden_layers=1, rope_parameters=YARN)
    check_removal(tmp_path / "model.gguf", model, write_model, backend_name)
