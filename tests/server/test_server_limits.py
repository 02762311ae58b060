"""What the operator's settings allow of one request, and of a model's process."""

import base64
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.scripted_llama import START, write_scripted_llama
from tests.served_models import CHAT, GREEDY, add_model
from tests.server.conftest import Running, Serve

from puna.options import ServerSettings
from puna.server.app import limits_of
from puna.services.limits import DEFAULT_LIMITS
from puna.store.library import Library

HI = {"role": "user", "content": "hi"}
ASKED = {"model": "said", "prompt": "hi", "stream": False}


@pytest.fixture
def library(tmp_path: Path) -> Library:
    library = Library(tmp_path / "models")
    path = write_scripted_llama(tmp_path / "said.gguf", ("one", "two"), context=2048)
    add_model(library, "said", path, template=CHAT + START, parameters=GREEDY)
    return library


def test_settings_that_nobody_changed_are_the_limits_of_every_caller() -> None:
    assert limits_of(ServerSettings()) == DEFAULT_LIMITS


@pytest.mark.parametrize(
    ("setting", "path", "body", "error"),
    [
        ("max_messages", "chat", {"messages": [HI, HI]}, "there are 2 messages; at most 1 are allowed"),
        (
            "max_images",
            "chat",
            {"messages": [{**HI, "images": [base64.b64encode(b"\x89PNG").decode()] * 2}]},
            "there are 2 images; at most 1 are allowed",
        ),
        (
            "max_stops",
            "generate",
            {"prompt": "hi", "options": {"stop": ["a", "b"]}},
            "there are 2 stop texts; at most 1 are allowed",
        ),
        (
            "max_stop_length",
            "generate",
            {"prompt": "hi", "options": {"stop": ["ab"]}},
            "a stop text is longer than the 1 characters it may have",
        ),
        ("max_inputs", "embed", {"input": ["a", "b"]}, "there are 2 inputs; at most 1 are allowed"),
        (
            "max_ctx",
            "generate",
            {"prompt": "hi", "options": {"num_ctx": 2}},
            "num_ctx is 2; this server allows at most 1",
        ),
    ],
)
def test_more_than_is_allowed(
    server: Serve, setting: str, path: str, body: dict[str, Any], error: str
) -> None:
    running = server(**{setting: 1})
    reply = running.post(f"/api/{path}", {"model": "said", "stream": False, **body})
    assert (reply.status, reply.error) == (400, error)


def test_the_longest_keep_alive(server: Serve) -> None:
    running = server(max_keep_alive=20.0)
    running.post("/api/generate", {**ASKED, "keep_alive": -1})
    (model,) = running.state.scheduler.loaded()
    assert 0 < model.expires <= 20


@pytest.mark.parametrize(("settings", "num_parallel"), [({}, 4), ({"num_parallel": 2}, 2)])
def test_how_many_requests_a_model_computes_at_once(
    server: Serve, settings: dict[str, Any], num_parallel: int
) -> None:
    running = server(**settings)
    running.post("/api/generate", {"model": "said"})
    (model,) = running.state.scheduler.loaded()
    assert model.num_parallel == num_parallel


def test_a_model_that_hangs_is_ended_and_loaded_again(server: Serve) -> None:
    running = server(step_timeout=1.0)
    hung = loaded_pid(running)
    os.kill(hung, signal.SIGSTOP)
    reply = running.post("/api/generate", ASKED)
    assert reply.status == 500
    assert reply.error.endswith("it did nothing for 1 seconds")
    assert running.post("/api/generate", ASKED).json["response"] == "onetwo"
    assert loaded_pid(running) != hung


def test_a_model_that_hangs_while_its_cache_is_made_anew(server: Serve) -> None:
    running = server(step_timeout=1.0)
    os.kill(loaded_pid(running), signal.SIGSTOP)
    reply = running.post("/api/generate", {**ASKED, "options": {"num_ctx": 99}})
    assert reply.status == 500
    assert reply.error.endswith("it did nothing for 1 seconds")


def test_a_ceiling_on_the_memory_of_a_model(server: Serve) -> None:
    large = {**ASKED, "options": {"num_batch": 4096, "num_ctx": 2048}}
    refused = server(runner_memory=200 << 20, num_parallel=64).post("/api/generate", large)
    assert refused.status == 500
    assert "'said:latest' with 64 times 2048 tokens of context needs" in refused.error
    allowed = server(runner_memory=8 << 30, num_parallel=64).post("/api/generate", large)
    assert allowed.json["response"] == "onetwo"


def loaded_pid(running: Running) -> int:
    """Of the process of the model, which is loaded if need be."""
    running.post("/api/generate", {"model": "said"})
    (model,) = running.state.scheduler.loaded()
    return model.pid
