"""gpt-oss: a mixture of experts with biases, whose matrices are in blocks of four-bit numbers (MXFP4).

Sources: OpenAI, arXiv:2508.10925, for the model; "OCP Microscaling Formats (MX)", version 1.0, for the
numbers; `block_mxfp4` of ggml-common.h for how ggml arranges a block.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from puna.convert.content import Content, Source
from puna.convert.decoder import Defaults, Family, Sizes, Weight
from puna.convert.folder import Fields
from puna.convert.layers import attention, norms
from puna.convert.safetensors import SIZES
from puna.convert.sources import CODES, Made, transposed
from puna.convert.windows import local_layers
from puna.errors import UnsupportedModel, WeightError

_BLOCK, _PACKED = 32, 16
_PIECE = 1 << 20
_EXPERTS = re.compile(
    r"(layers\.[0-9]{1,4}\.mlp\.experts\.)(gate_up|down)_proj(_bias|_blocks|_scales)?", re.ASCII
)
# In the tensor of both, rows of one and the other take turns.
_HALVES = {"gate_up": ("gate", "up"), "down": ("down",)}

_LOW = bytes(byte & 15 for byte in range(256))
_HIGH = bytes(byte >> 4 for byte in range(256))
_LOW_RAISED = bytes((byte & 15) << 4 for byte in range(256))
_HIGH_KEPT = bytes(byte & 240 for byte in range(256))


@dataclass(frozen=True, slots=True)
class Strided(Made):
    """Every `step`-th number of a tensor, from number `first` on; the tensor is small."""

    source: Source
    first: int
    step: int

    def chunks(self) -> Iterator[bytes]:
        numbers = memoryview(b"".join(self.source.chunks())).cast(CODES[SIZES[self.dtype]])
        yield numbers[self.first :: self.step].tobytes()


@dataclass(frozen=True, slots=True)
class Blocks(Made):
    """Rows of blocks as ggml has them: every `step`-th, from number `first` on.

    Attributes:
        blocks: (experts, rows, blocks of a row, 16): two numbers in a byte, neighbours.
        scales: (experts, rows, blocks of a row): an exponent of two for each block.
    """

    blocks: Source
    scales: Source
    first: int
    step: int

    @property
    def nbytes(self) -> int:
        experts, rows, columns = self.shape
        return experts * rows * columns // _BLOCK * (_PACKED + 1)

    def chunks(self) -> Iterator[bytes]:
        experts, rows, across, _ = self.blocks.shape
        at_once = max(1, _PIECE // (across * _PACKED) // self.step) * self.step
        for expert in range(experts):
            for begin in range(0, rows, at_once):
                first, last = expert * rows + begin, expert * rows + min(begin + at_once, rows)
                codes = b"".join(self.blocks.rows(first * across, last * across))
                exponents = b"".join(self.scales.rows(first, last))
                yield _arranged(self._chosen(codes, across * _PACKED), self._chosen(exponents, across))

    def _chosen(self, data: bytes, width: int) -> bytes:
        starts = range(self.first * width, len(data), self.step * width)
        return b"".join(data[at : at + width] for at in starts)


def _arranged(codes: bytes, exponents: bytes) -> bytes:
    """Blocks in ggml's order: the exponent, then in byte j numbers j and j + 16.

    In `codes`, byte j of a block has numbers 2j and 2j + 1, the first in its lower half.
    """
    made = bytearray(len(codes) + len(exponents))
    made[:: _PACKED + 1] = exponents
    for place in range(_PACKED):
        near, far = codes[place // 2 :: _PACKED], codes[8 + place // 2 :: _PACKED]
        lower = near.translate(_HIGH if place % 2 else _LOW)
        upper = far.translate(_HIGH_KEPT if place % 2 else _LOW_RAISED)
        both = int.from_bytes(lower, "little") | int.from_bytes(upper, "little")
        made[place + 1 :: _PACKED + 1] = both.to_bytes(len(lower), "little")
    return bytes(made)


def _prepared(tensors: Mapping[str, Source], config: Fields, sizes: Sizes) -> dict[str, Content]:
    """Experts' matrices and biases by the names that other models have for them. Raises: WeightError."""
    found: dict[str, Content] = {}
    for name, source in tensors.items():
        match = _EXPERTS.fullmatch(name)
        if match is None:
            found[name] = source
        elif match[3] != "_scales":
            found |= _parts(match, source, tensors)
    return found


def _parts(match: "re.Match[str]", source: Source, tensors: Mapping[str, Source]) -> dict[str, Content]:
    kinds = _HALVES[match[2]]
    ending = "bias" if match[3] == "_bias" else "weight"
    return {
        f"{match[1]}{kind}_proj.{ending}": _part(match, source, tensors, first, len(kinds))
        for first, kind in enumerate(kinds)
    }


def _part(
    match: "re.Match[str]", source: Source, tensors: Mapping[str, Source], first: int, step: int
) -> Content:
    shape, file = source.shape, source.file
    axis = {"_bias": 1, "_blocks": 1}.get(match[3] or "", 2)
    dimensions = {"_bias": 2, "_blocks": 4}.get(match[3] or "", 3)
    if len(shape) != dimensions or shape[axis] % step or (source.dtype == "U8") != (dimensions == 4):
        raise WeightError(f"the weights do not fit: {source.name[:100]!r} is {source.dtype} {shape}")
    if dimensions == 2:
        return Strided(source.name, source.dtype, (shape[0], shape[1] // step), file, source, first, step)
    if dimensions == 3:
        return transposed(source.name, source, range(first, shape[2], step))
    scales = tensors.get(f"{match[1]}{match[2]}_proj_scales")
    if shape[3] != _PACKED or scales is None or scales.shape != shape[:3] or scales.dtype != "U8":
        raise WeightError(
            f"the weights do not fit: {source.name[:100]!r} {shape} has no scales of that shape"
        )
    arranged = (shape[0], shape[1] // step, shape[2] * _BLOCK)
    return Blocks(source.name, "MXFP4", arranged, file, source, scales, first, step)


def _keys(config: Fields, sizes: Sizes) -> dict[str, Any]:
    return {
        "attention.sliding_window": config.count("sliding_window", default=128),
        "expert_feed_forward_length": sizes.expert_width,
    }


def _check(config: Fields, sizes: Sizes) -> None:
    """No key says which layers have the window."""
    if local_layers(config, sizes.layers, 2) != local_layers(Fields({}), sizes.layers, 2):
        raise UnsupportedModel("config.json: windows in other than every second layer are not supported")


GPT_OSS = Family(
    "gpt-oss",
    {
        **norms({"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm"}),
        **attention(),
        "self_attn.sinks": Weight("attn_sinks.weight", ("heads",)),
        "mlp.router.weight": Weight("ffn_gate_inp.weight", ("experts", "hidden"), matrix=False),
        "mlp.router.bias": Weight("ffn_gate_inp.bias", ("experts",)),
        "mlp.experts.gate_proj.weight": Weight("ffn_gate_exps.weight", ("experts", "expert_width", "hidden")),
        "mlp.experts.up_proj.weight": Weight("ffn_up_exps.weight", ("experts", "expert_width", "hidden")),
        "mlp.experts.down_proj.weight": Weight("ffn_down_exps.weight", ("experts", "hidden", "expert_width")),
        "mlp.experts.gate_proj.bias": Weight("ffn_gate_exps.bias", ("experts", "expert_width")),
        "mlp.experts.up_proj.bias": Weight("ffn_up_exps.bias", ("experts", "expert_width")),
        "mlp.experts.down_proj.bias": Weight("ffn_down_exps.bias", ("experts", "hidden")),
    },
    keys=_keys,
    check=_check,
    defaults=Defaults(theta=150000.0, eps=1e-5),
    prepare=_prepared,
)
