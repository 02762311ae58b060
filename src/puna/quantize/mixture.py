"""Which type each weight of a quantized model gets: pure decisions over names and shapes.

Matrices that suffer most from few bits get more. Source: llama.cpp's `llama_tensor_get_type` and what it
calls (src/llama-quant.cpp), for the kinds of `puna.quantize.filetypes`; the weights of image and sound
encoders in the same file stay as they are, which is Ollama's rule.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from puna.errors import FormatError
from puna.gguf import GGMLType, Metadata, TensorInfo
from puna.quantize.filetypes import FileType

_BLOCK = re.compile(r"blk\.([0-9]{1,9})\b", re.ASCII)


@dataclass(frozen=True, slots=True)
class Model:
    """What decides, besides names and shapes.

    Attributes:
        architecture: its name in the file.
        blocks: how many there are.
        experts: of each block; 0 for a dense model.
        queries_per_key: heads of queries that share a key, in the first block; 0 where it has no keys.
        is_llama_70b: whether it is built as Llama 2 70B, whose values take little room.
    """

    architecture: str
    blocks: int
    experts: int
    queries_per_key: int
    is_llama_70b: bool


def model_of(metadata: Metadata) -> Model:
    """The facts of a GGUF file. Raises: GGUFError when a key is missing or of a wrong type."""
    blocks = metadata.uint(metadata.full_key("block_count"))
    heads = _of_first_block(metadata, "attention.head_count", 0)
    keys = _of_first_block(metadata, "attention.head_count_kv", heads)
    return Model(
        architecture=metadata.architecture,
        blocks=blocks,
        experts=metadata.uint(metadata.full_key("expert_count"), 0),
        queries_per_key=heads // keys if keys else 0,
        is_llama_70b=_is_70b(metadata.architecture, blocks, grouped=heads != keys),
    )


def tensor_types(
    model: Model, tensors: Iterable[TensorInfo], wanted: FileType, *, weighted: bool = False
) -> dict[str, GGMLType]:
    """The type of each tensor, by its name, in the order of a quantized file.

    Args:
        tensors: all of the model's.
        weighted: whether there is an importance matrix.

    Raises:
        FormatError: the name of an expert's tensor has no block, or one that the model does not have.
    """
    ordered = in_order(tensors)
    mixture = _Mixture(model, wanted, weighted, _values_in(ordered), not _has_output(ordered))
    return {tensor.name: mixture.type_of(tensor) for tensor in ordered}


def in_order(tensors: Iterable[TensorInfo]) -> list[TensorInfo]:
    """The tensors block by block, by their names within one; what is outside of blocks first."""
    return sorted(tensors, key=lambda tensor: (_block(tensor.name), tensor.name))


def needs_importance(name: str, type_: GGMLType, wanted: FileType) -> bool:
    """Whether a tensor would be spoilt without an importance matrix."""
    outer = name == "output.weight" or name in _EMBEDDINGS
    return wanted.name == "Q2_K_S" and type_ == GGMLType.Q2_K and not outer


class _Kind(Enum):
    """What a matrix does."""

    OUTPUT = auto()
    EMBEDDING = auto()
    ATTENTION_QKV = auto()
    ATTENTION_KV = auto()
    ATTENTION_V = auto()
    ATTENTION_K = auto()
    ATTENTION_OUTPUT = auto()
    DOWN = auto()
    OTHER = auto()


_EMBEDDINGS: Final = ("token_embd.weight", "per_layer_token_embd.weight")
_PARTS: Final = (
    ("attn_qkv.weight", _Kind.ATTENTION_QKV),
    ("attn_kv_b.weight", _Kind.ATTENTION_KV),
    ("attn_v.weight", _Kind.ATTENTION_V),
    ("attn_k.weight", _Kind.ATTENTION_K),
    # Between these two come queries and two parts of the feed-forward network, which get nothing special.
    ("attn_q.weight", _Kind.OTHER),
    ("attn_output.weight", _Kind.ATTENTION_OUTPUT),
    ("ffn_up", _Kind.OTHER),
    ("ffn_gate", _Kind.OTHER),
    ("ffn_down", _Kind.DOWN),
)
_VALUES: Final = frozenset({_Kind.ATTENTION_V, _Kind.ATTENTION_QKV, _Kind.ATTENTION_KV})

_ENCODERS: Final = ("v.", "a.", "mm.")
_KEPT: Final = ("position_embd.weight", "token_types.weight")
# Norms, routers, convolutions, and what is small but has two axes.
_KEPT_PARTS: Final = (
    *("_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel"),
    *("per_layer_model_proj", "ssm_conv1d", "shortconv.conv.weight"),
    *("indexer.k_proj.weight", "indexer.q_proj.weight", "attn_rel_b.weight"),
    *(f"time_mix_{name}.weight" for name in ("first", "w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2")),
    *(f"time_mix_{name}.weight" for name in ("g1", "g2", "decay_w1", "decay_w2", "lerp_fused")),
    *(".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger"),
    *("a.rvq.codebook", "mm.a.code_embd"),
)
_FALLBACKS: Final = {
    GGMLType.IQ4_XS: GGMLType.IQ4_NL,
    GGMLType.Q2_K: GGMLType.Q4_0,
    GGMLType.Q3_K: GGMLType.Q4_0,
    GGMLType.Q4_K: GGMLType.Q5_0,
    GGMLType.Q5_K: GGMLType.Q5_1,
    GGMLType.Q6_K: GGMLType.Q8_0,
}


def _kind(name: str) -> _Kind:
    if name == "output.weight":
        return _Kind.OUTPUT
    if name in _EMBEDDINGS:
        return _Kind.EMBEDDING
    return next((kind for part, kind in _PARTS if part in name), _Kind.OTHER)


def _is_quantized(tensor: TensorInfo) -> bool:
    """Whether the tensor is a matrix of the language model that can be made smaller without much harm."""
    name = tensor.name
    return (
        any(length > 1 for length in tensor.shape[:-1])
        and name.endswith("weight")
        and not name.startswith(_ENCODERS)
        and name not in _KEPT
        and not any(part in name for part in _KEPT_PARTS)
    )


def _block(name: str) -> int:
    """The number of the block that a tensor belongs to; -1 outside of blocks."""
    match = _BLOCK.match(name)
    return int(match[1]) if match else -1


def _has_output(tensors: Sequence[TensorInfo]) -> bool:
    return any(tensor.name == "output.weight" for tensor in tensors)


def _values_in(tensors: Sequence[TensorInfo]) -> int:
    return sum(_kind(tensor.name) in _VALUES for tensor in tensors if not tensor.name.startswith(_ENCODERS))


def _of_first_block(metadata: Metadata, key: str, default: int) -> int:
    return metadata.per_layer(key, 1, [default])[0]


def _is_70b(architecture: str, blocks: int, *, grouped: bool) -> bool:
    """Whether llama.cpp takes the model for one of 70 billion weights."""
    match architecture:
        case "llama":
            return blocks == 80 and grouped
        case "qwen2" | "deci" | "olmo":
            return blocks == 80
        case "jais2":
            return blocks == 68
        case _:
            return False


def _more_bits(block: int, blocks: int) -> bool:
    """Whether a block is among the first and last eighth, or is every third of the others."""
    return block < blocks // 8 or block >= 7 * blocks // 8 or (block - blocks // 8) % 3 == 2


@dataclass(slots=True)
class _Mixture:
    """Goes over the tensors in order and counts those of which the first are special.

    Attributes:
        weighted: whether there is an importance matrix.
        values: how many matrices make values.
        tied: whether the embeddings are the output's matrix too.
    """

    model: Model
    wanted: FileType
    weighted: bool
    values: int
    tied: bool
    values_seen: int = field(default=0, init=False)
    downs_seen: int = field(default=0, init=False)

    def type_of(self, tensor: TensorInfo) -> GGMLType:
        if not _is_quantized(tensor):
            return tensor.type
        if not self.wanted.type.is_quantized:
            return self.wanted.type
        return _that_fits(self._mixed(tensor), tensor.shape[-1])

    def _mixed(self, tensor: TensorInfo) -> GGMLType:
        kind = _kind(tensor.name)
        if kind is _Kind.OUTPUT or (self.tied and kind is _Kind.EMBEDDING):
            return self._output(tensor.shape[-1])
        if kind in _VALUES:
            type_ = self._value(self.values_seen)
            self.values_seen += 1
            return type_
        if kind is _Kind.DOWN:
            type_ = self._down(self._place(tensor.name))
            self.downs_seen += 1
            return type_
        if kind is _Kind.ATTENTION_K and self.model.experts == 8:
            return GGMLType.Q8_0
        if kind is _Kind.ATTENTION_OUTPUT:
            return self._attention_output()
        return self.wanted.type

    def _output(self, row: int) -> GGMLType:
        narrow = row % self.wanted.type.block_size != 0
        if self._is_falcon or narrow or self.wanted.type is GGMLType.Q8_0:
            return GGMLType.Q8_0
        return GGMLType.Q6_K

    def _value(self, number: int) -> GGMLType:
        """For the `number`-th matrix that makes values."""
        if self.model.experts == 8:
            return GGMLType.Q8_0
        type_ = self._plain_value(number)
        few = type_ in (GGMLType.Q3_K, GGMLType.Q4_K)
        return GGMLType.Q5_K if self.model.is_llama_70b and few else type_

    def _plain_value(self, number: int) -> GGMLType:
        shared = self.model.queries_per_key >= 4
        match self.wanted.name:
            case "Q2_K":
                return GGMLType.Q4_K if shared else GGMLType.Q3_K
            case "Q2_K_S" if shared:
                return GGMLType.Q4_K
            case "Q3_K_M":
                return GGMLType.Q5_K if number < 2 else GGMLType.Q4_K
            case "Q3_K_L":
                return GGMLType.Q5_K
            case "IQ4_NL" | "IQ4_XS" if shared:
                return GGMLType.Q5_K
            case "Q4_K_M" | "Q5_K_M" if _more_bits(number, self.values):
                return GGMLType.Q6_K
            case "Q4_K_S" if number < 4:
                return GGMLType.Q5_K
        return self.wanted.type

    def _down(self, block: int) -> GGMLType:
        blocks = self.model.blocks
        first, more = block < blocks // 8, _more_bits(block, blocks)
        if self._is_falcon:
            return self._falcon_down(block)
        match self.wanted.name:
            case "Q2_K":
                return GGMLType.Q3_K
            case "Q2_K_S" if first:
                return GGMLType.Q4_K
            case "Q3_K_M":
                return GGMLType.Q5_K if block < blocks // 16 else GGMLType.Q4_K
            case "Q3_K_L":
                return GGMLType.Q5_K
            case "Q4_K_M" | "Q5_K_M" if more:
                return GGMLType.Q6_K
            case "Q4_K_S" if first:
                return GGMLType.Q5_K
        return self._first_down() if first else self.wanted.type

    def _falcon_down(self, block: int) -> GGMLType:
        blocks = self.model.blocks
        first, more = block < blocks // 8, _more_bits(block, blocks)
        match self.wanted.name:
            case "Q2_K":
                return GGMLType.Q3_K
            case "Q2_K_S" if first:
                return GGMLType.Q4_K
            case "Q3_K_M":
                if block < blocks // 16:
                    return GGMLType.Q5_K
                return GGMLType.Q4_K if more else GGMLType.Q3_K
            case "Q3_K_L":
                return GGMLType.Q4_K
            case "Q4_K_M":
                if block < blocks // 16:
                    return GGMLType.Q6_K
                return GGMLType.Q5_K if more else GGMLType.Q4_K
            case "Q5_K_M" if more:
                return GGMLType.Q6_K
        return self._first_down() if first else self.wanted.type

    def _first_down(self) -> GGMLType:
        """For one of the first blocks, by whether there is an importance matrix."""
        match self.wanted.name, self.weighted:
            case (("IQ4_NL" | "IQ4_XS"), False):
                return GGMLType.Q5_K
            case "Q4_0", True:
                return GGMLType.Q4_1
            case "Q5_0", True:
                return GGMLType.Q5_1
        return self.wanted.type

    def _attention_output(self) -> GGMLType:
        few = ("Q2_K", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ4_XS")
        if self._is_falcon:
            return GGMLType.Q4_K if self.wanted.name == "Q3_K_L" else self.wanted.type
        if self.model.experts == 8:
            return GGMLType.Q5_K if self.wanted.name in few else self.wanted.type
        match self.wanted.name:
            case "Q2_K":
                return GGMLType.Q3_K
            case "Q3_K_M":
                return GGMLType.Q4_K
            case "Q3_K_L":
                return GGMLType.Q5_K
        return self.wanted.type

    def _place(self, name: str) -> int:
        """The block of a matrix, told from its name where experts come several to a block."""
        if self.model.experts <= 1:
            return self.downs_seen
        block = _block(name)
        if not 0 <= block < self.model.blocks:
            raise FormatError(f"tensor {name!r} belongs to none of the model's {self.model.blocks} blocks")
        return block

    @property
    def _is_falcon(self) -> bool:
        return self.model.architecture == "falcon"


def _that_fits(type_: GGMLType, row: int) -> GGMLType:
    """The type, or one with smaller blocks, where a row is not whole blocks of it."""
    if row % type_.block_size:
        type_ = _FALLBACKS.get(type_, type_)
    return GGMLType.F16 if row % type_.block_size else type_
