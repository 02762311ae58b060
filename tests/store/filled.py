"""Models for the tests of the store, and other processes at work in it."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from puna.store.digest import Digest
from puna.store.library import Library, Removal
from puna.store.manifests import CONFIG_TYPE, MODEL_LAYER, Layer, Manifest, image_manifest
from puna.store.name import parse_name

CONFIG = b'{"model_format":"gguf"}\n'
DAMAGED = b'{"schemaVersion":2,"layers":'

_HOLDER = """
import sys
from pathlib import Path
from puna.store.library import Library
with Library(Path(sys.argv[1])).session() as session:
    session.add("application/vnd.ollama.image.model", [sys.argv[2].encode()])
    print("stored", flush=True)
    sys.stdin.read()
"""


def digest_of(content: bytes) -> Digest:
    return Digest(hashlib.sha256(content).hexdigest())


def publish(library: Library, name: str, *layers: bytes | tuple[str, bytes]) -> Removal:
    """Store a model of these layers; where a media type is not given, it is that of weights."""
    with library.session() as session:
        typed = [layer if isinstance(layer, tuple) else (MODEL_LAYER, layer) for layer in layers]
        stored = [session.add(media_type, [content]) for media_type, content in typed]
        return session.publish(parse_name(name), image_manifest(session.add(CONFIG_TYPE, [CONFIG]), stored))


def add(library: Library, content: bytes) -> Digest:
    """Store a blob that no model uses."""
    with library.session() as session:
        return session.add(MODEL_LAYER, [content]).content


def layer_of(content: bytes, media_type: str = MODEL_LAYER) -> Layer:
    return Layer(media_type, str(digest_of(content)), len(content))


def manifest_of(*layers: Layer) -> Manifest:
    return image_manifest(layer_of(CONFIG, CONFIG_TYPE), layers)


def contents(library: Library) -> set[bytes]:
    """What is in the files among the blobs, but for the config that all models here have."""
    folder = library.blobs.folder
    return {path.read_bytes() for path in folder.iterdir()} - {CONFIG} if folder.is_dir() else set()


def manifest_path(library: Library, name: str) -> Path:
    return library.manifests.folder.joinpath(*parse_name(name).parts)


def write_manifest(library: Library, name: str, content: bytes) -> Path:
    """Put a file in a manifest's place, as another program would."""
    path = manifest_path(library, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names(library: Library) -> list[str]:
    """The models in the order of the list."""
    return [str(model.name) for model in library.listing().models]


@contextmanager
def holder(library: Library, content: bytes) -> Iterator["subprocess.Popen[str]"]:
    """A process that has stored `content`, has no model for it yet, and ends when its input does."""
    command = [sys.executable, "-c", _HOLDER, str(library.root), content.decode()]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stored\n"
        yield process
