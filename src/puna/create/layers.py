"""Which layers a model gets: pure decisions over what is there and what was asked for.

Source: Ollama's `createModel` and the functions it calls (server/create.go): what replaces, what is added, in
which order, and how documents are spelled.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from puna import gojson
from puna.create.request import CreateRequest
from puna.errors import InvalidOption
from puna.store.config import ModelConfig
from puna.store.digest import Digest
from puna.store.manifests import (
    LICENSE_LAYER,
    MESSAGES_LAYER,
    PARAMETERS_LAYER,
    PROMPT_LAYER,
    SYSTEM_LAYER,
    TEMPLATE_LAYER,
    Layer,
)
from puna.store.model import DOCUMENT_LIMIT, Message


@dataclass(frozen=True, slots=True)
class Stored:
    """A layer that is in the store, and whether this creation has put it there."""

    layer: Layer
    new: bool = False

    @property
    def media_type(self) -> str:
        """The layer's."""
        return self.layer.media_type

    @property
    def digest(self) -> Digest:
        """Of its content."""
        return self.layer.content


@dataclass(frozen=True, slots=True)
class Document:
    """A layer that is still to be stored.

    Attributes:
        status: what to report of it; empty for the usual words.
    """

    media_type: str
    content: bytes
    status: str = ""

    @property
    def digest(self) -> Digest:
        """Of its content."""
        return Digest(hashlib.sha256(self.content).hexdigest())


Part: TypeAlias = Stored | Document


@dataclass(frozen=True, slots=True)
class DetectedTemplate:
    """A known Go template that says the same as a GGUF file's Jinja template.

    Attributes:
        name: such as `chatml`.
        text: the Go template.
        parameters: options that belong to it: its stop texts.
    """

    name: str
    text: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Base:
    """What a model starts from.

    Attributes:
        parts: its layers.
        config: what is known of its files, and what it inherits.
        parameters: the options of the model it is derived from.
    """

    parts: tuple[Part, ...]
    config: ModelConfig
    parameters: dict[str, Any]


def planned(base: Base, request: CreateRequest, detected: DetectedTemplate | None) -> list[Part]:
    """The layers of the model, in Ollama's order.

    Raises:
        InvalidOption: a text or document is too long to be stored, or has no JSON form.
    """
    parts = list(base.parts)
    if detected is not None:
        status = f"using autodetected template {detected.name}"
        parts.append(Document(TEMPLATE_LAYER, detected.text.encode(), status))
    parts = _replaced(parts, request.template, TEMPLATE_LAYER, PROMPT_LAYER)
    parts = _replaced(parts, request.system, SYSTEM_LAYER)
    for text in request.licenses:
        parts = _added(parts, Document(LICENSE_LAYER, _encoded(text)))
    found = detected.parameters if detected is not None else {}
    parts = _with_parameters(parts, base.parameters | found | dict(request.parameters))
    return _with_messages(parts, request.messages)


def inherited(config: ModelConfig, request: CreateRequest) -> ModelConfig:
    """The config with what the request sets; an empty text takes away what was there."""
    for name in ("renderer", "parser", "requires"):
        value = getattr(request, name)
        if value is not None:
            config = msgspec.structs.replace(config, **{name: value or msgspec.UNSET})
    return config


def described(configs: Sequence[ModelConfig], parent: ModelConfig | None) -> ModelConfig:
    """The config of a model with these GGUF files, the model's own first.

    Args:
        parent: the config of the model that it is derived from.
    """
    families = [family for config in configs for family in config.model_families or ()]
    config = msgspec.structs.replace(configs[0], model_families=families)
    if parent is None:
        return config
    return msgspec.structs.replace(
        config,
        renderer=parent.renderer,
        parser=parent.parser,
        requires=parent.requires,
        capabilities=parent.capabilities,
        model_format=parent.model_format or config.model_format,
    )


def _replaced(parts: Iterable[Part], text: str | None, *media_types: str) -> list[Part]:
    """The parts with one of the first media type in place of all of these types; none for an empty text."""
    if text is None:
        return list(parts)
    kept = [part for part in parts if part.media_type not in media_types]
    return [*kept, Document(media_types[0], _encoded(text))] if text else kept


def _added(parts: list[Part], document: Document) -> list[Part]:
    known = {part.digest for part in parts if part.media_type == document.media_type}
    return parts if document.digest in known else [*parts, document]


def _with_parameters(parts: list[Part], values: dict[str, Any]) -> list[Part]:
    kept = [part for part in parts if part.media_type != PARAMETERS_LAYER]
    if not values:
        return kept
    try:
        content = gojson.document(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidOption(f"the parameters cannot be stored: {error}") from error
    return [*kept, Document(PARAMETERS_LAYER, _bounded(content))]


def _with_messages(parts: list[Part], messages: Sequence[Message] | None) -> list[Part]:
    if messages is None:
        return parts
    kept = [part for part in parts if part.media_type != MESSAGES_LAYER]
    if not messages:
        return kept
    rows = [{"role": message.role, "content": message.content} for message in messages]
    return [*kept, Document(MESSAGES_LAYER, _bounded(gojson.document(rows, sort_keys=False)))]


def _encoded(text: str) -> bytes:
    return _bounded(text.encode("utf-8", "replace"))


def _bounded(content: bytes) -> bytes:
    if len(content) > DOCUMENT_LIMIT:
        raise InvalidOption(
            f"a template, prompt, license or document of {len(content)} bytes is longer than the "
            f"{DOCUMENT_LIMIT} that are stored"
        )
    return content
