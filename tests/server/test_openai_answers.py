"""What OpenAI's routes answer."""

import base64
import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from tests.openai_streams import events_of
from tests.scripted_llama import write_scripted_llama
from tests.served import Served, serving
from tests.served_models import add_model

from puna.store.library import Library

HI = [{"role": "user", "content": "hi"}]
# The cache keeps half precision.
ROUNDED = 5e-3
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Oslo", "Rome"]}},
                "additionalProperties": False,
            },
        },
    }
    for name in ("weather", "time")
]


def chat(server: Served, model: str = "said", **fields: Any) -> dict[str, Any]:
    reply = server.post(CHAT, {"model": model, "messages": HI, **fields})
    assert reply.status == 200, reply.body
    document: dict[str, Any] = reply.json
    return document


def message(server: Served, model: str = "said", **fields: Any) -> dict[str, Any]:
    document: dict[str, Any] = chat(server, model, **fields)["choices"][0]["message"]
    return document


def text(server: Served, prompt: object, model: str = "said", **fields: Any) -> dict[str, Any]:
    reply = server.post(TEXT, {"model": model, "prompt": prompt, **fields})
    assert reply.status == 200, reply.body
    document: dict[str, Any] = reply.json
    return document


# /v1/chat/completions


def test_a_chat(served: Served) -> None:
    document = chat(served)
    assert document["id"].startswith("chatcmpl-") and document["system_fingerprint"].startswith("fp_")
    assert (document["object"], document["model"]) == ("chat.completion", "said")
    assert document["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "onetwothreefour", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert chat(served)["id"] != document["id"]


def test_how_long_an_answer_is(served: Served) -> None:
    limits: list[dict[str, Any]] = [{"max_tokens": 2}, {"max_completion_tokens": 2, "max_tokens": 3}]
    for fields in limits:
        (choice,) = chat(served, **fields)["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("onetwo", "length")
    assert message(served, max_tokens=-1)["content"] == "onetwothreefour"
    for stop in ("three", ["nothing", "three"]):
        assert message(served, stop=stop)["content"] == "onetwo"


def test_a_models_own_parameters_count_where_a_request_names_none(served: Served) -> None:
    # The model is greedy; with a temperature of 1 its answers would differ.
    long: dict[str, Any] = {"model": "tiny", "max_tokens": 24}
    assert len({message(served, **long)["content"] for _ in range(3)}) == 1
    warm = {message(served, **long, temperature=3.0, top_p=1.0)["content"] for _ in range(3)}
    assert len(warm) > 1
    seeded = {message(served, **long, temperature=3.0, seed=7)["content"] for _ in range(2)}
    assert len(seeded) == 1


def test_choices_share_the_prompt(served: Served, tmp_path: Path) -> None:
    # What shares a batch changes the last bits of keys, which a cache of half precision may round either way.
    with serving(tmp_path, served.store, PUNA_KV_CACHE_TYPE="f32") as server:
        document = chat(server, "tiny", n=3, max_tokens=8, temperature=2.0, seed=1)
        again = chat(server, "tiny", n=3, max_tokens=8, temperature=2.0, seed=1)
        alone = chat(server, "tiny", max_tokens=8, temperature=2.0, seed=1)
    texts = [choice["message"]["content"] for choice in document["choices"]]
    assert len({*texts}) == 3
    assert [choice["message"]["content"] for choice in again["choices"]] == texts
    assert alone["choices"][0]["message"]["content"] == texts[0]
    assert document["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]
    assert document["usage"]["completion_tokens"] == 24


def test_the_prompt_of_several_choices_is_read_once(served: Served, tmp_path: Path) -> None:
    with serving(tmp_path, served.store, PUNA_METRICS="1") as server:
        prompt = chat(server, "tiny", n=4, max_tokens=12, temperature=2.0)["usage"]["prompt_tokens"]
        text = server.get("/metrics").body.decode()
    (cached,) = re.findall(r'puna_tokens_total\{kind="cached",.*\} ([0-9.]+)', text)
    assert float(cached) == 3 * (prompt - 1)


def test_what_is_said_of_logits(served: Served) -> None:
    tokens = served.post("/api/tokenize", {"model": "said", "prompt": "two", "parse_special": True})
    (two,) = [id for id in tokens.json["tokens"] if id > 1]
    assert not message(served, logit_bias={str(two): -100}, max_tokens=4)["content"].startswith("onetwo")
    assert message(served, logit_bias={str(two): 100}, max_tokens=3)["content"] == "twotwotwo"


def test_formats(served: Served) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    closed = {**schema, "additionalProperties": False}
    for strict in (True, False):
        format = {"type": "json_schema", "json_schema": {"name": "x", "strict": strict, "schema": closed}}
        assert isinstance(json.loads(message(served, response_format=format)["content"])["ok"], bool)
    free = message(served, response_format={"type": "json_object"}, logit_bias={}, max_tokens=400)["content"]
    assert free.startswith("{")
    choice = {"type": "choice", "choice": ["yes", "no"]}
    assert message(served, response_format=choice)["content"] in ("yes", "no")
    regex = {"type": "regex", "regex": "[0-9]{3}"}
    assert message(served, response_format=regex)["content"].isdigit()
    for syntax, grammar in (("gbnf", 'root ::= "a" "b"'), ("lark", 'start: "a" "b"')):
        format = {"type": "grammar", "grammar": grammar, "syntax": syntax}
        assert message(served, response_format=format)["content"] == "ab"
    assert message(served, response_format={"type": "text"})["content"] == "onetwothreefour"


@pytest.mark.parametrize(
    "think", [{"reasoning_effort": "none"}, {"reasoning": {"effort": "none"}}, {"think": False}]
)
def test_thinking_is_turned_off(served: Served, think: dict[str, Any]) -> None:
    # This model thinks all the same; what matters is that nobody asks it to.
    assert served.post(CHAT, {"model": "said", "messages": HI, **think}).status == 200


def test_thinking(served: Served) -> None:
    for effort in ("minimal", "low", "medium", "high", "xhigh", "max"):
        found = message(served, "thinks", reasoning_effort=effort)
        assert (found["reasoning"], found["content"]) == ("Hmm…\n", "Blue.")
    refused = served.post(CHAT, {"model": "said", "messages": HI, "reasoning_effort": "high"})
    assert refused.status == 400 and "does not support thinking" in refused.json["error"]["message"]


def test_tool_choices(served: Served) -> None:
    found = message(served, "calls", tools=TOOLS)
    (call,) = found["tool_calls"]
    assert call["type"] == "function" and call["id"].startswith("call_")
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}
    assert "tool_calls" not in message(served, "calls", tools=TOOLS, tool_choice="none")
    for choice in ("required", {"type": "function", "function": {"name": "time"}}):
        document = chat(served, "calls", tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
        (one,) = document["choices"]
        assert one["finish_reason"] == "tool_calls" and one["message"]["content"] is None
        (call,) = one["message"]["tool_calls"]
        if choice != "required":
            assert call["function"]["name"] == "time"
        assert {*json.loads(call["function"]["arguments"])} <= {"city"}


def test_only_some_tools_are_allowed(served: Served) -> None:
    def only(name: str, mode: str) -> dict[str, Any]:
        tools = [{"type": "function", "function": {"name": name}}]
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}

    asked = {"tools": TOOLS, "parallel_tool_calls": False}
    forced = message(served, "calls", tool_choice=only("time", "required"), **asked)
    assert [call["function"]["name"] for call in forced["tool_calls"]] == ["time"]
    one = [tool for tool in TOOLS if '"weather"' in json.dumps(tool)]
    assert len(one) == 1 < len(TOOLS)
    by_choice = chat(served, "calls", tool_choice=only("weather", "auto"), **asked)["usage"]
    by_hand = chat(served, "calls", tools=one, parallel_tool_calls=False)["usage"]
    assert by_choice["prompt_tokens"] == by_hand["prompt_tokens"]


def rendered(server: Served, messages: list[dict[str, Any]]) -> int:
    return int(chat(server, "thinks", messages=messages)["usage"]["prompt_tokens"])


def test_messages_in_every_form(served: Served) -> None:
    parts = [{"type": "text", "text": "hi"}, {"type": "text", "text": "you"}]
    assert rendered(served, [{"role": "user", "content": parts}]) == rendered(
        served, [{"role": "user", "content": "hi\nyou"}]
    )
    developer, system = ([{"role": role, "content": "Be kind."}, *HI] for role in ("developer", "system"))
    assert rendered(served, developer) == rendered(served, system)
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    talk: list[dict[str, Any]] = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "Hm."},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "user", "content": "So?"},
    ]
    long = rendered(served, talk)
    talk[1]["reasoning_content"] = talk[1].pop("reasoning")
    assert rendered(served, talk) == long
    del talk[1]["reasoning_content"]
    assert rendered(served, talk) < long


def test_too_long_a_conversation_is_shortened_where_it_may_be(served: Served) -> None:
    old = {"role": "user", "content": "x" * 600}
    body = {"model": "said", "messages": [old, {"role": "assistant", "content": "ok"}, *HI]}
    assert served.post(CHAT, body).json["error"]["code"] == "context_length_exceeded"
    reply = served.post(CHAT, {**body, "truncate": True})
    assert reply.json["usage"]["dropped_tokens"] > 500


def test_what_has_no_effect_is_named(served: Served) -> None:
    fields = {"user": "me", "store": True, "prediction": None, "service_tier": "auto", "options": {"odd": 1}}
    reply = served.post(CHAT, {"model": "said", "messages": HI, **fields, "id_slot": 1, "bad name\r\n": 1})
    assert reply.headers["puna-ignored-params"] == "user, store, id_slot, options.odd"
    strict = served.post(CHAT + "?strict=1", {"model": "said", "messages": HI, "user": "me"})
    assert (strict.status, strict.json["error"]["param"]) == (400, "user")
    by_header = served.post(CHAT, {"model": "said", "messages": HI, "options": {"odd": 1}}, Puna_Strict="1")
    assert (by_header.status, by_header.json["error"]["param"]) == (400, "options.odd")
    clean = served.post(CHAT + "?strict=1", {"model": "said", "messages": HI, "stream": False})
    assert clean.status == 200 and "puna-ignored-params" not in clean.headers


# /v1/completions


def test_a_text_goes_on_as_it_is(served: Served) -> None:
    document = text(served, "hi<|go|>")
    assert document["id"].startswith("cmpl-") and document["object"] == "text_completion"
    assert document["choices"] == [
        {"text": "onetwothreefour", "index": 0, "logprobs": None, "finish_reason": "stop"}
    ]
    # The template would have had the model begin its answer.
    assert text(served, "hi", max_tokens=4)["choices"][0]["text"] != "onet"


def test_prompts_of_every_form(served: Served) -> None:
    tokens = served.post("/api/tokenize", {"model": "said", "prompt": "hi<|go|>", "parse_special": True})
    ids = tokens.json["tokens"]
    assert text(served, ids)["choices"][0]["text"] == "onetwothreefour"
    assert text(served, ids)["usage"]["prompt_tokens"] == len(ids)
    several = text(served, [ids, ids], n=2)
    assert [(one["index"], one["text"]) for one in several["choices"]] == [
        (index, "onetwothreefour") for index in range(4)
    ]
    assert several["usage"]["prompt_tokens"] == 2 * len(ids)
    assert [one["text"] for one in text(served, ["a<|go|>", "b<|go|>"], max_tokens=1)["choices"]] == [
        "one"
    ] * 2


def test_echo(served: Served) -> None:
    assert text(served, "hi<|go|>", echo=True)["choices"][0]["text"] == "hi<|go|>onetwothreefour"
    tokens = served.post("/api/tokenize", {"model": "said", "prompt": "hi<|go|>", "parse_special": True})
    ids = tokens.json["tokens"]
    assert text(served, ids, echo=True)["choices"][0]["text"].endswith("hi<|go|>onetwothreefour")


def test_logprobs_of_a_text(served: Served) -> None:
    (choice,) = text(served, "hi<|go|>", logprobs=2, max_tokens=3)["choices"]
    found = choice["logprobs"]
    assert (found["tokens"], found["text_offset"]) == (["one", "two", "three"], [0, 3, 6])
    for token, logprob, top in zip(
        found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True
    ):
        assert len(top) == 2 and top[token] == logprob == max(top.values()) < 0


def scored(choice: dict[str, Any]) -> dict[str, Any]:
    """The log-probabilities of a prompt and its answer, whose offsets are where the tokens stand."""
    found: dict[str, Any] = choice["logprobs"]
    assert len({len(values) for values in found.values()}) == 1
    for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
        assert choice["text"][offset:].startswith(token)
    assert found["token_logprobs"][0] is None and found["top_logprobs"][0] is None
    return found


def test_logprobs_of_the_prompt(served: Served) -> None:
    """What the model says becomes a prompt: its tokens are as likely there as when they were said."""
    letters = {"type": "regex", "regex": "[a-z]{40}"}
    said = text(served, "hi", "tiny", logprobs=0, response_format=letters)["choices"][0]
    reply = text(served, "hi" + said["text"], "tiny", echo=True, logprobs=2, max_tokens=0)
    (choice,) = reply["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("hi" + said["text"], "length")
    found = scored(choice)
    assert found["tokens"] == ["h", "i", *said["text"]]
    assert found["token_logprobs"][2:] == pytest.approx(said["logprobs"]["token_logprobs"], abs=ROUNDED)
    assert all(len(top) <= 2 for top in found["top_logprobs"][1:])
    assert (reply["usage"]["prompt_tokens"], reply["usage"]["completion_tokens"]) == (42, 0)
    ids = served.post("/api/tokenize", {"model": "tiny", "prompt": choice["text"]}).json["tokens"]
    again = text(served, [ids, ids], "tiny", echo=True, logprobs=2, max_tokens=0)["choices"]
    assert [one["text"] for one in again] == [choice["text"]] * 2
    for one in again:
        assert scored(one)["token_logprobs"][1:] == pytest.approx(found["token_logprobs"][1:], abs=ROUNDED)


def test_logprobs_of_a_prompt_and_its_answers(served: Served) -> None:
    asked: dict[str, Any] = {"echo": True, "logprobs": 1, "n": 2}
    choices = text(served, "hi<|go|>", **asked)["choices"]
    for choice in choices:
        assert choice["text"] == "hi<|go|>onetwothreefour"
        assert scored(choice)["tokens"] == ["h", "i", "<|go|>", "one", "two", "three", "four"]
    body = {"model": "said", "prompt": "hi<|go|>", **asked, "stream": True}
    told = [{"text": "", "logprobs": {name: [] for name in choices[0]["logprobs"]}} for _ in range(2)]
    for event in events_of(served.post(TEXT, body).body)[:-1]:
        (one,) = event.json["choices"]
        so_far: dict[str, Any] = told[one["index"]]
        so_far["text"] += one["text"]
        for name, values in one["logprobs"].items():
            so_far["logprobs"][name] += values
    for streamed, choice in zip(told, choices, strict=True):
        assert streamed["text"] == choice["text"]
        found = scored(streamed)
        assert (found["tokens"], found["text_offset"]) == tuple(
            choice["logprobs"][name] for name in ("tokens", "text_offset")
        )


def test_a_token_before_the_prompt_is_no_part_of_its_text(served: Served, tmp_path: Path) -> None:
    library = Library(tmp_path / "models")
    metadata = {"tokenizer.ggml.add_bos_token": True}
    model = write_scripted_llama(tmp_path / "begins.gguf", ("one", "two"), metadata=metadata)
    add_model(library, "begins", model)
    with serving(tmp_path, tmp_path / "models") as server:
        (choice,) = text(server, "hi<|go|>", "begins", echo=True, logprobs=0)["choices"]
    found = choice["logprobs"]
    assert choice["text"] == "hi<|go|>onetwo"
    assert found["tokens"] == ["<s>", "h", "i", "<|go|>", "one", "two"]
    assert found["text_offset"] == [0, 0, 1, 2, 8, 11]
    assert found["token_logprobs"][0] is None and max(found["token_logprobs"][1:]) < 0


def test_the_best_of_several_texts(served: Served) -> None:
    common: dict[str, Any] = {"model": "tiny", "max_tokens": 6, "temperature": 3.0, "seed": 5, "logprobs": 0}
    all_of_them = text(served, "hi", **common, n=4)["choices"]
    sums = [sum(one["logprobs"]["token_logprobs"]) / 6 for one in all_of_them]
    best = text(served, "hi", **common, best_of=4)
    (choice,) = best["choices"]
    assert choice["text"] == all_of_them[sums.index(max(sums))]["text"]
    assert best["usage"]["completion_tokens"] == 24


def test_a_gap_is_filled(served: Served) -> None:
    found = text(served, "def f(", "fills", suffix="return")
    assert found["choices"][0]["text"] == "onetwothreefour"
    refused = served.post(TEXT, {"model": "said", "prompt": "def f(", "suffix": "return"})
    assert refused.status == 400 and "does not support insert" in refused.json["error"]["message"]


# /v1/embeddings, /v1/models


def test_embeddings_of_every_form(served: Served) -> None:
    reply = served.post("/v1/embeddings", {"model": "tiny", "input": ["hi", "there"]}).json
    assert (reply["object"], reply["model"]) == ("list", "tiny")
    assert [(one["object"], one["index"]) for one in reply["data"]] == [("embedding", 0), ("embedding", 1)]
    first = reply["data"][0]["embedding"]
    native = served.post("/api/embed", {"model": "tiny", "input": ["hi"]}).json
    assert first == pytest.approx(native["embeddings"][0], abs=1e-6)
    encoded = served.post(
        "/v1/embeddings", {"model": "tiny", "input": "hi", "encoding_format": "BASE64"}
    ).json
    content = base64.b64decode(encoded["data"][0]["embedding"])
    assert struct.unpack(f"<{len(first)}f", content) == pytest.approx(first, abs=1e-6)
    assert encoded["usage"] == dict.fromkeys(("prompt_tokens", "total_tokens"), native["prompt_eval_count"])
    ids = served.post("/api/tokenize", {"model": "tiny", "prompt": "hi"}).json["tokens"]
    for given in (ids, [ids, ids]):
        again = served.post("/v1/embeddings", {"model": "tiny", "input": given}).json["data"]
        assert again[0]["embedding"] == pytest.approx(first, abs=1e-5)
    short = served.post("/v1/embeddings", {"model": "tiny", "input": "hi", "dimensions": 5}).json
    assert len(short["data"][0]["embedding"]) == 5


def test_models(served: Served) -> None:
    listed = served.get("/v1/models").json
    assert listed["object"] == "list"
    tiny = next(one for one in listed["data"] if one["id"] == "tiny:latest")
    assert {*tiny} == {"id", "object", "created", "owned_by"}
    assert (tiny["object"], tiny["owned_by"]) == ("model", "library") and tiny["created"] > 10**9
    for id in ("tiny", "tiny:latest", "library/tiny", "registry.ollama.ai/library/tiny:latest"):
        assert served.get(f"/v1/models/{id}").json == {**tiny, "id": id}
    for id in ("none", "a/b/c/d/e", ".."):
        missing = served.get(f"/v1/models/{id}")
        assert (missing.status, missing.json["error"]["code"]) == (404, "model_not_found")
