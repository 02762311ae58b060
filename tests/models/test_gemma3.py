"""Gemma 3 against transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models import hf_models
from tests.models.driver import WAYS, evaluate, opened
from tests.models.hf_to_gguf import write_model, write_ollamas

from puna.ml import BackendParams, DType

pytestmark = pytest.mark.transformers

STRETCHED = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
OTHER_BASES = {
    "full_attention": {"rope_type": "default", "rope_theta": 50000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
}

# The window of 12 is shorter than the prompt of 45 in all of these.
CASES: dict[str, dict[str, Any]] = {
    "grouped queries": {},
    "as released": {"num_hidden_layers": 7, "sliding_window_pattern": 6},
    "no pattern": {
        "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    },
    "one head for all": {"num_key_value_heads": 1},
    "a key head for each query head": {"num_key_value_heads": 4},
    "untied": {"tie_word_embeddings": False},
    "stretched": {"rope_parameters": STRETCHED},
    "other bases": {"rope_parameters": OTHER_BASES},
    "limited logits": {"final_logit_softcapping": 2.0},
    "window of one": {"sliding_window": 1},
    "window longer than the prompt": {"sliding_window": 64},
}

# For keys and values rounded to eleven bits, with logits of about 1.
F16_BOUND = 0.01


@pytest.mark.parametrize("case", CASES)
def test_every_logit_agrees_with_transformers(case: str, backend_name: str, tmp_path: Path) -> None:
    model = hf_models.gemma3(list(CASES).index(case), **CASES[case])
    tokens = hf_models.random_tokens(list(CASES).index(case), 45)
    expected = hf_models.logits(model, tokens)
    write_model(tmp_path / "model.gguf", model)
    with opened(tmp_path / "model.gguf", backend_name) as evaluator:
        found = evaluate(evaluator, tokens, chunk=45)
    assert np.abs(found - expected).max() < 1e-3
    assert (found.argmax(-1) == expected.argmax(-1)).all()
    with opened(tmp_path / "model.gguf", backend_name, dtype=DType.F16) as evaluator:
        found = evaluate(evaluator, tokens, chunk=45)
    assert np.abs(found - expected).max() < F16_BOUND


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A model as a file and as transformers has it."""
    model = hf_models.gemma3(100, rope_parameters=STRETCHED)
    path = tmp_path_factory.mktemp("gemma3") / "model.gguf"
    write_model(path, model)
    return path, model


@pytest.mark.parametrize(("chunk", "seed"), [(1, 3), (7, 1), (32, 2)])
def test_chunks_change_nothing(example: tuple[Path, Any], backend_name: str, chunk: int, seed: int) -> None:
    path, model = example
    tokens = hf_models.random_tokens(seed, 45)
    with opened(path, backend_name) as evaluator:
        found = evaluate(evaluator, tokens, chunk=chunk)
    expected = hf_models.logits(model, tokens)
    assert np.abs(found - expected).max() < 1e-3
    assert (found.argmax(-1) == expected.argmax(-1)).all()


@pytest.mark.parametrize("params", WAYS)
def test_ways_to_compute_change_nothing(
    example: tuple[Path, Any], backend_name: str, params: BackendParams
) -> None:
    path, model = example
    tokens = hf_models.random_tokens(0, 45)
    with opened(path, backend_name, params=params) as evaluator:
        found = evaluate(evaluator, tokens, chunk=32)
    assert np.abs(found - hf_models.logits(model, tokens)).max() < 1e-3


def test_files_of_both_origins(backend_name: str, tmp_path: Path) -> None:
    """Ollama names the bases otherwise and leaves out the norms' epsilon."""
    model = hf_models.gemma3(4, rope_parameters=OTHER_BASES)
    tokens = hf_models.random_tokens(4, 45)
    expected = hf_models.logits(model, tokens)
    for write in (write_model, write_ollamas):
        write(tmp_path / "model.gguf", model)
        with opened(tmp_path / "model.gguf", backend_name) as evaluator:
            found = evaluate(evaluator, tokens, chunk=32)
        assert np.abs(found - expected).max() < 1e-3


def test_sequences_beyond_the_window(example: tuple[Path, Any], backend_name: str) -> None:
    """Two sequences in turn, whose early tokens have left the window when a third goes on from one."""
    path, model = example
    one, two = hf_models.random_tokens(1, 30), hf_models.random_tokens(2, 30)
    with opened(path, backend_name, sequences=3) as evaluator:
        found = [evaluate(evaluator, x[:20], chunk=6, sequence=s) for s, x in enumerate((one, two))]
        evaluator.cache.copy_prefix(0, 2, 20)
        assert evaluator.cache.can_resume(2, 20) and not evaluator.cache.can_resume(2, 10)
        branched = evaluate(evaluator, two[20:], chunk=4, start=20, sequence=2)
        rest = evaluate(evaluator, one[20:], chunk=1, start=20)
    for part, tokens in zip(found, (one, two), strict=True):
        assert np.abs(part - hf_models.logits(model, tokens[:20])).max() < 1e-3
    assert np.abs(branched - hf_models.logits(model, one[:20] + two[20:])[20:]).max() < 1e-3
    assert np.abs(rest - hf_models.logits(model, one)[20:]).max() < 1e-3


@pytest.mark.parametrize("kind", ["sliding_attention", "full_attention"])
def test_tokens_taken_out_leave_no_trace(backend_name: str, tmp_path: Path, kind: str) -> None:
    """With one layer, keys depend on nothing but their token and position: the rest must fit exactly."""
    model = hf_models.gemma3(
        9, num_hidden_layers=1, sliding_window=40, rope_parameters=STRETCHED, layer_types=[kind]
    )
    write_model(tmp_path / "model.gguf", model)
    tokens = hf_models.random_tokens(9, 40)
    with opened(tmp_path / "model.gguf", backend_name, max_batch=8) as evaluator:
        evaluate(evaluator, tokens[:30], chunk=8)
        evaluator.cache.remove(0, 4, 11)
        found = evaluate(evaluator, tokens[30:], chunk=5, start=23)
    expected = hf_models.logits(model, tokens[:4] + tokens[11:])[23:]
    assert np.abs(found - expected).max() < 1e-3
