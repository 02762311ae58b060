"""From a folder with safetensors files to a GGUF file. Only data are read: no pickles, no programs."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from puna.convert.bert import plan_bert, plan_nomic_bert
from puna.convert.cohere import COHERE2, COMMAND_R
from puna.convert.content import Content
from puna.convert.decoder import Family, plan_decoder
from puna.convert.deepseek import DEEPSEEK2, DEEPSEEK3
from puna.convert.elements import converted, element_type
from puna.convert.folder import ModelFolder, shown
from puna.convert.gemma import GEMMA2, GEMMA3, GEMMA3_WITH_PICTURES
from puna.convert.gemma3n import GEMMA3N
from puna.convert.glm import GLM4
from puna.convert.gptoss import GPT_OSS
from puna.convert.lfm2 import LFM2, LFM2MOE
from puna.convert.llama import GRANITE, LLAMA, MISTRAL, MIXTRAL
from puna.convert.llama4 import LLAMA4
from puna.convert.mistral3 import MINISTRAL3
from puna.convert.olmo import OLMO2
from puna.convert.phi import PHI3
from puna.convert.pixtral import MISTRAL3, PIXTRAL, merging, pixtral
from puna.convert.plan import Plan
from puna.convert.qwen import QWEN2, QWEN2MOE, QWEN3, QWEN3MOE
from puna.convert.qwenvl import QWEN3VL, QWEN3VLMOE, plan_qwen3vl, plan_qwen25vl
from puna.convert.seeing import plan_seeing
from puna.convert.siglip import siglip
from puna.convert.sources import shifted
from puna.convert.starcoder import STARCODER2
from puna.errors import InvalidOption, UnsupportedModel
from puna.gguf import GGMLType, GGUFWriter
from puna.progress import Progress, Report

STATUS = "converting model"
VERSION = 1
"""Counts the changes of what the same files become."""

# By what `architectures` in `config.json` names first.
_DECODERS: dict[str, Family] = {
    "LlamaForCausalLM": LLAMA,
    "LLaMAForCausalLM": LLAMA,
    "LlamaModel": replace(LLAMA, head=False),
    "Llama4ForCausalLM": LLAMA4,
    "Llama4ForConditionalGeneration": LLAMA4,
    "MistralForCausalLM": MISTRAL,
    "Ministral3ForCausalLM": MINISTRAL3,
    "MixtralForCausalLM": MIXTRAL,
    "GraniteForCausalLM": GRANITE,
    "Qwen2ForCausalLM": QWEN2,
    "Qwen2Model": replace(QWEN2, head=False),
    "Qwen2MoeForCausalLM": QWEN2MOE,
    "Qwen3ForCausalLM": QWEN3,
    "Qwen3Model": replace(QWEN3, head=False),
    "Qwen3MoeForCausalLM": QWEN3MOE,
    "Gemma2ForCausalLM": GEMMA2,
    "Gemma3ForCausalLM": GEMMA3,
    "Gemma3nForCausalLM": GEMMA3N,
    "Gemma3nForConditionalGeneration": GEMMA3N,
    "CohereForCausalLM": COMMAND_R,
    "Cohere2ForCausalLM": COHERE2,
    "DeepseekV2ForCausalLM": DEEPSEEK2,
    "DeepseekV3ForCausalLM": DEEPSEEK3,
    "Glm4ForCausalLM": GLM4,
    "Glm4MoeLiteForCausalLM": DEEPSEEK3,
    "Phi3ForCausalLM": PHI3,
    "Starcoder2ForCausalLM": STARCODER2,
    "Olmo2ForCausalLM": OLMO2,
    "Olmo3ForCausalLM": OLMO2,
    "GptOssForCausalLM": GPT_OSS,
    "Lfm2ForCausalLM": LFM2,
    "LFM2ForCausalLM": LFM2,
    "Lfm2MoeForCausalLM": LFM2MOE,
}
_PLANNERS: dict[str, Callable[[ModelFolder], Plan]] = {
    "BertModel": plan_bert,
    "BertForMaskedLM": plan_bert,
    "BertForPreTraining": plan_bert,
    "BertForSequenceClassification": plan_bert,
    "NomicBertModel": plan_nomic_bert,
    "Gemma3ForConditionalGeneration": partial(plan_seeing, GEMMA3_WITH_PICTURES, siglip),
    "LlavaForConditionalGeneration": partial(plan_seeing, PIXTRAL, pixtral),
    "Mistral3ForConditionalGeneration": partial(plan_seeing, MISTRAL3, merging),
    "Qwen2_5_VLForConditionalGeneration": plan_qwen25vl,
    "Qwen3VLForConditionalGeneration": partial(plan_qwen3vl, QWEN3VL),
    "Qwen3VLMoeForConditionalGeneration": partial(plan_qwen3vl, QWEN3VLMOE),
    **{name: partial(plan_decoder, family) for name, family in _DECODERS.items()},
}
# What architectures are for.
_ENDING = re.compile(r"(?:For[A-Z][A-Za-z]+|Model)$", re.ASCII)
# llama.cpp's numbers of types of files.
_FILE_TYPES = {GGMLType.F32: 0, GGMLType.F16: 1, GGMLType.BF16: 32, GGMLType.MXFP4: 38}
_WANTED = {"F32": GGMLType.F32, "F16": GGMLType.F16}


@dataclass(frozen=True, slots=True)
class Converted:
    """What a conversion found out besides.

    Attributes:
        num_ctx: the parameter that keeps texts to the length for which the model was made; None where that
            is all it can take.
        sampling: parameters for generating, as the model's makers want them.
    """

    num_ctx: int | None
    sampling: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, Any]:
        """All of it as parameters of a model."""
        return {**({} if self.num_ctx is None else {"num_ctx": self.num_ctx}), **self.sampling}


def convert(folder: Path, target: Path, report: Report, *, file_type: str = "") -> Converted:
    """Write the model in the folder at a path as the GGUF file `target`, see `convert_model`."""
    return convert_model(ModelFolder.at(folder), target, report, file_type=file_type)


def convert_model(folder: ModelFolder, target: Path, report: Report, *, file_type: str = "") -> Converted:
    """Write a model as the GGUF file `target`, a piece at a time.

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
    plan = _plan(folder)
    if plan.left_out:
        report(Progress(f"leaving out {plan.left_out} tensors that the model does without"))
    meter = _Meter(report, sum(tensor.nbytes for tensor, _ in plan.tensors))
    with GGUFWriter(target) as writer:
        for key, value in plan.keys.items():
            writer.add(key, value)
        sizes: Counter[GGMLType] = Counter()
        for tensor, made in plan.tensors:
            content = shifted(tensor, made.offset) if made.offset else tensor
            type_ = element_type(content, _WANTED.get(file_type) if made.matrix else GGMLType.F32)
            sizes[type_] += content.nbytes if made.matrix else 0
            writer.add_tensor(made.name, type_, content.shape, _data(content, type_, meter))
        writer.add("general.file_type", _FILE_TYPES[_main(sizes)])
    return Converted(plan.max_length, plan.sampling)


def _main(sizes: Counter[GGMLType]) -> GGMLType:
    """The type that the file is named after: that of blocks, if there are any, or else of the most bytes."""
    return max(sizes, key=lambda type_: (type_.is_quantized, sizes[type_]), default=GGMLType.F32)


def _plan(folder: ModelFolder) -> Plan:
    architectures = folder.config().get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(name, str) or name not in _PLANNERS:
        known = ", ".join(dict.fromkeys(_ENDING.sub("", name) for name in _PLANNERS))
        raise UnsupportedModel(f"unsupported architecture {shown(name)}; conversion knows those of {known}")
    return _PLANNERS[name](folder)


class _Meter:
    """Reports how much has been converted."""

    def __init__(self, report: Report, total: int) -> None:
        self._report, self._total, self._done = report, total, 0

    def add(self, size: int) -> None:
        self._done += size
        self._report(Progress(STATUS, self._done, self._total))


def _data(tensor: Content, type_: GGMLType, meter: _Meter) -> Iterator[bytes]:
    yield from converted(tensor, type_)
    meter.add(tensor.nbytes)
