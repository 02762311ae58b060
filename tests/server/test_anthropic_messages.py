"""POST /v1/messages over a real socket: answers in one piece and streamed, which must say the same."""

import json
from typing import Any

import pytest
from tests.anthropic_streams import Checked, as_message, checked, events_of
from tests.served import Served

HI = [{"role": "user", "content": "hi"}]
WEATHER = {
    "name": "weather",
    "description": "The weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALLED = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "Let me see."},
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}},
        ],
    },
]


def body(model: str, messages: object = HI, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": messages, "max_tokens": 100, **more}


def whole(served: Served, model: str, messages: object = HI, **more: Any) -> dict[str, Any]:
    reply = served.post("/v1/messages", body(model, messages, **more))
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == "application/json; charset=utf-8"
    message: dict[str, Any] = reply.json
    return message


def streamed(served: Served, model: str, messages: object = HI, **more: Any) -> Checked:
    reply = served.post("/v1/messages", body(model, messages, stream=True, **more))
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    return checked(events_of(reply.body))


def both(served: Served, model: str, messages: object = HI, **more: Any) -> dict[str, Any]:
    """The answer in one piece; the stream says the same."""
    one = whole(served, model, messages, **more)
    assert one["id"].startswith("msg_")
    stream = streamed(served, model, messages, **more)
    assert stream.state == "stopped" and stream.pings == 1
    assert stream.message["id"].startswith("msg_") and stream.message["id"] != one["id"]
    two = as_message(stream)
    kept = [{**block, "id": ""} if "id" in block else block for block in one["content"]]
    assert {**two, "usage": 0} == {**one, "id": "", "content": kept, "usage": 0}
    # Now the prompt is in the cache.
    total = one["usage"]["input_tokens"] + one["usage"]["cache_read_input_tokens"]
    assert two["usage"]["input_tokens"] + two["usage"]["cache_read_input_tokens"] == total
    assert stream.message["usage"]["input_tokens"] == total
    # What ends an answer after its only call comes to the runner a little late, and what it made is counted.
    if not more.get("tool_choice", {}).get("disable_parallel_tool_use"):
        assert two["usage"]["output_tokens"] == one["usage"]["output_tokens"]
    return one


def prompt_of(served: Served, **asked: Any) -> str:
    """What the native route makes of the same."""
    reply = served.post("/api/chat", {"stream": False, "_debug_render_only": True, **asked})
    return str(reply.json["_debug_info"]["rendered_template"])


def count(served: Served, model: str, messages: object = HI, **more: Any) -> int:
    reply = served.post("/v1/messages/count_tokens", {"model": model, "messages": messages, **more})
    assert reply.status == 200, reply.body
    assert {*reply.json} == {"input_tokens"}
    return int(reply.json["input_tokens"])


def test_a_text(served: Served) -> None:
    message = both(served, "SAID:Latest")
    assert {name: value for name, value in message.items() if name not in ("id", "usage")} == {
        "type": "message",
        "role": "assistant",
        "model": "SAID:Latest",
        "content": [{"type": "text", "text": "onetwothreefour"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }
    assert message["usage"]["output_tokens"] == 4


def test_the_stream_comes_piece_by_piece(served: Served) -> None:
    reply = served.post("/v1/messages", body("said", stream=True))
    kinds = [event["type"] for event in events_of(reply.body)]
    assert kinds == [
        *("message_start", "ping", "content_block_start"),
        *["content_block_delta"] * 4,
        *("content_block_stop", "message_delta", "message_stop"),
    ]


def test_the_cache_counts_for_itself(served: Served) -> None:
    messages = [{"role": "user", "content": "What nobody else in these tests asks for, at some length."}]
    first, second = whole(served, "said", messages)["usage"], whole(served, "said", messages)["usage"]
    tokens = count(served, "said", messages)
    assert first["input_tokens"] + first["cache_read_input_tokens"] == tokens
    assert second["input_tokens"] + second["cache_read_input_tokens"] == tokens
    assert second["cache_read_input_tokens"] > tokens // 2 > first["cache_read_input_tokens"]
    assert second["cache_creation_input_tokens"] == 0


@pytest.mark.parametrize(
    ("more", "text", "reason", "sequence"),
    [
        ({"max_tokens": 2}, "onetwo", "max_tokens", None),
        ({"max_tokens": 2**70}, "onetwothreefour", "end_turn", None),
        ({"stop_sequences": ["fou", "thr"]}, "onetwo", "stop_sequence", "thr"),
        ({"stop_sequences": ["twothr"]}, "one", "stop_sequence", "twothr"),
        ({"stop_sequences": ["never"]}, "onetwothreefour", "end_turn", None),
        ({"stop_sequences": []}, "onetwothreefour", "end_turn", None),
        (
            {"temperature": 0, "top_p": 0.5, "top_k": 1, "service_tier": "auto"},
            "onetwothreefour",
            "end_turn",
            None,
        ),
        ({"metadata": {"user_id": "u"}, "system": None, "tools": None}, "onetwothreefour", "end_turn", None),
    ],
)
def test_how_answers_end(
    served: Served, more: dict[str, Any], text: str, reason: str, sequence: str | None
) -> None:
    message = both(served, "said", **more)
    assert message["content"] == [{"type": "text", "text": text}]
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)


def test_a_stop_sequence_before_everything(served: Served) -> None:
    message = both(served, "said", stop_sequences=["one"])
    assert (message["content"], message["stop_sequence"]) == ([], "one")


# Prompts


def test_messages_become_the_prompt(served: Served) -> None:
    cached = {"cache_control": {"type": "ephemeral"}}
    system = [{"type": "text", "text": "Be kind.", **cached}, {"type": "text", "text": "Be brief."}]
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a", **cached}, {"type": "text", "text": "b"}]},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": [{"type": "text", "text": "d"}, {"type": "text", "text": "e"}]},
        {"role": "user", "content": "f"},
    ]
    native = [
        {"role": "system", "content": "Be kind.\nBe brief."},
        {"role": "user", "content": "a\nb\nc"},
        {"role": "assistant", "content": "de"},
        {"role": "user", "content": "f"},
    ]
    expected = prompt_of(served, model="said", messages=native)
    assert expected == "[system]Be kind.\nBe brief.[user]a\nb\nc[assistant]de[user]f<|go|>"
    tokens = served.post("/api/tokenize", {"model": "said", "prompt": expected, "parse_special": True}).json
    assert count(served, "said", messages, system=system) == tokens["count"]
    assert both(served, "said", messages, system=system)["usage"]["output_tokens"] == 4


def test_tokens_are_counted_without_the_weights(served: Served) -> None:
    before = {model["name"] for model in served.get("/api/ps").json["models"]}
    assert "fills:latest" not in before
    few, many = count(served, "fills"), count(served, "fills", [{"role": "user", "content": "hi" * 5000}])
    assert many > few + 9000
    assert count(served, "calls", tools=[WEATHER]) > count(served, "calls") + 20
    assert "slow:latest" not in {model["name"] for model in served.get("/api/ps").json["models"]}


# Tools


def test_a_call(served: Served) -> None:
    message = both(served, "calls", tools=[WEATHER])
    text, call = message["content"]
    assert text == {"type": "text", "text": "Let me see."}
    assert call.pop("id").startswith("toolu_")
    assert call == {"type": "tool_use", "name": "weather", "input": {"city": "Oslo"}}
    assert message["stop_reason"] == "tool_use"


def test_without_tools_there_is_no_call(served: Served) -> None:
    (block,) = both(served, "calls")["content"]
    assert block["type"] == "text" and "tool_call" in block["text"]


@pytest.mark.parametrize(
    ("choice", "calls"),
    [
        ({"type": "auto"}, True),
        ({"type": "any"}, True),
        ({"type": "tool", "name": "weather"}, True),
        ({"type": "none"}, False),
        ({"type": "any", "disable_parallel_tool_use": True}, True),
        ({"type": "auto", "disable_parallel_tool_use": True}, True),
    ],
)
def test_the_choice_of_tools_is_kept(served: Served, choice: dict[str, Any], calls: bool) -> None:
    message = both(served, "calls", tools=[{**WEATHER, "type": "custom"}], tool_choice=choice)
    found = [block["name"] for block in message["content"] if block["type"] == "tool_use"]
    assert found == ["weather"] * calls
    assert (message["stop_reason"] == "tool_use") == calls


def test_one_call_at_a_time(served: Served) -> None:
    assert len(_calls(both(served, "twice", tools=[WEATHER]))) == 2
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    message = both(served, "twice", tools=[WEATHER], tool_choice=choice)
    assert len(_calls(message)) == 1
    assert message["stop_reason"] == "tool_use"


def _calls(message: dict[str, Any]) -> list[Any]:
    return [block for block in message["content"] if block["type"] == "tool_use"]


def test_results_of_tools(served: Served) -> None:
    results = [
        {"type": "text", "text": "And tomorrow?"},
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "rain"}]},
    ]
    native = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [{"id": "toolu_1", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}],
        },
        {"role": "tool", "content": "rain", "tool_call_id": "toolu_1", "tool_name": "weather"},
        {"role": "user", "content": "And tomorrow?"},
    ]
    expected = prompt_of(served, model="calls", messages=native)
    assert "[tool]rain[user]And tomorrow?" in expected
    tokens = served.post("/api/tokenize", {"model": "calls", "prompt": expected, "parse_special": True}).json
    assert count(served, "calls", [*CALLED, {"role": "user", "content": results}]) == tokens["count"]
    failed = {"type": "tool_result", "tool_use_id": "toolu_1", "is_error": True, "content": "no net"}
    longer = count(served, "calls", [*CALLED, {"role": "user", "content": [failed]}])
    plain = count(served, "calls", [*CALLED, {"role": "user", "content": [{**failed, "is_error": False}]}])
    assert longer > plain


# Thinking


@pytest.mark.parametrize(
    "thinking", [None, {"type": "adaptive"}, {"type": "enabled", "budget_tokens": 50}, {"type": "disabled"}]
)
def test_thinking(served: Served, thinking: object) -> None:
    message = both(served, "thinks", thinking=thinking)
    thought, text = message["content"]
    assert {*thought} == {"type", "thinking", "signature"}
    assert thought["thinking"].strip() == "Hmm…"
    assert thought["signature"]
    assert text == {"type": "text", "text": "Blue."}


def test_thinking_ends_when_its_budget_is_used_up(served: Served) -> None:
    message = both(served, "thinks", thinking={"type": "enabled", "budget_tokens": 1})
    thought, text = message["content"]
    assert thought["thinking"].strip() == "Hmm"
    assert text == {"type": "text", "text": "Blue."}
    assert message["stop_reason"] == "end_turn"


def test_a_model_that_cannot_think_answers(served: Served) -> None:
    message = both(served, "said", thinking={"type": "enabled", "budget_tokens": 50})
    assert message["content"] == [{"type": "text", "text": "onetwothreefour"}]


def test_thinking_goes_back(served: Served) -> None:
    thought = whole(served, "thinks")["content"]
    messages = [
        *HI,
        {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}, *thought]},
        *HI,
    ]
    with_thinking = count(served, "thinks", messages)
    assert with_thinking > count(served, "thinks", [*HI, {"role": "assistant", "content": "Blue."}, *HI])


# Forms


def test_a_schema(served: Served) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    more = {"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": schema}}}
    message = both(served, "said", **more)
    (block,) = message["content"]
    assert message["stop_reason"] == "max_tokens" or isinstance(json.loads(block["text"])["n"], int)
    assert block["text"].lstrip().startswith("{")
