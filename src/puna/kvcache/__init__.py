"""Caches of keys and values: what has been computed for earlier tokens, shared by sequences."""

from puna.kvcache.batch import WithinBatch
from puna.kvcache.cache import MAX_SEQUENCES, Cache, CacheFull, History, Member, Shift, ShiftRefused
from puna.kvcache.causal import Causal, Chunked, SlidingWindow
from puna.kvcache.composed import Composed

__all__ = [
    "MAX_SEQUENCES",
    "Cache",
    "CacheFull",
    "Causal",
    "Chunked",
    "Composed",
    "History",
    "Member",
    "Shift",
    "ShiftRefused",
    "SlidingWindow",
    "WithinBatch",
]
