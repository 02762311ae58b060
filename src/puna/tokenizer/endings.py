"""Tokens that end a generation, and tokens whose type a file got wrong.

Files rarely name every token that ends a turn, so llama.cpp also goes by their text, and so does this, by the
same texts.
"""

from collections.abc import Iterable

from puna.errors import ModelError
from puna.tokenizer.metadata import TokenizerMetadata
from puna.tokenizer.vocabulary import TokenType, Vocabulary, integers

EOS_IDS = "tokenizer.ggml.eos_token_ids"

_ENDINGS = tuple(
    text.encode()
    for text in (
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<eos>",
        "<turn|>",
        "<|tool_response>",
        "<｜end▁of▁sentence｜>",
        "[e~[",
    )
)

# Fill-in-the-middle tokens. What follows the padding, repository and file separators belongs to another text.
_FILL_IN_ENDINGS = {
    "tokenizer.ggml.fim_pad_token_id": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "tokenizer.ggml.fim_rep_token_id": (
        "<|fim_repo|>",
        "<|repo_name|>",
        "<fim-repo>",
        "<REPO>",
        "<reponame>",
    ),
    "tokenizer.ggml.fim_sep_token_id": ("<|file_sep|>",),
}

# What −1 looks like when a converter writes it as an unsigned number.
_NO_ID = 0xFFFFFFFF

# In these vocabularies <|end|> ends a message, not the turn.
_MESSAGE_END = b"<|end|>"
_TURN_ENDS = ({b"<|return|>", b"<|call|>"}, {b"<|call|>", b"<|flush|>"}, {b"<|calls|>", b"<|flush|>"})
# Ends a text in many vocabularies; as a user-defined token, as in Gemma's, it is the HTML tag.
_END_OR_TAG = b"</s>"


def find_endings(
    metadata: TokenizerMetadata, vocabulary: Vocabulary, named: Iterable[int | None]
) -> tuple[frozenset[int], Vocabulary]:
    """Every id that ends a generation, and the vocabulary with these typed as control tokens.

    Args:
        named: ids that the file gives such a role (EOS, EOT, EOM); None where it does not.

    Raises:
        ModelError: an id of the file's list lies outside the vocabulary.
    """
    found = vocabulary.find(_ENDINGS)
    if _MESSAGE_END in found and any(ends <= found.keys() for ends in _TURN_ENDS):
        del found[_MESSAGE_END]
    if _END_OR_TAG in found and vocabulary.types[found[_END_OR_TAG]] == TokenType.USER_DEFINED:
        del found[_END_OR_TAG]
    by_text = set(found.values()) | _fill_in_endings(metadata, vocabulary)
    ids = by_text | {id for id in named if id is not None} | _listed(metadata, len(vocabulary))
    return frozenset(ids), vocabulary.retyped(dict.fromkeys(by_text, TokenType.CONTROL))


def _fill_in_endings(metadata: TokenizerMetadata, vocabulary: Vocabulary) -> set[int]:
    ids = set()
    for key, texts in _FILL_IN_ENDINGS.items():
        named = read_id(metadata, key, len(vocabulary))
        found = list(vocabulary.find(text.encode() for text in texts).values())
        ids.update([named] if named is not None else found[:1])
    return ids


def _listed(metadata: TokenizerMetadata, size: int) -> set[int]:
    if EOS_IDS not in metadata:
        return set()
    ids = integers(metadata, EOS_IDS).tolist()
    return {check_id(EOS_IDS, id, size) for id in ids}


def read_id(metadata: TokenizerMetadata, key: str, size: int) -> int | None:
    """The token id a key holds; None where it is missing or 2³²−1.

    Raises:
        ModelError: the id is outside the vocabulary.
    """
    if key not in metadata:
        return None
    value = metadata.uint(key)
    return None if value == _NO_ID else check_id(key, value, size)


def check_id(key: str, id: int, size: int) -> int:
    """The id itself.

    Raises:
        ModelError: it is outside a vocabulary of `size` tokens.
    """
    if not 0 <= id < size:
        raise ModelError(f"{key} holds {id}, but the vocabulary has {size} tokens")
    return id
