"""The image encoder of Qwen 3-VL, whose middle layers have features for the decoder, too.

Qwen Team, arXiv:2511.21631, section 2: learned encodings of places, interpolated to the picture's size,
beside rotary ones; and DeepStack (Meng et al., arXiv:2406.04334), by which features of several depths enter
layers of the decoder one after the other.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from puna.errors import GGUFError
from puna.gguf import Metadata
from puna.images.pixels import HALF
from puna.ml import Context, DType, Tensor
from puna.ml.nn import Embedding, LayerNorm, Linear, Module
from puna.models.vision.qwenvl import Attention, Grid, Patches, QwenVision, Sizes, ids

# Tokens of the smallest picture.
_LEAST = 64


class Layer(Module):
    """Attention and feed-forward, each of the normalised state and added to it."""

    def __init__(self, index: int, sizes: Sizes, *, fused: bool) -> None:
        self.scope, width = f"blk.{index}", sizes.hidden
        self.attention_norm = LayerNorm("norm1|ln1", width, sizes.eps)
        self.attention = Attention(sizes, fused=fused)
        self.feed_forward_norm = LayerNorm("norm2|ln2", width, sizes.eps)
        # Ollama's files do not say how wide the network is.
        self.up = Linear("mlp.linear_fc1|ffn_up", width, None, bias=True)
        self.down = Linear("mlp.linear_fc2|ffn_down", None, width, bias=True)

    def __call__(self, x: Tensor, places: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), places)
        return x + self.down(self.up(self.feed_forward_norm(x)).gelu())


class Merger(Module):
    """From the patches' states to features: a norm of each patch, or of those of a token together."""

    def __init__(self, names: Sequence[str], sizes: Sizes, hidden: int, *, together: bool) -> None:
        norm, first, second = names
        self.merged = sizes.merged
        self.together = together
        self.norm = LayerNorm(norm, sizes.merged if together else sizes.hidden, sizes.eps)
        self.first = Linear(first, sizes.merged, sizes.merged, bias=True)
        self.second = Linear(second, sizes.merged, hidden, bias=True)

    def __call__(self, x: Tensor) -> Tensor:
        """(patches, width) → (tokens, hidden)."""
        normed = self.norm(x.reshape(-1, self.merged)) if self.together else self.norm(x)
        return self.second(self.first(normed.reshape(-1, self.merged)).gelu_erf())


class Tower(Module):
    """From pixels to features, those for the embeddings first."""

    scope = "v"

    def __init__(self, sizes: Sizes, hidden: int, deep: Sequence[int], *, apart: bool) -> None:
        """
        Args:
            deep: the layers with features of their own.
            apart: the file is of llama.cpp's kind.
        """
        self.sizes, self.deep = sizes, tuple(deep)
        self.patches = Patches(sizes, film=not apart, bias=True)
        self.places = Embedding("pos_embed|position_embd", None, sizes.hidden)
        self.layers = [Layer(index, sizes, fused=apart) for index in range(sizes.layers)]
        self.mergers = []
        for number, layer in enumerate(deep):
            names = [
                f"deepstack_merger.{number}.{ollamas}|deepstack.{layer}.{llama_cpps}"
                for ollamas, llama_cpps in (("norm", "norm"), ("linear_fc1", "fc1"), ("linear_fc2", "fc2"))
            ]
            self.mergers.append(Merger(names, sizes, hidden, together=True))

    def __call__(
        self,
        graph: Context,
        picture: Tensor,
        order: Tensor,
        places: Tensor,
        taps: Sequence[tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, list[Tensor]]:
        """The last states (patches, width), and the features of the deep layers.

        Args:
            picture: F32 (1, 3, height, width).
            order: I32 (patches,).
            places: see `Grid.places`.
            taps: rows of the table of places for each patch, I32 (patches,), and their shares (patches, 1).
        """
        x = self.patches(graph, picture, order)
        for rows, shares in taps:
            x = x + self.places(rows) * shares
        features = {}
        for index, layer in enumerate(self.layers):
            x = layer(x, places)
            if index in self.deep:
                features[index] = self.mergers[self.deep.index(index)](x)
        return x, [features[index] for index in sorted(features)]


class Qwen3Vision(QwenVision):
    """The encoder, and the projections of squares of patches to the width of the decoder."""

    def __init__(self, metadata: Metadata, vocabulary: Sequence[str], hidden: int) -> None:
        """
        Args:
            hidden: the width of the decoder's states.
        """
        super().__init__(metadata, vocabulary, _LEAST, HALF, HALF)
        deep = _deep(metadata, self.sizes.layers)
        self.tower = Tower(self.sizes, hidden, deep, apart=metadata.architecture == "clip")
        names = ("v.merger.norm|v.post_ln", "v.merger.linear_fc1|mm.0", "v.merger.linear_fc2|mm.2")
        self.merger = Merger(names, self.sizes, hidden, together=False)

    def features(self, inputs: Context, picture: Tensor, grid: Grid, mask_dtype: DType) -> Tensor:
        patches = grid.patches(np.arange(grid.rows * grid.columns, dtype=np.int32))
        side = math.isqrt(self.tower.places.weight.tensor.dim(0))
        taps = [
            (ids(inputs, rows), inputs.from_floats(shares, shares.size, 1))
            for rows, shares in interpolated(grid, patches, side)
        ]
        order, places = ids(inputs, patches), ids(inputs, grid.places(patches))
        x, deep = self.tower(inputs, picture, order, places, taps)
        features = self.merger(x)
        for one in deep:
            features = features.concat(one, 1)
        return features


def interpolated(
    grid: Grid, patches: NDArray[np.int32], side: int
) -> list[tuple[NDArray[np.int32], NDArray[np.float32]]]:
    """Where the patches of a picture lie in a table of `side` × `side` places that is stretched over it.

    Corners lie on corners.

    Returns:
        For each of the four places around, their rows in the table and their shares.
    """
    axes = []
    for place, count in zip(
        np.divmod(patches, grid.columns * grid.merge),
        (grid.rows * grid.merge, grid.columns * grid.merge),
        strict=True,
    ):
        exact = (place.astype(np.float32) * np.float32(side - 1)) / np.float32(max(count - 1, 1))
        floor = np.floor(exact).astype(np.int32)
        share = exact - floor
        axes.append([(floor, 1 - share), (np.minimum(floor + 1, side - 1), share)])
    rows, columns = axes
    return [(row * side + column, own * other) for row, own in rows for column, other in columns]


def _deep(metadata: Metadata, layers: int) -> list[int]:
    """The layers with features of their own, by Ollama's key or by llama.cpp's. Raises: GGUFError."""
    flags = metadata.bools("vision.is_deepstack_layers", [])
    found = metadata.ints(
        "vision.deepstack_visual_indexes", [index for index, flag in enumerate(flags) if flag]
    )
    if len(set(found)) < len(found) or not all(0 <= index < layers for index in found):
        raise GGUFError(
            f"{metadata.source}: of {layers} layers of the image encoder {found[:8]} cannot have features"
        )
    return found
