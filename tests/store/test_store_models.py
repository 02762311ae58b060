"""A model as its layers describe it, and what is said when one of them is wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.store.filled import CONFIG, DAMAGED, digest_of, publish, write_manifest

from puna.errors import ModelNotFound, StoreError, UnsupportedModel
from puna.store.library import Library
from puna.store.manifests import (
    ADAPTER_LAYER,
    LICENSE_LAYER,
    MESSAGES_LAYER,
    PARAMETERS_LAYER,
    PROJECTOR_LAYER,
    PROMPT_LAYER,
    SYSTEM_LAYER,
    TEMPLATE_LAYER,
)
from puna.store.model import Message, Model, read_model
from puna.store.name import parse_name


def model(library: Library, *layers: bytes | tuple[str, bytes]) -> Model:
    publish(library, "m", *layers)
    return read_model(library, parse_name("m"))


def test_a_model_of_weights_alone(library: Library) -> None:
    found = model(library, b"weights")
    assert found.path == library.blobs.path(digest_of(b"weights"))
    assert found.weights(library.blobs) == found.path
    assert (found.template, found.system, found.parameters) == (None, "", {})
    assert (found.messages, found.licenses, found.adapters, found.projectors) == ((), (), (), ())


def test_the_last_of_a_kind_counts(library: Library) -> None:
    found = model(
        library,
        b"first",
        b"last",
        (TEMPLATE_LAYER, b"new name"),
        (PROMPT_LAYER, b"old name"),
        (SYSTEM_LAYER, b"one"),
        (SYSTEM_LAYER, b"two"),
        (MESSAGES_LAYER, b'[{"role":"user","content":"x"}]'),
        (MESSAGES_LAYER, b'[{"role":"assistant"}]'),
    )
    assert found.path == library.blobs.path(digest_of(b"last"))
    assert (found.template, found.system) == ("old name", "two")
    assert found.messages == (Message("assistant"),)


def test_kinds_that_may_come_often_are_kept_in_order(library: Library) -> None:
    found = model(
        library,
        b"weights",
        (PROJECTOR_LAYER, b"p2"),
        (PROJECTOR_LAYER, b"p1"),
        (LICENSE_LAYER, b"second"),
        (LICENSE_LAYER, "first ü".encode()),
        (ADAPTER_LAYER, b"lora"),
    )
    assert [path.read_bytes() for path in found.projectors] == [b"p2", b"p1"]
    assert found.licenses == ("second", "first ü")
    assert [path.read_bytes() for path in found.adapters] == [b"lora"]
    assert found.adapter_files(library.blobs) == found.adapters


def test_parameters_are_merged_and_the_later_wins(library: Library) -> None:
    found = model(
        library,
        b"weights",
        (PARAMETERS_LAYER, b'{"temperature":1,"stop":["a"],"seed":7}'),
        (PARAMETERS_LAYER, b'{"stop":["b","c"],"temperature":0.5}'),
    )
    assert found.parameters == {"temperature": 0.5, "stop": ["b", "c"], "seed": 7}


def test_unknown_kinds_are_passed_over(library: Library) -> None:
    found = model(library, b"weights", ("application/vnd.ollama.image.embed", b"\xff"), ("x/y", b"{"))
    assert found.path is not None and found.parameters == {}


def test_text_that_is_no_utf8_is_read_as_far_as_it_goes(library: Library) -> None:
    assert model(library, b"weights", (SYSTEM_LAYER, b"a\xffb")).system == "a\ufffdb"


def test_no_weights(library: Library) -> None:
    found = model(library, (TEMPLATE_LAYER, b"x"))
    assert (found.path, found.parent) == (None, "")
    with pytest.raises(UnsupportedModel, match="model 'm:latest' has no GGUF file"):
        found.weights(library.blobs)


def test_a_model_that_is_not_there(library: Library) -> None:
    with pytest.raises(ModelNotFound, match="model 'm:latest' not found"):
        read_model(library, parse_name("m"))


def remove(path: Path) -> None:
    path.unlink()


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "kind", [TEMPLATE_LAYER, SYSTEM_LAYER, LICENSE_LAYER, PARAMETERS_LAYER, MESSAGES_LAYER]
)
@pytest.mark.parametrize("damage", [remove, make_folder])
def test_a_missing_document_names_model_and_blob(
    library: Library, kind: str, damage: Callable[[Path], None]
) -> None:
    content = {PARAMETERS_LAYER: b"{}", MESSAGES_LAYER: b"[]"}.get(kind, b"text")
    publish(library, "m", b"weights", (kind, content))
    damage(library.blobs.path(digest_of(content)))
    assert digest_of(content).hex in damaged(library)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (PARAMETERS_LAYER, b"["),
        (PARAMETERS_LAYER, b"[1]"),
        (PARAMETERS_LAYER, b'{"a":\xff}'),
        (PARAMETERS_LAYER, b'{"a":' + b"[" * 100_000),
        (MESSAGES_LAYER, b"{}"),
        (MESSAGES_LAYER, b'[{"content":"x"}]'),
        (MESSAGES_LAYER, b'[{"role":1}]'),
        (SYSTEM_LAYER, b"x" * ((16 << 20) + 1)),
    ],
    ids=["cut", "list", "utf8", "deep", "object", "no role", "number", "long"],
)
def test_a_damaged_document_names_model_and_blob(library: Library, kind: str, content: bytes) -> None:
    publish(library, "m", b"weights", (kind, content))
    assert digest_of(content).hex in damaged(library)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"model_families":1}', b"\xff"])
def test_a_damaged_config_names_model_and_blob(library: Library, content: bytes) -> None:
    publish(library, "m", b"weights")
    library.blobs.path(digest_of(CONFIG)).write_bytes(content)
    assert digest_of(CONFIG).hex in damaged(library)


def test_a_damaged_manifest_names_the_model(library: Library) -> None:
    write_manifest(library, "m", DAMAGED)
    damaged(library)


def damaged(library: Library) -> str:
    """What is said of the model `m`, in one line."""
    with pytest.raises(StoreError) as caught:
        read_model(library, parse_name("M"))
    message = str(caught.value)
    assert message.startswith("model 'm:latest' is damaged: ")
    assert "\n" not in message and len(message) < 400
    return message
