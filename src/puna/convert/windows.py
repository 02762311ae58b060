"""Which layers see a window of the text only."""

from puna.convert.folder import Fields, shown
from puna.errors import FormatError

_KINDS = {"sliding_attention": True, "full_attention": False}


def local_layers(config: Fields, layers: int, period: int) -> list[bool]:
    """For each layer, whether it has the window.

    Args:
        period: the number of layers of which the last has none, where the configuration does not list them.

    Raises:
        FormatError: the list makes no sense.
    """
    kinds = config.values.get("layer_types")
    if kinds is None:
        return [(layer + 1) % period != 0 for layer in range(layers)]
    known = isinstance(kinds, list) and all(isinstance(kind, str) and kind in _KINDS for kind in kinds)
    if not known or len(kinds) != layers:
        raise FormatError(f"config.json: layer_types {shown(kinds)} are not the kinds of {layers} layers")
    return [_KINDS[kind] for kind in kinds]
