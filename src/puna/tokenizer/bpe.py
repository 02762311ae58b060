"""Byte-level BPE ("gpt2"), and BPE over text with ▁ for spaces ("gemma4")."""

import codecs
from collections.abc import Sequence
from typing import TYPE_CHECKING

from puna.errors import ModelError
from puna.tokenizer.chunks import Segment, chunks
from puna.tokenizer.pretokenizers import PreTokenizer
from puna.tokenizer.vocabulary import TokenType, Vocabulary, byte_values, readable, spaced_pieces

if TYPE_CHECKING:
    import tokenizers

MERGES = "tokenizer.ggml.merges"

# Holds a raw space, so no text that was split or marked can be equal to it.
_UNKNOWN = " unknown "


def byte_alphabet() -> str:
    """GPT-2's printable character for each of the 256 bytes, in order.

    Printable Latin-1 characters stand for themselves, the other bytes for U+0100 and following.
    """
    kept = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return "".join(chr(byte if byte in kept else next(others)) for byte in range(256))


_TO_BYTES = codecs.charmap_build(byte_alphabet())


def bpe_pieces(vocabulary: Vocabulary) -> list[bytes]:
    """The bytes each token stands for. Tokens outside GPT-2's alphabet stand for their own text."""
    pieces = [_piece(token) for token in vocabulary.tokens]
    for id in vocabulary.ids_of(TokenType.UNKNOWN, TokenType.CONTROL, TokenType.USER_DEFINED):
        pieces[id] = vocabulary.tokens[id]
    for id, value in byte_values(vocabulary).items():
        pieces[id] = bytes([value])
    return pieces


def _piece(token: bytes) -> bytes:
    # ASCII stands for itself, and a good half of the tokens is nothing else.
    if token.isascii():
        return token
    try:
        return codecs.charmap_encode(token.decode(), "strict", _TO_BYTES)[0]
    except UnicodeError:
        return token


def pieces_for(vocabulary: Vocabulary, pre: PreTokenizer) -> list[bytes]:
    """The bytes each token stands for."""
    return spaced_pieces(vocabulary) if pre.spaces_as_marks else bpe_pieces(vocabulary)


def parse_merges(lines: Sequence[bytes]) -> list[tuple[str, str]]:
    """Pairs in order of rank.

    Raises:
        ModelError: a line is not two parts with one space between, in UTF-8.
    """
    try:
        texts = [line.decode() for line in lines]
    except UnicodeDecodeError as error:
        raise ModelError(f"{MERGES} holds {error.object[:60]!r}, which is not UTF-8") from error
    pairs = [(a, b) for a, space, b in (text.partition(" ") for text in texts) if a and b and " " not in b]
    if len(pairs) != len(texts):
        wrong = next(text for text in texts if text.count(" ") != 1 or text.strip(" ") != text)
        raise ModelError(f"{MERGES} holds {wrong[:60]!r}, but a merge is two parts with one space between")
    return pairs


def bpe_segment(vocabulary: Vocabulary, merges: list[tuple[str, str]], pre: PreTokenizer) -> Segment:
    """A function from text without special tokens to ids."""
    native = _native(vocabulary, merges, pre)
    unknown = len(vocabulary)

    def segment(text: str) -> list[int]:
        ids: list[int] = []
        for chunk in chunks(text, pre.cut):
            ids += native.encode(chunk, add_special_tokens=False).ids
        return [id for id in ids if id != unknown] if unknown in ids else ids

    return segment


def _native(
    vocabulary: Vocabulary, merges: list[tuple[str, str]], pre: PreTokenizer
) -> "tokenizers.Tokenizer":
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    ids = _matchable(vocabulary)
    known = [(a, b) for a, b in merges if a in ids and b in ids and a + b in ids]
    # Characters without a token (some vocabularies lack even some of the 256 bytes) get an id of their own
    # and are dropped at the end. Left out from the start, what stands around them would be merged.
    ids[_UNKNOWN] = len(vocabulary)
    native = Tokenizer(
        models.BPE(
            ids,
            known,
            unk_token=_UNKNOWN,
            ignore_merges=pre.whole_words,
            byte_fallback=pre.spaces_as_marks,
        )
    )
    stages: list[pre_tokenizers.PreTokenizer] = [
        pre_tokenizers.Split(Regex(stage), "isolated") for stage in pre.stages
    ]
    if pre.spaces_as_marks:
        native.normalizer = normalizers.Replace(" ", "▁")
    else:
        stages.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    native.pre_tokenizer = pre_tokenizers.Sequence(stages)
    return native


def _matchable(vocabulary: Vocabulary) -> dict[str, int]:
    """Ids by text, without control tokens (which text never becomes) and tokens that are not UTF-8."""
    hidden = set(vocabulary.ids_of(TokenType.CONTROL, TokenType.UNKNOWN))
    return {text: id for id, text in readable(vocabulary.tokens) if id not in hidden}
