"""SentencePiece's BPE, from `tokenizer.model`, or from the merges that `tokenizer.json` has in its place.

Source: sentencepiece_model.proto of the SentencePiece project; token types are the numbers of its own
enumeration.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from puna.convert.bytelevel import merges, vocabulary
from puna.convert.folder import shown
from puna.convert.tokenizerfiles import TokenizerFiles
from puna.convert.vocabulary import MAX_TOKENS, Added, Made, added_tokens, filler, in_order
from puna.errors import FormatError, UnsupportedModel
from puna.tokenizer.vocabulary import TokenType

_PREFIX = "tokenizer.ggml."
_FILE = "tokenizer.model"
_UNIGRAM, _BPE = 1, 2
_SPACE_MARK = "▁"

# Scores of tokens that merging never makes; llama.cpp writes the same.
_ADDED_SCORE, _UNUSED_SCORE = -1000.0, -10000.0


@dataclass(slots=True)
class _Pieces:
    """What the file says, as it is read."""

    tokens: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    algorithm: int = _UNIGRAM
    space_prefix: bool = True


def from_model(content: bytes, files: TokenizerFiles, size: int) -> Made:
    """The vocabulary of a `tokenizer.model`.

    Args:
        size: tokens that the model has vectors for; what is more is left out.

    Raises:
        FormatError: the file is damaged.
        UnsupportedModel: it is not of BPE.
    """
    pieces = _read(content)
    if pieces.algorithm != _BPE:
        raise UnsupportedModel(f"{_FILE}: algorithm {pieces.algorithm} is not supported, only BPE ({_BPE})")
    made = _filled(pieces.tokens, pieces.scores, pieces.types, size)
    return _completed(made, files, space_prefix=pieces.space_prefix)


def is_from_pieces(model: Mapping[str, Any]) -> bool:
    """Whether the model of a `tokenizer.json` was made from SentencePiece's."""
    return model.get("byte_fallback") is True


def from_merges(model: Mapping[str, Any], files: TokenizerFiles, size: int) -> Made:
    """The vocabulary of a `tokenizer.json`, with scores that make the same merges in the same order.

    Args:
        model: that of `tokenizer.json`.
        size: tokens that the model has vectors for.

    Raises:
        FormatError: it makes no sense.
    """
    pairs = [left + right for left, right in merges(model)]
    ranks: dict[str, int] = {}
    for rank, text in enumerate(pairs):
        ranks.setdefault(text, rank)
    words = vocabulary(model)
    for token in added_tokens(files.tokenizer, files.config):
        words.setdefault(token.text, token.id)
    ordered = in_order(words, size)
    texts = [filler(id) if text is None else text for id, text in enumerate(ordered)]
    types = [TokenType.UNUSED if text is None else _type(text, model) for text in ordered]
    made = Made({}, texts, types, [-float(ranks.get(text, len(pairs))) for text in texts])
    return _completed(made, files, space_prefix=_prefixes(files.tokenizer))


def _type(text: str, model: Mapping[str, Any]) -> int:
    if text == model.get("unk_token"):
        return TokenType.UNKNOWN
    is_byte = len(text) == 6 and text.startswith("<0x") and text.endswith(">")
    return TokenType.BYTE if is_byte else TokenType.NORMAL


def _prefixes(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a text gets a space in front: by a normalizer, or by a pre-tokenizer in newer files."""
    normalizer, splitter = tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")
    steps = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
    prepended = any(isinstance(step, dict) and step.get("type") == "Prepend" for step in steps)
    if not isinstance(splitter, dict) or splitter.get("type") != "Metaspace":
        return prepended
    return bool(splitter.get("prepend_scheme", "always") != "never")


def _filled(tokens: list[str], scores: list[float], types: list[int], size: int) -> Made:
    if size > MAX_TOKENS:
        raise FormatError(
            f"config.json: a vocabulary of {size} tokens is larger than any; {MAX_TOKENS} is the limit"
        )
    known, missing = len(tokens[:size]), range(len(tokens), size)
    return Made(
        {},
        tokens[:known] + [filler(id) for id in missing],
        types[:known] + [TokenType.UNUSED] * len(missing),
        scores[:known] + [_UNUSED_SCORE] * len(missing),
    )


def _completed(made: Made, files: TokenizerFiles, *, space_prefix: bool) -> Made:
    """The vocabulary with added tokens in their places, and what kind it is."""
    tokens, types, scores = made.tokens, made.types, made.scores or []
    for token in _added(files):
        if 0 <= token.id < len(tokens):
            tokens[token.id], types[token.id] = token.stored, token.type
            scores[token.id] = _ADDED_SCORE
    stated = files.config.get("add_prefix_space")
    prefix = stated if isinstance(stated, bool) else space_prefix
    kind = {_PREFIX + "model": "llama", _PREFIX + "pre": "default", _PREFIX + "add_space_prefix": prefix}
    return Made(kind, tokens, types, scores)


def _added(files: TokenizerFiles) -> Iterator[Added]:
    older = files.folder.document("added_tokens.json")
    yield from (Added(id, text, False) for text, id in older.items() if type(id) is int)
    yield from added_tokens(files.tokenizer, files.config)


def _read(content: bytes) -> _Pieces:
    """The parts of a serialized ModelProto that are used. Raises: FormatError."""
    pieces = _Pieces()
    try:
        for number, value in _fields(content):
            if number == 1:
                _read_piece(value, pieces)
            elif number == 2:
                pieces.algorithm = _number(dict(_fields(value)), 3, _UNIGRAM)
            elif number == 3:
                pieces.space_prefix = _number(dict(_fields(value)), 3, 1) != 0
    except (IndexError, KeyError, struct.error, UnicodeDecodeError, TypeError) as error:
        raise FormatError(f"{_FILE} is no SentencePiece model: {str(error)[:80]}") from error
    if not pieces.tokens:
        raise FormatError(f"{_FILE} is no SentencePiece model: it has no vocabulary")
    return pieces


def _read_piece(message: Any, pieces: _Pieces) -> None:
    found = dict(_fields(message))
    kind = _number(found, 3, TokenType.NORMAL)
    if kind not in [known.value for known in TokenType]:
        raise FormatError(f"{_FILE}: a piece has the type {kind}, which is none")
    if len(pieces.tokens) >= MAX_TOKENS:
        raise FormatError(f"{_FILE} has more than {MAX_TOKENS} pieces")
    pieces.tokens.append(bytes(found[1]).decode())
    pieces.scores.append(struct.unpack("<f", found[2])[0] if 2 in found else 0.0)
    pieces.types.append(kind)


def _number(fields: Mapping[int, Any], number: int, default: int) -> int:
    value = fields.get(number, default)
    if not isinstance(value, int):
        raise TypeError(f"field {number} is {shown(value)}")
    return value


def _fields(message: Any) -> Iterator[tuple[int, Any]]:
    """Numbers and values of a message's fields: integers of varints, bytes of everything else."""
    data = memoryview(message)
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, at = _varint(data, at)
        else:
            length = {1: 8, 5: 4}[kind]
        if length > len(data) - at:
            raise IndexError("it has been cut off")
        yield tag >> 3, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError("a number in it is too long")
