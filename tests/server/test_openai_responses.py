"""/v1/responses: conversations that go on from an id, and who may see what is kept."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.served import Reply, Served, serving

RESPONSES = "/v1/responses"
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}}


def create(server: Served, model: str = "said", **fields: Any) -> dict[str, Any]:
    reply = server.post(RESPONSES, {"model": model, "input": "hi", **fields})
    assert reply.status == 200, reply.body
    document: dict[str, Any] = reply.json
    return document


def refused(reply: Reply, status: int) -> dict[str, Any]:
    assert reply.status == status, reply.body
    error: dict[str, Any] = reply.json["error"]
    return error


def text_of(document: dict[str, Any]) -> str:
    parts = [part for item in document["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(part["text"] for part in parts)


def test_a_response(served: Served) -> None:
    document = create(served, metadata={"a": "b"}, instructions="Be kind.", temperature=0.0)
    assert document["id"].startswith("resp_") and document["object"] == "response"
    assert (document["status"], document["error"], document["store"]) == ("completed", None, True)
    assert (document["metadata"], document["instructions"]) == ({"a": "b"}, "Be kind.")
    assert text_of(document) == "onetwothreefour"
    usage = document["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    without = create(served, temperature=0.0)["usage"]["input_tokens"]
    assert usage["input_tokens"] == without + len("[system]Be kind.")
    assert served.get(f"{RESPONSES}/{document['id']}").json == document


def test_a_conversation_goes_on(served: Served) -> None:
    first = create(served, "thinks", instructions="Be kind.")
    second = create(served, "thinks", input="And?", previous_response_id=first["id"])
    third = create(served, "thinks", input="So?", previous_response_id=second["id"])
    assert third["previous_response_id"] == second["id"]
    # The same as one request that says everything; instructions are of one request only.
    said = [{"role": "user", "content": "hi"}, *first["output"], {"role": "user", "content": "And?"}]
    said += [*second["output"], {"role": "user", "content": "So?"}]
    whole = create(served, "thinks", input=said)
    assert whole["usage"]["input_tokens"] == third["usage"]["input_tokens"]
    assert third["usage"]["input_tokens"] > second["usage"]["input_tokens"]
    chat = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Blue.", "reasoning": "Hmm…\n"},
        {"role": "user", "content": "And?"},
    ]
    same = served.post("/v1/chat/completions", {"model": "thinks", "messages": chat}).json
    assert same["usage"]["prompt_tokens"] == second["usage"]["input_tokens"]


def test_a_call_and_its_result(served: Served) -> None:
    first = create(served, "calls", tools=[TOOL])
    call = first["output"][-1]
    assert json.loads(call["arguments"]) == {"city": "Oslo"}
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    second = create(served, "calls", tools=[TOOL], input=[result], previous_response_id=first["id"])
    by_hand = [{"role": "user", "content": "hi"}, *first["output"], result]
    again = create(served, "calls", tools=[TOOL], input=by_hand)
    assert second["usage"]["input_tokens"] == again["usage"]["input_tokens"]
    named = create(served, "calls", tools=[TOOL], tool_choice={"type": "function", "name": "weather"})
    assert [item["type"] for item in named["output"]] == ["function_call"]
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]}
    forced = create(served, "calls", tools=[TOOL], tool_choice=choice, parallel_tool_calls=False)
    assert [item["type"] for item in forced["output"]] == ["function_call"]
    assert forced["tool_choice"] == choice


def test_references_to_items(served: Served) -> None:
    first = create(served)
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    question = {"role": "user", "content": "And?"}
    asked = [{"role": "user", "content": "hi"}, reference, question]
    second = create(served, input=asked)
    third = create(served, input="So?", previous_response_id=second["id"])
    spelled = [{"role": "user", "content": "hi"}, *first["output"], question]
    assert second["usage"]["input_tokens"] == create(served, input=spelled)["usage"]["input_tokens"]
    assert third["usage"]["input_tokens"] > second["usage"]["input_tokens"]
    reference["id"] = "msg_none"
    assert (
        "msg_none" in refused(served.post(RESPONSES, {"model": "said", "input": [reference]}), 404)["message"]
    )


def test_what_was_asked_is_listed(served: Served) -> None:
    given = [{"role": "user", "content": str(number), "id": f"msg_{number}"} for number in range(3)]
    path = f"{RESPONSES}/{create(served, input=given)['id']}/input_items"
    listed = served.get(path).json
    assert [item["id"] for item in listed["data"]] == ["msg_2", "msg_1", "msg_0"]
    assert (listed["first_id"], listed["last_id"], listed["has_more"]) == ("msg_2", "msg_0", False)
    page = served.get(f"{path}?order=asc&limit=1&after=msg_0").json
    assert ([item["id"] for item in page["data"]], page["has_more"]) == (["msg_1"], True)
    for limit in ("0", "101", "x", "-1", "1.5", "%C2%B2"):
        refused(served.get(f"{path}?limit={limit}"), 400)


def test_what_is_not_kept(served: Served) -> None:
    document = create(served, store=False)
    assert document["store"] is False
    refused(served.get(f"{RESPONSES}/{document['id']}"), 404)
    error = refused(
        served.post(RESPONSES, {"model": "said", "input": "x", "previous_response_id": document["id"]}), 404
    )
    assert error["code"] == "response_not_found" and document["id"] in error["message"]


def test_deletion(served: Served) -> None:
    first = create(served)
    second = create(served, previous_response_id=first["id"])
    gone = served.ask("DELETE", f"{RESPONSES}/{first['id']}")
    assert gone.json == {"id": first["id"], "object": "response", "deleted": True}
    refused(served.ask("DELETE", f"{RESPONSES}/{first['id']}"), 404)
    assert served.get(f"{RESPONSES}/{second['id']}").status == 200
    # A conversation without its beginning is another one.
    body = {"model": "said", "input": "x", "previous_response_id": second["id"]}
    assert first["id"] in refused(served.post(RESPONSES, body), 404)["message"]


def test_thoughts_to_be_sent_back(served: Served) -> None:
    document = create(served, "thinks", store=False, include=["reasoning.encrypted_content"])
    thought = document["output"][0]
    assert thought["encrypted_content"] == thought["summary"][0]["text"] == "Hmm…\n"
    bare = {**thought, "summary": []}
    asked = [[{"role": "user", "content": "hi"}, one, *document["output"][1:]] for one in (thought, bare)]
    more = {"role": "user", "content": "And?"}
    counts = {create(served, "thinks", input=[*items, more])["usage"]["input_tokens"] for items in asked}
    assert len(counts) == 1


def test_log_probabilities(served: Served) -> None:
    document = create(served, top_logprobs=2, include=["message.output_text.logprobs"])
    told = document["output"][0]["content"][0]["logprobs"]
    assert [one["token"] for one in told][:4] == ["one", "two", "three", "four"]
    assert all(len(one["top_logprobs"]) == 2 for one in told)


def test_formats(served: Served) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    format = {"type": "json_schema", "name": "x", "schema": {**schema, "additionalProperties": False}}
    document = create(served, text={"format": format}, max_output_tokens=200)
    assert isinstance(json.loads(text_of(document))["ok"], bool)
    assert document["text"] == {"format": format}


def test_too_long_an_input(served: Served) -> None:
    long = [{"role": "user", "content": "x" * 600}, {"role": "user", "content": "hi"}]
    body = {"model": "said", "input": long}
    assert refused(served.post(RESPONSES, body), 400)["code"] == "context_length_exceeded"
    assert create(served, input=long, truncation="auto")["usage"]["dropped_tokens"] > 500


def test_how_many_tokens_an_input_has(served: Served) -> None:
    counted = served.post(f"{RESPONSES}/input_tokens", {"model": "said", "input": "hi"}).json
    assert counted == {
        "object": "response.input_tokens",
        "input_tokens": create(served)["usage"]["input_tokens"],
    }


def test_tools_that_others_would_run_are_named(served: Served) -> None:
    body = {"model": "calls", "input": "hi", "tools": [TOOL, {"type": "web_search"}], "background": True}
    assert served.post(RESPONSES, body).headers["puna-ignored-params"] == "background, tools.web_search"
    assert refused(served.post(f"{RESPONSES}?strict=1", body), 400)["param"] == "background"


# Whose it is, and where it lies

SECRETS = ("first-key-0123456789", "second-key-0123456789")


@pytest.fixture
def keyed(served: Served, tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, served.store, PUNA_API_KEYS=",".join(SECRETS)) as server:
        yield server


def test_other_keys_do_not_find_it(keyed: Served) -> None:
    """G07"""
    mine, theirs = ({"Authorization": f"Bearer {secret}"} for secret in SECRETS)
    body = {"model": "said", "input": "hi"}
    document = keyed.ask("POST", RESPONSES, body, mine).json
    id, item = document["id"], document["output"][0]["id"]
    assert keyed.ask("GET", f"{RESPONSES}/{id}", None, mine).status == 200
    none = refused(keyed.ask("GET", f"{RESPONSES}/resp_none", None, theirs), 404)
    for method, path, sent in (
        ("GET", f"{RESPONSES}/{id}", None),
        ("DELETE", f"{RESPONSES}/{id}", None),
        ("GET", f"{RESPONSES}/{id}/input_items", None),
        ("POST", RESPONSES, {**body, "previous_response_id": id}),
        ("POST", f"{RESPONSES}/input_tokens", {**body, "previous_response_id": id}),
        ("POST", RESPONSES, {"model": "said", "input": [{"type": "item_reference", "id": item}]}),
    ):
        error = refused(keyed.ask(method, path, sent, theirs), 404)
        assert error == {**none, "message": error["message"]}
    assert keyed.ask("GET", f"{RESPONSES}/{id}", None, mine).status == 200


def test_a_file_outlives_the_server(served: Served, tmp_path: Path) -> None:
    with serving(tmp_path, served.store, PUNA_RESPONSES="file") as server:
        first = create(server)
    with serving(tmp_path, served.store, PUNA_RESPONSES="file") as server:
        assert server.get(f"{RESPONSES}/{first['id']}").json == first
        create(server, previous_response_id=first["id"])
    (file,) = served.store.glob("**/responses.sqlite3")
    assert file.stat().st_mode & 0o077 == 0
    file.unlink()


def test_a_server_that_keeps_nothing(served: Served, tmp_path: Path) -> None:
    with serving(tmp_path, served.store, PUNA_RESPONSES="off") as server:
        document = create(server)
        assert document["store"] is False
        refused(server.get(f"{RESPONSES}/{document['id']}"), 404)
