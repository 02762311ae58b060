"""Runs a parsed template.

The blocks that are being run lie on a stack of their own, so neither nesting nor templates that call each
other use Python's. Source: the documentation of Go's text/template, with the option `missingkey=zero`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

from puna.template.go import printing
from puna.template.go.budget import Budget, Overspent
from puna.template.go.functions import FUNCTIONS, LAZY
from puna.template.go.lexer import fault
from puna.template.go.nodes import (
    Action,
    Branch,
    Break,
    Chain,
    Command,
    Constant,
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
from puna.template.go.values import ABSENT, Struct, Value, is_nil, plain, truth, type_name

MAX_FRAMES = 10_000


class _NoArgument:
    """Stands for the value that no earlier command gave."""


_NO_ARGUMENT = _NoArgument()


class _Binding(NamedTuple):
    name: str
    value: Value


@dataclass(slots=True)
class _Frame:
    """A list of nodes that is being run.

    Attributes:
        dot: the current value.
        next: the index of the node to run next.
        variables: those visible, shared with the frame around unless this is a template of its own.
        mark: how many variables remain when it ends.
        turns: what is left of the loop whose body this is, None for other lists.
        loop: the loop whose body or `else` this is.
    """

    nodes: Nodes
    dot: Value
    variables: list[_Binding]
    mark: int
    next: int = 0
    turns: Iterator[tuple[Value, Value]] | None = None
    loop: Branch | None = None


@dataclass(slots=True)
class Execution:
    """One run of a template over some data.

    Attributes:
        source: for the places of errors.
        definitions: the trees by name, the main one under the empty name.
        budget: what it may spend.
    """

    source: str
    definitions: Mapping[str, Nodes]
    budget: Budget
    output: list[str] = field(default_factory=list)
    frames: list[_Frame] = field(default_factory=list)
    position: int = 0

    def run(self, data: Value) -> str:
        """The text. Raises TemplateError."""
        self._enter("", data)
        try:
            while self.frames:
                self._advance()
        except (Overspent, ValueError) as error:
            raise fault(self.source, self.position, str(error)) from error
        return "".join(self.output)

    def _fail(self, node: Node | Operand | Command, message: str) -> NoReturn:
        raise fault(self.source, node.position, message)

    # Blocks

    def _advance(self) -> None:
        frame = self.frames[-1]
        if frame.next == len(frame.nodes):
            self._finish(frame)
            return
        node = frame.nodes[frame.next]
        frame.next += 1
        self.position = node.position
        self.budget.step()
        match node:
            case Text():
                self._write(node.text)
            case Action():
                value = self._pipe(node.pipe)
                if not node.pipe.variables:
                    self._print(value)
            case Branch():
                self._branch(node)
            case Invoke():
                self._invoke(node)
            case _:
                self._leave(stops=isinstance(node, Break))

    def _print(self, value: Value) -> None:
        if not isinstance(value, str):
            self.budget.step(printing.leaves(value))
        self._write(printing.output(value))

    def _write(self, text: str) -> None:
        self.budget.write(len(text))
        self.output.append(text)

    def _finish(self, frame: _Frame) -> None:
        """End a list: go on with the next turn of its loop, if it has one."""
        del frame.variables[frame.mark :]
        turn = next(frame.turns, None) if frame.turns is not None else None
        if turn is None or frame.loop is None:
            self.frames.pop()
            if frame.loop is not None:
                del frame.variables[frame.mark - len(_declared(frame.loop)) :]
            return
        self.budget.step()
        index, frame.dot = turn
        frame.next = 0
        names = frame.loop.pipe.variables
        for name, value in zip(names, (index, frame.dot)[-len(names) :] if names else (), strict=True):
            self._assign(frame.variables, name, value, frame.loop)

    def _leave(self, *, stops: bool) -> None:
        # In Go a loop's `else` can be left by `break`, but `continue` there is of the loop around.
        while (frame := self.frames[-1]).loop is None or (frame.turns is None and not stops):
            self.frames.pop()
        frame.next = len(frame.nodes)
        if stops:
            frame.turns = iter(())

    def _push(self, frame: _Frame) -> None:
        if len(self.frames) >= MAX_FRAMES:
            raise Overspent(f"templates call each other more than {MAX_FRAMES} deep")
        self.frames.append(frame)

    def _branch(self, node: Branch) -> None:
        frame = self.frames[-1]
        mark = len(frame.variables)
        value = self._pipe(node.pipe)
        if node.keyword == "range":
            self._range(node, value)
        elif truth(value):
            dot = value if node.keyword == "with" else frame.dot
            self._push(_Frame(node.body, dot, frame.variables, mark))
        else:
            self._push(_Frame(node.otherwise, frame.dot, frame.variables, mark))

    def _range(self, node: Branch, value: Value) -> None:
        dot, variables = self.frames[-1].dot, self.frames[-1].variables
        turns = self._turns(node, plain(value))
        if turns is None:
            self._push(_Frame(node.otherwise, dot, variables, len(variables), loop=node))
        else:
            # It stands at its end, from where the first turn begins.
            self._push(_Frame(node.body, dot, variables, len(variables), len(node.body), turns, node))

    def _turns(self, node: Branch, value: Value) -> Iterator[tuple[Value, Value]] | None:
        """The turns of a loop, None if there are none."""
        if is_nil(value):
            return None
        if isinstance(value, Mapping):
            self.budget.step(len(value))
            return ((key, value[key]) for key in sorted(value)) if value else None
        if isinstance(value, Sequence) and not isinstance(value, str):
            return iter(enumerate(value)) if value else None
        if isinstance(value, int) and not isinstance(value, bool):
            return ((number, number) for number in range(value)) if value > 0 else None
        self._fail(node, f"'range' cannot go through a value of type {type_name(value)}")

    def _invoke(self, node: Invoke) -> None:
        if node.name not in self.definitions:
            self._fail(node, f"there is no template {node.name[:100]!r}")
        self._enter(node.name, ABSENT if node.pipe is None else self._pipe(node.pipe))

    def _enter(self, name: str, dot: Value) -> None:
        self._push(_Frame(self.definitions[name], dot, [_Binding("$", dot)], 0))

    # Variables

    def _assign(self, variables: list[_Binding], name: str, value: Value, node: Branch | Pipe) -> None:
        for index in range(len(variables) - 1, -1, -1):
            if variables[index].name == name:
                variables[index] = _Binding(name, value)
                return
        self._fail(node, f"the variable {name[:100]!r} is not declared")

    def _variable(self, node: Variable) -> Value:
        for binding in reversed(self.frames[-1].variables):
            if binding.name == node.name:
                return binding.value
        self._fail(node, f"the variable {node.name[:100]!r} is not declared here")

    # Values

    def _pipe(self, pipe: Pipe) -> Value:
        value: Value | _NoArgument = _NO_ARGUMENT
        for command in pipe.commands:
            value = _unwrapped(self._command(command, value))
        result = ABSENT if isinstance(value, _NoArgument) else value
        variables = self.frames[-1].variables
        for name in pipe.variables:
            if pipe.assigns:
                self._assign(variables, name, result, pipe)
            else:
                variables.append(_Binding(name, result))
        return result

    def _command(self, command: Command, last: Value | _NoArgument) -> Value:
        word = command.words[0]
        if isinstance(word, Function):
            return self._call(word, command.words[1:], last)
        if isinstance(word, Nil):
            self._fail(word, "nil is no command")
        value = self._operand(word)
        if value is ABSENT and isinstance(word, Field | Chain | Variable) and word.names:
            return value
        if len(command.words) > 1 or not isinstance(last, _NoArgument):
            self._fail(word, "only a function takes arguments")
        return value

    def _operand(self, node: Operand) -> Value:
        match node:
            case Field():
                return self._fields(node, self.frames[-1].dot, node.names)
            case Dot():
                return self.frames[-1].dot
            case Constant():
                return node.value
            case Variable():
                return self._fields(node, self._variable(node), node.names)
            case Pipe():
                return self._pipe(node)
            case Function():
                return self._call(node, (), _NO_ARGUMENT)
            case Chain():
                return self._chain(node)
        return None

    def _chain(self, node: Chain) -> Value:
        return self._fields(node, self._operand(node.operand), node.names)

    def _fields(self, node: Operand, value: Value, names: Sequence[str]) -> Value:
        for name in names:
            if value is ABSENT:
                return ABSENT
            value = self._field(node, plain(value), name)
        return value

    def _field(self, node: Operand, value: Value, name: str) -> Value:
        if isinstance(value, Mapping):
            return value.get(name)
        if value is None:
            self._fail(node, f"there is no {name[:100]!r} in nil")
        if not isinstance(value, Struct) or name not in value.fields:
            self._fail(node, f"there is no {name[:100]!r} in a value of type {type_name(value)}")
        return value.fields[name]

    def _call(self, node: Function, words: Sequence[Operand], last: Value | _NoArgument) -> Value:
        given = len(words) + (not isinstance(last, _NoArgument))
        if node.name in LAZY:
            return self._lazy(node, words, last)
        function = FUNCTIONS[node.name]
        if given < function.least or (function.most is not None and given > function.most):
            self._fail(node, f"{node.name!r} does not take {given} arguments")
        arguments = [self._operand(word) for word in words]
        if not isinstance(last, _NoArgument):
            arguments.append(last)
        self.position = node.position
        self.budget.step()
        charge = self.budget.make if function.rewrites else self.budget.look
        for argument in arguments:
            if isinstance(argument, str):
                charge(len(argument))
            elif function.rewrites:
                self.budget.step(printing.leaves(argument))
        result = function.call(arguments, self.budget)
        if isinstance(result, str):
            self.budget.make(len(result))
        return result

    def _lazy(self, node: Function, words: Sequence[Operand], last: Value | _NoArgument) -> Value:
        """`and` and `or`: the first argument that decides, or the last."""
        value: Value | _NoArgument = _NO_ARGUMENT
        for word in words:
            value = self._operand(word)
            if truth(value) == (node.name == "or"):
                return value
        if not isinstance(last, _NoArgument):
            return last
        if isinstance(value, _NoArgument):
            self._fail(node, f"{node.name!r} needs an argument")
        return value


def _unwrapped(value: Value) -> Value:
    """What a pipeline makes of nil in an interface."""
    return ABSENT if value is None else value


def _declared(loop: Branch) -> tuple[str, ...]:
    return () if loop.pipe.assigns else loop.pipe.variables
