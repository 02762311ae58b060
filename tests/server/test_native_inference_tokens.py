"""Tokens, vectors and ranks over a real socket."""

import math
from typing import Any

import pytest
from tests.served import Served


@pytest.mark.parametrize("field", ["prompt", "content"])
def test_tokens(served: Served, field: str) -> None:
    reply = served.post("/api/tokenize", {"model": "SAID", field: "a one"})
    assert {*reply.json} == {"model", "tokens", "count"}
    assert (reply.json["model"], reply.json["count"]) == ("SAID", 3)
    back = served.post("/api/detokenize", {"model": "said", "tokens": reply.json["tokens"]})
    assert back.json == {"model": "said", "content": "a one", "text": "a one"}


def test_control_tokens_are_read_where_they_are_to_be(served: Served) -> None:
    body = {"model": "said", "content": "<|go|>"}
    assert served.post("/api/tokenize", body).json["count"] == len("<|go|>")
    tokens = served.post("/api/tokenize", {**body, "parse_special": True}).json["tokens"]
    assert len(tokens) == 1
    asked = {"model": "said", "tokens": tokens}
    assert served.post("/api/detokenize", asked).json["content"] == ""
    assert served.post("/api/detokenize", {**asked, "render_special": True}).json["content"] == "<|go|>"


def test_nothing_is_no_token(served: Served) -> None:
    assert served.post("/api/tokenize", {"model": "said"}).json["tokens"] == []
    assert served.post("/api/detokenize", {"model": "said"}).json["content"] == ""


@pytest.mark.parametrize("tokens", [[-1], [263], [2**63], [1.5], [True], ["a"], [None], [[1]]])
def test_what_is_no_token(served: Served, tokens: list[Any]) -> None:
    reply = served.post("/api/detokenize", {"model": "said", "tokens": tokens})
    assert reply.status == 400
    assert reply.error.startswith("tokens[0] must be a token id from 0 to 262")


def test_tokens_need_no_loaded_model(served: Served) -> None:
    served.post("/api/generate", {"model": "fills", "keep_alive": 0})
    served.post("/api/tokenize", {"model": "fills", "content": "a"})
    assert "fills:latest" not in {model["name"] for model in served.get("/api/ps").json["models"]}


def test_vectors(served: Served) -> None:
    reply = served.post("/api/embed", {"model": "TINY", "input": ["hi", "there", "hi"]})
    assert {*reply.json} == {*("model", "embeddings", "total_duration", "load_duration", "prompt_eval_count")}
    assert (reply.json["model"], reply.json["prompt_eval_count"]) == ("TINY", 9)
    first, second, third = reply.json["embeddings"]
    assert len(first) == len(second) == 64
    assert first == pytest.approx(third, abs=1e-5)
    assert first != pytest.approx(second, abs=1e-3)
    for vector in (first, second):
        assert math.hypot(*vector) == pytest.approx(1)
    one = served.post("/api/embed", {"model": "tiny", "input": "hi", "dimensions": 16}).json["embeddings"]
    assert math.hypot(*one[0]) == pytest.approx(1)
    cut = math.hypot(*first[:16])
    assert one[0] == pytest.approx([number / cut for number in first[:16]], abs=1e-5)
    # The older route does not normalise.
    old = served.post("/api/embeddings", {"model": "tiny", "prompt": "hi"}).json["embedding"]
    length = math.hypot(*old)
    assert length != pytest.approx(1)
    assert [number / length for number in old] == pytest.approx(first, abs=1e-5)


def test_nothing_to_embed_loads_the_model(served: Served) -> None:
    empty: list[dict[str, Any]] = [{}, {"input": None}, {"input": ""}, {"input": []}]
    for given in empty:
        reply = served.post("/api/embed", {"model": "TINY", **given})
        assert reply.json == {"model": "TINY", "embeddings": []}
    assert served.post("/api/embeddings", {"model": "tiny"}).json == {"embedding": []}
    assert "tiny:latest" in {model["name"] for model in served.get("/api/ps").json["models"]}


def test_what_is_too_long_to_embed(served: Served) -> None:
    body = {"model": "tiny", "input": ["hi", "x" * 100], "options": {"num_ctx": 64}}
    refused = served.post("/api/embed", body)
    assert refused.status == 400
    assert refused.error.startswith("the input length exceeds the context length: input[1] has 100 tokens")
    reply = served.post("/api/embed", {**body, "truncate": True}).json
    assert (reply["prompt_eval_count"], reply["dropped_tokens"]) == (2 + 64, 36)


def test_too_many_inputs(served: Served) -> None:
    reply = served.post("/api/embed", {"model": "tiny", "input": ["a"] * 3000})
    assert (reply.status, reply.error) == (400, "there are 3000 inputs; at most 2048 are allowed")
