"""What a scrape tells after requests that models in processes of their own have answered."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from tests.scripted_llama import START, write_scripted_llama
from tests.served import Served, serving
from tests.served_models import CHAT, GREEDY, add_model

from puna.store.library import Library

MODEL = "said:latest"
ASKED = {"model": "said", "prompt": "hi", "stream": False}
UNDRAFTED = {"num_predict": 60, "draft_num_predict": 0}


def test_a_scrape_after_two_requests(tmp_path: Path) -> None:
    add_said(tmp_path)
    with serving(tmp_path, tmp_path / "models", PUNA_METRICS="1") as server:
        first, second = (server.post("/api/generate", ASKED).json for _ in range(2))
        assert server.post("/api/generate", {**ASKED, "model": "none"}).status == 404
        figures = scraped(server)
        loaded = server.get("/api/ps").json["models"][0]
    assert first["response"] == second["response"] == "onetwothreefour"
    prompt = first["prompt_eval_count"]
    cached = second["cached_tokens"]
    assert 0 < cached < prompt == second["prompt_eval_count"]
    expected = {
        "puna_tokens_total{kind=prompt}": 2 * prompt,
        "puna_tokens_total{kind=cached}": cached,
        "puna_tokens_total{kind=generated}": 8,
        "puna_first_token_seconds_count": 2,
        "puna_token_gap_seconds_count": 6,
        # What a prompt needs is evaluated at once; each of its steps and each of an answer has one request.
        "puna_step_seconds_count": 10,
        "puna_step_sequences_count": 10,
        "puna_step_sequences_sum": 10,
        "puna_step_tokens_total": 2 * prompt - cached + 8,
        "puna_requests_waiting": 0,
        "puna_load_seconds_count": 1,
        "puna_model_bytes{device=cpu}": loaded["size"],
        "puna_model_bytes{device=gpu}": 0,
    }
    assert {name: figures[name] for name in expected} == expected
    assert figures["puna_cache_cells"] >= prompt
    assert figures["puna_load_seconds_sum"] > 0
    assert figures["puna_step_seconds_sum"] > 0
    assert figures["puna_requests_queued"] == 0
    assert figures["puna_requests_running"] == 1
    assert figures["puna_requests_total{method=POST,route=/api/generate,status=200}"] == 2
    assert figures["puna_errors_total{kind=ModelNotFound}"] == 1


def test_a_model_that_has_gone_takes_nothing(tmp_path: Path) -> None:
    add_said(tmp_path)
    with serving(tmp_path, tmp_path / "models", PUNA_METRICS="1") as server:
        reply = server.post("/api/embed", {"model": "said", "input": ["hi", "one"], "keep_alive": 5})
        assert scraped(server)["puna_tokens_total{kind=prompt}"] == reply.json["prompt_eval_count"]
        server.post("/api/generate", ASKED)
        assert scraped(server)["puna_cache_cells"] > 0
        server.post("/api/generate", {"model": "said", "keep_alive": 0})
        figures = scraped(server)
    assert figures["puna_cache_cells"] == 0
    assert not any(name.startswith("puna_model_bytes") for name in figures)


def test_drafts_are_told_of(tmp_path: Path) -> None:
    add_said(tmp_path, endless=True)
    with serving(tmp_path, tmp_path / "models", PUNA_METRICS="1") as server:
        drafted = server.post("/api/generate", {**ASKED, "options": {"num_predict": 60}}).json
        plain = server.post("/api/generate", {**ASKED, "options": UNDRAFTED}).json
        chat = {"model": "said", "messages": [{"role": "user", "content": "hi"}], "stream": False}
        talked = server.post("/api/chat", {**chat, "options": {"num_predict": 60}}).json
        figures = scraped(server)
    assert drafted["response"] == plain["response"] and drafted["eval_count"] == 60
    assert 30 < drafted["draft_accepted_count"] <= drafted["draft_count"] < 60
    assert not {"draft_count", "draft_accepted_count"} & plain.keys()
    told = [drafted["draft_count"] + talked["draft_count"]]
    told.append(drafted["draft_accepted_count"] + talked["draft_accepted_count"])
    assert [figures[f"puna_tokens_total{{kind={kind}}}"] for kind in ("drafted", "accepted")] == told
    # What was accepted took no step of its own.
    assert figures["puna_step_seconds_count"] < 3 * 61 - told[1] + 3


def add_said(folder: Path, *, endless: bool = False) -> None:
    path = write_scripted_llama(folder / "said.gguf", ("one", "two", "three", "four"), endless=endless)
    add_model(Library(folder / "models"), "said", path, template=CHAT + START, parameters=GREEDY)


def scraped(server: Served) -> dict[str, float]:
    """The figures by name and labels; the model's label, which must be its name, is left out."""
    figures = {}
    for family in text_string_to_metric_families(server.get("/metrics").body.decode()):
        for sample in family.samples:
            assert sample.labels.get("model", MODEL) == MODEL
            labels = ",".join(f"{key}={value}" for key, value in sample.labels.items() if key != "model")
            figures[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return figures
