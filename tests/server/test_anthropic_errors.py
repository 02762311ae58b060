"""What Anthropic's routes refuse, how they say it, and how streams end before their answers do."""

import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.anthropic_streams import Checked
from tests.served import Reply, Served, serving

import puna

HI = [{"role": "user", "content": "hi"}]
TOOL = {"name": "weather", "input_schema": {"type": "object"}}
PICTURE = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
VERSION = {"anthropic-version": "2023-06-01"}
PATIENCE = 30.0
# Nothing of this machine, and nothing of the program's insides.
PLACES = (Path.home(), Path(tempfile.gettempdir()), Path("/home"), Path(puna.__file__).parents[1])
INSIDE = re.compile(
    "|".join(
        ("0x[0-9a-f]{6,}", "Traceback", "site-packages", *(re.escape(f"{place}/") for place in PLACES))
    ).encode()
)


def error_of(reply: Reply, status: int, kind: str) -> str:
    """The text of an error that must have this form."""
    assert reply.status == status, reply.body
    assert not INSIDE.search(reply.body)
    assert {*reply.json} == {"type", "error", "request_id"} and reply.json["type"] == "error"
    assert {*reply.json["error"]} == {"type", "message"} and reply.json["error"]["type"] == kind
    assert reply.json["request_id"] == reply.headers["request-id"] == reply.headers["x-request-id"]
    return str(reply.json["error"]["message"])


def user(*blocks: object) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(blocks)}]


def assistant(*blocks: object) -> list[dict[str, Any]]:
    return [*HI, {"role": "assistant", "content": list(blocks)}, *HI]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model": None}, "model is required"),
        ({"model": " "}, "model is required"),
        ({"max_tokens": None}, "max_tokens is required and must be positive"),
        ({"max_tokens": 0}, "max_tokens is required and must be positive"),
        ({"max_tokens": -1}, "max_tokens is required and must be positive"),
        ({"max_tokens": "9"}, "invalid request: Expected int, got str - at $.max_tokens"),
        ({"messages": []}, "messages is required"),
        ({"messages": "hi"}, "invalid request: Expected array"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role must be user or assistant"),
        ({"messages": [{"content": "x"}]}, "messages.0.role must be user or assistant"),
        ({"messages": [{"role": "user", "content": 1}]}, "invalid request: Expected str | array"),
        ({"messages": user({"type": "text", "text": 1})}, "invalid request: Expected str, got int"),
        ({"messages": user({"text": "x"})}, "messages.0.content.0: content of type '' is not supported"),
        ({"messages": user({"type": "document", "source": PICTURE})}, "content of type 'document' is not"),
        ({"messages": user({"type": "search_result"})}, "content of type 'search_result' is not"),
        ({"messages": user({"type": "tool_use", "id": "a", "name": "b"})}, "content of type 'tool_use' is"),
        ({"messages": user({"type": "thinking", "thinking": "x"})}, "content of type 'thinking' is not"),
        ({"messages": assistant({"type": "image", "source": PICTURE})}, "messages.1.content.0: content of"),
        ({"messages": assistant({"type": "tool_use", "name": "b"})}, "a tool_use block needs an id and a na"),
        ({"messages": assistant({"type": "tool_use", "id": "b"})}, "a tool_use block needs an id and a name"),
        ({"messages": assistant({"type": "server_tool_use"})}, "content of type 'server_tool_use' is not"),
        ({"messages": user({"type": "tool_result", "tool_use_id": "x"})}, "no tool_use block before it has"),
        ({"messages": user({"type": "image", "source": PICTURE})}, '"said" does not support vision'),
        (
            {
                "messages": user(
                    {"type": "image", "source": {"type": "url", "url": "http://169.254.169.254/x"}}
                )
            },
            "messages.0.content.0: invalid image source type: url. Only base64 images are supported.",
        ),
        (
            {"messages": user({"type": "image", "source": {"type": "file"}})},
            "invalid image source type: file",
        ),
        ({"messages": user({"type": "image"})}, "invalid image source type: None"),
        ({"messages": user({"type": "image", "source": {**PICTURE, "data": "é"}})}, "is no base64"),
        ({"messages": user({"type": "image", "source": {**PICTURE, "data": 7}})}, "the image is empty"),
        (
            {"messages": user({"type": "image", "source": {**PICTURE, "media_type": "image/tiff"}})},
            "image/jp",
        ),
        ({"system": [{"type": "image", "source": PICTURE}]}, "system.content.0: content of type 'image'"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0: there is no tool of"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "no tool of type 'bash_20250124'"),
        ({"tools": [{"name": "x"}]}, "tools.0.input_schema is required"),
        ({"tools": [{**TOOL, "name": "a b"}]}, "a tool's name must be"),
        ({"tools": [{**TOOL, "name": "x" * 1_000_000}]}, "a tool's name must be"),
        ({"tools": [TOOL, TOOL]}, "weather"),
        ({"tools": [{**TOOL, "input_schema": {"type": "str"}}]}, "must be of type object"),
        ({"tools": [{**TOOL, "input_schema": []}]}, "invalid request: Expected object"),
        ({"tools": [TOOL] * 10_000}, "tools"),
        ({"tools": [TOOL]}, "does not support tools"),
        ({"tool_choice": {"type": "any"}}, "there are no tools"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.type must be auto, any, none, or tool with a name"),
        ({"tool_choice": "any"}, "invalid request: Expected object"),
        ({"model": "calls", "tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "none of the to"),
        ({"thinking": {"type": "yes"}}, "thinking.type must be enabled, disabled or adaptive"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens is required and must be positive"),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 9}},
            "max_tokens must be greater than thinking.bu",
        ),
        ({"temperature": -1}, "temperature must be"),
        ({"temperature": "hot"}, "invalid request: Expected float"),
        ({"top_p": 2}, "top_p must be"),
        ({"top_k": -2}, "top_k must be"),
        ({"top_k": 2**31}, "top_k must be"),
        ({"stop_sequences": ["x"] * 65}, "stop"),
        ({"stop_sequences": ["x" * 2000]}, "stop"),
        ({"stop_sequences": "x"}, "invalid request: Expected array"),
        ({"output_config": {"effort": "some"}}, "output_config.effort must be"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format must be"),
        ({"mcp_servers": [{"type": "url", "url": "http://169.254.169.254/"}]}, "mcp_servers"),
        ({"messages": user({"type": "text", "text": "long " * 2000})}, "prompt is too long: "),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_refused(served: Served, change: dict[str, Any], text: str, stream: bool) -> None:
    body = {"model": "said", "max_tokens": 9, "messages": HI, "stream": stream, **change}
    found = error_of(served.post("/v1/messages", body), 400, "invalid_request_error")
    assert text in found
    assert len(found) < 400


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_bodies_that_are_none(served: Served, path: str) -> None:
    for content in (b"", b"{", b"[]", b"\xff\xfe", b'{"model": ' + b"[" * 100_000, b"null", b'"x"'):
        error_of(served.ask("POST", path, content), 400, "invalid_request_error")
    text = error_of(
        served.post(path, {"model": "nix", "messages": HI, "max_tokens": 9}), 404, "not_found_error"
    )
    assert text == "model 'nix' not found"
    assert error_of(served.get(path), 405, "invalid_request_error")


def test_what_no_client_may_say_has_no_effect(served: Served) -> None:
    body = {"model": "said", "max_tokens": 9, "messages": HI, "options": {"num_predict": 1}, "raw": True}
    more = {"grammar": "x", "chat_template": "y", "id_slot": 3, "lora": [], "keep_alive": 0, "think": "high"}
    reply = served.post("/v1/messages", {**body, **more})
    assert reply.json["content"] == [{"type": "text", "text": "onetwothreefour"}]


def test_a_client_names_its_request(served: Served) -> None:
    reply = served.post(
        "/v1/messages", {"model": "said", "max_tokens": 9, "messages": HI}, X_Request_Id="mine"
    )
    assert reply.headers["request-id"] == reply.headers["x-request-id"] == "mine"
    reply = served.post(
        "/v1/messages", {"model": "nix", "max_tokens": 9, "messages": HI}, X_Request_Id="mine"
    )
    assert reply.json["request_id"] == "mine"
    body = {"model": "said", "max_tokens": 9, "messages": HI, "stream": True}
    assert served.post("/v1/messages", body, X_Request_Id="mine").headers["request-id"] == "mine"


def test_keys(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{'a' * 20} inference\n{'m' * 20} manage\n")
    file.chmod(0o600)
    body = {"model": "said", "max_tokens": 9, "messages": HI}
    with serving(tmp_path, served.store, PUNA_API_KEY_FILE=str(file)) as server:
        for headers in ({}, {"x_api_key": "b" * 20}, {"Authorization": "Basic x"}):
            reply = server.post("/v1/messages", body, **headers)
            assert error_of(reply, 401, "authentication_error")
        error_of(server.ask("GET", "/v1/models", None, VERSION), 401, "authentication_error")
        error_of(server.post("/v1/messages", body, x_api_key="m" * 20), 403, "permission_error")
        for headers in ({"x_api_key": "a" * 20}, {"Authorization": f"Bearer {'a' * 20}"}):
            assert server.post("/v1/messages", body, **headers).status == 200


def test_a_body_that_is_too_large(served: Served, tmp_path: Path) -> None:
    with serving(tmp_path, served.store, PUNA_MAX_BODY="1000") as server:
        reply = server.post("/v1/messages", {"model": "said", "max_tokens": 9, "messages": "x" * 2000})
        error_of(reply, 413, "request_too_large")


# Streams that end early


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runners(server: Served) -> list[int]:
    found = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
    return [int(number) for number in found.split()]


@pytest.fixture
def alone(served: Served, tmp_path: Path) -> Iterator[Served]:
    """A server whose models leave at once."""
    with serving(tmp_path, served.store, PUNA_KEEP_ALIVE="0") as server:
        yield server


# `slow` takes its time, and its context has room for hundreds of tokens.
LONG = {"model": "slow", "max_tokens": 5000, "messages": HI, "stream": True}


def test_a_client_that_leaves_ends_its_answer(alone: Served) -> None:
    found = Checked()
    with alone.stream("/v1/messages", LONG) as response:
        while len(found.content) < 1:
            _read(response, found)
        assert len(runners(alone)) == 1
    wait_for(lambda: not runners(alone))
    assert found.state == "block"


def test_a_runner_that_dies_ends_the_stream_with_an_error(alone: Served) -> None:
    found = Checked()
    with alone.stream("/v1/messages", LONG) as response:
        while len(found.content) < 1:
            _read(response, found)
        os.kill(runners(alone)[0], signal.SIGKILL)
        while _read(response, found):
            pass
    assert found.state == "failed"
    assert found.error["type"] == "api_error"
    assert found.error["message"].startswith("model runner has unexpectedly stopped")


def test_a_request_that_is_ended_from_elsewhere(alone: Served) -> None:
    found = Checked()
    with alone.stream("/v1/messages", LONG, X_Request_Id="one") as response:
        while len(found.content) < 1:
            _read(response, found)
        assert alone.ask("DELETE", "/api/requests/one").status == 200
        while _read(response, found):
            pass
    assert found.state == "failed"
    assert found.error == {"type": "api_error", "message": "request canceled"}


def test_the_message_begins_before_its_prompt_has_been_read(alone: Served) -> None:
    # Three thousand tokens, one at a time, take half a minute.
    text = "x" * 3000
    body = {**LONG, "messages": [{"role": "user", "content": text}]}
    found = Checked()
    with alone.stream("/v1/messages", body) as response:
        while not found.pings:
            _read(response, found)
        assert found.message["usage"]["input_tokens"] > 3000
        assert found.content == []
    wait_for(lambda: not runners(alone))


def _read(response: Any, found: Checked) -> bool:
    """Read one event; False at the end."""
    name = response.readline()
    if not name:
        return False
    event = json.loads(response.readline().removeprefix(b"data: "))
    assert name == b"event: %s\n" % event["type"].encode()
    assert response.readline() == b"\n"
    found.feed(event)
    return True


# Models


def test_models(served: Served) -> None:
    reply = served.ask("GET", "/v1/models?limit=1000", None, VERSION)
    names = [model["id"] for model in reply.json["data"]]
    assert {"said:latest", "thinks:latest"} <= {*names}
    assert "vectors:latest" not in names  # it answers nothing
    assert not reply.json["has_more"]
    assert (reply.json["first_id"], reply.json["last_id"]) == (names[0], names[-1])
    one = served.ask("GET", "/v1/models/SAID", None, VERSION).json
    assert one == next(model for model in reply.json["data"] if model["id"] == "said:latest")
    assert (one["type"], one["display_name"], one["max_input_tokens"]) == ("model", "said:latest", 512)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", one["created_at"])


def test_pages_of_models(served: Served) -> None:
    def page(query: str) -> Any:
        return served.ask("GET", f"/v1/models?{query}", None, VERSION).json

    names = [model["id"] for model in page("limit=1000")["data"]]
    found: list[str] = []
    query = "limit=2"
    while True:
        part = page(query)
        assert len(part["data"]) <= 2
        found += [model["id"] for model in part["data"]]
        if not part["has_more"]:
            break
        query = f"limit=2&after_id={part['last_id']}"
    assert found == names
    before = page(f"limit=2&before_id={names[3]}")
    assert [model["id"] for model in before["data"]] == names[1:3] and before["has_more"]
    for query in ("limit=0", "limit=1001", "limit=x", "limit=", "after_id=nix", "before_id=nix"):
        reply = served.ask("GET", f"/v1/models?{query}", None, VERSION)
        error_of(reply, 400, "invalid_request_error")


def test_models_that_are_not_there(served: Served) -> None:
    for id in ("nix", "vectors", "a/b/c/d/e", "%2e%2e/x"):
        reply = served.ask("GET", f"/v1/models/{id}", None, VERSION)
        error_of(reply, 404, "not_found_error")
    error_of(served.ask("GET", "/v1/other", None, VERSION), 404, "not_found_error")


def test_other_clients_are_not_answered_in_this_form(served: Served) -> None:
    for path in ("/v1/models", "/v1/models/said"):
        document = served.get(path).json
        assert "has_more" not in document and document.get("type") != "model"
