"""A model of random weights in which every kind of quantization has something to do."""

from array import array
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from puna.gguf import GGMLType, GGUFWriter
from puna.gguf.types import ValueType
from puna.quantize.importance import Importance, Sums

BLOCKS, EXPERTS = 2, 3
SHAPES = {
    "token_embd.weight": (300, 512),
    "output_norm.weight": (512,),
    "output.weight": (300, 512),
    **{
        f"blk.{block}.{name}.weight": shape
        for block in range(BLOCKS)
        for name, shape in {
            "attn_q": (256, 512),
            "attn_v": (64, 512),
            "attn_output": (512, 256),
            "ffn_norm": (512,),
            "ffn_gate_inp": (EXPERTS, 512),
            # Matrices of which one is several pieces, and whose pieces must not go from one to the next.
            "ffn_down_exps": (EXPERTS, 129, 768),
            "odd": (16, 160),
        }.items()
    },
}
"""In no order of theirs."""


def random_tensors() -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(5)
    return {
        name: (random.standard_normal(shape) * random.choice([0.01, 1, 20])).astype(np.float32)
        for name, shape in SHAPES.items()
    }


def stored(values: NDArray[np.float32], type_: GGMLType) -> bytes:
    """The numbers as F32, F16, or BF16 cut off."""
    if type_ is GGMLType.BF16:
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return values.astype(np.float16 if type_ is GGMLType.F16 else np.float32).tobytes()


def write_model(path: Path, type_: GGMLType, number: int) -> Path:
    """Write the model with its matrices in `type_`, which is file type `number`."""
    with GGUFWriter(path) as writer:
        facts: dict[str, str | int | float] = {
            "general.architecture": "llama",
            "general.quantization_version": 1,
            "general.name": "a model",
            "general.file_type": number,
            "llama.block_count": BLOCKS,
            "llama.context_length": 64,
            "llama.embedding_length": 512,
            "llama.feed_forward_length": 768,
            "llama.attention.head_count": 8,
            "llama.attention.head_count_kv": 2,
            "llama.attention.layer_norm_rms_epsilon": 1e-5,
            "llama.expert_count": EXPERTS,
            "llama.expert_used_count": 2,
            "llama.vocab_size": 300,
        }
        for key, value in facts.items():
            writer.add(key, value)
        writer.add("tokenizer.ggml.scores", [1.5, 2.5], ValueType.FLOAT32)
        for name, values in random_tensors().items():
            kind = type_ if values.ndim > 1 else GGMLType.F32
            writer.add_tensor(name, kind, values.shape, stored(values, kind))
    return path


def importance() -> Importance:
    """An importance matrix for the model, with an expert that saw nothing."""
    random = np.random.default_rng(6)
    sums = {}
    for name, shape in SHAPES.items():
        if len(shape) > 1 and name.startswith("blk."):
            matrices = shape[0] if len(shape) == 3 else 1
            squares = random.gamma(1, 40, (matrices, shape[-1])).astype(np.float32)
            counts = np.array([0, 70, 90][-matrices:], np.float32)
            sums[name] = Sums(array("f", squares.tobytes()), array("f", counts.tobytes()))
    return Importance(sums, ("a text.txt", "another"), 3, 64)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in F16."""
    return write_model(tmp_path_factory.mktemp("model") / "model.gguf", GGMLType.F16, 1)
