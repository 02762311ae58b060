"""SentencePiece BPE and Unigram against the models the sentencepiece library trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tests.tokenizer.texts import sample
from tests.tokenizer.vocabularies import (
    CONTROL,
    NORMAL,
    Recipe,
    load,
    normalization,
    recipe_of,
    sentencepiece_model,
    write,
)

from puna.tokenizer import Tokenizer

Pair = tuple[Tokenizer, SentencePieceProcessor]


def pair(path: Path, kind: str, rule: str, **options: Any) -> Pair:
    native = sentencepiece_model(kind, normalization_rule_name=rule, **options)
    keys: dict[str, Any] = {
        "add_space_prefix": options.get("add_dummy_prefix", True),
        "remove_extra_whitespaces": options.get("remove_extra_whitespaces", True),
    }
    if rule != "identity":
        keys["precompiled_charsmap"] = np.frombuffer(normalization(native), np.uint8)
    return load(write(recipe_of(native, {"bpe": "llama", "unigram": "t5"}[kind], **keys), path)), native


@pytest.fixture(
    scope="module",
    params=[
        ("bpe", "identity", {"byte_fallback": True, "remove_extra_whitespaces": False}),
        ("bpe", "identity", {"byte_fallback": True, "remove_extra_whitespaces": True}),
        ("bpe", "identity", {"byte_fallback": False, "remove_extra_whitespaces": False}),
        ("bpe", "identity", {"add_dummy_prefix": False, "remove_extra_whitespaces": False}),
        ("unigram", "identity", {"byte_fallback": True}),
        ("unigram", "nmt_nfkc", {}),
        ("unigram", "nmt_nfkc_cf", {"remove_extra_whitespaces": False}),
    ],
    ids=lambda param: "-".join([param[0], param[1], *map(str, param[2].values())]),
)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    kind, rule, options = request.param
    return pair(tmp_path_factory.mktemp("spm") / "m.gguf", kind, rule, **options)


def test_sample_text_is_tokenized_as_by_the_trained_model(trained: Pair) -> None:
    tokenizer, native = trained
    for line in sample(15_000, seed=30).split("\n"):
        assert tokenizer.encode(line, add_special=False) == native.encode(line), line


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_is_tokenized_as_by_the_trained_model(trained: Pair, text: str) -> None:
    tokenizer, native = trained
    assert tokenizer.encode(text, add_special=False) == native.encode(text)


def test_special_ids_of_the_kinds(trained: Pair) -> None:
    tokenizer, native = trained
    assert tokenizer.vocab_size == native.get_piece_size()
    text = tokenizer.encode("the")
    if tokenizer.add_bos:
        assert (text[0], tokenizer.eos_id, tokenizer.add_eos) == (native.bos_id(), native.eos_id(), False)
    else:
        # T5 defaults: no BOS, EOS appended; this vocabulary's </s> is 2, and the default is 1.
        assert text[-1] == tokenizer.eos_id == 1


def test_vocabulary_without_unknown_token_drops_what_it_lacks(tmp_path: Path) -> None:
    # Too short for the id that the kind takes for granted.
    recipe = Recipe("t5", ["a", "b"], [NORMAL, NORMAL], [-1.0, -1.0])
    tokenizer = load(write(recipe, tmp_path / "m.gguf"))
    assert tokenizer.encode("axba", add_special=False) == [0, 1, 0]


def test_tokens_written_as_bytes_are_bytes_even_if_typed_otherwise(tmp_path: Path) -> None:
    native = sentencepiece_model("bpe", byte_fallback=True, normalization_rule_name="identity")
    recipe = recipe_of(native, "llama")
    plain = replace(recipe, types=[NORMAL if type == 6 else type for type in recipe.types])
    tokenizer = load(write(plain, tmp_path / "m.gguf"))
    assert tokenizer.decode(tokenizer.encode("\x01\U0010fffd")) == "\x01\U0010fffd"


def test_arrays_longer_than_the_embedding_can_be_cut(tmp_path: Path) -> None:
    native = sentencepiece_model("bpe", byte_fallback=True, normalization_rule_name="identity")
    recipe = recipe_of(native, "llama").with_token("<image_soft_token>", CONTROL)
    path = write(recipe, tmp_path / "m.gguf")
    size = native.get_piece_size()
    assert load(path).encode("<image_soft_token>", parse_special=True)[-1] == size
    cut = load(path, limit=size)
    assert cut.vocab_size == size
    assert max(cut.encode("<image_soft_token>", parse_special=True)) < size
