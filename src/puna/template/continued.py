"""Going on with a conversation's last message: the rendered prompt ends where that message's content ends."""

from collections.abc import Mapping, Sequence
from typing import Any

from puna.errors import ModelError

# With a blank at its end, which shows whether the template took white space away: as transformers does it.
_TAG = "CONTINUE_FINAL_MESSAGE_TAG "


def tagged(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The messages, with a tag behind the last one's content, which is a text."""
    *earlier, last = messages
    return [*earlier, {**last, "content": f"{last['content']}{_TAG}"}]


def cut_at_tag(prompt: str, content: str) -> str:
    """The prompt up to the end of the last message's content, less the white space that is taken away.

    Raises:
        ModelError: the template leaves out the message, or a part of it.
    """
    bare = _TAG.rstrip()
    at = prompt.rfind(bare)
    if at < 0 or content.strip() not in prompt:
        raise ModelError(
            "the model's chat template leaves out the end of the assistant's last message, so the answer "
            "cannot go on with it; end the conversation with another message"
        )
    return prompt[:at] if prompt.startswith(_TAG, at) else prompt[:at].rstrip()
