"""A llama that says what a test wants: after each token of its script comes the next one, always.

The layer adds nothing; a token's embedding is an axis of its own, and the output of the next token points
there.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tests.tiny_llama import byte_tokens

from puna.gguf import GGMLType
from puna.gguf.writer import GGUFWriter

HIDDEN, HEADS, WIDTH = 64, 2, 8
CONTROL, USER_DEFINED, NORMAL = 3, 4, 1
START = "<|go|>"
END = "<|end|>"


def write_scripted_llama(
    path: Path,
    script: Sequence[str],
    *,
    control: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
    context: int = 512,
    endless: bool = False,
) -> Path:
    """Writes a model that answers with the script when a prompt ends with `START`, and gives its path back.

    Args:
        script: texts of tokens, no two equal; at the end comes `END`.
        endless: the last one again and again instead.
        control: those of them, and further ones, that are control tokens.
        metadata: further keys of the file.
    """
    special = dict.fromkeys(("<s>", END, START, *control), CONTROL)
    # What is one byte long is in the vocabulary already.
    longer = [text for text in script if text not in special and len(text.encode()) > 1]
    special |= dict.fromkeys(longer, USER_DEFINED)
    tokens = [*special, *byte_tokens()]
    chain = [_id(tokens, text) for text in (START, *script)]
    assert len(set(chain)) == len(chain) < HIDDEN
    chain.append(chain[-1] if endless else tokens.index(END))
    embedding, output = np.zeros((2, len(tokens), HIDDEN), np.float32)
    for axis, (token, following) in enumerate(pairwise(chain)):
        embedding[token, axis] = 1
        output[following, axis] = 1
    described: dict[str, Any] = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": WIDTH,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.context_length": context,
        "llama.rope.dimension_count": HIDDEN // HEADS,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [*special.values(), *[NORMAL] * 256],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        **(metadata or {}),
    }
    with GGUFWriter(path) as writer:
        for key, value in described.items():
            writer.add(key, value)
        writer.add_tensor("token_embd.weight", GGMLType.F32, embedding.shape, embedding)
        writer.add_tensor("output.weight", GGMLType.F32, output.shape, output)
        for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
            writer.add_tensor(f"{name}.weight", GGMLType.F32, (HIDDEN,), np.ones(HIDDEN, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            _add_zeros(writer, name, (HIDDEN, HIDDEN))
        for name in ("ffn_gate", "ffn_up"):
            _add_zeros(writer, name, (WIDTH, HIDDEN))
        _add_zeros(writer, "ffn_down", (HIDDEN, WIDTH))
    return path


def _id(tokens: Sequence[str], text: str) -> int:
    return tokens.index(text) if len(text.encode()) > 1 else len(tokens) - 256 + ord(text)


def _add_zeros(writer: GGUFWriter, name: str, shape: tuple[int, int]) -> None:
    writer.add_tensor(f"blk.0.{name}.weight", GGMLType.F32, shape, np.zeros(shape, np.float32))
