"""A Qwen 2.5-VL of a few thousand random weights with the byte vocabulary, in one file or in two."""

from pathlib import Path

import numpy as np
from tests.tiny_llama import BOS, EOS, byte_tokens

from puna.gguf import GGMLType
from puna.gguf.writer import GGUFWriter

BLOCKS, HIDDEN, HEADS, KV_HEADS, WIDTH, SECTIONS = 2, 64, 4, 2, 96, [2, 3, 3]
SEEN, SEEN_BLOCKS, SEEN_WIDTH, PATCH, MERGE, WINDOW = 32, 2, 40, 5, 2, 20
TAGS = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>"]

Shapes = dict[str, tuple[int, ...]]
Keys = dict[str, str | int | float | list[str] | list[int]]

SEEN_KEYS: Keys = {
    "vision.block_count": SEEN_BLOCKS,
    "vision.embedding_length": SEEN,
    "vision.attention.head_count": 2,
    "vision.attention.layer_norm_epsilon": 1e-6,
    "vision.patch_size": PATCH,
    "vision.spatial_merge_size": MERGE,
    "vision.window_size": WINDOW,
}
# llama.cpp's names of what stands before the blocks and behind them.
_OF_LLAMA_CPP = {
    "v.patch_embd_0.weight": "v.patch_embd.weight",
    "v.patch_embd_1.weight": "v.patch_embd.weight.1",
    "v.merger.ln_q.weight": "v.post_ln.weight",
    "v.merger.mlp.0.weight": "mm.0.weight",
    "v.merger.mlp.0.bias": "mm.0.bias",
    "v.merger.mlp.2.weight": "mm.2.weight",
    "v.merger.mlp.2.bias": "mm.2.bias",
}


def write_tiny_qwenvl(
    path: Path, *, seed: int = 0, projector: Path | None = None, keys: Keys | None = None
) -> Path:
    """Writes the model in F32 as Ollama's files have it, and gives its path back.

    Args:
        projector: where the image encoder is to be written, both then being as llama.cpp's files are.
        keys: others than usual, of the file with the image encoder, without the architecture before them.
    """
    random = np.random.default_rng(seed)
    architecture = "qwen2vl" if projector else "qwen25vl"
    tokens = ["<s>", "</s>", *byte_tokens(), *TAGS]
    with GGUFWriter(path) as writer:
        if projector:
            _describe(writer, architecture, _keys(tokens) | {"rope.dimension_sections": [*SECTIONS, 0]})
        else:
            own: Keys = {"rope.mrope_section": SECTIONS, "vision.fullatt_block_indexes": [1]}
            _describe(writer, architecture, _keys(tokens) | SEEN_KEYS | own | (keys or {}))
        _add(writer, random, _text(len(tokens)))
        if not projector:
            _add(writer, random, _vision())
    if projector:
        with GGUFWriter(projector) as writer:
            own = {"projector_type": "qwen2.5vl_merger", "vision.n_wa_pattern": 2}
            _describe(writer, "clip", SEEN_KEYS | own | (keys or {}))
            _add(writer, random, _vision(), _OF_LLAMA_CPP)
    return path


def _describe(writer: GGUFWriter, architecture: str, keys: Keys) -> None:
    writer.add("general.architecture", architecture)
    for key, value in keys.items():
        writer.add(key if key.startswith("tokenizer") else f"{architecture}.{key}", value)


def _add(
    writer: GGUFWriter, random: np.random.Generator, shapes: Shapes, names: dict[str, str] | None = None
) -> None:
    for name, shape in shapes.items():
        values = random.standard_normal(shape) * 1.5 / np.sqrt(np.prod(shape[1:]))
        if len(shape) == 1:
            values = values * 0.2 + (name.endswith("weight"))
        writer.add_tensor((names or {}).get(name, name), GGMLType.F32, shape, values.astype(np.float32))


def _text(vocabulary: int) -> Shapes:
    size = HIDDEN // HEADS
    shapes: Shapes = {
        "token_embd.weight": (vocabulary, HIDDEN),
        "output.weight": (vocabulary, HIDDEN),
        "output_norm.weight": (HIDDEN,),
    }
    for block in range(BLOCKS):
        own: Shapes = {
            "attn_norm.weight": (HIDDEN,),
            "attn_q.weight": (HIDDEN, HIDDEN),
            "attn_k.weight": (KV_HEADS * size, HIDDEN),
            "attn_v.weight": (KV_HEADS * size, HIDDEN),
            "attn_q.bias": (HIDDEN,),
            "attn_k.bias": (KV_HEADS * size,),
            "attn_v.bias": (KV_HEADS * size,),
            "attn_output.weight": (HIDDEN, HIDDEN),
            "ffn_norm.weight": (HIDDEN,),
            "ffn_gate.weight": (WIDTH, HIDDEN),
            "ffn_up.weight": (WIDTH, HIDDEN),
            "ffn_down.weight": (HIDDEN, WIDTH),
        }
        shapes |= {f"blk.{block}.{name}": shape for name, shape in own.items()}
    return shapes


def _vision() -> Shapes:
    merged = SEEN * MERGE**2
    shapes: Shapes = {
        "v.patch_embd_0.weight": (SEEN, 3, PATCH, PATCH),
        "v.patch_embd_1.weight": (SEEN, 3, PATCH, PATCH),
    }
    for block in range(SEEN_BLOCKS):
        own: Shapes = {"ln1.weight": (SEEN,), "ln2.weight": (SEEN,)}
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            own |= {f"{part}.weight": (SEEN, SEEN), f"{part}.bias": (SEEN,)}
        for part in ("ffn_gate", "ffn_up"):
            own |= {f"{part}.weight": (SEEN_WIDTH, SEEN), f"{part}.bias": (SEEN_WIDTH,)}
        own |= {"ffn_down.weight": (SEEN, SEEN_WIDTH), "ffn_down.bias": (SEEN,)}
        shapes |= {f"v.blk.{block}.{name}": shape for name, shape in own.items()}
    return shapes | {
        "v.merger.ln_q.weight": (SEEN,),
        "v.merger.mlp.0.weight": (merged, merged),
        "v.merger.mlp.0.bias": (merged,),
        "v.merger.mlp.2.weight": (HIDDEN, merged),
        "v.merger.mlp.2.bias": (HIDDEN,),
    }


def _keys(tokens: list[str]) -> Keys:
    return {
        "block_count": BLOCKS,
        "embedding_length": HIDDEN,
        "feed_forward_length": WIDTH,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "context_length": 4096,
        "rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, *[1] * 256, *[3] * len(TAGS)],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
    }
