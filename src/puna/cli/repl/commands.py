"""The commands of a conversation: what begins with a slash."""

import json
import time
from collections.abc import Callable, Iterator, Mapping

from puna.chat.conversation import check_think
from puna.cli import terminal
from puna.cli.listing import listing_lines, matching
from puna.cli.modelpage import page_lines
from puna.cli.options import option_value
from puna.cli.place import SavedSession, Wanted
from puna.cli.repl import help
from puna.cli.repl.reader import Reader
from puna.cli.repl.state import Talk
from puna.errors import InvalidOption, ModelNotFound, PunaError
from puna.sampling.grammar import Grammar
from puna.services.options import NAMES, read_options
from puna.store.name import parse_name

EXIT = ("/bye", "/exit")


def obey(line: str, talk: Talk, reader: Reader) -> None:
    """Do what a command says; what it has to say goes to standard output.

    Raises:
        PunaError: it fails.
    """
    name, *words = line.split()
    if name == "/set":
        _set(line, words, talk, reader)
    elif name in _COMMANDS:
        for text in _COMMANDS[name](words, talk):
            terminal.show(f"{text}\n")
    else:
        _say(unknown(name))


def unknown(command: str) -> str:
    """What is said to a command that there is not."""
    return f"Unknown command '{command[:100]}'. Type /? for help"


def _help(words: list[str], talk: Talk) -> Iterator[str]:
    topic = words[0] if words else ""
    yield help.TOPICS.get(topic) or unknown(f"/help {topic}")
    yield ""


def _clear(words: list[str], talk: Talk) -> Iterator[str]:
    talk.messages.clear()
    yield "Cleared session context"


def _list(words: list[str], talk: Talk) -> Iterator[str]:
    yield from listing_lines(matching(talk.place.listing(), words[0] if words else ""), time.time())


def _load(words: list[str], talk: Talk) -> Iterator[str]:
    if len(words) != 1:
        yield "Usage:\n  /load <modelname>"
        return
    yield f"Loading model '{words[0]}'"
    try:
        speaker = talk.place.open(words[0], Wanted(talk.options, talk.insecure, talk.keep_alive))
    except ModelNotFound:
        yield f"Couldn't find model '{words[0]}'"
        return
    talk.speaker.close()
    talk.speaker = speaker
    talk.messages.clear()


def _save(words: list[str], talk: Talk) -> Iterator[str]:
    if len(words) != 1:
        yield "Usage:\n  /save <modelname>"
        return
    try:
        parse_name(words[0])
    except InvalidOption:
        yield f"error: The model name '{words[0][:100]}' is invalid"
        return
    session = SavedSession(talk.speaker.name, talk.system, talk.options, talk.messages)
    talk.place.save(words[0], session)
    yield f"Created new model '{words[0]}'"


def _show(words: list[str], talk: Talk) -> Iterator[str]:
    if not words:
        yield f"{help.SHOW}\n"
        return
    if words[0] not in _SHOWN:
        yield unknown(f"/show {words[0]}")
        return
    document = talk.place.show(talk.speaker.name)
    if words[0] == "info":
        yield from page_lines(document, verbose=False)
    elif words[0] == "parameters":
        yield from _parameters(str(document.get("parameters", "")), talk)
    else:
        key, missing = _SHOWN[words[0]]
        own = talk.system if words[0] == "system" else None
        yield str(own or document.get(key) or missing)
        yield ""


# What /show can show: where it stands in the document, and what is said where there is nothing.
_SHOWN = {
    "info": ("", ""),
    "parameters": ("", ""),
    "license": ("license", "No license was specified for this model."),
    "modelfile": ("modelfile", ""),
    "system": ("system", "No system message was specified for this model."),
    "template": ("template", "No prompt template was specified for this model."),
}


def _parameters(own: str, talk: Talk) -> Iterator[str]:
    yield "Model defined parameters:"
    for line in own.splitlines() or ["No additional parameters were specified for this model."]:
        yield f"  {line}"
    yield ""
    if talk.options:
        yield "User defined parameters:"
        for name, value in talk.options.items():
            yield f"  {name:<30} {value}"
        yield ""


_COMMANDS: Mapping[str, Callable[[list[str], Talk], Iterator[str]]] = {
    "/?": _help,
    "/help": _help,
    "/clear": _clear,
    "/list": _list,
    "/ls": _list,
    "/load": _load,
    "/save": _save,
    "/show": _show,
}


def _set(line: str, words: list[str], talk: Talk, reader: Reader) -> None:
    if not words:
        _say(f"{help.SET}\n")
        return
    what, *values = words
    if what in ("history", "nohistory"):
        reader.remember(what == "history")
    elif what in _SWITCHES:
        name, value = _SWITCHES[what]
        setattr(talk, name, value)
        _say(f"Set '{what}' mode.")
    elif what == "system":
        _set_system(line.partition("system")[2].strip(), talk)
    elif what in _SETTERS:
        _SETTERS[what](values, talk)
    else:
        _say(unknown(f"/set {what}"))


_SWITCHES = {
    "wordwrap": ("wraps", True),
    "nowordwrap": ("wraps", False),
    "verbose": ("verbose", True),
    "quiet": ("verbose", False),
    "nothink": ("think", False),
}


def _set_system(text: str, talk: Talk) -> None:
    if not text:
        _say("Usage:\n  /set system <text>")
        return
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    talk.system = text[1:-1] if quoted else text
    _say("Set system message.")


def _set_parameter(values: list[str], talk: Talk) -> None:
    if len(values) < 2:
        _say("Usage:\n  /set parameter <name> <value>")
        return
    name, *texts = values
    try:
        if name not in NAMES:
            raise InvalidOption(f"unknown parameter '{name[:100]}'")
        value = texts if name == "stop" else option_value(name, texts[0])
        read_options({name: value})
    except InvalidOption as error:
        _say(f"Couldn't set parameter: {json.dumps(str(error), ensure_ascii=False)}")
        return
    talk.options[name] = value
    _say(f"Set parameter '{name}' to '{', '.join(texts)}'")


def _set_format(values: list[str], talk: Talk) -> None:
    if values != ["json"]:
        _say("Invalid or missing format. For 'json' mode use '/set format json'")
        return
    talk.grammar = Grammar.any_object()
    _say("Set format to 'json' mode.")


def _set_no_format(values: list[str], talk: Talk) -> None:
    talk.grammar = None
    _say("Disabled format.")


def _set_think(values: list[str], talk: Talk) -> None:
    if "thinking" not in talk.speaker.capabilities:
        _say(f"warning: model '{talk.speaker.name}' does not support thinking output")
        return
    think = values[0] if values else True
    try:
        check_think(think)
    except PunaError as error:
        _say(f"error: {error}")
        return
    talk.think = think
    _say(f"Set 'think' mode to '{think}'." if values else "Set 'think' mode.")


_SETTERS: Mapping[str, Callable[[list[str], Talk], None]] = {
    "parameter": _set_parameter,
    "format": _set_format,
    "noformat": _set_no_format,
    "think": _set_think,
}


def _say(text: str) -> None:
    terminal.show(f"{text}\n")
