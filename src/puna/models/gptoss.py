"""gpt-oss: layers with and without a window in turn, attention sinks, a mixture of experts with biases.

OpenAI, arXiv:2508.10925. Ollama's files name the architecture gptoss, and not the kind of rotary scaling.
"""

from puna.gguf import Metadata
from puna.ml import RopeType, Tensor
from puna.ml.nn import MixtureOfExperts, Scores
from puna.models import hyper
from puna.models.stack import Attention, PreNormBlock, Stack

_ALPHA, _LIMIT = 1.702, 7.0


def _gate(gate: Tensor, up: Tensor) -> Tensor:
    return gate.swiglu_oai(up, _ALPHA, _LIMIT)


class GptOss(Stack):
    """The decoder."""

    def __init__(self, metadata: Metadata) -> None:
        sizes = hyper.transformer(metadata)
        base = metadata.float("rope.freq_base", 150000.0)
        rope = hyper.rope(metadata, sizes.key_size, base, RopeType.NEOX, scaling="yarn")
        routing = hyper.mixture(metadata, normalise=False, scores=Scores.SOFTMAX_OF_CHOSEN)
        width = hyper.count(metadata, "expert_feed_forward_length", sizes.feed_forward)
        layers = [
            PreNormBlock(
                index,
                sizes,
                Attention(sizes, sinks=True),
                [MixtureOfExperts(routing, sizes.hidden, width, act=_gate, bias=True)],
                second_norm="post_attention_norm|ffn_norm",
            )
            for index in range(sizes.layers)
        ]
        super().__init__(
            metadata,
            sizes,
            rope,
            layers,
            window=hyper.count(metadata, "attention.sliding_window", 128),
            local=hyper.local_layers(metadata, sizes.layers, 2),
        )
