"""The name of a model means the same in every dialect."""

from typing import Any

import pytest
from tests.served import Served

HI = [{"role": "user", "content": "hi"}]
ROUTES: dict[str, dict[str, Any]] = {
    "/api/generate": {"prompt": "hi"},
    "/api/chat": {"messages": HI},
    "/v1/chat/completions": {"messages": HI},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": HI, "max_tokens": 9},
}


@pytest.mark.parametrize("path", ROUTES)
def test_a_model_may_be_called_local(served: Served, path: str) -> None:
    for name in ("said:local", "said:latest:local"):
        assert served.post(path, {"model": name, **ROUTES[path], "stream": False}).status == 200


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("name", "status", "text"),
    [
        ("said:cloud", 403, "ollama cloud is disabled: remote inference is unavailable"),
        ("said:20b-cloud", 403, "ollama cloud is disabled: remote inference is unavailable"),
        ("said:cloud:local", 400, 'use either :local or :cloud, not both: "said:cloud:local"'),
    ],
)
def test_nothing_is_asked_of_a_cloud(served: Served, path: str, name: str, status: int, text: str) -> None:
    reply = served.post(path, {"model": name, **ROUTES[path]})
    error = reply.json["error"]
    assert (reply.status, error if isinstance(error, str) else error["message"]) == (status, text)
