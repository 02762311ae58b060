"""LoRA adapters as PEFT saves them, as GGUF files for a model that is a GGUF file already.

Hu et al., arXiv:2106.09685: to the product with a matrix of a model, alpha / r times that with two thin
matrices, B · A, is added. Names and shapes are those of llama.cpp's convert_lora_to_gguf.py.
"""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from puna.convert.content import Content, Source
from puna.convert.decoder import Layer, Sizes, Weight, plainly_named
from puna.convert.elements import converted, element_type
from puna.convert.experts import with_experts
from puna.convert.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Fields, ModelFolder, read_all, shown
from puna.convert.gemma import GEMMA2, GEMMA3
from puna.convert.llama import GRANITE, LLAMA, MIXTRAL
from puna.convert.olmo import OLMO2
from puna.convert.qwen import QWEN2, QWEN2MOE, QWEN3, QWEN3MOE
from puna.convert.sources import paired
from puna.errors import FormatError, UnsupportedModel, WeightError
from puna.gguf import GGMLType, GGUFWriter, Metadata
from puna.progress import Progress, Report

ADAPTER_STATUS = "converting adapter"

_PREFIX = "base_model.model."
_HALF = re.compile(r"(.+)\.lora_([AB])\.weight", re.ASCII)
_LAYER = re.compile(r"layers\.(0|[1-9][0-9]{0,3})\.(.+)", re.ASCII)
# Refused unless they are as here: nothing in the file would say them.
_USUAL = {"use_dora": False, "fan_in_fan_out": False, "bias": "none", "alpha_pattern": {}}
_LARGEST_RANK = 1 << 14

_LAYERS: dict[str, Layer] = {
    "llama": {**LLAMA.layer, **MIXTRAL.layer},
    **{
        family.architecture: family.layer
        for family in (GRANITE, QWEN2, QWEN2MOE, QWEN3, QWEN3MOE, GEMMA2, GEMMA3, OLMO2)
    },
    "olmo3": OLMO2.layer,
}


def convert_adapter(files: Mapping[str, Path], base: Metadata, target: Path, report: Report) -> None:
    """Write an adapter as the GGUF file `target`.

    Args:
        files: where the configuration and the weights are, by their names in the folder.
        base: of the model that it is for.

    Raises:
        FormatError: a file is missing or damaged, or makes no sense.
        UnsupportedModel: another kind of adapter, or one for a model of another architecture.
        WeightError: the weights are not for that model.
        GGUFError: the file cannot be written, or the metadata makes no sense.
    """
    config = Fields(ModelFolder(files).document(ADAPTER_CONFIG), ADAPTER_CONFIG)
    _check(config)
    if ADAPTER_WEIGHTS not in files:
        raise FormatError(f"there is no {ADAPTER_WEIGHTS} beside {ADAPTER_CONFIG}")
    layer = _LAYERS.get(base.architecture)
    if layer is None:
        known = ", ".join(sorted(_LAYERS))
        raise UnsupportedModel(
            f"adapters for models of architecture {base.architecture[:60]!r} are not converted; "
            f"known are {known}"
        )
    tensors = list(_tensors(read_all([(ADAPTER_WEIGHTS, files[ADAPTER_WEIGHTS])]), layer, _sizes(base)))
    alpha = _alpha(config, {content.shape[-2] for name, content in tensors if name.endswith("_a")})
    report(Progress(ADAPTER_STATUS))
    with GGUFWriter(target) as writer:
        writer.add("general.architecture", base.architecture)
        writer.add("general.type", "adapter")
        writer.add("general.quantization_version", 2)
        writer.add("adapter.type", "lora")
        writer.add("adapter.lora.alpha", alpha)
        for name, content in tensors:
            element_type(content, None)
            writer.add_tensor(name, GGMLType.F32, content.shape, converted(content, GGMLType.F32))


def _check(config: Fields) -> None:
    if not config.values:
        raise FormatError(f"there is no {ADAPTER_CONFIG} beside the weights, or nothing in it")
    kind = config.text("peft_type", default="LORA")
    if kind != "LORA":
        raise UnsupportedModel(
            f"{ADAPTER_CONFIG}: an adapter of type {kind[:60]!r} is not supported, only LORA"
        )
    for name, usual in _USUAL.items():
        if config.values.get(name) not in (None, usual):
            raise UnsupportedModel(f"{ADAPTER_CONFIG}: {name} {shown(config.values[name])} is not supported")


def _alpha(config: Fields, ranks: set[int]) -> float:
    """What readers divide by the rank, made larger where its root is meant (arXiv:2312.03732)."""
    alpha = config.number("lora_alpha")
    if not config.flag("use_rslora", default=False):
        return alpha
    if len(ranks) > 1:
        raise UnsupportedModel(f"{ADAPTER_CONFIG}: use_rslora with several ranks is not supported")
    return alpha * math.sqrt(ranks.pop())


def _sizes(base: Metadata) -> Sizes:
    hidden, heads = base.uint("embedding_length"), max(1, base.uint("attention.head_count"))
    wide = base.uint("feed_forward_length")
    return Sizes(
        vocabulary=0,
        context=0,
        hidden=hidden,
        feed_forward=wide,
        layers=base.uint("block_count"),
        heads=heads,
        kv_heads=max(1, base.uint("attention.head_count_kv", heads)),
        head=base.uint("attention.key_length", hidden // heads),
        eps=0.0,
        experts=base.uint("expert_count", 0),
        expert_width=base.uint("expert_feed_forward_length", wide),
        shared_width=base.uint("expert_shared_feed_forward_length", wide),
    )


def _tensors(stored: Mapping[str, Source], layer: Layer, sizes: Sizes) -> Iterator[tuple[str, Content]]:
    """The file's tensors, by their names in it."""
    halves = _halves(stored)
    lower, upper = with_experts(halves["A"]), with_experts(halves["B"])
    if lower.keys() != upper.keys():
        odd = min(lower.keys() ^ upper.keys())
        raise WeightError(f"{ADAPTER_WEIGHTS}: {odd[:100]!r} has one of its two matrices only")
    for name, first in lower.items():
        weight, gguf_name = _weight(name, layer, sizes)
        second = upper[name]
        _check_shapes(name, first.shape, second.shape, [*sizes.shape(weight.axes)])
        yield f"{gguf_name}.lora_a", first
        yield (
            f"{gguf_name}.lora_b",
            paired(halves["B"][name], sizes.axes[weight.pairs]) if weight.pairs else second,
        )


def _halves(stored: Mapping[str, Source]) -> dict[str, dict[str, Source]]:
    """The matrices A and B, by the names of the weights that they belong to."""
    found: dict[str, dict[str, Source]] = {"A": {}, "B": {}}
    for name, tensor in stored.items():
        match = _HALF.fullmatch(name)
        if match is None:
            raise UnsupportedModel(
                f"{ADAPTER_WEIGHTS}: {name[:100]!r} is no matrix of a low-rank pair; "
                "adapters with anything else are not supported"
            )
        found[match[2]][match[1].removeprefix(_PREFIX) + ".weight"] = tensor
    if not found["A"]:
        raise FormatError(f"{ADAPTER_WEIGHTS} has no tensors")
    return {half: plainly_named(tensors) for half, tensors in found.items()}


def _weight(name: str, layer: Layer, sizes: Sizes) -> tuple[Weight, str]:
    match = _LAYER.fullmatch(name)
    if match and int(match[1]) < sizes.layers and match[2] in layer and len(layer[match[2]].axes) > 1:
        return layer[match[2]], f"blk.{match[1]}.{layer[match[2]].name}"
    raise WeightError(f"{ADAPTER_WEIGHTS}: the model has no matrix {name[:100]!r} to adapt")


def _check_shapes(name: str, first: tuple[int, ...], second: tuple[int, ...], wanted: list[int]) -> None:
    """A is (…, rank, columns) and B (…, rows, rank) for a weight (…, rows, columns)."""
    fits = len(first) == len(second) == len(wanted) and first[-2] == second[-1]
    if not fits or [*second[:-1], first[-1]] != wanted or [*first[:-2]] != wanted[:-2]:
        shapes = f"{first} and {second} for {tuple(wanted)}"
        raise WeightError(f"{ADAPTER_WEIGHTS}: {name[:100]!r} does not fit the model: {shapes}")
    if not 0 < first[-2] <= _LARGEST_RANK:
        raise FormatError(f"{ADAPTER_WEIGHTS}: {name[:100]!r} has the rank {first[-2]}")
