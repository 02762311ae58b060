"""What the converters of decoders have in common; what each adds is data in its own file."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from puna.convert.content import Content, Source
from puna.convert.experts import with_experts
from puna.convert.float8 import unscaled
from puna.convert.folder import Fields, ModelFolder, shown
from puna.convert.generation import sampling, sampling_keys
from puna.convert.plan import MAX_LAYERS, Plan, Target, matched, readable
from puna.convert.pooling import pooling
from puna.convert.rotary import rotary_factors, rotary_keys
from puna.convert.sources import constant, paired
from puna.convert.tokenizer import tokenizer_keys
from puna.errors import FormatError, UnsupportedModel

_QUANTIZATION_VERSION = 2

# What stands before the names of the language model's own tensors.
_PREFIX = re.compile(r"(?:model\.|language_model\.)+", re.ASCII)
# What follows from the configuration.
_DERIVED = (".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias")


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of a layer.

    Attributes:
        name: after `blk.N.`.
        axes: what each axis counts, slowest first, see `Sizes.axes`; or how long it is.
        optional: the model may lack it.
        pairs: how many heads' rows are put in pairs for rotation, as an axis; empty where they stay.
        matrix: it may keep a type of less precision than F32.
    """

    name: str
    axes: tuple[str | int, ...]
    optional: bool = False
    pairs: str = ""
    matrix: bool = True


Layer = Mapping[str, Weight]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Those of a model; those of experts are 0 where there are none.

    Attributes:
        vocabulary: rows of the table of tokens.
        context: the longest text.
        head: width of one head.
        shared_width: of the feed-forward network that every token uses beside its experts.
        more: lengths of axes that only this architecture has.
    """

    vocabulary: int
    context: int
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    eps: float
    experts: int = 0
    expert_width: int = 0
    shared_width: int = 0
    more: Mapping[str, int] = field(default_factory=dict)

    @property
    def axes(self) -> dict[str, int]:
        """Lengths by the names that a `Weight` has for them."""
        return {
            "hidden": self.hidden,
            "feed_forward": self.feed_forward,
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "head": self.head,
            "queries": self.heads * self.head,
            "keys": self.kv_heads * self.head,
            "queries_keys_values": (self.heads + 2 * self.kv_heads) * self.head,
            "gate_and_up": 2 * self.feed_forward,
            "experts": self.experts,
            "expert_width": self.expert_width,
            "shared_width": self.shared_width,
            "one": 1,
            **self.more,
        }

    def shape(self, axes: tuple[str | int, ...]) -> tuple[int, ...]:
        """That of a tensor with these axes, see `Weight`."""
        lengths = self.axes
        return tuple(axis if isinstance(axis, int) else lengths[axis] for axis in axes)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a configuration may leave out, because the architecture's own value is meant."""

    theta: float = 10000.0
    heads: int | None = None
    kv_heads: int | None = None
    head: int | None = None
    context: int | None = None
    eps: float | None = None
    tied: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """Models of one architecture.

    Attributes:
        architecture: its name in GGUF files.
        layer: the tensors of every layer, by their names after `layers.N.`.
        of_layer: those that the layer of a number has besides.
        outer: those of no layer, besides the tables of tokens and outputs and the last norm.
        keys: what the file says besides what every decoder's does, without the architecture before it.
        check: raises UnsupportedModel for a variant that is not implemented.
        activations: the functions between the two halves of a feed-forward network.
        norm_offset: added to the weights of norms, which are stored as differences from it.
        layer_norm: norms subtract the mean.
        rotary: the keys of rotary embeddings, see `rotary_keys`.
        factors: what frequencies are divided by, see `rotary_factors`.
        defaults: where the configuration says nothing.
        head: whether there is a table of outputs, unless it is that of tokens.
        dropped: beginnings of names of tensors that are left out.
        norm: the weight of the last norm, by the names of both sides.
        sizes: changes those that the configuration states under the usual names.
        prepare: makes the tensors that a layer has of those in the files.
    """

    architecture: str
    layer: Layer
    of_layer: Callable[[Fields, Sizes, int], Layer] = lambda config, sizes, index: {}
    outer: Callable[[Fields, Sizes], Layer] = lambda config, sizes: {}
    keys: Callable[[Fields, Sizes], Mapping[str, Any]] = lambda config, sizes: {}
    check: Callable[[Fields, Sizes], None] = lambda config, sizes: None
    activations: tuple[str, ...] = ("silu",)
    norm_offset: float = 0.0
    layer_norm: bool = False
    rotary: Callable[[Fields, int, float], Mapping[str, Any]] = rotary_keys
    factors: Callable[[Fields, int, float], Mapping[str, Sequence[float]]] = rotary_factors
    defaults: Defaults = field(default_factory=Defaults)
    head: bool = True
    dropped: tuple[str, ...] = ()
    norm: tuple[str, str] = ("norm.weight", "output_norm.weight")
    sizes: Callable[[Fields, Sizes], Sizes] = lambda config, sizes: sizes
    prepare: Callable[[Mapping[str, Source], Fields, Sizes], Mapping[str, Content]] = (
        lambda tensors, config, sizes: with_experts(tensors)
    )


def plan_decoder(family: Family, folder: ModelFolder) -> Plan:
    """How a model of the family is converted.

    Raises:
        FormatError: a file is missing, damaged or makes no sense.
        UnsupportedModel: a variant that is not implemented.
        WeightError: the weights are not those of the model.
    """
    config = text_config(folder)
    stored = plain_tensors(folder)
    dropped = _dropped(family, config)
    own = {name: source for name, source in stored.items() if not name.startswith(dropped)}
    kept = {name: source for name, source in own.items() if not name.endswith(_DERIVED)}
    tied = config.flag("tie_word_embeddings", default=family.defaults.tied)
    if tied:
        kept.pop("lm_head.weight", None)
    sizes = read_sizes(config, family, rows=_rows(kept))
    _check(config, family, sizes)
    turned = {
        name: paired(kept[name], heads) for name, heads in _pairs(family, sizes).items() if name in kept
    }
    prepared = family.prepare(kept, config, sizes)
    pairs = matched({**prepared, **turned}, _targets(family, config, sizes, tied=tied))
    factors = [
        (constant(name, numbers), Target(name, (len(numbers),)))
        for name, numbers in family.factors(config, sizes.head, family.defaults.theta).items()
    ]
    return Plan(
        _keys(family, config, sizes, folder),
        [*factors, *pairs],
        sampling=sampling(folder),
        left_out=len(stored) - len(own),
    )


def _dropped(family: Family, config: Fields) -> tuple[str, ...]:
    """What names of tensors begin with that are left out; layers that foretell further tokens are, too."""
    layers, more = (
        config.count(name, default=0, least=0) for name in ("num_hidden_layers", "num_nextn_predict_layers")
    )
    return *family.dropped, *(f"layers.{layers + index}." for index in range(min(more, MAX_LAYERS)))


def plain_tensors(folder: ModelFolder) -> dict[str, Source]:
    """The folder's tensors by their plain names, none of them in eight bits. Raises: as `plan_decoder`."""
    quantization = text_config(folder).mapping("quantization_config")
    return plainly_named(unscaled(folder.tensors(), quantization))


def plainly_named(tensors: Mapping[str, Source]) -> dict[str, Source]:
    """Tensors by their names without what stands before those of the language model.

    Raises:
        FormatError: two have the same name then.
    """
    found: dict[str, Source] = {}
    for name, tensor in tensors.items():
        match = _PREFIX.match(name)
        plain = name[match.end() :] if match else name
        if plain in found:
            raise FormatError(f"{tensor.file}: two tensors have the name {readable(plain)}")
        found[plain] = tensor
    return found


def text_config(folder: ModelFolder) -> Fields:
    """What `config.json` says of the language model, one part of several perhaps. Raises: FormatError."""
    config = folder.config()
    own = config.get("text_config")
    if not isinstance(own, dict):
        return Fields(config)
    # The table of outputs belongs to the whole, whatever the part says of it.
    tied = {key: config[key] for key in ("tie_word_embeddings",) if key in config}
    return Fields(config | own | tied)


def read_sizes(config: Fields, family: Family, *, rows: int | None = None) -> Sizes:
    """The sizes that a configuration states.

    Args:
        rows: of the table of tokens, where the configuration does not say.

    Raises:
        FormatError: one is missing or makes no sense.
        UnsupportedModel: they do not go together.
    """
    usual = family.defaults
    layers = config.count("num_hidden_layers")
    if layers > MAX_LAYERS:
        raise UnsupportedModel(f"config.json: {layers} layers are more than any model has")
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads", default=usual.heads)
    kv_heads = config.count("num_key_value_heads", default=usual.kv_heads or heads)
    head = config.count("head_dim", default=usual.head or max(1, hidden // heads))
    if heads % kv_heads or head % 2:
        raise UnsupportedModel(
            f"config.json: {heads} heads of queries, {kv_heads} of keys and {head} dimensions of each "
            "do not go together"
        )
    experts = config.count("num_local_experts", "num_experts", "n_routed_experts", default=0, least=0)
    wide = _width(config)
    eps = ("layer_norm_eps", "norm_epsilon") if family.layer_norm else ("rms_norm_eps", "norm_eps")
    stated = Sizes(
        vocabulary=config.count("vocab_size", default=rows),
        context=config.count("max_position_embeddings", default=usual.context),
        hidden=hidden,
        feed_forward=wide,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head=head,
        eps=config.number(*eps, default=usual.eps),
        experts=experts,
        expert_width=config.count("moe_intermediate_size", "intermediate_size") if experts else 0,
        shared_width=config.count("shared_expert_intermediate_size", "intermediate_size") if experts else 0,
    )
    return family.sizes(config, stated)


def _width(config: Fields) -> int:
    """Inside the feed-forward networks; some configurations have a number for each layer."""
    name = "intermediate_size"
    stated = config.values.get(name)
    if not isinstance(stated, list):
        # Llama 4's other name is for layers without experts.
        return config.count("intermediate_size_mlp", name)
    widths = {Fields({name: width}).count(name) for width in stated}
    if len(widths) != 1:
        raise UnsupportedModel(f"config.json: layers of the widths {shown(sorted(widths))} are not supported")
    return widths.pop()


def _rows(tensors: Mapping[str, Source]) -> int | None:
    table = tensors.get("embed_tokens.weight")
    return table.shape[0] if table is not None and len(table.shape) == 2 else None


def _check(config: Fields, family: Family, sizes: Sizes) -> None:
    activation = config.text("hidden_activation", "hidden_act", default=family.activations[0])
    if activation not in family.activations:
        raise UnsupportedModel(
            f"config.json: hidden_act {shown(activation)} is not supported, only {family.activations[0]}"
        )
    family.check(config, sizes)


def _pairs(family: Family, sizes: Sizes) -> dict[str, int]:
    """How many heads' rows are put in pairs, by the names of tensors."""
    return {
        f"layers.{index}.{source}": sizes.axes[weight.pairs]
        for index in range(sizes.layers)
        for source, weight in family.layer.items()
        if weight.pairs
    }


def _targets(family: Family, config: Fields, sizes: Sizes, *, tied: bool) -> dict[str, Target]:
    table, (theirs, ours) = (sizes.vocabulary, sizes.hidden), family.norm
    targets = {
        "embed_tokens.weight": Target("token_embd.weight", table, matrix=True),
        theirs: Target(ours, (sizes.hidden,), offset=family.norm_offset),
        "lm_head.weight": Target("output.weight", table, matrix=True, optional=tied or not family.head),
    }
    for source, weight in family.outer(config, sizes).items():
        targets[source] = _target("", weight, sizes, family.norm_offset)
    for index in range(sizes.layers):
        layer = {**family.layer, **family.of_layer(config, sizes, index)}
        for source, weight in layer.items():
            target = _target(f"blk.{index}.", weight, sizes, family.norm_offset)
            targets[f"layers.{index}.{source}"] = target
    return targets


def _target(scope: str, weight: Weight, sizes: Sizes, norm_offset: float) -> Target:
    return Target(
        scope + weight.name,
        sizes.shape(weight.axes),
        matrix=weight.matrix and len(weight.axes) > 1 and weight.name.endswith(".weight"),
        optional=weight.optional,
        offset=norm_offset if weight.name.endswith("norm.weight") else 0.0,
    )


def _keys(family: Family, config: Fields, sizes: Sizes, folder: ModelFolder) -> dict[str, Any]:
    used = config.count("num_experts_per_tok", "top_k_experts", default=0, least=0)
    own = {
        "context_length": sizes.context,
        "embedding_length": sizes.hidden,
        "feed_forward_length": sizes.feed_forward,
        "block_count": sizes.layers,
        "attention.head_count": sizes.heads,
        "attention.head_count_kv": sizes.kv_heads,
        "attention.key_length": sizes.head,
        "attention.value_length": sizes.head,
        f"attention.layer_norm_{'' if family.layer_norm else 'rms_'}epsilon": sizes.eps,
        **({"expert_count": sizes.experts, "expert_used_count": used} if sizes.experts else {}),
        **family.rotary(config, sizes.context, family.defaults.theta),
        **family.keys(config, sizes),
    }
    if folder.pooling():
        own["pooling_type"] = int(pooling(folder))
    return {
        "general.architecture": family.architecture,
        "general.type": "model",
        "general.quantization_version": _QUANTIZATION_VERSION,
        **sampling_keys(folder),
        **{f"{family.architecture}.{key}": value for key, value in own.items()},
        **tokenizer_keys(folder, sizes.vocabulary),
    }
