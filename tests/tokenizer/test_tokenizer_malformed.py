"""Vocabularies from damaged or hostile files: one clear error, or a right result; never a crash."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.tokenizer.vocabularies import (
    BYTE,
    NORMAL,
    PREFIX,
    UNKNOWN,
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

from puna.errors import GGUFError, ModelError, PunaError
from puna.gguf.writer import GGUFWriter


@pytest.fixture(scope="module")
def recipes() -> dict[str, Recipe]:
    spm = sentencepiece_model("bpe", byte_fallback=True, normalization_rule_name="identity")
    unigram = sentencepiece_model("unigram", normalization_rule_name="nmt_nfkc")
    charsmap = np.frombuffer(normalization(unigram), np.uint8)
    return {
        "gpt2": byte_level("gpt-2"),
        "gemma4": marked_bpe(),
        "llama": recipe_of(spm, "llama"),
        "t5": recipe_of(unigram, "t5", precompiled_charsmap=charsmap),
        "bert": wordpiece(lowercase=True)[0],
    }


KINDS = ["gpt2", "gemma4", "llama", "t5", "bert"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [-1, 1, -100])
def test_arrays_of_other_lengths_are_refused(
    kind: str, change: int, recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    recipe = recipes[kind]
    size = len(recipe.tokens) + change
    types = [*recipe.types, NORMAL][:size]
    with pytest.raises(ModelError, match=f"token_type has {size} entries, but tokenizer.ggml.tokens has"):
        load(write(replace(recipe, types=types), tmp_path / "types.gguf"))
    scores = [0.0] * size
    with pytest.raises(ModelError, match=f"scores has {size} entries"):
        load(write(replace(recipe, scores=scores), tmp_path / "scores.gguf"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id", "unknown_token_id", "eot_token_id"])
def test_ids_outside_the_vocabulary_are_refused(
    kind: str, key: str, recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    size = len(recipes[kind].tokens)
    recipe = recipes[kind].having(seperator_token_id=None, **{key: size})
    with pytest.raises(ModelError, match=f"{key} holds {size}, but the vocabulary has {size} tokens"):
        load(write(recipe, tmp_path / "m.gguf"))
    with pytest.raises(GGUFError, match=key):
        load(write(recipe.having(**{key: -1}), tmp_path / "n.gguf"))


BAD: dict[str, tuple[Callable[[Recipe], Recipe], str]] = {
    "duplicate": (lambda r: r.with_token(str(r.tokens[-1]), NORMAL), "occurs twice"),
    "type": (lambda r: r.with_token("new token", 7), "is 7, which is no token type"),
    "negative type": (lambda r: r.with_token("new token", -1), "is -1, which is no token type"),
    "ends": (lambda r: r.having(eos_token_ids=[0, 1 << 30]), "eos_token_ids holds 1073741824"),
    "ends as text": (lambda r: r.having(eos_token_ids=["a"]), "eos_token_ids"),
    "ends as floats": (lambda r: r.having(eos_token_ids=[0.5]), "must hold integers"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BAD)
def test_values_without_sense_are_refused(
    kind: str, name: str, recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    change, message = BAD[name]
    with pytest.raises(PunaError, match=message):
        load(write(change(recipes[kind]), tmp_path / "m.gguf"))


@pytest.mark.parametrize("text", ["<0x-1>", "<0xZZ>", "<0x>", "<0x0a>", "<0x100>", "0x0A", "<0x0A>x"])
@pytest.mark.parametrize("kind", KINDS)
def test_byte_tokens_must_be_written_as_bytes(
    kind: str, text: str, recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="a byte token is written <0x00> to <0xFF>"):
        load(write(recipes[kind].with_token(text, BYTE), tmp_path / "m.gguf"))


@pytest.mark.parametrize("merge", ["", "a", "a b c", " ", "a ", " a", b"\xff a", "  "])
def test_merges_must_have_two_parts(merge: str | bytes, recipes: dict[str, Recipe], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.ggml\.merges"):
        load(write(recipes["gpt2"].having(merges=["a b", merge]), tmp_path / "m.gguf"))


def test_merges_of_unknown_pieces_are_passed_over(recipes: dict[str, Recipe], tmp_path: Path) -> None:
    recipe = recipes["gpt2"]
    merges = ["zzz qqq", "a zzzz", *recipe.keys["merges"], "a b"]
    text = "the quick model"
    expected = load(write(recipe, tmp_path / "m.gguf")).encode(text)
    assert load(write(recipe.having(merges=merges), tmp_path / "n.gguf")).encode(text) == expected


@pytest.mark.parametrize("key", ["merges", "precompiled_charsmap"])
@pytest.mark.parametrize("value", ["text", 5, [1.5], True])
def test_arrays_of_the_wrong_type_are_refused(
    key: str, value: Any, recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    kind = {"merges": "gpt2", "precompiled_charsmap": "t5"}[key]
    with pytest.raises(PunaError, match=key):
        load(write(recipes[kind].having(**{key: value}), tmp_path / "m.gguf"))


@pytest.mark.parametrize("kind", KINDS)
def test_missing_and_empty_vocabularies_are_refused(
    kind: str, recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="tokens is empty"):
        load(write(replace(recipes[kind], tokens=[], types=[], scores=None), tmp_path / "a.gguf"))
    with GGUFWriter(tmp_path / "b.gguf") as writer:
        writer.add("general.architecture", "llama")
        writer.add(PREFIX + "model", kind)
    with pytest.raises(GGUFError, match=r"tokenizer\.ggml\.tokens"):
        load(tmp_path / "b.gguf")


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize("score", [float("inf"), float("-inf"), 3e38, -3e38])
def test_scores_at_the_limits_do_no_harm(
    kind: str, score: float, recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    recipe = recipes[kind].with_token("thequick", NORMAL, score)
    tokenizer = load(write(recipe, tmp_path / "m.gguf"))
    assert tokenizer.decode(tokenizer.encode("thequick model")).endswith("thequick model")


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_scores_that_are_no_numbers_are_refused(
    kind: str, recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    recipe = recipes[kind].with_token("x y", NORMAL, float("nan"))
    with pytest.raises(ModelError, match=r"scores\[\d+\] is not a number"):
        load(write(recipe, tmp_path / "m.gguf"))


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_are_not_utf8_load_and_match_nothing(
    kind: str, recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    recipe = recipes[kind]
    for token in (b"\xff\xfe", b"\xc3", b"a\x00b", b"\xed\xa0\x80"):
        scores = None if recipe.scores is None else [*recipe.scores, 0.0]
        recipe = replace(recipe, tokens=[*recipe.tokens, token], types=[*recipe.types, NORMAL], scores=scores)
    tokenizer = load(write(recipe, tmp_path / "m.gguf"))
    assert max(tokenizer.encode("the model \ufffd\ufffd é")) < len(recipes[kind].tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_a_huge_token_loads(kind: str, recipes: dict[str, Recipe], tmp_path: Path) -> None:
    tokenizer = load(write(recipes[kind].with_token("z" * 3_000_000, NORMAL), tmp_path / "m.gguf"))
    assert tokenizer.decode([tokenizer.vocab_size - 1]) == "z" * 3_000_000


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_several_unknown_tokens_load(kind: str, recipes: dict[str, Recipe], tmp_path: Path) -> None:
    recipe = recipes[kind].with_token("<unk2>", UNKNOWN).with_token("<unk3>", UNKNOWN)
    assert load(write(recipe, tmp_path / "m.gguf")).encode("the")


def test_wordpiece_needs_an_unknown_token(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="needs an unknown token"):
        load(write(Recipe("bert", ["▁a", "b"], [NORMAL, NORMAL]), tmp_path / "m.gguf"))


CHARSMAP_DAMAGE: list[Callable[[bytes], bytes]] = [
    lambda m: b"",
    lambda m: m[:3],
    lambda m: m[:4],
    lambda m: m[:1000],
    lambda m: m[: len(m) // 2],
    lambda m: m[:-1],
    lambda m: (len(m)).to_bytes(4, "little") + m[4:],
    lambda m: b"\xff\xff\xff\xff" + m[4:],
    lambda m: m[:4] + b"\xff\xff\xff\x7f" * ((len(m) - 4) // 4) + b"\0",
    lambda m: m[:-1] + b"\xff\0",
    lambda m: m + b"x" * 5000 + b"\0",
]


@pytest.mark.parametrize("damage", range(len(CHARSMAP_DAMAGE)))
def test_damaged_normalization_maps_are_refused(
    damage: int, recipes: dict[str, Recipe], tmp_path: Path
) -> None:
    charsmap = CHARSMAP_DAMAGE[damage](recipes["t5"].keys["precompiled_charsmap"].tobytes())
    recipe = recipes["t5"].having(precompiled_charsmap=np.frombuffer(charsmap, np.uint8))
    with pytest.raises(ModelError, match="precompiled_charsmap is damaged"):
        load(write(recipe, tmp_path / "m.gguf"))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32), count=st.integers(1, 300))
def test_a_map_with_changed_bytes_is_refused_or_harmless(
    recipes: dict[str, Recipe], tmp_path: Path, seed: int, count: int
) -> None:
    rng = random.Random(seed)
    charsmap = bytearray(recipes["t5"].keys["precompiled_charsmap"].tobytes())
    for _ in range(count):
        charsmap[rng.randrange(4, len(charsmap))] = rng.randrange(256)
    recipe = recipes["t5"].having(precompiled_charsmap=np.frombuffer(bytes(charsmap), np.uint8))
    path = write(recipe, tmp_path / "m.gguf")
    try:
        tokenizer = load(path)
    except ModelError as error:
        assert "precompiled_charsmap" in str(error)
        return
    every = "".join(chr(c) for c in range(0x3400) if not 0xD800 <= c < 0xE000) + "ﷺ㌀Ａ１"
    assert max(tokenizer.encode(every)) < tokenizer.vocab_size
