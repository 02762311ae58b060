"""A parsed template: what it writes, and what others read off its tree."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

from puna.template.go import literals
from puna.template.go.budget import Budget
from puna.template.go.execution import Execution
from puna.template.go.functions import NAMES
from puna.template.go.nodes import Action, Branch, Command, Field, Nodes, Pipe, every_list, field_names, pipes
from puna.template.go.parser import parse_definitions
from puna.template.go.values import Value


@dataclass(frozen=True)
class Template:
    """A prompt template in Go's language.

    Attributes:
        source: its text.
        definitions: the trees by name: the main one under the empty name, and those of `define` and `block`.
    """

    source: str
    definitions: Mapping[str, Nodes]

    @property
    def root(self) -> Nodes:
        """The main tree."""
        return self.definitions[""]

    def execute(self, data: Value, budget: Budget | None = None) -> str:
        """The text it writes for some data.

        Args:
            data: what `.` is at first: dicts, lists, strings, numbers, booleans, None, Struct and Stringer.
            budget: what it may spend, shared with other executions; one of its own if there is none.

        Raises:
            TemplateError: it fails, or would take too many steps or write too much.
        """
        text = Execution(self.source, self.definitions, budget or Budget()).run(data)
        # Cutting a text inside a character leaves bytes that are no UTF-8.
        return text if text.isascii() else literals.encode(text).decode("utf-8", "replace")

    def vars(self) -> frozenset[str]:
        """The names of all fields that it mentions, in lower case."""
        return self._names

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(
            name.lower()
            for tree in self.definitions.values()
            for nodes in every_list(tree)
            for pipe in pipes(nodes)
            for name in field_names(pipe)
        )

    def until_response(self) -> "Template":
        """The template up to the first place that writes `.Response`.

        That is how a prompt ends where the model's answer begins.
        """
        return replace(self, definitions={**self.definitions, "": _until_response(self.root)[0]})


def parse(text: str) -> Template:
    """Parse a prompt template.

    One that mentions neither `.Messages` nor `.Response` gets `{{ .Response }}` at its end.

    Raises:
        TemplateError: it is no template, calls a function that does not exist, is longer than 256 Ki
            characters or nested too deeply; with line, column and an excerpt.
    """
    template = Template(text, MappingProxyType(parse_definitions(text, NAMES)))
    if {"messages", "response"} & template.vars():
        return template
    end = len(text)
    response = Action(end, Pipe(end, (Command(end, (Field(end, ("Response",)),)),)))
    return replace(template, definitions={**template.definitions, "": (*template.root, response)})


def _until_response(nodes: Nodes) -> tuple[Nodes, bool]:
    """The nodes up to the one that writes the response, and whether there is such a one."""
    for index, node in enumerate(nodes):
        if isinstance(node, Action) and "Response" in field_names(node.pipe):
            return nodes[: index + 1], True
        if isinstance(node, Branch):
            body, found = _until_response(node.body)
            if found:
                return (*nodes[:index], replace(node, body=body, otherwise=())), True
            otherwise, found = _until_response(node.otherwise)
            if found:
                return (*nodes[:index], replace(node, otherwise=otherwise)), True
    return nodes, False
