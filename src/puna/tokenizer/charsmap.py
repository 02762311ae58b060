"""Checks of SentencePiece's precompiled normalization map.

Layout (sentencepiece, normalizer.cc): uint32 size of a double-array trie, the trie, then replacement texts,
each ended by NUL. The library follows offsets found in the trie without looking at the trie's end, so a
damaged map from an untrusted file must not reach it.
"""

import struct
from collections.abc import Sequence

from puna.errors import ModelError

# The longest replacement in Unicode's compatibility forms is 33 bytes; long ones are a decompression bomb.
_LONGEST_REPLACEMENT = 256


def check_charsmap(charsmap: bytes) -> None:
    """Accepts a map that is safe to use.

    Raises:
        ModelError: it is truncated, points outside itself, or holds text that is not UTF-8.
    """
    trie_size = int.from_bytes(charsmap[:4], "little")
    if len(charsmap) < 4 or not 0 < trie_size < len(charsmap) - 4 or trie_size % 1024:
        raise _damaged("its sizes do not fit")
    replacements = charsmap[4 + trie_size :]
    if not replacements.endswith(b"\0"):
        raise _damaged("its last replacement has no end")
    if max(map(len, replacements.split(b"\0"))) > _LONGEST_REPLACEMENT:
        raise _damaged(f"a replacement is longer than {_LONGEST_REPLACEMENT} bytes")
    try:
        replacements.decode()
    except UnicodeDecodeError as error:
        raise _damaged("its replacements are not UTF-8") from error
    _check_trie(struct.unpack_from(f"<{trie_size // 4}I", charsmap, 4), len(replacements))


def _check_trie(units: Sequence[int], replacements: int) -> None:
    """Every unit a walk can reach lies inside, and every value is the place of a replacement.

    A unit holds its label in bits 0-7, whether it has a value in bit 8, a shift in bit 9 and an offset from
    bit 10; units with bit 31 are values. Children lie at index ^ offset ^ byte, and the number of units is a
    multiple of 256, so looking at index ^ offset is enough.
    """
    for index, unit in enumerate(units):
        if unit >> 31:
            continue
        child = index ^ (unit >> 10) << ((unit & 0x200) >> 6)
        if child >= len(units):
            raise _damaged("its trie points outside itself")
        if unit & 0x100 and units[child] & 0x7FFFFFFF >= replacements:
            raise _damaged("a replacement lies outside of it")


def _damaged(reason: str) -> ModelError:
    return ModelError(f"tokenizer.ggml.precompiled_charsmap is damaged: {reason}")
