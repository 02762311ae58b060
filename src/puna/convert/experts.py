"""Mixtures of experts: each projection of all experts as one tensor, whichever way the files have them.

Files have a tensor for each expert and projection, or one for all experts, gate and up then in one.
"""

import re
from collections.abc import Mapping

from puna.convert.content import Content, Source
from puna.convert.folder import shown
from puna.convert.sources import sections, stacked, transposed
from puna.errors import WeightError

_EXPERT = re.compile(
    r"(layers\.[0-9]{1,4}\.)(?:mlp|block_sparse_moe|feed_forward)\.experts\.(0|[1-9][0-9]{0,4})\."
    r"(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight",
    re.ASCII,
)
_TOGETHER = re.compile(
    r"(layers\.[0-9]{1,4}\.)(?:mlp|block_sparse_moe|feed_forward)\.experts\.(gate_up_proj|down_proj)(?:\.weight)?",
    re.ASCII,
)
_ROUTER = re.compile(r"(layers\.[0-9]{1,4}\.)(?:block_sparse_moe|feed_forward)\.gate\.weight", re.ASCII)
# Mixtral's and LFM2's names of the projections.
_PROJECTIONS = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


def with_experts(tensors: Mapping[str, Source]) -> dict[str, Content]:
    """The tensors, those of experts as `layers.N.mlp.experts.gate_proj.weight` and so on.

    Raises:
        WeightError: experts are missing, or differ in shape or type.
    """
    found: dict[str, Content] = {}
    single: dict[str, dict[int, Source]] = {}
    for name, source in tensors.items():
        if match := _EXPERT.fullmatch(name):
            kind = _PROJECTIONS.get(match[3], match[3])
            single.setdefault(f"{match[1]}mlp.experts.{kind}.weight", {})[int(match[2])] = source
        elif match := _TOGETHER.fullmatch(name):
            found |= _together(f"{match[1]}mlp.experts.", match[2], source)
        elif match := _ROUTER.fullmatch(name):
            found[f"{match[1]}mlp.gate.weight"] = source
        else:
            found[name] = source
    return found | {name: _stacked(name, experts) for name, experts in single.items()}


def with_turned_experts(tensors: Mapping[str, Source]) -> dict[str, Content]:
    """The same, also of files in which rows are inputs and columns outputs. Raises: as `with_experts`."""
    turned: dict[str, Content] = {}
    rest = dict(tensors)
    for name, both in tensors.items():
        stem = name.removesuffix("gate_up_proj")
        down = tensors.get(f"{stem}down_proj")
        if stem == name or down is None or not len(both.shape) == len(down.shape) == 3:
            continue
        # Both are as wide as the state; otherwise one is twice as wide as the other.
        if both.shape[1] == down.shape[2]:
            columns, width = both.shape[2], both.shape[2] // 2
            for kind, source, own in (
                ("gate", both, range(width)),
                ("up", both, range(width, columns)),
                ("down", down, range(down.shape[2])),
            ):
                turned[f"{stem}{kind}_proj.weight"] = transposed(f"{stem}{kind}_proj.weight", source, own)
            del rest[name], rest[f"{stem}down_proj"]
    return with_experts(rest) | turned


def _together(stem: str, kind: str, source: Source) -> dict[str, Content]:
    if kind == "down_proj":
        return {f"{stem}down_proj.weight": source}
    if len(source.shape) != 3 or source.shape[1] % 2:
        raise WeightError(f"the weights do not fit: {source.name[:100]!r} has the shape {source.shape}")
    rows = source.shape[1] // 2
    return {
        **sections(source, source.shape[0], {f"{stem}{half}_proj.weight": rows for half in ("gate", "up")})
    }


def _stacked(name: str, experts: Mapping[int, Source]) -> Content:
    ordered = [experts[number] for number in sorted(experts)]
    if max(experts) + 1 != len(experts):
        raise WeightError(
            f"the weights are not complete: {name} has {len(experts)} experts of {max(experts) + 1}"
        )
    if len({(expert.shape, expert.dtype) for expert in ordered}) > 1:
        raise WeightError(
            f"the weights do not fit: the experts of {shown(name)} have several shapes or types"
        )
    return stacked(name, ordered)
