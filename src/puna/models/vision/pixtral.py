"""The image encoder of Pixtral and Mistral Small 3.1: patches of pictures of any size, and lines of tokens.

Agrawal et al., arXiv:2410.07073, section 2. A picture keeps its proportions. Rotary embeddings tell each
patch's row and column; where the file has a merger, each square of patches becomes one token. Between two
lines of a picture's tokens stands a break. Files of two origins are read: llama.cpp's names come first,
Ollama's second.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from puna.errors import GGUFError, UnsupportedModel
from puna.gguf import Metadata
from puna.images.decode import decode, measured
from puna.images.longest import LongestEdge
from puna.images.pixels import CLIP_DEVIATION, CLIP_MEAN, Pixels, resized
from puna.ml import Backend, Context, DType, RopeParameters, RopeType, Tensor
from puna.ml.nn import (
    Embedding,
    FeedForward,
    Linear,
    Module,
    Projections,
    RMSNorm,
    Weight,
    bind,
    merge_heads,
    split_heads,
    swiglu,
)
from puna.models import hyper
from puna.models.base import Placement, Vision

# The tokens of a picture, and their ids in the released models, whose files need not have a vocabulary.
_IDS = {"[IMG]": 10, "[IMG_BREAK]": 12, "[IMG_END]": 13}


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of the encoder.

    Attributes:
        layers: blocks.
        hidden: width of a patch's vector.
        heads: of attention.
        feed_forward: width inside the feed-forward network.
        eps: of the norms.
        patch: pixels along a side of a patch.
        within: the sizes of pictures.
        base: frequency base of the rotary embeddings.
        gelu: the gate of the feed-forward network is that function, and not SiLU.
    """

    layers: int
    hidden: int
    heads: int
    feed_forward: int
    eps: float
    patch: int
    within: LongestEdge
    base: float
    gelu: bool

    @staticmethod
    def of(metadata: Metadata) -> "Sizes":
        """Those that a file names. Raises: GGUFError: a key is missing or makes no sense."""
        sizes = Sizes(
            hyper.count(metadata, "vision.block_count"),
            hyper.count(metadata, "vision.embedding_length"),
            hyper.count(metadata, "vision.attention.head_count"),
            hyper.count(metadata, "vision.feed_forward_length"),
            metadata.float("vision.attention.layer_norm_epsilon", 1e-5),
            hyper.count(metadata, "vision.patch_size"),
            LongestEdge.of(metadata),
            metadata.float("vision.rope.freq_base", 0.0) or 10000.0,
            metadata.bool("use_gelu", False),
        )
        sizes.check(metadata.source)
        return sizes

    def check(self, source: str) -> None:
        """Check that they go together. Raises: GGUFError."""
        wrong = {
            f"{self.layers} layers are more than any model has": self.layers > hyper.LAYERS_AT_MOST,
            f"{self.heads} heads cannot share {self.hidden} elements and each tell rows and columns": (
                self.hidden % (4 * self.heads)
            ),
            f"rotary embeddings cannot have the frequency base {self.base}": not 0 < self.base < math.inf,
        }
        for text, is_wrong in wrong.items():
            if is_wrong:
                raise GGUFError(f"{source}: in the image encoder {text}")

    @property
    def merge(self) -> int:
        """Patches along a side of the square that becomes one token."""
        return self.within.square // self.patch

    @property
    def head(self) -> int:
        """The width of a head."""
        return self.hidden // self.heads


@dataclass(frozen=True, slots=True)
class Places:
    """Where the patches of a picture lie, those of one token beside each other.

    Attributes:
        order: I32 (patches,), their numbers, counted row by row.
        rows: I32 (patches,).
        columns: I32 (patches,).
    """

    order: Tensor
    rows: Tensor
    columns: Tensor

    @staticmethod
    def of(inputs: Context, rows: int, columns: int, merge: int) -> "Places":
        """Those of a picture with so many rows and columns of tokens."""
        numbers = np.arange(rows * columns * merge**2, dtype=np.int32)
        order = numbers.reshape(rows, merge, columns, merge).transpose(0, 2, 1, 3).reshape(-1)
        row, column = np.divmod(order, columns * merge)
        return Places(*(_ints(inputs, values) for values in (order, row, column)))


class Attention(Module):
    """Every patch looks at all; half of a head tells rows apart, half columns."""

    def __init__(self, sizes: Sizes, *, halved: bool) -> None:
        """
        Args:
            halved: the elements that are rotated together are half a head apart, and not neighbours.
        """
        self.heads, width = sizes.heads, sizes.hidden
        self.qkv = Projections(("attn_q", "attn_k", "attn_v"), width, (width,) * 3)
        self.output = Linear("attn_out|attn_output", width, width)
        self.halved = halved
        kind = RopeType.NEOX if halved else RopeType.NORMAL
        self.row_rope = RopeParameters(sizes.head // 2, sizes.base, type=kind)
        # Columns have the frequencies between those of rows.
        self.column_rope = replace(self.row_rope, scale=sizes.base ** (2 / sizes.head))

    def __call__(self, x: Tensor, places: Places) -> Tensor:
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(x))
        query, key = self._rotated(query, places), self._rotated(key, places)
        scale = 1 / math.sqrt(query.dim(-1))
        return self.output(merge_heads(query.scaled_dot_product_attention(key, value, None, scale)))

    def _rotated(self, x: Tensor, places: Places) -> Tensor:
        """Queries or keys (patches, heads, d), the elements of both in the same order."""
        patches, heads, width = x.shape
        if self.halved:
            quarters = x.contiguous(patches * heads, 2, 2, width // 4)
            x = quarters.permute(0, 2, 1, 3).contiguous(patches, heads, width)
        row, column = x.chunk_sections(-1, width // 2, width // 2)
        row, column = row.rope(places.rows, self.row_rope), column.rope(places.columns, self.column_rope)
        return row.concat(column, 2)


class Layer(Module):
    """Attention and feed-forward, each of the normalised state and added to it."""

    def __init__(self, index: int, sizes: Sizes, *, halved: bool) -> None:
        self.scope = f"blk.{index}"
        self.attention_norm = RMSNorm("ln1|attn_norm", sizes.hidden, sizes.eps)
        self.attention = Attention(sizes, halved=halved)
        self.feed_forward_norm = RMSNorm("ln2|ffn_norm", sizes.hidden, sizes.eps)
        act = _gelu_gated if sizes.gelu else swiglu
        self.feed_forward = FeedForward(sizes.hidden, sizes.feed_forward, act=act, bias=False)

    def __call__(self, x: Tensor, places: Places) -> Tensor:
        x = x + self.attention(self.attention_norm(x), places)
        return x + self.feed_forward(self.feed_forward_norm(x))


def _gelu_gated(gate: Tensor, up: Tensor) -> Tensor:
    return gate.contiguous().gelu_erf() * up


class Tower(Module):
    """From pixels to the states of patches."""

    scope = "v"

    def __init__(self, sizes: Sizes, *, halved: bool) -> None:
        self.sizes = sizes
        self.patches = Weight(
            "patch_embd.weight|patch_conv.weight", (sizes.hidden, 3, sizes.patch, sizes.patch)
        )
        self.norm = RMSNorm("pre_ln|encoder_norm", sizes.hidden, sizes.eps)
        self.layers = [Layer(index, sizes, halved=halved) for index in range(sizes.layers)]

    def __call__(self, picture: Tensor, places: Places) -> Tensor:
        """picture F32 (1, 3, height, width) → (patches, hidden), in the order of the places."""
        stride = (self.sizes.patch, self.sizes.patch)
        x = self.patches.tensor.conv_2d(picture, stride, (0, 0), (1, 1))
        x = x.reshape(self.sizes.hidden, places.order.dim(0)).permute(1, 0).contiguous().rows(places.order)
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x, places)
        return x


class Projector(Module):
    """From the states of patches to features of the decoder's width."""

    scope = "mm"

    def __init__(self, sizes: Sizes, hidden: int, *, merges: bool) -> None:
        """
        Args:
            hidden: the width of the decoder's states.
            merges: the file has a layer that makes one vector of the patches of a token.
        """
        self.merged = sizes.hidden * sizes.merge**2
        self.norm = RMSNorm("input_norm|norm", sizes.hidden, sizes.eps) if merges else None
        self.merger = (
            Linear("patch_merger|patch_merger.merging_layer", self.merged, sizes.hidden) if merges else None
        )
        self.first = Linear("1|linear_1", sizes.hidden, hidden, bias="optional")
        self.second = Linear("2|linear_2", hidden, hidden, bias="optional")

    def __call__(self, x: Tensor) -> Tensor:
        """x F32 (patches, hidden), those of a token beside each other → (tokens, width)."""
        if self.norm is not None and self.merger is not None:
            x, (patches, width) = self.norm(x), x.shape
            of_tokens = x.reshape(patches * width // self.merged, self.merged // width, width)
            # The merger goes through the elements of a vector one by one, and through the patches of each.
            x = self.merger(of_tokens.permute(0, 2, 1).contiguous(of_tokens.dim(0), self.merged))
        return self.second(self.first(x).gelu_erf())


class EmbeddedBreak(Module):
    """The embedding of the token that stands between two lines of a picture."""

    def __init__(self, id: int, hidden: int) -> None:
        self.id = id
        self.embedding = Embedding("token_embd", None, hidden)

    def __call__(self, inputs: Context) -> Tensor:
        """F32 (1, hidden)."""
        return self.embedding(_ints(inputs, np.array([self.id], np.int32)))


class StoredBreak(Module):
    """The same, as files have it that hold an image encoder only."""

    def __init__(self, hidden: int) -> None:
        self.weight = Weight("v.token_embd.img_break", (hidden,))

    def __call__(self, inputs: Context) -> Tensor:
        """F32 (hidden,)."""
        return self.weight.tensor.on(inputs)


class PixtralVision(Vision):
    """The encoder, the projection to the width of the decoder, and the breaks between lines."""

    def __init__(self, metadata: Metadata, sizes: Sizes, hidden: int, *, merges: bool, apart: bool) -> None:
        """
        Args:
            metadata: of the decoder.
            hidden: the width of its states.
            merges: see `Projector`.
            apart: the encoder is in a file of its own, as llama.cpp writes it.
        """
        self.sizes = sizes
        self.tower = Tower(sizes, halved=not apart)
        self.projector = Projector(sizes, hidden, merges=merges)
        own, line_break, end = _token_ids(metadata)
        self.line_break = StoredBreak(hidden) if apart else EmbeddedBreak(line_break, hidden)
        self._text = Placement(own, after=(end,), whole=False)
        width, height = sizes.within.largest
        self.placement = self._placed(width, height)
        self.largest = Pixels(np.zeros((1, 3, height, width), np.float32))

    def placement_of(self, content: bytes) -> Placement:
        return self._placed(*measured(content))

    def _placed(self, width: int, height: int) -> Placement:
        return replace(self._text, count=self.sizes.within.tokens(width, height))

    def prepare(self, content: bytes) -> Pixels:
        image = decode(content)
        return resized(image, self.sizes.within.size(*image.size), CLIP_MEAN, CLIP_DEVIATION)

    def encode(self, context: Context, pixels: Pixels, mask_dtype: DType) -> Tensor:
        inputs, side = context.input(), self.sizes.within.square
        *_, height, width = pixels.tiles.shape
        rows, columns = height // side, width // side
        places = Places.of(inputs, rows, columns, self.sizes.merge)
        x = self.projector(self.tower(inputs.from_floats(pixels.tiles, *pixels.tiles.shape), places))
        breaks = self.line_break(inputs).reshape(1, 1, -1).repeat(0, rows)
        lines = x.reshape(rows, columns, -1).concat(breaks, 1).reshape(rows * (columns + 1), -1)
        return lines.slice(0, 0, rows * (columns + 1) - 1)


def _token_ids(metadata: Metadata) -> list[int]:
    """The ids of the tokens of a picture, of a break, and of a picture's end."""
    tokens = metadata.strings("tokenizer.ggml.tokens", [])
    return [tokens.index(text) if text in tokens else id for text, id in _IDS.items()]


def _ints(inputs: Context, numbers: NDArray[np.int32]) -> Tensor:
    return inputs.from_ints(numbers, numbers.size)


def seen_within(metadata: Metadata, hidden: int) -> PixtralVision | None:
    """The image encoder in the decoder's own file, as Ollama writes it; None if there is none.

    Args:
        hidden: the width of the decoder's states.

    Raises:
        GGUFError: a key is missing or makes no sense.
    """
    if metadata.full_key("vision.block_count") not in metadata:
        return None
    # Pixtral itself, whose decoder is Llama's, makes a token of each patch.
    merges = metadata.architecture == "mistral3"
    return PixtralVision(metadata, Sizes.of(metadata), hidden, merges=merges, apart=False)


def seen_through(projector: Backend, metadata: Metadata, hidden: int) -> PixtralVision:
    """The image encoder in a file of its own, its weights declared.

    Args:
        metadata: of the decoder.
        hidden: the width of its states.

    Raises:
        UnsupportedModel: the file has another kind of image encoder.
        GGUFError, WeightError: the file makes no sense, or its tensors are not those of the encoder.
    """
    own = projector.config()
    kind = own.string("projector_type", own.string("vision.projector_type", ""))
    if kind != "pixtral":
        raise UnsupportedModel(f"{own.source}: an image encoder of type {kind[:100]!r} is not Pixtral's")
    merges = "mm.patch_merger.weight" in projector.names()
    vision = PixtralVision(metadata, Sizes.of(own), hidden, merges=merges, apart=True)
    bind(vision, projector)
    return vision
