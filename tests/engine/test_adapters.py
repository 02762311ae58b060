"""LoRA adapters that a model is loaded with, against transformers, llama.cpp and merged weights."""

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests import lora
from tests.engine.driving import loaded, request, run
from tests.models import hf_models
from tests.models.agreement import agrees
from tests.models.hf_to_gguf import write_model
from tests.tiny_bert import write_tiny_bert
from tests.tiny_gemma import write_tiny_gemma
from tests.tiny_llama import BOS, VOCABULARY, write_tiny_llama

from puna.convert.lora import convert_adapter
from puna.engine.adapters import throughout
from puna.engine.evaluator import Batch
from puna.engine.load import LoadedModel, load_model, plan_model
from puna.engine.options import LoadOptions
from puna.errors import GGUFError, PunaError, UnsupportedModel, WeightError
from puna.gguf import GGMLType, GGUFFile, GGUFWriter
from puna.ml.backends.ggml.context import GGMLContext

Logits = NDArray[np.float32]
TOKENS = [BOS, *np.random.default_rng(5).integers(2, VOCABULARY, 44).tolist()]


@pytest.fixture(params=["reference", "ggml"])
def backend_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def logits(model: LoadedModel, tokens: list[int], *, chunk: int = 100, scale: float = 1.0) -> Logits:
    """Of every position, with the adapters that the model was loaded with."""
    adapters = [(adapter, scale) for adapter in model._adapters.all]
    found = []
    for start in range(0, len(tokens), chunk):
        part = tokens[start : start + chunk]
        batch = Batch.of(part, start, all_outputs=True)
        with_adapters = Batch(
            batch.tokens,
            batch.positions,
            batch.sequences,
            batch.outputs,
            adapters=throughout(len(part), adapters),
        )
        found.append(model.evaluator.evaluate(with_adapters).copy())
    model.evaluator.cache.remove(0, 0)
    return np.concatenate(found)


# -- transformers ------------------------------------------------------------------------------------------

ATTENTION = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
NETWORK = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
MODELS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "llama": (lambda: hf_models.llama(1), ATTENTION + NETWORK),
    "qwen2": (lambda: hf_models.qwen("qwen2", 1), ATTENTION + NETWORK),
    "qwen3": (lambda: hf_models.qwen("qwen3", 1), ["self_attn.v_proj", "mlp.up_proj"]),
    "gemma3": (lambda: hf_models.gemma3(1), ATTENTION + NETWORK),
}


@pytest.mark.transformers
@pytest.mark.parametrize("case", MODELS)
def test_logits_are_those_of_transformers(case: str, backend_name: str, tmp_path: Path) -> None:
    make, modules = MODELS[case]
    model = make()
    base = tmp_path / "base.gguf"
    write_model(base, model)
    adapters = [hf_adapter(tmp_path / str(seed), base, model, modules, seed) for seed in range(2)]
    tokens = hf_models.random_tokens(9, 45)
    plain = hf_models.logits(model, tokens)
    for adapter in adapters:
        merge(model, adapter, 1.0)
    expected = hf_models.logits(model, tokens)
    assert np.abs(expected - plain).max() > 1
    paths = tuple(str(adapter / "adapter.gguf") for adapter in adapters)
    with loaded(base, backend_name, adapters=paths) as found:
        for chunk in (45, 7, 1):
            agrees(logits(found, tokens, chunk=chunk), expected)


def hf_adapter(folder: Path, base: Path, model: Any, modules: list[str], seed: int) -> Path:
    """An adapter in PEFT's form, and what is made of it, for some modules of every layer."""
    from safetensors.numpy import save_file

    random = np.random.default_rng(seed)
    folder.mkdir()
    halves = {}
    for index, layer in enumerate(model.model.layers):
        for name in modules:
            rows, columns = layer.get_submodule(name).weight.shape
            stem = f"base_model.model.model.layers.{index}.{name}"
            halves[f"{stem}.lora_A.weight"] = random.standard_normal((4, columns)) / columns**0.5
            halves[f"{stem}.lora_B.weight"] = random.standard_normal((rows, 4)) / 2
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 6}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(
        {name: half.astype(np.float32) for name, half in halves.items()},
        folder / "adapter_model.safetensors",
    )
    with GGUFFile.open(base) as file:
        files = {path.name: path for path in folder.iterdir()}
        convert_adapter(files, file.metadata, folder / "adapter.gguf", lambda step: None)
    return folder


def merge(model: Any, adapter: Path, scale: float) -> None:
    """Adds scale · alpha / r · B A to the weights of transformers."""
    from safetensors.torch import load_file

    halves = load_file(adapter / "adapter_model.safetensors")
    for name in [name for name in halves if ".lora_A." in name]:
        second = halves[name.replace("lora_A", "lora_B")]
        path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        model.get_submodule(path).weight.data += scale * 6 / 4 * second @ halves[name]


# -- merged weights ----------------------------------------------------------------------------------------

EVERY = ["token_embd.weight", "output.weight", *(f"blk.{n}.attn_q.weight" for n in range(2))]
Write = Callable[[Path], object]
FAMILIES: dict[str, Write] = {
    "mixtral": lambda path: write_model(path, hf_models.mixtral(1)),
    "qwen2moe": lambda path: write_model(path, hf_models.qwen("qwen2moe", 1)),
    "phi3": lambda path: write_model(path, hf_models.phi3(1)),
    "gemma2": lambda path: write_model(path, hf_models.gemma2(1)),
    "gemma3n": lambda path: write_model(path, hf_models.gemma3n(1)),
    "olmo2": lambda path: write_model(path, hf_models.olmo("Olmo2", 1)),
    "gpt-oss": lambda path: write_model(path, hf_models.gpt_oss(1)),
    "llama4": lambda path: write_model(path, hf_models.llama4(1)),
    "deepseek2": lambda path: write_model(path, hf_models.deepseek("V2", 1)),
}
# Matrices that no adapter can be applied to.
APART = (".bias", "laurel_r.weight", "_inp_shexp.weight", "attn_k_b.weight", "attn_v_b.weight")


# Of these the model makes no use in later layers.
IN_FIRST = {"gemma3n": ("attn_k.weight", "attn_v.weight")}


@pytest.mark.transformers
@pytest.mark.parametrize("case", FAMILIES)
def test_fused_matrices_and_experts(case: str, backend_name: str, tmp_path: Path) -> None:
    base = tmp_path / "base.gguf"
    FAMILIES[case](base)
    names = [
        name
        for name, weight in lora.tensors(base).items()
        if name.startswith("blk.") and weight.ndim > 1 and not name.endswith(APART)
        if name.startswith("blk.0.") or not name.endswith(IN_FIRST.get(case, ()))
    ]
    same_as_merged(base, names, hf_models.random_tokens(9, 30), backend_name)


@pytest.mark.parametrize(
    "names", [EVERY, ["token_embd.weight"], ["output.weight"], ["blk.1.ffn_down.weight"]]
)
def test_the_table_of_tokens_and_the_head(names: list[str], backend_name: str, tmp_path: Path) -> None:
    same_as_merged(write_tiny_llama(tmp_path / "base.gguf"), names, TOKENS, backend_name)


def same_as_merged(base: Path, names: list[str], tokens: list[int], backend: str) -> None:
    adapter = lora.write_adapter(base.with_name("adapter.gguf"), base, names, seed=1)
    merged = lora.write_merged(base.with_name("merged.gguf"), base, [(adapter, 0.5)])
    with loaded(merged, backend) as model:
        expected = logits(model, tokens)
    with loaded(base, backend) as model:
        assert np.abs(logits(model, tokens) - expected).max() > 0.1
    with loaded(base, backend, adapters=(str(adapter),)) as model:
        for chunk in (len(tokens), 7):
            agrees(logits(model, tokens, chunk=chunk, scale=0.5), expected)


@pytest.mark.transformers
def test_a_table_that_is_the_head_too_is_adapted_where_it_is_looked_up(tmp_path: Path) -> None:
    """So does PEFT."""
    import torch

    base, model = tmp_path / "base.gguf", hf_models.gemma3(1)
    write_model(base, model)
    adapter = lora.write_adapter(tmp_path / "adapter.gguf", base, ["token_embd.weight"])
    halves = lora.tensors(adapter)
    change = halves["token_embd.weight.lora_a"] @ halves["token_embd.weight.lora_b"].T * (6 / 4)
    table = model.get_input_embeddings()
    model.lm_head.weight = torch.nn.Parameter(table.weight.detach().clone())
    table.weight.data += torch.from_numpy(change)
    tokens = hf_models.random_tokens(9, 30)
    with loaded(base, adapters=(str(adapter),)) as found:
        agrees(logits(found, tokens), hf_models.logits(model, tokens))


def test_halves_of_half_precision(tmp_path: Path) -> None:
    base = write_tiny_llama(tmp_path / "base.gguf")
    matrices = lora.pairs(base)
    wide = lora.write(tmp_path / "wide.gguf", matrices)
    narrow = lora.write(tmp_path / "narrow.gguf", matrices, type_=GGMLType.F16)
    found = []
    for path in (wide, narrow):
        with loaded(base, adapters=(str(path),)) as model:
            found.append(logits(model, TOKENS))
    apart = np.abs(found[0] - found[1]).max()
    assert 0 < apart < 0.05


def test_without_alpha_the_factor_is_one(tmp_path: Path) -> None:
    base = write_tiny_llama(tmp_path / "base.gguf")
    matrices = lora.pairs(base)
    keys = {key: value for key, value in lora.KEYS.items() if key != "adapter.lora.alpha"}
    none = lora.write(tmp_path / "none.gguf", matrices, keys)
    four = lora.write(tmp_path / "four.gguf", matrices, lora.KEYS | {"adapter.lora.alpha": float(lora.RANK)})
    found = []
    for path in (none, four):
        with loaded(base, adapters=(str(path),)) as model:
            found.append(logits(model, TOKENS))
    np.testing.assert_array_equal(found[0], found[1])


def test_vectors_of_texts(tmp_path: Path) -> None:
    """Of an encoder, and of a decoder."""
    for write in (write_tiny_bert, write_tiny_gemma):
        base = write(tmp_path / f"{write.__name__}.gguf")
        adapter = lora.write_adapter(base.with_suffix(".lora"), base)
        merged = lora.write_merged(base.with_suffix(".merged"), base, [(adapter, 1.0)])
        texts = [[2, 5, 6, 7, 3], [2, *range(5, 20), 3], [2, 9, 3]]
        with loaded(merged) as model:
            expected = model.embed(texts)
        with loaded(base, adapters=(str(adapter),)) as model:
            np.testing.assert_allclose(model.embed(texts), expected, atol=1e-4)
            assert np.abs(model.embed(texts, ())[0] - expected[0]).max() > 0.01


# -- llama.cpp ---------------------------------------------------------------------------------------------


def test_llama_cpp_reads_the_same_file(tmp_path: Path) -> None:
    """Its log-probabilities of the likeliest tokens are the same, with two adapters and scales."""
    xllamacpp = pytest.importorskip("xllamacpp")
    base = write_tiny_llama(tmp_path / "base.gguf")
    given = [(lora.write_adapter(tmp_path / "a.gguf", base, seed=1), 1.0)]
    given.append((lora.write_adapter(tmp_path / "b.gguf", base, EVERY, seed=2, rank=7), -0.5))
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.n_parallel = str(base), 256, 1
    parameters.warmup, parameters.verbosity, parameters.port = False, -1, 0
    infos = []
    for path, scale in given:
        infos.append(xllamacpp.CommonAdapterLoraInfo())
        infos[-1].path, infos[-1].scale = str(path), scale
    parameters.lora_adapters = infos
    server = xllamacpp.Server(parameters)
    asked = {"prompt": TOKENS, "n_predict": 1, "n_probs": 5, "temperature": 0.0, "cache_prompt": False}
    sent = urllib.request.Request(
        server.listening_address + "/completion",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(sent) as response:
        told = json.load(response)["completion_probabilities"][0]["top_logprobs"]
    with loaded(base, adapters=tuple(str(path) for path, _ in given)) as model:
        scales = [(model._adapters[str(path)], scale) for path, scale in given]
        batch = Batch.of(TOKENS, 0)
        adapted = Batch(
            batch.tokens,
            batch.positions,
            batch.sequences,
            batch.outputs,
            adapters=throughout(len(TOKENS), scales),
        )
        last = model.evaluator.evaluate(adapted)[0].astype(np.float64)
    logprobs = last - last.max() - np.log(np.exp(last - last.max()).sum())
    for one in told:
        assert abs(logprobs[one["id"]] - one["logprob"]) < 0.02


# -- loading -----------------------------------------------------------------------------------------------


def test_an_answer_is_that_of_merged_weights(tmp_path: Path) -> None:
    base = write_tiny_llama(tmp_path / "base.gguf")
    adapter = lora.write_adapter(tmp_path / "adapter.gguf", base)
    merged = lora.write_merged(tmp_path / "merged.gguf", base, [(adapter, 1.0)])
    texts = []
    for path, adapters in ((merged, None), (base, (str(adapter),)), (base, None)):
        with loaded(path, adapters=adapters) as model:
            [answer] = run(model.engine, request(TOKENS))
            texts.append(answer.text)
    assert texts[0] == texts[1] != texts[2]


def test_memory_is_planned_and_given_back(tmp_path: Path) -> None:
    base = write_tiny_llama(tmp_path / "base.gguf")
    adapter = lora.write_adapter(tmp_path / "adapter.gguf", base, rank=16)
    options = LoadOptions(num_threads=1)
    with load_model(base, options) as model:
        without = model.memory
    with_adapter = LoadOptions(num_threads=1, adapters=(str(adapter),))
    with load_model(base, with_adapter) as model:
        memory = model.memory
        size = sum(half.nbytes for half in lora.tensors(adapter).values())
        assert sum(m.size for m in memory.cpu.weights) == sum(m.size for m in without.cpu.weights) + size
        model._adapters.close()
        assert model.memory.cpu.weights == without.cpu.weights
    planned, _, _ = plan_model(base, with_adapter)
    assert [entry.size for entry in planned.cpu.weights] == [entry.size for entry in memory.cpu.weights]
    assert planned.cpu.graph.size == memory.cpu.graph.size > without.cpu.graph.size


def test_a_plain_graph_is_as_it_was(tmp_path: Path) -> None:
    """Without adapters in a batch nothing is computed for those in memory."""
    base = write_tiny_llama(tmp_path / "base.gguf")
    adapter = lora.write_adapter(tmp_path / "adapter.gguf", base)
    counts, results = [], []
    for adapters in (None, (str(adapter),)):
        with loaded(base, adapters=adapters) as model:
            results.append(model.evaluator.evaluate(Batch.of(TOKENS, 0)).copy())
            [traced] = model.evaluator._traced.values()
            assert isinstance(traced.context, GGMLContext)
            counts.append(traced.context.backend.library.ggml_graph_n_nodes(traced.context.graph.cgraph))
    assert counts[0] == counts[1]
    np.testing.assert_array_equal(results[0], results[1])


# -- files of strangers ------------------------------------------------------------------------------------

NAME = "blk.0.attn_q.weight"


def both(name: str, rows: int = 64, rank: int = 4, columns: int = 64) -> lora.Matrices:
    """A and B for a tensor."""
    shapes = {"a": (rank, columns), "b": (rows, rank)}
    return {f"{name}.lora_{half}": np.zeros(shape, np.float32) for half, shape in shapes.items()}


Change = Callable[[lora.Matrices, dict[str, Any]], object]
BAD: dict[str, tuple[Change, type[PunaError], str]] = {
    "a model": (
        lambda t, k: k.update({"general.type": "model"}),
        UnsupportedModel,
        "general.type is 'model'",
    ),
    "no type": (lambda t, k: k.pop("general.type"), UnsupportedModel, "is no adapter"),
    "a control vector": (
        lambda t, k: t.update({"direction.536870912": np.zeros(64, np.float32)}),
        UnsupportedModel,
        "'direction.536870912' is no matrix of a low-rank pair",
    ),
    "a layer before the first": (
        lambda t, k: t.update(both("blk.-1.attn_q.weight")),
        WeightError,
        "no tensor 'blk.-1.attn_q.weight' that an adapter",
    ),
    "a layer too many": (
        lambda t, k: t.update(both("blk.9.attn_q.weight")),
        WeightError,
        "no tensor 'blk.9.attn_q.weight' that an adapter",
    ),
    "a vector": (
        lambda t, k: t.update(both("output_norm.weight")),
        WeightError,
        "no tensor 'output_norm.weight' that an adapter",
    ),
    "a whole norm": (
        lambda t, k: t.update({"blk.0.attn_norm.weight": np.ones(64, np.float32)}),
        UnsupportedModel,
        "'blk.0.attn_norm.weight' is no matrix of a low-rank pair",
    ),
    "one half": (lambda t, k: t.pop(f"{NAME}.lora_b"), WeightError, "one of its two matrices only"),
    "nothing": (lambda t, k: t.clear(), WeightError, "has no tensors"),
    "other ranks": (
        lambda t, k: t.update({f"{NAME}.lora_b": np.zeros((64, 5), np.float32)}),
        WeightError,
        r"does not fit the model: \(4, 64\) and \(64, 5\) for \(64, 64\)",
    ),
    "the other way round": (
        lambda t, k: t.update({f"{NAME}.lora_{half}": t[f"{NAME}.lora_{half}"].T for half in "ab"}),
        WeightError,
        "does not fit the model",
    ),
    "other columns": (
        lambda t, k: t.update({f"{NAME}.lora_a": np.zeros((4, 63), np.float32)}),
        WeightError,
        "does not fit the model",
    ),
    "more axes": (
        lambda t, k: t.update({f"{NAME}.lora_{half}": t[f"{NAME}.lora_{half}"][None] for half in "ab"}),
        WeightError,
        "does not fit the model",
    ),
    "rank 0": (lambda t, k: t.update(both(NAME, rank=0)), WeightError, "does not fit the model"),
    "a rank beyond reason": (
        lambda t, k: t.update(both(NAME, rank=20000)),
        WeightError,
        "does not fit the model",
    ),
    "no number": (
        lambda t, k: k.update({"adapter.lora.alpha": float("nan")}),
        GGUFError,
        "'adapter.lora.alpha' must be a number of at most 1,000,000, not nan",
    ),
    "no end": (
        lambda t, k: k.update({"adapter.lora.alpha": float("inf")}),
        GGUFError,
        "'adapter.lora.alpha' must be a number of at most 1,000,000, not inf",
    ),
    "an element that is no number": (
        lambda t, k: t[f"{NAME}.lora_b"].__setitem__((3, 1), np.nan),
        WeightError,
        "lora_b' has an element that is not finite",
    ),
    "a text": (
        lambda t, k: k.update({"adapter.lora.alpha": "16"}),
        GGUFError,
        "'adapter.lora.alpha' must be a number of at most 1,000,000, not 16",
    ),
    "another kind": (lambda t, k: k.update({"adapter.type": "ia3"}), UnsupportedModel, "of type 'ia3'"),
    "woken by tokens": (
        lambda t, k: k.update({"adapter.alora.invocation_tokens": [1, 2]}),
        UnsupportedModel,
        "aLoRA",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    change, kind, message = BAD[case]
    base = write_tiny_llama(tmp_path / "base.gguf")
    matrices, keys = lora.pairs(base), dict(lora.KEYS)
    change(matrices, keys)
    adapter = lora.write(tmp_path / "adapter.gguf", matrices, keys)
    options = LoadOptions(num_threads=1, adapters=(str(adapter),))
    with pytest.raises(kind, match=message) as caught:
        load_model(base, options)
    assert "\n" not in str(caught.value)
    if "element" not in case:
        # A plan reads no weights.
        with pytest.raises(kind, match=message):
            plan_model(base, options)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    base = write_tiny_llama(tmp_path / "base.gguf")
    adapter = lora.write(tmp_path / "adapter.gguf", lora.pairs(base), architecture="qwen2")
    with pytest.raises(UnsupportedModel, match="an adapter for 'qwen2'; the model is 'llama'"):
        load_model(base, LoadOptions(adapters=(str(adapter),)))


def test_a_type_that_no_converter_writes_is_refused(tmp_path: Path) -> None:
    base, adapter = write_tiny_llama(tmp_path / "base.gguf"), tmp_path / "adapter.gguf"
    with GGUFWriter(adapter) as writer:
        writer.add("general.architecture", "llama")
        for key, value in lora.KEYS.items():
            writer.add(key, value)
        for name, matrix in both(NAME).items():
            writer.add_tensor(name, GGMLType.F64, matrix.shape, matrix.astype(np.float64).tobytes())
    with pytest.raises(UnsupportedModel, match=r"lora_a' is of type F64, not F32, F16, BF16, Q8_0"):
        load_model(base, LoadOptions(adapters=(str(adapter),)))


def test_a_file_of_any_length_is_refused_or_whole(tmp_path: Path) -> None:
    base = write_tiny_llama(tmp_path / "base.gguf")
    adapter = lora.write(tmp_path / "adapter.gguf", both(NAME))
    content = adapter.read_bytes()
    for length in range(0, len(content), 37):
        adapter.write_bytes(content[:length])
        with pytest.raises(GGUFError):
            load_model(base, LoadOptions(num_threads=1, adapters=(str(adapter),)))
