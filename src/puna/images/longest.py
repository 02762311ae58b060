"""Sizes of pictures that keep their proportions, as Pixtral looks at them: within a longest edge.

Agrawal et al., arXiv:2410.07073, section 2.1; the arithmetic is that of transformers' PixtralImageProcessor.
"""

import math
from dataclasses import dataclass

from puna.errors import GGUFError
from puna.gguf import Metadata

_EDGE_AT_MOST = 4096


@dataclass(frozen=True, slots=True)
class LongestEdge:
    """Pictures are no larger than they have to be, and filled up to whole squares.

    Attributes:
        edge: the most pixels along a side, before it is filled up.
        square: pixels along a side of the square that a token stands for.
    """

    edge: int
    square: int

    @staticmethod
    def of(metadata: Metadata) -> "LongestEdge":
        """What a file says of its image encoder. Raises: GGUFError: a number is missing or makes no sense."""
        # Only Ollama's files, which are of one architecture, leave out that patches are merged.
        usual = 2 if metadata.architecture == "mistral3" else 1
        merge = metadata.uint("vision.spatial_merge_size", metadata.uint("spatial_merge_size", usual))
        square = metadata.uint("vision.patch_size") * merge
        edge = metadata.uint("vision.longest_edge", metadata.uint("vision.image_size"))
        if not 1 <= square <= edge <= _EDGE_AT_MOST:
            raise GGUFError(
                f"{metadata.source}: in the image encoder pictures of {edge} pixels cannot be cut into "
                f"squares of {square}"
            )
        return LongestEdge(edge, square)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that a picture of these gets."""
        ratio = max(height / self.edge, width / self.edge, 1.0)
        fitted = (max(math.floor(side / ratio), 1) for side in (width, height))
        across, down = (math.ceil(side / self.square) * self.square for side in fitted)
        return across, down

    def tokens(self, width: int, height: int) -> int:
        """For how many tokens a picture of these stands: those of each line, and one between two lines."""
        columns, rows = (side // self.square for side in self.size(width, height))
        return rows * (columns + 1) - 1

    @property
    def largest(self) -> tuple[int, int]:
        """Width and height of a picture of the most tokens."""
        return self.size(self.edge, self.edge)
