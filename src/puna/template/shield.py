"""Keeping what people write from becoming control tokens.

A prompt is tokenized with its control tokens recognised, for the template writes them as text
(`<|im_end|>`). The same text inside a message must stay text. So a break, a character that Unicode assigns
to nobody, is put into each such place before rendering; the rendered prompt is cut at the breaks, and the
pieces are tokenized one by one.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]


def shield(
    messages: Sequence[Mapping[str, Any]], control_texts: Iterable[str]
) -> tuple[list[dict[str, Any]], str]:
    """Put breaks into the control tokens that the messages' contents spell.

    Args:
        messages: each with a `content`; only text contents are looked at.
        control_texts: the texts of the model's control tokens.

    Returns:
        The messages, with the break that cuts the rendered prompt into pieces (`str.split`).
    """
    contents = [message["content"] for message in messages if isinstance(message.get("content"), str)]
    everything = "\n".join(contents)
    break_ = next((mark for mark in _NONCHARACTERS if mark not in everything), _NONCHARACTERS[0])
    found = [text for text in control_texts if len(text) > 1 and text in everything and break_ not in text]
    shielded = [dict(message) for message in messages]
    for message in shielded:
        if isinstance(message.get("content"), str):
            message["content"] = _broken(message["content"].replace(break_, ""), found, break_)
    return shielded, break_


def _broken(text: str, control_texts: Sequence[str], break_: str) -> str:
    if not control_texts:
        return text
    pattern = re.compile("|".join(map(re.escape, sorted(control_texts, key=len, reverse=True))))
    # Texts may overlap, so breaking one can leave another whole.
    while pattern.search(text):
        text = pattern.sub(lambda match: match[0][0] + break_ + match[0][1:], text)
    return text
