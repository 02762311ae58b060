"""What the engine is asked for; plain data, shared with parts that never compute, and sent to runners."""

from dataclasses import dataclass, field

from puna.errors import InvalidOption
from puna.sampling.grammar import Grammar, Thinking
from puna.sampling.parameters import SamplingParameters


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

    Raises:
        InvalidOption: there is no prompt, or its tokens are to be told of and it has pictures.
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

    def __post_init__(self) -> None:
        if not self.prompt:
            raise InvalidOption("the prompt is empty: there is nothing to continue")
        if self.prompt_logprobs and self.images:
            raise InvalidOption("the tokens of a prompt with pictures have no log-probabilities to tell of")
