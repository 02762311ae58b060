"""Llama against transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models import hf_models
from tests.models.driver import WAYS, evaluate, opened
from tests.models.hf_to_gguf import write_model

from puna.engine.evaluator import Batch
from puna.ml import BackendParams, DType

pytestmark = pytest.mark.transformers

PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
}
YARN_OF_TWO = YARN | {"mscale": 0.7, "mscale_all_dim": 0.9}
YARN_IN_FULL = YARN | {"attention_factor": 0.8, "beta_fast": 16.0, "beta_slow": 2.0}

CASES: dict[str, dict[str, Any]] = {
    "grouped queries": {},
    "one head for all": {"num_key_value_heads": 1},
    "a key head for each query head": {"num_key_value_heads": 4},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide heads": {"head_dim": 48, "num_hidden_layers": 3},
    "other base": {"rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}},
    "linear": {"rope_parameters": LINEAR},
    "llama3": {"rope_parameters": LLAMA3},
    "yarn": {"rope_parameters": YARN},
    "yarn, two magnitudes": {"rope_parameters": YARN_OF_TWO},
    "yarn in full": {"rope_parameters": YARN_IN_FULL, "tie_word_embeddings": True},
}

# For keys and values rounded to eleven bits, with logits of about 10.
F16_BOUND = 0.1


@pytest.mark.parametrize("case", CASES)
def test_every_logit_agrees_with_transformers(case: str, backend_name: str, tmp_path: Path) -> None:
    model = hf_models.llama(list(CASES).index(case), **CASES[case])
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
    """A model that has most of what varies, as a file and as transformers has it."""
    model = hf_models.llama(100, rope_parameters=LLAMA3, attention_bias=True)
    path = tmp_path_factory.mktemp("llama") / "model.gguf"
    write_model(path, model)
    return path, model


@pytest.mark.parametrize(("chunk", "seed"), [(1, 0), (7, 1), (32, 2)])
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


@pytest.mark.parametrize(("dtype", "bound"), [(DType.Q8_0, 0.1), (DType.Q4_0, 1.5)])
def test_quantised_history(backend_name: str, tmp_path: Path, dtype: DType, bound: float) -> None:
    """Blocks of 32 elements with 8 and 4 bits, with logits of about 4."""
    model = hf_models.llama(5, head_dim=32, gain=1.0)
    write_model(tmp_path / "model.gguf", model)
    tokens = hf_models.random_tokens(5, 45)
    with opened(tmp_path / "model.gguf", backend_name, dtype=dtype) as evaluator:
        found = evaluate(evaluator, tokens, chunk=7)
    error = np.abs(found - hf_models.logits(model, tokens))
    assert 1e-3 < error.max() < bound, error.max()


def test_only_the_wanted_rows(example: tuple[Path, Any], backend_name: str) -> None:
    path, model = example
    tokens = hf_models.random_tokens(1, 20)
    batch = Batch.of(tokens, 0)
    wanted = np.array([2, 3, 19], np.int32)
    with opened(path, backend_name) as evaluator:
        found = evaluator.evaluate(Batch(batch.tokens, batch.positions, batch.sequences, wanted))
        assert np.abs(found - hf_models.logits(model, tokens)[wanted]).max() < 1e-3


@pytest.mark.parametrize("apart", [False, True])
def test_sequences_do_not_see_each_other(example: tuple[Path, Any], backend_name: str, apart: bool) -> None:
    """Two sequences in turn, in one batch, and one that goes on from a prefix of another."""
    path, model = example
    one, two = hf_models.random_tokens(1, 20), hf_models.random_tokens(2, 20)
    with opened(path, backend_name, sequences=3) as evaluator:
        evaluate(evaluator, one[:10], chunk=10)
        evaluate(evaluator, two[:8], chunk=3, sequence=1)
        both = Batch(
            np.array(one[10:15] + two[8:12], np.int32),
            np.array([*range(10, 15), *range(8, 12)], np.int32),
            np.array([0] * 5 + [1] * 4, np.int32),
            np.arange(9, dtype=np.int32),
        )
        mixed = evaluator.evaluate(both).copy()
        evaluator.cache.copy_prefix(0, 2, 12, apart=apart)
        branched = evaluate(evaluator, two, chunk=20, start=12, sequence=2)
        rest = evaluate(evaluator, one[15:], chunk=1, start=15)
    assert np.abs(mixed[:5] - hf_models.logits(model, one)[10:15]).max() < 1e-3
    assert np.abs(mixed[5:] - hf_models.logits(model, two)[8:12]).max() < 1e-3
    assert np.abs(branched - hf_models.logits(model, one[:12] + two)[12:]).max() < 1e-3
    assert np.abs(rest - hf_models.logits(model, one)[15:]).max() < 1e-3


@pytest.mark.parametrize("rope", [PLAIN, LINEAR, LLAMA3, YARN, YARN_IN_FULL])
def test_tokens_taken_out_leave_no_trace(backend_name: str, tmp_path: Path, rope: dict[str, Any]) -> None:
    """With one layer, keys depend on nothing but their token and position: the rest must fit exactly."""
    model = hf_models.llama(9, num_hidden_layers=1, rope_parameters=rope)
    write_model(tmp_path / "model.gguf", model)
    tokens = hf_models.random_tokens(9, 40)
    with opened(tmp_path / "model.gguf", backend_name, max_batch=8) as evaluator:
        evaluate(evaluator, tokens[:30], chunk=8)
        evaluator.cache.remove(0, 4, 11)
        found = evaluate(evaluator, tokens[30:], chunk=5, start=23)
    expected = hf_models.logits(model, tokens[:4] + tokens[11:])[23:]
    assert np.abs(found - expected).max() < 1e-3
