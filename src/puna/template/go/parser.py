"""Parses a template into its tree.

Source: the documentation of Go's text/template ("Actions", "Pipelines", "Variables", "Nested template
definitions"); of what came after Go 1.19, `else with` is understood.
"""

from collections.abc import Container
from dataclasses import dataclass, field
from typing import NoReturn

from puna.errors import TemplateError
from puna.template.go import literals
from puna.template.go.lexer import Kind, Token, fault, tokens
from puna.template.go.nodes import (
    Action,
    Branch,
    Break,
    Chain,
    Command,
    Constant,
    Continue,
    Dot,
    Field,
    Function,
    Invoke,
    Nil,
    Node,
    Nodes,
    Operand,
    Pipe,
    Text,
    Variable,
)

MAX_LENGTH = 1 << 18
MAX_BLOCKS = 200
MAX_PARENTHESES = 40
MAX_VARIABLES = 1000
_LITERALS = (Dot, Nil, Constant)


@dataclass(slots=True)
class _Scope:
    """What an action may refer to: the variables declared so far, and how many loops are around it."""

    variables: list[str] = field(default_factory=lambda: ["$"])
    loops: int = 0


@dataclass(slots=True)
class _Block:
    """A block whose `end` has not been read yet.

    Attributes:
        keyword: `if`, `with`, `range`, `define` or `block`; empty for the whole template.
        name: of a definition.
        chained: the `end` of this block also ends the one around it (`else if`).
        visible: how many variables there were when it began.
        outside: the scope around a definition, which it does not see.
    """

    keyword: str
    position: int
    pipe: Pipe | None = None
    name: str = ""
    chained: bool = False
    visible: int = 1
    outside: _Scope | None = None
    body: list[Node] = field(default_factory=list)
    otherwise: list[Node] | None = None

    @property
    def open_list(self) -> list[Node]:
        return self.body if self.otherwise is None else self.otherwise


def parse_definitions(source: str, functions: Container[str]) -> dict[str, Nodes]:
    """The tree of a template, under the empty name, and those that it defines.

    Raises:
        TemplateError: the source is no template, calls a function that is not in `functions`, is longer than
            256 KiB or nested too deeply.
    """
    if len(source) > MAX_LENGTH:
        raise TemplateError(f"it is longer than {MAX_LENGTH} characters")
    return _Parser(source, functions).parse()


class _Parser:
    def __init__(self, source: str, functions: Container[str]) -> None:
        self.source = source
        self.functions = functions
        self.tokens = list(tokens(source))
        self.index = 0
        self.blocks = [_Block("", 0)]
        self.definitions: dict[str, Nodes] = {}
        self.scope = _Scope()
        self.parentheses = 0

    def parse(self) -> dict[str, Nodes]:
        while (token := self.next()).kind is not Kind.END:
            if token.kind is Kind.TEXT:
                self.add(Text(token.position, token.text))
            else:
                self.action(self.next_after_space())
        if len(self.blocks) > 1:
            block = self.blocks[-1]
            self.fail(block.position, f"this {block.keyword!r} has no 'end'")
        self.define("", 0, tuple(self.blocks[0].body))
        return self.definitions

    def peek(self) -> Token:
        return self.tokens[self.index]

    def next(self) -> Token:
        token = self.tokens[self.index]
        self.index += 1
        return token

    def skip_space(self) -> bool:
        found = self.peek().kind is Kind.SPACE
        self.index += found
        return found

    def next_after_space(self) -> Token:
        self.skip_space()
        return self.next()

    def peek_after_space(self) -> Token:
        self.skip_space()
        return self.peek()

    def fail(self, position: int, message: str) -> NoReturn:
        raise fault(self.source, position, message)

    def unexpected(self, token: Token, where: str) -> NoReturn:
        text = token.text[:40]
        self.fail(token.position, f"{text!r} is not expected {where}")

    def add(self, node: Node) -> None:
        self.blocks[-1].open_list.append(node)

    def close_action(self, after: str) -> None:
        token = self.next_after_space()
        if token.kind is not Kind.RIGHT:
            self.unexpected(token, f"after {after!r}")

    # Actions

    def action(self, token: Token) -> None:
        position = token.position
        match token.text if token.kind is Kind.KEYWORD else None:
            case "if" | "with" | "range" as keyword:
                self.open(_Block(keyword, position, visible=len(self.scope.variables)), keyword)
            case "else":
                self.otherwise(position)
            case "end":
                self.close_action("end")
                self.end(position)
            case "define":
                self.open_definition(position)
            case "block":
                self.open_block(position)
            case "template":
                self.add(self.invoke(position))
            case "break" | "continue" as keyword:
                self.add(self.leave(keyword, position))
            case _:
                self.index -= 1
                self.add(Action(position, self.pipe(Kind.RIGHT, declares=1)))

    def open(self, block: _Block, keyword: str) -> None:
        if len(self.blocks) >= MAX_BLOCKS:
            self.fail(block.position, f"blocks are nested more than {MAX_BLOCKS} deep")
        block.pipe = self.pipe(Kind.RIGHT, declares=2 if keyword == "range" else 1)
        self.scope.loops += keyword == "range"
        self.blocks.append(block)

    def otherwise(self, position: int) -> None:
        block = self.blocks[-1]
        if block.otherwise is not None or block.keyword not in ("if", "with", "range"):
            self.fail(position, "'else' is not expected here")
        self.scope.loops -= block.keyword == "range"
        block.otherwise = []
        token = self.peek_after_space()
        if token.kind is Kind.KEYWORD and token.text == block.keyword != "range":
            self.index += 1
            inner = _Block(block.keyword, token.position, chained=True, visible=len(self.scope.variables))
            self.open(inner, block.keyword)
        else:
            self.close_action("else")

    def end(self, position: int) -> None:
        while True:
            block = self.blocks[-1]
            if not block.keyword:
                self.fail(position, "'end' is not expected here")
            self.blocks.pop()
            if block.outside is not None:
                self.scope = block.outside
                self.define(block.name, block.position, tuple(block.body))
                return
            self.close_branch(block)
            if not block.chained:
                return

    def close_branch(self, block: _Block) -> None:
        if block.keyword == "range" and block.otherwise is None:
            self.scope.loops -= 1
        del self.scope.variables[block.visible :]
        if block.pipe is None:
            self.fail(block.position, f"{block.keyword!r} has no value")
        self.add(
            Branch(block.position, block.keyword, block.pipe, tuple(block.body), tuple(block.otherwise or ()))
        )

    def leave(self, keyword: str, position: int) -> Break | Continue:
        self.close_action(keyword)
        if not self.scope.loops:
            self.fail(position, f"{keyword!r} is outside of a 'range'")
        return Break(position) if keyword == "break" else Continue(position)

    def open_definition(self, position: int) -> None:
        if len(self.blocks) > 1:
            self.fail(position, "'define' is allowed outside of blocks only")
        name = self.template_name("define")
        self.close_action("define")
        self.open_scope(_Block("define", position, name=name))

    def open_block(self, position: int) -> None:
        name = self.template_name("block")
        self.add(Invoke(position, name, self.pipe(Kind.RIGHT, declares=1)))
        self.open_scope(_Block("block", position, name=name))

    def open_scope(self, block: _Block) -> None:
        if len(self.blocks) >= MAX_BLOCKS:
            self.fail(block.position, f"blocks are nested more than {MAX_BLOCKS} deep")
        block.outside, self.scope = self.scope, _Scope()
        self.blocks.append(block)

    def template_name(self, keyword: str) -> str:
        token = self.next_after_space()
        if token.kind not in (Kind.STRING, Kind.RAW):
            self.unexpected(token, f"after {keyword!r}, which a name in quotes must follow")
        return self.text(token)

    def invoke(self, position: int) -> Invoke:
        name = self.template_name("template")
        if self.peek_after_space().kind is Kind.RIGHT:
            self.index += 1
            return Invoke(position, name, None)
        return Invoke(position, name, self.pipe(Kind.RIGHT, declares=1))

    def define(self, name: str, position: int, body: Nodes) -> None:
        if name not in self.definitions or _is_empty(self.definitions[name]):
            self.definitions[name] = body
        elif not _is_empty(body):
            self.fail(position, f"the template {name!r} is defined twice")

    # Pipelines

    def pipe(self, end: Kind, declares: int = 1) -> Pipe:
        position = self.peek_after_space().position
        variables, assigns = self.targets(declares)
        commands: list[Command] = []
        while (token := self.peek_after_space()).kind is not end:
            command = self.command(end)
            if commands and isinstance(command.words[0], _LITERALS):
                self.fail(token.position, "a value cannot take the result of the command before it")
            commands.append(command)
        self.index += 1
        if not commands:
            self.fail(position, "a value is missing here")
        return Pipe(position, tuple(commands), variables, assigns)

    def targets(self, declares: int) -> tuple[tuple[str, ...], bool]:
        """The variables before `:=` or `=`, and whether it is the latter."""
        start = self.index
        names: list[str] = []
        while (variable := self.peek_after_space()).kind is Kind.VARIABLE:
            self.index += 1
            names.append(variable.text)
            following = self.peek_after_space()
            if following.kind in (Kind.DECLARE, Kind.ASSIGN):
                self.index += 1
                assigns = following.kind is Kind.ASSIGN
                self.declare([n for n in names if not assigns or n not in self.scope.variables], start)
                return tuple(names), assigns
            if following.kind is not Kind.COMMA:
                break
            if len(names) == declares:
                self.fail(variable.position, "this declares too many variables")
            self.index += 1
        if len(names) > 1:
            self.fail(self.tokens[start].position, "':=' must follow these variables")
        self.index = start
        return (), False

    def declare(self, names: list[str], start: int) -> None:
        self.scope.variables += names
        if len(self.scope.variables) > MAX_VARIABLES:
            self.fail(self.tokens[start].position, f"more than {MAX_VARIABLES} variables are declared")

    def command(self, end: Kind) -> Command:
        position = self.peek_after_space().position
        words = [self.operand()]
        while True:
            spaced = self.skip_space()
            token = self.peek()
            if token.kind is end:
                break
            if token.kind is Kind.PIPE:
                self.index += 1
                break
            if not spaced:
                self.unexpected(token, "without a blank before it")
            words.append(self.operand())
        return Command(position, tuple(words))

    def operand(self) -> Operand:
        term = self.term()
        names: list[str] = []
        position = self.peek().position
        while self.peek().kind is Kind.FIELD:
            names.append(self.next().text[1:])
        if not names:
            return term
        match term:
            case Field():
                return Field(term.position, (*term.names, *names))
            case Variable():
                return Variable(term.position, term.name, (*term.names, *names))
            case Dot() | Constant() | Nil():
                self.fail(position, "a literal has no fields")
        return Chain(term.position, term, tuple(names))

    def term(self) -> Operand:
        token = self.next()
        position = token.position
        match token.kind:
            case Kind.WORD:
                if token.text not in self.functions:
                    self.fail(position, f"there is no function {token.text[:100]!r}")
                return Function(position, token.text)
            case Kind.DOT:
                return Dot(position)
            case Kind.KEYWORD if token.text == "nil":
                return Nil(position)
            case Kind.VARIABLE:
                if token.text not in self.scope.variables:
                    self.fail(position, f"the variable {token.text[:100]!r} is not declared")
                return Variable(position, token.text, ())
            case Kind.FIELD:
                return Field(position, (token.text[1:],))
            case Kind.BOOL:
                return Constant(position, token.text == "true")
            case Kind.STRING | Kind.RAW:
                return Constant(position, self.text(token))
            case Kind.NUMBER | Kind.CHARACTER:
                return Constant(position, self.number(token))
            case Kind.OPEN:
                return self.parenthesis(position)
        self.unexpected(token, "here")

    def parenthesis(self, position: int) -> Pipe:
        self.parentheses += 1
        if self.parentheses > MAX_PARENTHESES:
            self.fail(position, f"parentheses are nested more than {MAX_PARENTHESES} deep")
        pipe = self.pipe(Kind.CLOSE)
        self.parentheses -= 1
        return pipe

    def text(self, token: Token) -> str:
        try:
            return literals.unquote(token.text)
        except ValueError as error:
            raise fault(self.source, token.position, str(error)) from error

    def number(self, token: Token) -> int | float | complex:
        read = literals.character if token.kind is Kind.CHARACTER else literals.number
        try:
            return read(token.text)
        except ValueError as error:
            message = f"the number {token.text[:40]!r} cannot be read: {str(error)[:100]}"
            raise fault(self.source, token.position, message) from error


def _is_empty(nodes: Nodes) -> bool:
    return all(isinstance(node, Text) and not node.text.strip() for node in nodes)
