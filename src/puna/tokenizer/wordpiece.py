"""WordPiece ("bert"): words split off by white space and punctuation, then the longest pieces first.

GGUF marks the pieces that begin a word with ▁; the original vocabularies mark the others with ##.
"""

from puna.errors import ModelError
from puna.tokenizer.chunks import WORD_START, Segment, chunks
from puna.tokenizer.metadata import TokenizerMetadata
from puna.tokenizer.vocabulary import TOKENS, TokenType, Vocabulary, readable

LOWERCASE = "tokenizer.ggml.normalizer.lowercase"
STRIP_ACCENTS = "tokenizer.ggml.normalizer.strip_accents"

_CONTINUATION = "##"
# Longer words become one unknown token, as in BERT's own tokenizer.
_LONGEST_WORD = 100


def wordpiece_segment(metadata: TokenizerMetadata, vocabulary: Vocabulary, unknown: int | None) -> Segment:
    """A function from text without special tokens to ids; `unknown` is the id for words without pieces.

    Raises:
        ModelError: there is no unknown token.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    if unknown is None:
        raise ModelError(f"a WordPiece vocabulary needs an unknown token, and {TOKENS} has none")
    name = vocabulary.tokens[unknown].decode(errors="replace")
    ids = _original_spelling(vocabulary) | {name: unknown}
    native = Tokenizer(
        models.WordPiece(
            ids,
            unk_token=name,
            max_input_chars_per_word=_LONGEST_WORD,
            continuing_subword_prefix=_CONTINUATION,
        )
    )
    lowercase = metadata.bool(LOWERCASE, True)
    native.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=metadata.bool(STRIP_ACCENTS, lowercase)
    )
    native.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    def segment(text: str) -> list[int]:
        found: list[int] = []
        for chunk in chunks(text, WORD_START):
            found += native.encode(chunk, add_special_tokens=False).ids
        return found

    return segment


def _original_spelling(vocabulary: Vocabulary) -> dict[str, int]:
    hidden = set(vocabulary.ids_of(TokenType.CONTROL, TokenType.UNKNOWN))
    words = ((id, text) for id, text in readable(vocabulary.tokens) if id not in hidden)
    return {text[1:] if text[0] == "▁" else _CONTINUATION + text: id for id, text in words}
