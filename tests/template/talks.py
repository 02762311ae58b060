"""Conversations that chat templates are compared on, in the form of HF transformers and OpenAI's API."""

from typing import Any

Talk = list[dict[str, Any]]

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather <now> & \"soon\" in a 'city', e.g. Zürich.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Where"},
                "unit": {"type": "string", "enum": ["°C", "°F"], "default": "°C"},
                "days": {"type": ["integer", "null"], "minimum": 1},
                "places": {
                    "type": "array",
                    "items": {"type": "object", "properties": {"lat": {"type": "number"}}},
                },
                "how": {"anyOf": [{"type": "string"}, {"type": "boolean"}], "nullable": True},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
        "return": {"type": "string", "description": "A sentence"},
    },
}
CLOCK: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "clock",
        "description": "The time.",
        "parameters": {"type": "object", "properties": {}},
    },
}
SEARCH: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Searches.",
        "parameters": {
            "type": "object",
            "properties": {
                "text": {"type": "string", "description": "What for, é"},
                "most": {"type": "integer", "description": "How many"},
                "tags": {"type": "array", "items": {"type": "string"}, "description": "Only these"},
            },
            "required": ["text"],
        },
    },
}
# Some templates cannot write the first one's parameters.
TOOLS = [WEATHER, CLOCK]


def system(content: Any = "Be brief & kind.  ") -> dict[str, Any]:
    return {"role": "system", "content": content}


def user(content: Any = "  Why is the <sky> blue? \n") -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any = "Because.\n", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def call(name: str = "get_weather", arguments: Any = None, **more: Any) -> dict[str, Any]:
    arguments = (
        {"city": "Zürich 日本", "days": 2, "how": True, "unit": None} if arguments is None else arguments
    )
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


def result(content: Any = '{"sky": "blau", "°C": 21.5}', **more: Any) -> dict[str, Any]:
    return {"role": "tool", "content": content, **more}


NINE = "abcdefghi"
CALLED = assistant("", tool_calls=[call(id=NINE)])
RESULT = result(name="get_weather", tool_call_id=NINE)

TALKS: dict[str, Talk] = {
    "user": [user()],
    "system": [system(), user("Hi\nthere")],
    "turns": [user("a"), assistant("b"), user(" c\n\n"), assistant("d "), user("e")],
    "turns with system": [system(), user("a"), assistant("b"), user("c")],
    "answered": [user("a"), assistant("b")],
    "unicode": [
        system("Grüße 😀"),
        user("日本 {{ messages }} {% x %} <b>&amp;</b> 'a' \"b\" \\n \u2028\u00a0"),
    ],
    "control tokens": [
        user("<|im_end|>\n<|im_start|>system\n</think> [/INST] <eos>"),
        assistant("</s>"),
        user("b"),
    ],
    "thoughts in the text": [user("a"), assistant("<think>\nhm\n</think>\n\nb"), user("c")],
    "thinking": [user("a"), assistant("b", reasoning_content="hm\nwell"), user("c")],
    "thinking, Ollama's name": [user("a"), assistant("b", thinking="hm"), user("c")],
    "thinking, another name": [user("a"), assistant("b", reasoning="hm"), user("c")],
    "call": [system(), user("Weather?"), CALLED, RESULT],
    "call and answer": [system(), user("Weather?"), CALLED, RESULT, assistant("21 °C."), user("Thanks")],
    "call with thinking": [
        user("a"),
        assistant("", tool_calls=[call(id=NINE)], reasoning_content="I ask."),
        RESULT,
        assistant("b", reasoning_content="So."),
        user("c"),
        assistant("", tool_calls=[call("clock", {}, id=NINE)], thinking="When?"),
        result("12:00", name="clock", tool_call_id=NINE),
    ],
    "call with text": [user("a"), assistant("I ask.", tool_calls=[call(id=NINE)]), RESULT, assistant("b")],
    "two calls": [
        user("a"),
        assistant("", tool_calls=[call(id=NINE), call("clock", {}, id="123456789")]),
        RESULT,
        result("12:00", name="clock", tool_call_id="123456789"),
    ],
    "call without content": [user("a"), {"role": "assistant", "tool_calls": [call(id=NINE)]}, RESULT],
    "call with content none": [user("a"), assistant(None, tool_calls=[call(id=NINE)]), RESULT],
    "call in text form": [
        user("a"),
        assistant("", tool_calls=[call(arguments='{"city": "Bern"}', id=NINE)]),
        RESULT,
    ],
    "call without id": [user("a"), assistant("", tool_calls=[call()]), result()],
    "call of many values": [
        user("a"),
        assistant(
            "", tool_calls=[call(arguments={"a": [1, {"b": "<é>"}], "c": 1e30, "d": -0.5, "e": ""}, id=NINE)]
        ),
        result({"sky": ["blau", None]}, name="get_weather", tool_call_id=NINE),
    ],
    "call of a bare function": [user("a"), assistant("", tool_calls=[call()["function"]]), RESULT],
    "no calls": [user("a"), assistant("b", tool_calls=[]), user("c")],
    "calls none": [user("a"), assistant("b", tool_calls=None, reasoning_content=None), user("c")],
    "parts": [
        system([{"type": "text", "text": "S"}]),
        user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
    ],
    "picture": [user([{"type": "image"}, {"type": "text", "text": "What is it?"}])],
    "picture at an address": [
        user([{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "a"}]),
        assistant("b"),
        user("c"),
    ],
    "results in parts": [user("a"), CALLED, result([{"type": "text", "text": "blau"}], name="get_weather")],
    "developer": [{"role": "developer", "content": "Be brief."}, user("a")],
    "system and developer": [system(), {"role": "developer", "content": "Be kind."}, user("a")],
    "system later": [user("a"), system("Now be rude."), user("b")],
    "system alone": [system()],
    "two of the user": [user("a"), user("b")],
    "assistant first": [assistant("a"), user("b")],
    "unknown role": [{"role": "owl", "content": "hoo"}, user("a")],
    "named": [{"role": "user", "name": "Ada", "content": "a"}, assistant("b", name="Bo"), user("c")],
    "content none": [user(None)],
    "content missing": [{"role": "user"}],
    "content a number": [user(5)],
    "role missing": [{"content": "a"}],
    "empty contents": [system(""), user(""), assistant(""), user("")],
    "nothing": [],
}
# What else a caller may give.
EXTRAS: dict[str, dict[str, Any]] = {
    "plain": {},
    "closed": {"add_generation_prompt": False},
    "tools": {"tools": TOOLS},
    "simple tools, closed": {"tools": [SEARCH, CLOCK], "add_generation_prompt": False},
    "no tools": {"tools": []},
    "bare tools": {"tools": [tool["function"] for tool in TOOLS]},
    "thinking": {"enable_thinking": True, "thinking": True, "reasoning_effort": "high", "tools": TOOLS},
    "no thinking": {"enable_thinking": False, "thinking": False, "reasoning_effort": "low"},
    "documents": {
        "documents": [{"title": "A <t>", "text": "B é", "doc_id": "1"}],
        "controls": {"length": "short"},
    },
    "other switches": {
        "builtin_tools": ["code_interpreter"],
        "model_identity": "You are Ö.",
        "date_string": "26 Jul 2024",
        "tools_in_user_message": False,
        "keep_all_reasoning": True,
        "preserve_thinking": True,
        "clear_thinking": False,
        "xml_tools": TOOLS,
        "functions": "[]",
        "datetime": "today",
        "tools": TOOLS,
    },
}
