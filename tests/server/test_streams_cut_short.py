"""Streams of every shape that end in the middle: somebody ends them, the model dies, the client leaves.

Whatever has come until then is in order, and what comes after it is the error, the dialect's own, and nothing
more.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.anthropic_streams import Checked, checked
from tests.native_streams import NativeStream
from tests.openai_streams import (
    ChatChoice,
    Event,
    ResponseStream,
    TextChoice,
    event_of,
    events_of,
    read_chat,
    read_responses,
    read_text,
)
from tests.probes import children, figure, wait_for
from tests.scripted_llama import START, write_scripted_llama
from tests.served import Served, serving
from tests.served_models import CALL, GREEDY, SAYS, add_model

from puna.store.library import Library

# So many tokens take minutes.
CONTEXT = 60_000
HI = [{"role": "user", "content": "hi"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "The weather.", "parameters": CITY}
TOOL = {"type": "function", "function": FUNCTION}
ROUTES: dict[str, dict[str, Any]] = {
    "/api/generate": {"prompt": "hi"},
    "/api/chat": {"messages": HI, "tools": [TOOL]},
    "/v1/chat/completions": {"messages": HI, "tools": [TOOL], "stream_options": {"include_usage": True}},
    "/v1/completions": {"prompt": f"hi{START}"},
    "/v1/responses": {"input": "hi", "tools": [{"type": "function", **FUNCTION}]},
    "/v1/messages": {
        "messages": HI,
        "max_tokens": CONTEXT,
        "tools": [{"name": "weather", "input_schema": CITY}],
    },
}
# What a model does when its stream is cut. A prompt that is no conversation has neither thoughts nor calls.
SCRIPTS = {
    "talks": ("Well", ",", " and"),
    "thinks": ("<think>", "\nHmm", " so"),
    "called": ("<tool_call>", CALL, "</tool_call>", "Well", " and"),
}
CASES = [
    (path, model)
    for model in SCRIPTS
    for path in ROUTES
    if path != "/v1/completions" or model == "talks"
    if path != "/api/generate" or model != "called"
]
SAID = {"talks": "Well, and", "thinks": "Hmm so", "called": "OsloWell and"}
ENOUGH = 20


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with models that come to no end, of which one at a time is loaded.

    Each case has one more for itself, with its number: a model that dies again and again is left alone.
    """
    folder = tmp_path_factory.mktemp("endless")
    library = Library(folder / "models")
    template = SAYS + "{{ if .Tools }}TOOLS{{ .Tools }}{{ end }}" + START
    files = [(model, model, CONTEXT) for model in SCRIPTS]
    files += [(f"{model}{index}", model, CONTEXT + 1 + index) for index, (_, model) in enumerate(CASES)]
    for name, model, context in files:
        file = write_scripted_llama(folder / f"{name}.gguf", SCRIPTS[model], context=context, endless=True)
        parameters = {**GREEDY, "num_ctx": CONTEXT}
        parser = "qwen3" if model == "called" else ""
        add_model(library, name, file, template=template, parser=parser, parameters=parameters)
    settings = {"PUNA_MAX_LOADED_MODELS": "1", "PUNA_NUM_PARALLEL": "1", "PUNA_METRICS": "1"}
    with serving(folder, folder / "models", **settings) as server:
        yield server


def read_event(response: Any, path: str) -> Event:
    """The next event of a stream that has one."""
    if path.startswith("/api/"):
        return Event("", response.readline().decode())
    lines = []
    while line := response.readline().decode().rstrip("\n"):
        lines.append(line)
    return event_of("\n".join(lines))


def rest_of(response: Any, path: str) -> list[Event]:
    body: bytes = response.read()
    if path.startswith("/api/"):
        return [Event("", line.decode()) for line in body.splitlines()]
    return events_of(body)


def said_so_far(path: str, events: list[Event]) -> str:
    """What a stream has said that has not ended: thoughts, calls and text; all in order."""
    state: Any
    if path == "/v1/messages":
        found = checked(event.json for event in events)
        assert found.state == "block"
        return _words(found)
    if path == "/v1/responses":
        state = ResponseStream()
        for number, event in enumerate(events):
            state.take(number, event)
        assert not state.ended
        return str(_output(state.output) + state._text)
    if path.startswith("/api/"):
        state = NativeStream()
        for event in events:
            state.take(event.json)
        assert not state.ended
        return str(state.thinking + _cities(state.calls) + state.content)
    state = TextChoice() if path == "/v1/completions" else ChatChoice()
    for event in events:
        (chunk,) = event.json["choices"]
        state.take(chunk)
    assert not state.reason
    if path == "/v1/completions":
        return str(state.text)
    return str(state.reasoning + "".join(_city(call["arguments"]) for call in state.calls) + state.content)


def _words(found: Checked) -> str:
    blocks = found.content
    return "".join(
        block["input"]["city"] if block["type"] == "tool_use" else block[block["type"]] for block in blocks
    )


def _output(items: list[dict[str, Any]]) -> str:
    return "".join(_city(item["arguments"]) for item in items if item["type"] == "function_call")


def _cities(calls: list[dict[str, Any]]) -> str:
    return "".join(call["function"]["arguments"]["city"] for call in calls)


def _city(arguments: str) -> str:
    return str(json.loads(arguments)["city"])


def error_at_the_end(path: str, events: list[Event]) -> str:
    """The text of the error that a stream ends with, all of which is in order."""
    if path == "/v1/messages":
        found = checked(event.json for event in events)
        assert found.state == "failed" and found.error["type"] == "api_error"
        return str(found.error["message"])
    if path == "/v1/responses":
        response = read_responses(events)
        assert response.ended == "failed"
        return str(response.last["error"]["message"])
    if path.startswith("/api/"):
        native = NativeStream()
        for event in events:
            native.take(event.json)
        return native.error
    usage = "stream_options" in ROUTES[path]
    error = (read_text if path == "/v1/completions" else read_chat)(events, usage=usage).error
    assert error is not None
    return str(error["message"])


def cut(server: Served, path: str, model: str, ending: Callable[[], None]) -> list[Event]:
    """The events of a stream that ends so after the first ones, which must say what the model says."""
    body = {**ROUTES[path], "model": model, "stream": True}
    with server.stream(path, body, X_Request_Id="cut") as response:
        assert response.status == 200
        first = [read_event(response, path) for _ in range(ENOUGH)]
        assert said_so_far(path, first).replace("\n", "").startswith(SAID[model.rstrip("0123456789")])
        ending()
        return [*first, *rest_of(response, path)]


def nothing_runs(server: Served) -> bool:
    """Whether no request is being answered but the one that asks."""
    return figure(server, "puna_requests_running") == 1


@pytest.mark.parametrize(("path", "model"), CASES)
def test_a_stream_that_is_ended_from_elsewhere(endless: Served, path: str, model: str) -> None:
    def end() -> None:
        assert endless.ask("DELETE", "/api/requests/cut").status == 200

    assert error_at_the_end(path, cut(endless, path, model, end)) == "request canceled"
    wait_for(lambda: nothing_runs(endless))


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda index: "-".join(CASES[index]))
def test_a_stream_whose_model_dies(endless: Served, case: int) -> None:
    path, model = CASES[case]

    def kill() -> None:
        (runner,) = children(endless.pid)
        os.kill(runner, signal.SIGKILL)

    error = error_at_the_end(path, cut(endless, path, f"{model}{case}", kill))
    assert error.startswith("model runner has unexpectedly stopped")
    wait_for(lambda: nothing_runs(endless))


@pytest.mark.parametrize(("path", "model"), CASES)
def test_a_stream_whose_client_leaves(endless: Served, path: str, model: str) -> None:
    class Left(Exception):
        pass

    def leave() -> None:
        raise Left

    with pytest.raises(Left):
        cut(endless, path, model, leave)
    wait_for(lambda: nothing_runs(endless))
