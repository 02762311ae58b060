"""Streams of OpenAI's API: their order, their ends, and what happens when something happens in between."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.openai_streams import Event, event_of, events_of, read_chat, read_responses, read_text
from tests.served import Served, serving

HI = [{"role": "user", "content": "hi"}]
WEATHER = {
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOLS = [{"type": "function", "function": WEATHER}]
CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
ENDLESS: dict[str, Any] = {"model": "tiny", "shift": True, "stream": True}
ASKED: dict[str, dict[str, Any]] = {
    CHAT: {**ENDLESS, "messages": HI},
    TEXT: {**ENDLESS, "prompt": "hi"},
    RESPONSES: {**ENDLESS, "input": "hi"},
}
PATIENCE = 30.0


def stream(server: Served, path: str, body: dict[str, Any]) -> list[Event]:
    reply = server.post(path, {**body, "stream": True})
    assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert reply.headers["cache-control"] == "no-cache"
    return events_of(reply.body)


# Chat


def test_content_of_a_chat(served: Served) -> None:
    events = stream(served, CHAT, {"model": "said", "messages": HI})
    (choice,) = read_chat(events).choices
    assert (choice.content, choice.reason) == ("onetwothreefour", "stop")
    assert len(events) == 1 + 4 + 1 + 1


def test_usage_of_a_chat(served: Served) -> None:
    body = {"model": "said", "messages": HI, "stream_options": {"include_usage": True}}
    told = read_chat(stream(served, CHAT, body), usage=True).usage
    assert told is not None
    whole = served.post(CHAT, {"model": "said", "messages": HI}).json["usage"]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert told[name] == whole[name] > 0
    # The second request finds the prompt of the first in the cache.
    assert whole["prompt_tokens_details"]["cached_tokens"] > 0


def test_thinking_of_a_chat(served: Served) -> None:
    body = {"model": "thinks", "messages": HI, "stream_options": {"include_usage": True}}
    read = read_chat(stream(served, CHAT, body), usage=True)
    (choice,) = read.choices
    assert (choice.reasoning, choice.content, choice.reason) == ("Hmm…\n", "Blue.", "stop")
    assert read.usage is not None and read.usage["completion_tokens_details"]["reasoning_tokens"] > 0


def test_calls_of_a_chat(served: Served) -> None:
    events = stream(served, CHAT, {"model": "calls", "messages": HI, "tools": TOOLS})
    (choice,) = read_chat(events).choices
    (call,) = choice.calls
    assert (choice.content, choice.reason) == ("Let me see.", "tool_calls")
    assert (call["name"], json.loads(call["arguments"])) == ("weather", {"city": "Oslo"})


@pytest.mark.parametrize("parallel", [True, False])
def test_several_calls_of_a_chat(served: Served, parallel: bool) -> None:
    body = {"model": "twice", "messages": HI, "tools": TOOLS, "parallel_tool_calls": parallel}
    told = read_chat(stream(served, CHAT, {**body, "stream_options": {"include_usage": True}}), usage=True)
    (choice,) = told.choices
    assert choice.reason == "tool_calls" and told.usage is not None
    cities = [json.loads(call["arguments"])["city"] for call in choice.calls]
    assert cities == (["Oslo", "Rome"] if parallel else ["Oslo"])
    assert len({call["id"] for call in choice.calls}) == len(cities)
    whole = served.post(CHAT, body).json["choices"][0]
    assert [call["function"] for call in whole["message"]["tool_calls"]] == [
        {"name": call["name"], "arguments": call["arguments"]} for call in choice.calls
    ]
    assert whole["finish_reason"] == "tool_calls"


def test_calls_of_several_choices(served: Served) -> None:
    body = {"model": "twice", "messages": HI, "tools": TOOLS, "n": 2}
    for choice in read_chat(stream(served, CHAT, body), 2).choices:
        assert [json.loads(call["arguments"])["city"] for call in choice.calls] == ["Oslo", "Rome"]


def test_logprobs_of_a_chat_are_told_once_each(served: Served) -> None:
    body = {"model": "said", "messages": HI, "logprobs": True, "top_logprobs": 2}
    (choice,) = read_chat(stream(served, CHAT, body)).choices
    assert [token["token"] for token in choice.tokens][:4] == ["one", "two", "three", "four"]
    assert all(len(token["top_logprobs"]) == 2 for token in choice.tokens)
    whole = served.post(CHAT, body).json["choices"][0]["logprobs"]["content"]
    assert [token["token"] for token in whole] == [token["token"] for token in choice.tokens]


def test_several_choices_of_a_chat(served: Served) -> None:
    body = {"model": "said", "messages": HI, "n": 3, "stream_options": {"include_usage": True}}
    read = read_chat(stream(served, CHAT, body), 3, usage=True)
    assert [choice.content for choice in read.choices] == ["onetwothreefour"] * 3
    assert read.usage is not None
    assert read.usage["completion_tokens"] == 12


# Completions and responses


def test_a_text_in_pieces(served: Served) -> None:
    body = {"model": "said", "prompt": "hi<|go|>", "n": 2, "stream_options": {"include_usage": True}}
    read = read_text(stream(served, TEXT, body), 2, usage=True)
    assert read.usage is not None and read.usage["completion_tokens"] == 8
    assert [(one.text, one.reason) for one in read.choices] == [("onetwothreefour", "stop")] * 2


def test_a_response_with_thinking(served: Served) -> None:
    read = read_responses(stream(served, RESPONSES, {"model": "thinks", "input": "hi"}))
    assert [item["type"] for item in read.output] == ["reasoning", "message"]
    assert read.output[0]["summary"][0]["text"] == "Hmm…\n"
    assert read.output[1]["content"][0]["text"] == "Blue."
    assert read.ended == "completed" and read.last["usage"]["output_tokens_details"]["reasoning_tokens"] > 0


def test_a_response_with_a_call(served: Served) -> None:
    body = {"model": "calls", "input": "hi", "tools": [{"type": "function", **WEATHER}]}
    read = read_responses(stream(served, RESPONSES, body))
    assert [item["type"] for item in read.output] == ["message", "function_call"]
    call = read.output[1]
    assert (call["name"], json.loads(call["arguments"])) == ("weather", {"city": "Oslo"})
    assert call["call_id"] and call["id"] != call["call_id"]


@pytest.mark.parametrize("parallel", [True, False])
def test_a_response_with_several_calls(served: Served, parallel: bool) -> None:
    tools = [{"type": "function", **WEATHER}]
    body = {"model": "twice", "input": "hi", "tools": tools, "parallel_tool_calls": parallel}
    read = read_responses(stream(served, RESPONSES, body))
    calls = [item for item in read.output if item["type"] == "function_call"]
    cities = [json.loads(call["arguments"])["city"] for call in calls]
    assert cities == (["Oslo", "Rome"] if parallel else ["Oslo"])
    assert len({call["call_id"] for call in calls} | {call["id"] for call in calls}) == 2 * len(calls)
    assert read.ended == "completed"


def test_a_response_that_is_cut(served: Served) -> None:
    body = {"model": "said", "input": "hi", "max_output_tokens": 2}
    read = read_responses(stream(served, RESPONSES, body))
    assert (read.ended, read.output[0]["status"]) == ("incomplete", "incomplete")
    assert read.last["incomplete_details"] == {"reason": "max_output_tokens"}
    assert read.output[0]["content"][0]["text"] == "onetwo"


def test_a_response_that_is_told_is_kept_already(served: Served) -> None:
    read = read_responses(stream(served, RESPONSES, {"model": "said", "input": "hi"}))
    assert served.get(f"/v1/responses/{read.last['id']}").json == read.last


# Ends before the end


@pytest.fixture
def narrow(served: Served, tmp_path: Path) -> Iterator[Served]:
    """A server of its own, so that its processes can be counted."""
    with serving(tmp_path, served.store) as server:
        yield server


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runners(server: Served) -> list[int]:
    found = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
    return [int(number) for number in found.split()]


def read_event(response: Any) -> Event:
    lines = []
    while line := response.readline().decode().rstrip("\n"):
        lines.append(line)
    return event_of("\n".join(lines))


def failure(path: str, first: list[Event], rest: bytes) -> dict[str, Any]:
    """The error at the end of a stream, whose events before were in order."""
    events = [*first, *events_of(rest)]
    error: dict[str, Any]
    if path == RESPONSES:
        read = read_responses(events)
        assert read.ended == "failed"
        error = read.last["error"]
    elif path == CHAT:
        found = read_chat(events).error
        assert found is not None and {*found} == {"message", "type", "param", "code"}
        error = found
    else:
        text = read_text(events).error
        assert text is not None
        error = text
    return error


@pytest.mark.parametrize("path", ASKED)
def test_an_answer_that_is_ended_ends_with_the_error(served: Served, path: str) -> None:
    with served.stream(path, ASKED[path], X_Request_Id="one") as response:
        first = [read_event(response) for _ in range(5)]
        assert served.ask("DELETE", "/api/requests/one").status == 200
        rest = response.read()
    assert failure(path, first, rest)["message"] == "request canceled"


def test_several_answers_that_are_ended(served: Served) -> None:
    with served.stream(CHAT, {**ASKED[CHAT], "n": 3}, X_Request_Id="three") as response:
        first = [read_event(response) for _ in range(9)]
        assert served.ask("DELETE", "/api/requests/three").status == 200
        rest = response.read()
    read = read_chat([*first, *events_of(rest)], 3)
    assert read.error is not None and read.error["message"] == "request canceled"


@pytest.mark.parametrize("path", ASKED)
def test_a_model_that_dies_under_an_answer(narrow: Served, path: str) -> None:
    with narrow.stream(path, ASKED[path]) as response:
        first = [read_event(response) for _ in range(5)]
        (runner,) = runners(narrow)
        os.kill(runner, signal.SIGKILL)
        rest = response.read()
    assert failure(path, first, rest)["message"]


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize("pieces", [True, False])
def test_a_client_that_leaves_ends_the_answer(narrow: Served, path: str, pieces: bool) -> None:
    body = {**ASKED[path], "keep_alive": 0, "stream": pieces}
    with narrow.connection() as connection:
        connection.request("POST", path, json.dumps(body))
        wait_for(lambda: bool(runners(narrow)))
        if pieces:
            read_event(connection.getresponse())
    wait_for(lambda: not runners(narrow))


def test_clients_that_leave_several_answers(narrow: Served) -> None:
    with narrow.stream(CHAT, {**ASKED[CHAT], "n": 4, "keep_alive": 0}) as response:
        for _ in range(8):
            read_event(response)
    wait_for(lambda: not runners(narrow))
    # An error before anything is said makes the status.
    refused = narrow.post(RESPONSES, {"model": "said", "input": "x" * 3000, "stream": True})
    assert (refused.status, refused.json["error"]["code"]) == (400, "context_length_exceeded")
