"""Where weights and caches go: plain functions over names and numbers."""

import re
from collections.abc import Sequence
from itertools import accumulate

from puna.errors import InvalidOption

CPU = 0

_OUTPUT = {
    "cls",
    "output",
    "output_norm",
    "altup_proj",
    "altup_unembd_proj",
    "per_layer_token_embd",
    "per_layer_model_proj",
    "per_layer_proj_norm",
}
_VISION = {"v", "mm", "s"}


def assign_layers(
    blocks: int, num_gpu_layers: int, tensor_split: Sequence[float], main_gpu: int, free: Sequence[int]
) -> list[int]:
    """The device of every block and, last, of the output layer: 0 the CPU, 1 the first other device, …

    Offloaded are the last `num_gpu_layers` blocks; the output layer too if there are more than blocks.
    They are spread in the proportion of `tensor_split`, else all on `main_gpu`, else by free memory.

    Args:
        num_gpu_layers: -1 for all.
        main_gpu: -1 for no preference.
        free: bytes free on each device other than the CPU.

    Raises:
        InvalidOption: a device that does not exist, or a share below 0.
    """
    _check_devices(tensor_split, main_gpu, len(free))
    if not free or num_gpu_layers == 0:
        return [CPU] * (blocks + 1)
    count = blocks + 1 if num_gpu_layers < 0 else num_gpu_layers
    first = max(0, blocks - count)
    stop = min(first + count, blocks + 1)
    ends = _cumulative_shares(tensor_split, main_gpu, free)

    def device(layer: int) -> int:
        if not first <= layer < stop:
            return CPU
        share = (layer - first) / (stop - first)
        return 1 + next((index for index, end in enumerate(ends) if end > share), len(ends) - 1)

    return [device(layer) for layer in range(blocks + 1)]


def _check_devices(tensor_split: Sequence[float], main_gpu: int, devices: int) -> None:
    if len(tensor_split) > devices and any(tensor_split[devices:]):
        raise InvalidOption(f"tensor_split names {len(tensor_split)} devices, but there are {devices}")
    if any(share < 0 for share in tensor_split):
        raise InvalidOption(f"tensor_split has a share below 0: {list(tensor_split)}")
    if main_gpu >= max(devices, 1):
        raise InvalidOption(f"main_gpu is {main_gpu}, but there are {devices} devices besides the CPU")


def _cumulative_shares(tensor_split: Sequence[float], main_gpu: int, free: Sequence[int]) -> list[float]:
    if any(tensor_split):
        shares = [*tensor_split, *[0.0] * len(free)][: len(free)]
    elif main_gpu >= 0:
        shares = [float(index == main_gpu) for index in range(len(free))]
    else:
        shares = [float(size) for size in free] if any(free) else [1.0] * len(free)
    total = sum(shares)
    return [end / total for end in accumulate(shares)]


def layer_of(name: str, blocks: int) -> int | None:
    """The layer on whose device the weight lies: a block, `blocks` for the output, None for the CPU."""
    parts = name.split(".")
    if _OUTPUT.intersection(parts) or parts[0] in _VISION:
        return blocks
    number = re.search(r"\d+", name)
    if number is None:
        return None
    return min(int(number.group()), blocks)
