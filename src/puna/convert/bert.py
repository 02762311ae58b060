"""BERT and NomicBERT, with the vocabulary and the pooling of Sentence Transformers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from puna.convert.folder import Fields, ModelFolder, shown
from puna.convert.plan import MAX_LAYERS, Plan, Target, matched
from puna.convert.pooling import pooling
from puna.convert.safetensors import StoredTensor
from puna.convert.wordpiece import vocabulary_keys
from puna.errors import UnsupportedModel
from puna.gguf.keys import Pooling

# Names of GGUF's tensors after `blk.N.`, by those after `encoder.layer.N.`.
_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_NOMIC_LAYER = {
    "attn.Wqkv": "attn_qkv",
    "attn.out_proj": "attn_output",
    "norm1": "attn_output_norm",
    "mlp.fc11": "ffn_up",
    "mlp.fc12": "ffn_gate",
    "mlp.fc2": "ffn_down",
    "norm2": "layer_output_norm",
}
# What only training needs, or what follows from the rest.
_DROPPED = ("embeddings.position_ids", "cls.predictions.", "cls.seq_relationship.", "pooler.")


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Those of the configuration; `labels` is 0 for a model without a head that gives scores."""

    architecture: str
    vocabulary: int
    segments: int
    positions: int
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    eps: float
    labels: int = 0


def plan_bert(folder: ModelFolder) -> Plan:
    """A `BertModel`, or a `BertForSequenceClassification` that compares two texts.

    Raises:
        FormatError: a file is missing, damaged or makes no sense.
        UnsupportedModel: a variant that is not implemented.
        WeightError: the weights are not those of the model.
    """
    config = Fields(folder.config())
    _check(config, "position_embedding_type", "absolute")
    _check(config, "is_decoder", False)
    sizes = _Sizes(
        "bert",
        config.count("vocab_size"),
        config.count("type_vocab_size", default=2),
        config.count("max_position_embeddings"),
        *_shared(config),
        eps=config.number("layer_norm_eps", default=1e-12),
        labels=_labels(config),
    )
    keys = {"bert.hidden_activation": config.text("hidden_act", default="gelu")}
    return _plan(folder, sizes, keys, _bert_targets(sizes))


def plan_nomic_bert(folder: ModelFolder) -> Plan:
    """A `NomicBertModel`. Raises: as `plan_bert`."""
    config = Fields(folder.config())
    for name in ("prenorm", "causal", "rotary_emb_interleaved", "use_rms_norm"):
        _check(config, name, False)
    for name in ("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"):
        _check(config, name, False)
    usual = {"rotary_emb_fraction": 1.0, "activation_function": "swiglu", "hidden_act": "silu"}
    for name, value in usual.items():
        _check(config, name, value)
    for name in ("moe_every_n_layers", "num_experts", "rotary_emb_scale_base"):
        _check(config, name, 0)
    rope = config.values.get("rope_parameters")
    rotary = Fields(rope if isinstance(rope, dict) else {}, "config.json, rope_parameters")
    _check(rotary, "rope_type", "default")
    positions = config.count("n_positions", "max_position_embeddings")
    sizes = _Sizes(
        "nomic-bert",
        config.count("vocab_size"),
        config.count("type_vocab_size", default=2),
        # Longer ones are reached only by scaling, which the model does not ask for.
        min(positions, config.count("max_trained_positions", default=2048)),
        *_shared(config),
        eps=config.number("layer_norm_epsilon", "layer_norm_eps", default=1e-12),
    )
    base = rotary.number("rope_theta", default=config.number("rotary_emb_base", default=1000.0))
    return _plan(folder, sizes, {"nomic-bert.rope.freq_base": base}, _nomic_targets(sizes))


def _shared(config: Fields) -> tuple[int, int, int, int]:
    """Width, width of the feed-forward network, layers and heads, by the names of either kind."""
    layers = config.count("num_hidden_layers", "n_layer")
    if layers > MAX_LAYERS:
        raise UnsupportedModel(f"config.json: {layers} layers are more than any model has")
    hidden, heads = config.count("hidden_size", "n_embd"), config.count("num_attention_heads", "n_head")
    if hidden % heads:
        raise UnsupportedModel(f"config.json: {heads} heads cannot share {hidden} dimensions evenly")
    return hidden, config.count("intermediate_size", "n_inner"), layers, heads


def _check(config: Fields, name: str, usual: Any) -> None:
    value = config.values.get(name)
    if value not in (None, usual):
        raise UnsupportedModel(f"{config.source}: {name} {shown(value)} is not supported, only {usual!r}")


def _labels(config: Fields) -> int:
    architectures = config.values.get("architectures")
    if architectures != ["BertForSequenceClassification"]:
        return 0
    names = config.values.get("id2label")
    return len(names) if isinstance(names, dict) and names else config.count("num_labels", default=2)


def _plan(folder: ModelFolder, sizes: _Sizes, keys: Mapping[str, Any], targets: Mapping[str, Target]) -> Plan:
    tensors = matched(_named(folder.tensors(), sizes), targets)
    longest = Fields(folder.document("sentence_bert_config.json"), "sentence_bert_config.json").count(
        "max_seq_length", default=sizes.positions
    )
    prefix = sizes.architecture + "."
    own = {
        "context_length": sizes.positions,
        "embedding_length": sizes.hidden,
        "feed_forward_length": sizes.feed_forward,
        "block_count": sizes.layers,
        "attention.head_count": sizes.heads,
        "attention.layer_norm_epsilon": sizes.eps,
        "attention.causal": False,
        "pooling_type": int(Pooling.RANK if sizes.labels else pooling(folder)),
    }
    described = {
        "general.architecture": sizes.architecture,
        **{prefix + key: value for key, value in own.items()},
        **keys,
        "tokenizer.ggml.token_type_count": sizes.segments,
        **vocabulary_keys(folder, sizes.vocabulary),
    }
    return Plan(described, tensors, longest if longest < sizes.positions else None)


def _named(tensors: Mapping[str, StoredTensor], sizes: _Sizes) -> dict[str, StoredTensor]:
    """The tensors by one spelling of their names, without those that are dropped."""
    found: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        plain = name.removeprefix("bert.")
        if plain.endswith((".gamma", ".beta")):
            plain = plain.removesuffix(".gamma").removesuffix(".beta") + (
                ".weight" if plain.endswith(".gamma") else ".bias"
            )
        if not plain.startswith(_DROPPED) or (sizes.labels and plain.startswith("pooler.dense.")):
            found[plain] = tensor
    return found


def _bert_targets(sizes: _Sizes) -> dict[str, Target]:
    hidden = sizes.hidden
    outer = {
        "embeddings.word_embeddings.weight": Target("token_embd.weight", (sizes.vocabulary, hidden), True),
        "embeddings.position_embeddings.weight": Target("position_embd.weight", (sizes.positions, hidden)),
        "embeddings.token_type_embeddings.weight": Target("token_types.weight", (sizes.segments, hidden)),
        **_norm("embeddings.LayerNorm", "token_embd_norm", hidden),
    }
    if sizes.labels:
        outer |= _linear("pooler.dense", "cls", hidden, hidden)
        outer |= _linear("classifier", "cls.output", sizes.labels, hidden)
    for index in range(sizes.layers):
        outer |= dict(_layer_targets(f"encoder.layer.{index}.", f"blk.{index}.", _LAYER, sizes, bias=True))
    return outer


def _nomic_targets(sizes: _Sizes) -> dict[str, Target]:
    hidden = sizes.hidden
    outer = {
        "embeddings.word_embeddings.weight": Target("token_embd.weight", (sizes.vocabulary, hidden), True),
        "embeddings.token_type_embeddings.weight": Target(
            "token_types.weight", (sizes.segments, hidden), optional=True
        ),
        **_norm("emb_ln", "token_embd_norm", hidden),
    }
    for index in range(sizes.layers):
        start = f"encoder.layers.{index}."
        outer |= dict(_layer_targets(start, f"blk.{index}.", _NOMIC_LAYER, sizes, bias=False))
    return outer


def _layer_targets(
    start: str, block: str, names: Mapping[str, str], sizes: _Sizes, *, bias: bool
) -> Iterator[tuple[str, Target]]:
    hidden, wide = sizes.hidden, sizes.feed_forward
    shapes = {
        "attn_qkv": (3 * hidden, hidden),
        **dict.fromkeys(("ffn_up", "ffn_gate"), (wide, hidden)),
        "ffn_down": (hidden, wide),
    }
    for source, name in names.items():
        if name.endswith("norm"):
            yield from _norm(start + source, block + name, hidden).items()
        else:
            rows, columns = shapes.get(name, (hidden, hidden))
            yield from _linear(start + source, block + name, rows, columns, bias=bias).items()


def _norm(source: str, name: str, width: int) -> dict[str, Target]:
    return {f"{source}.{part}": Target(f"{name}.{part}", (width,)) for part in ("weight", "bias")}


def _linear(source: str, name: str, rows: int, columns: int, *, bias: bool = True) -> dict[str, Target]:
    found = {f"{source}.weight": Target(f"{name}.weight", (rows, columns), True)}
    return found | ({f"{source}.bias": Target(f"{name}.bias", (rows,))} if bias else {})
