"""A Llama 3.2 Vision of a few thousand random weights with a byte vocabulary, for tests of the whole."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tests.tiny_llama import BOS, BYTES, EOS, byte_tokens

from puna.gguf import GGMLType
from puna.gguf.writer import GGUFWriter

HIDDEN, HEADS, KV_HEADS, WIDTH, LAYERS, CROSSING = 64, 4, 2, 96, 4, (1, 2)
SEEN, SEEN_HEADS, SEEN_WIDTH, IMAGE, PATCH, TILES, COLLECTED = 32, 2, 48, 28, 14, 4, (1,)
TOKENS = (IMAGE // PATCH) ** 2 + 1
VOCABULARY = BYTES + 256 + 1
PICTURE = VOCABULARY - 1
CONTEXT = 512

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def write_tiny_mllama(path: Path, *, seed: int = 0, context: int = CONTEXT, sees: bool = True) -> Path:
    """Writes the model in F32 and gives its path back; without `sees` it has no image encoder."""
    random = np.random.default_rng(seed)
    with GGUFWriter(path) as writer:
        for key, value in _keys(context, sees).items():
            writer.add(key, value)
        for name, shape in (_text() | (_vision() if sees else {})).items():
            writer.add_tensor(name, GGMLType.F32, shape, _values(random, name, shape))
    return path


def picture(seed: int = 0, size: tuple[int, int] = (40, 40), format: str = "PNG") -> bytes:
    """The content of a file with a picture of random colours."""
    values = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format)
    return buffer.getvalue()


def _values(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if name.endswith(("_gate", ".gate")):
        return np.full(shape, 0.7, np.float32)
    if "norm" in name or "_ln." in name:
        return np.full(shape, float(name.endswith("weight")), np.float32)
    scale = 1 if len(shape) == 1 else 1.5 / np.sqrt(shape[-1] if len(shape) == 2 else np.prod(shape[1:]))
    if "token_embd" in name or "position_embd" in name:
        scale = 1
    return (random.standard_normal(shape) * scale).astype(np.float32)


def _text() -> dict[str, tuple[int, ...]]:
    head = HIDDEN // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCABULARY + 7, HIDDEN),
        # The picture's token is none that can be chosen.
        "output.weight": (VOCABULARY - 1, HIDDEN),
        "output_norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        crosses = layer in CROSSING
        q, k, v, o = (
            [f"cross_attn_{name}_proj" for name in "qkvo"]
            if crosses
            else ["attn_q", "attn_k", "attn_v", "attn_output"]
        )
        own: dict[str, tuple[int, ...]] = {
            f"{q}.weight": (HIDDEN, HIDDEN),
            f"{k}.weight": (KV_HEADS * head, HIDDEN),
            f"{v}.weight": (KV_HEADS * head, HIDDEN),
            f"{o}.weight": (HIDDEN, HIDDEN),
            "attn_norm.weight": (HIDDEN,),
            "ffn_norm.weight": (HIDDEN,),
            "ffn_gate.weight": (WIDTH, HIDDEN),
            "ffn_up.weight": (WIDTH, HIDDEN),
            "ffn_down.weight": (HIDDEN, WIDTH),
        }
        if crosses:
            own |= {"cross_attn_attn_gate": (1,), "cross_attn_mlp_gate": (1,)}
            own |= {f"cross_attn_{name}_norm.weight": (head,) for name in "qk"}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in own.items()}
    return shapes


def _vision() -> dict[str, tuple[int, ...]]:
    arrangements = 9
    shapes: dict[str, tuple[int, ...]] = {
        "v.patch_embd.weight": (SEEN, 3, PATCH, PATCH),
        "v.class_embd": (SEEN,),
        "v.position_embd.weight": (TOKENS, SEEN),
        "v.position_embd.gate": (1,),
        "v.tile_position_embd.weight": (arrangements, TILES * TOKENS * SEEN),
        "v.tile_position_embd.gate": (1,),
        "mm.0.weight": (HIDDEN, SEEN * (1 + len(COLLECTED))),
        "mm.0.bias": (HIDDEN,),
    }
    for name in ("pre", "post"):
        shapes |= {
            f"v.{name}_tile_position_embd.weight": (arrangements, TILES * SEEN),
            f"v.{name}_tile_position_embd.gate": (1,),
            f"v.{name}_ln.weight": (SEEN,),
            f"v.{name}_ln.bias": (SEEN,),
        }
    for scope in ("v.blk.0", "v.blk.1", "v.global.blk.0"):
        shapes |= {f"{scope}.attn_{name}.weight": (SEEN, SEEN) for name in ("q", "k", "v", "output")}
        shapes |= {
            f"{scope}.{n}_norm.{kind}": (SEEN,) for n in ("attn", "ffn") for kind in ("weight", "bias")
        }
        shapes |= {
            f"{scope}.ffn_up.weight": (SEEN_WIDTH, SEEN),
            f"{scope}.ffn_up.bias": (SEEN_WIDTH,),
            f"{scope}.ffn_down.weight": (SEEN, SEEN_WIDTH),
            f"{scope}.ffn_down.bias": (SEEN,),
        }
    return shapes | {"v.global.blk.0.attn_gate": (1,), "v.global.blk.0.ffn_gate": (1,)}


def _keys(context: int, sees: bool) -> dict[str, str | int | float | list[str] | list[int]]:
    vision: dict[str, int | float | list[int]] = {
        "block_count": 2,
        "global.block_count": 1,
        "intermediate_layers_indices": list(COLLECTED),
        "embedding_length": SEEN,
        "feed_forward_length": SEEN_WIDTH,
        "attention.head_count": SEEN_HEADS,
        "attention.layer_norm_epsilon": 1e-5,
        "image_size": IMAGE,
        "patch_size": PATCH,
        "max_num_tiles": TILES,
        "num_channels": 3,
    }
    return {
        "general.architecture": "mllama",
        "mllama.block_count": LAYERS,
        "mllama.embedding_length": HIDDEN,
        "mllama.feed_forward_length": WIDTH,
        "mllama.attention.head_count": HEADS,
        "mllama.attention.head_count_kv": KV_HEADS,
        "mllama.attention.layer_norm_rms_epsilon": 1e-5,
        "mllama.attention.cross_attention_layers": list(CROSSING),
        "mllama.context_length": context,
        "mllama.rope.dimension_count": HIDDEN // HEADS,
        **({f"mllama.vision.{key}": value for key, value in vision.items()} if sees else {}),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": ["<s>", "</s>", *byte_tokens(), "<|image|>"],
        "tokenizer.ggml.token_type": [3, 3, *[1] * 256, 3],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
        "tokenizer.chat_template": TEMPLATE,
    }
