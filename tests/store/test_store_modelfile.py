"""The Modelfile of a stored model, read back."""

from pathlib import Path

import pytest

from puna import gojson
from puna.modelfile.formatter import format
from puna.modelfile.parameters import parameters
from puna.modelfile.parser import parse
from puna.store.config import ModelConfig, encode_config
from puna.store.library import Library
from puna.store.manifests import (
    ADAPTER_LAYER,
    CONFIG_TYPE,
    LICENSE_LAYER,
    MESSAGES_LAYER,
    MODEL_LAYER,
    PARAMETERS_LAYER,
    PROJECTOR_LAYER,
    SYSTEM_LAYER,
    TEMPLATE_LAYER,
    image_manifest,
)
from puna.store.model import Model, read_model
from puna.store.modelfile import modelfile_of
from puna.store.name import parse_name

PARAMETERS = {"stop": ["<|im_end|>", '"', " a "], "num_ctx": 1000000, "temperature": 0.1, "use_mmap": True}
SYSTEM = 'Say "yes".\n  """No."""\n'


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "models")


def stored(library: Library, **documents: bytes) -> Model:
    """A model with these layers besides the weights, and with that config if there is one."""
    kinds = {
        "adapter": ADAPTER_LAYER,
        "projector": PROJECTOR_LAYER,
        "template": TEMPLATE_LAYER,
        "system": SYSTEM_LAYER,
        "params": PARAMETERS_LAYER,
        "license": LICENSE_LAYER,
        "messages": MESSAGES_LAYER,
    }
    with library.session() as session:
        config = session.add(CONFIG_TYPE, [documents.pop("config", b"{}\n")])
        layers = [session.add(MODEL_LAYER, [b"weights"])]
        layers += [session.add(kinds[kind], [content]) for kind, content in documents.items()]
        session.publish(parse_name("m"), image_manifest(config, layers))
    return read_model(library, parse_name("m"))


def test_every_layer_is_in_the_modelfile_and_reads_back(library: Library) -> None:
    messages = [{"role": "user", "content": "Hi\n"}, {"role": "assistant", "content": ""}]
    model = stored(
        library,
        adapter=b"lora",
        projector=b"eyes",
        template=b"{{ .Prompt }} ",
        system=SYSTEM.encode(),
        params=gojson.document(PARAMETERS),
        license=b"Do what you want.\n",
        messages=gojson.document(messages, sort_keys=False),
        config=encode_config(ModelConfig(renderer="r", parser="p", requires="0.14.0")),
    )
    back = parse(format(modelfile_of(model)))
    assert back.values("from") == [str(model.path), str(model.projectors[0])]
    assert back.values("adapter") == [str(model.adapters[0])]
    assert back.values("template") == ["{{ .Prompt }} "]
    assert back.values("system") == [SYSTEM]
    assert parameters(back) == (PARAMETERS, [])
    assert back.values("license") == ["Do what you want.\n"]
    assert [(c.key, c.value) for c in back.commands if c.name == "message"] == [
        ("user", "Hi\n"),
        ("assistant", ""),
    ]
    assert (back.values("renderer"), back.values("parser"), back.values("requires")) == (
        ["r"],
        ["p"],
        ["0.14.0"],
    )


def test_what_a_model_does_not_have_is_not_written(library: Library) -> None:
    model = stored(library)
    assert format(modelfile_of(model)) == f"FROM {model.path}\n"
    assert format(modelfile_of(model, "m:latest")) == "FROM m:latest\n"
