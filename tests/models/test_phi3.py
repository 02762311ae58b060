"""Phi 3 against transformers."""

from pathlib import Path
from typing import Any

import pytest
from tests.models import hf_models
from tests.models.agreement import agrees, check, check_removal
from tests.models.driver import evaluate
from tests.models.hf_to_gguf import write_model

from puna.engine.load import new_evaluator
from puna.engine.options import LoadOptions
from puna.ml import BackendParams, new_backend
from puna.models import build_model

pytestmark = pytest.mark.transformers

# The cache of the tests has room for 128 tokens: with more than that of original context, it is short.
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0,
    "long_factor": [1.0, 1.3, 2.0, 3.5, 8.0, 13.0, 20.0, 30.0],
    "short_factor": [1.0, 1.0, 1.1, 1.2, 1.4, 1.5, 1.5, 1.7],
    "original_max_position_embeddings": 8,
}
SHORT = LONG | {"original_max_position_embeddings": 128}
PARTIAL = {"rope_type": "default", "rope_theta": 20000.0, "partial_rotary_factor": 0.75}

CASES: dict[str, dict[str, Any]] = {
    "grouped queries": {},
    "a key head for each query head, tied": {"num_key_value_heads": 4, "tie_word_embeddings": True},
    "part of each head rotated": {"rope_parameters": PARTIAL, "num_key_value_heads": 1},
    "window": {"sliding_window": 12, "num_hidden_layers": 3},
    "long": {"rope_parameters": LONG, "original_max_position_embeddings": 8},
    "short": {"rope_parameters": SHORT, "original_max_position_embeddings": 128},
}


@pytest.mark.parametrize("case", CASES)
def test_every_logit_agrees_with_transformers(case: str, backend_name: str, tmp_path: Path) -> None:
    seed = list(CASES).index(case)
    model = hf_models.phi3(seed, **CASES[case])
    check(tmp_path / "model.gguf", model, write_model, backend_name, seed)


@pytest.mark.parametrize("case", ["long", "part of each head rotated"])
def test_tokens_taken_out_leave_no_trace(case: str, backend_name: str, tmp_path: Path) -> None:
    model = hf_models.phi3(9, **CASES[case] | {"num_hidden_layers": 1})
    check_removal(tmp_path / "model.gguf", model, write_model, backend_name)


@pytest.mark.parametrize(("context", "case"), [(64, "short"), (130, "long")])
def test_the_context_that_a_model_is_loaded_with_chooses_the_factors(
    context: int, case: str, tmp_path: Path
) -> None:
    """The original context has 128 tokens; of transformers the other factors are asked for as if short."""
    model = hf_models.phi3(3, **CASES["short"])
    write_model(tmp_path / "model.gguf", model)
    tokens = hf_models.random_tokens(3, 20)
    with new_backend(tmp_path / "model.gguf", BackendParams(num_threads=1)) as backend:
        built = build_model(backend)
        backend.load()
        evaluator = new_evaluator(backend, built, LoadOptions(num_ctx=context, kv_cache_type="f32"))
        found = evaluate(evaluator, tokens, chunk=20)
        evaluator.close()
    if case == "long":
        model.config.rope_parameters["short_factor"] = LONG["long_factor"]
        state = model.state_dict()
        model = type(model)(model.config).eval()
        model.load_state_dict(state)
    agrees(found, hf_models.logits(model, tokens))
