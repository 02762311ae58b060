"""Texts for models that make vectors, and their vectors for callers."""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from puna.errors import BackendError, InvalidOption
from puna.services.asked import check_tokens
from puna.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Encoded:
    """Texts as a model takes them.

    Attributes:
        inputs: the tokens of each, at least one.
        dropped_tokens: by how many tokens they were shortened.
    """

    inputs: list[list[int]]
    dropped_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Of all together."""
        return sum(map(len, self.inputs))


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of texts.

    Attributes:
        vectors: in the order of the texts.
        tokens: of all texts together.
        dropped_tokens: by how many tokens the texts were shortened.
        ignored: options of the request that mean nothing here.
    """

    vectors: list[list[float]]
    tokens: int
    dropped_tokens: int
    load_seconds: float
    total_seconds: float
    ignored: tuple[str, ...] = ()


def encode_inputs(
    tokenizer: Tokenizer, inputs: Sequence[str | Sequence[int]], limit: int, truncate: bool
) -> Encoded:
    """The tokens of each text, with those that begin and end a text.

    Args:
        limit: most tokens of one text.
        truncate: cut longer ones, which else is an error.

    Raises:
        InvalidOption: a text is empty or too long, or tokens are none; the error names its index.
    """
    encoded, dropped = [], 0
    for index, text in enumerate(inputs):
        tokens = _tokens(tokenizer, text, index)
        if len(tokens) > limit:
            if not truncate:
                raise InvalidOption(
                    f"the input length exceeds the context length: input[{index}] has {len(tokens)} tokens, "
                    f"but the context holds {limit}; shorten it, raise num_ctx or set truncate"
                )
            dropped += len(tokens) - limit
            tokens = _cut(tokens, limit, tokenizer)
        encoded.append(tokens)
    return Encoded(encoded, dropped)


def _tokens(tokenizer: Tokenizer, text: str | Sequence[int], index: int) -> list[int]:
    if isinstance(text, str):
        tokens = tokenizer.encode(text)
    else:
        check_tokens(text, tokenizer, f"input[{index}]")
        tokens = list(text)
    if not tokens:
        raise InvalidOption(f"input[{index}] is empty")
    return tokens


def _cut(tokens: list[int], limit: int, tokenizer: Tokenizer) -> list[int]:
    """The first tokens, and the one that ends a text."""
    ends = tokenizer.add_eos and tokens[-1] == tokenizer.eos_id
    return [*tokens[: limit - 1], tokens[-1]] if ends else tokens[:limit]


def pair(tokenizer: Tokenizer, query: str, text: str) -> list[int]:
    """A query and a text as one, as models that rank texts have seen them: [CLS] query [SEP] text [SEP]."""
    first, second = tokenizer.encode(query), tokenizer.encode(text)
    begins = tokenizer.add_bos and second[:1] == [tokenizer.bos_id]
    return [*first, *(second[1:] if begins else second)]


def finished_vectors(
    vectors: Sequence["array[float]"], dimensions: int, normalize: bool
) -> list[list[float]]:
    """The vectors, cut to so many dimensions (0 for all) and, if wanted, of length 1.

    Raises:
        BackendError: one has a number that is none; the error names its index.
    """
    return [_finished(vector, dimensions, normalize, index) for index, vector in enumerate(vectors)]


def _finished(vector: "array[float]", dimensions: int, normalize: bool, index: int) -> list[float]:
    kept = vector[:dimensions].tolist() if 0 < dimensions < len(vector) else vector.tolist()
    length = math.hypot(*kept)
    if not math.isfinite(length):
        raise BackendError(f"the embedding of input[{index}] contains NaN or Inf values")
    return [number / length for number in kept] if normalize and length else kept
