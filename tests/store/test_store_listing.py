"""Stores as Ollama writes them: what is read, and that the same bytes are written."""

import hashlib
import os
from pathlib import Path

import pytest
from tests.store.filled import (
    CONFIG,
    DAMAGED,
    add,
    digest_of,
    layer_of,
    manifest_of,
    manifest_path,
    names,
    publish,
    write_manifest,
)

from puna.store.blobs import BlobStore
from puna.store.digest import Digest
from puna.store.library import Library
from puna.store.manifests import (
    CONFIG_TYPE,
    MODEL_LAYER,
    Layer,
    encode_manifest,
    image_manifest,
    model_digest,
)
from puna.store.model import Message, read_model
from puna.store.name import parse_name

# Made with `ollama create` from a Modelfile with FROM, TEMPLATE, SYSTEM, PARAMETER, MESSAGE and LICENSE.
WEIGHTS = b"GGUF stand-in"
TEMPLATE = b"{{ .System }} {{ .Prompt }}"
SYSTEM = b"Answer briefly."
PARAMETERS = b'{"num_ctx":4096,"stop":["\\u003c|end|\\u003e"],"temperature":0.5}\n'
MESSAGES = b'[{"role":"user","content":"hi"},{"role":"assistant","content":"hello"}]\n'
LICENSE = b"Do as you like."
OLLAMA_CONFIG = (
    b'{"model_format":"gguf","model_family":"llama","model_families":["llama"],"model_type":"134.52M",'
    b'"file_type":"Q8_0","architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}\n'
)
DOCUMENTS = {
    "model": WEIGHTS,
    "template": TEMPLATE,
    "system": SYSTEM,
    "params": PARAMETERS,
    "messages": MESSAGES,
    "license": LICENSE,
}


def ollama_manifest() -> bytes:
    """The document as Ollama writes it, spelled out byte by byte."""
    config = digest_of(OLLAMA_CONFIG)
    layers = [
        b'{"mediaType":"application/vnd.ollama.image.%s","digest":"%s","size":%d%s}'
        % (
            kind.encode(),
            str(digest_of(content)).encode(),
            len(content),
            b',"from":"/home/me/a\\u0026b.gguf"' if kind == "model" else b"",
        )
        for kind, content in DOCUMENTS.items()
    ]
    return (
        b'{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",'
        b'"config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"%s","size":%d},'
        b'"layers":[%s]}\n'
    ) % (str(config).encode(), len(OLLAMA_CONFIG), b",".join(layers))


@pytest.fixture
def ollama_store(tmp_path: Path) -> Library:
    """A store made by hand."""
    root = tmp_path / "ollama"
    place = root / "manifests" / "registry.ollama.ai" / "library" / "smollm"
    place.mkdir(parents=True)
    (place / "135m").write_bytes(ollama_manifest())
    (root / "blobs").mkdir()
    for content in (OLLAMA_CONFIG, *DOCUMENTS.values()):
        (root / "blobs" / f"sha256-{hashlib.sha256(content).hexdigest()}").write_bytes(content)
    return Library(root)


def test_a_store_of_ollama_is_read(ollama_store: Library) -> None:
    model = read_model(ollama_store, parse_name("SmolLM:135M"))
    assert str(model.name) == "smollm:135m"
    assert model.digest == hashlib.sha256(ollama_manifest()).hexdigest()
    assert (model.config.model_family, model.config.file_type) == ("llama", "Q8_0")
    assert model.parent == "/home/me/a&b.gguf"
    assert model.path is not None and model.path.read_bytes() == WEIGHTS
    assert (model.template, model.system) == (TEMPLATE.decode(), SYSTEM.decode())
    assert model.parameters == {"num_ctx": 4096, "stop": ["<|end|>"], "temperature": 0.5}
    assert model.messages == (Message("user", "hi"), Message("assistant", "hello"))
    assert model.licenses == (LICENSE.decode(),)
    (listed,) = ollama_store.listing().models
    assert (listed.name, listed.digest) == (model.name, model.digest)
    assert listed.size == len(OLLAMA_CONFIG) + sum(map(len, DOCUMENTS.values()))


def test_reading_a_store_writes_nothing(ollama_store: Library) -> None:
    before = sorted(ollama_store.root.rglob("*"))
    read_model(ollama_store, parse_name("smollm:135m")).weights(ollama_store.blobs)
    ollama_store.listing()
    assert sorted(ollama_store.root.rglob("*")) == before


def test_the_same_model_made_here_has_the_same_bytes(ollama_store: Library, library: Library) -> None:
    prefix = "application/vnd.ollama.image."
    with library.session() as session:
        layers = [
            session.add(prefix + kind, [content], from_="/home/me/a&b.gguf" if kind == "model" else "")
            for kind, content in DOCUMENTS.items()
        ]
        config = session.add(CONFIG_TYPE, [OLLAMA_CONFIG])
        session.publish(parse_name("smollm:135m"), image_manifest(config, layers))

    def tree(root: Path) -> dict[str, bytes]:
        files = (path for path in root.rglob("*") if path.is_file() and ".puna" not in path.parts)
        return {str(path.relative_to(root)): path.read_bytes() for path in files}

    assert tree(library.root) == tree(ollama_store.root)


def test_what_go_escapes_is_escaped() -> None:
    layer = Layer(MODEL_LAYER, str(digest_of(b"x")), 1, from_="<é\u2028>", name="n")
    assert b'"from":"\\u003c\xc3\xa9\\u2028\\u003e","name":"n"}' in encode_manifest(manifest_of(layer))


# Digests that Go's decoder gave for a document of this many bytes: `{"a":"xx…x"}` and a newline.
@pytest.mark.parametrize(
    ("size", "digest"),
    [
        (512, "5b01c3b92f61f1c62760a231c9e8bed312947e504aa7ffc7783f730264efddfa"),
        (513, "371efece8f8a81b9e334f946731e8e1d119c4c4795e0b06b57a4d61f464c4293"),
        (514, "61bdb8bdadd4e77d1ab7a84ca7b88f255e50d663213c43d51156d7d218cf3acd"),
        (1536, "ece097fa41a9f7dec9a5f69cf31049d069f2608b4a00039b397eb7aeac36b48d"),
        (1537, "0909000c229f706a41645a2d3bd0879ee56a41761d574f652311fd526fb73577"),
        (1538, "5563a62d1b1e8b315f67be6d68c07b89e0b7cfdc4319dcedc2d2ee68251f23a4"),
        (3585, "46c68444c8ec936bbb934861c6f9316f84ac12b8b1c14673404969f3619b1ce3"),
        (3586, "f88856998b423d15d4d946924b91771724db3cac2946e5c59a29cb1f620ea5b7"),
        (7681, "332056e49914f6abd8edaa0f9295cfea9be32e604f96b9084131e0796381b209"),
    ],
)
def test_the_digest_of_a_model_is_ollamas(size: int, digest: str) -> None:
    document = b'{"a":"%s"}\n' % (b"x" * (size - 9))
    assert len(document) == size
    assert model_digest(document) == digest


def test_the_last_changed_comes_first_and_names_decide_within_a_second(library: Library) -> None:
    for name, moment in {"b": 1000.2, "c": 2000, "a": 1000.7, "me/a": 1000, "h/n/x:1": 3000}.items():
        publish(library, name, name.encode())
        os.utime(manifest_path(library, name), (moment, moment))
    assert names(library) == ["h/n/x:1", "c:latest", "a:latest", "b:latest", "me/a:latest"]
    assert [int(model.modified) for model in library.listing().models] == [3000, 2000, 1000, 1000, 1000]


def test_damaged_models_are_told_beside_the_others(library: Library) -> None:
    publish(library, "good", b"x")
    write_manifest(library, "cut", DAMAGED)
    write_manifest(library, "empty", b"")
    write_manifest(library, "bad:digest", encode_manifest(manifest_of()).replace(b"sha256:", b"sha256:../"))
    listing = library.listing()
    assert [str(model.name) for model in listing.models] == ["good:latest"]
    assert [str(name) for name, _ in listing.damaged] == ["bad:digest", "cut:latest", "empty:latest"]
    assert all(error and "\n" not in error for _, error in listing.damaged)


@pytest.mark.parametrize(
    "place",
    [
        "stray",
        "h/stray",
        "h/n/stray",
        ".h/n/m/t",
        "h/.n/m/t",
        "h/n/m/.t",
        "h/n/m/t/deeper",
        "h/n.s/m/t",
        "h/n/con/t",
        "h/n/m/t t",
    ],
)
def test_files_elsewhere_are_no_models(library: Library, place: str) -> None:
    path = library.manifests.folder / place
    path.parent.mkdir(parents=True)
    path.write_bytes(encode_manifest(manifest_of()))
    assert library.listing().models == []
    assert library.listing().damaged == []


def test_a_missing_store_has_no_models(library: Library) -> None:
    assert library.listing().models == []
    assert not library.root.exists()


def test_a_manifest_without_its_media_type_is_read(library: Library) -> None:
    document = encode_manifest(manifest_of(layer_of(b"x"))).replace(
        b'"mediaType":"application/vnd.docker.distribution.manifest.v2+json",', b""
    )
    write_manifest(library, "m", document)
    assert library.manifests.read(parse_name("m")).layers == [layer_of(b"x")]


def test_a_blob_is_hashed_once_and_again_when_it_has_changed(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = add(library, b"content")
    path = library.blobs.path(digest)
    hashed: list[Digest] = []
    verify = BlobStore.verify

    def counted(store: BlobStore, digest: Digest) -> bool:
        hashed.append(digest)
        return verify(store, digest)

    monkeypatch.setattr(BlobStore, "verify", counted)
    assert library.blobs.verified(digest) and hashed == []
    path.write_bytes(b"CONTENT")
    assert not library.blobs.verified(digest) and len(hashed) == 1
    path.write_bytes(b"content")
    assert library.blobs.verified(digest) and len(hashed) == 2
    assert library.blobs.verified(digest) and len(hashed) == 2
    (library.blobs.records / digest.hex).write_bytes(b"\xff")
    assert library.blobs.verified(digest) and len(hashed) == 3
    path.unlink()
    assert not library.blobs.verified(digest)


def test_a_blob_put_there_by_others_is_hashed_before_it_is_trusted(library: Library) -> None:
    library.blobs.folder.mkdir(parents=True)
    library.blobs.path(digest_of(CONFIG)).write_bytes(b"not that")
    assert not library.blobs.verified(digest_of(CONFIG))
    add(library, CONFIG)
    assert library.blobs.path(digest_of(CONFIG)).read_bytes() == CONFIG
