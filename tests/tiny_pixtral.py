"""A Mistral 3 of a few thousand random weights that sees, with the byte vocabulary."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tests.tiny_llama import BOS, EOS, byte_tokens

from puna.gguf import GGMLType
from puna.gguf.writer import GGUFWriter

BLOCKS, HIDDEN, HEADS, KV_HEADS, SIZE, WIDTH = 2, 64, 4, 2, 16, 96
SEEN, SEEN_HEADS, SEEN_WIDTH, EDGE, PATCH, MERGE = 32, 2, 48, 32, 4, 2
OF_PICTURES = ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]
_OF_LLAMA_CPP = {
    "patch_conv": "patch_embd",
    "encoder_norm": "pre_ln",
    "attn_norm": "ln1",
    "ffn_norm": "ln2",
    "attn_output": "attn_out",
    "mm.norm": "mm.input_norm",
    "patch_merger.merging_layer": "patch_merger",
    "mm.linear_": "mm.",
}

Array = NDArray[np.float32]


def write_tiny_pixtral(path: Path, *, seed: int = 0, projector: Path | None = None) -> Path:
    """Writes the model in F32 with Ollama's names and gives its path back.

    Args:
        projector: where the image encoder is to be written, with llama.cpp's names, instead of into the
            same file.
    """
    random = np.random.default_rng(seed)
    tokens = ["<s>", "</s>", *byte_tokens(), *OF_PICTURES]
    text, vision = dict(_text(random, len(tokens))), dict(_vision(random))
    with GGUFWriter(path) as writer:
        _describe(writer, tokens)
        if not projector:
            _describe_vision(writer, "mistral3")
            writer.add("mistral3.spatial_merge_size", MERGE)
        for name, value in (text if projector else text | vision).items():
            writer.add_tensor(name, GGMLType.F32, value.shape, value.tobytes())
    if projector:
        with GGUFWriter(projector) as writer:
            writer.add("general.architecture", "clip")
            writer.add("clip.projector_type", "pixtral")
            writer.add("clip.vision.spatial_merge_size", MERGE)
            _describe_vision(writer, "clip")
            vision["v.token_embd.img_break"] = text["token_embd.weight"][tokens.index(OF_PICTURES[1])]
            for name, value in vision.items():
                renamed = name
                for theirs, ours in _OF_LLAMA_CPP.items():
                    renamed = renamed.replace(theirs, ours)
                if name.endswith(("attn_q.weight", "attn_k.weight")):
                    value = value.reshape(SEEN_HEADS, 2, -1, SEEN).swapaxes(1, 2).reshape(value.shape)
                writer.add_tensor(renamed, GGMLType.F32, value.shape, np.ascontiguousarray(value).tobytes())
    return path


def _text(random: np.random.Generator, vocabulary: int) -> Iterator[tuple[str, Array]]:
    yield from _matrices(random, {"token_embd": (vocabulary, HIDDEN), "output": (vocabulary, HIDDEN)})
    for block in range(BLOCKS):
        name = f"blk.{block}."
        shapes = {
            "attn_q": (HEADS * SIZE, HIDDEN),
            "attn_k": (KV_HEADS * SIZE, HIDDEN),
            "attn_v": (KV_HEADS * SIZE, HIDDEN),
            "attn_output": (HIDDEN, HEADS * SIZE),
            "ffn_gate": (WIDTH, HIDDEN),
            "ffn_up": (WIDTH, HIDDEN),
            "ffn_down": (HIDDEN, WIDTH),
        }
        yield from _matrices(random, {f"{name}{part}": shape for part, shape in shapes.items()})
        for part in ("attn_norm", "ffn_norm"):
            yield f"{name}{part}.weight", np.ones(HIDDEN, np.float32)
    yield "output_norm.weight", np.ones(HIDDEN, np.float32)


def _vision(random: np.random.Generator) -> Iterator[tuple[str, Array]]:
    shapes: dict[str, tuple[int, ...]] = {
        "v.patch_conv": (SEEN, 3, PATCH, PATCH),
        "v.blk.0.ffn_gate": (SEEN_WIDTH, SEEN),
        "v.blk.0.ffn_up": (SEEN_WIDTH, SEEN),
        "v.blk.0.ffn_down": (SEEN, SEEN_WIDTH),
        **{f"v.blk.0.attn_{part}": (SEEN, SEEN) for part in ("q", "k", "v", "output")},
        "mm.patch_merger.merging_layer": (SEEN, SEEN * MERGE**2),
        "mm.linear_1": (HIDDEN, SEEN),
        "mm.linear_2": (HIDDEN, HIDDEN),
    }
    yield from _matrices(random, shapes)
    for name in ("v.encoder_norm", "v.blk.0.attn_norm", "v.blk.0.ffn_norm", "mm.norm"):
        yield f"{name}.weight", np.ones(SEEN, np.float32)


def _matrices(random: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, Array]]:
    for name, shape in shapes.items():
        # As strong as other tokens are those of pictures.
        gain = 4 if name.startswith("mm.") else 1.5
        weights = random.standard_normal(shape) * gain / np.sqrt(np.prod(shape[1:]))
        yield f"{name}.weight", weights.astype(np.float32)


def _describe_vision(writer: GGUFWriter, scope: str) -> None:
    keys = {
        "block_count": 1,
        "embedding_length": SEEN,
        "feed_forward_length": SEEN_WIDTH,
        "image_size": EDGE,
        "patch_size": PATCH,
        "attention.head_count": SEEN_HEADS,
    }
    for key, value in keys.items():
        writer.add(f"{scope}.vision.{key}", value)


def _describe(writer: GGUFWriter, tokens: list[str]) -> None:
    values: dict[str, str | int | float | list[str] | list[int]] = {
        "general.architecture": "mistral3",
        "mistral3.block_count": BLOCKS,
        "mistral3.embedding_length": HIDDEN,
        "mistral3.feed_forward_length": WIDTH,
        "mistral3.attention.head_count": HEADS,
        "mistral3.attention.head_count_kv": KV_HEADS,
        "mistral3.attention.key_length": SIZE,
        "mistral3.attention.value_length": SIZE,
        "mistral3.attention.layer_norm_rms_epsilon": 1e-5,
        "mistral3.context_length": 4096,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, *[1] * 256, *[3] * len(OF_PICTURES)],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
    }
    for key, value in values.items():
        writer.add(key, value)
