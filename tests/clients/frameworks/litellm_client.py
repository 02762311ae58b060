"""What litellm gets, which speaks to a server in four ways."""

import json
import os
import sys
from typing import Any

# Before it is imported: it would ask the network for what models cost.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from pydantic import BaseModel, ConfigDict

# What it prints would be among what is printed here.
litellm.suppress_debug_info = True
URL = sys.argv[1]
HI = [{"role": "user", "content": "hi"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "…", "parameters": CITY}}]


class Reply(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(extra="forbid")
    ok: bool


def place(way: str) -> dict[str, str]:
    """Where a way of speaking begins."""
    return {"api_base": f"{URL}/v1" if way == "openai" else URL, "api_key": "none"}


def answer(way: str, model: str, messages: list[Any] = HI, **more: Any) -> Any:
    """A whole answer."""
    return litellm.completion(model=f"{way}/{model}", messages=messages, **place(way), **more)


def calls_of(message: Any) -> list[Any]:
    """The names and arguments of the calls in an answer."""
    return [[call.function.name, json.loads(call.function.arguments)] for call in message.tool_calls]


def answers(way: str) -> dict[str, Any]:
    """What does not need tools."""
    whole = answer(way, "said")
    pieces = [piece.choices[0].delta.content for piece in answer(way, "said", stream=True)]
    # With Anthropic's API it makes a tool of the schema.
    structured = answer(way, "calls" if way == "anthropic" else "said", response_format=Reply)
    return {
        "chat": whole.choices[0].message.content,
        "tokens": [whole.usage.prompt_tokens, whole.usage.completion_tokens],
        "stream": [piece for piece in pieces if piece],
        "schema": json.loads(structured.choices[0].message.content),
        "thinking": answer(way, "thinks").choices[0].message.reasoning_content,
    }


def tools(way: str) -> dict[str, Any]:
    """What becomes of tools."""
    called = answer(way, "calls", tools=TOOLS).choices[0].message
    result = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "rain in Oslo"}
    pieces = [*answer(way, "calls", tools=TOOLS, stream=True)]
    after = answer(way, "calls", [*HI, called, result], tools=TOOLS)
    return {
        "call": calls_of(called),
        "call in pieces": calls_of(litellm.stream_chunk_builder(pieces).choices[0].message),
        "after the call": after.choices[0].message.content,
    }


def vectors(way: str) -> dict[str, Any]:
    """Vectors of one text, and of two."""
    asked = ("hi", ["hi", "there"])
    made = [litellm.embedding(model=f"{way}/encodes", input=text, **place(way)).data for text in asked]
    return {"vectors": [one["embedding"] for data in made for one in data]}


def ranks() -> list[Any]:
    """Documents by how well they fit, asked for in the words of Jina's API."""
    found = litellm.rerank(
        model="jina_ai/ranks",
        query="hi",
        documents=["a b", "hi", "there"],
        api_base=f"{URL}/v1/rerank",
        api_key="none",
    )
    return [[one["index"], one["relevance_score"]] for one in found.results]


print(
    json.dumps(
        {
            # In this way it writes tools into the prompt.
            "ollama": answers("ollama") | vectors("ollama"),
            "ollama_chat": answers("ollama_chat") | tools("ollama_chat"),
            "openai": answers("openai") | tools("openai") | vectors("openai"),
            "anthropic": answers("anthropic") | tools("anthropic"),
            "jina_ai": {"ranks": ranks()},
        }
    )
)
