"""Caches: what has been computed for earlier tokens, shared by sequences."""

from puna.kvcache.batch import WithinBatch
from puna.kvcache.cache import (
    MAX_SEQUENCES,
    Cache,
    CacheFull,
    Crossed,
    History,
    Member,
    Shift,
    ShiftRefused,
)
from puna.kvcache.causal import Causal, Chunked, SlidingWindow
from puna.kvcache.composed import Composed
from puna.kvcache.encoder import EncoderCache
from puna.kvcache.recurrent import Recurrent

__all__ = [
    "MAX_SEQUENCES",
    "Cache",
    "CacheFull",
    "Causal",
    "Chunked",
    "Composed",
    "Crossed",
    "EncoderCache",
    "History",
    "Member",
    "Recurrent",
    "Shift",
    "ShiftRefused",
    "SlidingWindow",
    "WithinBatch",
]
