"""What a template's tree tells about a model's output: the tags of its thinking and of its tool calls."""

from collections.abc import Iterator

from puna.template.go.nodes import Action, Branch, Nodes, Text, field_names
from puna.template.go.template import Template

DEFAULT_TOOL_TAG = "{"


def thinking_tags(template: Template) -> tuple[str, str] | None:
    """The texts that open and close the thinking of an earlier answer, None if the template shows none.

    They are the first and the last text of the list of nodes that writes `.Thinking` within
    `range .Messages`.
    """
    for nodes in _thinking_lists(template.root, in_messages=False):
        first, last = nodes[0], nodes[-1]
        if isinstance(first, Text) and isinstance(last, Text) and first is not last:
            tags = first.text.strip(), last.text.strip()
            if all(tags):
                return tags
    return None


def _thinking_lists(nodes: Nodes, *, in_messages: bool) -> Iterator[Nodes]:
    """The lists within a loop over the messages that themselves write `.Thinking`."""
    if in_messages and any(isinstance(n, Action) and "Thinking" in field_names(n.pipe) for n in nodes):
        yield nodes
    for node in nodes:
        if isinstance(node, Branch):
            inside = "Messages" in field_names(node.pipe) if node.keyword == "range" else in_messages
            yield from _thinking_lists(node.body, in_messages=inside)
            yield from _thinking_lists(node.otherwise, in_messages=in_messages)


def tool_call_tag(template: Template) -> str:
    """The text with which a tool call begins, `{` if the template shows none.

    It is the first text of a branch on `.ToolCalls`, up to the first brace.
    """
    for branch in _tool_call_branches(template.root):
        text = next(_texts(branch.body), "")
        return text.partition("{")[0].strip() or DEFAULT_TOOL_TAG
    return DEFAULT_TOOL_TAG


def _tool_call_branches(nodes: Nodes) -> Iterator[Branch]:
    for node in nodes:
        if isinstance(node, Branch):
            if "ToolCalls" in field_names(node.pipe):
                yield node
            yield from _tool_call_branches(node.body)
            yield from _tool_call_branches(node.otherwise)


def _texts(nodes: Nodes) -> Iterator[str]:
    """The texts that are not blank, in the order of the template."""
    for node in nodes:
        if isinstance(node, Text) and node.text.strip():
            yield node.text
        elif isinstance(node, Branch):
            yield from _texts(node.body)
            yield from _texts(node.otherwise)
