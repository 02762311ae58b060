"""What the inference routes refuse: status and text, before anything is computed."""

import json
import re
from typing import Any

import pytest
from tests.served import Served

HI = [{"role": "user", "content": "hi"}]
NOW = {"type": "function", "function": {"name": "now"}}
LIBRARY = "registry.ollama.ai/library"
# Nothing of this machine, and no address.
SECRETS = re.compile(r"0x[0-9a-f]{6,}|/home/|/root|/tmp|Traceback|\.py\b")


@pytest.fixture(autouse=True)
def alive(served: Served) -> Any:
    """The server is the same afterwards, and still answers."""
    yield
    body = {"model": "said", "prompt": "hi", "stream": False}
    assert served.post("/api/generate", body).json["response"] == "onetwothreefour"


def refused(served: Served, path: str, body: object) -> tuple[int, str]:
    reply = served.post(path, body)
    assert reply.headers["content-type"].startswith("application/json")
    assert not SECRETS.search(reply.error)
    assert re.fullmatch(r"[A-Za-z0-9._-]+", reply.headers["x-request-id"])
    return reply.status, reply.error


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/api/embed", "/api/embeddings"])
@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"", 400, "missing request body"),
        (b"{", 400, "invalid JSON"),
        (b"[]", 400, "invalid request"),
        (b'{"model": 3}', 400, "invalid request"),
        (b'{"model": "said", "options": []}', 400, "invalid request"),
        (b'{"model": "said", "keep_alive": "60"}', 400, 'time: missing unit in duration "60"'),
        (b'{"model": "said", "keep_alive": true}', 400, "Unsupported type: 'bool'"),
        (b'{"model": "a/../b"}', 400, "invalid model name"),
        (b'{"model": "said:cloud"}', 403, "ollama cloud is disabled"),
        (b'{"model": "said:local:cloud"}', 400, "use either :local or :cloud, not both"),
    ],
)
def test_bodies(served: Served, path: str, body: bytes, status: int, text: str) -> None:
    found, error = refused(served, path, body)
    assert (found, error[: len(text)]) == (status, text)


@pytest.mark.parametrize(
    ("path", "model", "status", "text"),
    [
        ("/api/generate", "", 404, "model '' not found"),
        ("/api/generate", "Nix", 404, "model 'Nix' not found"),
        ("/api/chat", "", 400, "model is required"),
        ("/api/chat", " ", 400, "model is required"),
        ("/api/chat", "nix:7b", 404, "model 'nix:7b' not found"),
        ("/api/embed", "", 404, "model '' not found"),
        ("/api/embed", "nix", 404, 'model "nix" not found, try pulling it first'),
        ("/api/embeddings", "", 400, "model is required"),
        ("/api/embeddings", "nix", 404, 'model "nix" not found, try pulling it first'),
        ("/api/tokenize", "", 400, "model is required"),
        ("/api/tokenize", "nix", 404, "model 'nix' not found"),
        ("/api/detokenize", "nix", 404, "model 'nix' not found"),
        ("/api/rerank", "nix", 404, "model 'nix' not found"),
        ("/api/rerank", "said", 400, '"said" does not support rerank'),
    ],
)
@pytest.mark.parametrize("more", [{}, {"prompt": "a", "input": "a", "messages": HI}], ids=["bare", "full"])
def test_models(served: Served, path: str, model: str, status: int, text: str, more: dict[str, Any]) -> None:
    assert refused(served, path, {"model": model, **more}) == (status, text)


RAW = "raw mode does not support template, system, or context"
TOO_MANY = [{"role": "user", "content": ""}] * 20_000


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("generate", {"top_logprobs": 21}, "top_logprobs must be between 0 and 20"),
        ("chat", {"model": "nix", "top_logprobs": -1}, "top_logprobs must be between 0 and 20"),
        ("generate", {"raw": True, "system": "s"}, RAW),
        (
            "generate",
            {"raw": True, "template": "t"},
            RAW,
        ),
        ("generate", {"raw": True, "context": [1]}, RAW),
        ("generate", {"model": "vectors"}, '"vectors" does not support generate'),
        ("chat", {"model": "vectors"}, '"vectors" does not support chat'),
        ("chat", {"model": "vectors", "messages": []}, '"vectors" does not support chat'),
        ("chat", {"tools": [NOW]}, f"{LIBRARY}/said:latest does not support tools"),
        ("generate", {"suffix": "b"}, f"{LIBRARY}/said:latest does not support insert"),
        ("generate", {"think": True}, '"said" does not support thinking'),
        ("chat", {"model": "SAID", "think": "high"}, '"SAID" does not support thinking'),
        ("chat", {"model": "thinks", "think": "very"}, 'invalid think value: "very" (must be "high", '),
        ("chat", {"think": 3}, "think must be a boolean or string ("),
        ("chat", {"format": "yaml"}, 'invalid format: "yaml"; expected "json" or a'),
        ("chat", {"format": ["a"]}, 'invalid format: ["a"]; expected "json" or a'),
        ("generate", {"format": 3}, "invalid format: 3; expected"),
        ("generate", {"grammar": "a"}, "invalid request: Expected object, got str - at $.grammar"),
        ("chat", {"grammar": {"type": "ebnf"}}, "the 'type' of a grammar must be regex, choice, "),
        ("chat", {"grammar": {"type": ["regex"]}}, "the 'type' of a grammar must be regex, choice, "),
        ("chat", {"grammar": {"type": "regex", "regex": 1}}, "'regex' of a grammar is missing or of"),
        ("generate", {"grammar": {"type": "regex", "regex": "("}}, "the regex grammar is refused: "),
        ("generate", {"grammar": {"type": "regex", "regex": "a" * 70_000}}, "the regex is longer than"),
        ("chat", {"grammar": {"type": "choice", "choice": []}}, "there must be 1 to 10000 choices, not 0"),
        ("chat", {"grammar": {"type": "choice", "choice": ["a"] * 10_001}}, "there must be 1 to 10000"),
        ("chat", {"grammar": {"type": "choice", "choice": [3]}}, "the choices must be a list of texts"),
        ("chat", {"grammar": {"type": "grammar", "grammar": "x"}}, "a GBNF grammar begins with a "),
        ("chat", {"grammar": {"type": "grammar", "grammar": "x", "syntax": []}}, "'syntax' of a grammar"),
        ("chat", {"format": "json", "grammar": {"type": "regex", "regex": "a"}}, "only one of format and"),
        ("chat", {"format": {"$ref": "http://127.0.0.1:1/x"}}, "$ref 'http://127.0.0.1:1/x' points outside"),
        ("chat", {"messages": [None]}, "invalid request"),
        ("chat", {"messages": [{"content": []}]}, "invalid request"),
        ("chat", {"messages": [{"tool_calls": [{"function": {"arguments": "{}"}}]}]}, "invalid request"),
        (
            "chat",
            {"messages": [{"tool_calls": [{"function": {}}]}]},
            "a tool call of a message has no",
        ),
        ("chat", {"messages": TOO_MANY}, "there are 20000 messages; at most"),
        ("chat", {"messages": [{"images": ["AAAA"]}]}, '"said" does not support vision'),
        ("generate", {"images": ["AAAA"]}, '"said" does not support vision'),
        ("chat", {"messages": [{"images": ["!!!"]}]}, "invalid image: images[0] is not base64"),
        ("chat", {"messages": [{"images": ["AAAA", ""]}]}, "invalid image: images[1] is empty"),
        ("generate", {"images": ["data:image/png;base64,AAAA"]}, "invalid image: images[0] is not base64"),
        ("chat", {"messages": [{"images": [None]}]}, "invalid request"),
        ("chat", {"messages": [{"images": [{}]}]}, "invalid request"),
        ("chat", {"messages": [{"images": ["AAAA"] * 65}]}, "there are 65 images; at most 64"),
        ("chat", {"model": "calls", "tools": [{"type": "function"}]}, "a tool must be"),
        ("chat", {"model": "calls", "tools": [NOW, NOW]}, "two tools have the name 'now'"),
        ("chat", {"model": "calls", "tools": [NOW] * 1000}, "there are 1000 tools"),
        ("chat", {"model": "calls", "tools": [NOW], "tool_choice": "any"}, "tool_choice must be"),
        ("chat", {"model": "calls", "tools": [NOW], "tool_choice": {"name": "now"}}, "tool_choice must be"),
        ("chat", {"model": "calls", "tool_choice": "required"}, "tool_choice asks for a call, but there"),
        ("generate", {"template": "{{ if }}"}, "template, line 1"),
        ("generate", {"context": [-1]}, "context[0] must be a token id from 0 to 262, not -1"),
        ("generate", {"context": [1, 263]}, "context[1] must be a token id from 0 to 262, not 263"),
        ("generate", {"context": [1, 2**63]}, "context[1] must be a token id"),
        ("generate", {"context": [1.0]}, "context[0] must be a token id"),
        ("generate", {"context": [True]}, "context[0] must be a token id"),
        ("generate", {"context": [[1]]}, "context[0] must be a token id"),
    ],
)
def test_requests(served: Served, path: str, body: dict[str, Any], text: str) -> None:
    whole = {"model": "said", "prompt": "hi", "messages": HI, **body}
    status, error = refused(served, f"/api/{path}", whole)
    assert (status, error[: len(text)]) == (400, text)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"num_ctx": "4096"}, 'option "num_ctx" must be of type integer'),
        ({"num_ctx": True}, 'option "num_ctx" must be of type integer'),
        ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
        ({"stop": "x"}, 'option "stop" must be of an array of strings'),
        ({"stop": [1]}, 'option "stop" must be of an array of strings'),
        ({"stop": ["x"] * 65}, "there are 65 stop texts; at most 64"),
        ({"stop": ["x" * 1025]}, "a stop text is longer than"),
        ({"transcode": 1}, 'option "transcode" must be of type boolean'),
        ({"kv_cache_type": "q9"}, "kv_cache_type is 'q9'"),
        ({"kv_cache_type": 1}, 'option "kv_cache_type" must be of type string'),
        ({"tensor_split": [-1]}, 'option "tensor_split" must be'),
        ({"num_ctx": -1}, "num_ctx must be a whole number from 1 to 2147483647, not -1"),
        ({"num_ctx": 0}, "num_ctx must be"),
        ({"num_ctx": 2**31}, "num_ctx must be"),
        ({"num_ctx": 2**63}, "num_ctx must be"),
        ({"num_ctx": 1e308}, "num_ctx must be"),
        ({"num_predict": 2**63}, "num_predict must be"),
        ({"num_batch": 0}, "num_batch must be"),
        ({"num_batch": 2**31}, "num_batch must be"),
        ({"num_keep": 2**40}, "num_keep must be"),
        ({"repeat_last_n": -(2**31)}, "repeat_last_n must be"),
        ({"top_k": -2}, "top_k must be"),
        ({"top_k": 2**31}, "top_k must be"),
        ({"top_p": 2}, "top_p must be"),
        ({"temperature": -1}, "temperature must be"),
        ({"temperature": 1e308}, "temperature must be"),
        ({"mirostat": 99}, "mirostat must be"),
        ({"num_gpu": -5}, "num_gpu must be"),
        ({"num_thread": 10**6}, "num_thread must be"),
        ({"main_gpu": 10**6}, "main_gpu must be"),
        ({"seed": 2**64}, "seed must be"),
        ({"top_k": [1]}, 'option "top_k" must be of type integer'),
        ({"min_p": {}}, 'option "min_p" must be of type float32'),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("path", ["generate", "chat", "embed"])
def test_options(served: Served, path: str, option: dict[str, Any], text: str) -> None:
    body = {"model": "said", "prompt": "hi", "messages": HI, "input": "hi", "options": option}
    status, error = refused(served, f"/api/{path}", body)
    assert (status, error[: len(text)]) == (400, text)


@pytest.mark.parametrize("value", [3, {"a": 1}, [1], ["a", None], [["a"]], True])
def test_what_is_no_text_to_embed(served: Served, value: object) -> None:
    assert refused(served, "/api/embed", {"model": "said", "input": value}) == (400, "invalid input type")


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/api/embed", "/api/tokenize"])
def test_methods(served: Served, path: str) -> None:
    assert served.get(path).status == 405


def test_a_schema_that_is_too_much(served: Served) -> None:
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"properties": {"a": deep}}
    many = {"type": "object", "properties": {f"p{n}": {} for n in range(20_000)}}
    for schema in (deep, many, {"type": "nope"}, {"pattern": "(?=x)"}, {"pattern": "["}):
        body = {"model": "said", "messages": HI, "format": schema, "stream": False}
        status, _ = refused(served, "/api/chat", body)
        assert status == 400
