"""Special tokens: finding them in text.

As in llama.cpp, user-defined tokens are always taken out of the text before it is tokenized; control and
unknown tokens only when the caller asks for it, so that text from outside cannot bring them in.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from puna.tokenizer.metadata import TokenizerMetadata
from puna.tokenizer.vocabulary import TokenType, Vocabulary, readable

# Patterns nest as deep as special tokens share beginnings; deeper than this they are listed flat, so that a
# crafted vocabulary cannot exhaust the regex compiler's stack.
_DEEPEST = 60

# What C's isspace() accepts.
_SPACE = " \t\n\r\v\f"


@dataclass(frozen=True, slots=True)
class Stripping:
    """Ids of special tokens that swallow white space.

    Attributes:
        before: those that swallow what stands before them.
        after: those that swallow what follows.
    """

    before: frozenset[int] = frozenset()
    after: frozenset[int] = frozenset()


NO_STRIPPING = Stripping()


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Special tokens by text.

    Attributes:
        ids: text to id.
        always: matches user-defined tokens; None where there are none.
        parsed: matches every special token.
        stripping: which of them swallow white space.
    """

    ids: Mapping[str, int]
    always: re.Pattern[str] | None
    parsed: re.Pattern[str] | None
    stripping: Stripping = NO_STRIPPING

    def split(self, text: str, *, parse_special: bool) -> Iterator[str | int]:
        """Fragments of the text in order: special tokens as ids, the rest as non-empty strings.

        Of several tokens that match at one place the longest counts.
        """
        pattern = self.parsed if parse_special else self.always
        if pattern is None:
            return iter([text] if text else [])
        fragments = self._fragments(pattern, text)
        return fragments if self.stripping == NO_STRIPPING else self._stripped(fragments)

    def _fragments(self, pattern: re.Pattern[str], text: str) -> Iterator[str | int]:
        end = 0
        for match in pattern.finditer(text):
            if match.start() > end:
                yield text[end : match.start()]
            yield self.ids[match.group()]
            end = match.end()
        if end < len(text):
            yield text[end:]

    def _stripped(self, fragments: Iterable[str | int]) -> Iterator[str | int]:
        parts = list(fragments)
        for index, part in enumerate(parts):
            if isinstance(part, int):
                yield part
                continue
            if index and parts[index - 1] in self.stripping.after:
                part = part.lstrip(_SPACE)
            if index + 1 < len(parts) and parts[index + 1] in self.stripping.before:
                part = part.rstrip(_SPACE)
            if part:
                yield part


def find_special(vocabulary: Vocabulary, stripping: Stripping = NO_STRIPPING) -> SpecialTokens:
    """The special tokens of a vocabulary. Tokens that are not valid UTF-8 cannot occur in text."""
    always = _texts(vocabulary, vocabulary.ids_of(TokenType.USER_DEFINED))
    ids = always | _texts(vocabulary, vocabulary.ids_of(TokenType.CONTROL, TokenType.UNKNOWN))
    return SpecialTokens(ids, longest_match(always), longest_match(ids), stripping)


def read_stripping(metadata: TokenizerMetadata, vocabulary: Vocabulary) -> Stripping:
    """Which tokens swallow white space. GGUF does not say, so llama.cpp's rules by model name hold."""
    name = metadata.string("general.name", "").lower()
    pre = metadata.string("tokenizer.ggml.pre", "")
    if pre in ("jina-v2-de", "jina-v2-es", "jina-v2-code") or metadata.architecture in (
        "nomic-bert-moe",
        "jina-bert-v3",
    ):
        return Stripping(before=frozenset(vocabulary.find([b"<mask>"]).values()))
    if "modern-bert" in name:
        return Stripping(before=frozenset(vocabulary.find([b"[MASK]"]).values()))
    if "phi-3" in name or "phi3" in name:
        special = vocabulary.ids_of(TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)
        kept = vocabulary.find([b"<unk>", b"<s>", b"<|endoftext|>"]).values()
        return Stripping(after=frozenset(special) - frozenset(kept))
    return NO_STRIPPING


def _texts(vocabulary: Vocabulary, ids: Iterable[int]) -> dict[str, int]:
    ids = list(ids)
    return {text: ids[index] for index, text in readable(vocabulary.tokens[id] for id in ids)}


def longest_match(texts: Iterable[str]) -> re.Pattern[str] | None:
    """A pattern that matches any of the texts, the longest first; None where there is nothing to match.

    Written as a tree of common beginnings: an alternation of thousands of literals would be tried one by one
    at every `<` of the input.
    """
    words = sorted({text for text in texts if text})
    return re.compile(_tree(words, 0)) if words else None


def _tree(words: list[str], depth: int) -> str:
    if words == [""]:
        return ""
    if depth > _DEEPEST:
        return f"(?:{'|'.join(map(re.escape, sorted(words, key=len, reverse=True)))})"
    optional = words[0] == ""
    groups = groupby(words[optional:], key=itemgetter(0))
    branches = [_branch(list(group), depth) for _, group in groups]
    joined = branches[0] if len(branches) == 1 and not optional else f"(?:{'|'.join(branches)})"
    return joined + "?" if optional else joined


def _branch(words: list[str], depth: int) -> str:
    # The words are sorted: what the first and the last begin with, all do.
    first, last = words[0], words[-1]
    shared = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return re.escape(first[:shared]) + _tree([word[shared:] for word in words], depth + 1)
