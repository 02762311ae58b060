"""Byte-level BPE from `tokenizer.json`: vocabulary, merges, and which pre-tokenizer GGUF has a name for."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from puna.convert.folder import shown
from puna.convert.tokenizerfiles import TokenizerFiles
from puna.convert.vocabulary import Made, added_tokens, filler, in_order
from puna.errors import FormatError, UnsupportedModel
from puna.tokenizer.pretokenizers import PRE_TOKENIZERS
from puna.tokenizer.vocabulary import TokenType

_PREFIX = "tokenizer.ggml."
# How GPT-2's alphabet writes a space, which stands between the parts of a merge.
_SPACE = "Ġ"
_MAX_STAGES = 16

# Of names that mean the same regexes, these are written: llama.cpp knows all of them.
_PREFERRED = ("llama-bpe", "qwen2", "gpt-2", "smollm", "tekken", "gpt-4o", "deepseek-v3", "dbrx")
_DIGITS = frozenset("0123456789")
_BYTE_LEVEL = PRE_TOKENIZERS["gpt-2"].stages


def byte_level(model: Mapping[str, Any], files: TokenizerFiles, size: int) -> Made:
    """The vocabulary of a byte-level BPE tokenizer.

    Args:
        model: that of `tokenizer.json`.
        size: tokens that the model has vectors for.

    Raises:
        FormatError: it makes no sense.
        UnsupportedModel: its pre-tokenizer has no name in GGUF.
    """
    words, pairs = vocabulary(model), merges(model)
    added = {token.id: token for token in added_tokens(files.tokenizer, files.config)}
    for token in added.values():
        words.setdefault(token.text, token.id)
    tokens: list[str] = []
    types: list[int] = []
    for id, text in enumerate(in_order(words, size)):
        if id in added:
            tokens.append(added[id].stored)
            types.append(added[id].type)
        else:
            tokens.append(filler(id) if text is None else text)
            types.append(TokenType.UNUSED if text is None else TokenType.NORMAL)
    kind = {
        _PREFIX + "model": "gpt2",
        _PREFIX + "pre": pre_tokenizer_name(
            files.tokenizer, pairs, whole_words=model.get("ignore_merges") is True
        ),
        _PREFIX + "merges": [f"{left} {right}" for left, right in pairs],
        # What readers take for granted where nothing is said differs by the name above.
        _PREFIX + "add_bos_token": False,
    }
    return Made(kind, tokens, types)


def vocabulary(model: Mapping[str, Any]) -> dict[str, int]:
    """Ids by text, still unchecked. Raises: FormatError."""
    words = model.get("vocab")
    if not isinstance(words, dict) or not words:
        raise FormatError("tokenizer.json has no vocabulary")
    return dict(words)


def merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs in order of rank, without spaces. Raises: FormatError."""
    listed = model.get("merges")
    if not isinstance(listed, list) or not listed:
        raise FormatError("tokenizer.json has no merges")
    return [_pair(entry) for entry in listed]


def _pair(entry: Any) -> tuple[str, str]:
    parts = entry.split(" ") if isinstance(entry, str) else entry
    if isinstance(parts, list) and len(parts) == 2 and all(isinstance(p, str) and p for p in parts):
        left, right = (part.replace(" ", _SPACE) for part in parts)
        return left, right
    raise FormatError(f"tokenizer.json has the merge {shown(entry)}, which is no pair")


def pre_tokenizer_name(
    tokenizer: Mapping[str, Any], pairs: Sequence[tuple[str, str]], *, whole_words: bool
) -> str:
    """GGUF's name of a pre-tokenizer with the same regexes.

    Args:
        pairs: merges.
        whole_words: a piece that is itself a token is not built by merges.

    Raises:
        UnsupportedModel: there is none.
    """
    _check_normalizer(tokenizer.get("normalizer"))
    steps = list(_flat(tokenizer.get("pre_tokenizer")))
    stages = tuple(stage for step in steps for stage in _stages(step))
    if not steps or steps[-1].get("type") != "ByteLevel":
        raise UnsupportedModel(
            "tokenizer.json: the pre-tokenizer does not end with bytes, which is not supported"
        )
    known = _known(stages)
    if not known and not any(left[-1] in _DIGITS and right[0] in _DIGITS for left, right in pairs):
        # Digits that are never merged may as well be split off together.
        known = _known(tuple(r"\p{N}+" if stage == r"\p{N}" else stage for stage in stages))
    # Vocabularies whose merges build every token are split alike either way.
    exact = [name for name in known if PRE_TOKENIZERS[name].whole_words == whole_words] or known
    if not exact:
        raise UnsupportedModel(
            f"tokenizer.json: a pre-tokenizer with the regexes {shown(list(stages))} is not supported"
        )
    return next((name for name in _PREFERRED if name in exact), exact[0])


def _known(stages: tuple[str, ...]) -> list[str]:
    return [name for name, row in PRE_TOKENIZERS.items() if row.stages == stages and not row.spaces_as_marks]


def _check_normalizer(normalizer: Any) -> None:
    """That of composed characters is left out, as in all GGUF files."""
    kind = normalizer.get("type") if isinstance(normalizer, dict) else normalizer
    if kind not in (None, "NFC") and not (kind == "Sequence" and not normalizer.get("normalizers")):
        raise UnsupportedModel(f"tokenizer.json: a normalizer of kind {shown(kind)} is not supported")


def _flat(step: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    if not isinstance(step, dict) or depth > _MAX_STAGES:
        return
    inner = step.get("pretokenizers")
    if step.get("type") == "Sequence" and isinstance(inner, list):
        for part in inner[:_MAX_STAGES]:
            yield from _flat(part, depth + 1)
    else:
        yield step


def _stages(step: Mapping[str, Any]) -> tuple[str, ...]:
    kind = step.get("type")
    if kind == "ByteLevel":
        return _BYTE_LEVEL if step.get("use_regex", True) else ()
    if kind == "Digits":
        return (r"\p{N}",) if step.get("individual_digits") is True else (r"\p{N}+",)
    pattern = step.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    # What is between matches of a regex that matches everything is nothing, so it may be removed.
    ways = (("Isolated", False), ("Removed", True))
    if kind == "Split" and isinstance(regex, str) and (step.get("behavior"), step.get("invert")) in ways:
        # Files have these characters themselves or their names.
        return (regex.replace("\r", r"\r").replace("\n", r"\n"),)
    raise UnsupportedModel(f"tokenizer.json: a pre-tokenizer of kind {shown(kind)} is not supported")
