"""Tokenizers, converted and read again, make the same tokens as the libraries that wrote them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.convert.hf_tokenizers import TEMPLATE, TEXTS, byte_level, sentencepieces

from puna.convert.folder import ModelFolder
from puna.convert.tokenizer import tokenizer_keys
from puna.errors import FormatError, PunaError, UnsupportedModel
from puna.gguf import metadata_of
from puna.tokenizer.load import load_tokenizer
from puna.tokenizer.pretokenizers import PRE_TOKENIZERS

pytestmark = [pytest.mark.transformers, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SIZE = 420
MORE = [*TEXTS, "", " ", "\n\n\n", "unseen words: Überraschung, 12345678", "tab\tand  runs   of    spaces "]


def keys(folder: Path, size: int = SIZE, **files: Any) -> dict[str, Any]:
    (folder / "config.json").write_text(json.dumps(files.pop("config", {"vocab_size": size})))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return tokenizer_keys(ModelFolder.at(folder), size)


def encoded(found: dict[str, Any], text: str) -> list[int]:
    metadata = metadata_of({"general.architecture": "llama", **found})
    return load_tokenizer(metadata).encode(text, add_special=False)


def test_bytes(tmp_path: Path) -> None:
    native = byte_level(tmp_path, SIZE)
    found = keys(tmp_path)
    assert found["tokenizer.ggml.pre"] == "llama-bpe"
    assert found["tokenizer.ggml.add_bos_token"] is True
    assert found["tokenizer.chat_template"] == TEMPLATE
    types = dict(zip(found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"], strict=True))
    assert (types["<|begin|>"], types["<tool>"], types["<|looks_special|>"], types["[PAD419]"]) == (
        3,
        4,
        3,
        5,
    )
    for text in MORE:
        assert encoded(found, text) == native.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("prefix", [True, False])
def test_pieces(tmp_path: Path, prefix: bool) -> None:
    native = sentencepieces(tmp_path, prefix=prefix)
    found = keys(tmp_path)
    assert found["tokenizer.ggml.add_space_prefix"] is prefix
    assert found["tokenizer.ggml.tokens"][:4] == ["<unk>", "<s>", "</s>", "<pad>"]
    assert found["tokenizer.ggml.unknown_token_id"] == 0
    for text in filter(None, MORE):
        assert encoded(found, text) == native.EncodeAsIds(text)


@pytest.mark.parametrize("prefix", [True, False])
def test_pieces_that_only_merges_are_left_of(tmp_path: Path, prefix: bool) -> None:
    """Scores are made up for them, so that merging goes in the same order."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    native = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps: list[Any] = [normalizers.Prepend("▁")] if prefix else []
    native.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    native.decoder = decoders.Replace("▁", " ")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False
    )
    native.train_from_iterator(TEXTS * 3, trainer)
    document = json.loads(native.to_str())
    document["added_tokens"] = document["added_tokens"][:3]
    found = keys(tmp_path, tokenizer=document, tokenizer_config={"eos_token": "</s>"})
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.add_space_prefix"]) == ("llama", prefix)
    expected = Tokenizer.from_str(json.dumps(document))
    for text in filter(None, MORE):
        assert encoded(found, text) == expected.encode(text, add_special_tokens=False).ids


def document(**changes: Any) -> dict[str, Any]:
    """A smallest byte-level `tokenizer.json`."""
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
    return {"pre_tokenizer": {"type": "ByteLevel", "use_regex": True}, "model": model, **changes}


def splits(*regexes: str, **changes: Any) -> dict[str, Any]:
    own = {"behavior": "Isolated", "invert": False, **changes}
    steps = [{"type": "Split", "pattern": {"Regex": regex}, **own} for regex in regexes]
    return {"type": "Sequence", "pretokenizers": [*steps, {"type": "ByteLevel", "use_regex": False}]}


@pytest.mark.parametrize(
    "name", ["gpt-2", "qwen2", "dbrx", "tekken", "gpt-4o", "deepseek-v3", "smollm", "seed-coder", "qwen35"]
)
def test_every_known_pre_tokenizer_is_found_by_its_regexes(tmp_path: Path, name: str) -> None:
    row = PRE_TOKENIZERS[name]
    model = document()["model"] | {"ignore_merges": row.whole_words}
    found = keys(tmp_path, 3, tokenizer=document(pre_tokenizer=splits(*row.stages), model=model))
    assert PRE_TOKENIZERS[found["tokenizer.ggml.pre"]] == row


def test_lines_end_by_characters_or_their_names(tmp_path: Path) -> None:
    """As DeepSeek V3's file has them, and others."""
    stages = [
        stage.replace(r"\r", "\r").replace(r"\n", "\n") for stage in PRE_TOKENIZERS["deepseek-v3"].stages
    ]
    found = keys(tmp_path, 3, tokenizer=document(pre_tokenizer=splits(*stages)))
    assert found["tokenizer.ggml.pre"] == "deepseek-v3"


@pytest.mark.parametrize("merge", ["a b", "1 2"])
def test_digits_one_by_one_where_the_name_means_runs_of_them(tmp_path: Path, merge: str) -> None:
    """DeepSeek V2's file and the name that GGUF has for it; they differ where digits are merged."""
    *stages, digits = PRE_TOKENIZERS["deepseek-llm"].stages
    assert digits == r"\p{N}+"
    splitter = splits(*stages)
    splitter["pretokenizers"].insert(-1, {"type": "Digits", "individual_digits": True})
    changed = document(pre_tokenizer=splitter)
    changed["model"]["merges"] = [merge]
    if merge == "1 2":
        with pytest.raises(UnsupportedModel, match="is not supported"):
            keys(tmp_path, 3, tokenizer=changed)
    else:
        assert keys(tmp_path, 3, tokenizer=changed)["tokenizer.ggml.pre"] == "deepseek-llm"


def test_regexes_that_match_everything_may_remove_the_rest(tmp_path: Path) -> None:
    splitter = splits(*PRE_TOKENIZERS["dbrx"].stages, behavior="Removed", invert=True)
    assert keys(tmp_path, 3, tokenizer=document(pre_tokenizer=splitter))["tokenizer.ggml.pre"] == "dbrx"


def test_spaces_in_merges_and_merges_as_pairs(tmp_path: Path) -> None:
    model = {"type": "BPE", "vocab": {"a": 0, "Ġ": 1, "aĠ": 2}, "merges": [["a", " "]]}
    assert keys(tmp_path, 3, tokenizer=document(model=model))["tokenizer.ggml.merges"] == ["a Ġ"]


def test_roles(tmp_path: Path) -> None:
    """A text in the tokenizer's configuration counts before a number; lists of ends are kept."""
    found = keys(
        tmp_path,
        3,
        tokenizer=document(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "b"}}],
            }
        ),
        tokenizer_config={"eos_token": {"content": "ab"}, "bos_token": None, "add_bos_token": True},
        config={"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 99},
        generation_config={"eos_token_id": [2, 1, 7, -1, "x"]},
    )
    assert {key.removeprefix("tokenizer.ggml."): value for key, value in found.items() if "_id" in key} == {
        "bos_token_id": 0,
        "eos_token_id": 1,
        "eot_token_id": 2,
        "eos_token_ids": [2, 1],
    }
    assert (found["tokenizer.ggml.add_bos_token"], found["tokenizer.ggml.add_eos_token"]) == (True, True)


@pytest.mark.parametrize("place", ["tokenizer_config.json", "chat_template.jinja", "chat_template.json"])
def test_templates(tmp_path: Path, place: str) -> None:
    content = TEMPLATE if place.endswith("jinja") else json.dumps({"chat_template": TEMPLATE})
    (tmp_path / place).write_text(content)
    assert keys(tmp_path, 3, tokenizer=document())["tokenizer.chat_template"] == TEMPLATE


def test_templates_for_several_uses(tmp_path: Path) -> None:
    templates = [
        {"name": "default", "template": "a"},
        {"name": "tool_use", "template": "b"},
        {"name": "../x.y", "template": "c"},
        {"name": ["d"], "template": "d"},
        "e",
    ]
    found = keys(tmp_path, 3, tokenizer=document(), tokenizer_config={"chat_template": templates})
    assert {key: value for key, value in found.items() if "template" in key} == {
        "tokenizer.chat_template": "a",
        "tokenizer.chat_template.tool_use": "b",
    }


Change = Callable[[dict[str, Any]], object]
BAD: dict[str, tuple[Change, type[PunaError], str]] = {
    "another kind": (lambda d: d.update(model={"type": "Unigram"}), UnsupportedModel, "of kind 'Unigram'"),
    "no kind": (lambda d: d.update(model=[]), UnsupportedModel, "of kind missing"),
    "no words": (lambda d: d["model"].update(vocab={}), FormatError, "no vocabulary"),
    "words in a list": (lambda d: d["model"].update(vocab=["a"]), FormatError, "no vocabulary"),
    "an id twice": (lambda d: d["model"]["vocab"].update(z=0), FormatError, "gives 'z' the id 0"),
    "an id outside": (lambda d: d["model"]["vocab"].update(z=10**30), FormatError, "gives 'z' the id 1000"),
    "a text as id": (lambda d: d["model"]["vocab"].update(z="0"), FormatError, "gives 'z' the id '0'"),
    "an added id outside": (
        lambda d: d.update(added_tokens=[{"id": 3, "content": "<x>"}]),
        FormatError,
        "gives '<x>' the id 3",
    ),
    "no merges": (lambda d: d["model"].pop("merges"), FormatError, "no merges"),
    "a merge of three": (lambda d: d["model"].update(merges=["a b c"]), FormatError, "the merge 'a b c'"),
    "a merge of one": (lambda d: d["model"].update(merges=[["a"]]), FormatError, "is no pair"),
    "a merge of nothing": (lambda d: d["model"].update(merges=[["a", ""]]), FormatError, "is no pair"),
    "lower case": (lambda d: d.update(normalizer={"type": "Lowercase"}), UnsupportedModel, "'Lowercase'"),
    "other regexes": (
        lambda d: d.update(pre_tokenizer=splits("(a+)+b")),
        UnsupportedModel,
        r"the regexes ['(a+)+b'] is not supported",
    ),
    "no bytes": (lambda d: d.update(pre_tokenizer=None), UnsupportedModel, "does not end with bytes"),
    "pieces inside pieces": (
        lambda d: d.update(pre_tokenizer=nested(50)),
        UnsupportedModel,
        "does not end with bytes",
    ),
}


def nested(depth: int) -> dict[str, Any]:
    step: dict[str, Any] = {"type": "ByteLevel"}
    for _ in range(depth):
        step = {"type": "Sequence", "pretokenizers": [step]}
    return step


@pytest.mark.parametrize("case", BAD)
def test_what_makes_no_sense(tmp_path: Path, case: str) -> None:
    change, kind, message = BAD[case]
    changed = document()
    change(changed)
    with pytest.raises(kind) as caught:
        keys(tmp_path, 3, tokenizer=changed)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no vocabulary"),
        (b"\x80\x04pickle", "is no SentencePiece model"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "has been cut off"),
        (b"\xff" * 20, "a number in it is too long"),
        (b"\x0a\x02\x0a\x05", "has been cut off"),
        (b"\x0a\x03\x0a\x01\xff", "is no SentencePiece model"),
        (b"\x0a\x05\x0a\x01a\x18\x09", "has the type 9"),
        (b"\x0a\x02\x18\x01", "is no SentencePiece model"),
        (b"\x0b", "is no SentencePiece model"),
        # A number where a text should be, as large as memory.
        (b"\x0a\x07\x08\xff\xff\xff\xff\xff\x7f", "a piece is no text"),
        (b"\x08\x01", "is no SentencePiece model"),
    ],
)
def test_damaged_pieces(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(FormatError, match=message):
        keys(tmp_path, 3)


def test_pieces_cut_at_every_byte(tmp_path: Path) -> None:
    sentencepieces(tmp_path, prefix=True)
    whole = (tmp_path / "tokenizer.model").read_bytes()
    for cut in range(1, len(whole), 97):
        (tmp_path / "tokenizer.model").write_bytes(whole[:cut])
        try:
            keys(tmp_path, 3)
        except (FormatError, UnsupportedModel) as error:
            assert "\n" not in str(error)


def test_normalizers_that_are_no_list(tmp_path: Path) -> None:
    model = document()["model"] | {"byte_fallback": True}
    found = keys(tmp_path, 3, tokenizer=document(normalizer={"normalizers": 5}, model=model))
    assert found["tokenizer.ggml.add_space_prefix"] is False


def test_other_algorithms(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x03\x0a\x01a")
    with pytest.raises(UnsupportedModel, match="algorithm 1 is not supported"):
        keys(tmp_path, 3)
