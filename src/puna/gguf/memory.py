"""What memory a model needs to run, told from its file alone.

This is arithmetic over hyper-parameters, for people who choose a model; the loader asks the backend instead.
"""

from dataclasses import dataclass
from typing import Final

from puna.errors import InvalidOption
from puna.gguf.hyperparameters import Hyperparameters
from puna.gguf.types import GGMLType, padded

BATCH: Final = 512
CELLS_MULTIPLE: Final = 256


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes that running a model takes.

    Attributes:
        num_ctx: tokens of context this is for.
        kv_type: how keys and values are stored.
        weights: the tensors, as they are in the file.
        kv_cache: keys and values of one sequence.
        compute: an estimate, see `compute_estimate`.
    """

    num_ctx: int
    kv_type: GGMLType
    weights: int
    kv_cache: int
    compute: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.compute


def memory_need(sizes: Hyperparameters, weights: int, num_ctx: int, kv_type: GGMLType) -> MemoryNeed:
    """The memory for one sequence of `num_ctx` tokens over `weights` bytes of tensors.

    Raises:
        InvalidOption: the context is not positive, or the type cannot hold a row of keys.
    """
    if num_ctx < 1:
        raise InvalidOption(f"num_ctx must be at least 1, but is {num_ctx}")
    cache = kv_cache_bytes(sizes, num_ctx, kv_type)
    return MemoryNeed(num_ctx, kv_type, weights, cache, compute_estimate(sizes, num_ctx))


def kv_cache_bytes(sizes: Hyperparameters, num_ctx: int, kv_type: GGMLType) -> int:
    """Keys and values of all blocks.

    A block that sees the whole context holds `num_ctx` cells, one that sees a window holds the window and a
    batch of 512, each rounded up to 256; recurrent blocks, whose state is small, are not counted.

    Raises:
        InvalidOption: a row of keys or values is not a whole number of the type's blocks.
    """
    full = padded(num_ctx, CELLS_MULTIPLE)
    window = min(full, padded(sizes.sliding_window + BATCH, CELLS_MULTIPLE))
    try:
        return sum(
            kv_type.nbytes((window if windowed else full, heads * length))
            for heads, windowed in zip(sizes.head_count_kv, sizes.windowed, strict=True)
            for length in (sizes.key_length, sizes.value_length)
        )
    except ValueError as error:
        raise InvalidOption(f"keys and values cannot be stored as {kv_type.name}: {error}") from error


def compute_estimate(sizes: Hyperparameters, num_ctx: int) -> int:
    """Working memory while a batch of 512 tokens is evaluated: an estimate, with flash attention.

    In F32: for each token of the batch three times the residual stream, twice the queries, the keys and the
    values, twice the feed-forward part of the experts in use; and the logits of one token. In F16: a mask of
    the batch by the context.
    """
    batch = min(BATCH, num_ctx)
    kv = max(sizes.head_count_kv) * (sizes.key_length + sizes.value_length)
    queries = 2 * max(sizes.head_count) * sizes.key_length
    feed_forward = 2 * max(sizes.feed_forward_length) * max(1, sizes.expert_used_count)
    activations = 4 * batch * (3 * sizes.embedding_length + queries + kv + feed_forward)
    return activations + 4 * sizes.vocab_size + 2 * batch * padded(num_ctx, CELLS_MULTIPLE)
