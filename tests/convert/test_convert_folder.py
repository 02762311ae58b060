"""Folders to GGUF files: what the file says, and what is refused, with nothing left behind."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.convert.conftest import WORDS, Folder

from puna.convert.convert import Converted, convert
from puna.errors import FormatError, InvalidOption, PunaError, UnsupportedModel, WeightError
from puna.gguf import GGMLType, GGUFFile
from puna.progress import Progress

Change = Callable[[Folder], object]


def made(folder: Folder, path: Path, **options: Any) -> GGUFFile:
    convert(folder.write(path / "folder"), path / "model.gguf", lambda progress: None, **options)
    return GGUFFile.open(path / "model.gguf")


def refused(folder: Folder, path: Path) -> PunaError:
    """The error, after a look that nothing was written."""
    written = folder.write(path / "folder")
    with pytest.raises(PunaError) as caught:
        convert(written, path / "model.gguf", lambda progress: None)
    assert [entry.name for entry in path.iterdir()] == ["folder"]
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    return caught.value


def test_what_the_file_says(folder: Folder, tmp_path: Path) -> None:
    with made(folder, tmp_path) as file:
        metadata = file.metadata
        assert metadata.architecture == "bert"
        assert dict(metadata) == {
            "general.architecture": "bert",
            "general.file_type": 0,
            "bert.context_length": 16,
            "bert.embedding_length": 8,
            "bert.feed_forward_length": 12,
            "bert.block_count": 1,
            "bert.attention.head_count": 2,
            "bert.attention.layer_norm_epsilon": pytest.approx(1e-12),
            "bert.attention.causal": False,
            "bert.pooling_type": 1,
            "bert.hidden_activation": "gelu",
            "tokenizer.ggml.model": "bert",
            "tokenizer.ggml.token_type_count": 2,
            "tokenizer.ggml.tokens": [*WORDS[:5], "▁a", "b", "▁hello", "ing"],
            "tokenizer.ggml.token_type": [3] * 5 + [1] * 4,
            "tokenizer.ggml.normalizer.lowercase": True,
            "tokenizer.ggml.normalizer.strip_accents": True,
            "tokenizer.ggml.padding_token_id": 0,
            "tokenizer.ggml.unknown_token_id": 1,
            "tokenizer.ggml.cls_token_id": 2,
            "tokenizer.ggml.seperator_token_id": 3,
            "tokenizer.ggml.mask_token_id": 4,
        }
        assert len(file.tensors) == len(folder.tensors)
        found = file.tensors["blk.0.ffn_up.weight"]
        assert (found.type, found.shape) == (GGMLType.F32, (12, 8))


@pytest.mark.parametrize(("wanted", "type_", "number"), [("F16", GGMLType.F16, 1), ("F32", GGMLType.F32, 0)])
def test_only_matrices_get_another_type(
    folder: Folder, tmp_path: Path, wanted: str, type_: GGMLType, number: int
) -> None:
    with made(folder, tmp_path, file_type=wanted) as file:
        types = {name: tensor.type for name, tensor in file.tensors.items()}
        assert file.metadata["general.file_type"] == number
    narrow = {name for name, found in types.items() if found is type_}
    if type_ is GGMLType.F16:
        assert narrow == {
            "token_embd.weight",
            *(f"blk.0.attn_{part}.weight" for part in ("q", "k", "v", "output")),
            *(f"blk.0.ffn_{part}.weight" for part in ("up", "down")),
        }
    else:
        assert narrow == types.keys()


def test_half_precision_stays_as_it_is(folder: Folder, tmp_path: Path) -> None:
    folder.tensors = {name: value.astype(np.float16) for name, value in folder.tensors.items()}
    with made(folder, tmp_path) as file:
        assert file.metadata["general.file_type"] == 1
        assert file.tensors["position_embd.weight"].type is GGMLType.F32
        assert file.tensors["blk.0.attn_q.weight"].type is GGMLType.F16


def test_the_same_files_become_the_same_bytes(folder: Folder, tmp_path: Path) -> None:
    path = folder.write(tmp_path / "folder")
    for name in ("one", "two"):
        convert(path, tmp_path / name, lambda progress: None)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_numbered_parts(folder: Folder, tmp_path: Path) -> None:
    with made(folder, tmp_path) as file:
        expected = {name: tensor.shape for name, tensor in file.tensors.items()}
    path, names = tmp_path / "folder", [*folder.tensors]
    (path / "model.safetensors").unlink()
    for number, part in enumerate((names[:5], names[5:9], names[9:]), 1):
        save_file(
            {name: folder.tensors[name] for name in part}, path / f"model-0000{number}-of-00003.safetensors"
        )
    convert(path, tmp_path / "parts.gguf", lambda progress: None)
    with GGUFFile.open(tmp_path / "parts.gguf") as file:
        assert {name: tensor.shape for name, tensor in file.tensors.items()} == expected
    (path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FormatError, match="not complete: there are 2 files of 3"):
        convert(path, tmp_path / "parts.gguf", lambda progress: None)


def test_old_spellings_and_heads_of_training(folder: Folder, tmp_path: Path) -> None:
    folder.tensors = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in folder.tensors.items()
    }
    folder.tensors |= {
        "bert.embeddings.position_ids": np.arange(16)[None],
        "bert.pooler.dense.weight": np.zeros((8, 8), np.float32),
        "cls.predictions.bias": np.zeros(9, np.float32),
    }
    folder.config["architectures"] = ["BertForMaskedLM"]
    with made(folder, tmp_path) as file:
        assert "token_embd_norm.bias" in file.tensors
        assert "cls.weight" not in file.tensors


def test_a_vocabulary_shorter_than_the_table_is_filled_up(folder: Folder, tmp_path: Path) -> None:
    folder.config["vocab_size"] = 12
    folder.tensors["embeddings.word_embeddings.weight"] = np.zeros((12, 8), np.float32)
    with made(folder, tmp_path) as file:
        tokens = file.metadata.strings_bytes("tokenizer.ggml.tokens")
        assert tokens[-3:] == [b"[PAD9]", b"[PAD10]", b"[PAD11]"]
        assert [*file.metadata.array("tokenizer.ggml.token_type")][-3:] == [5, 5, 5]


def tokenizer(**changes: Any) -> dict[str, bytes]:
    """A `tokenizer.json` in place of the list of words."""
    document: dict[str, Any] = {
        "added_tokens": [{"id": 4, "content": "[MASK]"}],
        "normalizer": {"type": "BertNormalizer", "lowercase": False},
        "model": {"type": "WordPiece", "vocab": {word: id for id, word in enumerate(WORDS) if id != 4}},
    }
    return {"tokenizer.json": json.dumps(document | changes).encode()}


def test_a_tokenizer_in_json(folder: Folder, tmp_path: Path) -> None:
    folder.files = tokenizer()
    with made(folder, tmp_path) as file:
        assert file.metadata["tokenizer.ggml.tokens"] == [*WORDS[:5], "▁a", "b", "▁hello", "ing"]
        assert file.metadata["tokenizer.ggml.normalizer.lowercase"] is False
        assert file.metadata["tokenizer.ggml.normalizer.strip_accents"] is False


def pooled(**settings: Any) -> dict[str, bytes]:
    modules = [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]
    return {
        "modules.json": json.dumps(modules).encode(),
        "1_Pooling/config.json": json.dumps(settings).encode(),
    }


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        ({"pooling_mode_mean_tokens": True}, 1),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, 2),
        ({"pooling_mode_lasttoken": True}, 3),
        ({"pooling_mode": "cls"}, 2),
        ({}, 1),
    ],
)
def test_pooling(folder: Folder, tmp_path: Path, settings: dict[str, Any], number: int) -> None:
    folder.files |= pooled(**settings)
    with made(folder, tmp_path) as file:
        assert file.metadata["bert.pooling_type"] == number


def test_shorter_texts_than_the_model_can_take(folder: Folder, tmp_path: Path) -> None:
    told: list[Progress] = []
    folder.files["sentence_bert_config.json"] = b'{"max_seq_length": 10}'
    assert convert(folder.write(tmp_path / "f"), tmp_path / "m.gguf", told.append) == Converted(num_ctx=10)
    assert {progress.status for progress in told} == {"converting model"}
    assert told[-1].completed == told[-1].total
    folder.files["sentence_bert_config.json"] = b'{"max_seq_length": 16}'
    assert convert(folder.write(tmp_path / "f"), tmp_path / "m.gguf", told.append) == Converted(num_ctx=None)


def setting(**values: Any) -> Change:
    return lambda folder: folder.config.update(values)


def holding(**files: bytes) -> Change:
    return lambda folder: folder.files.update(
        {name.replace("_json", ".json"): text for name, text in files.items()}
    )


BAD: dict[str, tuple[Change, type[PunaError], str]] = {
    "no configuration": (lambda folder: folder.config.clear(), FormatError, "no config.json"),
    "unknown": (
        setting(architectures=["EvilModel"]),
        UnsupportedModel,
        "unsupported architecture 'EvilModel'",
    ),
    "no architecture": (
        setting(architectures="BertModel"),
        UnsupportedModel,
        "unsupported architecture missing",
    ),
    "many layers": (setting(num_hidden_layers=10**6), UnsupportedModel, "layers are more than any"),
    "no layers": (setting(num_hidden_layers=0), FormatError, "'num_hidden_layers' must be a whole number"),
    "size is a float": (setting(hidden_size=8.0), FormatError, "'hidden_size' must be a whole number"),
    "size is a bool": (setting(hidden_size=True), FormatError, "'hidden_size' must be a whole number"),
    "huge": (setting(hidden_size=2**40), FormatError, "'hidden_size' must be a whole number"),
    "uneven heads": (setting(num_attention_heads=3), UnsupportedModel, "3 heads cannot share 8"),
    "more words": (setting(vocab_size=2**30), WeightError, "instead of 1073741824 × 8"),
    "fewer words": (setting(vocab_size=8), WeightError, "word_embeddings.weight is 9 × 8 instead of 8 × 8"),
    "more layers": (setting(num_hidden_layers=2), WeightError, "they lack encoder.layer.1.attention"),
    "epsilon": (setting(layer_norm_eps="1"), FormatError, "'layer_norm_eps' must be a number"),
    "negative epsilon": (setting(layer_norm_eps=-1), FormatError, "'layer_norm_eps' must be a number"),
    "relative positions": (setting(position_embedding_type="relative_key"), UnsupportedModel, "relative_key"),
    "decoder": (setting(is_decoder=True), UnsupportedModel, "is_decoder True is not supported"),
    "foreign tensor": (
        lambda folder: folder.tensors.update(x=np.zeros(3, np.float32)),
        WeightError,
        "nothing uses x",
    ),
    "whole numbers": (
        lambda folder: folder.tensors.update({"embeddings.LayerNorm.bias": np.zeros(8, np.int32)}),
        FormatError,
        "elements of type I32, which cannot be converted",
    ),
    "no weights": (lambda folder: folder.tensors.clear(), WeightError, "they lack embeddings.word"),
    "no vocabulary": (
        lambda folder: folder.files.clear(),
        FormatError,
        "neither tokenizer.json nor vocab.txt",
    ),
    "no [CLS]": (
        lambda folder: folder.files.update({"vocab.txt": b"[PAD]\n[UNK]\n[SEP]"}),
        FormatError,
        r"no token '[CLS]'",
    ),
    "an id twice": (
        lambda folder: folder.files.update(
            tokenizer(model={"vocab": {word: id for id, word in enumerate(WORDS)} | {"z": 5}})
        ),
        FormatError,
        "gives 'z' the id 5, which is taken",
    ),
    "id outside": (
        lambda folder: folder.files.update(
            tokenizer(model={"vocab": {word: id for id, word in enumerate(WORDS)} | {"z": 10**12}})
        ),
        FormatError,
        "gives 'z' the id 1000000000000",
    ),
    "another kind of tokenizer": (
        lambda folder: folder.files.update(tokenizer(model={"type": "Unigram", "vocab": [["a", 0]]})),
        UnsupportedModel,
        "no WordPiece vocabulary",
    ),
    "JSON is damaged": (holding(tokenizer_json=b"{"), FormatError, "tokenizer.json is no JSON"),
    "JSON is deep": (holding(tokenizer_json=b"[" * 10**5), FormatError, "tokenizer.json is no JSON"),
    "JSON is a list": (holding(tokenizer_json=b"[1]"), FormatError, "tokenizer.json is no JSON object"),
    "not UTF-8": (holding(tokenizer_json=b'{"\xff": 1}'), FormatError, "tokenizer.json is not UTF-8"),
    "modules are damaged": (holding(modules_json=b"{"), FormatError, "modules.json is no JSON"),
    "maximum of the states": (
        lambda folder: folder.files.update(pooled(pooling_mode_max_tokens=True)),
        UnsupportedModel,
        "a vector made by max_tokens is not supported",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_converted(folder: Folder, tmp_path: Path, case: str) -> None:
    change, kind, message = BAD[case]
    change(folder)
    error = refused(folder, tmp_path)
    assert isinstance(error, kind)
    assert message in str(error)


def test_an_unknown_type_of_file(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="known are F32 and F16"):
        made(folder, tmp_path, file_type="Q4_0")


class _Marker:
    """Leaves a mark where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_programs_beside_the_weights_do_not_run(folder: Folder, tmp_path: Path) -> None:
    """Neither pickles nor modules that the configuration names, nor addresses."""
    mark = tmp_path / "ran"
    pickled = pickle.dumps(_Marker(mark))
    names = (
        "pytorch_model.bin",
        "model.pt",
        "model.ckpt",
        "x.pkl",
        "x.npy",
        "x.joblib",
        "x.msgpack",
        "optimizer.pt",
    )
    folder.files |= dict.fromkeys(names, pickled)
    program = f"import pathlib; pathlib.Path({str(mark)!r}).touch()".encode()
    folder.files |= {"evil.py": program, "configuration_bert.py": program, "tokenization.py": program}
    folder.config |= {
        "auto_map": {"AutoConfig": "evil--x.Y", "AutoModel": "evil.Y"},
        "trust_remote_code": True,
    }
    folder.files["tokenizer_config.json"] = json.dumps(
        {"tokenizer_class": "evil.Y", "auto_map": {"AutoTokenizer": ["tokenization.Y", None]}}
    ).encode()
    path = folder.write(tmp_path / "folder")
    code = (
        "import sys, pathlib\n"
        f"sys.path.insert(0, {str(path)!r})\n"
        "def hook(event, arguments):\n"
        "    assert not event.startswith(('socket.', 'subprocess.', 'os.exec', 'pickle.')), event\n"
        "sys.addaudithook(hook)\n"
        "from puna.convert.convert import convert\n"
        f"convert(pathlib.Path({str(path)!r}), pathlib.Path({str(tmp_path / 'm.gguf')!r}), lambda p: None)\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"evil", "configuration_bert", "tokenization", "numpy", "torch"} & {*done.stdout.split()}
    assert not mark.exists()


def test_links_out_of_the_folder_are_followed_only_to_regular_files(folder: Folder, tmp_path: Path) -> None:
    path = folder.write(tmp_path / "folder")
    (path / "vocab.txt").unlink()
    (path / "vocab.txt").symlink_to("/dev/zero")
    with pytest.raises(FormatError, match="no regular file"):
        convert(path, tmp_path / "m.gguf", lambda progress: None)
