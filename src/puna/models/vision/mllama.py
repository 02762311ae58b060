"""The image encoder of Llama 3.2 Vision: a vision transformer over all tiles of a picture at once.

Llama Team, arXiv:2407.21783, section 7. Patches of each tile get the class token and the encodings of their
places and of their tile's; 32 layers look at all of them, 8 more follow whose contributions are gated. The
features are what comes out of the latter, with what goes into some of the former.
"""

import math
from dataclasses import dataclass

import numpy as np

from puna.errors import GGUFError
from puna.gguf import Metadata
from puna.images.decode import decode
from puna.images.pixels import Pixels, tiled
from puna.kvcache.cells import padded
from puna.ml import Context, DType, Tensor
from puna.ml.nn import Embedding, LayerNorm, Linear, Module, Weight, merge_heads, split_heads
from puna.models import hyper
from puna.models.base import Placement, Vision

_TILES_AT_MOST = 16
# Each tile's tokens are a multiple of this; the model was trained with those that fill it up.
_MULTIPLE = 8
# Added to a score; in half precision it is the infinity.
_HIDDEN = -1e30


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of the encoder.

    Attributes:
        layers: of the first transformer.
        global_layers: of the second.
        collected: before which of the first's layers the state belongs to the features.
        hidden: width of a token's vector.
        heads: of attention.
        feed_forward: width inside the feed-forward network.
        eps: of the norms.
        image: pixels along a side of a tile.
        patch: pixels along a side of a patch.
        tiles: the most tiles of a picture.
    """

    layers: int
    global_layers: int
    collected: tuple[int, ...]
    hidden: int
    heads: int
    feed_forward: int
    eps: float
    image: int
    patch: int
    tiles: int

    @staticmethod
    def of(metadata: Metadata) -> "Sizes":
        """Those that a file names. Raises: GGUFError: a key is missing or makes no sense."""
        layers = hyper.count(metadata, "vision.block_count")
        hidden = hyper.count(metadata, "vision.embedding_length")
        sizes = Sizes(
            layers,
            metadata.uint("vision.global.block_count"),
            tuple(sorted(set(metadata.ints("vision.intermediate_layers_indices")))),
            hidden,
            hyper.count(metadata, "vision.attention.head_count"),
            hyper.count(metadata, "vision.feed_forward_length", 4 * hidden),
            metadata.float("vision.attention.layer_norm_epsilon"),
            hyper.count(metadata, "vision.image_size"),
            hyper.count(metadata, "vision.patch_size"),
            hyper.count(metadata, "vision.max_num_tiles"),
        )
        sizes.check(metadata.source)
        return sizes

    def check(self, source: str) -> None:
        """Check that they go together. Raises: GGUFError."""
        wrong = {
            f"{self.heads} heads cannot share {self.hidden} elements evenly": self.hidden % self.heads,
            f"tiles of {self.image} pixels cannot be cut into patches of {self.patch}": (
                self.image % self.patch or self.image > hyper.SIDE_AT_MOST
            ),
            f"{self.tiles} tiles are more than any model has": self.tiles > _TILES_AT_MOST,
            f"{max(self.layers, self.global_layers)} layers are more than any model has": (
                max(self.layers, self.global_layers) > hyper.LAYERS_AT_MOST
            ),
            f"there is no layer {max(self.collected, default=0)} before which a state could be collected": (
                any(not 0 <= index < self.layers for index in self.collected)
            ),
        }
        for text, is_wrong in wrong.items():
            if is_wrong:
                raise GGUFError(f"{source}: in the image encoder {text}")

    @property
    def tokens(self) -> int:
        """Of one tile: its patches and the class token."""
        return (self.image // self.patch) ** 2 + 1

    @property
    def filled(self) -> int:
        """Of one tile, with those that fill it up."""
        return padded(self.tokens, _MULTIPLE)

    @property
    def features(self) -> int:
        """The width of a token's features."""
        return self.hidden * (1 + len(self.collected))


class Attention(Module):
    """Every token looks at all that the mask leaves."""

    def __init__(self, sizes: Sizes) -> None:
        self.heads, width = sizes.heads, sizes.hidden
        self.query = Linear("attn_q", width, width)
        self.key = Linear("attn_k", width, width)
        self.value = Linear("attn_v", width, width)
        self.output = Linear("attn_output|attn_out", width, width)

    def __call__(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (split_heads(part(x), self.heads) for part in (self.query, self.key, self.value))
        scale = 1 / math.sqrt(query.dim(-1))
        return self.output(merge_heads(query.scaled_dot_product_attention(key, value, mask, scale)))


class Layer(Module):
    """Attention and feed-forward, each of the normalised state and added to it, gated or not."""

    def __init__(self, scope: str, sizes: Sizes, *, gated: bool) -> None:
        self.scope = scope
        self.attention_norm = LayerNorm("attn_norm|ln1", sizes.hidden, sizes.eps)
        self.attention = Attention(sizes)
        self.feed_forward_norm = LayerNorm("ffn_norm|ln2", sizes.hidden, sizes.eps)
        self.up = Linear("ffn_up", sizes.hidden, sizes.feed_forward, bias=True)
        self.down = Linear("ffn_down", sizes.feed_forward, sizes.hidden, bias=True)
        # The hyperbolic tangents of the trained gates.
        self.attention_gate = Weight("attn_gate", (1,)) if gated else None
        self.feed_forward_gate = Weight("ffn_gate", (1,)) if gated else None

    def __call__(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + _gated(self.attention(self.attention_norm(x), mask), self.attention_gate)
        fed = self.down(self.up(self.feed_forward_norm(x)).gelu_erf())
        return x + _gated(fed, self.feed_forward_gate)


def _gated(x: Tensor, gate: Weight | None) -> Tensor:
    return x if gate is None else x * gate.tensor


class TileEmbedding(Module):
    """A vector for each tile, or each token of each tile, that depends on how the tiles lie."""

    def __init__(self, name: str, sizes: Sizes, tokens: int) -> None:
        self.shape = (sizes.tiles, tokens, sizes.hidden)
        self.table = Embedding(name, None, math.prod(self.shape))
        self.gate = Weight(f"{name}.gate", (1,))

    def __call__(self, x: Tensor, arrangement: Tensor) -> Tensor:
        """x (tiles, tokens, hidden), arrangement I32 (1,)."""
        return x + (self.table(arrangement).reshape(*self.shape) * self.gate.tensor)


class Tower(Module):
    """From tiles to features."""

    scope = "v"

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        patch = (sizes.hidden, 3, sizes.patch, sizes.patch)
        self.patches = Weight("patch_embd.weight", patch)
        self.class_token = Weight("class_embd", (sizes.hidden,))
        self.before = TileEmbedding("pre_tile_position_embd", sizes, 1)
        self.places = Embedding("position_embd", sizes.tokens, sizes.hidden)
        # One less the hyperbolic tangent of the trained gate, whose tangent is that of the tiles.
        self.places_gate = Weight("position_embd.gate", (1,))
        self.tile_places = TileEmbedding("tile_position_embd", sizes, sizes.tokens)
        self.first_norm = LayerNorm("pre_ln", sizes.hidden, sizes.eps)
        self.layers = [Layer(f"blk.{index}", sizes, gated=False) for index in range(sizes.layers)]
        self.norm = LayerNorm("post_ln", sizes.hidden, sizes.eps)
        self.after = TileEmbedding("post_tile_position_embd", sizes, 1)
        self.global_layers = [
            Layer(f"global.blk.{index}", sizes, gated=True) for index in range(sizes.global_layers)
        ]

    def __call__(self, tiles: Tensor, arrangement: Tensor, places: Tensor, mask: Tensor) -> Tensor:
        """The features of all tokens of all tiles.

        Args:
            tiles: F32 (tiles, 3, image, image).
            arrangement: I32 (1,).
            places: I32 (tokens,), the numbers of a tile's tokens.
            mask: (tiles * filled, tiles * filled).

        Returns:
            F32 (tiles, tokens, features).
        """
        sizes = self.sizes
        x = self._tokens(tiles, arrangement, places)
        x = x.pad(0, sizes.filled - sizes.tokens, 0).reshape(sizes.tiles * sizes.filled, sizes.hidden)
        collected = []
        for index, layer in enumerate(self.layers):
            if index in sizes.collected:
                collected.append(x)
            x = layer(x, mask)
        x = self.norm(x).reshape(sizes.tiles, sizes.filled, sizes.hidden)
        x = self.after(x, arrangement).reshape(sizes.tiles * sizes.filled, sizes.hidden)
        for layer in self.global_layers:
            x = layer(x, mask)
        return self._features(x, collected)

    def _tokens(self, tiles: Tensor, arrangement: Tensor, places: Tensor) -> Tensor:
        """The tokens of each tile before the first layer, (tiles, tokens, hidden)."""
        sizes, stride = self.sizes, (self.sizes.patch, self.sizes.patch)
        x = self.patches.tensor.conv_2d(tiles, stride, (0, 0), (1, 1))
        x = x.reshape(sizes.tiles, sizes.hidden, sizes.tokens - 1).permute(0, 2, 1).contiguous()
        x = self.before(x, arrangement)
        # Nothing of the patches, and the class token.
        first = x.slice(1, 0, 1).scale(0.0) + self.class_token.tensor
        x = first.concat(x, 1) + self.places(places) * self.places_gate.tensor
        return self.first_norm(self.tile_places(x, arrangement))

    def _features(self, x: Tensor, collected: list[Tensor]) -> Tensor:
        """The last state, and those that were collected, element by element side by side."""
        sizes = self.sizes
        shape = (sizes.tiles, sizes.filled, -1)
        features = x.reshape(*shape)
        if collected:
            rows = sizes.tiles * sizes.filled
            parts = [one.reshape(rows, sizes.hidden, 1) for one in collected]
            features = features.concat(parts[0].stack(2, *parts[1:]).reshape(*shape), 2)
        return features.slice(1, 0, sizes.tokens).contiguous()


class MllamaVision(Vision):
    """The encoder, and the projection to the width of the decoder."""

    def __init__(self, metadata: Metadata, hidden: int, token: int) -> None:
        """
        Args:
            hidden: the width of the decoder's states.
            token: the id that stands for a picture.
        """
        self.sizes = sizes = Sizes.of(metadata)
        self.tower = Tower(sizes)
        self.projection = Linear("mm.0", sizes.features, hidden, bias="optional")
        self.placement = Placement(token)
        side = (3, sizes.image, sizes.image)
        self.largest = Pixels(np.zeros((sizes.tiles, *side), np.float32), 1)

    def prepare(self, content: bytes) -> Pixels:
        return tiled(decode(content), self.sizes.image, self.sizes.tiles)

    def encode(self, context: Context, pixels: Pixels, mask_dtype: DType) -> Tensor:
        sizes, used = self.sizes, len(pixels.tiles)
        inputs = context.input()
        tiles = np.zeros((sizes.tiles, *pixels.tiles.shape[1:]), np.float32)
        tiles[:used] = pixels.tiles
        features = self.tower(
            inputs.from_floats(tiles, *tiles.shape),
            inputs.from_ints([pixels.arrangement], 1),
            inputs.from_ints(np.arange(sizes.tokens, dtype=np.int32), sizes.tokens),
            self._mask(inputs, used, mask_dtype),
        )
        width = features.dim(-1)
        rows = features.slice(0, 0, used).reshape(used * sizes.tokens, width)
        return self.projection(rows)

    def _mask(self, inputs: Context, used: int, dtype: DType) -> Tensor:
        """What is no part of the picture does not look at itself; all else sees everything."""
        sizes = self.sizes
        filling = np.ones((sizes.tiles, sizes.filled), np.float32)
        filling[:used, : sizes.tokens] = 0
        idle = inputs.from_floats(filling, filling.size, 1)
        mask = idle.mul_mat(idle).scale(_HIDDEN)
        return mask if dtype is DType.F32 else mask.cast(dtype)
