"""The log-probabilities of a prompt's own tokens, where a request asks for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from puna.engine.events import PromptLogprobs, TokenLogprob
from puna.ml.array import Floats
from puna.sampling import logprobs

AT_ONCE = 32
"""Most tokens that are evaluated at once with the logits of each: what a graph is reserved for has few."""


@dataclass(frozen=True, slots=True)
class PromptScores:
    """What is known of a prompt. Nothing comes before its first token, so that one has no probability.

    Attributes:
        prompt: token ids.
        top: how many alternatives each token gets.
        known: the log-probabilities of the tokens behind the first, in order, as far as they are known.
    """

    prompt: Sequence[int]
    top: int
    known: list[TokenLogprob] = field(default_factory=list)

    def wanted(self, held: int, count: int) -> range:
        """Of the `count` tokens behind the first `held`, those whose logits are wanted.

        The last one of the prompt is among them: what follows it is the answer.
        """
        return range(max(len(self.known) - held, 0), count)

    def take(self, rows: Iterable[Floats], pieces: Sequence[bytes]) -> None:
        """Takes in the logits of the tokens that were wanted.

        Args:
            rows: F32 (vocabulary,) for each.
            pieces: for each id the bytes it stands for.
        """
        left = self.prompt[len(self.known) + 1 :]
        # Behind the prompt's last token comes none of it.
        for token, logits in zip(left, rows, strict=False):
            logprob, top = logprobs.report(logits, token, self.top)
            others = tuple(TokenLogprob(id, pieces[id], one) for id, one in top)
            self.known.append(TokenLogprob(token, pieces[token], logprob, others))

    def told(self, pieces: Sequence[bytes]) -> PromptLogprobs | None:
        """All of it, once it is known."""
        if len(self.known) + 1 < len(self.prompt):
            return None
        return PromptLogprobs(pieces[self.prompt[0]], tuple(self.known))
