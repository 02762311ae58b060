"""Small vocabularies made on the spot, and the GGUF files that hold them."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from tests.tokenizer.texts import sample
from tokenizers import Regex, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Native
from tokenizers import models as native_models

from puna.gguf import GGUFFile
from puna.gguf.types import GGMLType, ValueType
from puna.gguf.writer import GGUFWriter
from puna.tokenizer import Tokenizer, TokenType, load_tokenizer

PREFIX = "tokenizer.ggml."
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = (
    TokenType.NORMAL,
    TokenType.UNKNOWN,
    TokenType.CONTROL,
    TokenType.USER_DEFINED,
    TokenType.BYTE,
)


@dataclass(frozen=True, repr=False)
class Recipe:
    """The tokenizer's part of a GGUF file: `keys` are the other keys under tokenizer.ggml."""

    model: str
    tokens: Sequence[str | bytes]
    types: Sequence[int]
    scores: Sequence[float] | None = None
    keys: Mapping[str, Any] = field(default_factory=dict)
    architecture: str = "llama"
    name: str = "tiny"

    def having(self, **keys: Any) -> "Recipe":
        """The same with other keys; None takes one away."""
        merged = {key: value for key, value in {**self.keys, **keys}.items() if value is not None}
        return replace(self, keys=merged)

    def with_token(self, text: str, type: int, score: float = 0.0) -> "Recipe":
        """The same with one more token."""
        scores = None if self.scores is None else [*self.scores, score]
        return replace(self, tokens=[*self.tokens, text], types=[*self.types, type], scores=scores)


def write(recipe: Recipe, path: Path, *, weights: bool = False) -> Path:
    """A GGUF file with the vocabulary; with `weights`, one that llama.cpp loads (one tiny layer)."""
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", recipe.architecture)
        writer.add("general.name", recipe.name)
        writer.add(PREFIX + "model", recipe.model)
        writer.add(PREFIX + "tokens", list(recipe.tokens), ValueType.STRING)
        writer.add(PREFIX + "token_type", np.asarray(recipe.types, np.int32))
        if recipe.scores is not None:
            writer.add(PREFIX + "scores", np.asarray(recipe.scores, np.float32))
        for key, value in recipe.keys.items():
            writer.add(PREFIX + key, value)
        if weights:
            _add_weights(writer, len(recipe.tokens))
    return path


def load(path: Path, *, limit: int | None = None) -> Tokenizer:
    """The tokenizer of a GGUF file."""
    with GGUFFile.open(path) as file:
        return load_tokenizer(file.metadata, limit=limit)


def _add_weights(writer: GGUFWriter, vocabulary: int) -> None:
    width = 32
    numbers = {
        "block_count": 1,
        "context_length": 64,
        "embedding_length": width,
        "feed_forward_length": width,
        "attention.head_count": 1,
        "rope.dimension_count": width,
        "vocab_size": vocabulary,
    }
    for key, value in numbers.items():
        writer.add(f"llama.{key}", value)
    writer.add("llama.attention.layer_norm_rms_epsilon", 1e-5)
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes: dict[str, tuple[int, ...]] = {f"blk.0.{name}.weight": (width, width) for name in square}
    shapes |= {f"blk.0.{name}.weight": (width,) for name in ("attn_norm", "ffn_norm")}
    shapes |= {"token_embd.weight": (vocabulary, width), "output_norm.weight": (width,)}
    for name, shape in shapes.items():
        writer.add_tensor(name, GGMLType.F32, shape, np.zeros(shape, np.float32).tobytes())


def byte_level(pre: str) -> Recipe:
    """Byte-level BPE whose merges cross words, digits and spaces, so that each split shows in the ids."""
    return _trained_bytes().having(pre=pre)


@cache
def _trained_bytes() -> Recipe:
    native = Native(native_models.BPE())
    native.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("(?<=\n)(?=[^\n])"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=3000,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    native.train_from_iterator(sample(60_000, seed=1, special=False).splitlines(keepends=True), trainer)
    return _bpe_recipe(native)


def _bpe_recipe(native: Native) -> Recipe:
    model = json.loads(native.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    merges = [" ".join(pair) for pair in model["merges"]]
    types = [CONTROL, CONTROL] + [NORMAL] * (len(tokens) - 2)
    keys = {"merges": merges, "bos_token_id": 0, "eos_token_id": 1}
    return Recipe("gpt2", tokens, types, keys=keys)


@cache
def marked_bpe() -> Recipe:
    """BPE over text with ▁ for spaces and byte tokens, as Gemma 4 has it."""
    native = Native(native_models.BPE())
    native.normalizer = normalizers.Replace(" ", "▁")
    native.pre_tokenizer = pre_tokenizers.Split(Regex("\n+"), "isolated")
    specials = ["<bos>", "<eos>", "<turn|>", *(f"<0x{value:02X}>" for value in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=3000, special_tokens=specials, show_progress=False)
    # llama.cpp reads tokens as C strings, which end at a NUL.
    text = sample(60_000, seed=2, special=False).replace("\0", "")
    native.train_from_iterator(text.splitlines(keepends=True), trainer)
    recipe = _bpe_recipe(native)
    types = [CONTROL] * 3 + [BYTE] * 256 + [NORMAL] * (len(recipe.tokens) - 259)
    return replace(recipe, model="gemma4", types=types)


@cache
def sentencepiece_model(kind: str, **options: Any) -> sentencepiece.SentencePieceProcessor:
    """A model that the sentencepiece library trained on the sample text."""
    lines = [line for line in sample(60_000, seed=3, special=False).split("\n") if line.strip()]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=out,
        model_type=kind,
        vocab_size=2500,
        character_coverage=0.98,
        hard_vocab_limit=False,
        minloglevel=4,
        num_threads=1,
        **options,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def recipe_of(native: sentencepiece.SentencePieceProcessor, model: str, **keys: Any) -> Recipe:
    """What a converter writes for a sentencepiece model."""
    ids = range(native.get_piece_size())
    return Recipe(
        model,
        [native.id_to_piece(id) for id in ids],
        [_type(native, id) for id in ids],
        [native.get_score(id) for id in ids],
        {"unknown_token_id": native.unk_id(), **keys},
    )


def normalization(native: sentencepiece.SentencePieceProcessor) -> bytes:
    """The precompiled charsmap of a model: field 2 of its normalizer_spec, which is field 3 of the model."""
    return _field(_field(native.serialized_model_proto(), 3), 2)


def _field(message: bytes, number: int) -> bytes:
    """The contents of a length-delimited field of a protobuf message."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 2:
            length, at = _varint(message, at)
            if tag >> 3 == number:
                return message[at : at + length]
            at += length
        else:
            at = _varint(message, at)[1] if tag & 7 == 0 else at + 4
    raise LookupError(number)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while message[at] & 0x80:
        value |= (message[at] & 0x7F) << shift
        shift += 7
        at += 1
    return value | message[at] << shift, at + 1


def _type(native: sentencepiece.SentencePieceProcessor, id: int) -> int:
    if native.is_unknown(id):
        return UNKNOWN
    if native.is_control(id):
        return CONTROL
    return BYTE if native.is_byte(id) else NORMAL


@cache
def wordpiece(*, lowercase: bool) -> tuple[Recipe, Native]:
    """A trained WordPiece vocabulary in GGUF's spelling, and the tokenizer it came from."""
    native = Native(native_models.WordPiece(unk_token="[UNK]"))
    native.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    native.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=2000, special_tokens=specials, show_progress=False)
    native.train_from_iterator(sample(60_000, seed=4, special=False).splitlines(), trainer)
    vocabulary = native.get_vocab()
    originals = sorted(vocabulary, key=vocabulary.__getitem__)
    tokens = specials + [t.removeprefix("##") if t.startswith("##") else "▁" + t for t in originals[5:]]
    types = [CONTROL] * 5 + [NORMAL] * (len(tokens) - 5)
    keys: dict[str, Any] = {
        "unknown_token_id": 1,
        "bos_token_id": 2,
        "seperator_token_id": 3,
        "padding_token_id": 0,
        "mask_token_id": 4,
    }
    if not lowercase:
        keys["normalizer.lowercase"] = False
    return Recipe("bert", tokens, types, keys=keys), native
