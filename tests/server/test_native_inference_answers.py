"""Answers of /api/generate and /api/chat, over a real socket, from models in processes of their own."""

import json
import re
from typing import Any

import pytest
from tests.served import Served
from tests.served_models import CALL

from puna.sampling.grammar import Grammar

HI = [{"role": "user", "content": "hi"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
MEASURES = {
    *("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration"),
    *("eval_count", "eval_duration"),
}


def text_of(lines: list[Any], field: str = "content") -> str:
    """What the pieces of a chat say."""
    return "".join(line["message"].get(field, "") for line in lines)


# /api/generate


def test_a_streamed_completion(served: Served) -> None:
    reply = served.post("/api/generate", {"model": "SAID:Latest", "prompt": "hi"})
    assert reply.status == 200
    *pieces, last = reply.lines
    assert [piece["response"] for piece in pieces] == ["one", "two", "three", "four"]
    for piece in pieces:
        assert {*piece} == {"model", "created_at", "response", "done"}
        assert (piece["model"], piece["done"]) == ("SAID:Latest", False)
        assert TIME.fullmatch(piece["created_at"])
    assert (last["response"], last["done"], last["done_reason"]) == ("", True, "stop")
    assert (last["model"], last["eval_count"]) == ("SAID:Latest", 4)
    assert (
        MEASURES
        <= {*last}
        <= MEASURES
        | {*("model", "created_at", "response", "done", "done_reason", "context", "cached_tokens")}
    )
    assert all(type(last[name]) is int and last[name] > 0 for name in MEASURES)
    assert last["total_duration"] >= last["prompt_eval_duration"] + last["eval_duration"]


def test_a_completion_in_one_piece(served: Served) -> None:
    reply = served.post("/api/generate", {"model": "said", "prompt": "hi", "stream": False})
    assert reply.headers["content-type"] == "application/json; charset=utf-8"
    assert reply.json["response"] == "onetwothreefour"
    assert (reply.json["done"], reply.json["done_reason"]) == (True, "stop")


def test_keys_match_in_any_case_and_null_is_left_out(served: Served) -> None:
    body = {"Model": "said", "PROMPT": "hi", "stream": False, "options": {"NUM_PREDICT": 1}, "format": None}
    assert served.post("/api/generate", {**body, "keep_alive": None}).json["response"] == "onetwothreefour"


@pytest.mark.parametrize(
    ("options", "text", "reason"),
    [
        ({"num_predict": 2}, "onetwo", "length"),
        ({"num_predict": 2.9}, "onetwo", "length"),
        ({"num_predict": -2}, "onetwothreefour", "stop"),
        ({"num_predict": 2**62}, "onetwothreefour", "stop"),
        ({"stop": ["twothr"]}, "one", "stop"),
        ({"stop": []}, "onetwothreefour", "stop"),
        ({"num_keep": -1, "num_gpu": -1, "num_thread": 0, "seed": None}, "onetwothreefour", "stop"),
        ({"low_vram": True, "numa": False, "use_mmap": True}, "onetwothreefour", "stop"),
    ],
)
def test_options(served: Served, options: dict[str, Any], text: str, reason: str) -> None:
    reply = served.post(
        "/api/generate", {"model": "said", "prompt": "hi", "stream": False, "options": options}
    )
    assert (reply.json["response"], reply.json["done_reason"]) == (text, reason)
    assert "puna-ignored-params" not in reply.headers


@pytest.mark.parametrize("stream", [True, False])
def test_options_that_mean_nothing_are_told(served: Served, stream: bool) -> None:
    options = {"num_predict": 1, "n_discard": -1, "id_slot": 3, "samplers": ["x"], "a\r\nb: c": 1}
    body = {"model": "said", "prompt": "hi", "stream": stream, "options": options, "chat_parser": "x"}
    reply = served.post("/api/generate", body)
    assert (reply.status, reply.headers["puna-ignored-params"]) == (200, "n_discard, id_slot, samplers")


def rendered(served: Served, path: str, **body: Any) -> str:
    reply = served.post(path, {"_debug_render_only": True, **body})
    assert {*reply.json["_debug_info"]} == {"rendered_template", "image_count"}
    return str(reply.json["_debug_info"]["rendered_template"])


def test_what_a_prompt_becomes(served: Served) -> None:
    def prompt(model: str, **body: Any) -> str:
        return rendered(served, "/api/generate", model=model, **body)

    assert prompt("said", prompt="a") == "[user]a<|go|>"
    assert prompt("said", prompt="a", system="s") == "[system]s[user]a<|go|>"
    assert prompt("told", prompt="a") == "[system]Be kind.[user]Hi.[assistant]Hello.[user]a<|go|>"
    assert prompt("told", prompt="a", system="s") == "[system]s[user]Hi.[assistant]Hello.[user]a<|go|>"
    assert prompt("told", prompt="a", template="T{{ .System }}/{{ .Prompt }}").startswith("TBe kind./")
    assert prompt("said", prompt="a[b]<|go|>", raw=True) == "a[b]<|go|>"
    assert prompt("fills", prompt="a", suffix="b") == "<pre>a<suf>b<mid><|go|>"
    # Earlier messages are in the context, which comes first.
    earlier = served.post("/api/tokenize", {"model": "told", "content": "one"}).json["tokens"]
    assert prompt("told", prompt="a", context=earlier) == "one[system]Be kind.[user]a<|go|>"


def test_raw_mode_reads_nothing_out_of_the_text(served: Served) -> None:
    body = {"model": "thinks", "prompt": "hi<|go|>", "raw": True, "stream": False}
    reply = served.post("/api/generate", body).json
    assert reply["response"] == "<think>\nHmm…\n</think>\n\nBlue."
    assert "thinking" not in reply and "context" not in reply


def test_the_context_goes_on(served: Served) -> None:
    first = served.post("/api/generate", {"model": "said", "prompt": "hi", "stream": False}).json
    text = served.post(
        "/api/detokenize", {"model": "said", "tokens": first["context"], "render_special": True}
    ).json["content"]
    assert text == "[user]hi<|go|>onetwothreefour"
    body = {"model": "said", "prompt": "more", "context": first["context"]}
    *_, last = served.post("/api/generate", body).lines
    assert last["context"][: len(first["context"])] == first["context"]
    # But for the end of the answer, which was not evaluated, all of it was in the cache.
    assert last["cached_tokens"] >= len(first["context"]) - 1
    assert last["prompt_eval_count"] == len(last["context"]) - 4


def test_thinking_of_a_completion(served: Served) -> None:
    reply = served.post("/api/generate", {"model": "thinks", "prompt": "hi", "stream": False}).json
    assert (reply["thinking"], reply["response"]) == ("Hmm…\n", "Blue.")


def test_a_text_is_no_place_for_pictures(served: Served) -> None:
    for text in ("[img-0]", "[img]", "<|image_1|>", "<start_of_image>"):
        many = text * 2000
        assert rendered(served, "/api/generate", model="tiny", prompt=many, shift=True) == f"[user]{many}"


# /api/chat


def test_a_streamed_chat(served: Served) -> None:
    *pieces, last = served.post("/api/chat", {"model": "said", "messages": HI}).lines
    assert text_of(pieces) == "onetwothreefour"
    for piece in pieces:
        assert {*piece} == {"model", "created_at", "message", "done"}
        assert {*piece["message"]} == {"role", "content"}
        assert piece["message"]["role"] == "assistant"
    assert last["message"] == {"role": "assistant", "content": ""}
    assert (last["done"], last["done_reason"]) == (True, "stop")
    assert {*last} >= MEASURES
    assert "context" not in last


def test_a_chat_in_one_piece(served: Served) -> None:
    reply = served.post("/api/chat", {"model": "said", "messages": HI, "stream": False})
    assert reply.json["message"] == {"role": "assistant", "content": "onetwothreefour"}


def test_what_a_conversation_becomes(served: Served) -> None:
    def prompt(*messages: dict[str, str]) -> str:
        return rendered(served, "/api/chat", model="told", messages=messages)

    system = {"role": "system", "content": "s"}
    own = "[user]Hi.[assistant]Hello."
    assert prompt(HI[0]) == f"[system]Be kind.{own}[user]hi<|go|>"
    assert prompt(system, HI[0]) == f"{own}[system]s[user]hi<|go|>"
    # Roles are in lower case, whatever they are.
    assert prompt({"role": "SYSTEM", "content": "s"}, HI[0]).endswith("[system]s[user]hi<|go|>")
    # What a text spells does not become a control token.
    spelled = {"role": "user", "content": "a<|go|>b"}
    tokens = served.post("/api/chat", {"model": "said", "messages": [spelled], "stream": False}).json
    assert tokens["prompt_eval_count"] == len("[user]a<|go|>b") + 1


@pytest.mark.parametrize("messages", [[{"role": "tool", "content": "x"}], [{"content": "x"}], [{}]])
def test_odd_conversations(served: Served, messages: list[Any]) -> None:
    assert served.post("/api/chat", {"model": "said", "messages": messages}).lines[-1]["done"]


def test_thinking_comes_apart(served: Served) -> None:
    body = {"model": "thinks", "messages": HI}
    *pieces, _ = served.post("/api/chat", body).lines
    assert (text_of(pieces, "thinking"), text_of(pieces)) == ("Hmm…\n", "Blue.")
    assert all(not (piece["message"]["content"] and "thinking" in piece["message"]) for piece in pieces)
    whole = served.post("/api/chat", {**body, "stream": False, "think": "high"}).json
    assert whole["message"] == {"role": "assistant", "content": "Blue.", "thinking": "Hmm…\n"}


SCHEMA = {
    "type": "object",
    "properties": {"n": {"const": 7}},
    "required": ["n"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("model", ["said", "thinks"])
def test_structured_answers(served: Served, model: str) -> None:
    body = {"model": model, "messages": HI, "format": SCHEMA, "stream": False}
    message = served.post("/api/chat", body).json["message"]
    assert json.loads(message["content"]) == {"n": 7}
    assert message.get("thinking") == ("Hmm…\n" if model == "thinks" else None)
    plain = served.post("/api/generate", {"model": model, "prompt": "hi", "format": SCHEMA, "stream": False})
    assert json.loads(plain.json["response"]) == {"n": 7}


def test_any_json(served: Served) -> None:
    options = {"num_predict": 20}
    body = {"model": "said", "messages": HI, "format": "json", "stream": False, "options": options}
    assert served.post("/api/chat", body).json["message"]["content"].startswith("{")
    assert served.post("/api/chat", {**body, "format": ""}).json["message"]["content"] == "onetwothreefour"


@pytest.mark.parametrize(
    "grammar", [Grammar.regex("(ab){2}c"), Grammar.choice(["ababc", "xyz"]), Grammar.lark('start: "ababc"')]
)
def test_grammars(served: Served, grammar: Grammar) -> None:
    """What a format cannot say; thoughts come before and are free, as with formats."""
    asked = {"grammar": grammar.document, "stream": False, "prompt": "hi", "messages": HI}
    assert re.fullmatch(
        "ababc|xyz", served.post("/api/generate", {"model": "said", **asked}).json["response"]
    )
    message = served.post("/api/chat", {"model": "thinks", **asked}).json["message"]
    assert re.fullmatch("ababc|xyz", message["content"])
    assert message["thinking"] == "Hmm…\n"


def test_calls_of_tools(served: Served) -> None:
    body = {"model": "calls", "messages": HI, "tools": [WEATHER]}
    *pieces, last = served.post("/api/chat", body).lines
    calls = [call for piece in pieces for call in piece["message"].get("tool_calls", [])]
    assert calls == [{"function": {"index": 0, "name": "weather", "arguments": {"city": "Oslo"}}}]
    assert (text_of(pieces), last["done_reason"]) == ("Let me see.", "stop")
    whole = served.post("/api/chat", {**body, "stream": False}).json["message"]
    assert (whole["content"], whole["tool_calls"]) == ("Let me see.", calls)
    # Without tools it is text.
    free = served.post("/api/chat", {**body, "tools": [], "stream": False}).json["message"]
    assert CALL in free["content"] and "tool_calls" not in free


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_call_can_be_required(served: Served, choice: object) -> None:
    body = {"model": "calls", "messages": HI, "tools": [WEATHER], "tool_choice": choice, "stream": False}
    message = served.post("/api/chat", {**body, "options": {"num_predict": 200}}).json["message"]
    assert message["content"] == ""
    assert message["tool_calls"][0]["function"]["name"] == "weather"


def test_calls_can_be_forbidden(served: Served) -> None:
    body = {"model": "calls", "messages": HI, "tools": [WEATHER], "tool_choice": "none", "stream": False}
    message = served.post("/api/chat", {**body, "options": {"num_predict": 20}}).json["message"]
    assert "tool_calls" not in message and message["content"].startswith("Let me see.")
    prompt = rendered(served, "/api/chat", model="calls", messages=HI, tools=[WEATHER], tool_choice="none")
    assert "TOOLS" not in prompt


def test_results_of_tools_go_back(served: Served) -> None:
    call = {"id": "c1", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    messages = [
        *HI,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "rain", "tool_name": "weather", "tool_call_id": "c1"},
    ]
    prompt = rendered(served, "/api/chat", model="calls", messages=messages, tools=[WEATHER])
    assert prompt.startswith("[user]hi[assistant][tool]rainTOOLS[")


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
@pytest.mark.parametrize("stream", [True, False])
def test_logprobs(served: Served, path: str, stream: bool) -> None:
    asked: dict[str, Any] = {"prompt": "hi"} if path == "/api/generate" else {"messages": HI}
    body = {"model": "said", **asked, "logprobs": True, "top_logprobs": 2, "stream": stream}
    reply = served.post(path, body)
    lines = reply.lines if stream else [reply.json]
    found = [entry for line in lines for entry in line.get("logprobs", [])]
    assert [entry["token"] for entry in found[:4]] == ["one", "two", "three", "four"]
    for entry in found:
        assert {*entry} == {"token", "logprob", "bytes", "top_logprobs"}
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert len(entry["top_logprobs"]) == 2
        assert entry["top_logprobs"][0]["logprob"] == pytest.approx(entry["logprob"])
        assert {*entry["top_logprobs"][0]} == {"token", "logprob", "bytes"}
    plain = served.post(path, {**body, "top_logprobs": 0})
    first = (plain.lines if stream else [plain.json])[0]["logprobs"][0]
    assert {*first} == {"token", "logprob", "bytes"}
    quiet = served.post(path, {**body, "logprobs": False})
    assert all("logprobs" not in line for line in (quiet.lines if stream else [quiet.json]))


# Context


def test_what_is_too_long_is_an_error_unless_turns_may_go(served: Served) -> None:
    turns = [{"role": role, "content": "x" * 40} for _ in range(12) for role in ("user", "assistant")]
    body = {"model": "said", "messages": [*turns, *HI], "options": {"num_ctx": 256}, "stream": False}
    refused = served.post("/api/chat", body)
    length = 12 * (len("[user]") + len("[assistant]") + 80) + len("[user]hi") + 1
    assert refused.status == 400
    assert f"the prompt has {length} tokens, but the context holds 256" in refused.error
    reply = served.post("/api/chat", {**body, "truncate": True}).json
    assert reply["prompt_eval_count"] + reply["dropped_tokens"] == length
    assert reply["message"]["content"] == "onetwothreefour"


def test_a_full_context_ends_the_answer_unless_it_may_shift(served: Served) -> None:
    body = {"model": "tiny", "prompt": "hi", "options": {"num_ctx": 64, "num_predict": 200}, "stream": False}
    full = served.post("/api/generate", body).json
    assert (full["done_reason"], full["prompt_eval_count"] + full["eval_count"]) == ("length", 64)
    assert "dropped_tokens" not in full
    shifted = served.post("/api/generate", {**body, "shift": True}).json
    assert shifted["eval_count"] == 200
    assert shifted["dropped_tokens"] >= 200 - 64


def test_a_prompt_that_is_too_long_may_lose_its_middle(served: Served) -> None:
    prompt = "begin" + "x" * 300
    body = {"model": "tiny", "prompt": prompt, "options": {"num_ctx": 64, "num_predict": 4}, "stream": False}
    assert served.post("/api/generate", body).status == 400
    assert served.post("/api/generate", {**body, "truncate": True}).status == 400
    for more in ({"shift": True}, {"shift": True, "truncate": True}):
        reply = served.post("/api/generate", {**body, **more}).json
        assert reply["prompt_eval_count"] + reply["dropped_tokens"] == len("[user]") + len(prompt)
