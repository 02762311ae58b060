"""Choosing a pre-tokenizer, and what the regexes split."""

import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import regex  # type: ignore[import-untyped]  # has no annotations
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.tokenizer.texts import RANGES
from tests.tokenizer.vocabularies import CONTROL, NORMAL, USER_DEFINED, Recipe, byte_level, load, write
from tokenizers import Regex, pre_tokenizers

from puna.errors import UnsupportedModel
from puna.tokenizer.pretokenizers import PRE_TOKENIZERS

# For \b, Oniguruma takes these digits and fractions of Latin-1 for parts of words, and no others like them.
# The models' own tokenizers are built on it, so that is what they were trained with.
WORD_PART = r"[\w²³¹¼½¾]"
WORD_EDGE = rf"(?:(?<={WORD_PART})(?!{WORD_PART})|(?<!{WORD_PART})(?={WORD_PART}))"

STAGES = sorted({row.stages for row in PRE_TOKENIZERS.values()})


def split(stages: tuple[str, ...], text: str) -> list[str]:
    """As the tokenizer does."""
    native = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(stage), "isolated") for stage in stages])
    return [piece for piece, _ in native.pre_tokenize_str(text)]


def split_by_definition(stages: tuple[str, ...], text: str) -> list[str]:
    """Matches and the text between them, stage after stage, with another regex engine."""
    pieces = [text]
    for stage in stages:
        stage = stage.replace(r"\b", WORD_EDGE)
        # In Oniguruma `$` also stands before a line end; no row meets one there, line ends being split off.
        pattern = regex.compile(stage, regex.VERSION1 | regex.MULTILINE)
        pieces = [part for piece in pieces for part in _parts(pattern, piece)]
    return pieces


def _parts(pattern: "regex.Pattern[str]", text: str) -> list[str]:
    ends = [0]
    for match in pattern.finditer(text):
        ends += [match.start(), match.end()]
    ends.append(len(text))
    return [text[a:b] for a, b in pairwise(ends) if a < b]


CHARACTERS = st.one_of(
    st.sampled_from(" \t\n\r'sStTlLdDrReEvVmM0129.,!?-_/$€<>|aAéÉßñяЯ中日あ가\u0301\u00a0\u3000"),
    *(
        st.characters(min_codepoint=low, max_codepoint=high - 1, categories=("L", "N", "P", "S", "Z", "Mn"))
        for low, high in RANGES[2:8]
    ),
)


@pytest.mark.parametrize("stages", STAGES, ids=range(len(STAGES)))
@settings(max_examples=40)
@given(text=st.text(CHARACTERS, max_size=40))
@example("0²")
@example("1234⁴ 12½ 1234567 १२३४")
def test_two_regex_engines_split_alike(stages: tuple[str, ...], text: str) -> None:
    # The long s folds to s in one of the engines only.
    text = text.replace("ſ", "s")
    assert split(stages, text) == split_by_definition(stages, text)


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("gpt-2", "I|'ve| 12345|  | HTTPServer|\n|\n|x|..|é"),
        ("llama-bpe", "I|'ve| |123|45|  | HTTPServer|\n\n|x|..|é"),
        ("qwen2", "I|'ve| |1|2|3|4|5|  | HTTPServer|\n\n|x|..|é"),
        ("smollm", "I|'ve| |1|2|3|4|5|  | HTTPServer|\n|\n|x|..|é"),
        ("tekken", "I|'ve| |1|2|3|4|5|  | HTTPServer|IO|\n\n|x|..|é"),
        ("gpt-4o", "I've| |123|45|  | HTTPServer|IO|\n\n|x|..|é"),
        ("deepseek-v3", "I|'ve| |123|45|  | HTTPServer|\n\n|x|..|é"),
        ("deepseek-coder", "I|'|ve| |1|2|3|4|5|  | HTTPServer|\n|\n|x|..|é"),
        ("default", "I|'|ve| |123|45|  | HTTPServer|\n|\n|x|..|é"),
    ],
)
def test_families_split_a_line_each_in_its_way(name: str, pieces: str) -> None:
    expected = pieces.split("|")
    assert split(PRE_TOKENIZERS[name].stages, "".join(expected)) == expected


def test_unknown_pre_tokenizer_is_named_with_those_known(tmp_path: Path) -> None:
    path = write(byte_level("gpt-2").having(pre="blorb"), tmp_path / "m.gguf")
    with pytest.raises(UnsupportedModel, match=re.escape("'blorb' is not supported; known are") + ".*qwen2"):
        load(path)


@pytest.mark.parametrize("name", ["rwkv", "plamo2", "no_vocab", ""])
def test_unknown_kind_is_named_with_those_known(name: str, tmp_path: Path) -> None:
    path = write(Recipe(name, ["a"], [NORMAL]), tmp_path / "m.gguf")
    with pytest.raises(UnsupportedModel, match=f"'{name}' is not supported; known are bert, gemma4, gpt2"):
        load(path)


LINE = "Ab'S 12345  x\r\n\r\ny 日本"


@pytest.mark.parametrize(
    ("architecture", "pre", "known_as"),
    [
        ("gptoss", "default", "gpt-4o"),
        ("gpt-oss", None, "gpt-4o"),
        ("mistral3", "default", "tekken"),
        ("lfm2", None, "lfm2"),
        ("qwen3moe", "default", "qwen2"),
        ("deepseek2", "default", "deepseek-v3"),
        ("laguna", "default", "laguna"),
        ("glmocr", "llama-bpe", "chatglm-bpe"),
        ("starcoder2", None, "default"),
        ("qwen2", "llama-bpe", "llama-bpe"),
    ],
)
def test_files_without_a_name_go_by_their_architecture(
    architecture: str, pre: str | None, known_as: str, tmp_path: Path
) -> None:
    recipe = byte_level("x")
    named = load(write(recipe.having(pre=known_as), tmp_path / "a.gguf"))
    other = load(write(replace(recipe.having(pre=pre), architecture=architecture), tmp_path / "b.gguf"))
    assert other.encode(LINE) == named.encode(LINE)
    assert other.add_bos == named.add_bos


def test_llama3_is_known_by_its_vocabulary(tmp_path: Path) -> None:
    recipe = byte_level("default")
    filler = [f"<|x{n}|>" for n in range(128009 - len(recipe.tokens))]
    tokens = [*recipe.tokens, *filler, "<|eot_id|>"]
    types = [*recipe.types, *[NORMAL] * len(filler), CONTROL]
    llama3 = load(write(replace(recipe, tokens=tokens, types=types), tmp_path / "m.gguf"))
    named = load(write(recipe.having(pre="llama-bpe"), tmp_path / "n.gguf"))
    assert llama3.encode(LINE) == named.encode(LINE)
    assert 128009 in llama3.end_ids


def test_gemma4_is_known_by_its_merges(tmp_path: Path) -> None:
    tokens = ["<bos>", "</s>", "<|tool_response>", "▁", "a", "b", "▁a", "▁ab", "\n"]
    types = [CONTROL, USER_DEFINED, CONTROL, *[NORMAL] * 6]
    keys = {"merges": ["▁ a", "▁a b"], "bos_token_id": 0, "add_bos_token": False}
    for model in ("gemma4", "llama"):
        recipe = Recipe(model, tokens, types, keys=keys, architecture="gemma4")
        tokenizer = load(write(recipe, tmp_path / f"{model}.gguf"))
        assert tokenizer.encode("b ab\n a") == [0, 5, 7, 8, 6]
        assert tokenizer.decode([5, 7, 8, 6]) == "b ab\n a"
        assert tokenizer.end_ids == {2}


def test_native_libraries_are_loaded_when_a_tokenizer_needs_them() -> None:
    code = (
        "import sys, puna.tokenizer; "
        "print([m for m in ('tokenizers', 'sentencepiece', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
