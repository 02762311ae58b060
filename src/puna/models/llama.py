"""Llama: grouped-query attention with rotary positions, gated feed-forward, RMS norms before each.

Touvron et al., arXiv:2302.13971; Llama Team, arXiv:2407.21783. Also SmolLM, Mistral 7B, TinyLlama and others
whose files name this architecture, and Mixtral (arXiv:2401.04088), a mixture of experts. Pixtral's decoder is
one of these, and early files of Mistral Small 3.1 are, with the image encoder in a file of its own.
"""

from puna.gguf import Metadata
from puna.ml import Backend, RopeType
from puna.ml.nn import FeedForward, MixtureOfExperts
from puna.models import hyper
from puna.models.stack import Attention, PreNormBlock, Stack
from puna.models.vision import pixtral


class Layer(PreNormBlock):
    """Attention and feed-forward, of one piece or a mixture."""

    def __init__(self, index: int, metadata: Metadata, sizes: hyper.Transformer) -> None:
        super().__init__(index, sizes, Attention(sizes), [_feed_forward(metadata, sizes)])


def _feed_forward(metadata: Metadata, sizes: hyper.Transformer) -> FeedForward | MixtureOfExperts:
    if not metadata.uint("expert_count", 0):
        return FeedForward(sizes.hidden, sizes.feed_forward)
    return MixtureOfExperts(hyper.mixture(metadata, normalise=True), sizes.hidden, sizes.feed_forward)


class Llama(Stack):
    """The decoder, and where the file has it, Pixtral's image encoder."""

    # Frequencies that some old converters stored; they follow from the metadata.
    ignored = ("blk.*.attn_rot_embd.weight", "blk.*.attention.rotary_emb.inv_freq")

    def __init__(self, metadata: Metadata) -> None:
        sizes = hyper.transformer(metadata)
        base = metadata.float("rope.freq_base", 10000.0)
        rope = hyper.rope(metadata, sizes.key_size, base, RopeType.NORMAL)
        layers = [Layer(index, metadata, sizes) for index in range(sizes.layers)]
        super().__init__(metadata, sizes, rope, layers)
        self.metadata = metadata
        self.vision = pixtral.seen_within(metadata, sizes.hidden)

    def see_through(self, projector: Backend) -> None:
        self.vision = pixtral.seen_through(projector, self.metadata, self.sizes.hidden)
