"""Every kind of tokenizer against llama.cpp, token for token."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.tokenizer.oracle import LlamaCpp
from tests.tokenizer.texts import sample
from tests.tokenizer.vocabularies import (
    USER_DEFINED,
    Recipe,
    byte_level,
    load,
    marked_bpe,
    normalization,
    recipe_of,
    sentencepiece_model,
    wordpiece,
    write,
)

from puna.tokenizer import Tokenizer
from puna.tokenizer.pretokenizers import PRE_TOKENIZERS

MEGABYTE = 1_000_000

Oracle = Callable[[Path], LlamaCpp]


def first_difference(ours: list[int], theirs: list[int], tokenizer: Tokenizer) -> str:
    """Where two tokenizations part, for a failing test to show."""
    same = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    if same is None:
        return f"{len(ours)} tokens, llama.cpp {len(theirs)}"
    shown = [[tokenizer.token_text(id) for id in ids[max(0, same - 3) : same + 5]] for ids in (ours, theirs)]
    return f"token {same}: {shown[0]}, llama.cpp {shown[1]}"


def assert_same(tokenizer: Tokenizer, oracle: LlamaCpp, text: str, *, parse_special: bool) -> None:
    ours = tokenizer.encode(text, add_special=False, parse_special=parse_special)
    theirs = oracle.encode(text, parse_special=parse_special)
    assert ours == theirs, first_difference(ours, theirs, tokenizer)


@pytest.mark.parametrize("model", ["smollm2_path", "gemma3_path"])
def test_megabyte_of_text_is_tokenized_as_by_llama_cpp(
    model: str, request: pytest.FixtureRequest, llama_cpp: Oracle
) -> None:
    path: Path = request.getfixturevalue(model)
    tokenizer, oracle = load(path), llama_cpp(path)
    text = sample(MEGABYTE)
    assert_same(tokenizer, oracle, text, parse_special=False)
    assert_same(tokenizer, oracle, text, parse_special=True)
    short = text[:2000]
    assert tokenizer.encode(short) == oracle.encode(short, add_special=True)
    ids = tokenizer.encode(short, add_special=False)
    assert tokenizer.decode(ids) == oracle.decode(ids)


@pytest.mark.parametrize("model", ["smollm2_path", "gemma3_path"])
def test_runs_of_one_character_are_tokenized_as_by_llama_cpp(
    model: str, request: pytest.FixtureRequest, llama_cpp: Oracle
) -> None:
    path: Path = request.getfixturevalue(model)
    tokenizer, oracle = load(path), llama_cpp(path)
    for character in " \n\t\r-=a0.<é中😀\u0301":
        for length in (1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 63, 100):
            assert_same(tokenizer, oracle, "x" + character * length + "y", parse_special=False)


# The rest of the rows repeat these regexes, or are the originals of what llama.cpp approximates with classes
# of ASCII letters (see the test after next).
PRE_NAMES = ["default", "llama-bpe", "qwen2", "smollm", "gpt-2", "deepseek-v3", "falcon"]
MORE_PRE_NAMES = ["qwen35", "deepseek-llm", "deepseek-coder", "glm4", "seed-coder", "minicpm5", "exaone-moe"]
MORE_PRE_NAMES += ["bloom", "viking", "bailingmoe"]


def same_by_lines(recipe: Recipe, path: Path, llama_cpp: Oracle, text: str) -> None:
    write(recipe, path, weights=True)
    tokenizer, oracle = load(path), llama_cpp(path)
    assert_same(tokenizer, oracle, text, parse_special=False)
    assert_same(tokenizer, oracle, text, parse_special=True)


@pytest.fixture(scope="module")
def trained_bytes() -> Recipe:
    return byte_level("gpt-2")


@pytest.mark.parametrize(
    "name", [*PRE_NAMES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_PRE_NAMES)]
)
def test_pre_tokenizers_split_as_llama_cpp_does(
    name: str, trained_bytes: Recipe, tmp_path: Path, llama_cpp: Oracle
) -> None:
    same_by_lines(trained_bytes.having(pre=name), tmp_path / "m.gguf", llama_cpp, sample(40_000, seed=5))


@pytest.mark.parametrize("name", ["tekken", "gpt-4o"])
def test_pre_tokenizers_with_letter_case_agree_on_ascii(
    name: str, trained_bytes: Recipe, tmp_path: Path, llama_cpp: Oracle
) -> None:
    # llama.cpp has no classes of upper and lower case: it writes "not a-z" and "not A-Z".
    text = "".join(c for c in sample(60_000, seed=6) if c.isascii())
    same_by_lines(trained_bytes.having(pre=name), tmp_path / "m.gguf", llama_cpp, text)


def test_marked_bpe_is_tokenized_as_by_llama_cpp(tmp_path: Path, llama_cpp: Oracle) -> None:
    same_by_lines(marked_bpe(), tmp_path / "m.gguf", llama_cpp, sample(40_000, seed=7))


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_bpe_is_tokenized_as_by_llama_cpp(
    prefix: bool, tmp_path: Path, llama_cpp: Oracle
) -> None:
    native = sentencepiece_model("bpe", byte_fallback=True, normalization_rule_name="identity")
    recipe = recipe_of(native, "llama", add_space_prefix=prefix).with_token("<tool>", USER_DEFINED)
    text = sample(20_000, seed=8).replace("<bos>", "<tool>")
    same_by_lines(recipe, tmp_path / "m.gguf", llama_cpp, text)


def test_unigram_is_tokenized_as_by_llama_cpp(tmp_path: Path, llama_cpp: Oracle) -> None:
    native = sentencepiece_model("unigram", byte_fallback=False, normalization_rule_name="nmt_nfkc")
    charsmap = np.frombuffer(normalization(native), np.uint8)
    recipe = recipe_of(
        native, "t5", precompiled_charsmap=charsmap, add_space_prefix=True, remove_extra_whitespaces=True
    )
    same_by_lines(recipe, tmp_path / "m.gguf", llama_cpp, sample(20_000, seed=9, special=False))


def test_wordpiece_is_tokenized_as_by_llama_cpp(tmp_path: Path, llama_cpp: Oracle) -> None:
    recipe, _ = wordpiece(lowercase=True)
    # llama.cpp drops spacing vowel signs and enclosing marks like accents, and takes Hangul syllables apart
    # in its own way. BERT's own tokenizer, which ours is compared with elsewhere, does neither.
    text = sample(20_000, seed=10, special=False)
    text = "".join(c for c in text if unicodedata.category(c) not in ("Mc", "Me") and not "가" <= c <= "힣")
    same_by_lines(recipe, tmp_path / "m.gguf", llama_cpp, text)


def test_every_row_names_a_pre_tokenizer_that_builds(trained_bytes: Recipe, tmp_path: Path) -> None:
    text = "I'll pay 12345 € — déjà vu, 日本語!\n\n  \tx'Ve HTTPServer"
    # One name for each distinct row.
    for row, name in {row: name for name, row in PRE_TOKENIZERS.items()}.items():
        if not row.spaces_as_marks:
            path = write(trained_bytes.having(pre=name), tmp_path / f"{name}.gguf")
            tokenizer = load(path)
            assert tokenizer.decode(tokenizer.encode(text)) == text, name
