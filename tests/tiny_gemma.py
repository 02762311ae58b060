"""A Gemma 3 of a few thousand random weights with the byte vocabulary: one layer in two has a window."""

from pathlib import Path

import numpy as np
from tests.tiny_llama import BOS, EOS, byte_tokens

from puna.gguf import GGMLType
from puna.gguf.writer import GGUFWriter

WINDOW = 24
BLOCKS, HIDDEN, HEADS, KV_HEADS, SIZE, WIDTH = 2, 64, 4, 2, 16, 96


PICTURE_TOKENS = 4
SEEN, SEEN_WIDTH, IMAGE, PATCH = 32, 48, 28, 7
AROUND = ["\n\n", "<start_of_image>", "<end_of_image>"]


def write_tiny_gemma(path: Path, *, seed: int = 0, sees: bool = False, projector: Path | None = None) -> Path:
    """Writes the model in F32 and gives its path back; with `sees` it has an image encoder.

    Args:
        projector: where that is to be written, instead of into the same file.
    """
    random = np.random.default_rng(seed)
    tokens = ["<s>", "</s>", *byte_tokens(), *(AROUND if sees or projector else [])]
    if projector:
        with GGUFWriter(projector) as writer:
            writer.add("general.architecture", "clip")
            writer.add("clip.projector_type", "gemma3")
            _add_vision(writer, random, "clip")
    shapes = {"token_embd.weight": (len(tokens), HIDDEN), "output.weight": (len(tokens), HIDDEN)}
    norms = {"output_norm.weight": HIDDEN}
    for block in range(BLOCKS):
        name = f"blk.{block}."
        shapes |= {
            f"{name}attn_q.weight": (HEADS * SIZE, HIDDEN),
            f"{name}attn_k.weight": (KV_HEADS * SIZE, HIDDEN),
            f"{name}attn_v.weight": (KV_HEADS * SIZE, HIDDEN),
            f"{name}attn_output.weight": (HIDDEN, HEADS * SIZE),
            f"{name}ffn_gate.weight": (WIDTH, HIDDEN),
            f"{name}ffn_up.weight": (WIDTH, HIDDEN),
            f"{name}ffn_down.weight": (HIDDEN, WIDTH),
        }
        norms |= {f"{name}{part}.weight": HIDDEN for part in ("attn_norm", "ffn_norm")}
        norms |= {f"{name}{part}.weight": HIDDEN for part in ("post_attention_norm", "post_ffw_norm")}
        norms |= {f"{name}{part}.weight": SIZE for part in ("attn_q_norm", "attn_k_norm")}
    with GGUFWriter(path) as writer:
        _describe(writer, tokens)
        if sees:
            _add_vision(writer, random, "gemma3")
        for name, shape in shapes.items():
            weights = random.standard_normal(shape) / np.sqrt(shape[1])
            writer.add_tensor(name, GGMLType.F32, shape, weights.astype(np.float32))
        for name, length in norms.items():
            writer.add_tensor(name, GGMLType.F32, (length,), np.ones(length, np.float32))
    return path


def _add_vision(writer: GGUFWriter, random: np.random.Generator, scope: str) -> None:
    keys: dict[str, int | float] = {
        "vision.block_count": 1,
        "vision.embedding_length": SEEN,
        "vision.feed_forward_length": SEEN_WIDTH,
        "vision.image_size": IMAGE,
        "vision.patch_size": PATCH,
        "vision.attention.head_count": 2,
        "vision.attention.layer_norm_epsilon": 1e-6,
        "mm.tokens_per_image": PICTURE_TOKENS,
    }
    for key, value in keys.items():
        writer.add(f"{scope}.{key}", value)
    shapes: dict[str, tuple[int, ...]] = {
        "v.patch_embedding.weight": (SEEN, 3, PATCH, PATCH),
        "v.position_embedding.weight": ((IMAGE // PATCH) ** 2, SEEN),
        "v.blk.0.mlp.fc1.weight": (SEEN_WIDTH, SEEN),
        "v.blk.0.mlp.fc2.weight": (SEEN, SEEN_WIDTH),
        "mm.mm_input_projection.weight": (SEEN, HIDDEN),
    }
    shapes |= {f"v.blk.0.attn_{part}.weight": (SEEN, SEEN) for part in ("q", "k", "v", "output")}
    ones = ["v.blk.0.layer_norm1", "v.blk.0.layer_norm2", "v.post_layernorm", "mm.mm_soft_emb_norm"]
    zeros = {f"{name}.bias": SEEN for name in (*ones[:3], "v.patch_embedding", "v.blk.0.mlp.fc2")}
    zeros |= {f"v.blk.0.attn_{part}.bias": SEEN for part in ("q", "k", "v", "output")}
    zeros["v.blk.0.mlp.fc1.bias"] = SEEN_WIDTH
    for name, shape in shapes.items():
        # As strong as other tokens: embeddings are multiplied by the root of their width.
        gain = 8 if name.startswith("mm.") else 1.5
        weights = random.standard_normal(shape) * gain / np.sqrt(np.prod(shape[1:]))
        writer.add_tensor(name, GGMLType.F32, shape, weights.astype(np.float32))
    for name in ones:
        writer.add_tensor(f"{name}.weight", GGMLType.F32, (SEEN,), np.ones(SEEN, np.float32))
    for name, length in zeros.items():
        writer.add_tensor(name, GGMLType.F32, (length,), np.zeros(length, np.float32))


def _describe(writer: GGUFWriter, tokens: list[str]) -> None:
    values: dict[str, str | int | float | list[str] | list[int]] = {
        "general.architecture": "gemma3",
        "gemma3.block_count": BLOCKS,
        "gemma3.embedding_length": HIDDEN,
        "gemma3.feed_forward_length": WIDTH,
        "gemma3.attention.head_count": HEADS,
        "gemma3.attention.head_count_kv": KV_HEADS,
        "gemma3.attention.key_length": SIZE,
        "gemma3.attention.value_length": SIZE,
        "gemma3.attention.sliding_window": WINDOW,
        "gemma3.attention.sliding_window_pattern": 2,
        "gemma3.attention.layer_norm_rms_epsilon": 1e-6,
        "gemma3.context_length": 4096,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, *[1] * 256, *[4, 3, 3][: len(tokens) - 258]],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
    }
    for key, value in values.items():
        writer.add(key, value)
