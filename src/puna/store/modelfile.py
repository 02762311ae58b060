"""The Modelfile that makes a model again."""

from puna.modelfile.commands import Command, Modelfile
from puna.modelfile.formatter import parameter_commands
from puna.store.model import Model


def modelfile_of(model: Model, source: str | None = None) -> Modelfile:
    """The commands that, with the store's blobs in place, make a model with the same layers.

    A template is written only where the model has one of its own: one that is written always, as Ollama does,
    would take the place of the one in the GGUF file.

    Args:
        source: what `FROM` names; None for the path of the weights.
    """
    config = model.config
    named = [("renderer", config.renderer), ("parser", config.parser), ("requires", config.requires)]
    commands = [
        *_commands("from", source or (str(model.path) if model.path else "")),
        *_commands("adapter", *map(str, model.adapters)),
        *_commands("from", *map(str, model.projectors)),
        *([Command("template", model.template)] if model.template is not None else []),
        *_commands("system", model.system),
        *(Command(name, value) for name, value in named if isinstance(value, str) and value),
        *parameter_commands(dict(sorted(model.parameters.items()))),
        *(Command("license", text) for text in model.licenses),
        *(Command("message", message.content, message.role) for message in model.messages),
    ]
    return Modelfile(tuple(commands))


def _commands(name: str, *values: str) -> list[Command]:
    return [Command(name, value) for value in values if value]
