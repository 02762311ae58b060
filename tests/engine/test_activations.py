"""What matrices are multiplied with, against NumPy, the reference backend, llama.cpp, and each other."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from tests.models import hf_models
from tests.models.hf_to_gguf import write_model
from tests.quantize import oracle
from tests.tiny_bert import write_tiny_bert
from tests.tiny_llama import BLOCKS, HIDDEN, VOCABULARY, WIDTH

from puna.engine.activations import Seen
from puna.engine.load import load_model
from puna.engine.options import LoadOptions
from puna.gguf import GGUFFile
from puna.quantize.importance import read_importance

TEXTS = [[random.Random(seed).randrange(3, VOCABULARY) for _ in range(40)] for seed in range(3)]
MATRICES = {
    **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up"), HIDDEN),
    "ffn_down": WIDTH,
}


def summed(path: Path, texts: list[list[int]], *, backend: str = "ggml", most: int = 64) -> dict[str, Seen]:
    options = LoadOptions(num_ctx=64, num_threads=1, num_parallel=1, num_batch=most)
    with load_model(path, options, backend=backend) as model, model.activations() as activations:
        for text in texts:
            activations.add(text)
        return activations.seen


def agree(found: dict[str, Seen], expected: dict[str, Seen], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, seen in found.items():
        other = expected[name]
        assert seen.counts.tolist() == other.counts.tolist(), name
        np.testing.assert_allclose(seen.squares, other.squares, tolerance, tolerance * other.squares.mean())


def test_every_matrix_of_every_layer_is_watched(tiny_path: Path) -> None:
    found = summed(tiny_path, TEXTS)
    assert {name: seen.squares.shape for name, seen in found.items()} == {
        f"blk.{block}.{name}.weight": (1, columns)
        for block in range(BLOCKS)
        for name, columns in MATRICES.items()
    }
    assert {seen.counts.tolist()[0] for seen in found.values()} == {120}


def test_the_first_matrices_meet_the_normalised_embeddings(tiny_path: Path) -> None:
    found = summed(tiny_path, TEXTS)
    with GGUFFile.open(tiny_path) as file:
        table = np.frombuffer(file.tensor_bytes("token_embd.weight"), np.float32).reshape(-1, HIDDEN)
    states = table[np.array(TEXTS).ravel()].astype(np.float64)
    normalised = states / np.sqrt((states**2).mean(1, keepdims=True) + 1e-5)
    for name in ("attn_q", "attn_k", "attn_v"):
        np.testing.assert_allclose(
            found[f"blk.0.{name}.weight"].squares[0], (normalised**2).sum(0), rtol=1e-5
        )


def test_the_reference_backend_sees_the_same(tiny_path: Path) -> None:
    agree(summed(tiny_path, TEXTS), summed(tiny_path, TEXTS, backend="reference"), 2e-3)


def test_parts_of_a_text_bring_what_the_whole_does(tiny_path: Path) -> None:
    agree(summed(tiny_path, TEXTS, most=16), summed(tiny_path, TEXTS), 2e-3)


def test_a_model_answers_as_before_when_nobody_watches_any_more(tiny_path: Path) -> None:
    with load_model(tiny_path, LoadOptions(num_ctx=64, num_threads=1)) as model:
        before = model.embed([TEXTS[0]])[0].tolist()
        with model.activations() as activations:
            activations.add(TEXTS[1])
            count = len(activations.seen)
        assert model.embed([TEXTS[0]])[0].tolist() == before
        assert len(activations.seen) == count


def test_an_encoders_text_is_read_whole(tmp_path: Path) -> None:
    path = write_tiny_bert(tmp_path / "bert.gguf")
    with load_model(path, LoadOptions(num_ctx=32, num_threads=1)) as model, model.activations() as seen:
        seen.add([1, 2, 3, 4, 5])
        names = {name.split(".")[2] for name in seen.seen}
    assert names == {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"}


@pytest.mark.transformers
def test_experts_see_what_the_router_sends_them(tmp_path: Path) -> None:
    write_model(tmp_path / "moe.gguf", hf_models.mixtral(0, num_experts_per_tok=2))
    texts = [[random.Random(seed).randrange(100) for _ in range(30)] for seed in range(2)]
    found = summed(tmp_path / "moe.gguf", texts)
    for name in [name for name in found if "ffn_gate_exps" in name]:
        router, down = (found[name.replace("gate_exps", part)] for part in ("gate_inp", "down_exps"))
        gate, up = found[name], found[name.replace("gate_exps", "up_exps")]
        # Each token is sent to two of them.
        np.testing.assert_allclose(gate.squares.sum(0), 2 * router.squares[0], rtol=1e-6)
        assert gate.counts.sum() == 2 * router.counts[0] == 120
        assert gate.counts.tolist() == up.counts.tolist() == down.counts.tolist()
        assert gate.squares.tolist() == up.squares.tolist()
        assert ((down.squares.sum(1) > 0) == (down.counts > 0)).all()
    agree(found, summed(tmp_path / "moe.gguf", texts, backend="reference"), 5e-3)


@pytest.mark.skipif(oracle.tool("llama-imatrix") is None, reason="bench/build_llama_cpp.py builds it")
def test_llama_cpp_sees_the_same(tiny_path: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(json.dumps(TEXTS))
    with load_model(tiny_path) as model:
        tokenizer = model.tokenizer
        tokens = tokenizer.encode(text.read_text())
        first = [tokenizer.bos_id or 0] if tokenizer.add_bos else []
    pieces = [first + tokens[at + len(first) : at + 64] for at in range(0, len(tokens) - 63, 64)]
    given = ("-c", "64", "-b", "64", "-t", "1", "--no-ppl", "-o", tmp_path / "theirs.gguf")
    oracle.run("llama-imatrix", "-m", tiny_path, "-f", text, *given)
    theirs = read_importance(tmp_path / "theirs.gguf").sums
    expected = {
        name: Seen(np.array(sums.squares).reshape(len(sums.counts), -1), np.array(sums.counts))
        for name, sums in theirs.items()
    }
    agree(summed(tiny_path, pieces), expected, 5e-3)
