"""Speculative decoding: tokens that may come next are drafted, and evaluated together with the last one.

The rows of such a batch hold the logits behind each drafted token. Tokens are chosen from them one after the
other, exactly as they would have been one step at a time, for as long as they turn out to be the drafted
ones. So whatever is drafted, the answer is the same; only its speed depends on it.
See docs/decisions/speculation.md.
"""
