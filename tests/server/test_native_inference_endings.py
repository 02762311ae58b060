"""How requests end before their answers do, and how long models stay."""

import http.client
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.served import Served, serving

HI = [{"role": "user", "content": "hi"}]
ENDLESS = {"model": "tiny", "prompt": "hi", "shift": True, "keep_alive": 0}
PATIENCE = 30.0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def in_memory(server: Served) -> dict[str, Any]:
    return {model["name"]: model for model in server.get("/api/ps").json["models"]}


def runners(server: Served) -> list[int]:
    """The processes of the models in memory."""
    found = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
    return [int(number) for number in found.split()]


def ticks(process: int) -> int:
    """The processor time that a process has had, in hundredths of a second."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.fixture
def narrow(served: Served, tmp_path: Path) -> Iterator[Served]:
    """A server with room for one model, and for one request that waits."""
    settings = {"PUNA_MAX_LOADED_MODELS": "1", "PUNA_MAX_QUEUE": "1"}
    with serving(tmp_path, served.store, **settings) as server:
        yield server


# Clients that leave


def test_a_client_that_leaves_an_answer_ends_it(narrow: Served) -> None:
    for path, more in (("/api/generate", {}), ("/api/chat", {"messages": HI})):
        with narrow.stream(path, {**ENDLESS, **more}) as response:
            assert json.loads(response.readline())["done"] is False
            assert len(runners(narrow)) == 1
        wait_for(lambda: not runners(narrow))
        assert in_memory(narrow) == {}


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
def test_a_client_that_leaves_while_everything_is_collected(narrow: Served, path: str) -> None:
    with narrow.connection() as connection:
        connection.request("POST", path, json.dumps({**ENDLESS, "messages": HI, "stream": False}))
        wait_for(lambda: bool(in_memory(narrow).get("tiny:latest", {}).get("size")))
    wait_for(lambda: not runners(narrow))


def test_a_client_that_leaves_during_the_prompt(narrow: Served) -> None:
    # Four thousand batches of one token take half a minute and more.
    body = {"model": "slow", "prompt": "x" * 4000, "options": {"num_batch": 1}, "keep_alive": 0}
    with narrow.connection() as connection:
        connection.request("POST", "/api/generate", json.dumps(body))
        wait_for(lambda: bool(in_memory(narrow).get("slow:latest", {}).get("size")))
        (worker,) = runners(narrow)
        spent = ticks(worker)
        wait_for(lambda: ticks(worker) > spent + 20)
    began = time.monotonic()
    wait_for(lambda: not runners(narrow))
    assert time.monotonic() - began < 10


def test_a_client_that_leaves_during_the_load(narrow: Served) -> None:
    with narrow.connection() as connection:
        connection.request("POST", "/api/generate", json.dumps({**ENDLESS, "model": "slow"}))
        wait_for(lambda: len(runners(narrow)) == 1)
    wait_for(lambda: not runners(narrow))
    assert in_memory(narrow) == {}


def test_a_client_that_leaves_the_queue(narrow: Served) -> None:
    with narrow.stream("/api/generate", ENDLESS) as response:
        response.readline()
        with narrow.connection() as connection:
            connection.request("POST", "/api/generate", json.dumps({"model": "said", "prompt": "hi"}))
            assert _answers(connection) is None
            full = narrow.post("/api/generate", {"model": "thinks", "prompt": "hi"})
            assert full.status == 503 and int(full.headers["retry-after"]) >= 1
            assert full.error == "server busy, please try again.  maximum pending requests exceeded"
        # Now there is room for another one that waits.
        wait_for(lambda: _may_wait(narrow))
    answer = narrow.post("/api/generate", {"model": "said", "prompt": "hi", "stream": False})
    assert answer.json["response"] == "onetwothreefour"


def _answers(connection: http.client.HTTPConnection) -> int | None:
    """The status of the answer, if one comes soon."""
    connection.sock.settimeout(0.5)
    try:
        return connection.getresponse().status
    except TimeoutError:
        return None


def _may_wait(server: Served) -> bool:
    with server.connection() as connection:
        connection.request("POST", "/api/generate", json.dumps({"model": "fills", "prompt": "hi"}))
        return _answers(connection) is None


# Requests that are ended by their id


def test_a_request_is_ended_by_its_id(narrow: Served) -> None:
    with narrow.stream("/api/generate", ENDLESS, X_Request_Id="one") as response:
        response.readline()
        assert narrow.ask("DELETE", "/api/requests/two").status == 404
        reply = narrow.ask("DELETE", "/api/requests/one")
        assert (reply.status, reply.json) == (200, {"status": "success"})
        *_, last = response.read().splitlines()
    assert json.loads(last) == {"error": "request canceled"}
    again = narrow.ask("DELETE", "/api/requests/one")
    assert (again.status, again.error) == (404, "request 'one' not found")
    wait_for(lambda: not runners(narrow))


def test_a_request_that_has_not_begun_to_answer_is_ended_too(narrow: Served) -> None:
    with narrow.connection() as connection:
        headers = {"X-Request-Id": "whole"}
        connection.request("POST", "/api/generate", json.dumps({**ENDLESS, "stream": False}), headers)
        wait_for(lambda: narrow.ask("DELETE", "/api/requests/whole").status == 200)
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())) == (499, {"error": "request canceled"})


def test_requests_of_others_are_not_there(served: Served, tmp_path: Path) -> None:
    secrets = {name: name[0] * 20 for name in ("ann", "bob", "manager")}
    file = tmp_path / "keys"
    file.write_text(
        f"{secrets['ann']} inference\n{secrets['bob']} inference\n{secrets['manager']} inference,manage\n"
    )
    file.chmod(0o600)
    with serving(tmp_path, served.store, PUNA_API_KEY_FILE=str(file)) as server:
        as_ann = {"Authorization": f"Bearer {secrets['ann']}"}
        for name, status in (("bob", 404), ("manager", 200), ("ann", 200)):
            with server.stream("/api/generate", ENDLESS, X_Request_Id="mine", **as_ann) as response:
                response.readline()
                key = {"Authorization": f"Bearer {secrets[name]}"}
                assert server.ask("DELETE", "/api/requests/mine", None, key).status == status


def test_prompts_of_other_keys_are_not_in_the_cache(served: Served, tmp_path: Path) -> None:
    secrets = {name: name[0] * 20 for name in ("ann", "bob")}
    with serving(tmp_path, served.store, PUNA_API_KEYS=",".join(secrets.values())) as server:
        body = {"model": "said", "prompt": "something only Ann knows", "stream": False}

        def cached(name: str) -> int:
            reply = server.post("/api/generate", body, Authorization=f"Bearer {secrets[name]}").json
            assert reply["response"] == "onetwothreefour"
            return int(reply.get("cached_tokens", 0))

        assert [cached(name) for name in ("ann", "bob")] == [0, 0]
        assert min(cached(name) for name in ("ann", "bob")) > 20


# Runners that end


@pytest.mark.parametrize("stream", [True, False])
def test_a_runner_that_dies(narrow: Served, stream: bool) -> None:
    with narrow.connection() as connection:
        connection.request("POST", "/api/generate", json.dumps({**ENDLESS, "stream": stream}))
        if stream:
            response = connection.getresponse()
            response.readline()
        else:
            wait_for(lambda: bool(in_memory(narrow).get("tiny:latest", {}).get("size")))
        os.kill(runners(narrow)[0], signal.SIGKILL)
        response = response if stream else connection.getresponse()
        *_, last = response.read().splitlines()
    assert response.status == (200 if stream else 500)
    assert json.loads(last)["error"].startswith("model runner has unexpectedly stopped")
    answer = narrow.post("/api/generate", {"model": "said", "prompt": "hi", "stream": False})
    assert answer.json["response"] == "onetwothreefour"


# How long models stay


def test_load_and_unload(narrow: Served) -> None:
    for path, said in (
        ("/api/generate", {"response": ""}),
        ("/api/chat", {"message": {"role": "assistant", "content": ""}}),
    ):
        loaded = narrow.post(path, {"model": "SAID"})
        assert loaded.headers["content-type"].startswith("application/json")
        created = loaded.json.pop("created_at")
        assert datetime.fromisoformat(created).tzinfo is UTC
        expected = {"model": "SAID", **said, "done": True}
        assert {**loaded.json, "created_at": 0} == {**expected, "done_reason": "load", "created_at": 0}
        assert [*in_memory(narrow)] == ["said:latest"]
        unloaded = narrow.post(path, {"model": "SAID", "keep_alive": 0, "stream": False}).json
        assert {**unloaded, "created_at": 0} == {**expected, "done_reason": "unload", "created_at": 0}
        assert in_memory(narrow) == {}
        # Nothing was loaded for that.
        assert narrow.post(path, {"model": "said", "keep_alive": "0s"}).json["done_reason"] == "unload"
        assert narrow.post(path, {"model": "nix", "keep_alive": 0}).status == 404


def test_unloading_by_force_ends_what_runs(narrow: Served) -> None:
    unload = {"model": "tiny", "keep_alive": 0, "force": True}
    with narrow.stream("/api/generate", {**ENDLESS, "keep_alive": -1}) as running:
        assert json.loads(running.readline())["done"] is False
        (process,) = runners(narrow)
        assert narrow.post("/api/generate", unload).json["done_reason"] == "unload"
        assert not Path(f"/proc/{process}").exists()
        assert json.loads(running.read().splitlines()[-1]) == {"error": "request canceled"}
    assert in_memory(narrow) == {}
    assert narrow.post("/api/chat", unload).json["done_reason"] == "unload"  # it is not there
    body = {"model": "tiny", "prompt": "hi", "options": {"num_predict": 1}, "stream": False}
    assert narrow.post("/api/generate", body).json["eval_count"] == 1


def test_unloading_by_force_ends_what_another_key_runs(served: Served, tmp_path: Path) -> None:
    keys = {"inference": "the-first-key-of-two", "manage,inference": "the-second-key-of-two"}
    file = tmp_path / "keys"
    file.write_text("".join(f"{secret} {scopes}\n" for scopes, secret in keys.items()))
    asks, manages = ({"authorization": f"Bearer {secret}"} for secret in keys.values())
    unload = {"model": "tiny", "keep_alive": 0, "force": True}
    with (
        serving(tmp_path, served.store, PUNA_API_KEY_FILE=str(file)) as server,
        server.stream("/api/generate", ENDLESS, **asks) as running,
    ):
        assert json.loads(running.readline())["done"] is False
        assert server.post("/api/generate", unload, **asks).status == 403
        assert json.loads(running.readline())["done"] is False
        assert server.post("/api/generate", unload, **manages).status == 200
        assert json.loads(running.read().splitlines()[-1]) == {"error": "request canceled"}


def test_keep_alive(narrow: Served) -> None:
    def stays() -> float:
        expires = datetime.fromisoformat(in_memory(narrow)["said:latest"]["expires_at"])
        return (expires - datetime.now(UTC)).total_seconds()

    body = {"model": "said", "prompt": "hi", "stream": False}
    for keep_alive, seconds in ((None, 300), (600, 600), ("10m", 600), (0.5e4, 5000), ("1h30m", 5400)):
        narrow.post("/api/generate", {**body, "keep_alive": keep_alive})
        assert seconds - 30 < stays() <= seconds
    for keep_alive in (-1, "-1m"):
        narrow.post("/api/generate", {**body, "keep_alive": keep_alive})
        assert stays() > 290 * 365 * 86400
    narrow.post("/api/generate", {**body, "keep_alive": 0})
    wait_for(lambda: in_memory(narrow) == {})


def test_what_is_in_memory(narrow: Served) -> None:
    assert narrow.get("/api/ps").json == {"models": []}
    narrow.post("/api/generate", {"model": "said", "options": {"num_ctx": 100_000}})
    (told,) = narrow.get("/api/ps").json["models"]
    assert {*told} == {
        *("name", "model", "size", "digest", "details", "expires_at", "size_vram", "context_length")
    }
    (listed,) = (m for m in narrow.get("/api/tags").json["models"] if m["name"] == "said:latest")
    assert (told["name"], told["model"]) == ("said:latest", "said:latest")
    assert told["digest"] == listed["digest"]
    assert told["details"].items() <= listed["details"].items()
    # It was made for 512 tokens.
    assert told["context_length"] == 512
    size = os.path.getsize(served_file(narrow))
    assert told["size"] > size / 2


def served_file(server: Served) -> Path:
    return server.store.parent / "files" / "said.gguf"


def test_a_model_of_the_same_file_shares_what_is_loaded(narrow: Served) -> None:
    narrow.post("/api/generate", {"model": "said", "prompt": "hi", "stream": False})
    before = runners(narrow)
    reply = narrow.post("/api/generate", {"model": "told", "prompt": "hi", "stream": False})
    assert reply.json["response"] == "onetwothreefour"
    assert runners(narrow) == before
