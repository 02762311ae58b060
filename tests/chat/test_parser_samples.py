"""Answers as models write them, well and badly, format by format: each in all pieces."""

import pytest
from tests.chat.parsing import TOOLS, Tools, call, check, dumps

from puna.chat.events import Content, Event, Thinking
from puna.chat.parsers.answer import Parser
from puna.chat.parsers.formats.generic import TemplateTags
from puna.chat.parsers.registry import generic_parser, parser_for

PARIS = {"city": "Paris"}
ROME = {"city": "Rome"}
W = "get_weather"
Case = tuple[str, list[Event]]


def hermes(name: str, arguments: object) -> str:
    return f"<tool_call>{dumps({'name': name, 'arguments': arguments})}</tool_call>"


def back(text: str) -> Case:
    """A text that comes back as it is."""
    return text, [Content(text)]


SAMPLES: dict[str, dict[str, Case]] = {
    "qwen3": {
        "no line breaks": (hermes(W, PARIS), [call(W, PARIS)]),
        "no closing tag": ('<tool_call>\n{"name": "now", "arguments": {}}', [call("now")]),
        "arguments as text": (hermes(W, dumps(PARIS)), [call(W, PARIS)]),
        "no arguments": ('<tool_call>{"name": "now"}</tool_call>', [call("now")]),
        "null arguments": ('<tool_call>{"name": "now", "arguments": null}</tool_call>', [call("now")]),
        "undeclared tool": (hermes("f", {"a": 1}), [call("f", {"a": 1})]),
        "two objects in one tag": (
            '<tool_call>{"name": "now"}\n{"name": "now"}</tool_call>',
            [call("now"), call("now", index=1)],
        ),
        "a list": ('<tool_call>[{"name": "now"}]</tool_call>!', [call("now"), Content("!")]),
        "line breaks in strings": (
            '<tool_call>{"name": "note", "arguments": {"text": "a\nb\tc"}}</tool_call>',
            [call("note", {"text": "a\nb\tc"})],
        ),
        "text between calls": (
            f"One: {hermes('now', {})} and two: \n{hermes('now', {})}\n done ",
            [Content("One:"), call("now"), Content("and two:"), call("now", index=1), Content("done ")],
        ),
        "half a pair of surrogates": (
            '<tool_call>{"name": "note", "arguments": {"text": "\\ud83e\\udd99 \\ud83e"}}</tool_call>',
            [call("note", {"text": "🦙 \ufffd"})],
        ),
        "a huge integer": (
            '<tool_call>{"name": "order", "arguments": {"z": 1' + "0" * 30 + "}}</tool_call>",
            [call("order", {"z": 1e30})],
        ),
        "not JSON": back("<tool_call>oops</tool_call> and on"),
        "no brace": back('<tool_call>"name": "now"</tool_call>'),
        "unquoted value": back('<tool_call>{"name": now, "arguments": {}}</tool_call>'),
        "single quotes": back("<tool_call>{'name': 'now', 'arguments': {}}</tool_call>"),
        "no name": back('<tool_call>{"arguments": {}}</tool_call>'),
        "blank name": back('<tool_call>{"name": " ", "arguments": {}}</tool_call>'),
        "name of another type": back('<tool_call>{"name": 1, "arguments": {}}</tool_call>'),
        "arguments of another type": back('<tool_call>{"name": "now", "arguments": [1]}</tool_call>'),
        "NaN": back('<tool_call>{"name": "now", "arguments": {"a": NaN}}</tool_call>'),
        "a number too large": back('<tool_call>{"name": "now", "arguments": {"a": 1e999}}</tool_call>'),
        "too deep": back(
            '<tool_call>{"name": "now", "arguments": {"a": ' + "[" * 70 + "]" * 70 + "}}</tool_call>"
        ),
        "nothing": back("<tool_call></tool_call>"),
        "cut off": back('Well <tool_call>\n{"name": "now", "argum'),
        "part of a tag": back("a <tool_cal"),
        "not quite a tag": back("<tool_calls> <tool-call> < tool_call>"),
        "bad, then good": (
            f'<tool_call>{{"name": 1}}</tool_call>\n{hermes("now", {})}',
            [Content('<tool_call>{"name": 1}</tool_call>'), call("now")],
        ),
        "tag in a tag": (f"<tool_call>{hermes('now', {})}", [Content("<tool_call>"), call("now")]),
        "no thinking": back("<think>This family does not think</think>"),
        "white space around": ("\n Hi \n\n", [Content("\n Hi \n\n")]),
    },
    "qwen3-thinking": {
        "a call ends thinking": (
            f"<think>Well\n{hermes('now', {})}</think>\nDone",
            [Thinking("Well"), call("now"), Content("Done")],
        ),
        "a bad call while thinking": (
            "<think>I could write <tool_call>, or not.</think>No.",
            [Thinking("I could write <tool_call>, or not."), Content("No.")],
        ),
        "empty thinking": ("<think>\n\n</think>\n\nHi", [Content("Hi")]),
        "second thinking": (
            "<think>a</think><think>b</think>c",
            [Thinking("a"), Content("<think>b</think>c")],
        ),
        "text before thinking": back("a <think>b</think>"),
        "space before thinking": ("\n <think>a</think> b", [Thinking("a"), Content("b")]),
        "space before text": back("  \n text"),
        "part of a closing tag": (
            "<think>a </think b</think>c",
            [Thinking("a </think b"), Content("c")],
        ),
        "unicode": ("<think>日本\u3000</think>\u3000🦙", [Thinking("日本"), Content("🦙")]),
    },
    "qwen3-coder": {
        "types": (
            "<tool_call>\n<function=typed>\n<parameter=i>\n-12\n</parameter>\n<parameter=n>\n2.5\n</parameter>\n"
            '<parameter=b>\nTrue\n</parameter>\n<parameter=l>\n[1, "a"]\n</parameter>\n<parameter=o>\n'
            "{'a': None}\n</parameter>\n<parameter=u>\n7\n</parameter>\n<parameter=s>\n7\n</parameter>\n"
            "<parameter=x>\nnull\n</parameter>\n<parameter=?>\n7\n</parameter>\n</function>\n</tool_call>",
            [
                call(
                    "typed",
                    {"i": -12, "n": 2.5, "b": True, "l": [1, "a"], "o": {"a": None}, "u": 7, "s": "7"}
                    | {"x": None, "?": "7"},
                )
            ],
        ),
        "values that do not fit": (
            "<tool_call><function=typed><parameter=i>1.5</parameter><parameter=n>many</parameter>"
            "<parameter=b>yes</parameter><parameter=l>{}</parameter><parameter=o>[</parameter></function>",
            [call("typed", {"i": "1.5", "n": "many", "b": "yes", "l": "{}", "o": "["})],
        ),
        "line breaks inside": (
            "<tool_call>\n<function=note>\n<parameter=text>\n\n  a\n\nb\n\n</parameter>\n</function>\n"
            "</tool_call>",
            [call("note", {"text": "\n  a\n\nb\n"})],
        ),
        "code as a value": (
            '<tool_call><function=note><parameter=text>\n<a href="x">&amp;</a> if a<b && c>d: </parameter> x'
            "\n</parameter>\n</function></tool_call>",
            [call("note", {"text": '<a href="x">&amp;</a> if a<b && c>d: </parameter> x'})],
        ),
        "without the outer tag": (
            "Sure.\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>",
            [Content("Sure."), call(W, PARIS)],
        ),
        "two functions in one tag": (
            "<tool_call><function=now></function>\n<function=now>\n</function></tool_call>",
            [call("now"), call("now", index=1)],
        ),
        "undeclared tool": (
            "<tool_call><function=f><parameter=a>1</parameter></function></tool_call>",
            [call("f", {"a": "1"})],
        ),
        "no function": back("<tool_call>get_weather</tool_call>"),
        "no name": back("<tool_call><function=></function></tool_call>"),
        "no parameter": back("<tool_call><function=now>text</function></tool_call>"),
        "cut off in a value": back("<tool_call><function=note><parameter=text>\nabc"),
        "cut off after a value": back("<tool_call><function=note><parameter=text>\nabc\n</parameter>\n"),
        "JSON": back('<tool_call>{"name": "now", "arguments": {}}</tool_call>'),
    },
    "qwen3.5": {
        "a call ends thinking": (
            "<think>\nHm\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
            [Thinking("Hm"), call("now")],
        ),
        "thinking cut off": ("<think>\nHm\n", [Thinking("Hm\n")]),
    },
    "nemotron-3-nano": {
        "thinking and a call": (
            "<think>Hm</think><tool_call>\n<function=now>\n</function>\n</tool_call>\n",
            [Thinking("Hm"), call("now")],
        ),
    },
    "glm-4.7": {
        "in one line": (
            "<think></think><tool_call>get_weather<arg_key>city</arg_key><arg_value>Paris</arg_value>"
            "<arg_key>days</arg_key><arg_value>3</arg_value></tool_call>",
            [call(W, PARIS | {"days": 3})],
        ),
        "an object": (
            '<tool_call>search\n<arg_key>query</arg_key>\n<arg_value>{"a": [1]}</arg_value>\n</tool_call>',
            [call("search", {"query": {"a": [1]}})],
        ),
        "a value's own spaces": (
            "<tool_call>note\n<arg_key>text</arg_key>\n<arg_value> a\n b </arg_value>\n</tool_call>",
            [call("note", {"text": " a\n b "})],
        ),
        "tags in a value": (
            "<tool_call>note<arg_key>text</arg_key><arg_value>x</arg_value> y </tool_call> <arg_key>"
            "</arg_value></tool_call>",
            [call("note", {"text": "x</arg_value> y </tool_call> <arg_key>"})],
        ),
        "no arguments": ("Hm <tool_call>now\n</tool_call>", [Content("Hm"), call("now")]),
        "the end cut off, all there": (
            "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n",
            [call(W, PARIS)],
        ),
        "the end cut off, one missing": back(
            "<tool_call>get_weather\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>"
        ),
        "the end cut off, undeclared": back("<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>3</arg_value>"),
        "cut off in a value": back("<tool_call>note\n<arg_key>text</arg_key>\n<arg_value>3"),
        "no name": back("<tool_call><arg_key>a</arg_key><arg_value>1</arg_value></tool_call>"),
        "a key without a value": back("<tool_call>note<arg_key>text</arg_key></tool_call>"),
        "JSON": back('<tool_call>{"name": "now"}</tool_call>'),
    },
    "deepseek-r1": {
        "no line break": (
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now```json\n{}```<｜tool▁call▁end｜>",
            [call("now")],
        ),
        "without the outer tags": (
            "Ok\n<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜> so",
            [Content("Ok"), call("now"), Content("so")],
        ),
        "the prompt opened": ("Hm</think>Yes", [Content("Hm</think>Yes")]),
        "no JSON": back("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>x<｜tool▁call▁end｜>"),
        "no separator": back("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now{}<｜tool▁call▁end｜>"),
        "no call": back("<｜tool▁calls▁begin｜>now<｜tool▁calls▁end｜>"),
        "cut off": back("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{"),
        "one, then cut off": (
            "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>now<｜tool▁sep｜>{",
            [call("now"), Content("<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>now<｜tool▁sep｜>{")],
        ),
    },
    "mistral": {
        "with ids": (
            '[TOOL_CALLS][{"name": "now", "arguments": {}, "id": "abcDEF123"}]',
            [call("now", id="abcDEF123")],
        ),
        "an object": ('[TOOL_CALLS]{"name": "now", "arguments": {}}', [call("now")]),
        "with a closing tag": (
            '[TOOL_CALLS] [{"name": "now"}][/TOOL_CALLS] ok',
            [call("now"), Content("ok")],
        ),
        "the list does not end": ('[TOOL_CALLS] [{"name": "now"}, ', [call("now")]),
        "text after": ('[TOOL_CALLS] [{"name": "now"}]\nok', [call("now"), Content("ok")]),
        "one bad": (
            '[TOOL_CALLS] [{"name": 1}, {"name": "now"}]',
            [Content('[TOOL_CALLS] [{"name": 1}'), call("now")],
        ),
        "an empty list": back("[TOOL_CALLS] []"),
        "cut off": back('[TOOL_CALLS] [{"name": "n'),
        "brackets": back("[TOOL_CALL] [TOOL [1] [[x]]"),
    },
    "ministral": {
        "thinking": ("[THINK]Hm [x][/THINK]\n\nHi", [Thinking("Hm [x]"), Content("Hi")]),
        "thinking after text": ("So [THINK]Hm[/THINK]Hi", [Content("So"), Thinking("Hm"), Content("Hi")]),
        "with an id": ("[TOOL_CALLS]now[CALL_ID]x1[ARGS]{}", [call("now", id="x1")]),
        "without a tag": ("[TOOL_CALLS]now{}", [call("now")]),
        "text between": (
            "[TOOL_CALLS]now[ARGS]{} and [TOOL_CALLS]now[ARGS] {}",
            [call("now"), Content("and"), call("now", index=1)],
        ),
        "no object": back("[TOOL_CALLS]now[ARGS]text"),
        "a list": back("[TOOL_CALLS]now[ARGS][1]"),
        "no name": back("[TOOL_CALLS] [ARGS]{}"),
        "cut off in the name": back("[TOOL_CALLS]get_wea"),
        "cut off in the arguments": back('[TOOL_CALLS]now[ARGS]{"a": '),
    },
    "cohere": {
        "with ids": (
            "<|START_THINKING|>I will.<|END_THINKING|><|START_ACTION|>[\n"
            '    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Paris"}},\n'
            '    {"tool_call_id": "1", "tool_name": "now", "parameters": {}}\n]'
            "<|END_ACTION|><|END_OF_TURN_TOKEN|>",
            [Thinking("I will."), call(W, PARIS, id="0"), call("now", index=1, id="1")],
        ),
        "the newer tags": ("<|START_TEXT|>Hi <|END_TEXT|><|END_OF_TURN_TOKEN|>", [Content("Hi ")]),
        "no comma": (
            '<|START_ACTION|>[{"tool_name": "now"}\n{"tool_name": "now"}]<|END_ACTION|>',
            [call("now"), call("now", index=1)],
        ),
        "one bad": (
            '<|START_ACTION|>[{"tool_name": "now", "parameters": {"at": 15:30}}, {"tool_name": "now"}]'
            "<|END_ACTION|>",
            [
                Content('<|START_ACTION|>[{"tool_name": "now", "parameters": {"at": 15:30}}'),
                call("now"),
            ],
        ),
        "cut off": back('<|START_ACTION|>[{"tool_name": "no'),
        "without any tags": back("Hi"),
    },
    "command-r": {
        "a plan before": (
            'Plan: ask.\nAction: ```json\n[\n    {\n        "tool_name": "get_weather",\n'
            '        "parameters": {"city": "Paris"}\n    }\n]\n```',
            [Content("Plan: ask."), call(W, PARIS)],
        ),
        "answer directly": back('Action: ```json\n[{"tool_name": "directly_answer", "parameters": {}}]\n```'),
        "other fences": back("Action: ```python\nx\n```"),
        "cut off": back('Action: ```json\n[{"tool_name": "get_w'),
    },
    "functiongemma": {
        "numbers": (
            "<start_function_call>call:order{z:1,a:-2.5,m:true}<end_function_call>",
            [call("order", {"z": 1, "a": -2.5, "m": True})],
        ),
        "nested": (
            "<start_function_call>call:search{query:{a:[<escape>x, y<escape>,2],b:{}}}<end_function_call>",
            [call("search", {"query": {"a": ["x, y", 2], "b": {}}})],
        ),
        "unquoted": (
            "<start_function_call>call:get_weather{city:New York}<end_function_call>",
            [call(W, {"city": "New York"})],
        ),
        "braces in a string": (
            "<start_function_call>call:note{text:<escape>}{ ] \"'<escape>}<end_function_call>",
            [call("note", {"text": "}{ ] \"'"})],
        ),
        "the tool's turn begun": (
            "<start_function_call>call:now{}<end_function_call><start_function_response>",
            [call("now")],
        ),
        "no call": back("<start_function_call>now{}<end_function_call>"),
        "no colon": back("<start_function_call>call:now{a}<end_function_call>"),
        "no comma": back("<start_function_call>call:note{a:<escape>x<escape>b:1}<end_function_call>"),
        "no name": back("<start_function_call>call:{}<end_function_call>"),
        "cut off": back("<start_function_call>call:note{text:<escape>abc"),
    },
    "gemma4": {
        "quotes in strings": (
            '<|tool_call>call:note{text:<|"|>say "hi" \\n C:\\dir<|"|>}<tool_call|>',
            [call("note", {"text": 'say "hi" \\n C:\\dir'})],
        ),
        "plain quotes": (
            '<|tool_call>call:note{text:"say \\"hi\\""}<tool_call|>',
            [call("note", {"text": 'say "hi"'})],
        ),
        "closed twice": (
            "<|tool_call>call:now{}<tool_call|><tool_call|>Done.",
            [call("now"), Content("Done.")],
        ),
        "the tool's turn begun": ("<|tool_call>call:now{}<tool_call|><|tool_response>", [call("now")]),
        "no closing tag": ("<|tool_call>call:now{}", [call("now")]),
        "spaces": (
            '<|tool_call>call:search{query: { a : [ <|"|>x<|"|> , null ] } , limit: 2}<tool_call|>',
            [call("search", {"query": {"a": ["x", None]}, "limit": 2})],
        ),
        "thinking without a name": ("<|channel>Hm<channel|>Hi", [Thinking("Hm"), Content("Hi")]),
        "thinking twice": (
            "<|channel>thought\na<channel|><|channel>thought\nb<channel|>c",
            [Thinking("ab"), Content("c")],
        ),
        "empty thinking": ("<|channel>thought\n<channel|>Hi", [Content("Hi")]),
        "cut off": back('<|tool_call>call:note{text:<|"|>abc'),
        "not a call": back("<|tool_call>note(1)<tool_call|>"),
    },
    "gemma3": {
        "several lines": (
            'Sure:\n```tool_code\nget_weather(city="Paris")\nnow()\n```\nDone.',
            [Content("Sure:"), call(W, PARIS), call("now", index=1), Content("Done.")],
        ),
        "a list": ('[get_weather(city="Paris"), now()]', [call(W, PARIS), call("now", index=1)]),
        "JSON in a fence": ('```json\n{"name": "now", "parameters": {}}\n```', [call("now")]),
        "JSON": ('{"name": "now", "parameters": {}}', [call("now")]),
        "undeclared": back("```tool_code\nprint(now())\n```"),
        "other code": back("```python\nnow()\n```"),
        "other JSON": back('```json\n{"a": 1}\n```'),
    },
    "granite": {
        "other tags": ('<tool_call>[{"name": "now", "arguments": {}}]</tool_call>', [call("now")]),
        "one object": ('<|tool_call|>{"name": "now", "arguments": {}}', [call("now")]),
        "thinking and response": (
            "<think>Hm</think><response>Hi</response>",
            [Thinking("Hm"), Content("Hi")],
        ),
        "thinking, no response": (
            "<think>Hm</think>Hi</response>",
            [Thinking("Hm"), Content("Hi</response>")],
        ),
        "not a call": back("<|tool_call|>now()"),
        "cut off": back('<|tool_call|>[{"name": "now", '),
    },
    "olmo3": {
        "types": (
            "<function_calls>\ntyped(i=1, n=-2.5e3, b=True, l=[1, 'a', [True]], o={'a': None, \"b\": {}}, "
            's="x")\n</function_calls>',
            [
                call(
                    "typed",
                    {
                        "i": 1,
                        "n": -2500,
                        "b": True,
                        "l": [1, "a", [True]],
                        "o": {"a": None, "b": {}},
                        "s": "x",
                    },
                )
            ],
        ),
        "other constants": (
            "<function_calls>typed(b=false, x=null, s=None, l=(1, 2,))</function_calls>",
            [call("typed", {"b": False, "x": None, "s": None, "l": [1, 2]})],
        ),
        "escapes": (
            r"<function_calls>note(text='a\'b\\n\n\t\x41\u00e9\U0001f999\q')</function_calls>",
            [call("note", {"text": "a'b\\n\n\tAé🦙\\q"})],
        ),
        "brackets and commas in strings": (
            "<function_calls>note(text=\"f(a, [b}, 'c')\")</function_calls>",
            [call("note", {"text": "f(a, [b}, 'c')"})],
        ),
        "a word without quotes": (
            "<function_calls>get_weather(city=Paris)</function_calls>",
            [call(W, PARIS)],
        ),
        "arguments without names": (
            '<function_calls>get_weather("Paris", 3)\nget_weather(3, city="Rome")</function_calls>',
            [call(W, PARIS | {"days": 3}), call(W, {"days": 3} | ROME, index=1)],
        ),
        "one bad": (
            "<function_calls>now(1)\nnow()</function_calls>.",
            [Content("<function_calls>now(1)"), call("now"), Content(".")],
        ),
        "no calls": back("<function_calls></function_calls>"),
        "not a call": back("<function_calls>now</function_calls>"),
        "no bracket": back("<function_calls>now(a=</function_calls>"),
        "brackets crossed": back("<function_calls>note(text=[)]</function_calls>"),
        "cut off": back('<function_calls>note(text="abc'),
        "too deep": back("<function_calls>note(text=" + "[" * 70),
    },
    "lfm2": {
        "without tags": ("[get_weather(city='Paris'), now()]", [call(W, PARIS), call("now", index=1)]),
        "without tags, undeclared": back("[f(a=1)]"),
        "a link": back("[a link](http://example.org)"),
        "an apostrophe": (
            "<|tool_call_start|>[note(text='It's Anna's, isn't it?'), now()]<|tool_call_end|>",
            [call("note", {"text": "It's Anna's, isn't it?"}), call("now", index=1)],
        ),
        "JSON inside": (
            '<|tool_call_start|>[search(query={"a": ["it\'s", null]}, limit=2)]<|tool_call_end|>',
            [call("search", {"query": {"a": ["it's", None]}, "limit": 2})],
        ),
        "JSON": (
            '<|tool_call_start|>[{"name": "now", "arguments": {}}]<|tool_call_end|>Ok',
            [call("now"), Content("Ok")],
        ),
        "no list": ("<|tool_call_start|>now()<|tool_call_end|>", [call("now")]),
        "no closing tag": ("<|tool_call_start|>[now()]", [call("now")]),
        "cut off": back("<|tool_call_start|>[now("),
    },
    "llama3": {
        "a tag": (
            '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris"}}<|eom_id|>',
            [call(W, PARIS)],
        ),
        "several": (
            '{"name": "now", "parameters": {}}; {"name": "get_weather", "parameters": {"city": "Rome"}}',
            [call("now"), call(W, ROME, index=1)],
        ),
        "as functions": ('{"type": "function", "function": {"name": "now", "arguments": {}}}', [call("now")]),
        "a built-in tool": ('<|python_tag|>search.call(query="x")', [call("search", {"query": "x"})]),
        "a function tag": (
            'Ok <function=get_weather>{"city": "Paris"}</function>.',
            [Content("Ok"), call(W, PARIS), Content(".")],
        ),
        "white space before": ('\n {"name": "now", "parameters": {}}', [call("now")]),
        "in the text": back('Call {"name": "now", "parameters": {}}'),
        "undeclared": back('{"name": "f", "parameters": {}}'),
        "other JSON": back('{"answer": {"name": "now"}}'),
        "a list": back("[1, 2, 3]"),
        "code": back("<|python_tag|>x = 1\nprint(x)"),
        "cut off": back('{"name": "now", "parameters": {'),
        "text after": ('{"name": "now", "parameters": {}}\nOk', [call("now"), Content("Ok")]),
    },
    "llama4": {
        "tags": (
            '<|python_start|>[get_weather(city="Paris")]<|python_end|>Ok',
            [call(W, PARIS), Content("Ok")],
        ),
        "one of two undeclared": ("[now(), f()]", [call("now"), Content(", f()]")]),
    },
    "harmony": {
        "thinking and answer": (
            "<|channel|>analysis<|message|>Hm\n<|end|><|start|>assistant<|channel|>final<|message|> Hi \n"
            "<|return|>",
            [Thinking("Hm\n"), Content(" Hi \n")],
        ),
        "recipient after the role": (
            "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant to=functions.get_weather<|channel|>"
            'commentary <|constrain|>json<|message|>{"city": "Paris"}<|call|>',
            [Thinking("Hm"), call(W, PARIS)],
        ),
        "recipient first": (
            " to=functions.get_weather<|channel|>commentary json<|message|>" + dumps(PARIS),
            [call(W, PARIS)],
        ),
        "no space before constrain": (
            "<|channel|>commentary to=functions.now<|constrain|>json<|message|>{}",
            [call("now")],
        ),
        "in analysis": ("<|channel|>analysis to=functions.now code<|message|>{}<|call|>", [call("now")]),
        "other namespace": (
            '<|channel|>commentary to=browser.search<|message|>{"query": "x"}<|call|>',
            [call("browser.search", {"query": "x"})],
        ),
        "a preamble": (
            "<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant<|channel|>commentary "
            "to=functions.now <|constrain|>json<|message|>{}<|call|>",
            [Content("I will look."), call("now")],
        ),
        "several calls": (
            "<|channel|>commentary to=functions.now<|message|>{}<|call|><|start|>assistant<|channel|>"
            "commentary to=functions.now<|message|> {} <|call|>",
            [call("now"), call("now", index=1)],
        ),
        "no arguments at all": ("<|channel|>commentary to=functions.now<|message|><|call|>", [call("now")]),
        "to everyone": ("<|channel|>analysis to=assistant<|message|>Hm<|end|>", [Thinking("Hm")]),
        "an unknown channel": ("<|channel|>other<|message|>Hi<|end|>", [Content("Hi")]),
        "no header": back("Hi, {name}."),
        "no header, then one": (
            "Hi <|channel|>final<|message|>there",
            [Content("Hi there")],
        ),
        "the message only": ("<|message|>Hi", [Content("Hi")]),
        "no end": (
            "<|channel|>analysis<|message|>Hm<|start|>assistant<|channel|>final<|message|>Hi",
            [Thinking("Hm"), Content("Hi")],
        ),
        "not JSON": back("<|channel|>commentary to=functions.now<|message|>now!"),
        "a bad header": back("<|channel|>analysis<|end|>Hi"),
        "a header that does not end": back("<|channel|>analysis " + "We need to think. " * 10),
        "cut off in a header": (
            "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|chan",
            [Thinking("Hm")],
        ),
        "cut off in a call": back('<|channel|>commentary to=functions.now<|message|>{"a": '),
    },
    "glimmer": {
        "namespace": (
            ' to=now.now<|message|><atem:function_calls>\n<atem:invoke name="now.now">\n</atem:invoke>\n'
            "</atem:function_calls><|eot|>",
            [call("now")],
        ),
        "to the user by mistake": (
            '<|message|><atem:function_calls><atem:invoke name="now"></atem:invoke></atem:function_calls>',
            [call("now")],
        ),
        "a tag in the name": (
            ' to=now<|message|><atem:function_calls><atem:invoke name="now<|message|>"></atem:invoke>'
            "</atem:function_calls><|eot|>",
            [call("now")],
        ),
        "typed": (
            ' to=order<|message|><atem:function_calls><atem:invoke name="order"><atem:parameter name="z">1'
            "</atem:parameter></atem:invoke></atem:function_calls>",
            [call("order", {"z": 1})],
        ),
        "undeclared": (
            ' to=user<|message|><atem:function_calls><atem:invoke name="f"></atem:invoke>'
            "</atem:function_calls>",
            [Content('<atem:function_calls><atem:invoke name="f"></atem:invoke></atem:function_calls>')],
        ),
        "no header": back("Hi"),
    },
    "thinking": {
        "nothing is trimmed": ("<think>\n a \n</think>\n\n b ", [Thinking("a \n"), Content("b ")]),
        "tools are none": back(hermes("now", {})),
    },
    "passthrough": {
        "everything": back(f" <think>a</think> {hermes('now', {})}\n"),
    },
}

PARAMETERS = {
    "properties": {
        "i": {"type": "integer"},
        "n": {"type": "number"},
        "b": {"type": "boolean"},
        "l": {"type": "array"},
        "o": {"type": ["object", "null"]},
        "u": {"anyOf": [{"type": "string"}, {"oneOf": [{"type": "integer"}]}]},
        "s": {"type": "string"},
    }
}
DECLARED: Tools = {**TOOLS, "typed": PARAMETERS}


@pytest.mark.parametrize(
    ("name", "sample"), [(name, sample) for name, samples in SAMPLES.items() for sample in samples]
)
def test_samples(name: str, sample: str) -> None:
    def make() -> Parser:
        parser = parser_for(name, tools=DECLARED, thinking_open=False)
        assert parser is not None
        return parser

    text, expected = SAMPLES[name][sample]
    check(make, text, expected)


IN_PLACE, LIST, TAGGED = TemplateTags(tool="{"), TemplateTags(tool="["), TemplateTags(tool="<tool_call>")
NAMED = TemplateTags(tool="[TOOL_CALLS]")
GENERIC: dict[str, tuple[TemplateTags, str, list[Event]]] = {
    "no tags": (TemplateTags(), *back(" <think>a</think> {} ")),
    "white space is kept": (
        TAGGED,
        f"See:  {hermes('now', {})}\n ok",
        [Content("See:  "), call("now"), Content("ok")],
    ),
    "in place": (IN_PLACE, '{"name": "now", "parameters": {}}', [call("now")]),
    "in place, other key names": (IN_PLACE, '{"tool": "now", "arguments": {}}', [call("now")]),
    "in place, arguments first": (
        IN_PLACE,
        '{"arguments": {"city": "Paris"}, "name": "get_weather"}',
        [call(W, PARIS)],
    ),
    "in place, the name as key": (IN_PLACE, '{"get_weather": {"city": "Paris"}}', [call(W, PARIS)]),
    "in place, deeper": (
        IN_PLACE,
        '{"calls": [{"function": {"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}}]}',
        [call(W, PARIS)],
    ),
    "in place, twice": (
        IN_PLACE,
        '{"name": "now", "parameters": {}};\n{"name": "now", "parameters": {}}',
        [call("now"), call("now", index=1)],
    ),
    "in place, after text": (IN_PLACE, *back('So {"name": "now", "parameters": {}}')),
    "in place, undeclared": (IN_PLACE, *back('{"name": "f", "parameters": {}} and on')),
    "in place, no arguments": (IN_PLACE, *back('{"name": "now"}')),
    "in place, not JSON": (IN_PLACE, *back("{ puts 1 }")),
    "in place, undeclared first": (IN_PLACE, *back('{"name": "f"}{"name": "now", "parameters": {}}')),
    "a list": (
        LIST,
        '[{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}]',
        [call("now"), call("now", index=1)],
    ),
    "a list of something else": (LIST, *back("[special delivery]")),
    "a list with trailing text": (
        LIST,
        '[{"name": "now", "arguments": {}}] and on',
        [call("now"), Content("and on")],
    ),
    "name before the object": (NAMED, '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}', [call(W, PARIS)]),
    "names before the objects": (
        NAMED,
        '[TOOL_CALLS]now {}\nget_weather {"city": "Paris"}',
        [call("now"), call(W, PARIS, index=1)],
    ),
    "the longest name": (NAMED, "[TOOL_CALLS]nowhere {}", [call("nowhere")]),
    "the first name": (NAMED, "[TOOL_CALLS]note now {}", [call("note")]),
    "no name": (NAMED, *back("[TOOL_CALLS]other {}")),
    "no object": (NAMED, *back("[TOOL_CALLS]now")),
    "text, then another": (
        TAGGED,
        f"{hermes('now', {})} and {hermes('now', {})}",
        [call("now"), Content("and "), call("now", index=1)],
    ),
    "much text after": (TAGGED, hermes("now", {}) + "a " * 400, [call("now"), Content("a " * 400)]),
    "the tag twice": (TAGGED, '<tool_call><tool_call>{"name": "now", "arguments": {}}', [call("now")]),
    "DeepSeek": (
        TemplateTags(("<think>", "</think>"), "<｜tool▁calls▁begin｜>"),
        "<think>Hm</think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```"
        "<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜>",
        [Thinking("Hm"), call("now"), call("now", index=1)],
    ),
}


@pytest.mark.parametrize("sample", GENERIC)
def test_generic_samples(sample: str) -> None:
    tags, text, expected = GENERIC[sample]
    tools = {**TOOLS, "nowhere": {}}
    check(lambda: generic_parser(tags, tools=tools, thinking_open=False), text, expected)


def test_a_thinking_tag_that_the_prompt_opened_may_be_repeated() -> None:
    def make() -> Parser:
        parser = parser_for("qwen3-thinking", tools=TOOLS, thinking_open=True)
        assert parser is not None
        return parser

    check(make, " <think>\nHm</think>Hi", [Thinking("Hm"), Content("Hi")])
    check(make, "\nHm</think>Hi", [Thinking("Hm"), Content("Hi")])
    check(make, "Hm <think>", [Thinking("Hm <think>")])


def test_names_that_the_prompt_spelled_as_identifiers_are_found_again() -> None:
    def make() -> Parser:
        parser = parser_for("harmony", tools={"my-server.get weather": {}}, thinking_open=False)
        assert parser is not None
        return parser

    text = "<|channel|>commentary to=functions.my_server_get_weather<|message|>{}<|call|>"
    check(make, text, [call("my-server.get weather")])


def test_a_namespace_that_the_model_puts_before_a_name_is_dropped() -> None:
    def make() -> Parser:
        parser = parser_for("qwen3", tools={"now": {}}, thinking_open=False)
        assert parser is not None
        return parser

    check(make, hermes("functions.now", {}), [call("now")])
    check(make, hermes("functions.f", {}), [call("functions.f")])
