"""What OpenAI's routes refuse, and in which words. The letters are of the cases that are imitated."""

import json
import re
from typing import Any

import pytest
from tests.served import Served
from tests.server.conftest import Serve

from puna.options import INFERENCE, MANAGE, api_key

HI = [{"role": "user", "content": "hi"}]
CHAT, TEXT, EMBED, RESPONSES, RERANK = (
    f"/v1/{path}" for path in ("chat/completions", "completions", "embeddings", "responses", "rerank")
)
GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"model": "said", "messages": HI},
    TEXT: {"model": "said", "prompt": "hi"},
    EMBED: {"model": "tiny", "input": "hi"},
    RESPONSES: {"model": "said", "input": "hi"},
    RERANK: {"model": "tiny", "query": "q", "documents": ["d"]},
}
LEAKS = re.compile(r"0x[0-9a-f]{6,}|/home/|/tmp/|Traceback")


def error_of(reply: Any, status: int = 400) -> dict[str, Any]:
    assert reply.status == status, reply.body
    assert {*reply.json} == {"error"}
    error: dict[str, Any] = reply.json["error"]
    assert {*error} == {"message", "type", "param", "code"} and error["message"]
    assert not LEAKS.search(error["message"]) and len(error["message"]) < 2100
    return error


def part(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [fields]}]}


def picture(url: object) -> dict[str, Any]:
    return part(type="image_url", image_url={"url": url})


def schema(value: object) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}}


def tool(**fields: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", **fields}}]}


def called(arguments: object) -> dict[str, Any]:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"messages": [*HI, {"role": "assistant", "tool_calls": [call]}]}


MANY: list[Any] = [10**9, 0, -1, 17, 1.5, "2", True, 2**63]
Case = tuple[str, dict[str, Any]]


def each(path: str, field: str, *values: Any, **more: Any) -> list[Case]:
    """A case for each value of a field."""
    return [(path, {field: value, **more}) for value in values]


SCHEMAS: list[Any] = [{"type": "nope"}, [], 3, None, {"$ref": "http://127.0.0.1/x"}]
URLS: list[Any] = [
    *("http://169.254.169.254/latest", "https://example.com/a.png", "file:///etc/passwd", "ftp://x/y"),
    *("gopher://x", "blob:x", "data:text/html;base64,aGk=", "data:image/png;base64,***", "aGk=", 3, None),
    *("data:image/png;base64,", "data:image/svg+xml;base64,aGk=", "data:image/png;base64,aGk="),
]
VARIABLES: list[Any] = [{"messages": []}, {"chat_template": "x"}, {"tokenize": True}, {"unknown": 1}, [1]]
BAD: list[Case] = [
    # E01: counts
    *each(CHAT, "n", *MANY),
    *each(TEXT, "n", *MANY),
    *each(TEXT, "best_of", *MANY),
    (TEXT, {"n": 3, "best_of": 2}),
    (TEXT, {"best_of": 2, "stream": True}),
    (TEXT, {"prompt": ["a"] * 65}),
    (TEXT, {"prompt": ["a"] * 5, "n": 16}),
    # E03: options
    *each(CHAT, "temperature", -1, 1e308, "1", [1]),
    *each(CHAT, "top_p", -0.1, 2, "x"),
    *each(CHAT, "max_tokens", 0, -2, -(2**63), 1.5, "1"),
    *each(RESPONSES, "max_output_tokens", 0, -3),
    *each(CHAT, "num_ctx", -1, 0, 2**31, 2**63),
    *each(CHAT, "options", {"num_batch": 2**31}, {"top_k": "x"}, {"num_thread": 10**6}, 3),
    *each(CHAT, "seed", 2**64, 1.5, "1"),
    *each(CHAT, "stop", 1, [1], ["x"] * 65, "x" * 2000),
    *each(CHAT, "frequency_penalty", 1e308, "1"),
    *each(CHAT, "keep_alive", "soon", [1]),
    *((CHAT, {"top_logprobs": value, "logprobs": True}) for value in (-1, 21, 2**63)),
    (CHAT, {"top_logprobs": 2}),
    *each(TEXT, "logprobs", -1, 21, True),
    (TEXT, {"logprobs": 21, "echo": True}),
    (TEXT, {"max_tokens": 0}),
    (TEXT, {"max_tokens": -2, "echo": True}),
    *each(CHAT, "logit_bias", {"x": 1}, {"-1": 1}, {"1": 101}, {"1": "a"}, {"99999": 1}, [1]),
    (CHAT, {"logit_bias": {str(number): 1 for number in range(2000)}}),
    # E08, E09: formats
    *((CHAT, schema(value)) for value in SCHEMAS),
    (CHAT, schema({"$ref": "file:///etc/passwd"})),
    (CHAT, schema({"type": "string", "pattern": "["})),
    (CHAT, schema({"type": "string", "pattern": "(?=x)"})),
    *each(CHAT, "response_format", 3, {}, {"type": 1}, {"type": "x"}, {"type": "json_schema"}),
    (CHAT, {"response_format": {"type": "regex", "regex": "("}}),
    (CHAT, {"response_format": {"type": "regex", "regex": r"(a)\1"}}),
    (CHAT, {"response_format": {"type": "grammar", "grammar": "root ::= ("}}),
    (CHAT, {"response_format": {"type": "grammar", "grammar": "x", "syntax": "ebnf"}}),
    *((CHAT, {"response_format": {"type": "choice", "choice": value}}) for value in ([], [1], "a", None)),
    (RESPONSES, {"text": {"format": {"type": "json_schema", "schema": {"type": "nope"}}}}),
    (RESPONSES, {"text": {"format": {"type": "json_schema"}}}),
    # E10: tools
    (CHAT, tool(parameters={"type": "str"})),
    (CHAT, tool(parameters=3)),
    (CHAT, {"tools": [{"type": "function"}]}),
    (CHAT, {"tools": [{"type": "custom", "custom": {"name": "f"}}]}),
    *(
        (CHAT, {"tools": [{"type": "function", "function": {"name": name}}]})
        for name in ("", "a b", "x" * 10**6, 3)
    ),
    (CHAT, {"tools": tool()["tools"] * 2}),
    *each(CHAT, "tool_choice", "required", "nope", 3, {"type": "function"}),
    (CHAT, {"tool_choice": {"type": "function", "function": {"name": "other"}}, **tool()}),
    *(
        (CHAT, {"tool_choice": {"type": "allowed_tools", "allowed_tools": told}, **tool()})
        for told in (
            3,
            {},
            {"mode": "auto", "tools": []},
            {"mode": "none", "tools": [{"type": "function", "function": {"name": "weather"}}]},
            {"mode": "auto", "tools": [{"type": "function", "function": {"name": "other"}}]},
            {"mode": "auto", "tools": [3]},
        )
    ),
    # E16: tokens
    *((TEXT, {"prompt": [1, value]}) for value in (-1, 10**6, 2**31, 2**63, 1.0, True, None)),
    *each(TEXT, "prompt", None, [], {}, 3, ["a", 1], [[1], "a"], [[[1]]], ""),
    *((EMBED, {"input": [1, value]}) for value in (-1, 10**6, 2**31, 2**63, 1.0, True, None)),
    *each(EMBED, "input", None, [], {}, 3, ["a", 1], [[1], "a"], [[[1]]], [[]]),
    *each(EMBED, "encoding_format", "int8", "", 3),
    *each(EMBED, "dimensions", 0, -1, 1.5, "2"),
    # E40, E43: pictures that would have to be fetched, or are none
    *((CHAT, picture(url)) for url in URLS),
    (CHAT, part(type="input_audio", input_audio={"data": "aGk=", "format": "wav"})),
    (CHAT, part(type="file", file={"file_data": "data:application/pdf;base64,aGk="})),
    (CHAT, part(type="text")),
    (CHAT, part(text="x")),
    (
        RESPONSES,
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://10.0.0.1"}]}]},
    ),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}),
    # F05: variables of the template
    *each(CHAT, "chat_template_kwargs", *VARIABLES),
    *each(RESPONSES, "chat_template_kwargs", *VARIABLES),
    # Conversations
    (CHAT, {"messages": []}),
    (CHAT, {"messages": [{"role": "user"}]}),
    (CHAT, {"messages": [{"role": "user", "content": 3}]}),
    (CHAT, {"messages": [{"content": "hi"}]}),
    (CHAT, {"messages": "hi"}),
    *((CHAT, called(arguments)) for arguments in ("{", "[1]", "3", {"a": 1}, "[" * 10**4)),
    (CHAT, {"reasoning_effort": "very"}),
    (CHAT, {"reasoning_effort": 3}),
    (CHAT, {"think": 3}),
    (CHAT, {"think": "very"}),
    *each(RESPONSES, "input", None, [], 3, [3], [{}], [{"type": "nope"}], [{"role": "user"}]),
    (RESPONSES, {"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}),
    (RESPONSES, {"truncation": "some"}),
    (RESPONSES, {"conversation": "conv_1"}),
    (RESPONSES, {"prompt": {"id": "pmpt_1"}}),
    (RESPONSES, {"metadata": {str(number): "" for number in range(17)}}),
    (RESPONSES, {"metadata": {"a": "x" * 513}}),
    (RERANK, {"documents": []}),
    (RERANK, {"documents": [3]}),
    (RERANK, {"top_n": 0}),
    (RERANK, {}),
    *((path, {"model": ""}) for path in GOOD),
    *((path, {"model": 3}) for path in GOOD),
    (CHAT, {"model": "a b"}),
]


def _name(case: object) -> str:
    return json.dumps(case)[:60] if isinstance(case, dict) else str(case)


@pytest.mark.parametrize("path, fields", BAD, ids=_name)
def test_what_makes_no_sense_is_refused(served: Served, path: str, fields: dict[str, Any]) -> None:
    body = {**GOOD[path], **fields}
    for pieces in (False, True) if "stream" not in fields else (True,):
        error = error_of(served.post(path, {**body, "stream": pieces}))
        assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", GOOD)
def test_bodies_that_are_none(served: Served, path: str) -> None:
    for content in (b"", b"{", b"[]", b"3", b"\xff", b'{"model": ' + b"[" * 10**5, b'{"a": NaN}'):
        error_of(served.ask("POST", path, content))
    compressed = served.ask("POST", path, b"{}", {"Content-Encoding": "gzip"})
    error_of(compressed, 415)


@pytest.mark.parametrize("path", [path for path in GOOD if path != RERANK])
def test_models_that_are_not_there(served: Served, path: str) -> None:
    error = error_of(served.post(path, {**GOOD[path], "model": "none"}), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")


def test_the_wrong_field_is_named(served: Served) -> None:
    for fields, param in (
        ({"n": "2"}, "n"),
        ({"temperature": "warm"}, "temperature"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"response_format": {"type": "x"}}, "response_format"),
    ):
        assert error_of(served.post(CHAT, {**GOOD[CHAT], **fields}))["param"] == param


def test_what_there_is_not(served: Served) -> None:
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/images/generations", 404),
        ("GET", CHAT, 405),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/responses/resp_none", 404),
        ("DELETE", "/v1/responses/resp_none", 404),
        ("GET", "/v1/responses/resp_none/input_items", 404),
    ):
        error_of(served.ask(method, path), status)


def test_what_the_server_refuses_is_told_in_the_same_words(server: Serve) -> None:
    asks, manages = (api_key(f"{name}-0123456789abc", name, frozenset({scope})) for name, scope in SCOPED)
    running = server(api_keys=(asks, manages), max_body=1000)
    unknown = error_of(running.post(CHAT, GOOD[CHAT], {"Authorization": "Bearer wrong"}), 401)
    assert (unknown["type"], unknown["code"]) == ("authentication_error", "invalid_api_key")
    assert error_of(running.post(CHAT, GOOD[CHAT]), 401)["code"] == "invalid_api_key"
    managing = {"Authorization": "Bearer manages-0123456789abc"}
    assert error_of(running.post(CHAT, GOOD[CHAT], managing), 403)["type"] == "permission_error"
    asking = {"Authorization": "Bearer asks-0123456789abc"}
    error_of(running.post(CHAT, {**GOOD[CHAT], "user": "x" * 1000}, asking), 413)
    error_of(running.get("/v1/models", {**asking, "Host": "evil.example"}), 403)
    error_of(running.get("/v1/models", {**asking, "Origin": "https://evil.example"}), 403)
    assert running.get("/v1/models", asking).status == 200


SCOPED = (("asks", INFERENCE), ("manages", MANAGE))
