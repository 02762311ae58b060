"""BERT and NomicBERT against transformers, by way of their conversion."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models import hf_models
from tests.models.driver import WAYS, evaluate, opened
from tests.models.hf_folders import CLS, SEP, write_gguf

from puna.engine.embed import Embedder, pooling_of
from puna.engine.evaluator import Batch
from puna.engine.load import LoadedModel, load_model
from puna.engine.options import LoadOptions
from puna.errors import ContextLengthExceeded, GGUFError, InvalidOption, MissingCapability, UnsupportedModel
from puna.gguf import metadata_of
from puna.gguf.keys import Pooling
from puna.ml import BackendParams
from puna.models.base import Encoder
from puna.models.bert import Bert, NomicBert
from puna.sampling.parameters import SamplingParameters

pytestmark = pytest.mark.transformers

BERT: dict[str, dict[str, Any]] = {
    "small": {},
    "one head": {"num_attention_heads": 1},
    "many heads": {"num_attention_heads": 8, "num_hidden_layers": 3},
    "wide": {"hidden_size": 128, "intermediate_size": 320},
    "other sizes": {"hidden_size": 72, "num_attention_heads": 6, "intermediate_size": 50, "vocab_size": 101},
    "one kind of segment": {"type_vocab_size": 1},
    "coarse norms": {"layer_norm_eps": 1e-3},
    "gelu by tanh": {"hidden_act": "gelu_new"},
    "relu": {"hidden_act": "relu"},
    "silu": {"hidden_act": "silu"},
}
NOMIC: dict[str, dict[str, Any]] = {
    "small": {},
    "one head": {"num_attention_heads": 1},
    "many heads": {"num_attention_heads": 8, "num_hidden_layers": 3},
    "wide": {"hidden_size": 128, "intermediate_size": 320},
    "other base": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    "coarse norms": {"layer_norm_eps": 1e-3},
}
CASES = [(kind, case) for kind, cases in (("bert", BERT), ("nomic_bert", NOMIC)) for case in cases]
LENGTHS = (1, 7, 45, 2, 19, 64, 33, 8, 1, 60)


def _model(kind: str, case: str) -> Any:
    if kind == "bert":
        return hf_models.bert(list(BERT).index(case), **BERT[case])
    return hf_models.nomic_bert(list(NOMIC).index(case), **NOMIC[case])


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_every_state_agrees_with_transformers(
    kind: str, case: str, backend_name: str, tmp_path: Path
) -> None:
    model, tokens = _model(kind, case), hf_models.random_tokens(3, 45)
    with opened(write_gguf(tmp_path / "model.gguf", model), backend_name) as evaluator:
        found = evaluate(evaluator, tokens, chunk=45)
    assert np.abs(found - hf_models.states(model, tokens)).max() < 1e-3


@pytest.fixture(scope="module", params=["bert", "nomic_bert"])
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A model as a file and as transformers has it."""
    model = _model(request.param, "small")
    return write_gguf(tmp_path_factory.mktemp(request.param) / "model.gguf", model), model


@pytest.fixture(scope="module")
def texts() -> list[list[int]]:
    return [hf_models.random_tokens(seed, length) for seed, length in enumerate(LENGTHS)]


@pytest.mark.parametrize("params", WAYS)
def test_ways_to_compute_change_nothing(
    example: tuple[Path, Any], backend_name: str, params: BackendParams
) -> None:
    path, model = example
    tokens = hf_models.random_tokens(0, 45)
    with opened(path, backend_name, params=params) as evaluator:
        found = evaluate(evaluator, tokens, chunk=45)
    assert np.abs(found - hf_models.states(model, tokens)).max() < 1e-3


def test_texts_in_one_batch_do_not_see_each_other(example: tuple[Path, Any], backend_name: str) -> None:
    path, model = example
    one, two = hf_models.random_tokens(1, 20), hf_models.random_tokens(2, 9)
    batch = Batch(
        np.array([*two[:4], *one, *two[4:]], np.int32),
        np.array([*range(4), *range(20), *range(4, 9)], np.int32),
        np.array([7] * 4 + [0] * 20 + [7] * 5, np.int32),
        np.arange(29, dtype=np.int32),
    )
    with opened(path, backend_name) as evaluator:
        found = evaluator.evaluate(batch).copy()
        rows = Batch(batch.tokens, batch.positions, batch.sequences, np.array([0, 4, 28], np.int32))
        chosen = evaluator.evaluate(rows).copy()
    assert np.abs(found[4:24] - hf_models.states(model, one)).max() < 1e-3
    assert np.abs(found[[*range(4), *range(24, 29)]] - hf_models.states(model, two)).max() < 1e-3
    assert np.abs(chosen - found[[0, 4, 28]]).max() < 1e-4


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token", "lasttoken"])
@pytest.mark.parametrize("num_batch", [16, 512])
def test_vectors_are_pooled_as_the_folder_says(
    pooling: str, num_batch: int, texts: list[list[int]], tmp_path: Path
) -> None:
    model = _model("bert", "small")
    path = write_gguf(tmp_path / "model.gguf", model, pooling=pooling)
    with load_model(path, LoadOptions(num_threads=1, num_batch=num_batch)) as loaded:
        found = loaded.embed(texts)
    for text, vector in zip(texts, found, strict=True):
        states = hf_models.states(model, text)
        expected = {"mean_tokens": states.mean(0), "cls_token": states[0], "lasttoken": states[-1]}[pooling]
        assert np.abs(vector - expected).max() < 1e-3


def test_many_texts_equal_one_at_a_time(example: tuple[Path, Any], texts: list[list[int]]) -> None:
    with _loaded(example[0]) as loaded:
        together = loaded.embed(texts * 20)
        alone = [loaded.embed([text])[0] for text in texts]
    for index, vector in enumerate(together):
        np.testing.assert_allclose(vector, alone[index % len(texts)], atol=1e-4)


def test_no_texts_no_vectors(example: tuple[Path, Any]) -> None:
    with _loaded(example[0]) as loaded:
        assert loaded.embed([]) == []


def test_half_precision_stays_near(texts: list[list[int]], tmp_path: Path) -> None:
    model = _model("bert", "wide")
    with _loaded(write_gguf(tmp_path / "model.gguf", model, file_type="F16")) as loaded:
        found = loaded.embed(texts)
    for text, vector in zip(texts, found, strict=True):
        assert _cosine(vector, hf_models.states(model, text).mean(0)) > 0.9999


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("segments", [1, 2])
def test_pairs_are_scored_as_by_transformers(labels: int, segments: int, tmp_path: Path) -> None:
    model = hf_models.bert(4, labels=labels, type_vocab_size=segments)
    words = [[id for id in hf_models.random_tokens(seed, 12) if id not in (CLS, SEP)] for seed in range(6)]
    pairs = [[CLS, *one, SEP, *two, SEP] for one, two in zip(words[::2], words[1::2], strict=True)]
    with _loaded(write_gguf(tmp_path / "model.gguf", model)) as loaded:
        found = loaded.embed(pairs)
    for pair, scores in zip(pairs, found, strict=True):
        first = pair.index(SEP) + 1
        kinds = [0] * first + [segments - 1] * (len(pair) - first)
        assert np.abs(scores - hf_models.scores(model, pair, kinds)).max() < 1e-3


def test_what_an_encoder_cannot_do(example: tuple[Path, Any]) -> None:
    with _loaded(example[0]) as loaded:
        with pytest.raises(MissingCapability, match="does not support completion"):
            list(loaded.generate([1], SamplingParameters()))
        loaded.engine.check()


@pytest.mark.parametrize("wrong", [[[4], []], [[96]], [[-1]], [[5, 2**31]]])
def test_texts_that_are_none(example: tuple[Path, Any], wrong: list[list[int]]) -> None:
    with _loaded(example[0]) as loaded, pytest.raises(InvalidOption):
        loaded.embed(wrong)


def test_a_text_that_is_too_long_is_not_cut(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", _model("bert", "small"))
    for num_ctx, limit in ((None, 64), (20, 20)):
        with load_model(path, LoadOptions(num_threads=1, num_ctx=num_ctx)) as loaded:
            loaded.embed([[5] * limit])
            with pytest.raises(ContextLengthExceeded) as caught:
                loaded.embed([[5], [5] * (limit + 1)])
            assert (caught.value.length, caught.value.limit) == (limit + 1, limit)


@pytest.mark.parametrize("pooling", [Pooling.LAST, Pooling.MEAN, Pooling.CLS])
def test_decoders_give_vectors_too(
    pooling: Pooling, backend_name: str, texts: list[list[int]], tmp_path: Path
) -> None:
    """Of texts shorter and longer than a batch of 16."""
    from tests.models.hf_to_gguf import write_model

    model = hf_models.llama(6)
    write_model(tmp_path / "model.gguf", model)
    with opened(tmp_path / "model.gguf", backend_name, max_batch=16) as evaluator:
        evaluator.compute = evaluator.model.hidden
        embedder = Embedder(evaluator, pooling, limit=64, budget=16, vocabulary=96)
        for _ in range(2):
            found = embedder.embed(texts)
        assert evaluator.cache.can_resume(0, 0)
    for text, vector in zip(texts, found, strict=True):
        states = hf_models.states(model.model, text)
        row = {Pooling.LAST: states[-1], Pooling.CLS: states[0], Pooling.MEAN: states.mean(0)}[pooling]
        assert np.abs(vector - row).max() < 1e-3


SIZES = {
    "block_count": 1,
    "context_length": 64,
    "embedding_length": 8,
    "feed_forward_length": 12,
    "attention.head_count": 2,
    "attention.layer_norm_epsilon": 1e-5,
}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"attention.layer_norm_epsilon": -1.0}, GGUFError, "layer_norm_epsilon' cannot be -1.0"),
        ({"context_length": 0}, GGUFError, "context_length' must be at least 1"),
        ({"expert_count": 8}, UnsupportedModel, "mixture of experts"),
        ({"moe_every_n_layers": 2}, UnsupportedModel, "mixture of experts"),
        ({"attention.causal": True}, UnsupportedModel, "causal attention"),
        ({"hidden_activation": "swish7"}, UnsupportedModel, "activation 'swish7'"),
    ],
)
@pytest.mark.parametrize("kind", [Bert, NomicBert])
def test_files_that_make_no_sense(
    kind: type[Encoder], changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    name = "bert" if kind is Bert else "nomic-bert"
    keys = {f"{name}.{key}": value for key, value in (SIZES | changes).items()}
    with pytest.raises(error, match=message):
        kind(metadata_of({"general.architecture": name} | keys))


def test_a_kind_of_pooling_that_does_not_exist() -> None:
    metadata = metadata_of({"general.architecture": "bert", "bert.pooling_type": 9})
    model = Bert(metadata_of({"general.architecture": "bert"} | {f"bert.{k}": v for k, v in SIZES.items()}))
    with pytest.raises(GGUFError, match=r"'bert\.pooling_type' is 9"):
        pooling_of(metadata, model)


def _loaded(path: Path) -> LoadedModel:
    return load_model(path, LoadOptions(num_threads=1))


def _cosine(one: Any, two: Any) -> float:
    return float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
