"""What a model can do, as its files tell.

The rules and the order are Ollama's; a file that cannot be read counts as able to do nothing.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from functools import partial

from puna.chat.parsers.registry import Support
from puna.errors import MissingCapability
from puna.gguf import Metadata
from puna.images.header import examine
from puna.images.longest import LongestEdge
from puna.images.resizing import Resizing
from puna.template.go import Template
from puna.template.go.tags import thinking_tags

_THINKING_FAMILIES = frozenset(("gptoss", "gpt-oss"))
# Their projectors have an audio encoder that the engine does not run.
_SILENT_PROJECTORS = frozenset(("gemma3nv", "nemotron_h_omni"))
# What stands around a picture of Gemma 3: two tags and two empty lines; around one of Qwen's, two tags.
_AROUND = 4
_AROUND_QWENS = 2
# By architecture, what the file of an image encoder that is not the model's own says that it is for, and the
# tokens of the smallest picture, where that file does not say.
_QWENS = {
    "qwen25vl": ("qwen2.5vl_merger", 4),
    "qwen2vl": ("qwen2.5vl_merger", 4),
    "qwen3vl": ("qwen3vl_merger", 64),
    "qwen3vlmoe": ("qwen3vl_merger", 64),
}
# Those that see through Pixtral's image encoder.
_THROUGH_PIXTRALS = frozenset(("llama", "mistral3"))
# Models that were published before their templates told of thinking.
_RENEWED = ("qwen3", "deepseek-r1")
_CUT_AFTER_THINKING = re.compile(r"""split\(\s*['"]</think>['"]""")


class Capability(StrEnum):
    """What a model can do, by the names of the API."""

    COMPLETION = "completion"
    EMBEDDING = "embedding"
    VISION = "vision"
    AUDIO = "audio"
    TOOLS = "tools"
    INSERT = "insert"
    THINKING = "thinking"
    IMAGE = "image"


def capabilities(
    metadata: Metadata | None,
    *,
    template: Template | None = None,
    chat_template: str | None = None,
    stated: Iterable[str] = (),
    projector: Metadata | None = None,
    parser: Support | None = None,
) -> tuple[Capability, ...]:
    """What a model can do: first what is stated, then what file, projector, template and parser tell.

    Args:
        metadata: of the model's GGUF file, None if there is none or it cannot be read.
        template: its prompt template in Go's language, None if there is none or another is used.
        chat_template: its template in Jinja, None if there is none or another is used.
        stated: the capabilities that the config names; unknown ones are passed over.
        projector: the metadata of its projector, None if there is none or it cannot be read.
        parser: what the parser that the config names can do, None if it names none that exists.

    Raises:
        GGUFError: the metadata names no architecture.
    """
    found = (
        *(Capability(name) for name in stated if name in set(Capability)),
        *(() if metadata is None else _of_file(metadata)),
        *(() if projector is None else _of_projector(projector)),
        *(() if template is None else _of_template(template)),
        *(() if chat_template is None else _of_chat_template(chat_template)),
        *(() if parser is None else _of_parser(parser)),
        *(() if metadata is None else _of_family(metadata)),
    )
    return tuple(dict.fromkeys(found))


PictureTokens = Callable[[bytes], int]
"""How many tokens the picture of a file takes in a prompt; may raise InvalidOption, where it is none."""


def picture_tokens(metadata: Metadata, projector: Metadata | None = None) -> PictureTokens | None:
    """How many tokens pictures take in a prompt; None where the engine can be given none for this model.

    Args:
        projector: the metadata of the file with the image encoder, where that is a file of its own.

    Raises:
        GGUFError: a number is none.
    """
    own = metadata.full_key("vision.block_count") in metadata
    architecture = metadata.architecture
    vision = metadata if own or projector is None else projector
    if architecture == "gemma3" and (own or _is_for("gemma3", projector)):
        count = _gemma3_tokens(vision) + _AROUND
        return lambda content: count
    if architecture in _QWENS and (own or _is_for(_QWENS[architecture][0], projector)):
        return partial(_qwen_tokens, Resizing.of(vision, _QWENS[architecture][1]))
    if architecture in _THROUGH_PIXTRALS and (own or _is_for("pixtral", projector)):
        return partial(_pixtral_tokens, LongestEdge.of(vision))
    return (lambda content: 1) if own and architecture == "mllama" else None


def _qwen_tokens(resizing: Resizing, content: bytes) -> int:
    header = examine(content)
    return resizing.tokens(header.width, header.height) + _AROUND_QWENS


def _pixtral_tokens(within: LongestEdge, content: bytes) -> int:
    """Those of the lines, and the one at the end; of a picture that is turned yet, whichever are more."""
    header = examine(content)
    sizes = ((header.width, header.height), (header.height, header.width))
    return max(within.tokens(*size) for size in sizes) + 1


def _is_for(kind: str, projector: Metadata | None) -> bool:
    keys = ("projector_type", "vision.projector_type")
    return projector is not None and kind in [projector.string(key, None) for key in keys]


def _gemma3_tokens(vision: Metadata) -> int:
    """Those of the picture itself: where the file does not say, one for four by four patches."""
    side = vision.uint("vision.image_size", 0) // max(vision.uint("vision.patch_size", 0), 1)
    return vision.uint("mm.tokens_per_image", max(side // 4, 1) ** 2)


def _of_file(metadata: Metadata) -> Iterator[Capability]:
    pooled = metadata.full_key("pooling_type") in metadata
    yield Capability.EMBEDDING if pooled else Capability.COMPLETION
    if metadata.full_key("vision.block_count") in metadata:
        yield Capability.VISION
    if metadata.full_key("audio.block_count") in metadata and not _is_silent(metadata):
        yield Capability.AUDIO


def _of_projector(metadata: Metadata) -> Iterator[Capability]:
    yield Capability.VISION
    if metadata.bool("has_audio_encoder", False) and not _is_silent(metadata):
        yield Capability.AUDIO


def _is_silent(metadata: Metadata) -> bool:
    return metadata.string("vision.projector_type", None) in _SILENT_PROJECTORS


def _of_template(template: Template) -> Iterator[Capability]:
    names = template.vars()
    if "tools" in names:
        yield Capability.TOOLS
    if "suffix" in names:
        yield Capability.INSERT
    if thinking_tags(template) is not None:
        yield Capability.THINKING


def _of_chat_template(chat_template: str) -> Iterator[Capability]:
    if "tools" in chat_template or "tool_call" in chat_template:
        yield Capability.TOOLS
    closes = "</think>" in chat_template
    cuts = "reasoning_content" not in chat_template and _CUT_AFTER_THINKING.search(chat_template)
    if closes and ("<think>" in chat_template or cuts):
        yield Capability.THINKING


def _of_parser(parser: Support) -> Iterator[Capability]:
    if parser.tools:
        yield Capability.TOOLS
    if parser.thinking:
        yield Capability.THINKING


def _of_family(metadata: Metadata) -> Iterator[Capability]:
    if metadata.architecture in _THINKING_FAMILIES:
        yield Capability.THINKING


def check_capabilities(
    present: Iterable[Capability], wanted: Iterable[Capability], *, model: str = "", subject: str = ""
) -> None:
    """Check that a model can do what is asked for.

    Args:
        present: what it can do.
        wanted: what it has to be able to do.
        model: its name, for advice about models that have learnt it since.
        subject: the model as the error is to name it.

    Raises:
        MissingCapability: it cannot do some of it.
    """
    able = set(present)
    missing = [capability for capability in wanted if capability not in able]
    if not missing:
        return
    renewed = model.rpartition("/")[2].startswith(_RENEWED) and Capability.THINKING in missing
    advice = "Pull the model again to get the latest version with full thinking support" if renewed else ""
    raise MissingCapability([_WORDS.get(name, str(name)) for name in missing], advice, subject)


# What the API calls it in errors.
_WORDS = {Capability.COMPLETION: "chat"}
