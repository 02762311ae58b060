"""The conversation: a person's turn, the model's turn, until the person leaves."""

from collections.abc import Iterator

import click

from puna.cli import terminal
from puna.cli.answer import ShownAnswer, new_answer, show_timings
from puna.cli.pictures import look, named_pictures
from puna.cli.repl.commands import EXIT, obey
from puna.cli.repl.multiline import Multiline
from puna.cli.repl.reader import Reader
from puna.cli.repl.state import Talk
from puna.cli.speaker import Prompt
from puna.client.calls import encoded_image
from puna.client.replies import ChatReply, GenerateReply, Message
from puna.errors import Interrupted, PunaError


def converse(talk: Talk, reader: Reader) -> None:
    """Converse until the person leaves. The speaker is left open.

    Errors of a turn are told, and the conversation goes on without what was said in it.
    """
    while (text := read_text(reader)) is not None and text.strip() not in EXIT:
        if not text.strip():
            continue
        try:
            if text.startswith("/") and not is_path(text, talk):
                obey(text, talk, reader)
            else:
                _turn(text, talk)
        except (KeyboardInterrupt, Interrupted):
            terminal.restore()
        except PunaError as error:
            terminal.restore()
            terminal.complain("Error", str(error))


def read_text(reader: Reader) -> str | None:
    """The next message or command; None when the person wants to leave."""
    message = Multiline()
    while True:
        try:
            text = message.feed(reader.read(continued=message.is_open))
        except KeyboardInterrupt:
            message = Multiline()
            continue
        except EOFError:
            click.echo()
            return None
        if text is not None:
            return text


def is_path(text: str, talk: Talk) -> bool:
    """Whether a text that begins with a slash begins with a picture, for a model that sees."""
    return talk.sees and any(text.startswith(path) for path in named_pictures(text))


def _turn(text: str, talk: Talk) -> None:
    """The model's answer to a text, shown as it comes; Ctrl-C ends it and keeps what there is.

    Raises:
        PunaError: there is none; then nothing was said.
    """
    message = asked(text, talk)
    answer = new_answer(hides_thinking=talk.hides_thinking, wraps=talk.wraps)
    _show(answer, message, talk)
    click.echo("\n")
    # What of the thinking the model sees again is for its template to say.
    said = Message(role="assistant", content="".join(answer.content), thinking="".join(answer.thinking))
    talk.messages += [message, said]
    if talk.verbose:
        show_timings(answer)


def _show(answer: ShownAnswer, message: Message, talk: Talk) -> None:
    speaker, replies = talk.speaker, _replies(message, talk)
    try:
        with speaker.interruptible():
            answer.show(replies)
    except (KeyboardInterrupt, Interrupted):
        answer.end_thinking()
        terminal.restore()
    except PunaError:
        if answer.content or answer.thinking:
            click.echo()
        raise


def _replies(message: Message, talk: Talk) -> Iterator[ChatReply] | Iterator[GenerateReply]:
    if talk.raw:
        return talk.speaker.generate(Prompt(message.content, raw=True), talk.grammar, talk.arguments)
    return talk.speaker.chat([*talk.conversation, message], talk.grammar, talk.arguments)


def asked(text: str, talk: Talk) -> Message:
    """The person's message, with the pictures that it names. Raises: InvalidOption: one cannot be used."""
    found = look(text, talk.speaker.name, sees=talk.sees)
    images = [encoded_image(image) for image in found.images]
    return Message(role="user", content=found.text, images=images or None)
