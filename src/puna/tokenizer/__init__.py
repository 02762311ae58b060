"""Tokenizers built from the `tokenizer.ggml.*` metadata of a GGUF file.

    tokenizer = load_tokenizer(metadata)
    ids = tokenizer.encode("Hello", parse_special=False)
    text = tokenizer.decode(ids)

Four kinds: byte-level BPE ("gpt2", and "gemma4" with spaces as ▁), SentencePiece BPE ("llama"), Unigram
("t5") and WordPiece ("bert"). Importing this package loads none of the native tokenizer libraries.
"""

from puna.tokenizer.base import Tokenizer
from puna.tokenizer.decoding import IncrementalDecoder
from puna.tokenizer.load import load_tokenizer
from puna.tokenizer.metadata import TokenizerMetadata
from puna.tokenizer.vocabulary import TokenType

__all__ = ["IncrementalDecoder", "TokenType", "Tokenizer", "TokenizerMetadata", "load_tokenizer"]
