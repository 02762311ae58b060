"""Many clients of one model at once: nobody's answer depends on the others, and nothing is left of them."""

import json
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.probes import children, descriptors, figure, resident, wait_for
from tests.served import Served, serving
from tests.served_models import CHAT, add_model
from tests.tiny_llama import write_tiny_llama

from puna.store.library import Library

CLIENTS = 32
# The order of a sum depends on the batch that it is part of; see tests/engine/driving.py.
MARGIN = 1e-4
# Its pools are bounded, but not full from the beginning.
MOST_THREADS = 20 + (os.cpu_count() or 1)
VARIED = {"temperature": 0.0, "frequency_penalty": 0.7, "repeat_last_n": -1}
SCHEMA = {"enum": ["a small world", "abcdefghijklmnopqrstuvwxyz", "b"]}
WORDS = ("why", "is", "the", "sky", "blue", "and", "what", "of", "grass", "é", "日本", "🙂")


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that computes eight requests of its one model, `tiny`, at a time."""
    folder = tmp_path_factory.mktemp("crowded")
    file = write_tiny_llama(folder / "tiny.gguf")
    add_model(Library(folder / "models"), "tiny", file, template=CHAT, parameters=VARIED)
    settings = {"PUNA_METRICS": "1", "PUNA_NUM_PARALLEL": "8", "PUNA_CONTEXT_LENGTH": "512"}
    with serving(folder, folder / "models", PUNA_KV_CACHE_TYPE="f32", **settings) as server:
        yield server


def some_request(chance: random.Random) -> dict[str, Any]:
    """A request of some length, with a format or texts to stop at, or without."""
    words = chance.choices(WORDS, k=chance.randint(1, 30))
    options: dict[str, Any] = {"num_predict": chance.randint(1, 150)}
    body: dict[str, Any] = {"model": "tiny", "prompt": " ".join(words), "logprobs": True, "top_logprobs": 2}
    kind = chance.random()
    if kind < 0.25:
        body["format"] = SCHEMA
    elif kind < 0.5:
        options["stop"] = chance.choices("abcdefghijklmnopqrstuvwxyz9LNs", k=3)
    return {**body, "options": options}


@dataclass(frozen=True, slots=True)
class Told:
    """An answer: its text, why it ended, and its tokens with those that came second."""

    text: str
    reason: str
    tokens: Sequence[Any]

    def agrees(self, other: "Told") -> bool:
        """Whether the other is the same, up to the first token that was chosen by a hair."""
        for mine, theirs in zip(self.tokens, other.tokens, strict=False):
            if mine["bytes"] != theirs["bytes"]:
                best, second = (entry["logprob"] for entry in mine["top_logprobs"])
                return bool(best - second < MARGIN)
        return (self.text, self.reason) == (other.text, other.reason)


def told(server: Served, body: dict[str, Any]) -> Told:
    reply = server.post("/api/generate", body)
    assert reply.status == 200, reply.body
    *_, last = lines = reply.lines
    tokens = [entry for line in lines for entry in line.get("logprobs", ())]
    return Told("".join(line["response"] for line in lines), last["done_reason"], tokens)


def test_each_of_many_gets_the_answer_that_it_gets_alone(crowded: Served) -> None:
    chance = random.Random(1)
    bodies = [some_request(chance) for _ in range(CLIENTS)]
    alone = [told(crowded, body) for body in bodies]
    assert {answer.reason for answer in alone} == {"stop", "length"}
    assert len({answer.text for answer in alone}) > CLIENTS // 2
    steps = figure(crowded, "puna_step_sequences_count"), figure(crowded, "puna_step_sequences_sum")
    start = threading.Barrier(CLIENTS)

    def together(body: dict[str, Any]) -> Told:
        start.wait()
        return told(crowded, body)

    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(together, bodies))
    assert [mine.agrees(found) for mine, found in zip(alone, answers, strict=True)] == [True] * CLIENTS
    count = figure(crowded, "puna_step_sequences_count") - steps[0]
    assert (figure(crowded, "puna_step_sequences_sum") - steps[1]) / count > 2


class Player:
    """A client that asks, listens for a while, and leaves in one way or another."""

    def __init__(self, server: Served, seed: int) -> None:
        self.server = server
        self.chance = random.Random(seed)
        self.played = 0
        self.name = f"player-{seed}"

    def play_until(self, end: float) -> None:
        ways = (
            self.listen,
            self.leave,
            self.hang_up,
            self.end_by_id,
            self.collect,
            self.embed,
            self.forbidden,
        )
        while time.monotonic() < end:
            self.chance.choice(ways)(some_request(self.chance))
            self.played += 1

    def listen(self, body: dict[str, Any]) -> None:
        """To the end."""
        assert told(self.server, body).reason in ("stop", "length")

    def leave(self, body: dict[str, Any]) -> None:
        """In the middle, the connection cut."""
        with self.server.stream("/api/generate", body) as response:
            for _ in range(self.chance.randint(0, 30)):
                response.readline()

    def hang_up(self, body: dict[str, Any]) -> None:
        """Before anything has come back."""
        with self.server.connection() as connection:
            connection.request("POST", "/api/generate", json.dumps(body).encode())
            time.sleep(self.chance.random() / 50)

    def end_by_id(self, body: dict[str, Any]) -> None:
        """By another request."""
        with self.server.stream("/api/generate", body, X_Request_Id=self.name) as response:
            for _ in range(self.chance.randint(1, 30)):
                response.readline()
            ended = self.server.ask("DELETE", f"/api/requests/{self.name}").status
            rest = [json.loads(line) for line in response]
        if ended == 200 and rest:
            assert rest[-1] == {"error": "request canceled"} or rest[-1]["done"]

    def collect(self, body: dict[str, Any]) -> None:
        """In one piece, and perhaps not until it is there."""
        patience = self.chance.choice([0.01, 0.1, 30.0])
        with self.server.connection() as connection:
            connection.request("POST", "/api/generate", json.dumps({**body, "stream": False}).encode())
            connection.sock.settimeout(patience)
            with suppress(TimeoutError):
                assert connection.getresponse().status == 200

    def embed(self, body: dict[str, Any]) -> None:
        """For vectors."""
        reply = self.server.post("/api/embed", {"model": "tiny", "input": [body["prompt"], "a"]})
        assert len(reply.json["embeddings"]) == 2

    def forbidden(self, body: dict[str, Any]) -> None:
        """For what cannot be."""
        assert self.server.post("/api/generate", {**body, "format": {"type": "none"}}).status == 400
        longer = {**body, "prompt": body["prompt"] + "x" * 600}
        assert self.server.post("/api/generate", longer).status == 400


def company(server: Served, seconds: float, seed: int) -> int:
    """Lets clients play, and returns how often."""
    end = time.monotonic() + seconds
    players = [Player(server, seed + number) for number in range(12)]
    with ThreadPoolExecutor(len(players)) as clients:
        for result in [clients.submit(player.play_until, end) for player in players]:
            result.result()
    return sum(player.played for player in players)


def files(server: Served) -> dict[int, int]:
    """How many files the server and its runners have open, by process."""
    return {pid: descriptors(pid) for pid in (server.pid, *children(server.pid))}


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def settled(server: Served) -> dict[int, int]:
    """The same, once all that clients have left is taken away."""
    wait_for(lambda: nobody_is_served(server))
    found = files(server)
    while True:
        time.sleep(0.5)
        before, found = found, files(server)
        if before == found:
            return found


def nobody_is_served(server: Served) -> bool:
    """Whether the request for the figures is the only one."""
    return figure(server, "puna_requests_running") == 1 and not any(
        figure(server, name) for name in ("puna_requests_queued", "puna_requests_waiting")
    )


def keep_company(server: Served, seconds: float) -> None:
    """Whoever comes and goes, nothing is left of them; a runner whose books were wrong would have ended."""
    body = some_request(random.Random(2))
    expected = told(server, body)
    company(server, 3.0, 0)
    before, memory = settled(server), resident(server.pid)
    _, runner = before
    of_runner = threads(runner)
    assert company(server, seconds, 100) > 20
    # The runner is the same one: its books were right whenever it had nothing to do.
    assert settled(server) == before
    assert threads(runner) == of_runner
    assert threads(server.pid) <= MOST_THREADS
    assert figure(server, "puna_cache_cells") <= 8 * 512
    assert expected.agrees(told(server, body))
    assert figure(server, "puna_load_seconds_count") == 1
    assert resident(server.pid) - memory < 32 << 20


def test_nothing_is_left_of_those_who_come_and_go(crowded: Served) -> None:
    keep_company(crowded, 5.0)


@pytest.mark.slow
def test_nothing_is_left_after_ten_minutes(crowded: Served) -> None:
    keep_company(crowded, 600.0)
