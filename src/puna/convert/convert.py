"""From a folder with safetensors files to a GGUF file. Only data are read: no pickles, no programs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from puna.convert.bert import plan_bert, plan_nomic_bert
from puna.convert.elements import converted, element_type
from puna.convert.folder import ModelFolder, shown
from puna.convert.plan import Plan
from puna.convert.safetensors import StoredTensor
from puna.errors import InvalidOption, UnsupportedModel
from puna.gguf import GGMLType, GGUFWriter
from puna.progress import Progress, Report

STATUS = "converting model"
VERSION = 1
"""Counts the changes of what the same files become."""

FILES = frozenset(
    (
        *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"),
        *("modules.json", "sentence_bert_config.json"),
    )
)
"""The files beside the weights that say what the model is; `modules.json` names one more."""

# By what `architectures` in `config.json` names first.
_PLANNERS: dict[str, Callable[[ModelFolder], Plan]] = {
    "BertModel": plan_bert,
    "BertForMaskedLM": plan_bert,
    "BertForPreTraining": plan_bert,
    "BertForSequenceClassification": plan_bert,
    "NomicBertModel": plan_nomic_bert,
}
# llama.cpp's numbers of types of files.
_FILE_TYPES = {GGMLType.F32: 0, GGMLType.F16: 1, GGMLType.BF16: 32}
_WANTED = {"F32": GGMLType.F32, "F16": GGMLType.F16}


@dataclass(frozen=True, slots=True)
class Converted:
    """What a conversion found out besides.

    Attributes:
        num_ctx: the parameter that keeps texts to the length for which the model was made; None where that
            is all it can take.
    """

    num_ctx: int | None


def convert(folder: Path, target: Path, report: Report, *, file_type: str = "") -> Converted:
    """Write the model in a folder as the GGUF file `target`, a piece at a time.

    Args:
        file_type: F32 or F16 for matrices; empty leaves them as they are.

    Raises:
        InvalidOption: another type.
        FormatError: a file is missing, damaged or makes no sense.
        UnsupportedModel: no such architecture is implemented, or not this variant.
        WeightError: the weights are not those of the architecture.
        GGUFError: the file cannot be written.
    """
    if file_type and file_type not in _WANTED:
        raise InvalidOption(f"a model cannot be converted to {file_type[:40]!r}: known are F32 and F16")
    plan = plan_folder(folder)
    meter = _Meter(report, sum(tensor.nbytes for tensor, _ in plan.tensors))
    with GGUFWriter(target) as writer:
        for key, value in plan.keys.items():
            writer.add(key, value)
        types = set()
        for tensor, made in plan.tensors:
            type_ = element_type(tensor, _WANTED.get(file_type) if made.matrix else GGMLType.F32)
            types |= {type_} if made.matrix else set()
            writer.add_tensor(made.name, type_, tensor.shape, _data(tensor, type_, meter))
        writer.add("general.file_type", _FILE_TYPES[types.pop()] if len(types) == 1 else 0)
    return Converted(plan.max_length)


def plan_folder(folder: Path) -> Plan:
    """How the model in a folder is converted. Raises: as `convert`."""
    files = ModelFolder(folder)
    architectures = files.config().get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(name, str) or name not in _PLANNERS:
        known = ", ".join(_PLANNERS)
        raise UnsupportedModel(f"unsupported architecture {shown(name)}; conversion knows {known}")
    return _PLANNERS[name](files)


class _Meter:
    """Reports how much has been converted."""

    def __init__(self, report: Report, total: int) -> None:
        self._report, self._total, self._done = report, total, 0

    def add(self, size: int) -> None:
        self._done += size
        self._report(Progress(STATUS, self._done, self._total))


def _data(tensor: StoredTensor, type_: GGMLType, meter: _Meter) -> Iterator[bytes]:
    yield from converted(tensor, type_)
    meter.add(tensor.nbytes)
