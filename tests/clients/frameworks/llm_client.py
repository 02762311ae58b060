"""What `llm` gets, with its plugin llm-ollama."""

import json

import llm


def weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
said, calls, thinks = (llm.get_model(f"ollama/{name}:latest") for name in ("said", "calls", "thinks"))
vectors = llm.get_embedding_model("ollama/encodes:latest")
whole = said.prompt("hi", stream=False)
text, usage = whole.text(), whole.usage()
called, streamed = (calls.prompt("hi", tools=[weather], stream=pieces) for pieces in (False, True))
conversation = calls.conversation()
results = conversation.prompt("hi", tools=[weather]).execute_tool_calls()
after = conversation.prompt(tools=[weather], tool_results=results)
thoughts = [
    event.chunk for event in thinks.prompt("hi", think=True).stream_events() if event.type == "reasoning"
]
print(
    json.dumps(
        {
            "chat": text,
            "tokens": [usage.input, usage.output],
            "stream": [piece for piece in said.prompt("hi") if piece],
            "call": [[call.name, call.arguments] for call in called.tool_calls()],
            "call in pieces": [[call.name, call.arguments] for call in streamed.tool_calls()],
            "after the call": after.text(),
            "schema": json.loads(said.prompt("hi", schema=SCHEMA).text()),
            "thinking": "".join(thoughts),
            "vectors": [vectors.embed("hi"), *vectors.embed_multi(["hi", "there"])],
        }
    )
)
