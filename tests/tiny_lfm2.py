"""An LFM2 of a few thousand random weights with the byte vocabulary: attention in one layer of three."""

from pathlib import Path

import numpy as np
from tests.tiny_llama import BOS, EOS, byte_tokens

from puna.gguf import GGMLType
from puna.gguf.writer import GGUFWriter

HIDDEN, HEADS, KV_HEADS, SIZE, WIDTH, TAPS = 64, 4, 2, 16, 96, 3
ATTENDING = (False, True, False)


def write_tiny_lfm2(path: Path, *, seed: int = 0) -> Path:
    """Writes the model in F32 and gives its path back."""
    random = np.random.default_rng(seed)
    tokens = ["<s>", "</s>", *byte_tokens()]
    shapes = {"token_embd.weight": (len(tokens), HIDDEN)}
    norms = {"token_embd_norm.weight": HIDDEN}
    for block, attends in enumerate(ATTENDING):
        name = f"blk.{block}."
        if attends:
            shapes |= {
                f"{name}attn_q.weight": (HEADS * SIZE, HIDDEN),
                f"{name}attn_k.weight": (KV_HEADS * SIZE, HIDDEN),
                f"{name}attn_v.weight": (KV_HEADS * SIZE, HIDDEN),
                f"{name}attn_output.weight": (HIDDEN, HEADS * SIZE),
            }
            norms |= {f"{name}{part}.weight": SIZE for part in ("attn_q_norm", "attn_k_norm")}
        else:
            shapes |= {
                f"{name}shortconv.in_proj.weight": (3 * HIDDEN, HIDDEN),
                f"{name}shortconv.conv.weight": (HIDDEN, TAPS),
                f"{name}shortconv.out_proj.weight": (HIDDEN, HIDDEN),
            }
        shapes |= {
            f"{name}ffn_gate.weight": (WIDTH, HIDDEN),
            f"{name}ffn_up.weight": (WIDTH, HIDDEN),
            f"{name}ffn_down.weight": (HIDDEN, WIDTH),
        }
        norms |= {f"{name}{part}.weight": HIDDEN for part in ("attn_norm", "ffn_norm")}
    with GGUFWriter(path) as writer:
        _describe(writer, tokens)
        for name, shape in shapes.items():
            weights = 1.5 * random.standard_normal(shape) / np.sqrt(shape[1])
            writer.add_tensor(name, GGMLType.F32, shape, weights.astype(np.float32))
        for name, length in norms.items():
            writer.add_tensor(name, GGMLType.F32, (length,), np.ones(length, np.float32))
    return path


def _describe(writer: GGUFWriter, tokens: list[str]) -> None:
    values: dict[str, str | int | float | list[str] | list[int]] = {
        "general.architecture": "lfm2",
        "lfm2.block_count": len(ATTENDING),
        "lfm2.embedding_length": HIDDEN,
        "lfm2.feed_forward_length": WIDTH,
        "lfm2.attention.head_count": HEADS,
        "lfm2.attention.head_count_kv": [KV_HEADS if attends else 0 for attends in ATTENDING],
        "lfm2.attention.layer_norm_rms_epsilon": 1e-5,
        "lfm2.shortconv.l_cache": TAPS,
        "lfm2.context_length": 4096,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, *[1] * 256],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
    }
    for key, value in values.items():
        writer.add(key, value)
