"""The tokenizer all kinds share: special tokens, BOS and EOS, decoding. Kinds differ in `segment`."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from puna.errors import InvalidOption
from puna.tokenizer.chunks import Segment
from puna.tokenizer.decoding import IncrementalDecoder, checked
from puna.tokenizer.special import SpecialTokens

_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Tokenizer:
    """Text to token ids and back.

    Attributes:
        pieces: for each id the bytes it stands for; for special tokens their own text.
        bos_id: the token that begins a text (for WordPiece [CLS]); None where the model has none.
        eos_id: the token that ends a text (for WordPiece [SEP]); None where the model has none.
        end_ids: every id at which a generation ends.
        add_bos: whether `encode` prepends BOS.
        add_eos: whether `encode` appends EOS.
    """

    pieces: list[bytes]
    bos_id: int | None
    eos_id: int | None
    end_ids: frozenset[int]
    add_bos: bool
    add_eos: bool
    # The pieces as text shows them: special tokens are empty.
    _visible: list[bytes]
    _tokens: list[bytes]
    _special: SpecialTokens
    _special_ids: frozenset[int]
    _segment: Segment
    _starts_with_space: bool

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self.pieces)

    @property
    def special_ids(self) -> Mapping[str, int]:
        """Ids of the control, unknown and user-defined tokens by their texts."""
        return MappingProxyType(self._special.ids)

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of a text.

        Args:
            text: any text; surrogates that form no character count as U+FFFD.
            add_special: add BOS and EOS as the model wants them, unless the text has them there already.
            parse_special: read the text of control tokens as these tokens. Leave it off for text that is
                not one's own, which could otherwise pretend to be another role. User-defined tokens are
                always read.
        """
        ids: list[int] = []
        for fragment in self._special.split(_well_formed(text), parse_special=parse_special):
            if isinstance(fragment, int):
                ids.append(fragment)
            else:
                ids += self._segment(fragment)
        return self._with_ends(ids) if add_special else ids

    def encode_continuation(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Token ids of a text that goes on right after other text: without the space that `encode` puts
        before a text, without BOS and EOS.

        The ids may stand for less than the text where the vocabulary lacks characters.

        Args:
            parse_special: as in `encode`.
        """
        if not self._starts_with_space:
            return self.encode(text, add_special=False, parse_special=parse_special)
        # A byte that no token holds beside others takes the space.
        before = self.encode("\x02", add_special=False)
        ids = self.encode("\x02" + text, add_special=False, parse_special=parse_special)
        return ids[len(before) :] if ids[: len(before)] == before else []

    def _with_ends(self, ids: list[int]) -> list[int]:
        if self.add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        if self.add_eos and self.eos_id is not None and ids[-1:] != [self.eos_id]:
            ids.append(self.eos_id)
        return ids

    def decode(self, ids: Sequence[int], *, render_special: bool = False) -> str:
        """The text of a whole sequence, with U+FFFD for bytes that form no character.

        The space that `encode` puts before a text is taken off again. Special tokens are left out unless
        `render_special`.

        Raises:
            InvalidOption: an id is outside the vocabulary.
        """
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            wrong = next(id for id in ids if not 0 <= id < self.vocab_size)
            raise InvalidOption(f"token id {wrong} is outside the vocabulary of {self.vocab_size} tokens")
        pieces = self.pieces if render_special else self._visible
        data = b"".join(map(pieces.__getitem__, ids))
        if self._starts_with_space:
            data = data.removeprefix(b" ")
        return data.decode("utf-8", "replace")

    def decoder(
        self, *, render_special: bool = False, at_start: bool = False, shown: Collection[int] = ()
    ) -> IncrementalDecoder:
        """A decoder for tokens one at a time.

        Args:
            render_special: let special tokens come out as their text.
            shown: the ids of special tokens that come out as their text in any case.
            at_start: the tokens begin a text, so that the space `encode` puts there is taken off, as
                `decode` does. Off for a generation, which goes on after a prompt.

        Raises:
            InvalidOption: a shown id is outside the vocabulary.
        """
        pieces = self.pieces if render_special else self._visible
        if shown and not render_special:
            pieces = pieces.copy()
            for id in shown:
                pieces[id] = self.pieces[checked(id, self.vocab_size)]
        return IncrementalDecoder(pieces, strip_leading_space=at_start and self._starts_with_space)

    def token_text(self, id: int) -> str:
        """The token as the vocabulary writes it, such as `Ġthe`, `▁the` or `<|im_end|>`.

        Raises:
            InvalidOption: the id is outside the vocabulary.
        """
        return self._tokens[checked(id, self.vocab_size)].decode(errors="replace")

    def is_special(self, id: int) -> bool:
        """Whether the token is a control or unknown token, which `decode` leaves out."""
        return id in self._special_ids


def _well_formed(text: str) -> str:
    """The text with pairs of surrogates joined and single ones replaced: writable as UTF-8."""
    if text.isascii() or not _SURROGATES.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
