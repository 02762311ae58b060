"""Anthropic's own Python client against `puna serve`."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam, ToolParam
from pydantic import BaseModel, ConfigDict
from tests.served import Served, serving

HI: list[MessageParam] = [{"role": "user", "content": "hi"}]
WEATHER: ToolParam = {
    "name": "weather",
    "description": "The weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Reply(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(extra="forbid")
    ok: bool


@pytest.fixture
def client(served: Served) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0) as client:
        yield client


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_message(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model="said", max_tokens=50, messages=HI)
    assert (message.type, message.role, message.model) == ("message", "assistant", "said")
    assert text_of(message) == "onetwothreefour"
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.usage.output_tokens == 4
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) > 0
    assert message._request_id


def test_a_message_in_events(client: anthropic.Anthropic) -> None:
    with client.messages.create(model="said", max_tokens=50, messages=HI, stream=True) as stream:
        kinds = [event.type for event in stream]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("content_block_delta") == 4


def test_a_stream(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="said", max_tokens=50, messages=HI) as stream:
        assert list(stream.text_stream) == ["one", "two", "three", "four"]
        final = stream.get_final_message()
    assert text_of(final) == "onetwothreefour"
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 4)
    again = client.messages.create(model="said", max_tokens=50, messages=HI)
    total = client.messages.count_tokens(model="said", messages=HI).input_tokens
    for usage in (final.usage, again.usage):
        assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == total


def test_stop_sequences(client: anthropic.Anthropic) -> None:
    with client.messages.stream(
        model="said",
        max_tokens=50,
        messages=HI,
        stop_sequences=["three"],
        extra_body={"temperature": 0.0, "top_k": 5, "top_p": 0.9},
    ) as stream:
        final = stream.get_final_message()
    assert (text_of(final), final.stop_reason, final.stop_sequence) == ("onetwo", "stop_sequence", "three")


def test_a_tool_is_called_and_its_result_sent_back(client: anthropic.Anthropic) -> None:
    messages: list[MessageParam] = [{"role": "user", "content": "The weather in Oslo?"}]
    first = client.messages.create(model="calls", max_tokens=99, messages=messages, tools=[WEATHER])
    assert first.stop_reason == "tool_use"
    (call,) = (block for block in first.content if block.type == "tool_use")
    assert (call.name, call.input) == ("weather", {"city": "Oslo"})
    messages += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"}]},
    ]
    second = client.messages.create(model="calls", max_tokens=99, messages=messages, tools=[WEATHER])
    assert text_of(second).startswith("Let me see.")


def test_a_tool_in_a_stream(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="calls", max_tokens=99, messages=HI, tools=[WEATHER]) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    assert json.loads("".join(pieces)) == {"city": "Oslo"}
    assert [block.type for block in final.content] == ["text", "tool_use"]
    assert final.content[1].type == "tool_use" and final.content[1].input == {"city": "Oslo"}


def test_the_choice_of_tools(client: anthropic.Anthropic) -> None:
    choices: list[tuple[Any, list[str]]] = [
        ({"type": "any"}, ["tool_use"]),
        ({"type": "tool", "name": "weather"}, ["tool_use"]),
        ({"type": "none"}, ["text"]),
        ({"type": "auto", "disable_parallel_tool_use": True}, ["text", "tool_use"]),
    ]
    for choice, kinds in choices:
        message = client.messages.create(
            model="calls", max_tokens=99, messages=HI, tools=[WEATHER], tool_choice=choice
        )
        assert [block.type for block in message.content] == kinds


def test_thinking(client: anthropic.Anthropic) -> None:
    with client.messages.stream(
        model="thinks", max_tokens=50, messages=HI, thinking={"type": "enabled", "budget_tokens": 40}
    ) as stream:
        thought = "".join(event.thinking for event in stream if event.type == "thinking")
        final = stream.get_final_message()
    assert thought.strip() == "Hmm…"
    block = final.content[0]
    assert block.type == "thinking" and block.thinking == thought and block.signature
    back: list[MessageParam] = [*HI, {"role": "assistant", "content": final.content}, *HI]
    message = client.messages.create(
        model="thinks", max_tokens=50, messages=back, thinking={"type": "enabled", "budget_tokens": 1}
    )
    assert message.content[0].type == "thinking" and message.content[0].thinking.strip() == "Hmm"
    assert text_of(message) == "Blue."


def test_an_answer_in_a_schema(client: anthropic.Anthropic) -> None:
    reply = client.messages.parse(model="said", max_tokens=200, messages=HI, output_format=Reply)
    assert isinstance(reply.parsed_output, Reply)


def test_count_tokens(client: anthropic.Anthropic) -> None:
    few = client.messages.count_tokens(model="said", messages=HI)
    more = client.messages.count_tokens(model="said", messages=HI, system="Be kind.")
    tools = client.messages.count_tokens(
        model="calls", messages=HI, tools=[WEATHER], tool_choice={"type": "any"}
    )
    assert 0 < few.input_tokens < more.input_tokens < tools.input_tokens


def test_models(client: anthropic.Anthropic) -> None:
    found = {model.id: model for model in client.models.list(limit=3)}
    assert {"said:latest", "calls:latest", "thinks:latest"} <= {*found}
    model = client.models.retrieve("said")
    assert model == found["said:latest"]
    assert (model.type, model.lifecycle, model.created_at.year > 2000) == ("model", "active", True)


def test_errors(client: anthropic.Anthropic) -> None:
    cases: list[tuple[dict[str, Any], type[anthropic.APIStatusError], str]] = [
        ({"model": "nix"}, anthropic.NotFoundError, "not_found_error"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_request_error"),
        ({"messages": []}, anthropic.BadRequestError, "invalid_request_error"),
        ({"tools": [{"type": "web_search_20250305"}]}, anthropic.BadRequestError, "invalid_request_error"),
    ]
    for change, expected, kind in cases:
        for stream in (False, True):
            arguments: dict[str, Any] = {"model": "said", "max_tokens": 9, "messages": HI, **change}
            with pytest.raises(expected) as caught:
                client.messages.create(**arguments, stream=stream)
            assert caught.value.request_id
            assert isinstance(caught.value.body, dict)
            assert caught.value.body["error"]["type"] == kind


def test_keys(served: Served, tmp_path: Path) -> None:
    with serving(tmp_path, served.store, PUNA_API_KEYS="k" * 20) as server:
        with (
            anthropic.Anthropic(base_url=server.url, api_key="wrong", max_retries=0) as client,
            pytest.raises(anthropic.AuthenticationError),
        ):
            client.models.list()
        with anthropic.Anthropic(base_url=server.url, api_key="k" * 20, max_retries=0) as client:
            assert (
                text_of(client.messages.create(model="said", max_tokens=50, messages=HI)) == "onetwothreefour"
            )
        with anthropic.Anthropic(base_url=server.url, auth_token="k" * 20, max_retries=0) as client:
            assert client.messages.count_tokens(model="said", messages=HI).input_tokens > 0


def test_several_tasks(served: Served) -> None:
    async def ask(client: anthropic.AsyncAnthropic) -> str:
        async with client.messages.stream(model="said", max_tokens=50, messages=HI) as stream:
            return "".join([text async for text in stream.text_stream])

    async def several() -> list[str]:
        async with anthropic.AsyncAnthropic(base_url=served.url, api_key="none", max_retries=0) as client:
            message = await client.messages.create(model="said", max_tokens=50, messages=HI)
            assert text_of(message) == "onetwothreefour"
            assert [model.id async for model in client.models.list(limit=2)]
            return await asyncio.gather(*(ask(client) for _ in range(4)))

    assert asyncio.run(several()) == ["onetwothreefour"] * 4
