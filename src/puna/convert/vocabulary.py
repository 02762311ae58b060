"""Vocabularies as arrays by id, whatever kind of tokenizer they belong to."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from puna.convert.folder import shown
from puna.errors import FormatError
from puna.tokenizer.vocabulary import TokenType

MAX_TOKENS = 1 << 22
_SPACE_MARK = "▁"

# Added tokens that models use as control tokens although their files do not say so.
_CONTROL = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
_CONTROL_MARKS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))


@dataclass(frozen=True, slots=True)
class Added:
    """A token that is taken out of a text before the rest is split.

    Attributes:
        special: as the file says.
    """

    id: int
    text: str
    special: bool

    @property
    def type(self) -> TokenType:
        """What it is in a GGUF file: control tokens never come from a user's text."""
        marked = any(self.text.startswith(begin) and self.text.endswith(end) for begin, end in _CONTROL_MARKS)
        control = self.special or marked or self.text in _CONTROL
        return TokenType.CONTROL if control else TokenType.USER_DEFINED

    @property
    def stored(self) -> str:
        """Its text as a GGUF file has it, in which only words of the vocabulary have marks for spaces."""
        return self.text if self.type is TokenType.CONTROL else self.text.replace(_SPACE_MARK, " ")


def added_tokens(tokenizer: Mapping[str, Any], config: Mapping[str, Any]) -> list[Added]:
    """Those of `tokenizer.json`, and those that only `tokenizer_config.json` has."""
    listed, named = tokenizer.get("added_tokens"), config.get("added_tokens_decoder")
    entries = [(entry.get("id"), entry) for entry in _objects(listed if isinstance(listed, list) else ())]
    if isinstance(named, dict):
        entries += [(_number(id), entry) for id, entry in named.items() if isinstance(entry, dict)]
    found: dict[int, Added] = {}
    for id, entry in entries:
        text = entry.get("content")
        if type(id) is int and isinstance(text, str):
            found.setdefault(id, Added(id, text, entry.get("special") is True))
    return list(found.values())


def _objects(values: Iterable[Any]) -> Iterable[dict[str, Any]]:
    return (value for value in values if isinstance(value, dict))


def _number(text: str) -> int | None:
    return int(text) if len(text) < 10 and text.isascii() and text.isdigit() else None


def in_order(ids: Mapping[str, Any], size: int) -> list[str | None]:
    """The tokens by id, `size` of them; None where the vocabulary has none.

    Raises:
        FormatError: there are more than any vocabulary has, or an id is taken or outside.
    """
    if size > MAX_TOKENS:
        raise FormatError(
            f"config.json: a vocabulary of {size} tokens is larger than any; {MAX_TOKENS} is the limit"
        )
    tokens: list[str | None] = [None] * size
    for text, id in ids.items():
        if type(id) is not int or not 0 <= id < size or tokens[id] is not None:
            raise FormatError(
                f"the vocabulary gives {text[:60]!r} the id {shown(id)}, which is taken or not below {size}"
            )
        tokens[id] = text
    return tokens


def filler(id: int) -> str:
    """The text of a token that a model has a vector for, and the vocabulary nothing."""
    return f"[PAD{id}]"


@dataclass(frozen=True, slots=True)
class Made:
    """A vocabulary as a GGUF file has it.

    Attributes:
        kind: keys that say what kind of tokenizer it belongs to.
        tokens: texts by id.
        types: of the tokens.
        scores: of the tokens, for kinds that have them.
    """

    kind: Mapping[str, Any]
    tokens: list[str]
    types: list[int]
    scores: list[float] | None = None

    @property
    def keys(self) -> dict[str, Any]:
        """All of it as keys."""
        scores = {} if self.scores is None else {"tokenizer.ggml.scores": self.scores}
        return {
            **self.kind,
            "tokenizer.ggml.tokens": self.tokens,
            "tokenizer.ggml.token_type": [int(kind) for kind in self.types],
            **scores,
        }
