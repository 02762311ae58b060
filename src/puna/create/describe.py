"""A model as a Modelfile that makes it again."""

from collections.abc import Iterator

import msgspec

from puna.modelfile.commands import ROLES, Command, Modelfile
from puna.modelfile.formatter import parameter_commands
from puna.store.model import Model


def modelfile_of(model: Model) -> Modelfile:
    """The Modelfile of a model, in Ollama's order, with the paths of its files in the store.

    Other than Ollama's it has the `REQUIRES` of the model, and no `TEMPLATE` where the model leaves its
    prompts to the GGUF file. Messages of roles that a Modelfile does not know are left out.
    """
    return Modelfile((*_files(model), *_prompts(model)))


def _files(model: Model) -> Iterator[Command]:
    yield Command("from", str(model.path or model.name))
    yield from (Command("adapter", str(path)) for path in model.adapters)
    yield from (Command("from", str(path)) for path in model.projectors)


def _prompts(model: Model) -> Iterator[Command]:
    if model.template is not None:
        yield Command("template", model.template)
    if model.system:
        yield Command("system", model.system)
    for name in ("renderer", "parser", "requires"):
        value = getattr(model.config, name)
        if value is not msgspec.UNSET and value:
            yield Command(name, value)
    yield from parameter_commands(model.parameters)
    yield from (Command("license", text) for text in model.licenses)
    for message in model.messages:
        if message.role in ROLES:
            yield Command("message", message.content, message.role)
