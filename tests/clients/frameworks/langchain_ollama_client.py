"""What langchain-ollama gets."""

import json
import sys

from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from pydantic import BaseModel, ConfigDict

URL = sys.argv[1]


class Reply(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(extra="forbid")
    ok: bool


def weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


TOOL = tool(weather)
said, calls, thinks = (ChatOllama(model=name, base_url=URL) for name in ("said", "calls", "thinks"))
vectors = OllamaEmbeddings(model="encodes", base_url=URL)
whole = said.invoke("hi")
called = calls.bind_tools([TOOL]).invoke("hi")
result = TOOL.invoke(called.tool_calls[0])
streamed, *more = calls.bind_tools([TOOL]).stream("hi")
for piece in more:
    streamed += piece
print(
    json.dumps(
        {
            "chat": whole.content,
            "tokens": [whole.usage_metadata["input_tokens"], whole.usage_metadata["output_tokens"]],
            "stream": [piece.content for piece in said.stream("hi") if piece.content],
            "text": OllamaLLM(model="said", base_url=URL).invoke("hi"),
            "call": [[call["name"], call["args"]] for call in called.tool_calls],
            "call in pieces": [[call["name"], call["args"]] for call in streamed.tool_calls],
            "after the call": calls.bind_tools([TOOL]).invoke([("user", "hi"), called, result]).content,
            "schema": said.with_structured_output(Reply).invoke("hi").model_dump(),
            "thinking": thinks.invoke("hi", reasoning=True).additional_kwargs["reasoning_content"],
            "vectors": [vectors.embed_query("hi"), *vectors.embed_documents(["hi", "there"])],
        }
    )
)
