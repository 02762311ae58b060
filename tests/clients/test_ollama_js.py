"""Ollama's own JavaScript client, the npm package `ollama`, against `puna serve`.

The scripts in `js` use it as its documentation does, and print what they got.
"""

import json
import math
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.clients.conftest import Managed
from tests.served import TIMEOUT, Served

MEASURES = {
    *("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration"),
    *("eval_count", "eval_duration"),
}


class Node:
    """Runs scripts; what one prints must be JSON, and nothing may be printed beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, script: str, *arguments: str) -> Any:
        done = subprocess.run(
            ["node", script, *arguments], cwd=self.folder, capture_output=True, text=True, timeout=TIMEOUT
        )
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)


@pytest.fixture
def node(node_folder: Path) -> Node:
    return Node(node_folder)


def test_chat(node: Node, served: Served) -> None:
    found = node("chat.mjs", served.url)
    whole = found["whole"]
    assert whole["message"] == {"role": "assistant", "content": "onetwothreefour"}
    assert (whole["model"], whole["done"], whole["done_reason"], whole["eval_count"]) == (
        *("said", True, "stop", 4),
    )
    assert datetime.fromisoformat(whole["created_at"]).tzinfo == UTC
    assert {*whole} >= MEASURES
    *pieces, last = found["pieces"]
    assert [piece["message"]["content"] for piece in pieces] == ["one", "two", "three", "four"]
    assert not any(piece["done"] for piece in pieces) and last["done"]
    assert (found["next"]["message"]["content"], found["next"]["done_reason"]) == ("onetwo", "length")
    logprobs = found["logprobs"]["logprobs"]
    assert [entry["token"] for entry in logprobs[:4]] == ["one", "two", "three", "four"]
    assert {len(entry["top_logprobs"]) for entry in logprobs} == {2}


def test_streams_that_are_broken_off(node: Node, served: Served) -> None:
    found = node("abort.mjs", served.url)
    broken = {"error": "AbortError", "done": False}
    assert found == {"one": broken, "both": [broken, broken]}


def test_generate(node: Node, served: Served) -> None:
    found = node("generate.mjs", served.url)
    short, again = found["short"], found["again"]
    assert (short["response"], short["done_reason"]) == ("onetwo", "length")
    assert again["context"][: len(short["context"])] == short["context"]
    assert [piece["response"] for piece in found["pieces"]] == ["one", "two", "three", "four", ""]
    assert found["filled"]["response"] == "onetwothreefour"
    assert found["raw"]["response"] == "onetwothreefour" and "context" not in found["raw"]
    assert found["system"]["response"] == "onetwo"
    assert (found["loaded"]["done_reason"], found["unloaded"]["done_reason"]) == ("load", "unload")
    (said,) = (model for model in found["running"]["models"] if model["name"] == "said:latest")
    assert said["size"] > 0 and said["context_length"] > 0
    left = datetime.fromisoformat(said["expires_at"]) - datetime.now(UTC)
    assert 500 < left.total_seconds() <= 600


def test_tools(node: Node, served: Served) -> None:
    found = node("tools.mjs", served.url)
    call = {"function": {"index": 0, "name": "weather", "arguments": {"city": "Oslo"}}}
    assert found["reply"] == {"role": "assistant", "content": "Let me see.", "tool_calls": [call]}
    assert found["results"] == [{"role": "tool", "tool_name": "weather", "content": "rain in Oslo"}]
    assert found["after"]["role"] == "assistant"
    assert [message["tool_calls"] for message in found["streamed"] if "tool_calls" in message] == [[call]]
    assert "".join(message["content"] for message in found["streamed"]) == "Let me see."


def test_formats_and_thinking(node: Node, served: Served) -> None:
    found = node("formats.mjs", served.url)
    assert found["structured"] == found["generated"] == {"n": 7}
    assert found["thought"] == {"role": "assistant", "content": "Blue.", "thinking": "Hmm…\n"}
    assert "".join(message.get("thinking", "") for message in found["streamed"]) == "Hmm…\n"
    assert "".join(message["content"] for message in found["streamed"]) == "Blue."
    assert found["thinking"] == found["both"]["thinking"] == "Hmm…\n"
    assert json.loads(found["both"]["content"]) == {"n": 7}


def test_vectors(node: Node, served: Served) -> None:
    found = node("embed.mjs", served.url)
    several, one, short = (found[name]["embeddings"] for name in ("several", "one", "short"))
    assert [len(vector) for vector in several] == [64, 64]
    assert one[0] == pytest.approx(several[0], abs=1e-5)
    assert len(short[0]) == 8
    assert math.hypot(*one[0]) == pytest.approx(1, abs=1e-5)
    assert math.hypot(*short[0]) == pytest.approx(1, abs=1e-5)
    assert len(found["older"]["embedding"]) == 64
    assert found["several"]["model"] == "tiny"
    assert found["several"]["prompt_eval_count"] == found["one"]["prompt_eval_count"] + len("there")


def test_models(node: Node, managed: Managed) -> None:
    found = node("models.mjs", managed.server.url)
    assert found["version"] == managed.server.get("/api/version").json
    assert found["created"] == {"status": "success"}
    assert found["steps"][-1] == {"status": "success"}
    assert all({*step} <= {"status", "digest", "total", "completed"} for step in found["steps"])
    assert found["copied"] == {"status": "success"}
    assert found["deleted"] == [{"status": "success"}] * 3
    assert found["said"] == "onetwo"
    shown = found["shown"]
    assert (shown["system"], shown["license"]) == ("You are Mario.", "do what you want")
    assert shown["template"] == "{{ .System }}{{ .Prompt }}<|go|>"
    assert "PARAMETER num_predict 2" in shown["modelfile"] and shown["parameters"].count("stop ") == 2
    assert shown["messages"] == [{"role": "user", "content": "Hi."}]
    assert shown["model_info"]["general.architecture"] == shown["details"]["family"] == "llama"
    assert "completion" in shown["capabilities"]
    listed = {model["name"]: model for model in found["before"]["models"]}
    assert {"said:latest", "js-mario:latest", "js-other:latest", "js-luigi:latest"} <= {*listed}
    assert listed["js-luigi:latest"]["digest"] == listed["js-mario:latest"]["digest"]
    assert datetime.fromisoformat(listed["js-mario:latest"]["modified_at"]).tzinfo is not None
    # They share what is loaded, which has the name that was used last.
    assert [model["name"] for model in found["running"]["models"]] == ["js-luigi:latest"]
    assert not any(name.startswith("js-") for name in found["after"])


def test_progress_of_transfers(node: Node, managed: Managed) -> None:
    found = node("transfers.mjs", managed.server.url, managed.registry.address)
    assert found["pushed"][0] == {"status": "retrieving manifest"}
    assert found["pulled"][0] == {"status": "pulling manifest"}
    for parts in (found["pushed"], found["pulled"]):
        assert parts[-1] == {"status": "success"}
        assert {*_completed(parts).values()} == {True}
    assert found["again"] == found["whole"] == {"status": "success"}
    assert found["response"] == "onetwothreefour"
    assert found["missing"] == "pull model manifest: file does not exist"


def _completed(parts: list[dict[str, Any]]) -> dict[str, bool]:
    """For each digest, whether its bar has come to its end; bars never go back."""
    bars: dict[str, tuple[int, int]] = {}
    for part in _bars(parts):
        digest, done, total = part["digest"], part.get("completed", 0), part["total"]
        before = bars.get(digest, (0, total))
        assert before[0] <= done <= total == before[1]
        bars[digest] = done, total
    assert bars
    return {digest: done == total for digest, (done, total) in bars.items()}


def _bars(parts: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (part for part in parts if "total" in part)


@pytest.mark.parametrize("stream", ["false", "true"])
def test_errors(node: Node, served: Served, stream: str) -> None:
    found = node("errors.mjs", served.url)
    told = {name: (status, text) for name, (kind, status, text) in found[stream].items()}
    assert {kind for kind, *_ in found[stream].values()} == {"ResponseError"}
    assert told["missing"] == (404, "model 'nix' not found")
    assert told["chat"] == (400, '"vectors" does not support chat')
    assert told["think"] == (400, '"said" does not support thinking')
    assert told["tools"] == (400, "registry.ollama.ai/library/said:latest does not support tools")
    assert told["option"][0] == 400 and "num_ctx" in told["option"][1]
    assert told["format"][0] == 400 and told["format"][1].startswith("invalid format")
    assert told["create"] == (400, "neither 'from' or 'files' was specified")
    assert found["show"][1:] == [404, "model 'nix:latest' not found"]
    assert found["copy"][1:] == [404, 'model "nix" not found']
    assert found["delete"][1:] == [404, "model 'nix' not found"]
    assert found["embed"][1:] == [404, 'model "nix" not found, try pulling it first']
