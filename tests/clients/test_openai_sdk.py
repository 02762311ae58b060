"""OpenAI's own Python client, as it is, against `puna serve`."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from openai.types.responses import ResponseInputParam
from pydantic import BaseModel, ConfigDict
from tests.served import Served

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS, "strict": True}}
]
FLAT_TOOLS: list[Any] = [{"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}]


class Reply(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(extra="forbid")
    ok: bool


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


# Chat


def test_chat(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="said", messages=HI, n=2, user="me")
    assert [choice.message.content for choice in reply.choices] == ["onetwothreefour"] * 2
    assert [choice.finish_reason for choice in reply.choices] == ["stop"] * 2
    assert reply.usage is not None and reply.usage.completion_tokens == 8
    assert reply.usage.prompt_tokens_details is not None


def test_chat_in_pieces(client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model="said", messages=HI, stream=True, stream_options={"include_usage": True}
    ) as chunks:
        *pieces, last = chunks
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "onetwothreefour"
    assert pieces[-1].choices[0].finish_reason == "stop"
    assert last.choices == [] and last.usage is not None and last.usage.completion_tokens == 4


def test_a_stream_with_helpers(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="calls", messages=HI, tools=TOOLS) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds[-1] == "tool_calls.function.arguments.done" and "content.done" in kinds
    (call,) = final.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == {"city": "Oslo"}


def test_tools(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="calls", messages=HI, tools=TOOLS, tool_choice="auto")
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    (call,) = message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    told: Any = message.model_dump(exclude_none=True)
    result: ChatCompletionMessageParam = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    second = client.chat.completions.create(model="calls", messages=[*HI, told, result], tools=TOOLS)
    assert first.usage is not None and second.usage is not None
    assert second.usage.prompt_tokens > first.usage.prompt_tokens


def test_structured_answers(client: openai.OpenAI) -> None:
    reply = client.chat.completions.parse(
        model="said", messages=HI, response_format=Reply, max_completion_tokens=200
    )
    assert isinstance(reply.choices[0].message.parsed, Reply)
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="said", messages=HI, response_format=Reply, max_tokens=2)


def test_log_probabilities(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="said", messages=HI, logprobs=True, top_logprobs=2)
    assert reply.choices[0].logprobs is not None
    first, *_ = reply.choices[0].logprobs.content or []
    assert first.token == "one" and len(first.top_logprobs) == 2 and bytes(first.bytes or ()) == b"one"


def test_fields_of_other_programs(client: openai.OpenAI) -> None:
    reply = client.chat.completions.with_raw_response.create(
        model="said", messages=HI, extra_body={"num_ctx": 256, "keep_alive": "5m", "samplers": ["top_k"]}
    )
    assert reply.headers["puna-ignored-params"] == "samplers"
    assert reply.parse().choices[0].message.content == "onetwothreefour"


def test_completions(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="said", prompt="hi<|go|>", max_tokens=2, logprobs=1, echo=False)
    assert (reply.choices[0].text, reply.choices[0].finish_reason) == ("onetwo", "length")
    assert reply.choices[0].logprobs is not None and reply.choices[0].logprobs.tokens == ["one", "two"]
    with client.completions.create(model="said", prompt=["hi<|go|>"], stream=True) as chunks:
        assert "".join(chunk.choices[0].text for chunk in chunks) == "onetwothreefour"


def test_how_likely_a_text_is(client: openai.OpenAI) -> None:
    reply = client.completions.create(
        model="said", prompt="one<|go|>one", max_tokens=0, logprobs=1, echo=True
    )
    found = reply.choices[0].logprobs
    assert found is not None and found.token_logprobs is not None
    assert found.tokens == ["one", "<|go|>", "one"]
    # The last one is what this model says there, the one before is not.
    assert found.token_logprobs[2] > found.token_logprobs[1]


# Embeddings and models


def test_embeddings(client: openai.OpenAI) -> None:
    # Without a format, the client asks for base64 and reads it.
    plain = client.embeddings.create(model="tiny", input=["hi", "there"])
    floats = client.embeddings.create(model="tiny", input=["hi", "there"], encoding_format="float")
    assert len(plain.data) == 2 and plain.usage.total_tokens == floats.usage.total_tokens > 0
    for one, other in zip(plain.data, floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    short = client.embeddings.create(model="tiny", input="hi", dimensions=4)
    assert len(short.data[0].embedding) == 4


def test_models(client: openai.OpenAI) -> None:
    assert "said:latest" in [model.id for model in client.models.list()]
    assert client.models.retrieve("library/said:latest").owned_by == "library"


# Responses


def test_responses(client: openai.OpenAI) -> None:
    first = client.responses.create(model="thinks", input="hi", metadata={"a": "b"})
    assert (first.output_text, first.status, first.metadata) == ("Blue.", "completed", {"a": "b"})
    assert first.usage is not None and first.usage.output_tokens_details.reasoning_tokens > 0
    second = client.responses.create(model="thinks", input="And?", previous_response_id=first.id)
    assert second.usage is not None and second.usage.input_tokens > first.usage.input_tokens
    assert client.responses.retrieve(second.id).output == second.output
    (asked,) = client.responses.input_items.list(second.id)
    assert asked.type == "message"
    counted = client.responses.input_tokens.count(model="thinks", input="And?", previous_response_id=first.id)
    assert counted.input_tokens == second.usage.input_tokens
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)


def test_a_response_in_pieces(client: openai.OpenAI) -> None:
    with client.responses.create(model="thinks", input="hi", stream=True) as events:
        told = list(events)
    assert [event.sequence_number for event in told] == list(range(len(told)))
    assert (told[0].type, told[-1].type) == ("response.created", "response.completed")
    text = "".join(event.delta for event in told if event.type == "response.output_text.delta")
    thought = "".join(event.delta for event in told if event.type == "response.reasoning_summary_text.delta")
    assert (thought, text) == ("Hmm…\n", "Blue.")


def test_a_response_with_helpers(client: openai.OpenAI) -> None:
    with client.responses.stream(model="calls", input="hi", tools=FLAT_TOOLS) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    call = final.output[-1]
    assert call.type == "function_call" and call.parsed_arguments == {"city": "Oslo"}
    result: ResponseInputParam = [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
    again = client.responses.create(
        model="calls", input=result, tools=FLAT_TOOLS, previous_response_id=final.id
    )
    assert again.output_text == "Let me see."
    parsed = client.responses.parse(model="said", input="hi", text_format=Reply, max_output_tokens=200)
    assert isinstance(parsed.output_parsed, Reply)
    cut = client.responses.create(model="said", input="hi", max_output_tokens=2)
    assert cut.status == "incomplete" and cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"


# Errors


def test_errors(client: openai.OpenAI, served: Served) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="none", messages=HI)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    long: list[ChatCompletionMessageParam] = [{"role": "user", "content": "x" * 3000}]
    for stream in (True, False):
        with pytest.raises(openai.BadRequestError) as too_long:
            client.chat.completions.create(model="said", messages=long, stream=stream)
        assert too_long.value.code == "context_length_exceeded"
        assert "3007" in too_long.value.message and "512" in too_long.value.message
    with client.chat.completions.create(
        model="tiny",
        messages=HI,
        stream=True,
        extra_body={"shift": True},
        extra_headers={"X-Request-Id": "sdk"},
    ) as chunks:
        next(chunks)
        assert served.ask("DELETE", "/api/requests/sdk").status == 200
        with pytest.raises(openai.APIError, match="request canceled"):
            list(chunks)


# The client for asyncio


def test_several_at_once(served: Served) -> None:
    async def said(client: openai.AsyncOpenAI) -> str:
        chunks = await client.chat.completions.create(model="said", messages=HI, stream=True)
        async with chunks:
            return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

    async def all_at_once() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
            response = await client.responses.create(model="said", input="hi")
            vectors = await client.embeddings.create(model="tiny", input="hi")
            assert vectors.data[0].embedding
            return [response.output_text, *await asyncio.gather(*(said(client) for _ in range(4)))]

    assert asyncio.run(all_at_once()) == ["onetwothreefour"] * 5
