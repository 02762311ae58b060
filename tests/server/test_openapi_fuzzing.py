"""Schemathesis asks a server all that its own description allows, and more.

Whatever is sent, the server answers in time, with a status and a body that are described, and no status says
that it is at fault. Afterwards it holds nothing that it did not hold before. Its store is its own, and what
it would fetch, it would fetch through a proxy that is not there.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.probes import children, descriptors, figure, wait_for
from tests.scripted_llama import START, write_scripted_llama
from tests.served import Served, serving
from tests.served_models import CALL, CHAT, SAYS, add_model
from tests.tiny_bert import write_tiny_bert

from puna.store.library import Library

MODELS = ["said", "thinks", "calls", "ranks"]
# What is refused at once: nothing listens there.
NOWHERE = "http://127.0.0.1:9"
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_schema_conformance", "response_headers_conformance", "unsupported_method"),
)
# Fetching fails here, as the description says that it may.
CONFIGURATION = """
[[operations]]
include-path-regex = "^/api/(pull|push|create)$"
[operations.checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "502"]
"""
# For each of them the model would be loaded anew.
LOADING = (
    *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread"),
    *("kv_cache_type", "tensor_split", "transcode"),
)
NEEDED = (
    "model",
    "messages",
    "input",
    "query",
    "documents",
    "max_tokens",
    "source",
    "destination",
    "role",
    "prompt",
    "content",
)
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
FUNCTION = {"type": "function", "function": WEATHER}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
ANSWERING = MODELS[:3]
# Values that mean something, for fields of which most values do not.
SENSE: dict[str, list[Any]] = {
    "images": [[]],
    "top_logprobs": [0],
    **{f"native.{name}Body.model": ANSWERING for name in ("Chat", "Generate")},
    **{f"openai.{name}Body.model": ANSWERING for name in ("Chat", "Completion", "Response")},
    **{f"anthropic.{name}Body.model": ANSWERING for name in ("Messages", "Prompt")},
    **{f"{name}.RerankBody.model": ["ranks"] for name in ("native", "openai")},
    **{f"{name}.RerankBody.documents": [["a", "b c"]] for name in ("native", "openai")},
    "openai.ResponseBody.tool_choice": [None, "auto", "none"],
    "openai.ResponseBody.truncation": ["auto", "disabled"],
    "openai.ResponseBody.max_output_tokens": [None, 5],
    "openai.EmbeddingsBody.dimensions": [None, 3],
    "openai.EmbeddingsBody.encoding_format": ["float", "base64"],
    "openai.CompletionBody.suffix": [""],
    "openai.CompletionBody.logit_bias": [{}, {"5": 1.5}],
    "openai.CompletionBody.echo": [False],
    "openai.ChatBody.reasoning": [{}],
    "openai.RerankBody.top_n": [None, 1],
    "anthropic.MessageBody.role": ["user", "assistant"],
    "system": ["", "Be kind."],
    "native.GenerateBody.suffix": [""],
    "native.GenerateBody.template": ["", "{{ .Prompt }}<|go|>"],
    "native.DetokenizeBody.tokens": [[], [1, 2, 3]],
    "native.GenerateBody.context": [[], [1, 2, 3]],
    "think": [None],
    "chat_template_kwargs": [{}],
    "native.Copy.source": MODELS,
    "native.Copy.destination": ["copy"],
    "native.ChatBody.tools": [[], [FUNCTION]],
    "openai.ChatBody.tools": [[], [FUNCTION]],
    "openai.ResponseBody.tools": [[], [{"type": "function", **WEATHER}]],
    "native.ChatBody.tool_choice": [None, "auto", "none", "required"],
    "openai.ChatBody.tool_choice": [None, "auto", "none", "required", FUNCTION],
    "openai.ChatBody.response_format": [
        None,
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
        {"type": "regex", "regex": "[a-z]{1,9}"},
        {"type": "choice", "choice": ["yes", "no"]},
    ],
    "native.GenerateBody.format": [None, "", "json", SCHEMA],
    "native.ChatBody.format": [None, "", "json", SCHEMA],
    "openai.ChatBody.reasoning_effort": [None, "none"],
    "openai.ResponseBody.reasoning": [{}],
    "openai.ResponseBody.text": [{}, {"format": {"type": "json_object"}}],
    "openai.ResponseBody.conversation": [None],
    "openai.ResponseBody.prompt": [None],
    "openai.ResponseBody.previous_response_id": [None],
    "openai.ResponseBody.input": ["Hi!", [{"role": "user", "content": "Hi!"}]],
    "openai.MessageBody.content": ["Hi!", [{"type": "text", "text": "Hi!"}]],
    "openai.MessageBody.tool_calls": [[]],
    "openai.ChatBody.logit_bias": [{}, {"5": 1.5}],
    "openai.ChatBody.n": [1, 2],
    "openai.ChatBody.max_tokens": [1, 5, None],
    "openai.ChatBody.max_completion_tokens": [None, 5],
    "openai.CompletionBody.n": [1, 2],
    "openai.CompletionBody.best_of": [None, 2],
    "openai.CompletionBody.logprobs": [None, 0, 2],
    "openai.CompletionBody.max_tokens": [1, 5, None],
    "openai.CompletionBody.prompt": ["Hi!", ["a", "b"], [1, 2], [[1], [2, 3]]],
    "openai.CompletionBody.response_format": [None],
    "openai.EmbeddingsBody.input": ["Hi!", ["a", "b"], [1, 2], [[1], [2, 3]]],
    "anthropic.MessagesBody.max_tokens": [1, 5, 100],
    "anthropic.MessagesBody.tools": [[], [{"name": "weather", "input_schema": WEATHER["parameters"]}]],
    "anthropic.PromptBody.tools": [[]],
    "anthropic.PromptBody.tool_choice": [None],
    "anthropic.PromptBody.thinking": [None],
    "anthropic.PromptBody.output_config": [None],
    "anthropic.MessagesBody.tool_choice": [None, {"type": "auto"}],
    "anthropic.MessagesBody.thinking": [None, {"type": "adaptive"}, {"type": "disabled"}],
    "anthropic.MessagesBody.output_config": [None, {"format": {"type": "json_schema", "schema": SCHEMA}}],
    "mcp_servers": [[]],
    "anthropic.MessageBody.content": ["Hi!", [{"type": "text", "text": "Hi!"}]],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("fuzzed")
    fill(folder)
    proxies = {"HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE}
    with serving(folder, folder / "models", PUNA_METRICS="1", **proxies) as found:
        yield found
        log = (folder / "server.log").read_text()
        assert "Traceback" not in log, log[log.index("Traceback") :][:8000]


def fill(folder: Path) -> None:
    """Models that end their answers soon: what a request does not say, they do."""
    library, brief = Library(folder / "models"), {"temperature": 0.0, "num_predict": 16}
    said = write_scripted_llama(folder / "said.gguf", ("one", "two", "three", "four"))
    add_model(library, "said", said, template=CHAT + START, parameters=brief)
    thought = ("<think>", "\nHmm", "…\n", "</think>", "\n\n", "Bl", "ue", ".")
    thinks = write_scripted_llama(folder / "thinks.gguf", thought)
    add_model(library, "thinks", thinks, template=SAYS + START, parameters=brief)
    called = ("Let me see.", "<tool_call>", "\n", CALL, "</tool_call>")
    calls = write_scripted_llama(folder / "calls.gguf", called)
    with_tools = f"{SAYS}{{{{ if .Tools }}}}TOOLS{{{{ .Tools }}}}{{{{ end }}}}{START}"
    add_model(library, "calls", calls, template=with_tools, parser="qwen3", parameters=brief)
    add_model(library, "ranks", write_tiny_bert(folder / "ranks.gguf", ranks=True))


def document_of(server: Served, *, sensible: bool, loading: bool = False) -> Any:
    """The server's description, with the names of its models.

    Args:
        sensible: fields of any kind have values that mean something, and there are no others.
        loading: options that load a model anew are there.
    """
    document = server.get("/openapi.json").json
    for name, schema in document["components"]["schemas"].items():
        if name.endswith(("Body", ".Show", ".Copy", ".Named")):
            narrow(name, schema, sensible, loading)
    for option in () if loading else LOADING:
        del document["components"]["schemas"]["Options"]["properties"][option]
    if sensible:
        operations = [one for methods in document["paths"].values() for one in methods.values()]
        for operation in operations:
            operation["parameters"] = [one for one in operation["parameters"] if one["name"] != "strict"]
    return document


def narrow(name: str, schema: dict[str, Any], sensible: bool, loading: bool) -> None:
    fields = schema["properties"]
    found: dict[str, list[Any]] = {"model": MODELS, "role": ["system", "user", "assistant", "tool"]}
    if name == "native.Named":
        # What is asked for later is not to be deleted.
        found = {"model": ["copy", "nix"], "name": ["copy", "nix"]}
    if not loading:
        found["keep_alive"] = [None, 300, "5m", -1]
    for field in fields:
        chosen = SENSE.get(f"{name}.{field}", SENSE.get(field)) if sensible else None
        if chosen is not None or field in found:
            fields[field] = {"enum": chosen or found[field]}
    if "messages" in fields and sensible:
        fields["messages"] = {**fields["messages"]["anyOf"][0], "minItems": 1}
    schema["required"] = [field for field in NEEDED if field in fields]
    if sensible:
        schema["additionalProperties"] = False


def fuzz(server: Served, folder: Path, document: Any, *arguments: str) -> None:
    """Have it asked, by a program of its own."""
    folder.mkdir()
    (folder / "described.json").write_text(json.dumps(document))
    (folder / "schemathesis.toml").write_text(CONFIGURATION)
    program = [sys.executable, "-W", "ignore", "-m", "schemathesis.cli"]
    given = ["--url", server.url, "--checks", ",".join(CHECKS), "--request-timeout", "30", "--no-color"]
    quiet = ["--generation-database", "none", "--warnings", "off", "--continue-on-failure"]
    done = subprocess.run(
        [*program, "run", "described.json", *given, *quiet, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    operations = sum(len(methods) for methods in document["paths"].values())
    assert f"Tested: {operations}" in done.stdout, done.stdout


def rest(server: Served) -> tuple[int, int]:
    """How many files and threads the server has when nobody asks anything, and no model is loaded."""
    for name in MODELS:
        server.post("/api/generate", {"model": name, "keep_alive": 0})
        server.post("/api/embed", {"model": name, "keep_alive": 0})
    wait_for(lambda: not children(server.pid))
    # The one that is being answered tells it.
    assert figure(server, "puna_requests_running") == 1
    assert figure(server, "puna_requests_queued") == figure(server, "puna_requests_waiting") == 0
    return descriptors(server.pid), len(os.listdir(f"/proc/{server.pid}/task"))


def warm_up(server: Served) -> None:
    """Every thread that the server's pools may have is there, and every file that stays open."""
    bodies = [{"model": name, "prompt": "Hi!", "stream": False} for name in MODELS[:3]]
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda body: server.post("/api/generate", body), bodies * 20))
        list(pool.map(lambda _: server.get("/api/tags"), range(64)))
    server.post("/v1/responses", {"model": "said", "input": "Hi!"})
    server.post("/api/embed", {"model": "ranks", "input": "a"})


def check(server: Served, folder: Path, *runs: tuple[Any, tuple[str, ...]]) -> None:
    warm_up(server)
    files, threads = rest(server)
    with ThreadPoolExecutor(len(runs)) as pool:
        asking = [
            pool.submit(fuzz, server, folder / str(number), document, *arguments)
            for number, (document, arguments) in enumerate(runs)
        ]
    for one in asking:
        one.result()
    wait_for(lambda: rest(server)[0] <= files)
    assert rest(server)[1] <= threads


def test_a_server_stands_what_its_description_allows(server: Served, tmp_path: Path) -> None:
    sensible, plain = document_of(server, sensible=True), document_of(server, sensible=False)
    answered = figure(server, "puna_tokens_total")
    check(
        server,
        tmp_path,
        (sensible, ("--seed", "1", "-n", "6", "--phases", "fuzzing", "--mode", "positive")),
        (plain, ("--seed", "1", "-n", "5", "--phases", "fuzzing", "--mode", "all")),
    )
    # Not all was refused.
    assert figure(server, "puna_tokens_total") > answered + 500


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["2", "3"])
def test_a_server_stands_more_of_it(server: Served, tmp_path: Path, seed: str) -> None:
    sensible = document_of(server, sensible=True, loading=True)
    plain = document_of(server, sensible=False)
    check(
        server,
        tmp_path,
        (sensible, ("--seed", seed, "-n", "30", "--phases", "fuzzing", "--mode", "positive")),
        (plain, ("--seed", seed, "-n", "30", "--phases", "coverage,fuzzing,stateful", "--mode", "all")),
    )
