"""WordPiece against the tokenizers library's own model with the original ## spelling."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tokenizer.texts import sample
from tests.tokenizer.vocabularies import load, wordpiece, write
from tokenizers import Tokenizer as Native

from puna.tokenizer import Tokenizer

Pair = tuple[Tokenizer, Native]


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    recipe, native = wordpiece(lowercase=request.param)
    return load(write(recipe, tmp_path_factory.mktemp("wordpiece") / "m.gguf")), native


def test_sample_text_is_tokenized_as_by_the_trained_model(trained: Pair) -> None:
    tokenizer, native = trained
    text = sample(20_000, seed=40)
    assert tokenizer.encode(text, add_special=False) == native.encode(text).ids


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_is_tokenized_as_by_the_trained_model(trained: Pair, text: str) -> None:
    tokenizer, native = trained
    assert tokenizer.encode(text, add_special=False) == native.encode(text).ids


def test_a_text_is_put_between_cls_and_sep(trained: Pair) -> None:
    tokenizer, native = trained
    ids = tokenizer.encode("the model")
    assert (ids[0], ids[-1]) == (native.token_to_id("[CLS]"), native.token_to_id("[SEP]"))
    assert tokenizer.decode(ids) == "the model"


def test_keys_can_be_spelt_either_way(tmp_path: Path) -> None:
    recipe, _ = wordpiece(lowercase=True)
    recipe = recipe.having(bos_token_id=None, seperator_token_id=None, cls_token_id=2, separator_token_id=3)
    tokenizer = load(write(recipe, tmp_path / "m.gguf"))
    assert (tokenizer.bos_id, tokenizer.eos_id) == (2, 3)
