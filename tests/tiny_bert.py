"""A BERT of a few thousand random weights with a vocabulary of letters, for tests that need an encoder."""

import string
from pathlib import Path

import numpy as np

from puna.gguf import GGMLType
from puna.gguf.writer import GGUFWriter

LAYERS, HIDDEN, HEADS, WIDTH, CONTEXT = 2, 32, 4, 64, 64
MEAN, RANK = 1, 4
SPECIAL = {"[PAD]": "padding", "[UNK]": "unknown", "[CLS]": "cls", "[SEP]": "seperator", "[MASK]": "mask"}
TOKENS = [*SPECIAL, *(f"▁{letter}" for letter in string.ascii_lowercase), *string.ascii_lowercase]


def write_tiny_bert(path: Path, *, seed: int = 0, ranks: bool = False) -> Path:
    """Writes the model in F32 and gives its path back. Each letter of a text is a token.

    Args:
        ranks: it has a head that scores pairs of texts.
    """
    random = np.random.default_rng(seed)
    linear = {"cls": (HIDDEN, HIDDEN), "cls.output": (1, HIDDEN)} if ranks else {}
    norms = ["token_embd_norm"]
    for block in (f"blk.{layer}." for layer in range(LAYERS)):
        linear |= {f"{block}attn_{part}": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "output")}
        linear |= {f"{block}ffn_up": (WIDTH, HIDDEN), f"{block}ffn_down": (HIDDEN, WIDTH)}
        norms += [f"{block}attn_output_norm", f"{block}layer_output_norm"]
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(TOKENS), HIDDEN),
        "position_embd.weight": (CONTEXT, HIDDEN),
        "token_types.weight": (2, HIDDEN),
    }
    shapes |= {f"{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    shapes |= {f"{name}.{part}": (HIDDEN,) for name in norms for part in ("weight", "bias")}
    with GGUFWriter(path) as writer:
        _describe(writer, RANK if ranks else MEAN)
        for name, shape in shapes.items():
            values = random.standard_normal(shape) / np.sqrt(shape[-1]) + name.endswith("norm.weight")
            writer.add_tensor(name, GGMLType.F32, shape, values.astype(np.float32))
    return path


def _describe(writer: GGUFWriter, pooling: int) -> None:
    values: dict[str, str | int | float | list[str] | list[int]] = {
        "general.architecture": "bert",
        "bert.block_count": LAYERS,
        "bert.embedding_length": HIDDEN,
        "bert.feed_forward_length": WIDTH,
        "bert.attention.head_count": HEADS,
        "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False,
        "bert.context_length": CONTEXT,
        "bert.pooling_type": pooling,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in TOKENS],
    }
    values |= {f"tokenizer.ggml.{name}_token_id": TOKENS.index(token) for token, name in SPECIAL.items()}
    for key, value in values.items():
        writer.add(key, value)
