"""What the image encoders of the Qwen family share: patches of pictures of any size, attention between them.

Bai et al., arXiv:2502.13923, section 2.1. A picture keeps its proportions. Patches that become one token
follow each other, and rotary embeddings tell each patch's row and column.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from puna.errors import GGUFError
from puna.gguf import Metadata
from puna.images.decode import decode, measured
from puna.images.pixels import Colour, Pixels, resized
from puna.images.resizing import Resizing
from puna.ml import Context, DType, RopeParameters, RopeType, Tensor
from puna.ml.nn import FusedProjections, Linear, Module, Projections, Weight, merge_heads, split_heads
from puna.models import hyper
from puna.models.base import Placement, Vision

_TAGS = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of an encoder.

    Attributes:
        layers: blocks.
        hidden: width of a patch's vector.
        heads: of attention.
        eps: of the norms.
        patch: pixels along a side of a patch.
        merge: patches along a side of the square that becomes one token.
        base: frequency base of the rotary embeddings.
    """

    layers: int
    hidden: int
    heads: int
    eps: float
    patch: int
    merge: int
    base: float

    @staticmethod
    def of(metadata: Metadata) -> "Sizes":
        """Those that a file names. Raises: GGUFError: a key is missing or makes no sense."""
        sizes = Sizes(
            hyper.count(metadata, "vision.block_count"),
            hyper.count(metadata, "vision.embedding_length"),
            hyper.count(metadata, "vision.attention.head_count"),
            metadata.float("vision.attention.layer_norm_epsilon", 1e-6),
            hyper.count(metadata, "vision.patch_size"),
            hyper.count(metadata, "vision.spatial_merge_size", 2),
            metadata.float("vision.rope.freq_base", 10000.0),
        )
        sizes.check(metadata.source)
        return sizes

    def check(self, source: str) -> None:
        """Check that they go together. Raises: GGUFError."""
        wrong = {
            f"{self.layers} layers are more than any model has": self.layers > hyper.LAYERS_AT_MOST,
            f"{self.heads} heads cannot share {self.hidden} elements in fours": self.hidden
            % (4 * self.heads),
            f"rotary embeddings cannot have the frequency base {self.base}": not 0 < self.base < math.inf,
        }
        for text, is_wrong in wrong.items():
            if is_wrong:
                raise GGUFError(f"{source}: in the image encoder {text}")

    @property
    def merged(self) -> int:
        """The width of the vectors of all patches that become one token."""
        return self.hidden * self.merge**2

    @property
    def rope(self) -> RopeParameters:
        """How rows and columns are encoded, each in half of a head's pairs."""
        head = self.hidden // self.heads
        return RopeParameters(head // 2, self.base, type=RopeType.VISION, sections=(head // 4, head // 4))


@dataclass(frozen=True, slots=True)
class Grid:
    """How the patches of a picture lie.

    Attributes:
        rows: of tokens.
        columns: of tokens.
        merge: patches along a side of a token.
    """

    rows: int
    columns: int
    merge: int

    def by_window(self, window: int) -> NDArray[np.int32]:
        """The tokens, numbered row by row, in the order of windows of `window` × `window`."""
        row, column = np.divmod(np.arange(self.rows * self.columns, dtype=np.int32), self.columns)
        order: NDArray[np.intp] = np.lexsort((column, row, column // window, row // window))
        return order.astype(np.int32)

    def patches(self, tokens: NDArray[np.int32]) -> NDArray[np.int32]:
        """The patches of tokens, numbered row by row."""
        merge = self.merge
        numbers = np.arange(self.rows * self.columns * merge**2, dtype=np.int32)
        blocks = numbers.reshape(self.rows, merge, self.columns, merge).transpose(0, 2, 1, 3)
        return blocks.reshape(-1, merge**2)[tokens].reshape(-1)

    def places(self, patches: NDArray[np.int32]) -> NDArray[np.int32]:
        """For `RopeType.VISION`: of all patches the row, then the column, then two numbers that are idle."""
        row, column = np.divmod(patches, self.columns * self.merge)
        return np.concatenate((row, column, row, column))


class Patches(Module):
    """From pixels to the vectors of patches.

    The encoders were trained with kernels of three dimensions, for two pictures of a film; a picture that
    stands still is both of them.
    """

    def __init__(self, sizes: Sizes, *, film: bool = False, bias: bool = False) -> None:
        """
        Args:
            film: the file has the kernels for both pictures in one tensor.
        """
        self.sizes = sizes
        hidden, square = sizes.hidden, (sizes.patch, sizes.patch)
        if film:
            self.kernels = [Weight("patch_embed.weight", (3 * hidden, 2, *square))]
        else:
            names = ("patch_embd_0.weight|patch_embd.weight", "patch_embd_1.weight|patch_embd.weight.1")
            self.kernels = [Weight(name, (hidden, 3, *square)) for name in names]
        self.bias = Weight("patch_embed.bias|patch_embd.bias", (hidden,)) if bias else None

    def __call__(self, graph: Context, picture: Tensor, order: Tensor) -> Tensor:
        """picture F32 (1, 3, height, width), order I32 (patches,) → (patches, hidden)."""
        stride = (self.sizes.patch, self.sizes.patch)
        x, y = (kernel.conv_2d(picture, stride, (0, 0), (1, 1)) for kernel in self._kernels(graph))
        x = (x + y).reshape(self.sizes.hidden, order.dim(0)).permute(1, 0).contiguous().rows(order)
        return x if self.bias is None else x + self.bias.tensor

    def _kernels(self, graph: Context) -> list[Tensor]:
        """Those for the first and for the second picture, (hidden, 3, patch, patch)."""
        if len(self.kernels) == 2:
            return [kernel.tensor for kernel in self.kernels]
        both, shape = self.kernels[0].tensor, (self.sizes.hidden, 3, self.sizes.patch, self.sizes.patch)
        return [both.on(graph).slice(1, n, n + 1).contiguous(*shape) for n in range(2)]


class Attention(Module):
    """Every patch looks at all, or at those of its window."""

    def __init__(self, sizes: Sizes, *, fused: bool = False) -> None:
        """
        Args:
            fused: the file has one matrix for queries, keys and values.
        """
        self.heads, self.rope, width = sizes.heads, sizes.rope, sizes.hidden
        self.scale = 1 / math.sqrt(width // sizes.heads)
        self.qkv: FusedProjections | Projections = (
            FusedProjections("attn_qkv", width, (width,) * 3, bias=True)
            if fused
            else Projections(("attn_q", "attn_k", "attn_v"), width, (width,) * 3, bias=True)
        )
        self.output = Linear("attn_out", width, width, bias=True)

    def __call__(self, x: Tensor, places: Tensor, masks: Sequence[Tensor] = ()) -> Tensor:
        """
        Args:
            places: see `Grid.places`.
            masks: each of (patches, patches) for the next patches, which look at none but each other; empty
                where all look at all.
        """
        query, key, value = (split_heads(part, self.heads) for part in self.qkv(x))
        query, key = query.rope(places, self.rope), key.rope(places, self.rope)
        if not masks:
            return self.output(merge_heads(query.scaled_dot_product_attention(key, value, None, self.scale)))
        found, begin = [], 0
        for mask in masks:
            end = begin + mask.dim(0)
            q, k, v = (one.slice(0, begin, end) for one in (query, key, value))
            found.append(q.scaled_dot_product_attention(k, v, mask, self.scale))
            begin = end
        together = found[0]
        for part in found[1:]:
            together = together.concat(part, 0)
        return self.output(merge_heads(together))


class QwenVision(Vision):
    """An encoder with what stands in a prompt for a picture."""

    def __init__(
        self, metadata: Metadata, vocabulary: Sequence[str], least: int, colour: Colour, deviation: Colour
    ) -> None:
        """
        Args:
            metadata: of the file with the encoder.
            vocabulary: texts of the decoder's tokens.
            least: tokens of the smallest picture, where the file does not say.
            colour: the mean that pictures' colours are less, likewise.
            deviation: what they are then divided by, likewise.

        Raises:
            GGUFError: a key is missing or makes no sense.
        """
        self.sizes = Sizes.of(metadata)
        self.resizing = Resizing.of(metadata, least)
        self.mean = _colour(metadata, "vision.image_mean", colour)
        self.deviation = _colour(metadata, "vision.image_std", deviation)
        before, own, after = (tuple([vocabulary.index(tag)] if tag in vocabulary else []) for tag in _TAGS)
        self._text = Placement(own[0] if own else 0, 1, before, after, whole=False)
        width, height = self.resizing.largest
        self.placement = self._placed(width, height)
        self.largest = Pixels(np.zeros((1, 3, height, width), np.float32))

    def placement_of(self, content: bytes) -> Placement:
        return self._placed(*self.resizing.size(*measured(content)))

    def _placed(self, width: int, height: int) -> Placement:
        columns, rows = width // self.resizing.factor, height // self.resizing.factor
        return replace(self._text, count=columns * rows, columns=columns)

    def prepare(self, content: bytes) -> Pixels:
        image = decode(content)
        return resized(image, self.resizing.size(*image.size), self.mean, self.deviation)

    def encode(self, context: Context, pixels: Pixels, mask_dtype: DType) -> Tensor:
        inputs = context.input()
        *_, height, width = pixels.tiles.shape
        factor = self.resizing.factor
        grid = Grid(height // factor, width // factor, self.sizes.merge)
        return self.features(inputs, inputs.from_floats(pixels.tiles, *pixels.tiles.shape), grid, mask_dtype)

    @abstractmethod
    def features(self, inputs: Context, picture: Tensor, grid: Grid, mask_dtype: DType) -> Tensor:
        """The features of a picture, see `Vision.encode`.

        Args:
            inputs: makes inputs of the graph.
            picture: F32 (1, 3, height, width).
        """


def ids(inputs: Context, numbers: NDArray[np.int32]) -> Tensor:
    """Numbers as an input of a graph, I32."""
    return inputs.from_ints(numbers, numbers.size)


def _colour(metadata: Metadata, key: str, usual: Colour) -> Colour:
    values = metadata.floats(key, [])
    if values and (len(values) != 3 or not all(map(math.isfinite, values)) or (0 in values and "std" in key)):
        raise GGUFError(f"{metadata.source}: the key {metadata.full_key(key)!r} makes no sense: {values[:5]}")
    return (values[0], values[1], values[2]) if values else usual
