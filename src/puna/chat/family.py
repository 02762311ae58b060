"""The family of a model that brings no prompt template, where its vocabulary leaves no doubt of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from puna.errors import GGUFError
from puna.gguf import Metadata
from puna.gguf.keys import CHAT_TEMPLATE_KEY

_TOKENS = "tokenizer.ggml.tokens"
_ENDS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")


@dataclass(frozen=True, slots=True)
class _Signs:
    """What a family's vocabulary has.

    Attributes:
        tokens: texts of the tokens around a turn.
        end: the text of the token that ends an answer. Models that were not trained on conversations often
            have the other tokens too, but end with another one.
    """

    tokens: frozenset[str]
    end: str


_SIGNS: Mapping[str, _Signs] = MappingProxyType(
    {
        "chatml": _Signs(frozenset({"<|im_start|>", "<|im_end|>"}), "<|im_end|>"),
        "llama3-instruct": _Signs(
            frozenset({"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}), "<|eot_id|>"
        ),
        "gemma-instruct": _Signs(frozenset({"<start_of_turn>", "<end_of_turn>"}), "<end_of_turn>"),
    }
)
# The same tokens, but a system message has its place.
_BY_ARCHITECTURE = {("gemma-instruct", "gemma3"): "gemma3-instruct"}


def known_family(metadata: Metadata, own: str | None, renderer: str) -> str:
    """The family whose template a model's prompts are made with, since it brings none; else empty.

    Args:
        own: the template that the store has for the model.
        renderer: the way to write prompts that the store names.
    """
    brings = own is not None or bool(renderer) or CHAT_TEMPLATE_KEY in metadata
    return "" if brings else family_by_tokens(metadata)


def family_by_tokens(metadata: Metadata) -> str:
    """The family of `puna.template.known` whose control tokens the vocabulary has, and ends answers with.

    Empty where there is none, where there are several, or where the metadata cannot be read.
    """
    try:
        texts = [text.decode("utf-8", "replace") for text in metadata.strings_bytes(_TOKENS)]
        numbers = [metadata.uint(key, None) for key in _ENDS]
        architecture = metadata.architecture
    except GGUFError:
        return ""
    ends = {texts[number] for number in numbers if number is not None and number < len(texts)}
    known = set(texts)
    found = [name for name, signs in _SIGNS.items() if signs.tokens <= known]
    if len(found) != 1 or _SIGNS[found[0]].end not in ends:
        return ""
    return _BY_ARCHITECTURE.get((found[0], architecture), found[0])
