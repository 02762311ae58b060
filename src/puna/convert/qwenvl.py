"""Qwen 2.5-VL and 3-VL: text as Qwen 2's and 3's, and image encoders, in one file with Ollama's names."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from puna.convert.content import Content, Source
from puna.convert.decoder import Family, Sizes, plain_tensors, plan_decoder, text_config
from puna.convert.experts import with_turned_experts
from puna.convert.folder import Fields, ModelFolder, shown
from puna.convert.plan import MAX_LAYERS, Plan, Target, matched
from puna.convert.qwen import QWEN2, QWEN3, QWEN3MOE
from puna.convert.rotary import rotary_keys, sections
from puna.convert.sources import cut, reshaped, slices
from puna.errors import UnsupportedModel, WeightError

_SCOPE = "visual."
_FRAMES = 2
_EPS = 1e-6


def _three_sections(config: Fields, sizes: Sizes) -> Mapping[str, Any]:
    return {"rope.mrope_section": sections(config)}


def _four_sections(config: Fields, sizes: Sizes) -> Mapping[str, Any]:
    return {"rope.dimension_sections": [*sections(config), 0][:4]}


def _mixed_sections(config: Fields, sizes: Sizes) -> Mapping[str, Any]:
    return {**QWEN3MOE.keys(config, sizes), **_four_sections(config, sizes)}


_ROTARY = partial(rotary_keys, multi=True)

QWEN25VL = replace(
    QWEN2,
    architecture="qwen25vl",
    keys=_three_sections,
    dropped=(_SCOPE,),
    rotary=_ROTARY,
)
QWEN3VL = replace(
    QWEN3,
    architecture="qwen3vl",
    keys=_four_sections,
    dropped=(_SCOPE,),
    rotary=_ROTARY,
)
QWEN3VLMOE = replace(
    QWEN3MOE,
    architecture="qwen3vlmoe",
    keys=_mixed_sections,
    dropped=(_SCOPE,),
    prepare=lambda tensors, config, sizes: with_turned_experts(tensors),
    rotary=_ROTARY,
)


def plan_qwen25vl(folder: ModelFolder) -> Plan:
    """How such a model is converted. Raises: as `plan_decoder`."""
    vision = Fields(Fields(folder.config()).mapping("vision_config"), "config.json, vision_config")
    _check(vision, "silu")
    hidden, wide = vision.count("hidden_size"), vision.count("intermediate_size")
    merged = hidden * vision.count("spatial_merge_size", default=2) ** 2
    side = vision.count("patch_size", default=14)
    frames = Target("", (hidden, 3, side, side))
    targets = {
        "patch_embed.proj.0.weight": replace(frames, name="v.patch_embd_0.weight"),
        "patch_embed.proj.1.weight": replace(frames, name="v.patch_embd_1.weight"),
        "merger.ln_q.weight": Target("v.merger.ln_q.weight", (hidden,)),
        **_linear("merger.mlp.0", "v.merger.mlp.0", merged, merged),
        **_linear("merger.mlp.2", "v.merger.mlp.2", merged, text_config(folder).count("hidden_size")),
    }
    for index in range(_layers(vision)):
        theirs, ours = f"blocks.{index}.", f"v.blk.{index}."
        targets |= {
            f"{theirs}norm1.weight": Target(f"{ours}ln1.weight", (hidden,)),
            f"{theirs}norm2.weight": Target(f"{ours}ln2.weight", (hidden,)),
            **_attention(theirs, ours, hidden),
            **_linear(f"{theirs}mlp.gate_proj", f"{ours}ffn_gate", hidden, wide),
            **_linear(f"{theirs}mlp.up_proj", f"{ours}ffn_up", hidden, wide),
            **_linear(f"{theirs}mlp.down_proj", f"{ours}ffn_down", wide, hidden),
        }
    keys = {
        **_keys(vision, folder),
        "vision.feed_forward_length": wide,
        "vision.window_size": vision.count("window_size", default=112),
        "vision.fullatt_block_indexes": _indexes(vision, "fullatt_block_indexes", [7, 15, 23, 31]),
    }
    return _seeing(QWEN25VL, folder, keys, targets)


def plan_qwen3vl(family: Family, folder: ModelFolder) -> Plan:
    """How such a model is converted, with a mixture of experts or without. Raises: as `plan_decoder`."""
    vision = Fields(Fields(folder.config()).mapping("vision_config"), "config.json, vision_config")
    _check(vision, "gelu_pytorch_tanh")
    hidden, wide = vision.count("hidden_size"), vision.count("intermediate_size")
    merged, side = hidden * vision.count("spatial_merge_size", default=2) ** 2, vision.count("patch_size")
    text, rows = text_config(folder).count("hidden_size"), vision.count("num_position_embeddings")
    deep = _indexes(vision, "deepstack_visual_indexes", [])
    targets = {
        "patch_embed.proj.weight": Target("v.patch_embed.weight", (3 * hidden, _FRAMES, side, side)),
        "patch_embed.proj.bias": Target("v.patch_embed.bias", (hidden,)),
        "pos_embed.weight": Target("v.pos_embed.weight", (rows, hidden)),
        **_merger("merger", "v.merger", hidden, merged, text),
    }
    for index in range(len(deep)):
        theirs = f"deepstack_merger_list.{index}"
        targets |= _merger(theirs, f"v.deepstack_merger.{index}", merged, merged, text)
    for index in range(_layers(vision)):
        theirs, ours = f"blocks.{index}.", f"v.blk.{index}."
        targets |= {
            **_norm(f"{theirs}norm1", f"{ours}norm1", hidden),
            **_norm(f"{theirs}norm2", f"{ours}norm2", hidden),
            **_attention(theirs, ours, hidden),
            **_linear(f"{theirs}mlp.linear_fc1", f"{ours}mlp.linear_fc1", hidden, wide),
            **_linear(f"{theirs}mlp.linear_fc2", f"{ours}mlp.linear_fc2", wide, hidden),
        }
    keys = {
        **_keys(vision, folder),
        "vision.feed_forward_length": wide,
        "vision.num_positional_embeddings": rows,
        # Of an empty list its elements' type cannot be told.
        **({"vision.deepstack_visual_indexes": deep} if deep else {}),
        "n_deepstack_layers": len(deep),
    }
    return _seeing(family, folder, keys, targets, film=True)


def _merger(theirs: str, ours: str, normed: int, merged: int, text: int) -> dict[str, Target]:
    return {
        **_norm(f"{theirs}.norm", f"{ours}.norm", normed),
        **_linear(f"{theirs}.linear_fc1", f"{ours}.linear_fc1", merged, merged),
        **_linear(f"{theirs}.linear_fc2", f"{ours}.linear_fc2", merged, text),
    }


def _norm(theirs: str, ours: str, width: int) -> dict[str, Target]:
    return {f"{theirs}.{part}": Target(f"{ours}.{part}", (width,)) for part in ("weight", "bias")}


def _indexes(vision: Fields, key: str, usual: list[int]) -> list[int]:
    found = vision.values.get(key, usual)
    if not isinstance(found, list) or not all(
        type(index) is int and 0 <= index < MAX_LAYERS for index in found
    ):
        raise UnsupportedModel(f"{vision.source}: {key} cannot be {shown(found)}")
    return found


def _seeing(
    family: Family,
    folder: ModelFolder,
    keys: Mapping[str, Any],
    targets: Mapping[str, Target],
    *,
    film: bool = False,
) -> Plan:
    """The plan of a family's text with that of its image encoder.

    Args:
        keys: without the architecture before them.
        targets: by the names of tensors behind `visual.`, those of several parts cut up.
        film: the kernels for two pictures of a film stay together.
    """
    text = plan_decoder(family, folder)
    stored: dict[str, Content] = {}
    for name, source in plain_tensors(folder).items():
        if name.startswith(_SCOPE):
            stored |= _parted(name.removeprefix(_SCOPE), source, film=film)
    own = {f"{family.architecture}.{key}": value for key, value in keys.items()}
    tensors = [*text.tensors, *matched(stored, targets)]
    return replace(text, keys={**text.keys, **own}, tensors=tensors, left_out=0)


def _parted(name: str, source: Source, *, film: bool) -> Mapping[str, Content]:
    """A tensor by its name; one of several parts as these."""
    stem, _, ending = name.rpartition(".")
    if stem.endswith("attn.qkv"):
        if not source.shape or source.shape[0] % 3:
            raise WeightError(f"the weights do not fit: {source.name[:100]!r} has the shape {source.shape}")
        return {f"{stem[:-3]}{part.name}.{ending}": part for part in cut(source, ("q", "k", "v"))}
    if name == "patch_embed.proj.weight":
        if len(source.shape) != 5 or source.shape[2] != _FRAMES:
            raise WeightError(f"the weights do not fit: {source.name[:100]!r} has the shape {source.shape}")
        if film:
            outputs, colours, *rest = source.shape
            return {name: reshaped(source, (outputs * colours, *rest))}
        return {f"{stem}.{part.name}.{ending}": part for part in slices(source, 2, ("0", "1"))}
    return {name: source}


def _attention(theirs: str, ours: str, hidden: int) -> dict[str, Target]:
    made = _linear(f"{theirs}attn.proj", f"{ours}attn_out", hidden, hidden)
    for part in "qkv":
        made |= _linear(f"{theirs}attn.{part}", f"{ours}attn_{part}", hidden, hidden)
    return made


def _linear(theirs: str, ours: str, inputs: int, outputs: int) -> dict[str, Target]:
    return {
        f"{theirs}.weight": Target(f"{ours}.weight", (outputs, inputs), matrix=True),
        f"{theirs}.bias": Target(f"{ours}.bias", (outputs,)),
    }


def _layers(vision: Fields) -> int:
    layers = vision.count("depth")
    if layers > MAX_LAYERS:
        raise UnsupportedModel(f"{vision.source}: {layers} layers are more than any model has")
    return layers


def _check(vision: Fields, activation: str) -> None:
    """Raises UnsupportedModel for a variant that is not implemented."""
    frames, channels = (
        vision.count("temporal_patch_size", default=_FRAMES),
        vision.count("in_channels", "in_chans", default=3),
    )
    stated = vision.text("hidden_act", default=activation)
    if (frames, channels, stated) != (_FRAMES, 3, activation):
        raise UnsupportedModel(
            f"{vision.source}: {frames} frames of {channels} colours with {shown(stated)} are not supported, "
            f"only {_FRAMES} of 3 with {activation}"
        )


def _keys(vision: Fields, folder: ModelFolder) -> dict[str, Any]:
    """What is said of every such encoder, and of the pictures that it was made for."""
    rope = Fields(vision.mapping("rope_parameters"), vision.source)
    found: dict[str, Any] = {
        "vision.block_count": vision.count("depth"),
        "vision.embedding_length": vision.count("hidden_size"),
        "vision.attention.head_count": vision.count("num_heads", default=16),
        "vision.attention.layer_norm_epsilon": _EPS,
        "vision.num_channels": 3,
        "vision.patch_size": vision.count("patch_size", default=14),
        "vision.temporal_patch_size": _FRAMES,
        "vision.spatial_merge_size": vision.count("spatial_merge_size", default=2),
        "vision.rope.freq_base": rope.number("rope_theta", default=10000.0),
    }
    processor = Fields(folder.document("preprocessor_config.json"), "preprocessor_config.json")
    size = Fields(processor.mapping("size"), processor.source)
    for key, old in {"shortest_edge": "min_pixels", "longest_edge": "max_pixels"}.items():
        pixels = size.count(key, default=processor.count(old, default=0, least=0), least=0)
        if pixels:
            found[f"vision.{key}"] = pixels
    for key in ("image_mean", "image_std"):
        if key in processor.values:
            found[f"vision.{key}"] = _colour(processor, key)
    return found


def _colour(processor: Fields, key: str) -> list[float]:
    values = processor.values[key]
    if (
        not isinstance(values, list)
        or len(values) != 3
        or not all(type(value) in (int, float) and 0 <= value <= 1 for value in values)
    ):
        raise UnsupportedModel(f"{processor.source}: {key} cannot be {shown(values)}")
    return [float(value) for value in values]
