"""What the log and the metrics say, and what they never say."""

import io
import json
import logging
import threading

import pytest
from tests.server.conftest import Serve, quiet_loggers

from puna.options import api_key
from puna.server.logs import configure, facts
from puna.server.metrics import Load, Metrics, ModelMemory
from puna.server.prometheus import PrometheusMetrics

SECRET = "a-secret-of-enough-letters"


def test_a_request_is_a_line(server: Serve) -> None:
    running = server(api_keys=(api_key(SECRET, "mine"),))
    running.post("/api/show", {"model": "nope"}, {"x-api-key": SECRET, "X-Request-Id": "id-1"})
    line = line_with(running.log, "/api/show")
    assert (
        line.startswith("time=2")
        and " level=INFO msg=request request_id=id-1 method=POST path=/api/show" in line
    )
    assert " status=404 duration=" in line and line.endswith(" client=127.0.0.1 key=mine model=nope\n")
    running.get("/healthz")
    assert "level=DEBUG" in line_with(running.log, "/healthz")


def line_with(log: io.StringIO, text: str) -> str:
    """The line that has `text`; it is written after the answer has been sent."""
    for _ in range(3000):
        found = [line for line in log.getvalue().splitlines(keepends=True) if text in line]
        if found and found[-1].endswith("\n"):
            return found[-1]
        threading.Event().wait(0.01)
    raise AssertionError(f"the log never says {text}")


def test_no_secret_and_no_text_of_a_user_is_in_the_log(server: Serve) -> None:
    running = server(api_keys=(api_key(SECRET, "mine"),))
    headers = {"Authorization": f"Bearer {SECRET}", "Cookie": "SECRET-COOKIE"}
    running.post("/api/show?key=SECRET-QUERY", {"model": "x", "system": "SECRET-SYSTEM"}, headers)
    running.post("/api/create", {"model": "x", "from": "../", "system": "SECRET-SYSTEM"}, headers)
    running.get("/", {"Authorization": "Bearer SECRET-WRONG", "X-Request-Id": "the-last"})
    line_with(running.log, "the-last")
    log = running.log.getvalue()
    assert SECRET not in log and "SECRET-" not in log


def test_what_strangers_write_stays_on_its_line(server: Serve) -> None:
    """D16"""
    running = server()
    for text in (
        "a\r\nlevel=INFO msg=forged",
        "\x1b[31mred\x1b[0m",
        "x" * 100_000,
        "\u202e\u0085\u2028\u009b",
    ):
        running.post("/api/show", {"model": text})
        running.get("/" + "".join(f"%{byte:02x}" for byte in text.encode()[:500]), {"User-Agent": "a\tb"})
    running.get("/", {"X-Request-Id": "the-last"})
    line_with(running.log, "the-last")
    log = running.log.getvalue()
    assert log.isascii()
    assert all(character.isprintable() or character == "\n" for character in log)
    assert all(line.startswith("time=") and len(line) < 2000 for line in log.splitlines())


def test_json_lines(server: Serve) -> None:
    running = server(log_format="json")
    running.post("/api/show", {"model": "a\nb"})
    document = json.loads(line_with(running.log, "/api/show"))
    assert (document["msg"], document["model"], document["status"]) == ("request", "a\nb", 400)
    assert isinstance(document["duration"], float)


def test_a_fault_is_told_on_one_line() -> None:
    log = io.StringIO()
    with quiet_loggers():
        configure(logging.INFO, "text", log)
        try:
            raise RuntimeError("first\nsecond\x1b")
        except RuntimeError:
            logging.getLogger("puna.server").exception("it failed", extra=facts(request_id="a b", empty=""))
        logging.getLogger("puna.server").debug("not told")
    (line,) = log.getvalue().splitlines()
    assert 'msg="it failed" request_id="a b" error="Traceback' in line
    assert r"first\nsecond\u001b" in line


def test_metrics_are_off_unless_wanted(server: Serve) -> None:
    assert server().get("/metrics").status == 404
    assert Metrics().exposition() is None


def test_metrics_of_requests(server: Serve) -> None:
    running = server(metrics=True)
    for _ in range(3):
        running.get("/api/version")
    for path in ("/nope/1", "/nope/2"):
        running.get(path)
    running.ask("BREW", "/nope")
    running.post("/api/show", {"model": "nope"})
    reply = running.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    text = reply.body.decode()
    assert 'puna_requests_total{method="GET",route="/api/version",status="200"} 3.0' in text
    assert 'puna_requests_total{method="other",route="other",status="404"}' in text
    assert 'puna_errors_total{kind="ModelNotFound"} 1.0' in text
    assert "puna_requests_running 1.0" in text
    assert "/nope" not in text and "BREW" not in text


def test_metrics_of_models() -> None:
    metrics = PrometheusMetrics()
    metrics.tokens("m", {"prompt": 5, "cached": 2, "generated": 7})
    metrics.first_token("m", 0.2)
    metrics.token_gap("m", 0.01)
    metrics.step("m", sequences=3, waiting=2, tokens=40, cells=50, seconds=0.02)
    metrics.step("m", sequences=0, waiting=2, tokens=0, cells=40, seconds=0.01)
    metrics.loaded("m", 1.5)
    metrics.watch(lambda: Load(4, (ModelMemory("m", 100, 60), ModelMemory("m", 10))))
    text = metrics.exposition()[0].decode()
    for line in (
        'puna_tokens_total{kind="cached",model="m"} 2.0',
        'puna_tokens_total{kind="generated",model="m"} 7.0',
        'puna_first_token_seconds_count{model="m"} 1.0',
        'puna_token_gap_seconds_sum{model="m"} 0.01',
        'puna_step_sequences_sum{model="m"} 3.0',
        'puna_step_seconds_count{model="m"} 1.0',
        'puna_cache_cells{model="m"} 40.0',
        'puna_requests_waiting{model="m"} 2.0',
        'puna_load_seconds_sum{model="m"} 1.5',
        "puna_requests_queued 4.0",
        'puna_model_bytes{device="gpu",model="m"} 60.0',
        'puna_model_bytes{device="cpu",model="m"} 50.0',
    ):
        assert line in text


def test_labels_are_bounded() -> None:
    metrics = PrometheusMetrics()
    for number in range(1000):
        metrics.loaded(f"model-{number}", 1)
    text = metrics.exposition()[0].decode()
    assert text.count("puna_load_seconds_count") == 101
    assert 'puna_load_seconds_count{model="other"} 900.0' in text


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health(server: Serve, path: str) -> None:
    running = server()
    assert running.get(path).json == {"status": "ok"}
    running.library.manifests.folder.parent.mkdir(parents=True)
    running.library.manifests.folder.write_text("not a folder")
    broken = running.get(path)
    if path == "/healthz":
        assert broken.status == 200
    else:
        assert (broken.status, broken.error) == (503, "the model store cannot be read")


def test_a_server_that_stops_is_not_ready(server: Serve) -> None:
    running = server()
    running.state.lifecycle.stopping = True
    reply = running.get("/readyz")
    assert (reply.status, reply.error) == (503, "the server is shutting down")
    assert running.get("/healthz").status == 200
