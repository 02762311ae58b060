"""A llama of a few thousand random weights with a byte vocabulary, for tests that need a whole model."""

from pathlib import Path

import numpy as np

from puna.gguf import GGMLType
from puna.gguf.writer import GGUFWriter

BLOCKS, HIDDEN, HEADS, KV_HEADS, WIDTH = 2, 64, 4, 2, 96
BOS, EOS, BYTES = 0, 1, 2
VOCABULARY = BYTES + 256
CONTEXT = 4096


def byte_tokens() -> list[str]:
    """The bytes 0 … 255 as GPT-2 spells them in vocabularies."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    spelled = {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    return [spelled[byte] for byte in range(256)]


def write_tiny_llama(
    path: Path,
    *,
    seed: int = 0,
    blocks: int = BLOCKS,
    hidden: int = HIDDEN,
    vocabulary: tuple[list[str], list[str]] | None = None,
) -> Path:
    """Writes the model in F32 and gives its path back.

    Args:
        vocabulary: tokens and merges in GPT-2's spelling, without <s> and </s>; None takes the bytes.
    """
    random = np.random.default_rng(seed)
    head = hidden // HEADS
    tokens, merges = vocabulary or (byte_tokens(), ["a b"])
    rows = BYTES + len(tokens)
    shapes = {"token_embd.weight": (rows, hidden), "output.weight": (rows, hidden)}
    for block in range(blocks):
        shapes |= {
            f"blk.{block}.attn_q.weight": (HEADS * head, hidden),
            f"blk.{block}.attn_k.weight": (KV_HEADS * head, hidden),
            f"blk.{block}.attn_v.weight": (KV_HEADS * head, hidden),
            f"blk.{block}.attn_output.weight": (hidden, HEADS * head),
            f"blk.{block}.ffn_gate.weight": (WIDTH, hidden),
            f"blk.{block}.ffn_up.weight": (WIDTH, hidden),
            f"blk.{block}.ffn_down.weight": (hidden, WIDTH),
        }
    norms = ["output_norm.weight"]
    norms += [f"blk.{block}.{name}_norm.weight" for block in range(blocks) for name in ("attn", "ffn")]
    with GGUFWriter(path) as writer:
        _describe(writer, blocks, hidden, tokens, merges)
        for name, shape in shapes.items():
            scale = 1.0 / np.sqrt(shape[1])
            writer.add_tensor(
                name, GGMLType.F32, shape, (random.standard_normal(shape) * scale).astype(np.float32)
            )
        for name in norms:
            writer.add_tensor(name, GGMLType.F32, (hidden,), np.ones(hidden, np.float32))
    return path


def _describe(writer: GGUFWriter, blocks: int, hidden: int, tokens: list[str], merges: list[str]) -> None:
    values: dict[str, str | int | float | list[str] | list[int]] = {
        "general.architecture": "llama",
        "llama.block_count": blocks,
        "llama.embedding_length": hidden,
        "llama.feed_forward_length": WIDTH,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.context_length": CONTEXT,
        "llama.rope.dimension_count": hidden // HEADS,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ["<s>", "</s>", *tokens],
        "tokenizer.ggml.token_type": [3, 3, *[1] * len(tokens)],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
    }
    for key, value in values.items():
        writer.add(key, value)
