"""Making a model from a request: files of the store become layers, and a manifest names them.

Statuses are Ollama's, in its order. The request names no path, so nothing outside the store is opened here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from puna.create.layers import Base, DetectedTemplate, Part, Stored, described, inherited, planned
from puna.create.quantize import quantization, quantized
from puna.create.request import CreateRequest
from puna.create.weights import Weights, in_order, new_weights, stored_weights
from puna.errors import ModelNotFound, TemplateError
from puna.gguf import Metadata
from puna.gguf.keys import CHAT_TEMPLATE_KEY
from puna.progress import Progress, Report
from puna.store.config import encode_config
from puna.store.library import Library, Session
from puna.store.manifests import CONFIG_TYPE, MODEL_LAYER, Layer, image_manifest
from puna.store.model import Model, stored_model
from puna.store.name import ModelName

Pull = Callable[[ModelName, Report], None]
"""Fetches a model into the store."""

_SUCCESS = "success"


@dataclass(frozen=True, slots=True)
class TemplateRules:
    """What is known of prompt templates.

    Attributes:
        check: raises TemplateError for a text that is no Go template.
        detect: finds the known Go template that says what a GGUF file's Jinja template says, if there is one.
    """

    check: Callable[[str], None]
    detect: Callable[[str, Metadata], DetectedTemplate | None]


def create_model(
    request: CreateRequest, library: Library, report: Report, *, pull: Pull, templates: TemplateRules
) -> None:
    """Make the model that `request` describes, or leave the store as it was.

    Args:
        library: holds the files that the request names, and gets the model.
        report: told of every step; `success` is the last.
        pull: fetches the model to derive from, when the library has none of that name.

    Raises:
        InvalidOption: what is asked for makes no sense.
        FormatError: a file is no GGUF file, is damaged, or is not of the kind that belongs there.
        TemplateError: the template has a fault.
        UnsupportedModel: a file cannot be converted.
        WeightError: weights do not fit what is said of them.
        BackendError: the weights cannot be quantized: the compute library is missing or has given up.
        StoreError: a file is missing, or the store cannot be read or written.
        ModelNotFound, FetchError: the model to derive from cannot be fetched.
    """
    if request.template:
        _check_template(request.template, templates)
    with library.tidy_session() as session:
        session.pin(*request.files.values(), *request.adapters.values(), *request.imatrix.values())
        parent = _parent(request.from_, library, session, report, pull)
        brought = new_weights(request, parent, library, session, report)
        base = _base(library, parent, brought)
        wanted = quantization(request.quantize, base.config.file_type)
        if wanted is not None:
            base = quantized(base, wanted, request, library, session, report)
        detected = _detected(brought, templates) if request.template is None else None
        stored = [_store(part, library, session) for part in planned(base, request, detected)]
        config = session.add(CONFIG_TYPE, [encode_config(inherited(base.config, request))])
        for _, status in stored:
            report(Progress(status))
        report(Progress("writing manifest"))
        session.publish(request.name, image_manifest(config, [layer for layer, _ in stored]))
    report(Progress(_SUCCESS))


def _check_template(text: str, templates: TemplateRules) -> None:
    try:
        templates.check(text)
    except TemplateError as error:
        error.args = (f"template error: {error}",)
        raise


def _parent(
    name: ModelName | None, library: Library, session: Session, report: Report, pull: Pull
) -> Model | None:
    """The model to derive from, kept until the session ends."""
    if name is None:
        return None
    try:
        stored = session.keep(name)
    except ModelNotFound:
        # The end of the fetch is not the end of the creation.
        pull(name, lambda progress: report(progress) if progress.status != _SUCCESS else None)
        stored = session.keep(name)
    return stored_model(library, stored)


def _base(library: Library, parent: Model | None, brought: Sequence[Weights]) -> Base:
    parts = [Stored(weights.layer, weights.new) for weights in brought]
    if parent is None:
        parameters = {name: value for weights in brought for name, value in weights.parameters.items()}
        return Base(tuple(parts), described([weights.config for weights in brought], None), parameters)
    origin = str(parent.name)
    copied = [
        Stored(Layer(layer.media_type, layer.digest, layer.size, from_=origin, name=layer.name))
        for layer in parent.manifest.layers
    ]
    if parent.path is None:
        return Base((*copied, *parts), parent.config, parent.parameters)
    weights = in_order([*stored_weights(parent, library), *brought])
    config = described([file.config for file in weights], parent.config)
    return Base((*copied, *parts), config, parent.parameters)


def _detected(brought: Sequence[Weights], templates: TemplateRules) -> DetectedTemplate | None:
    for weights in brought:
        text = weights.metadata.string(CHAT_TEMPLATE_KEY, "")
        if weights.layer.media_type == MODEL_LAYER and text:
            return templates.detect(text, weights.metadata)
    return None


def _store(part: Part, library: Library, session: Session) -> tuple[Layer, str]:
    """The layer, in the store now, and what to report of it."""
    if isinstance(part, Stored):
        return part.layer, f"{'creating new' if part.new else 'using existing'} layer {part.layer.digest}"
    known = library.blobs.verified(part.digest)
    layer = session.add(part.media_type, [part.content])
    return layer, part.status or f"{'using existing' if known else 'creating new'} layer {layer.digest}"
