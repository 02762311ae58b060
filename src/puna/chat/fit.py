"""Conversations that are too long: which messages to leave out."""

from bisect import bisect_left
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import Generic, TypeVar

from puna.chat.conversation import Message
from puna.errors import ContextLengthExceeded

_FREE = 4
Prompt = TypeVar("Prompt", bound=Sized)


@dataclass(frozen=True, slots=True)
class Fitted(Generic[Prompt]):
    """A conversation within its limit.

    Attributes:
        messages: those that are kept.
        prompt: what was rendered of them.
        dropped_tokens: by how many tokens the prompt is shorter for it.
    """

    messages: tuple[Message, ...]
    prompt: Prompt
    dropped_tokens: int = 0


def fit(
    messages: Sequence[Message],
    render: Callable[[Sequence[Message]], Prompt],
    num_ctx: int,
    *,
    truncate: bool,
) -> Fitted[Prompt]:
    """The prompt of a conversation, without its oldest turns where that is allowed and necessary.

    A turn is what a user says and all that follows up to where a user speaks again. System messages stay, and
    so does the last turn. Where turns are left out, a quarter of the context becomes free, if the last turn
    leaves so much: for the answer, and so that not every further turn pushes another one out.

    Args:
        render: the prompt of a conversation, whose size is in tokens; is called once for each step of a
            binary search.
        num_ctx: the most tokens that are allowed.
        truncate: turns may be left out.

    Raises:
        ContextLengthExceeded: the conversation is too long, or the last turn alone is.
    """
    whole = render(messages)
    if len(whole) <= num_ctx:
        return Fitted(tuple(messages), whole)
    starts = turn_starts(messages) if truncate else []
    if not starts:
        raise ContextLengthExceeded(len(whole), num_ctx)
    prompts: dict[int, Prompt] = {}
    aim = num_ctx - num_ctx // _FREE

    def fits(start: int) -> bool:
        prompts[start] = render(kept_from(messages, start))
        return len(prompts[start]) <= aim

    start = starts[min(bisect_left(starts, True, key=fits), len(starts) - 1)]
    kept, prompt = kept_from(messages, start), prompts[start]
    if len(prompt) > num_ctx:
        raise ContextLengthExceeded(len(prompt), num_ctx)
    return Fitted(tuple(kept), prompt, len(whole) - len(prompt))


def turn_starts(messages: Sequence[Message]) -> list[int]:
    """Where a user begins to speak and there is something before it that may be left out."""
    first = next((index for index, m in enumerate(messages) if m.role != "system"), len(messages))
    return [index for index, m in enumerate(messages) if m.role == "user" and index > first]


def kept_from(messages: Sequence[Message], start: int) -> list[Message]:
    """The messages from `start`, and the system messages before."""
    return [message for index, message in enumerate(messages) if index >= start or message.role == "system"]
