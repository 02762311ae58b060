"""Models made from requests: their layers byte for byte, what they inherit, and what is reported."""

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.create.conftest import CHAT_TEMPLATE, Maker, tree, write_gguf, write_parts

from puna.create.files import check_gguf
from puna.create.request import CreateRequest, checked_version, named_files
from puna.errors import (
    FormatError,
    InvalidOption,
    ModelNotFound,
    PunaError,
    StoreError,
    TemplateError,
)
from puna.gguf import GGUFFile
from puna.progress import Progress, Report
from puna.store.digest import Digest
from puna.store.manifests import (
    ADAPTER_LAYER,
    CONFIG_TYPE,
    MESSAGES_LAYER,
    MODEL_LAYER,
    PARAMETERS_LAYER,
    PROJECTOR_LAYER,
    PROMPT_LAYER,
    TEMPLATE_LAYER,
    Layer,
    image_manifest,
)
from puna.store.model import Message, read_model
from puna.store.name import ModelName, parse_name

NEW = parse_name("new")
BASE = parse_name("me/base:7b")


def sha(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@pytest.fixture
def model(maker: Maker) -> Digest:
    return maker.add(write_gguf(maker.folder / "up.gguf", {"general.file_type": 1}, tensors={"a": 1_500_000}))


@pytest.fixture
def base(maker: Maker, model: Digest) -> ModelName:
    """A model with a layer of every kind."""
    maker.create(
        CreateRequest(
            name=BASE,
            files={"base.gguf": model},
            template="{{ .Prompt }}",
            system="be kind",
            licenses=("MIT",),
            parameters={"temperature": 0.5, "stop": ["a", "b"]},
            messages=(Message("user", "hi"), Message("assistant", "ho")),
            renderer="qwen3-coder",
            parser="qwen3",
            requires="v0.14.0",
        )
    )
    return BASE


def kinds(maker: Maker, name: ModelName) -> list[tuple[str, str]]:
    layers = maker.library.manifests.read(name).layers
    return [(layer.media_type.rpartition(".")[2], layer.from_) for layer in layers]


def test_a_whole_model(maker: Maker, model: Digest) -> None:
    size = maker.library.blobs.size(model)
    statuses = maker.create(
        CreateRequest(
            name=NEW,
            files={"sub/model.gguf": model},
            template="{{ .System }}<&>",
            system="be kind",
            licenses=("MIT", "Apache"),
            parameters={
                "top_p": 0.9,
                "num_ctx": 4096,
                "stop": ["<|end|>"],
                "use_mmap": True,
                "temperature": 1.0,
            },
            messages=(Message("user", "a < b"), Message("assistant", "")),
            renderer="r",
            parser="p",
            requires="0.14.0",
        )
    )
    documents = {
        "template": b"{{ .System }}<&>",
        "system": b"be kind",
        "license": b"MIT",
        "license2": b"Apache",
        "params": b'{"num_ctx":4096,"stop":["\\u003c|end|\\u003e"],"temperature":1,'
        b'"top_p":0.9,"use_mmap":true}\n',
        "messages": b'[{"role":"user","content":"a \\u003c b"},{"role":"assistant","content":""}]\n',
    }
    config = (
        b'{"model_format":"gguf","model_family":"llama","model_families":["llama"],"model_type":"1.50M",'
        b'"file_type":"F16","renderer":"r","parser":"p","requires":"0.14.0","architecture":"amd64","os":"linux"}\n'
    )
    path = maker.library.manifests.existing(NEW)
    layers = [
        {
            "mediaType": "application/vnd.ollama.image.model",
            "digest": str(model),
            "size": size,
            "from": "model.gguf",
        }
    ]
    layers += [
        {
            "mediaType": f"application/vnd.ollama.image.{kind.rstrip('2')}",
            "digest": sha(content),
            "size": len(content),
        }
        for kind, content in documents.items()
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": sha(config),
            "size": len(config),
        },
        "layers": layers,
    }
    assert path.read_bytes() == json.dumps(manifest, separators=(",", ":")).encode() + b"\n"
    for content in (*documents.values(), config):
        assert maker.library.blobs.path(Digest.parse(sha(content))).read_bytes() == content
    assert statuses == [
        "parsing GGUF",
        f"using existing layer {model}",
        *(f"creating new layer {sha(content)}" for content in documents.values()),
        "writing manifest",
        "success",
    ]


def test_made_again_everything_is_there_already(maker: Maker, base: ModelName) -> None:
    before = tree(maker.library.root)
    statuses = maker.create(CreateRequest(name=base, from_=base))
    assert {status.rpartition(" ")[0] for status in statuses[:-2]} == {"using existing layer"}
    assert statuses[-2:] == ["writing manifest", "success"]
    assert {key: value for key, value in tree(maker.library.root).items() if "manifests" not in key} == {
        key: value for key, value in before.items() if "manifests" not in key
    }


def test_a_derived_model_inherits_everything(maker: Maker, base: ModelName) -> None:
    maker.create(CreateRequest(name=NEW, from_=base))
    origin = "me/base:7b"
    assert kinds(maker, NEW) == [
        *((kind, origin) for kind in ("model", "template", "system", "license", "messages")),
        ("params", ""),
    ]
    old, new = (read_model(maker.library, name) for name in (base, NEW))
    assert replace(new, name=old.name, digest=old.digest, manifest=old.manifest, parent=old.parent) == old
    assert (new.parent, new.config) == (origin, old.config)


def test_what_replaces_and_what_is_added(maker: Maker, base: ModelName) -> None:
    maker.create(
        CreateRequest(
            name=NEW,
            from_=base,
            template="{{ .System }}",
            system="be brief",
            licenses=("GPL", "MIT"),
            parameters={"stop": ["c"], "num_ctx": 8},
            messages=(Message("user", "new"),),
            renderer="other",
            requires="1.2.3-rc.1",
        )
    )
    made = read_model(maker.library, NEW)
    assert (made.template, made.system, made.licenses) == ("{{ .System }}", "be brief", ("MIT", "GPL"))
    assert maker.blob("new", PARAMETERS_LAYER) == b'{"num_ctx":8,"stop":["c"],"temperature":0.5}\n'
    assert maker.blob("new", MESSAGES_LAYER) == b'[{"role":"user","content":"new"}]\n'
    assert (made.config.renderer, made.config.parser, made.config.requires) == (
        "other",
        "qwen3",
        "1.2.3-rc.1",
    )
    assert [kind for kind, _ in kinds(maker, NEW)] == [
        *("model", "license", "template", "system", "license", "params", "messages"),
    ]


def test_empty_texts_take_away(maker: Maker, base: ModelName) -> None:
    maker.create(
        CreateRequest(
            name=NEW, from_=base, template="", system="", messages=(), renderer="", parser="", requires=""
        )
    )
    assert [kind for kind, _ in kinds(maker, NEW)] == ["model", "license", "params"]
    assert b"renderer" not in (config_of(maker, NEW))


def config_of(maker: Maker, name: ModelName) -> bytes:
    return maker.library.blobs.path(maker.library.manifests.read(name).config.content).read_bytes()


def test_an_old_prompt_layer_is_a_template(maker: Maker, model: Digest) -> None:
    with maker.library.session() as session:
        layers = [Layer(MODEL_LAYER, str(model), maker.library.blobs.size(model) or 0)]
        layers.append(session.add(PROMPT_LAYER, [b"old"]))
        session.publish(BASE, image_manifest(session.add(CONFIG_TYPE, [b"{}"]), layers))
    maker.create(CreateRequest(name=NEW, from_=BASE, template="new"))
    assert [kind for kind, _ in kinds(maker, NEW)] == ["model", "template"]


def test_overwriting_removes_what_only_the_old_model_used(maker: Maker, base: ModelName) -> None:
    maker.create(CreateRequest(name=base, from_=base, system="be brief"))
    contents = [path.read_bytes() for path in maker.library.blobs.folder.iterdir()]
    assert b"be kind" not in contents
    assert b"be brief" in contents


def test_a_template_is_detected(maker: Maker) -> None:
    path = write_gguf(maker.folder / "m.gguf", {"tokenizer.chat_template": CHAT_TEMPLATE})
    digest = maker.add(path)
    template, parameters = (
        b"{{ .Prompt }} in chatml",
        b'{"num_ctx":8,"stop":["\\u003c|im_end|\\u003e","\\u003cb\\u003e"]}\n',
    )
    statuses = maker.create(CreateRequest(name=NEW, files={"m": digest}, parameters={"num_ctx": 8}))
    assert statuses == [
        "parsing GGUF",
        f"using existing layer {digest}",
        "using autodetected template chatml",
        f"creating new layer {sha(parameters)}",
        "writing manifest",
        "success",
    ]
    assert (maker.blob("new", TEMPLATE_LAYER), maker.blob("new", PARAMETERS_LAYER)) == (template, parameters)


def test_stops_and_template_that_are_given_win(maker: Maker) -> None:
    digest = maker.add(write_gguf(maker.folder / "m.gguf", {"tokenizer.chat_template": CHAT_TEMPLATE}))
    maker.create(CreateRequest(name=NEW, files={"m": digest}, parameters={"stop": "x"}))
    assert maker.blob("new", PARAMETERS_LAYER) == b'{"stop":["x"]}\n'
    maker.create(CreateRequest(name=NEW, files={"m": digest}, template="mine"))
    assert kinds(maker, NEW) == [("model", "m"), ("template", "")]
    other = maker.add(write_gguf(maker.folder / "o.gguf", {"tokenizer.chat_template": "unknown"}))
    maker.create(CreateRequest(name=NEW, files={"m": other}))
    assert kinds(maker, NEW) == [("model", "m")]


@pytest.mark.parametrize(
    ("values", "architecture", "kind"),
    [
        ({}, "llama", MODEL_LAYER),
        ({"general.type": "model"}, "llama", MODEL_LAYER),
        ({"general.type": "adapter"}, "llama", ADAPTER_LAYER),
        ({"general.type": "projector"}, "mllama", PROJECTOR_LAYER),
        ({"general.type": "mmproj"}, "x", PROJECTOR_LAYER),
        ({"clip.has_vision_encoder": True}, "clip", PROJECTOR_LAYER),
        ({"gemma3.vision.block_count": 2}, "gemma3", PROJECTOR_LAYER),
        ({"gemma3.vision.block_count": 2, "gemma3.block_count": 2}, "gemma3", MODEL_LAYER),
    ],
)
def test_kinds_of_files(
    maker: Maker, base: ModelName, values: dict[str, Any], architecture: str, kind: str
) -> None:
    digest = maker.add(write_gguf(maker.folder / "f.gguf", values, architecture=architecture))
    request = CreateRequest(name=NEW, files={"f.gguf": digest})
    if kind == ADAPTER_LAYER:
        request = CreateRequest(name=NEW, from_=base, adapters={"f.gguf": digest})
    elif kind == PROJECTOR_LAYER:
        request = CreateRequest(name=NEW, from_=base, files={"f.gguf": digest})
    maker.create(request)
    layer = maker.library.manifests.read(NEW).first(kind)
    assert layer is not None
    assert (layer.content, layer.from_) == (digest, "f.gguf")


def test_the_config_tells_of_every_file_the_model_first(maker: Maker, model: Digest) -> None:
    projector = maker.add(write_gguf(maker.folder / "p.gguf", architecture="clip"))
    maker.create(CreateRequest(name=NEW, files={"a-projector.gguf": projector, "model.gguf": model}))
    assert kinds(maker, NEW) == [("model", "model.gguf"), ("projector", "a-projector.gguf")]
    config = json.loads(config_of(maker, NEW))
    assert (config["model_family"], config["model_families"]) == ("llama", ["llama", "clip"])
    maker.create(CreateRequest(name=BASE, from_=NEW))
    assert json.loads(config_of(maker, BASE)) == config


def test_a_model_that_is_not_there_is_pulled(maker: Maker, model: Digest) -> None:
    def pull(name: ModelName, report: Report) -> None:
        report(Progress("pulling manifest"))
        with maker.library.session() as session:
            layer = session.add(MODEL_LAYER, [maker.library.blobs.path(model).read_bytes()])
            session.publish(name, image_manifest(session.add(CONFIG_TYPE, [b"{}"]), [layer]))
        report(Progress("success"))

    maker.pulls = pull
    statuses = maker.create(CreateRequest(name=NEW, from_=parse_name("h/n/far:1")))
    assert maker.pulled == ["h/n/far:1"]
    assert statuses == ["pulling manifest", f"using existing layer {model}", "writing manifest", "success"]
    assert kinds(maker, NEW) == [("model", "h/n/far:1")]
    assert maker.create(CreateRequest(name=NEW, from_=parse_name("h/n/FAR:1")))[0].startswith("using")
    assert maker.pulled == ["h/n/far:1"]


def test_layers_without_gguf_are_derived_from_too(maker: Maker) -> None:
    with maker.library.session() as session:
        tensor = session.add("application/vnd.ollama.image.tensor", [b"x"])
        config = session.add(
            CONFIG_TYPE, [b'{"model_format":"safetensors","model_family":"f","capabilities":["image"]}']
        )
        named = Layer(tensor.media_type, tensor.digest, tensor.size, name="blk.0")
        session.publish(BASE, image_manifest(config, [named]))
    maker.create(CreateRequest(name=NEW, from_=BASE, system="s"))
    assert maker.library.manifests.read(NEW).layers[0].name == "blk.0"
    made = json.loads(config_of(maker, NEW))
    assert (made["model_format"], made["model_family"], made["capabilities"]) == (
        "safetensors",
        "f",
        ["image"],
    )


def test_split_files_are_merged(maker: Maker) -> None:
    parts = write_parts(maker.folder)
    files = {path.name: maker.add(path) for path in reversed(parts)}
    statuses = maker.create(CreateRequest(name=NEW, files=files))
    layer = maker.library.manifests.read(NEW).layers[0]
    assert layer.from_ == "big.gguf"
    assert statuses[:6] == ["merging GGUF files"] * 6
    assert statuses[6:9] == [
        "parsing GGUF",
        f"creating new layer {layer.digest}",
        "using autodetected template chatml",
    ]
    assert (maker.told[5].completed, maker.told[5].total) == (4 * (3 * 8 + 40 + 41 + 42),) * 2
    with GGUFFile.open(maker.library.blobs.path(layer.content)) as whole:
        assert not any(key.startswith("split.") for key in whole.metadata)
        assert whole.metadata["tokenizer.chat_template"] == CHAT_TEMPLATE
        assert [*whole.tensors] == [f"blk.{n}.{x}" for n in range(3) for x in "ab"]
        for number, size in enumerate((40, 41, 42)):
            assert bytes(whole.tensor_bytes(f"blk.{number}.b")) == struct.pack(f"<{size}f", *range(size))


def test_a_type_that_the_model_has_is_no_work(maker: Maker, base: ModelName, model: Digest) -> None:
    maker.create(CreateRequest(name=NEW, files={"m": model}, quantize="f16"))
    maker.create(CreateRequest(name=NEW, from_=base, quantize="F16"))
    quantized = maker.add(write_gguf(maker.folder / "q.gguf", {"general.file_type": 15}))
    maker.create(CreateRequest(name=NEW, files={"m": quantized}, quantize="Q4_K"))


@pytest.mark.parametrize(
    ("source", "wanted", "kind", "message"),
    [
        (1, "q4_k_m", FormatError, r"^'m.gguf': the key 'llama.block_count' is missing$"),
        (15, "Q8_0", InvalidOption, "^quantization is only supported for F16, BF16 and F32 models$"),
        (
            1,
            "Q3\n",
            InvalidOption,
            r"^unsupported quantization type Q3\\n - supported types are F32, F16, BF16, Q8_0, ",
        ),
    ],
)
def test_types_that_a_model_cannot_get(
    maker: Maker, source: int, wanted: str, kind: type[PunaError], message: str
) -> None:
    digest = maker.add(write_gguf(maker.folder / "q.gguf", {"general.file_type": source}))
    before = tree(maker.library.root)
    with pytest.raises(kind, match=message):
        maker.create(CreateRequest(name=NEW, files={"m.gguf": digest}, quantize=wanted))
    assert tree(maker.library.root) == before


# Faults: each gives one line, and leaves the store as it was.


def refused(maker: Maker, kind: type[PunaError], message: str, **request: Any) -> None:
    before = tree(maker.library.root)
    with pytest.raises(kind, match=message) as caught:
        maker.create(CreateRequest(name=NEW, **request))
    assert "\n" not in str(caught.value)
    assert str(maker.library.root) not in str(caught.value)
    assert "success" not in maker.statuses
    assert tree(maker.library.root) == before


def test_a_template_must_parse(maker: Maker, base: ModelName) -> None:
    refused(
        maker,
        TemplateError,
        "^template error: template, line 1, column 1: unclosed action$",
        from_=base,
        template="{{",
    )


def test_a_model_that_nobody_has(maker: Maker, base: ModelName) -> None:
    refused(maker, ModelNotFound, "^model 'none:latest' not found$", from_=parse_name("none"), system="x")


def test_a_model_derived_from_itself_must_be_there(maker: Maker) -> None:
    refused(maker, ModelNotFound, "not found", from_=NEW)


def test_files_must_be_in_the_store(maker: Maker, base: ModelName) -> None:
    missing = Digest("0" * 64)
    refused(maker, StoreError, f"^'m.gguf': blob {missing} not found$", files={"a/m.gguf": missing})
    refused(maker, StoreError, "not found", from_=base, adapters={"a.gguf": missing})


def test_a_damaged_blob_is_not_used(maker: Maker, model: Digest) -> None:
    path = maker.library.blobs.path(model)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(StoreError, match="not found"):
        maker.create(CreateRequest(name=NEW, files={"m.gguf": model}))


def test_a_parent_without_its_file(maker: Maker, base: ModelName, model: Digest) -> None:
    maker.library.blobs.path(model).unlink()
    refused(maker, StoreError, "^model 'me/base:7b' is damaged: 'sha256:", from_=base)


@pytest.mark.parametrize("cut", [0, 3, 8, 30, 100, -1])
def test_damaged_files(maker: Maker, cut: int) -> None:
    path = write_gguf(maker.folder / "m.gguf")
    path.write_bytes(path.read_bytes()[:cut])
    refused(maker, FormatError, "^'m.gguf'", files={"x/m.gguf": maker.add(path)})


@pytest.mark.parametrize(
    ("name", "content", "kind", "message"),
    [
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}      ", FormatError, "there is no config.json"),
        ("pytorch_model.bin", b"PK\x03\x04archive", FormatError, "can hold programs"),
        ("model.pt", b"GGUF", FormatError, "can hold programs"),
        ("model.pth", b"anything", FormatError, "can hold programs"),
        ("model.ckpt", b"\x80\x02}q\x00.", FormatError, "can hold programs"),
        ("innocent.gguf", b"\x80\x04\x95.....", FormatError, "can hold programs"),
        ("innocent", b"PK\x03\x04........", FormatError, "can hold programs"),
        ("model.gguf", b"ustar", FormatError, "supplied file was not in GGUF format"),
        ("model.gguf", b"", FormatError, "supplied file was not in GGUF format"),
    ],
)
def test_only_gguf_is_read(
    maker: Maker, name: str, content: bytes, kind: type[PunaError], message: str
) -> None:
    path = maker.folder / "upload"
    path.write_bytes(content)
    refused(maker, kind, message, files={name: maker.add(path)})


def test_files_that_do_not_belong_together(maker: Maker, base: ModelName, model: Digest) -> None:
    other = maker.add(write_gguf(maker.folder / "o.gguf", {"general.name": "other"}))
    projector = maker.add(write_gguf(maker.folder / "p.gguf", architecture="clip"))
    adapter = maker.add(write_gguf(maker.folder / "a.gguf", {"general.type": "adapter"}))
    refused(maker, FormatError, "'a' and 'b' are two models", files={"a": model, "b": other})
    refused(maker, FormatError, "'p' is a projector; a model is wanted", files={"p": projector})
    refused(maker, FormatError, "'a' is an adapter; name it as one", files={"m": model, "a": adapter})
    refused(maker, FormatError, "'m' is a second model beside 'me/base:7b'", from_=base, files={"m": other})
    refused(maker, FormatError, "'m' is no adapter", from_=base, adapters={"m": model})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"general.architecture": 5}, "must be a string"),
        ({"general.architecture": "../x"}, "names no architecture"),
        ({"general.architecture": "llama", "general.type": 1}, "'general.type' at byte"),
        ({"general.architecture": "llama", "general.file_type": "x"}, "'general.file_type' at byte"),
        (
            {"general.architecture": "llama", "tokenizer.chat_template": 1},
            "'tokenizer.chat_template' at byte",
        ),
    ],
)
def test_metadata_of_wrong_types(maker: Maker, values: dict[str, Any], message: str) -> None:
    digest = maker.add(write_gguf(maker.folder / "m.gguf", values, architecture=""))
    refused(maker, FormatError, message, files={"m.gguf": digest})


def test_split_files_that_do_not_fit(maker: Maker) -> None:
    parts = write_parts(maker.folder / "good")
    digests = {path.name: maker.add(path) for path in parts}
    first, second, third = digests
    lacking = {first: digests[first], third: digests[third]}
    refused(maker, FormatError, f"not complete: '{second}' is missing", files=lacking)
    twisted = {first: digests[second], second: digests[first], third: digests[third]}
    refused(maker, FormatError, "does not say that it is part 0 of 3", files=twisted)
    alone = {"big-00001-of-00001.gguf": digests[first]}
    refused(maker, FormatError, "is one part of a split model", files=alone)
    extra = {**digests, "big-00004-of-00003.gguf": digests[third]}
    refused(maker, FormatError, "'big-00004-of-00003.gguf' is no part of 3", files=extra)
    few = write_parts(maker.folder / "few", tensors=7)
    fewer = {path.name: maker.add(path) for path in few}
    refused(maker, FormatError, "have 6 tensors together, instead of 7", files=fewer)
    whole = maker.add(write_gguf(maker.folder / "whole.gguf"))
    refused(maker, FormatError, "its split.no is None", files={**digests, second: whole})


def test_tensors_in_two_parts(maker: Maker) -> None:
    files = {}
    for number in range(2):
        values = {"split.no": number, "split.count": 2}
        path = write_gguf(maker.folder / f"{number}.gguf", values, tensors={"a": 8})
        files[f"m-{number + 1:05}-of-00002.gguf"] = maker.add(path)
    refused(maker, FormatError, "have the same tensor", files=files)


def test_texts_too_long(maker: Maker, base: ModelName) -> None:
    text = "x" * (50 << 20)
    refused(maker, InvalidOption, "longer than the", from_=base, template=text)
    refused(maker, InvalidOption, "longer than the", from_=base, parameters={"stop": [text]})
    refused(maker, InvalidOption, "longer than the", from_=base, messages=(Message("user", text),))


def test_a_parameter_that_has_no_json(maker: Maker, base: ModelName) -> None:
    refused(maker, InvalidOption, "cannot be stored", from_=base, parameters={"x": float("inf")})


def test_nothing_is_left_of_a_store_that_was_not_there(maker: Maker, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        maker.create(CreateRequest(name=NEW, from_=BASE))
    assert not maker.library.root.exists()


def test_what_cannot_be_published_is_taken_back(maker: Maker, base: ModelName) -> None:
    # A folder where the manifest would have to be.
    maker.library.manifests.folder.joinpath(*NEW.parts).mkdir(parents=True)
    before = tree(maker.library.root)
    with pytest.raises(StoreError):
        maker.create(CreateRequest(name=NEW, from_=base, system="never"))
    assert tree(maker.library.root) == before


# Requests that cannot be.


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "a/../b", "./a", "a//b", "", ".", "a/", "..", "/", "a/./b"]
)
def test_file_names_are_relative(path: str) -> None:
    with pytest.raises(InvalidOption, match="file path must be relative"):
        named_files({path: "sha256:" + "0" * 64})
    with pytest.raises(InvalidOption, match="file path must be relative"):
        CreateRequest(name=NEW, files={path: Digest("0" * 64)})
    with pytest.raises(InvalidOption, match="file path must be relative"):
        CreateRequest(name=NEW, from_=BASE, adapters={path: Digest("0" * 64)})


@pytest.mark.parametrize("path", ["a\0b", "a\nb", "\x1b[2J", "x" * 2000])
def test_file_names_are_text(path: str) -> None:
    with pytest.raises(InvalidOption, match="cannot name a file"):
        named_files({path: "sha256:" + "0" * 64})


@pytest.mark.parametrize(
    "digest",
    ["", "/etc/passwd", "/no/such", "sha256:0", "sha256:../../x", "sha256:" + "g" * 64, "md5:" + "0" * 64],
)
def test_files_are_named_by_digests(digest: str) -> None:
    with pytest.raises(InvalidOption, match="invalid digest format"):
        named_files({"m.gguf": digest})


def test_good_names() -> None:
    hexadecimal = "0123456789abcdef" * 4
    assert named_files({"a/b c.gguf": f"sha256:{hexadecimal}"}) == {"a/b c.gguf": Digest(hexadecimal)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "^neither 'from' or 'files' was specified$"),
        ({"adapters": {"a": Digest("0" * 64)}}, "^neither 'from' or 'files' was specified$"),
        (
            {"from_": BASE, "adapters": {"a": Digest("0" * 64), "b": Digest("1" * 64)}},
            "^only one adapter is currently supported$",
        ),
        ({"files": {str(n): Digest("0" * 64) for n in range(2000)}}, "^a model is made of at most"),
        ({"from_": BASE, "requires": "latest"}, r"^requires must be a valid semver \(e.g. 0.14.0\)$"),
        ({"from_": BASE, "messages": (Message("evil", "x"),)}, "^message role must be one of"),
        ({"from_": BASE, "parameters": {"num_ctx": "4096"}}, '^option "num_ctx" must be of type integer$'),
        ({"from_": BASE, "parameters": {"num_ctx": 1.5}}, '^option "num_ctx" must be of type integer$'),
        ({"from_": BASE, "parameters": {"num_ctx": True}}, '^option "num_ctx" must be of type integer$'),
        ({"from_": BASE, "parameters": {"num_gpu": 1 << 63}}, '^option "num_gpu" must be of type integer$'),
        ({"from_": BASE, "parameters": {"use_mmap": 1}}, '^option "use_mmap" must be of type boolean$'),
        (
            {"from_": BASE, "parameters": {"temperature": "hot"}},
            '^option "temperature" must be of type float32$',
        ),
        ({"from_": BASE, "parameters": {"stop": [1]}}, '^option "stop" must be of an array of strings$'),
        ({"from_": BASE, "parameters": {"top_p": 9}}, "^top_p must be a number from 0 to 1, not 9$"),
    ],
)
def test_requests_that_make_no_sense(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        CreateRequest(name=NEW, **fields)


def test_parameters_nobody_knows_are_kept() -> None:
    values = {"low_vram": True, "future": {"a": [1]}, "num_ctx": 4096.0, "temperature": None, "stop": "x"}
    assert CreateRequest(name=NEW, from_=BASE, parameters=values).parameters == {**values, "stop": ["x"]}


@pytest.mark.parametrize(
    "text", ["0.14.0", "v0.14.0", "1", "1.2", "1.2.3-rc.1", "1.2.3-0a+build.5", "10.20.30", "1.2.3+x"]
)
def test_versions(text: str) -> None:
    assert checked_version(text) == text.removeprefix("v")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v",
        "vv1",
        "01.2.3",
        "1.2.3.4",
        "1.2-rc",
        "1.2.3-01",
        "1.2.3-",
        "1.2.3+",
        "1.2.3 ",
        "a",
        "1.٢",
        "1" * 200,
    ],
)
def test_no_versions(text: str) -> None:
    with pytest.raises(InvalidOption):
        checked_version(text)


def test_devices_are_not_waited_for() -> None:
    for device in ("/dev/zero", "/dev/tty", "/proc/self/mem", "/"):
        with pytest.raises(FormatError):
            check_gguf(Path(device), "m.gguf")
