"""Drafts from what came before, for texts that are quoted, edited or repeated.

This is known as prompt lookup decoding (Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding).
"""

from __future__ import annotations

from array import array

from puna.engine.speculation.depth import Trust, batch_size

# So many tokens in a row that came before, in this order, are taken for the beginning of a copy. A place that
# has told fewer tokens rightly is not trusted yet.
_GRAM = 3
# Tokens before these are compared, up to so many, to find out how long it has been one.
_MOST_COMPARED = 32
_NOWHERE = -1


class Lookup:
    """A drafter that lets one sequence go on as it did before.

    It keeps a place in the sequence where the last tokens stand as well, and which therefore tells the next
    one. The place moves on with the sequence as long as it is right; then the latest other one is taken. If
    there is none it moves on too, since of a text that is copied one word may have been changed.

    Attributes:
        agreement: how many tokens before the place are the last ones of the sequence.
        trust: learns from every generated token, whether or not it was drafted.
    """

    def __init__(self) -> None:
        self.agreement = 0
        self.trust = Trust()
        self._tokens: array[int] = array("i")
        self._seen = 0
        self._place = _NOWHERE
        self._after: dict[tuple[int, int, int], int] = {}

    def draft(self, tokens: array[int], pending: int, most: int) -> list[int]:
        """See `Drafter.draft`."""
        self._follow(tokens)
        if self.agreement < _GRAM:
            return []
        size = batch_size(self.agreement, self.trust.hazard, pending, most)
        return self._continued(size - pending) if size else []

    def _follow(self, tokens: array[int]) -> None:
        """Takes in the tokens that have come since the last time, or all where some were dropped."""
        if tokens is not self._tokens:
            self._begin(tokens)
        for end in range(self._seen + 1, len(tokens) + 1):
            self._take(tokens, end)
        self._seen = len(tokens)

    def _begin(self, tokens: array[int]) -> None:
        """Remembers all but the last of them; nothing is learnt, as most were not generated."""
        self._tokens, self._seen = tokens, max(len(tokens) - 1, 0)
        self._place, self.agreement = _NOWHERE, 0
        known = tokens[: self._seen]
        grams = zip(known, known[1:], known[2:], strict=False)
        self._after = {gram: end for end, gram in enumerate(grams, _GRAM)}

    def _take(self, tokens: array[int], end: int) -> None:
        """Takes in the token before `end`."""
        if self._place != _NOWHERE:
            right = tokens[self._place] == tokens[end - 1]
            if self.agreement >= _GRAM:
                self.trust.learn(self.agreement, right)
            self.agreement = self.agreement + 1 if right else 0
            self._place += 1
        if end < _GRAM:
            return
        gram = tokens[end - 3], tokens[end - 2], tokens[end - 1]
        found = self._after.get(gram, _NOWHERE)
        self._after[gram] = end
        if found != _NOWHERE and self.agreement < _GRAM:
            self._place, self.agreement = found, _alike(tokens, found, end)

    def _continued(self, count: int) -> list[int]:
        """`count` tokens from the place on; what follows the end of the sequence is what this begins with."""
        known = self._tokens[self._place : self._place + count].tolist()
        return (known * -(-count // len(known)))[:count]


def _alike(tokens: array[int], first: int, second: int) -> int:
    """How many tokens before two places are the same, of those that are compared."""
    most = min(first, _MOST_COMPARED)
    differing = (back for back in range(most) if tokens[first - 1 - back] != tokens[second - 1 - back])
    return next(differing, most)
