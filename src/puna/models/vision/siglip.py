"""The image encoder of Gemma 3: SigLIP (Zhai et al., arXiv:2303.15343) on one square, then a projection.

The patches' states are averaged over squares, so that a picture has as many features as it takes tokens
(Gemma Team, arXiv:2503.19786, section 2).
"""

import math
from dataclasses import dataclass

import numpy as np

from puna.errors import GGUFError
from puna.gguf import Metadata
from puna.images.decode import decode
from puna.images.pixels import Pixels, squared
from puna.ml import Context, DType, Tensor
from puna.ml.nn import Embedding, LayerNorm, Linear, Module, RMSNorm, Weight, merge_heads, split_heads
from puna.models import hyper
from puna.models.base import Placement, Vision

# Along a side, where a file does not say how many tokens a picture takes.
_POOLED = 4


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of the encoder.

    Attributes:
        layers: blocks.
        hidden: width of a patch's vector.
        heads: of attention.
        feed_forward: width inside the feed-forward network.
        eps: of the norms.
        image: pixels along a side of the square.
        patch: pixels along a side of a patch.
        tokens: how many a picture takes, a square number.
    """

    layers: int
    hidden: int
    heads: int
    feed_forward: int
    eps: float
    image: int
    patch: int
    tokens: int

    @staticmethod
    def of(metadata: Metadata) -> "Sizes":
        """Those that a file names. Raises: GGUFError: a key is missing or makes no sense."""
        hidden = hyper.count(metadata, "vision.embedding_length")
        side = hyper.count(metadata, "vision.image_size") // hyper.count(metadata, "vision.patch_size")
        tokens = max(side // _POOLED, 1) ** 2
        sizes = Sizes(
            hyper.count(metadata, "vision.block_count"),
            hidden,
            hyper.count(metadata, "vision.attention.head_count"),
            hyper.count(metadata, "vision.feed_forward_length", 4 * hidden),
            metadata.float("vision.attention.layer_norm_epsilon", 1e-6),
            hyper.count(metadata, "vision.image_size"),
            hyper.count(metadata, "vision.patch_size"),
            hyper.count(metadata, "mm.tokens_per_image", tokens),
        )
        sizes.check(metadata.source)
        return sizes

    def check(self, source: str) -> None:
        """Check that they go together. Raises: GGUFError."""
        wrong = {
            f"{self.layers} layers are more than any model has": self.layers > hyper.LAYERS_AT_MOST,
            f"{self.heads} heads cannot share {self.hidden} elements evenly": self.hidden % self.heads,
            f"a square of {self.image} pixels cannot be cut into patches of {self.patch}": (
                self.image % self.patch or self.image > hyper.SIDE_AT_MOST
            ),
            f"{self.tokens} tokens cannot stand for {self.side} × {self.side} patches": (
                math.isqrt(self.tokens) ** 2 != self.tokens or self.side % math.isqrt(self.tokens)
            ),
        }
        for text, is_wrong in wrong.items():
            if is_wrong:
                raise GGUFError(f"{source}: in the image encoder {text}")

    @property
    def side(self) -> int:
        """Patches along a side."""
        return self.image // self.patch

    @property
    def pooled(self) -> int:
        """Patches along a side of the squares that are averaged."""
        return self.side // math.isqrt(self.tokens)


class Layer(Module):
    """Attention and feed-forward, each of the normalised state and added to it."""

    def __init__(self, index: int, sizes: Sizes, up: str, down: str) -> None:
        self.scope, self.heads, width = f"blk.{index}", sizes.heads, sizes.hidden
        self.attention_norm = LayerNorm("layer_norm1|ln1", width, sizes.eps)
        self.query = Linear("attn_q", width, width, bias=True)
        self.key = Linear("attn_k", width, width, bias=True)
        self.value = Linear("attn_v", width, width, bias=True)
        self.output = Linear("attn_output|attn_out", width, width, bias=True)
        self.feed_forward_norm = LayerNorm("layer_norm2|ln2", width, sizes.eps)
        self.up = Linear(f"mlp.fc1|{up}", width, sizes.feed_forward, bias=True)
        self.down = Linear(f"mlp.fc2|{down}", sizes.feed_forward, width, bias=True)

    def __call__(self, x: Tensor) -> Tensor:
        x = x + self._attended(self.attention_norm(x))
        return x + self.down(self.up(self.feed_forward_norm(x)).gelu())

    def _attended(self, x: Tensor) -> Tensor:
        query, key, value = (split_heads(part(x), self.heads) for part in (self.query, self.key, self.value))
        scale = 1 / math.sqrt(query.dim(-1))
        return self.output(merge_heads(query.scaled_dot_product_attention(key, value, None, scale)))


class Tower(Module):
    """From pixels to the states of patches."""

    scope = "v"

    def __init__(self, sizes: Sizes, *, swapped: bool) -> None:
        self.sizes = sizes
        names = ("ffn_down", "ffn_up") if swapped else ("ffn_up", "ffn_down")
        patch = (sizes.hidden, 3, sizes.patch, sizes.patch)
        self.patches = Weight("patch_embedding.weight|patch_embd.weight", patch)
        self.patches_bias = Weight("patch_embedding.bias|patch_embd.bias", (sizes.hidden,))
        self.places = Embedding("position_embedding|position_embd", sizes.side**2, sizes.hidden)
        self.layers = [Layer(index, sizes, *names) for index in range(sizes.layers)]
        self.norm = LayerNorm("post_layernorm|post_ln", sizes.hidden, sizes.eps)

    def __call__(self, tiles: Tensor, places: Tensor) -> Tensor:
        """tiles F32 (1, 3, image, image), places I32 (patches,) → (patches, hidden)."""
        sizes, stride = self.sizes, (self.sizes.patch, self.sizes.patch)
        x = self.patches.tensor.conv_2d(tiles, stride, (0, 0), (1, 1))
        x = x.reshape(sizes.hidden, sizes.side**2).permute(1, 0).contiguous()
        x = x + self.patches_bias.tensor + self.places(places)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class SiglipVision(Vision):
    """The encoder, the averaging, and the projection to the width of the decoder."""

    def __init__(self, sizes: Sizes, hidden: int, placement: Placement, *, swapped: bool = False) -> None:
        """
        Args:
            hidden: the width of the decoder's states.
            placement: how a picture stands in a prompt.
            swapped: the file has the names of the feed-forward network's matrices the wrong way round, as
                some of llama.cpp's do.
        """
        self.sizes = sizes
        self.tower = Tower(sizes, swapped=swapped)
        self.norm = RMSNorm("mm.mm_soft_emb_norm|mm.soft_emb_norm", sizes.hidden, sizes.eps)
        # Stored by its inputs.
        self.projection = Weight(
            "mm.mm_input_projection.weight|mm.input_projection.weight", (sizes.hidden, hidden)
        )
        self.placement = placement
        self.largest = Pixels(np.zeros((1, 3, sizes.image, sizes.image), np.float32))

    def prepare(self, content: bytes) -> Pixels:
        return squared(decode(content), self.sizes.image)

    def encode(self, context: Context, pixels: Pixels, mask_dtype: DType) -> Tensor:
        sizes, inputs = self.sizes, context.input()
        patches = sizes.side**2
        x = self.tower(
            inputs.from_floats(pixels.tiles, *pixels.tiles.shape),
            inputs.from_ints(np.arange(patches, dtype=np.int32), patches),
        )
        x = x.permute(1, 0).contiguous(sizes.hidden, sizes.side, sizes.side)
        x = x.avg_pool_2d(sizes.pooled, sizes.pooled, 0)
        x = self.norm(x.reshape(sizes.hidden, sizes.tokens).permute(1, 0).contiguous())
        return self.projection.tensor.on(context).permute(1, 0).contiguous().mul_mat(x)
