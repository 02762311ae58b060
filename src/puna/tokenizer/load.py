"""Choosing and building the tokenizer a file describes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from puna.errors import ModelError, UnsupportedModel
from puna.tokenizer.base import Tokenizer
from puna.tokenizer.bpe import MERGES, bpe_segment, parse_merges, pieces_for
from puna.tokenizer.chunks import Segment
from puna.tokenizer.endings import find_endings, read_id
from puna.tokenizer.metadata import TokenizerMetadata
from puna.tokenizer.pretokenizers import PRE_TOKENIZERS, pre_tokenizer
from puna.tokenizer.sentencepiece_model import Algorithm, read_charsmap, read_spacing, sentencepiece_segment
from puna.tokenizer.special import find_special, read_stripping
from puna.tokenizer.vocabulary import (
    TokenType,
    Vocabulary,
    mark_byte_tokens,
    read_vocabulary,
    spaced_pieces,
)
from puna.tokenizer.wordpiece import wordpiece_segment

MODEL = "tokenizer.ggml.model"
ADD_BOS = "tokenizer.ggml.add_bos_token"
ADD_EOS = "tokenizer.ggml.add_eos_token"


@dataclass(frozen=True, slots=True)
class _Built:
    """What differs between kinds.

    Attributes:
        pieces: the bytes of each token.
        segment: text without special tokens to ids.
        starts_with_space: whether `segment` puts a space before a text.
        add_bos: whether BOS is prepended where the file does not say.
        needs_bos: whether BOS is prepended whatever the file says.
    """

    pieces: list[bytes]
    segment: Segment
    starts_with_space: bool = False
    add_bos: bool = False
    needs_bos: bool = False


def _build_bpe(metadata: TokenizerMetadata, vocabulary: Vocabulary, unknown: int | None) -> _Built:
    pre = pre_tokenizer(metadata, vocabulary.tokens)
    segment = bpe_segment(vocabulary, parse_merges(metadata.strings_bytes(MERGES)), pre)
    return _Built(pieces_for(vocabulary, pre), segment, add_bos=pre.add_bos)


def _build_gemma4(metadata: TokenizerMetadata, vocabulary: Vocabulary, unknown: int | None) -> _Built:
    pre = PRE_TOKENIZERS["gemma4"]
    segment = bpe_segment(vocabulary, parse_merges(metadata.strings_bytes(MERGES)), pre)
    # Its files say no, and the model then writes nonsense; llama.cpp overrides them as well.
    return _Built(pieces_for(vocabulary, pre), segment, needs_bos=True)


def _build_spm(metadata: TokenizerMetadata, vocabulary: Vocabulary, unknown: int | None) -> _Built:
    spacing = read_spacing(metadata, prefix=True)
    pieces = spaced_pieces(vocabulary)
    segment = sentencepiece_segment(vocabulary, pieces, Algorithm.BPE, spacing, unknown=unknown)
    return _Built(pieces, segment, spacing.prefix, add_bos=True)


def _build_unigram(metadata: TokenizerMetadata, vocabulary: Vocabulary, unknown: int | None) -> _Built:
    spacing = read_spacing(metadata, prefix=False)
    charsmap = read_charsmap(metadata)
    pieces = spaced_pieces(vocabulary)
    segment = sentencepiece_segment(
        vocabulary, pieces, Algorithm.UNIGRAM, spacing, unknown=unknown, charsmap=charsmap
    )
    return _Built(pieces, segment, spacing.prefix)


def _build_wordpiece(metadata: TokenizerMetadata, vocabulary: Vocabulary, unknown: int | None) -> _Built:
    segment = wordpiece_segment(metadata, vocabulary, unknown)
    return _Built(spaced_pieces(vocabulary), segment, starts_with_space=True, add_bos=True)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of tokenizer, with the ids it takes for granted where a file says nothing (llama.cpp's)."""

    build: Callable[[TokenizerMetadata, Vocabulary, int | None], _Built]
    bos_keys: tuple[str, ...] = ("bos_token_id",)
    eos_keys: tuple[str, ...] = ("eos_token_id",)
    bos: int | None = None
    eos: int | None = None
    unknown: int | None = None
    add_eos: bool = False


_KINDS = {
    "gpt2": _Kind(_build_bpe),
    "gemma4": _Kind(_build_gemma4),
    "llama": _Kind(_build_spm, bos=1, eos=2, unknown=0),
    "t5": _Kind(_build_unigram, eos=1, unknown=2, add_eos=True),
    "bert": _Kind(
        _build_wordpiece,
        bos_keys=("cls_token_id", "bos_token_id"),
        # The first is how the format spells it.
        eos_keys=("seperator_token_id", "separator_token_id", "eos_token_id"),
        bos=101,
        eos=102,
        unknown=100,
        add_eos=True,
    ),
}


def load_tokenizer(metadata: TokenizerMetadata, *, limit: int | None = None) -> Tokenizer:
    """The tokenizer that the `tokenizer.ggml.*` keys of a GGUF file describe.

    Args:
        limit: use only so many tokens: the rows of the embedding, where a file has more tokens than rows.

    Raises:
        GGUFError: a key is missing or has a value of the wrong type.
        UnsupportedModel: a kind of tokenizer or a pre-tokenizer that is not implemented.
        ModelError: a vocabulary that makes no sense.
    """
    kind = _kind(metadata)
    vocabulary = read_vocabulary(metadata, limit)
    if kind.build in (_build_spm, _build_gemma4):
        vocabulary = mark_byte_tokens(vocabulary)
    size = len(vocabulary)
    bos = _first_id(metadata, kind.bos_keys, size, kind.bos)
    eos = _first_id(metadata, kind.eos_keys, size, kind.eos)
    unknown = _unknown(metadata, kind, vocabulary)
    ends, vocabulary = find_endings(metadata, vocabulary, [eos, *_turn_ends(metadata, size)])
    if kind.build is _build_wordpiece:
        vocabulary = _with_control(vocabulary, bos, eos, unknown)
    built = kind.build(metadata, vocabulary, unknown)
    add_bos = _flag(metadata, ADD_BOS, built.add_bos, bos) or (built.needs_bos and bos is not None)
    add_eos = _flag(metadata, ADD_EOS, kind.add_eos, eos)
    special_ids = vocabulary.ids_of(TokenType.CONTROL, TokenType.UNKNOWN)
    return Tokenizer(
        pieces=built.pieces,
        bos_id=bos,
        eos_id=eos,
        end_ids=ends,
        add_bos=add_bos,
        add_eos=add_eos,
        _visible=_without(built.pieces, special_ids),
        _tokens=vocabulary.tokens,
        _special=find_special(vocabulary, read_stripping(metadata, vocabulary)),
        _special_ids=frozenset(special_ids),
        _segment=built.segment,
        _starts_with_space=built.starts_with_space,
    )


def _kind(metadata: TokenizerMetadata) -> _Kind:
    model = metadata.string(MODEL, "")
    # Files that Ollama converted say "llama" for Gemma 4, which has merges.
    if model == "llama" and metadata.architecture == "gemma4" and MERGES in metadata:
        model = "gemma4"
    if model not in _KINDS:
        known = ", ".join(sorted(_KINDS))
        raise UnsupportedModel(f"{MODEL} {model[:60]!r} is not supported; known are {known}")
    return _KINDS[model]


def _first_id(
    metadata: TokenizerMetadata, names: Sequence[str], size: int, default: int | None = None
) -> int | None:
    for name in names:
        id = read_id(metadata, f"tokenizer.ggml.{name}", size)
        if id is not None:
            return id
    return default if default is not None and default < size else None


def _turn_ends(metadata: TokenizerMetadata, size: int) -> list[int | None]:
    return [read_id(metadata, f"tokenizer.ggml.{name}_token_id", size) for name in ("eot", "eom")]


def _unknown(metadata: TokenizerMetadata, kind: _Kind, vocabulary: Vocabulary) -> int | None:
    """The id for text without tokens: as named, else the one typed so, else the kind's usual one."""
    named = read_id(metadata, "tokenizer.ggml.unknown_token_id", len(vocabulary))
    if named is not None:
        return named
    typed = vocabulary.ids_of(TokenType.UNKNOWN)
    if typed:
        return typed[0]
    return kind.unknown if kind.unknown is not None and kind.unknown < len(vocabulary) else None


def _with_control(vocabulary: Vocabulary, *ids: int | None) -> Vocabulary:
    """BERT files often leave [CLS], [SEP] and [UNK] typed as words."""
    return vocabulary.retyped({id: TokenType.CONTROL for id in ids if id is not None})


def _flag(metadata: TokenizerMetadata, key: str, default: bool, id: int | None) -> bool:
    wanted = metadata.bool(key, default)
    if wanted and id is None and key in metadata:
        raise ModelError(f"{key} is true, but the file names no such token")
    return wanted and id is not None


def _without(pieces: list[bytes], ids: Sequence[int]) -> list[bytes]:
    visible = pieces.copy()
    for id in ids:
        visible[id] = b""
    return visible
