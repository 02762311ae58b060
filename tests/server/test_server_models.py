"""Ollama's routes about models: fields, statuses and texts as its clients know them."""

import hashlib
import json
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.convert.tiny_llama_folder import LlamaFolder
from tests.served import Reply
from tests.server.conftest import Running, Serve

from puna.store.library import Library
from puna.store.name import parse_name

CREATED = [
    "parsing GGUF",
    "writing manifest",
    "success",
]


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def upload(running: Running, content: bytes) -> str:
    digest = digest_of(content)
    assert running.post(f"/api/blobs/{digest}", content).status == 201
    return digest


def make(running: Running, gguf: bytes, name: str = "tiny", **fields: Any) -> Reply:
    reply = running.post(
        "/api/create", {"model": name, "files": {"tiny.gguf": upload_once(running, gguf)}, **fields}
    )
    assert reply.lines[-1] == {"status": "success"}
    return reply


def upload_once(running: Running, content: bytes) -> str:
    digest = digest_of(content)
    assert running.post(f"/api/blobs/{digest}", content).status in (200, 201)
    return digest


@pytest.fixture
def running(server: Serve) -> Running:
    return server()


def test_the_root_says_what_clients_look_for(running: Running) -> None:
    reply = running.get("/")
    assert (reply.status, reply.body) == (200, b"Ollama is running")
    assert reply.headers["content-type"].startswith("text/plain")
    head = running.ask("HEAD", "/")
    assert (head.status, head.body) == (200, b"")


def test_version_and_status(running: Running) -> None:
    reply = running.get("/api/version")
    assert reply.headers["content-type"] == "application/json; charset=utf-8"
    assert re.fullmatch(r"\d+\.\d+\.\d+", reply.json["version"])
    assert running.ask("HEAD", "/api/version").status == 200
    assert running.get("/api/status").json == {"cloud": {"disabled": True, "source": "config"}}


def test_unknown_paths_and_methods(running: Running) -> None:
    hidden = (
        "/debug/pprof/",
        "/debug/vars",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/metrics",
        "/slots",
        "/props",
    )
    for path in ("/nope", "/api", "/api/tags/", "//api/tags", *hidden):
        reply = running.get(path)
        assert (reply.status, reply.body) == (404, b"404 page not found"), path
        assert reply.headers["content-type"].startswith("text/plain")
    for method, path in (("GET", "/api/pull"), ("POST", "/api/tags"), ("POST", "/api/delete"), ("PUT", "/")):
        assert running.ask(method, path).status == 405, path


def test_an_empty_store_lists_nothing(running: Running, library: Library) -> None:
    assert running.get("/api/tags").json == {"models": []}
    assert running.ask("HEAD", "/api/tags").status == 200
    assert not library.root.exists()


def test_tags_have_ollamas_fields(running: Running, gguf: bytes, library: Library) -> None:
    make(running, gguf, template="{{ .Prompt }}")
    manifest = library.manifests.existing(parse_name("tiny"))
    (model,) = running.get("/api/tags").json["models"]
    modified = model.pop("modified_at")
    assert model == {
        "name": "tiny:latest",
        "model": "tiny:latest",
        "size": model["size"],
        "digest": hashlib.sha256(manifest.read_bytes()).hexdigest(),
        "details": {
            "parent_model": "tiny.gguf",
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": "32",
            "quantization_level": "F32",
            "context_length": 2048,
            "embedding_length": 32,
        },
        "capabilities": ["completion"],
    }
    document = json.loads(manifest.read_bytes())
    assert model["size"] == sum(layer["size"] for layer in [*document["layers"], document["config"]])
    moment = datetime.fromisoformat(modified)
    assert moment.utcoffset() is not None
    assert moment.timestamp() == pytest.approx(manifest.stat().st_mtime, abs=1e-5)


def test_tags_are_sorted_by_time_and_pass_over_the_damaged(
    running: Running, gguf: bytes, library: Library
) -> None:
    for number, name in enumerate(("old", "new", "broken", "empty")):
        make(running, gguf, name)
        path = library.manifests.existing(parse_name(name))
        os.utime(path, (number, number))
    library.manifests.existing(parse_name("broken")).write_text("{")
    weights = library.blobs.path(_digest(gguf))
    assert [model["name"] for model in running.get("/api/tags").json["models"]] == [
        *("empty:latest", "new:latest", "old:latest")
    ]
    assert 'msg="a model is damaged"' in running.log.getvalue()
    weights.unlink()
    assert len(running.get("/api/tags").json["models"]) == 3


def _digest(content: bytes) -> Any:
    from puna.store.digest import Digest

    return Digest(hashlib.sha256(content).hexdigest())


def test_show(running: Running, gguf: bytes) -> None:
    make(
        running,
        gguf,
        template="{{ .System }}|{{ .Prompt }}",
        system="be kind",
        license=["MIT", "or not"],
        parameters={"temperature": 0.5, "stop": ["a", "b"]},
        messages=[{"role": "user", "content": "hi"}],
    )
    shown = running.post("/api/show", {"model": "tiny"}).json
    assert shown["template"] == "{{ .System }}|{{ .Prompt }}"
    assert shown["system"] == "be kind"
    assert shown["license"] == "MIT\nor not"
    assert sorted(shown["parameters"].splitlines()) == sorted(
        [f'{"stop":<30} "a"', f'{"stop":<30} "b"', f"{'temperature':<30} 0.5"]
    )
    assert shown["messages"] == [{"role": "user", "content": "hi"}]
    assert shown["details"]["family"] == "llama"
    assert shown["model_info"]["general.architecture"] == "llama"
    assert shown["model_info"]["tokenizer.ggml.tokens"] is None
    assert "general.name" not in shown["model_info"]
    assert shown["tensors"] == [{"name": "token_embd.weight", "type": "F32", "shape": [32]}]
    assert shown["capabilities"] == ["completion"]
    assert shown["modelfile"].splitlines()[2] == "# FROM tiny:latest"


def test_show_in_full_with_overlays_and_for_copilot(running: Running, gguf: bytes) -> None:
    make(running, gguf, system="one")
    shown = running.post(
        "/api/show",
        {"NAME": "TINY:LATEST", "Verbose": True, "system": "two", "options": {"top_k": 3}},
        {"User-Agent": "GitHubCopilotChat/0.27"},
    ).json
    assert shown["model_info"]["tokenizer.ggml.tokens"] == ["a", "b"]
    assert shown["model_info"]["general.basename"] == "TINY:LATEST"
    assert shown["system"] == "two"
    assert "SYSTEM two" in shown["modelfile"] and "PARAMETER top_k 3" in shown["modelfile"]
    assert running.post("/api/show", {"model": "tiny", "options": {"top_k": "x"}}).status == 400


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({}, 400, "model is required"),
        ({"model": ""}, 400, "model is required"),
        ({"model": "../x"}, 400, "invalid model name"),
        ({"model": "nope"}, 404, "model 'nope:latest' not found"),
        ({"model": "ns/nope:1b"}, 404, "model 'ns/nope:1b' not found"),
        ({"model": "nope:local"}, 404, "model 'nope:latest' not found"),
        ({"model": "nope:cloud"}, 403, "ollama cloud is disabled: remote model details are unavailable"),
        ({"model": "nope:20b-cloud"}, 403, "ollama cloud is disabled: remote model details are unavailable"),
        ({"model": "x:local:cloud"}, 400, 'use either :local or :cloud, not both: "x:local:cloud"'),
        (b"", 400, "missing request body"),
        (b"{b}", 400, "invalid JSON: object keys must be strings (byte 1)"),
        ({"model": 1}, 400, "invalid request: Expected str, got int - at $.model"),
    ],
)
def test_show_refuses(running: Running, body: object, status: int, text: str) -> None:
    reply = running.post("/api/show", body)
    assert (reply.status, reply.error) == (status, text)
    assert reply.headers["content-type"] == "application/json; charset=utf-8"


def test_create_tells_its_steps_line_by_line(running: Running, gguf: bytes) -> None:
    reply = make(running, gguf, system="s")
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/x-ndjson"
    statuses = [line["status"] for line in reply.lines]
    assert [status for status in statuses if not status.startswith(("creating", "using"))] == CREATED
    assert all({*line} <= {"status", "digest", "total", "completed"} for line in reply.lines)


def test_create_without_a_stream(running: Running, gguf: bytes) -> None:
    digest = upload(running, gguf)
    reply = running.post("/api/create", {"name": "t", "files": {"a.gguf": digest}, "stream": False})
    assert (reply.status, reply.json) == (200, {"status": "success"})
    assert reply.headers["content-type"] == "application/json"
    derived = running.post("/api/create", {"model": "u", "from": "t", "system": "x", "stream": False})
    assert derived.json == {"status": "success"}
    assert running.post("/api/show", {"model": "u"}).json["details"]["parent_model"] == "t:latest"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "neither 'from' or 'files' was specified"),
        ({"files": {"/abs": "sha256:" + "0" * 64}}, "file path must be relative"),
        ({"files": {"a/../b": "sha256:" + "0" * 64}}, "file path must be relative"),
        ({"files": {"a.gguf": ""}}, "invalid digest format"),
        ({"files": {"m.gguf": "/etc/passwd"}}, "invalid digest format"),
        ({"adapters": {"a": "/etc/passwd"}, "from": "x"}, "invalid digest format"),
        ({"from": "../../etc/passwd"}, "invalid model name"),
        ({"model": "a b", "from": "x"}, "invalid model name"),
        ({"model": "", "from": "x"}, "invalid model name"),
        ({"from": "x", "parameters": {"top_k": "many"}}, 'option "top_k" must be of type integer'),
        ({"from": "x", "messages": [{"role": "wizard"}]}, None),
        ({"from": "x", "requires": "soon"}, "requires must be a valid semver (e.g. 0.14.0)"),
        ({"from": "x", "draft_files": {"d": "e"}}, "draft models are not supported"),
        ({"from": "x", "remote_host": "https://h"}, "remote models are not supported"),
    ],
)
def test_create_refuses_at_once(running: Running, fields: dict[str, Any], text: str | None) -> None:
    reply = running.post("/api/create", {"model": "new", **fields})
    assert reply.status == 400
    assert text is None or reply.error == text


def test_create_from_safetensors(running: Running, tmp_path: Path) -> None:
    folder = LlamaFolder().write(tmp_path / "folder")
    files = {path.name: upload(running, path.read_bytes()) for path in folder.iterdir()}
    reply = running.post("/api/create", {"model": "converted", "files": files})
    statuses = [line["status"] for line in reply.lines]
    assert [*dict.fromkeys(statuses)][:2] == ["converting model", "verifying conversion"]
    assert statuses[-1] == "success"
    shown = running.post("/api/show", {"model": "converted"}).json
    assert (shown["details"]["family"], shown["model_info"]["llama.block_count"]) == ("llama", 2)
    del files["config.json"]
    reply = running.post("/api/create", {"model": "no", "files": files, "stream": False})
    assert reply.status == 400
    assert reply.json == {"error": "there is no config.json beside the safetensors files, or nothing in it"}


@pytest.mark.parametrize("key", ["path", "modelfile"])
def test_create_tells_nothing_of_the_servers_files(running: Running, key: str) -> None:
    """B01, B02: what names files of the server is refused in the same words, whatever is there."""
    replies = [
        running.post("/api/create", {"model": "x", key: f"FROM {path}" if key == "modelfile" else path})
        for path in ("/etc/passwd", "/no/such", "/dev/zero", "/proc/self/mem", r"\\evil\share\x")
    ]
    assert {(reply.status, reply.body) for reply in replies} == {(400, replies[0].body)}


def test_create_from_what_is_no_model(running: Running) -> None:
    """B04: what has been uploaded is not trusted, and the failed creation leaves the store as it was."""
    for content in (b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 16, b"not a model at all"):
        digest = upload(running, content)
        reply = running.post("/api/create", {"model": "bad", "files": {"a.gguf": digest}, "stream": False})
        assert reply.status == 400
        assert "/" not in reply.error.replace("sha256:", "")
        streamed = running.post("/api/create", {"model": "bad", "files": {"a.gguf": digest}})
        assert "success" not in streamed.body.decode()
    assert running.get("/api/tags").json == {"models": []}


def test_create_from_a_blob_that_is_not_there(running: Running) -> None:
    reply = running.post(
        "/api/create", {"model": "x", "files": {"a.gguf": "sha256:" + "0" * 64}, "stream": False}
    )
    assert reply.status in (404, 500)
    assert str(running.library.root) not in reply.error


def test_copy_and_delete(running: Running, gguf: bytes, library: Library) -> None:
    make(running, gguf)
    reply = running.post("/api/copy", {"source": "tiny", "destination": "other:v2"})
    assert (reply.status, reply.body) == (200, b"")
    assert running.ask("DELETE", "/api/delete", {"model": "tiny"}).status == 200
    assert [model["name"] for model in running.get("/api/tags").json["models"]] == ["other:v2"]
    reply = running.ask("DELETE", "/api/delete", {"name": "other:v2"})
    assert (reply.status, reply.body) == (200, b"")
    assert [*library.blobs] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("POST", "/api/copy", {"source": "nope", "destination": "x"}, 404, 'model "nope" not found'),
        ("POST", "/api/copy", {"source": "", "destination": "x"}, 400, 'source "" is invalid'),
        ("POST", "/api/copy", {"source": "../x", "destination": "x"}, 400, 'source "../x" is invalid'),
        ("POST", "/api/copy", {"source": "x", "destination": "a b"}, 400, 'destination "a b" is invalid'),
        ("POST", "/api/copy", b"", 400, "missing request body"),
        ("DELETE", "/api/delete", {"model": "nope"}, 404, "model 'nope' not found"),
        ("DELETE", "/api/delete", {"model": ""}, 400, "model is required"),
        ("DELETE", "/api/delete", {"model": "a//b"}, 400, 'name "a//b" is invalid'),
        ("DELETE", "/api/delete", b"", 400, "missing request body"),
        ("POST", "/api/pull", {"model": ""}, 400, "invalid model name"),
        ("POST", "/api/pull", {"model": "a b"}, 400, "invalid model name"),
        ("POST", "/api/push", {"model": ""}, 400, "model is required"),
        ("POST", "/api/push", {"model": "a b"}, 400, "invalid model name"),
        ("HEAD", "/api/blobs/sha256:12", None, 400, None),
        ("POST", "/api/blobs/sha256:12", b"x", 400, "invalid digest format"),
    ],
)
def test_the_catalogue_of_errors(
    running: Running, method: str, path: str, body: object, status: int, text: str | None
) -> None:
    reply = running.ask(method, path, body)
    assert reply.status == status
    if text is not None:
        assert reply.error == text


# A29: names that would be paths, or are something else to some file system.
HOSTILE_NAMES = [
    *("../../../etc/passwd", "a/../../b", "..", ".", "a/b/c/d/e", "x" * 81, "h/n/m:..", "a\x00b"),
    *("%2e%2e%2f", "a\\b", "CON", "nul.txt", "x.", "x ", "m:tag::$DATA", "-x", "\U0001f600", "http://"),
    *("/etc/passwd", "a\r\nb", "\x1b[31m", "file:///etc/passwd", "pypi://../x", "pypi://a/b"),
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_that_are_none(running: Running, name: str, library: Library) -> None:
    for method, path, body in (
        ("POST", "/api/show", {"model": name}),
        ("POST", "/api/pull", {"model": name}),
        ("POST", "/api/push", {"model": name}),
        ("POST", "/api/create", {"model": name, "from": "x"}),
        ("POST", "/api/create", {"model": "x", "from": name}),
        ("POST", "/api/copy", {"source": name, "destination": "x"}),
        ("POST", "/api/copy", {"source": "x", "destination": name}),
        ("DELETE", "/api/delete", {"model": name}),
    ):
        reply = running.ask(method, path, body)
        assert reply.status == 400, (path, reply.body)
        assert "invalid" in reply.error
    assert not library.root.exists()
    log = running.log.getvalue()
    assert "\x1b" not in log and "\r" not in log
    assert all(line.startswith("time=") for line in log.splitlines())


def test_a_hand_made_manifest_opens_nothing(
    running: Running, gguf: bytes, library: Library, tmp_path: Path
) -> None:
    """A03: digests in a manifest are no paths."""
    make(running, gguf)
    secret = tmp_path / "secret"
    secret.write_text("TOP-SECRET")
    path = library.manifests.existing(parse_name("tiny"))
    document = json.loads(path.read_bytes())
    document["layers"][0]["digest"] = "sha256:../../../secret"
    evil = path.with_name("evil")
    evil.write_text(json.dumps(document))
    for method, route, body in (
        ("POST", "/api/show", {"model": "tiny:evil"}),
        ("POST", "/api/push", {"model": "tiny:evil", "stream": False}),
        ("POST", "/api/copy", {"source": "tiny:evil", "destination": "x"}),
        ("POST", "/api/create", {"model": "y", "from": "tiny:evil", "stream": False}),
    ):
        reply = running.ask(method, route, body)
        assert reply.status in (400, 500), (route, reply.body)
        assert "TOP-SECRET" not in reply.body.decode() and str(tmp_path) not in reply.body.decode()
    assert [model["name"] for model in running.get("/api/tags").json["models"]] == ["tiny:latest"]
    assert running.ask("DELETE", "/api/delete", {"model": "tiny:evil"}).status == 200
    assert secret.read_text() == "TOP-SECRET"
