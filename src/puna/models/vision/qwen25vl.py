"""The image encoder of Qwen 2.5-VL, in which most layers look no further than a window.

Bai et al., arXiv:2502.13923, section 2.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from puna.errors import GGUFError
from puna.gguf import Metadata
from puna.images.pixels import CLIP_DEVIATION, CLIP_MEAN
from puna.ml import Context, DType, Tensor
from puna.ml.nn import Linear, Module, RMSNorm
from puna.models.vision.qwenvl import Attention, Grid, Patches, QwenVision, Sizes, ids

# Pixels along a side, and tokens of the smallest picture.
_WINDOW, _LEAST = 112, 4
_FULL = (7, 15, 23, 31)
# Added to a score; in half precision it is the infinity.
_HIDDEN = -1e30


@dataclass(frozen=True, slots=True)
class Windows:
    """Which layers have windows.

    Attributes:
        tokens: along a side of a window.
        full: for each layer, whether it has none.
    """

    tokens: int
    full: tuple[bool, ...]

    @staticmethod
    def of(metadata: Metadata, sizes: Sizes) -> "Windows":
        """Those that a file names. Raises: GGUFError: they make no sense."""
        side = metadata.uint("vision.window_size", 0) or _WINDOW
        tokens = side // sizes.merge // sizes.patch
        if not tokens:
            raise GGUFError(
                f"{metadata.source}: a window of {side} pixels is smaller than what a token stands for"
            )
        # llama.cpp's files name every how many layers there is a full one.
        period = metadata.uint("vision.n_wa_pattern", 0)
        full = metadata.ints("vision.fullatt_block_indexes", list(_FULL))
        layers = range(sizes.layers)
        return Windows(tokens, tuple((n + 1) % period == 0 if period else n in full for n in layers))


class Layer(Module):
    """Attention and feed-forward, each of the normalised state and added to it."""

    def __init__(self, index: int, sizes: Sizes, *, swapped: bool) -> None:
        self.scope, width = f"blk.{index}", sizes.hidden
        up, down = ("ffn_down", "ffn_up") if swapped else ("ffn_up", "ffn_down")
        self.attention_norm = RMSNorm("ln1", width, sizes.eps)
        self.attention = Attention(sizes)
        self.feed_forward_norm = RMSNorm("ln2", width, sizes.eps)
        # Ollama's files do not say how wide the network is.
        self.gate = Linear("ffn_gate", width, None, bias=True)
        self.up = Linear(up, width, None, bias=True)
        self.down = Linear(down, None, width, bias=True)

    def __call__(self, x: Tensor, places: Tensor, masks: Sequence[Tensor]) -> Tensor:
        x = x + self.attention(self.attention_norm(x), places, masks)
        normed = self.feed_forward_norm(x)
        return x + self.down(self.gate(normed).swiglu(self.up(normed)))


class Tower(Module):
    """From pixels to the states of patches."""

    scope = "v"

    def __init__(self, sizes: Sizes, windows: Windows, *, swapped: bool) -> None:
        self.windows = windows
        self.patches = Patches(sizes)
        self.layers = [Layer(index, sizes, swapped=swapped) for index in range(sizes.layers)]
        self.norm = RMSNorm("merger.ln_q|post_ln", sizes.hidden, sizes.eps)

    def __call__(
        self, graph: Context, picture: Tensor, order: Tensor, places: Tensor, masks: Sequence[Tensor]
    ) -> Tensor:
        """picture F32 (1, 3, height, width) → (patches, hidden), in the order given."""
        x = self.patches(graph, picture, order)
        for layer, full in zip(self.layers, self.windows.full, strict=True):
            x = layer(x, places, () if full else masks)
        return self.norm(x)


class Qwen25Vision(QwenVision):
    """The encoder, and the projection of squares of patches to the width of the decoder."""

    def __init__(
        self, metadata: Metadata, vocabulary: Sequence[str], hidden: int, *, swapped: bool = False
    ) -> None:
        """
        Args:
            hidden: the width of the decoder's states.
            swapped: two matrices of each layer have each other's names, as in some of llama.cpp's files.
        """
        super().__init__(metadata, vocabulary, _LEAST, CLIP_MEAN, CLIP_DEVIATION)
        sizes = self.sizes
        self.tower = Tower(sizes, Windows.of(metadata, sizes), swapped=swapped)
        self.merged = Linear("v.merger.mlp.0|mm.0", sizes.merged, sizes.merged, bias=True)
        self.projection = Linear("v.merger.mlp.2|mm.2", sizes.merged, hidden, bias=True)

    def features(self, inputs: Context, picture: Tensor, grid: Grid, mask_dtype: DType) -> Tensor:
        tokens = grid.by_window(self.tower.windows.tokens)
        patches = grid.patches(tokens)
        x = self.tower(
            inputs,
            picture,
            ids(inputs, patches),
            ids(inputs, grid.places(patches)),
            self._masks(inputs, grid, mask_dtype),
        )
        x = self.projection(self.merged(x.reshape(tokens.size, self.sizes.merged)).gelu_erf())
        return x.rows(ids(inputs, np.argsort(tokens).astype(np.int32)))

    def _masks(self, inputs: Context, grid: Grid, dtype: DType) -> list[Tensor]:
        """One for the patches of each row of windows, which follow each other."""
        window = self.tower.windows.tokens
        masks: dict[int, Tensor] = {}
        heights = [min(window, grid.rows - begin) for begin in range(0, grid.rows, window)]
        for height in heights:
            if height not in masks:
                widths = [min(window, grid.columns - begin) for begin in range(0, grid.columns, window)]
                own = np.repeat(np.arange(len(widths)), [height * grid.merge**2 * width for width in widths])
                values = np.where(own[:, None] == own, np.float32(0), np.float32(_HIDDEN))
                mask = inputs.from_floats(values, *values.shape)
                masks[height] = mask if dtype is DType.F32 else mask.cast(dtype)
        return [masks[height] for height in heights]
