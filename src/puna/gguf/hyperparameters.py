"""The hyper-parameters every decoder has, read from a file's metadata and checked.

A file that names a negative, odd or enormous size must not reach code that multiplies or divides by it: each
value is held against a range, and they are held against each other. Names and defaults are llama.cpp's.
"""

from dataclasses import dataclass
from typing import Final

from puna.gguf.metadata import Metadata

MAX_BLOCKS: Final = 1024
MAX_CONTEXT: Final = 2**31 - 1
MAX_WIDTH: Final = 1 << 24
MAX_HEADS: Final = 1 << 16
MAX_EXPERTS: Final = 4096

# Every n-th block sees the whole context where the file does not say; other architectures have no window.
_WINDOW_PERIODS: Final = {
    "gemma2": 2,
    "gpt-oss": 2,
    "gptoss": 2,
    "cohere2": 4,
    "exaone4": 4,
    "olmo2": 4,
    "olmo3": 4,
    "gemma3n": 5,
    "gemma3": 6,
    "gemma-embedding": 6,
}
# A file with one of these keys has blocks without attention, which are counted as blocks of no heads.
_RECURRENT_KEYS: Final = ("ssm.state_size", "wkv.head_size", "shortconv.l_cache")


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """Sizes of a decoder; what belongs to a block has one element for each block.

    Attributes:
        architecture: its name in the file.
        block_count: blocks (layers).
        context_length: tokens it was trained on.
        embedding_length: width of the residual stream.
        feed_forward_length: width of each block's feed-forward part; 0 where the file says nothing.
        head_count: query heads of each block; 0 for a block without attention.
        head_count_kv: key and value heads of each block; 0 for a block that carries a state instead.
        key_length: elements of one key.
        value_length: elements of one value.
        rope_dimension_count: leading elements of a key that are rotated.
        expert_count: experts of a block; 0 for a dense model.
        expert_used_count: experts each token goes through.
        vocab_size: tokens; 0 where the file says nothing.
        sliding_window: tokens a windowed block sees, its own among them; 0 for none.
        windowed: whether each block sees the window only.
    """

    architecture: str
    block_count: int
    context_length: int
    embedding_length: int
    feed_forward_length: tuple[int, ...]
    head_count: tuple[int, ...]
    head_count_kv: tuple[int, ...]
    key_length: int
    value_length: int
    rope_dimension_count: int
    expert_count: int
    expert_used_count: int
    vocab_size: int
    sliding_window: int
    windowed: tuple[bool, ...]


def read_hyperparameters(metadata: Metadata) -> Hyperparameters:
    """The checked hyper-parameters of a model.

    Raises:
        GGUFError: a key is missing, of the wrong type, out of range, or at odds with another; it is named.
    """
    blocks = _bounded(metadata, "block_count", 1, MAX_BLOCKS)
    embedding = _bounded(metadata, "embedding_length", 1, MAX_WIDTH)
    heads = _heads(metadata, blocks)
    experts, used = _experts(metadata, blocks)
    key_length = _head_length(metadata, "attention.key_length", embedding, heads)
    window = _bounded(metadata, "attention.sliding_window", 0, MAX_CONTEXT, 0)
    return Hyperparameters(
        architecture=metadata.architecture,
        block_count=blocks,
        context_length=_bounded(metadata, "context_length", 1, MAX_CONTEXT),
        embedding_length=embedding,
        feed_forward_length=_per_block(metadata, "feed_forward_length", blocks, MAX_WIDTH, 0),
        head_count=heads,
        head_count_kv=_kv_heads(metadata, heads),
        key_length=key_length,
        value_length=_head_length(metadata, "attention.value_length", embedding, heads),
        rope_dimension_count=_rope_dimensions(metadata, key_length),
        expert_count=experts,
        expert_used_count=used,
        vocab_size=_vocab_size(metadata),
        sliding_window=window,
        windowed=_windowed(metadata, blocks) if window else (False,) * blocks,
    )


def _bounded(metadata: Metadata, key: str, low: int, high: int, default: int | None = None) -> int:
    full = metadata.full_key(key)
    if default is not None and full not in metadata:
        return default
    value = metadata.uint(full)
    if not low <= value <= high:
        raise metadata.error(full, f"must be from {low} to {high}, but is {value}")
    return value


def _per_block(metadata: Metadata, key: str, blocks: int, high: int, default: int) -> tuple[int, ...]:
    values = metadata.per_layer(key, blocks, None)
    if values is None:
        return (default,) * blocks
    if max(values) > high:
        raise metadata.error(metadata.full_key(key), f"must be at most {high}, but is {max(values)}")
    return tuple(values)


def _is_recurrent(metadata: Metadata) -> bool:
    return any(metadata.full_key(key) in metadata for key in _RECURRENT_KEYS)


def _heads(metadata: Metadata, blocks: int) -> tuple[int, ...]:
    key = metadata.full_key("attention.head_count")
    if key not in metadata and _is_recurrent(metadata):
        return (0,) * blocks
    heads = tuple(metadata.per_layer(key, blocks))
    if not any(heads) and not _is_recurrent(metadata):
        raise metadata.error(key, "must not be 0")
    if max(heads) > MAX_HEADS:
        raise metadata.error(key, f"must be at most {MAX_HEADS}, but is {max(heads)}")
    return heads


def _carries_state(metadata: Metadata, blocks: int) -> tuple[bool, ...]:
    """Which blocks have a state in place of attention, where the file does not say it by their heads."""
    key = metadata.full_key("attention.recurrent_layers")
    if key in metadata and metadata.is_array(key):
        pattern = metadata.bools(key)
        if len(pattern) < blocks:
            raise metadata.error(key, f"must have an element for each of {blocks} blocks, not {len(pattern)}")
        return tuple(pattern[:blocks])
    period = _bounded(metadata, "full_attention_interval", 1, MAX_BLOCKS, 1)
    return tuple((block + 1) % period != 0 for block in range(blocks))


def _kv_heads(metadata: Metadata, heads: tuple[int, ...]) -> tuple[int, ...]:
    key = metadata.full_key("attention.head_count_kv")
    if key not in metadata:
        return heads
    carrying = _carries_state(metadata, len(heads))
    kv_heads = tuple(
        0 if carries else count
        for carries, count in zip(carrying, metadata.per_layer(key, len(heads)), strict=True)
    )
    if any(heads) and not any(kv_heads) and not any(carrying):
        raise metadata.error(key, "must not be 0")
    for block, (queries, keys) in enumerate(zip(heads, kv_heads, strict=True)):
        if keys and queries % keys:
            raise metadata.error(
                key, f"must divide the {queries} query heads of block {block}, but is {keys}"
            )
    return kv_heads


def _head_length(metadata: Metadata, key: str, embedding: int, heads: tuple[int, ...]) -> int:
    if metadata.full_key(key) in metadata:
        return _bounded(metadata, key, 1, MAX_WIDTH)
    count = next((count for count in heads if count), 0)
    if not count:
        return 0
    if embedding % count:
        full = metadata.full_key("attention.head_count")
        raise metadata.error(full, f"must divide the embedding length {embedding}, but is {count}")
    return embedding // count


def _rope_dimensions(metadata: Metadata, key_length: int) -> int:
    key = metadata.full_key("rope.dimension_count")
    count = _bounded(metadata, key, 0, MAX_WIDTH, key_length)
    if key in metadata and count % 2:
        raise metadata.error(key, f"must be even, but is {count}")
    if key in metadata and key_length and count > key_length:
        raise metadata.error(key, f"must be at most the key length {key_length}, but is {count}")
    return count


def _experts(metadata: Metadata, blocks: int) -> tuple[int, int]:
    experts = _bounded(metadata, "expert_count", 0, MAX_EXPERTS, 0)
    used = max(_per_block(metadata, "expert_used_count", blocks, MAX_EXPERTS, 0))
    key = metadata.full_key("expert_used_count")
    if used > experts:
        raise metadata.error(key, f"must be at most the {experts} experts, but is {used}")
    if experts and not used:
        full = metadata.full_key("expert_count")
        raise metadata.error(full, f"is {experts}, but {key!r} does not say how many of them are used")
    return experts, used


def _vocab_size(metadata: Metadata) -> int:
    default = metadata.length("tokenizer.ggml.tokens") if "tokenizer.ggml.tokens" in metadata else 0
    return _bounded(metadata, "vocab_size", 1, MAX_WIDTH, default)


def _windowed(metadata: Metadata, blocks: int) -> tuple[bool, ...]:
    """Which blocks see the window only: told block by block, by a period, or by the architecture."""
    key = metadata.full_key("attention.sliding_window_pattern")
    if key not in metadata:
        period = _WINDOW_PERIODS.get(metadata.architecture, 1)
        return tuple(block % period < period - 1 for block in range(blocks))
    if not metadata.is_array(key):
        period = _bounded(metadata, key, 1, MAX_BLOCKS)
        return tuple(block % period < period - 1 for block in range(blocks))
    pattern = metadata.bools(key)
    if len(pattern) < blocks:
        raise metadata.error(key, f"must have an element for each of {blocks} layers, but has {len(pattern)}")
    return tuple(pattern[:blocks])
