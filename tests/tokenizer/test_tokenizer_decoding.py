"""Ids back to text: whole, and token by token without ever breaking a character."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tokenizer.texts import sample
from tests.tokenizer.vocabularies import (
    CONTROL,
    Recipe,
    byte_level,
    load,
    marked_bpe,
    recipe_of,
    sentencepiece_model,
    write,
)

from puna.errors import InvalidOption
from puna.tokenizer import IncrementalDecoder, Tokenizer

# Surrogates are no characters.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@pytest.fixture(scope="module")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load(write(byte_level("llama-bpe"), tmp_path_factory.mktemp("bpe") / "m.gguf"))


@pytest.fixture(scope="module")
def spm_recipe() -> Recipe:
    native = sentencepiece_model("bpe", byte_fallback=True, normalization_rule_name="identity")
    return recipe_of(native, "llama")


@pytest.fixture(scope="module")
def spm_tokenizer(spm_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load(write(spm_recipe, tmp_path_factory.mktemp("spm") / "m.gguf"))


@pytest.fixture(scope="module")
def marked_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load(write(marked_bpe(), tmp_path_factory.mktemp("marked") / "m.gguf"))


def streamed(tokenizer: Tokenizer, ids: list[int], *, at_start: bool = True) -> str:
    decoder = tokenizer.decoder(at_start=at_start)
    return "".join([*map(decoder.feed, ids), decoder.flush()])


@given(TEXT)
def test_byte_level_bpe_gives_the_text_back(byte_tokenizer: Tokenizer, text: str) -> None:
    ids = byte_tokenizer.encode(text)
    assert byte_tokenizer.decode(ids) == text
    assert streamed(byte_tokenizer, ids) == text


@given(TEXT.filter(lambda text: "▁" not in text))
def test_sentencepiece_with_byte_tokens_gives_the_text_back(spm_tokenizer: Tokenizer, text: str) -> None:
    ids = spm_tokenizer.encode(text)
    assert spm_tokenizer.decode(ids) == text
    assert streamed(spm_tokenizer, ids) == text


@given(TEXT.filter(lambda text: "▁" not in text))
def test_marked_bpe_gives_the_text_back(marked_tokenizer: Tokenizer, text: str) -> None:
    assert marked_tokenizer.decode(marked_tokenizer.encode(text)) == text


def test_sample_text_survives_every_reversible_kind(
    byte_tokenizer: Tokenizer, spm_tokenizer: Tokenizer, marked_tokenizer: Tokenizer
) -> None:
    text = sample(30_000, seed=20).replace("▁", "")
    for tokenizer in (byte_tokenizer, spm_tokenizer, marked_tokenizer):
        assert streamed(tokenizer, tokenizer.encode(text)) == text


@given(st.binary(max_size=60), st.data())
def test_streaming_equals_decoding_at_once(data: bytes, draw: st.DataObject) -> None:
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=20)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    decoder = IncrementalDecoder(pieces)
    parts = [decoder.feed(id) for id in range(len(pieces))]
    assert "".join(parts) + decoder.flush() == data.decode("utf-8", "replace")


def test_characters_come_out_when_they_are_complete() -> None:
    decoder = IncrementalDecoder([b"\xf0", b"\x9f\x98", b"\x80", b"a", b"\xe4"])
    assert [decoder.feed(id) for id in (0, 1, 2, 3)] == ["", "", "😀", "a"]
    assert decoder.feed(4) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.feed(3) == "a"


def test_streaming_never_gives_a_replacement_for_valid_text(byte_tokenizer: Tokenizer) -> None:
    text = "👩‍👩‍👧‍👦 한국어 𐍈 ქართული" * 20
    decoder = byte_tokenizer.decoder()
    parts = [decoder.feed(id) for id in byte_tokenizer.encode(text)]
    assert "\ufffd" not in "".join(parts)
    assert decoder.flush() == ""


def test_space_put_before_a_text_is_taken_off_at_its_start_only(spm_tokenizer: Tokenizer) -> None:
    ids = spm_tokenizer.encode("the model", add_special=False)
    assert spm_tokenizer.token_text(ids[0]).startswith("▁")
    assert spm_tokenizer.decode(ids) == "the model"
    assert spm_tokenizer.decode([1, *ids, 2]) == "the model"
    assert streamed(spm_tokenizer, ids, at_start=False) == " the model"
    assert spm_tokenizer.decode(spm_tokenizer.encode("  the")) == "  the"


def test_without_space_prefix_nothing_is_taken_off(spm_recipe: Recipe, tmp_path: Path) -> None:
    tokenizer = load(write(spm_recipe.having(add_space_prefix=False), tmp_path / "m.gguf"))
    ids = tokenizer.encode(" the", add_special=False)
    assert ids != tokenizer.encode("the", add_special=False)
    assert tokenizer.decode(ids) == " the"


@given(TEXT.filter(lambda text: "▁" not in text))
def test_a_continuation_stands_for_its_text_alone(
    spm_tokenizer: Tokenizer, byte_tokenizer: Tokenizer, text: str
) -> None:
    for tokenizer in (spm_tokenizer, byte_tokenizer):
        ids = tokenizer.encode_continuation(text)
        assert b"".join(tokenizer.pieces[id] for id in ids) == text.encode()


def test_a_continuation_is_split_as_inside_a_text(spm_tokenizer: Tokenizer) -> None:
    inside = spm_tokenizer.encode("\nthe model", add_special=False)
    assert inside[
        -len(spm_tokenizer.encode_continuation("the model")) :
    ] == spm_tokenizer.encode_continuation("the model")
    assert spm_tokenizer.encode_continuation("the") != spm_tokenizer.encode("the", add_special=False)


def test_special_tokens_are_shown_on_demand(byte_tokenizer: Tokenizer) -> None:
    ids = byte_tokenizer.encode("a<|im_end|>b", parse_special=True, add_special=False)
    assert byte_tokenizer.decode(ids) == "ab"
    assert byte_tokenizer.decode(ids, render_special=True) == "a<|im_end|>b"
    decoder = byte_tokenizer.decoder(render_special=True)
    assert "".join(map(decoder.feed, ids)) == "a<|im_end|>b"


@pytest.mark.parametrize("id", [-1, -3000, 3000, 1 << 31, 1 << 63])
def test_ids_outside_the_vocabulary_are_refused(byte_tokenizer: Tokenizer, id: int) -> None:
    uses: tuple[Callable[[], str], ...] = (
        lambda: byte_tokenizer.decode([5, id]),
        lambda: byte_tokenizer.decoder().feed(id),
        lambda: byte_tokenizer.token_text(id),
    )
    for use in uses:
        with pytest.raises(InvalidOption, match=f"{id} is outside the vocabulary of 3000"):
            use()


@settings(max_examples=30)
@given(st.text(max_size=20))
def test_surrogates_become_characters_or_replacements(byte_tokenizer: Tokenizer, text: str) -> None:
    broken = text + "\ud83d\ude00" + "\ud800"
    expected = broken.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert byte_tokenizer.decode(byte_tokenizer.encode(broken)) == expected


def test_chosen_special_tokens_are_shown_and_others_are_not(tmp_path: Path) -> None:
    recipe = byte_level("gpt-2").with_token("<a>", CONTROL).with_token("<b>", CONTROL)
    tokenizer = load(write(recipe, tmp_path / "tiny.gguf"))
    ids = tokenizer.encode("x<a>y<b>", add_special=False, parse_special=True)

    def decoded(**options: Any) -> str:
        decoder = tokenizer.decoder(**options)
        return "".join(map(decoder.feed, ids))

    assert decoded(shown=[tokenizer.special_ids["<a>"]]) == "x<a>y"
    # The choice was for one decoder.
    assert decoded() == tokenizer.decode(ids) == "xy"
    with pytest.raises(InvalidOption):
        tokenizer.decoder(shown=[tokenizer.vocab_size])


def test_text_goes_on_with_control_tokens(spm_tokenizer: Tokenizer) -> None:
    ids = spm_tokenizer.encode_continuation("s>a", parse_special=True)
    assert spm_tokenizer.decode(ids) == "s>a"
    ids = spm_tokenizer.encode_continuation("a</s>b", parse_special=True)
    assert spm_tokenizer.special_ids["</s>"] in ids
    assert spm_tokenizer.special_ids["</s>"] not in spm_tokenizer.encode_continuation("a</s>b")
