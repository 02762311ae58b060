"""Constraints: which tokens a grammar allows next, through llguidance.

    constraints = Constraints(table)                      # once per model
    constraint = constraints.start(Grammar.any_object())  # once per sequence
    choice = sampler.sample(logits, constraint.mask())
    forced = constraint.advance(choice.token)

The library is loaded and the vocabulary indexed (0.1 s for 49,152 tokens, 0.9 s for 262,144) when the first
constraint is started.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from puna.errors import InvalidOption
from puna.sampling.grammar import Grammar, Thinking
from puna.sampling.lark import compiler_source, limits, refusal

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

Mask = NDArray[np.bool_]

CACHE_ENTRIES = 32
CACHE_BYTES = 256 * 1024
"""Bounds of the cache of compiled grammars, the second in bytes of source. Compiled, a grammar takes some 200
times its source; one of nested repetitions up to 35 MB, where the compiler's own limit is.
"""


@dataclass(frozen=True, slots=True, eq=False)
class TokenTable:
    """What a constraint needs to know of a vocabulary.

    Attributes:
        pieces: for each id the bytes it stands for; for special tokens their own text.
        special: ids of the control tokens: grammars mean text, and these are none.
        ends: ids that end a generation: allowed where the grammar may end.
        encode: ids of a text that goes on after other text, without BOS or EOS.
    """

    pieces: Sequence[bytes]
    special: Collection[int]
    ends: Collection[int]
    encode: Callable[[str], list[int]]


class Constraints:
    """Compiles grammars for one vocabulary, and keeps the latest ones."""

    def __init__(self, table: TokenTable) -> None:
        self._table = table
        self._compiled: OrderedDict[tuple[Grammar, Thinking | None, bool], Constraint] = OrderedDict()
        self._sources = 0

    def start(
        self, grammar: Grammar, thinking: Thinking | None = None, *, thinking_opened: bool = False
    ) -> "Constraint":
        """The constraint of one new sequence.

        Args:
            thinking: tags of the model's thoughts, during which all but the end is allowed; an answer
                that does not begin with the opening tag is constrained at once.
            thinking_opened: the prompt ends with the opening tag.

        Raises:
            InvalidOption: the grammar is refused, or no text satisfies it.
        """
        key = (grammar, thinking, thinking_opened)
        if key not in self._compiled:
            self._keep(key, self._compile(grammar, thinking, thinking_opened))
        self._compiled.move_to_end(key)
        return self._compiled[key].copy()

    def _keep(self, key: tuple[Grammar, Thinking | None, bool], constraint: "Constraint") -> None:
        self._compiled[key] = constraint
        self._sources += len(key[0].source)
        while len(self._compiled) > 1 and (
            len(self._compiled) > CACHE_ENTRIES or self._sources > CACHE_BYTES
        ):
            oldest, _ = self._compiled.popitem(last=False)
            self._sources -= len(oldest[0].source)

    def _compile(self, grammar: Grammar, thinking: Thinking | None, opened: bool) -> "Constraint":
        from llguidance import LLMatcher

        source = compiler_source(grammar, special=self._special, thinking=thinking, thinking_opened=opened)
        matcher = LLMatcher(self._tokenizer, source, log_level=0, limits=limits())
        matcher.compute_ff_tokens()
        matcher.compute_bitmask()
        # Two steps find what construction does not: grammars without any text, and some too large.
        for tried in (matcher, _a_step_on(matcher)):
            if tried.is_error():
                raise refusal(grammar, _reason(tried))
        return Constraint(matcher, len(self._table.pieces))

    @cached_property
    def _special(self) -> dict[str, int]:
        return {self._table.pieces[id].decode(errors="replace"): id for id in self._table.special}

    @cached_property
    def _tokenizer(self) -> "LLTokenizer":
        from llguidance import LLTokenizer, TokenizerWrapper

        vocabulary = _Vocabulary(self._table)
        return LLTokenizer(TokenizerWrapper(vocabulary), eos_token=vocabulary.ends)


class Constraint:
    """The state of one sequence in its grammar.

    Attributes:
        warnings: what of the grammar has no effect, such as unknown keywords of a JSON Schema.
    """

    def __init__(self, matcher: "LLMatcher", vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self.warnings: tuple[str, ...] = tuple(matcher.get_grammar_warnings())

    def copy(self) -> "Constraint":
        """A constraint in the same state that goes its own way."""
        return Constraint(self._matcher.deep_copy(), self._vocab_size)

    def mask(self) -> Mask:
        """The tokens that may come next, (vocabulary,); end tokens where the grammar may end.

        Raises:
            InvalidOption: finding out takes more steps or memory than is allowed.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)

    def advance(self, token: int, most: int = 2**31) -> list[int]:
        """Goes on by a token that `mask` allowed, and by those that must follow.

        Args:
            most: how many of these at most.

        Returns:
            The tokens that must follow: they need not be sampled, only evaluated.

        Raises:
            InvalidOption: the token is not allowed, or what follows it takes too much to find out.
        """
        self._matcher.consume_token(token)
        self._check()
        if self._matcher.is_stopped():
            return []
        forced = self._matcher.compute_ff_tokens()[:most]
        accepted = forced[: self._matcher.try_consume_tokens(forced)] if forced else []
        self._check()
        return accepted

    @property
    def complete(self) -> bool:
        """Whether the text is complete and nothing can follow."""
        return self._matcher.is_stopped() and self._matcher.is_accepting()

    @property
    def accepting(self) -> bool:
        """Whether the text may end here."""
        return self._matcher.is_accepting()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise InvalidOption(f"the output cannot be kept to its grammar: {_reason(self._matcher)}")


class _Vocabulary:
    """The token table as llguidance asks for it."""

    def __init__(self, table: TokenTable) -> None:
        self.tokens = list(table.pieces)
        self.special_token_ids = sorted(table.special)
        self.ends = sorted(table.ends)
        self.bos_token_id = None
        self._encode = table.encode
        if not self.ends:
            # The library wants one; as the last it is outside of every mask.
            self.ends = [len(self.tokens)]
            self.special_token_ids.append(len(self.tokens))
            self.tokens.append(b"<no end>")
        self.eos_token_id = self.ends[0]

    def __call__(self, text: bytes) -> list[int]:
        """The text's ids. The library takes them at their word, so where the tokenizer's would stand for
        another text (it may normalise, or lack characters) they are the longest tokens from the left.
        """
        ids = self._encode(text.decode(errors="replace"))
        return ids if b"".join(self.tokens[id] for id in ids) == text else self._longest(text)

    def _longest(self, text: bytes) -> list[int]:
        ids = []
        while text:
            size = next((n for n in range(min(len(text), self._width), 0, -1) if text[:n] in self._ids), 0)
            if not size:
                return []
            ids.append(self._ids[text[:size]])
            text = text[size:]
        return ids

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        special = {*self.special_token_ids}
        return {piece: id for id, piece in enumerate(self.tokens) if id not in special}

    @cached_property
    def _width(self) -> int:
        return max(map(len, self._ids), default=0)


def _a_step_on(matcher: "LLMatcher") -> "LLMatcher":
    """A copy after one of the tokens that may come next, with the step after it tried as well."""
    ahead = matcher.deep_copy()
    bits = np.unpackbits(np.frombuffer(ahead.compute_bitmask(), np.uint8), bitorder="little")
    allowed = np.flatnonzero(bits)
    if allowed.size and not ahead.is_stopped():
        ahead.consume_token(int(allowed[-1]))
        if not ahead.is_stopped():
            ahead.compute_bitmask()
    return ahead


def _reason(matcher: "LLMatcher") -> str:
    """Why the matcher gave up, in a few words."""
    if "NoExtension" in matcher.get_error():
        return "no text satisfies it"
    return " ".join(matcher.get_error().split("\n<")[0].split())[:160]
