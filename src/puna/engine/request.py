"""What the engine is asked for; plain data, shared with parts that never compute, and sent to runners."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from puna.errors import InvalidOption
from puna.sampling.grammar import Grammar, Thinking
from puna.sampling.parameters import SamplingParameters

MAX_ADAPTERS: Final = 8
"""The most adapters of a request, and of all that are computed at once."""

MAX_SCALE: Final = 10
"""Beyond, computations overflow, which harms those that are computed together with it."""


@dataclass(frozen=True, slots=True)
class Image:
    """A picture in a prompt.

    Attributes:
        at: before which token of the prompt it stands; the prompt's length is its end.
        content: of a file: PNG, JPEG, WebP or GIF.
    """

    at: int
    content: bytes


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """A LoRA adapter that an answer is made with.

    Attributes:
        path: of its GGUF file.
        scale: what its products are multiplied with; with 0 it changes nothing.

    Raises:
        InvalidOption: the scale is no number, or too large.
    """

    path: str
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not abs(self.scale) <= MAX_SCALE:
            raise InvalidOption(
                f"the scale of an adapter must be a number from -{MAX_SCALE} to {MAX_SCALE}, not {self.scale}"
            )


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """A prompt, and how to go on with it.

    Attributes:
        prompt: token ids, at least one.
        num_predict: most tokens to generate; below 0 until the context is full.
        stop: texts that end the answer.
        grammar: what the answer is kept to.
        thinking: tags of thoughts before the answer, which the grammar leaves alone.
        shown: ids of control tokens that the text shows; others are left out.
        shift: when the context is full, drop old tokens and go on, rather than end the answer.
        num_keep: how many tokens from the beginning of the prompt a shift leaves alone; below 0 all of it.
        thinking_budget: most tokens of these thoughts, after which the model has to answer; below 0 there is
            no limit.
        prompt_logprobs: tell the log-probabilities of the prompt's tokens, each with as many alternatives as
            `sampling` says. The whole prompt is evaluated for that, a few tokens at a time, whatever the
            cache has of it, and `shift` takes nothing of it away.
        scope: only prompts and answers of the same scope share what the cache holds of them.
        images: the prompt's pictures, in the order in which they stand.
        draft: most tokens that are drafted at once, to be evaluated together; below 0 as many as pay.
        adapters: what the answer is made with; None for those that the model was loaded with.

    Raises:
        InvalidOption: there is no prompt, or its tokens are to be told of and it has pictures; or an adapter
            is named twice, or there are too many.
    """

    prompt: list[int]
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    num_predict: int = -1
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None
    thinking: Thinking | None = None
    shown: frozenset[int] = frozenset()
    shift: bool = False
    num_keep: int = 4
    scope: str = ""
    thinking_budget: int = -1
    prompt_logprobs: bool = False
    images: tuple[Image, ...] = ()
    draft: int = -1
    adapters: tuple[AdapterUse, ...] | None = None

    def __post_init__(self) -> None:
        if not self.prompt:
            raise InvalidOption("the prompt is empty: there is nothing to continue")
        if self.prompt_logprobs and self.images:
            raise InvalidOption("the tokens of a prompt with pictures have no log-probabilities to tell of")
        check_adapters(self.adapters or ())


def uses(paths: Iterable[str | Path]) -> tuple[AdapterUse, ...]:
    """Each of these adapters as it is."""
    return tuple(AdapterUse(str(path)) for path in paths)


def check_adapters(adapters: Sequence[AdapterUse]) -> None:
    """Raises InvalidOption where one is named twice, or there are too many."""
    if len(adapters) > MAX_ADAPTERS:
        raise InvalidOption(f"there are {len(adapters)} adapters; at most {MAX_ADAPTERS} are allowed")
    if len({one.path for one in adapters}) < len(adapters):
        raise InvalidOption("an adapter is named twice")
