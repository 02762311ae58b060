"""Vectors and ranks of an encoder that runs in a process of its own."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.served import Served, serving
from tests.served_models import add_model
from tests.tiny_bert import CONTEXT, HIDDEN, TOKENS, write_tiny_bert

from puna.engine.load import load_model
from puna.engine.options import LoadOptions
from puna.store.library import Library

TEXTS = ["hi", "there", "a b c", "hi"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoders")


@pytest.fixture(scope="module")
def encoders(folder: Path) -> Iterator[Served]:
    """A server with `encodes`, which makes vectors, and `ranks`, which compares texts."""
    library = Library(folder / "models")
    for name, ranks in (("encodes", False), ("ranks", True)):
        add_model(library, name, write_tiny_bert(folder / f"{name}.gguf", ranks=ranks))
    with serving(folder, folder / "models") as server:
        yield server


def ids(*words: str) -> list[int]:
    """[CLS] word [SEP] word [SEP] …, by hand."""
    found = [TOKENS.index("[CLS]")]
    for word in words:
        for part in word.split():
            found += [TOKENS.index("▁" + part[0]), *(TOKENS.index(letter) for letter in part[1:])]
        found.append(TOKENS.index("[SEP]"))
    return found


def test_vectors_of_an_encoder(encoders: Served, folder: Path) -> None:
    """They are those of each text alone in this process."""
    reply = encoders.post("/api/embed", {"model": "encodes", "input": TEXTS}).json
    assert reply["prompt_eval_count"] == sum(len(ids(text)) for text in TEXTS)
    with load_model(folder / "encodes.gguf", LoadOptions(num_threads=1)) as model:
        alone = [model.embed([ids(text)])[0].tolist() for text in TEXTS]
    for vector, expected in zip(reply["embeddings"], alone, strict=True):
        length = math.hypot(*expected)
        assert vector == pytest.approx([number / length for number in expected], abs=1e-5)
    old = encoders.post("/api/embeddings", {"model": "encodes", "prompt": TEXTS[1]}).json["embedding"]
    assert len(old) == HIDDEN
    assert old == pytest.approx(alone[1], abs=1e-5)


def test_a_text_that_an_encoder_cannot_hold(encoders: Served) -> None:
    long = "a" * CONTEXT
    body: dict[str, Any] = {"model": "encodes", "input": ["hi", long]}
    refused = encoders.post("/api/embed", {**body, "truncate": False})
    assert refused.status == 400
    assert refused.error.startswith(
        f"the input length exceeds the context length: input[1] has {CONTEXT + 2} tokens"
    )
    reply = encoders.post("/api/embed", {**body, "truncate": True}).json
    assert (reply["prompt_eval_count"], reply["dropped_tokens"]) == (len(ids("hi")) + CONTEXT, 2)
    # What is left ends as every text does.
    whole = encoders.post("/api/embed", {"model": "encodes", "input": [long[: CONTEXT - 2]]}).json
    assert reply["embeddings"][1] == pytest.approx(whole["embeddings"][0], abs=1e-5)


def test_ranks(encoders: Served, folder: Path) -> None:
    body = {"model": "ranks", "query": "hi", "documents": TEXTS}
    results = encoders.post("/api/rerank", body).json["results"]
    with load_model(folder / "ranks.gguf", LoadOptions(num_threads=1)) as model:
        scores = [float(model.embed([ids("hi", text)])[0][0]) for text in TEXTS]
    assert [result["index"] for result in results[:1]] == [scores.index(max(scores))]
    for result in results:
        assert result["relevance_score"] == pytest.approx(scores[result["index"]], abs=1e-5)


def test_an_encoder_does_not_answer(encoders: Served) -> None:
    reply = encoders.post("/api/generate", {"model": "encodes", "prompt": "hi"})
    assert (reply.status, reply.error) == (400, '"encodes" does not support generate')
