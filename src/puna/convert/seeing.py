"""Models that see: a text as of any decoder, and an image encoder, in one file with Ollama's names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from puna.convert.decoder import Family, plain_tensors, plan_decoder
from puna.convert.folder import Fields, ModelFolder, shown
from puna.convert.plan import MAX_LAYERS, Plan, Target, matched
from puna.errors import UnsupportedModel

SCOPES = ("vision_tower.", "multi_modal_projector.")
"""What the names of the tensors of an image encoder begin with."""

# Some files have it behind the first of these, others do not.
_INNER = "vision_model."


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a model that sees.

    Attributes:
        config: of the whole.
        vision: of its image encoder.
        text: of its language model.
        processor: of the pictures that it was made for.
    """

    config: Fields
    vision: Fields
    text: Fields
    processor: Fields


@dataclass(frozen=True, slots=True)
class Encoder:
    """What a file has of an image encoder.

    Attributes:
        keys: metadata, without the architecture before it.
        targets: what tensors become, by their names in the folder.
        unused: what the names of tensors begin with that the model does without.
    """

    keys: Mapping[str, Any]
    targets: Mapping[str, Target]
    unused: tuple[str, ...] = ()


def plan_seeing(family: Family, encoder: Callable[[Seen], Encoder], folder: ModelFolder) -> Plan:
    """How a model is converted, of which the family is the text; its `dropped` tensors are the encoder's.

    Raises:
        FormatError: a file is missing, damaged or makes no sense.
        UnsupportedModel: a variant that is not implemented.
        WeightError: the weights are not those of the model.
    """
    text = plan_decoder(family, folder)
    found = encoder(_seen(folder))
    stored = {
        name.replace(f"{SCOPES[0]}{_INNER}", SCOPES[0], 1): source
        for name, source in plain_tensors(folder).items()
        if name.startswith(family.dropped)
    }
    used = {name: source for name, source in stored.items() if not name.startswith(found.unused)}
    keys = {f"{family.architecture}.{key}": value for key, value in found.keys.items()}
    return replace(
        text,
        keys={**text.keys, **keys},
        tensors=[*text.tensors, *matched(used, found.targets)],
        left_out=len(stored) - len(used),
    )


def _seen(folder: ModelFolder) -> Seen:
    config = Fields(folder.config())
    old, new = "preprocessor_config.json", "processor_config.json"
    processor = Fields(folder.document(old), old)
    if not processor.values:
        processor = Fields(Fields(folder.document(new), new).mapping("image_processor"), new)
    return Seen(
        config,
        Fields(config.mapping("vision_config"), "config.json, vision_config"),
        Fields(config.mapping("text_config"), "config.json, text_config"),
        processor,
    )


def check(fields: Fields, name: str, wanted: str | int, default: str | int) -> None:
    """Check a choice of which only one is implemented. Raises: UnsupportedModel."""
    value = fields.values.get(name, default)
    if value != wanted:
        raise UnsupportedModel(f"{fields.source}: {name} {shown(value)} is not supported, only {wanted}")


def layers(vision: Fields, default: int | None = None) -> int:
    """How many an encoder has. Raises: FormatError; UnsupportedModel: more than any model has."""
    count = vision.count("num_hidden_layers", default=default)
    if count > MAX_LAYERS:
        raise UnsupportedModel(f"{vision.source}: {count} layers are more than any model has")
    return count


def linear(theirs: str, ours: str, inputs: int, outputs: int, *, bias: bool = False) -> dict[str, Target]:
    """The tensors of a linear layer, by the names of both sides without `.weight`."""
    made = {f"{theirs}.weight": Target(f"{ours}.weight", (outputs, inputs), matrix=True)}
    return made | ({f"{theirs}.bias": Target(f"{ours}.bias", (outputs,))} if bias else {})


def norm(theirs: str, ours: str, width: int, *, bias: bool = False) -> dict[str, Target]:
    """The tensors of a norm, by the names of both sides without `.weight`."""
    parts = ("weight", "bias") if bias else ("weight",)
    return {f"{theirs}.{part}": Target(f"{ours}.{part}", (width,)) for part in parts}
