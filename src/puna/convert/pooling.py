"""How one vector is made of a text's states, as Sentence Transformers' files say."""

from puna.convert.folder import ModelFolder, shown
from puna.errors import UnsupportedModel
from puna.gguf.keys import Pooling

# Kinds of pooling, by the fields of Sentence Transformers that ask for them.
_POOLING = {"mean_tokens": Pooling.MEAN, "cls_token": Pooling.CLS, "lasttoken": Pooling.LAST}
_POOLING_MODES = {"mean": Pooling.MEAN, "cls": Pooling.CLS, "lasttoken": Pooling.LAST}


def pooling(folder: ModelFolder) -> Pooling:
    """The kind; the mean, where nothing says so. Raises: FormatError, UnsupportedModel."""
    settings = folder.pooling()
    mode = settings.get("pooling_mode")
    asked = {name.removeprefix("pooling_mode_") for name, value in settings.items() if value is True}
    asked &= {
        "mean_tokens",
        "cls_token",
        "lasttoken",
        "max_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
    }
    if isinstance(mode, str) and mode in _POOLING_MODES:
        return _POOLING_MODES[mode]
    if not settings or (not asked and mode is None):
        return Pooling.MEAN
    if len(asked) != 1 or not asked <= _POOLING.keys():
        found = ", ".join(sorted(asked)) or shown(mode)
        raise UnsupportedModel(
            f"a vector made by {found} is not supported: only by mean, first or last token"
        )
    return _POOLING[asked.pop()]
