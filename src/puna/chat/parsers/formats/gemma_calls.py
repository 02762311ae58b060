"""FunctionGemma and Gemma 4: `call:NAME{key:value}`, strings between marks of their own and not escaped.

<start_function_call>call:get_weather{city:<escape>Paris<escape>}<end_function_call>
<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:3}<tool_call|>
<|channel>thought
…<channel|>
"""

from puna.chat.parsers.answer import Format
from puna.chat.parsers.balanced import Notation, group
from puna.chat.parsers.calls import NAME_LIMIT, declared
from puna.chat.parsers.stream import Body, Malformed, Steps, Stream, Tags
from puna.chat.parsers.values import Literals

_BRACE = Tags("{")


def _calls(delimiter: str, *closing: str) -> Body:
    notation = Notation({delimiter: False, '"': True})

    def body(stream: Stream) -> Steps[None]:
        yield from stream.skip_space()
        yield from stream.expect("call:")
        name, opening = yield from stream.take_until(_BRACE, NAME_LIMIT)
        text = yield from group(stream, opening, notation)
        if not name.strip():
            raise Malformed
        reader = Literals(text, delimiter)
        try:
            arguments = reader.object()
        except ValueError:
            raise Malformed from None
        stream.call(declared(name.strip(), stream.tools), arguments)
        # Gemma 4 sometimes closes a call twice, or begins the tool's answer.
        while (yield from stream.accept(*closing)):
            yield from stream.skip_space()

    return body


_ESCAPE, _QUOTE = "<escape>", '<|"|>'
_FUNCTION_ENDS = ("<end_function_call>", "<start_function_response>")
_TOOL_ENDS = ("<tool_call|>", "<|tool_response>")

FUNCTION_GEMMA = Format(
    calls={"<start_function_call>": _calls(_ESCAPE, *_FUNCTION_ENDS)}, marks=(_ESCAPE, *_FUNCTION_ENDS)
)
GEMMA4 = Format(
    calls={"<|tool_call>": _calls(_QUOTE, *_TOOL_ENDS)},
    marks=(_QUOTE, *_TOOL_ENDS),
    thinking=(("<|channel>thought\n", "<|channel>"), "<channel|>"),
    thinks_anywhere=True,
)
