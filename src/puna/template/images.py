"""Where pictures stand in a prompt: a tag with the picture's number, at which the model gets the picture."""

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from puna.template.fields import list_field, text_of

PLACEHOLDER = "[img]"


def with_image_tags(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages, with `[img-0]`, `[img-1]` … in their contents for their `images`, counted over all.

    A tag takes the place of an `[img]` in the content; those that find none stand before it, as in Ollama.

    Raises:
        InvalidOption: a content is no text, or `images` no list.
    """
    numbers = count()
    return [
        {**message, "content": _tagged(text_of(message, "content"), [next(numbers) for _ in images])}
        if (images := list_field(message, "images"))
        else dict(message)
        for message in messages
    ]


def _tagged(content: str, numbers: Sequence[int]) -> str:
    before, *parts = content.split(PLACEHOLDER)
    placed = [f"[img-{number}]" for number in numbers[: len(parts)]]
    placed += [PLACEHOLDER] * (len(parts) - len(placed))
    leading = "".join(f"[img-{number}]" for number in numbers[len(parts) :])
    return leading + before + "".join(tag + part for tag, part in zip(placed, parts, strict=True))
