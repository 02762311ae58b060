"""Very long texts: cut where it changes nothing, in bounded memory."""

import re
import resource
from pathlib import Path

import pytest
from tests.tokenizer.texts import sample
from tests.tokenizer.vocabularies import (
    NORMAL,
    Recipe,
    byte_level,
    load,
    marked_bpe,
    recipe_of,
    sentencepiece_model,
    wordpiece,
    write,
)

from puna.tokenizer import Tokenizer, chunks
from puna.tokenizer.pretokenizers import PRE_TOKENIZERS


@pytest.fixture(scope="module")
def recipes() -> dict[str, Recipe]:
    spm = sentencepiece_model("bpe", byte_fallback=True, normalization_rule_name="identity")
    unigram = sentencepiece_model("unigram", normalization_rule_name="identity")
    return {
        "gpt2": byte_level("gpt-2"),
        "gemma4": marked_bpe(),
        "llama": recipe_of(spm, "llama"),
        "t5": recipe_of(unigram, "t5", add_space_prefix=True, remove_extra_whitespaces=True),
        "bert": wordpiece(lowercase=True)[0],
    }


def assert_cut_makes_no_difference(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    text = sample(40_000, seed=50)
    whole = tokenizer.encode(text)
    monkeypatch.setattr(chunks, "SIZE", 50)
    monkeypatch.setattr("puna.tokenizer.sentencepiece_model.SIZE", 50)
    pieces = list(chunks.chunks(text, chunks.WORD_START))
    assert len(pieces) > 200
    assert "".join(pieces) == text
    assert tokenizer.encode(text) == whole


@pytest.mark.parametrize("kind", ["gemma4", "llama", "t5", "bert"])
def test_cutting_changes_no_token(
    kind: str, recipes: dict[str, Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_cut_makes_no_difference(load(write(recipes[kind], tmp_path / "m.gguf")), monkeypatch)


# One name for each set of regexes.
NAMES = {row.stages: name for name, row in PRE_TOKENIZERS.items() if not row.spaces_as_marks}


@pytest.mark.parametrize("name", sorted(NAMES.values()))
def test_cutting_changes_no_token_of_any_pre_tokenizer(
    name: str, recipes: dict[str, Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipes["gpt2"].having(pre=name)
    assert_cut_makes_no_difference(load(write(recipe, tmp_path / "m.gguf")), monkeypatch)


def test_a_run_of_unknown_characters_is_one_token_across_a_cut(
    recipes: dict[str, Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipes["t5"].having(add_space_prefix=False, remove_extra_whitespaces=False)
    tokenizer = load(write(recipe, tmp_path / "m.gguf"))
    text = "ㄅㄆㄇ" * 200
    whole = tokenizer.encode(text)
    assert len(whole) <= 3
    monkeypatch.setattr(chunks, "SIZE", 50)
    monkeypatch.setattr(chunks, "LONGEST", 100)
    monkeypatch.setattr("puna.tokenizer.sentencepiece_model.SIZE", 50)
    assert tokenizer.encode(text) == whole


def test_vocabulary_with_tokens_over_several_words_is_not_cut_at_spaces(
    recipes: dict[str, Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipes["llama"].with_token("e▁", NORMAL, 5.0)
    tokenizer = load(write(recipe, tmp_path / "m.gguf"))
    text = "the model " * 300
    whole = tokenizer.encode(text)
    assert whole.count(len(recipe.tokens) - 1) == 300
    monkeypatch.setattr(chunks, "SIZE", 50)
    monkeypatch.setattr("puna.tokenizer.sentencepiece_model.SIZE", 50)
    assert tokenizer.encode(text) == whole


@pytest.mark.parametrize(
    ("tokens", "crossing"),
    [
        ([b" the", b"  ", b"x", b"\n", b"\n\n", b"1 2"], False),
        ([b" the", b"of the"], True),
        ([b"e "], True),
        ([b"\nab"], True),
        ([b"> </"], False),
    ],
)
def test_tokens_that_hold_a_cut_are_found(tokens: list[bytes], crossing: bool) -> None:
    assert chunks.crosses(tokens) is crossing


def test_text_without_a_place_to_cut_is_cut_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "SIZE", 10)
    monkeypatch.setattr(chunks, "LONGEST", 40)
    pieces = list(chunks.chunks("x" * 130, re.compile("(?!)")))
    assert [len(piece) for piece in pieces] == [40, 40, 40, 10]


def peak() -> int:
    """Peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert", "t5"])
@pytest.mark.parametrize("text", ["prose", "one word"])
def test_fifty_megabytes_fit_in_memory(
    kind: str, text: str, recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    tokenizer: Tokenizer = load(write(recipes[kind], tmp_path / "m.gguf"))
    unit = sample(500_000, seed=51) if text == "prose" else "ab" * 250_000
    long = unit * (50_000_000 // len(unit.encode()))
    before = peak()
    ids = tokenizer.encode(long)
    assert len(ids) > 10
    # The list of ids itself takes 8 bytes each and as much again while it grows.
    assert peak() - before < 1000
