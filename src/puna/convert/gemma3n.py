"""Gemma 3n, text: several streams of states, and a table of tokens for each layer."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from statistics import NormalDist
from typing import Any

from puna.convert.content import Content, Source
from puna.convert.decoder import Defaults, Family, Layer, Sizes, Weight
from puna.convert.folder import Fields, shown
from puna.convert.layers import FEED_FORWARD, HEAD_NORMS, attention, norms
from puna.convert.rotary import local_theta
from puna.convert.sources import padded, stacked
from puna.convert.windows import local_layers
from puna.errors import FormatError, UnsupportedModel, WeightError

_STREAMS = 4
_PERIOD = 5
_LOCAL_THETA = 10000.0
_PROJECTION = re.compile(r"altup_(projections|unembed_projections)\.([0-9])\.weight", re.ASCII)
_TABLE = "embed_tokens_per_layer.weight"
# Of layers that look at the keys and values of earlier ones.
_UNUSED = ("self_attn.k_proj", "self_attn.v_proj", "self_attn.k_norm")


def _streams(config: Fields) -> int:
    return config.count("altup_num_inputs", default=_STREAMS, least=2)


def _input(config: Fields) -> int:
    """The width of each layer's own input."""
    return config.count("hidden_size_per_layer_input", default=256)


def _layer(config: Fields, sizes: Sizes, index: int) -> Layer:
    streams, width = _streams(config), _input(config)
    rank = config.count("laurel_rank", default=64)
    own = sizes.layers - config.count("num_kv_shared_layers", default=15, least=0)
    attending = {**attention(), **HEAD_NORMS}
    optional = {
        name: replace(weight, optional=weight.optional or (index >= own and name.startswith(_UNUSED)))
        for name, weight in attending.items()
    }
    return {
        **optional,
        "altup.correct_output_scale": Weight("altup_correct_scale.weight", ("hidden",)),
        "altup.correction_coefs.weight": Weight(
            "altup_correct_coef.weight", (streams, streams), matrix=False
        ),
        "altup.prediction_coefs.weight": Weight(
            "altup_predict_coef.weight", (streams * streams, streams), matrix=False
        ),
        "altup.modality_router.weight": Weight("altup_router.weight", (streams, "hidden")),
        "laurel.linear_left.weight": Weight("laurel_l.weight", (rank, "hidden")),
        "laurel.linear_right.weight": Weight("laurel_r.weight", ("hidden", rank)),
        "per_layer_input_gate.weight": Weight("inp_gate.weight", (width, "hidden")),
        "per_layer_projection.weight": Weight("proj.weight", ("hidden", width)),
    }


def _outer(config: Fields, sizes: Sizes) -> Layer:
    all_inputs = sizes.layers * _input(config)
    square = (_streams(config) - 1, "hidden", "hidden")
    return {
        _TABLE: Weight("per_layer_token_embd.weight", (sizes.vocabulary, all_inputs)),
        "per_layer_model_projection.weight": Weight("per_layer_model_proj.weight", (all_inputs, "hidden")),
        "per_layer_projection_norm.weight": Weight("per_layer_proj_norm.weight", (_input(config),)),
        "altup_projections.weight": Weight("altup_proj.weight", square),
        "altup_unembed_projections.weight": Weight("altup_unembd_proj.weight", square),
    }


def _prepared(tensors: Mapping[str, Source], config: Fields, sizes: Sizes) -> dict[str, Content]:
    """The tensors with those of all streams in one, and a row in the layers' table for every token.

    That table has none for tokens of pictures and sounds.
    """
    found: dict[str, Content] = {}
    streams: dict[str, list[Source]] = {}
    for name, source in sorted(tensors.items()):
        if match := _PROJECTION.fullmatch(name):
            streams.setdefault(f"altup_{match[1]}.weight", []).append(source)
        elif name == _TABLE and len(source.shape) == 2 and source.shape[0] < sizes.vocabulary:
            found[name] = padded(source, sizes.vocabulary)
        else:
            found[name] = source
    return found | {name: _together(name, sources) for name, sources in streams.items()}


def _together(name: str, sources: list[Source]) -> Content:
    if len({(source.shape, source.dtype) for source in sources}) > 1:
        raise WeightError(f"the weights do not fit: {name} are of several shapes or types")
    return stacked(name, sources)


def _keys(config: Fields, sizes: Sizes) -> dict[str, Any]:
    widths = {"feed_forward_length": [sizes.feed_forward] * sizes.layers}
    return {
        **(widths if isinstance(config.values.get("intermediate_size"), list) else {}),
        "altup.active_idx": config.count("altup_active_idx", default=0, least=0),
        "altup.num_inputs": _streams(config),
        "embedding_length_per_layer_input": _input(config),
        "attention.shared_kv_layers": config.count("num_kv_shared_layers", default=15, least=0),
        "attention.sliding_window": config.count("sliding_window", default=512),
        "attention.sliding_window_pattern": local_layers(config, sizes.layers, _PERIOD),
        "activation_sparsity_scale": _sparsity(config, sizes.layers),
        "rope.freq_base_swa": local_theta(config) or _LOCAL_THETA,
        "final_logit_softcapping": config.number("final_logit_softcapping", default=30.0),
    }


def _sparsity(config: Fields, layers: int) -> list[float]:
    """How many deviations above their mean gates must be, that not more than the stated share are."""
    name = "activation_sparsity_pattern"
    stated = config.values.get(name)
    if stated is None:
        sparse = 10 if layers > 10 else 0
        stated = [0.95] * sparse + [0.0] * (layers - sparse)
    if not isinstance(stated, list) or len(stated) != layers:
        raise FormatError(f"config.json: {name!r} must be {layers} numbers, not {shown(stated)}")
    normal = NormalDist()
    if not all(type(share) in (int, float) and 0 <= share < 1 for share in stated):
        raise FormatError(f"config.json: {name!r} must be numbers from 0 up to 1, not {shown(stated)}")
    return [normal.inv_cdf(share) if share else -math.inf for share in stated]


def _check(config: Fields, sizes: Sizes) -> None:
    if not config.flag("altup_correct_scale", default=True):
        raise UnsupportedModel("config.json: altup_correct_scale must not be false")


GEMMA3N = Family(
    "gemma3n",
    {
        **norms(
            {
                "input_layernorm": "attn_norm",
                "post_attention_layernorm": "post_attention_norm",
                "pre_feedforward_layernorm": "ffn_norm",
                "post_feedforward_layernorm": "post_ffw_norm",
                "altup.router_norm": "altup_router_norm",
                "laurel.post_laurel_norm": "laurel_post_norm",
                "post_per_layer_input_norm": "post_norm",
            }
        ),
        **FEED_FORWARD,
    },
    of_layer=_layer,
    outer=_outer,
    keys=_keys,
    check=_check,
    activations=("gelu_pytorch_tanh",),
    defaults=Defaults(theta=1000000.0, heads=8, kv_heads=2, head=256, context=32768, eps=1e-6, tied=True),
    dropped=("vision_tower.", "audio_tower.", "embed_vision.", "embed_audio."),
    prepare=_prepared,
)
